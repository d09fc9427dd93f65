"""Unpack chunks of packed integers and copy a box of each to a strided output.

A packed chunk (docs/format.md, pipeline 64) is integers, perhaps scaled to decimals, as differences from
their neighbours, in blocks of as few bits as each needs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from atlas.kernels.bits import block_words
from atlas.kernels.compile import helper
from atlas.kernels.emit import emit_box
from atlas.kernels.header import is_header, rule_of
from atlas.kernels.lanes import LANES, punch_row
from atlas.kernels.layout import (
    BAD_POSITION,
    BLOCK,
    DAMAGED,
    GUARD_ROOM,
    INTEGERS,
    MASKED,
    MAX_AXES,
    PATCHED,
    SEALED,
    STRETCH,
    UNKNOWN_HEADER,
    WIDE,
    WRONG_LENGTH,
)
from atlas.kernels.memory import copy, i32, i64, settle_streams, u8, u32, u64
from atlas.kernels.numbers import HOLE32, HOLE64
from atlas.kernels.predict import inner_of, split_blocks
from atlas.kernels.restore import restore_rows
from atlas.kernels.seal import are_whole, may_use, open_payload
from atlas.kernels.series import may_be_series, unpack_series
from atlas.kernels.slabs import slab_rows, whole_bytes, whole_lines

_SHORT_ROW = 256

_slab_rows, _whole_bytes, _whole_lines = helper(slab_rows), helper(whole_bytes), helper(whole_lines)


@helper
def _punch(numbers: Any, signed: Any, size: Any, bitmap: Any, cells: Any, hole: Any) -> None:
    """Mark the first `cells` cells, at address `numbers`, whose bit is set."""
    rows = cells // LANES * LANES
    for i in range(0, rows, LANES):
        punch_row(hole, bitmap + (i >> 3), numbers + i * size)
    bits, target = u8(bitmap), signed(numbers)
    for i in range(rows, cells):
        if (bits[i >> 3] >> (i & 7)) & 1:
            target[i] = hole


@helper
def _patch(
    positions: Any,
    values: Any,
    count: Any,
    cells: Any,
    ndim: Any,
    extent: Any,
    begin: Any,
    block: Any,
    out: Any,
    strides: Any,
    item: Any,
) -> Any:
    """Write cells that are kept as they are where they lie within the box."""
    for k in range(count):
        left = np.int64(positions[k])
        if left >= cells:
            return BAD_POSITION
        target = out
        inside = True
        for i in range(ndim - 1, -1, -1):
            place = left % extent[i] - begin[i]
            left //= extent[i]
            inside = inside and 0 <= place < block[i]
            target += place * strides[i]
        if inside:
            copy(target, values + k * item, item)
    return 0


@helper
def _lay_out(
    like: Any,
    cast: Any,
    signed: Any,
    size: Any,
    hole: Any,
    table: Any,
    ndim: Any,
    extent: Any,
    begin: Any,
    block: Any,
    stop: Any,
    mask: Any,
    out: Any,
    strides: Any,
    item: Any,
    rule: Any,
    bitmap: Any,
    own: Any,
    spare: Any,
    room: Any,
    guard: Any,
    until: Any,
    past: Any,
) -> Any:
    """Restore a chunk, some rows at a time, and write the cells of a box; return whether what is used is whole."""
    own_begin, own_block, position = i64(own), i64(own + 8 * ndim), i64(own + 16 * ndim)
    row = inner_of(ndim, extent, 0)
    step = _whole_bytes(row)
    rows = _slab_rows(row, step)
    # In front of the rows that are restored stands the one before them.
    numbers = _whole_lines(room + row * size)
    stream = _whole_lines(numbers + min(rows, extent[0]) * row * size)
    # Rows before the box matter only to differences along the first axis.
    low = np.int64(0) if mask & 1 else begin[0] // step * step
    while low < stop[0]:
        high = min(low + rows, stop[0])
        if not restore_rows(
            like,
            cast,
            size,
            table,
            ndim,
            extent,
            stop,
            mask,
            low,
            high,
            numbers,
            stream,
            spare,
            own,
            guard,
            until,
        ):
            return False
        if mask & 1 and high < stop[0]:
            copy(numbers - row * size, numbers + (high - low - 1) * row * size, row * size)
        first, last = max(low, begin[0]), min(high, begin[0] + block[0])
        if first < last:
            if rule[5]:
                _punch(numbers, signed, size, bitmap + (low * row >> 3), (high - low) * row, hole)
            for i in range(ndim):
                own_begin[i], own_block[i] = begin[i], block[i]
            own_begin[0], own_block[0] = first - low, last - first
            emit_box(
                numbers,
                signed,
                size,
                hole,
                ndim,
                extent,
                own_begin,
                own_block,
                out + (first - begin[0]) * strides[0],
                strides,
                item,
                position,
                rule,
                spare,
                past,
            )
        low = high
    return True


@helper
def _place_words(words: Any, widths: Any, blocks: Any, size: Any, starts: Any, places: Any, known: Any) -> Any:
    """Write where the words of each block are, and their widths; return where the last end, 0 if a width cannot be.

    Widths are read here once and for all: in a file that is changed meanwhile, they could be others later.
    """
    for k in range(blocks):
        width = np.int64(u8(widths)[k])
        if width > 8 * size:
            return np.int64(0)
        places[k], known[k] = words, width
        words += 4 * block_words(starts[k + 1] - starts[k], width)
    return words


@helper
def _unpack_chunk(
    payload: Any,
    length: Any,
    element: Any,
    item: Any,
    ndim: Any,
    lead: Any,
    extent: Any,
    begin: Any,
    block: Any,
    out: Any,
    strides: Any,
    stop: Any,
    own: Any,
    until: Any,
    starts: Any,
    places: Any,
    known: Any,
    spare: Any,
    room: Any,
    guard: Any,
    past: Any,
) -> Any:
    """Write a box of a chunk, `lead` axes of one cell before its `ndim` axes aside; return what is wrong with it."""
    cells = np.int64(1)
    wanted = np.int64(1)
    for i in range(ndim):
        cells *= extent[i]
        wanted *= block[i]
        stop[i] = begin[i] + block[i]
    if ndim > 0 and extent[ndim - 1] <= _SHORT_ROW:
        # Leaving out part of so short a row would take longer than restoring all of it.
        stop[ndim - 1] = extent[ndim - 1]
    if wanted == 0:
        return 0
    if length < 4:
        return WRONG_LENGTH
    if not may_use(guard, payload, payload + min(length, STRETCH)):
        return DAMAGED
    header = u8(payload)
    kind, code, mask, flags = np.int64(header[0]), np.int64(header[1]), np.int64(header[2]), np.int64(header[3])
    if not is_header(kind, code, mask, flags, element, item, ndim + lead):
        return UNKNOWN_HEADER
    mask >>= lead
    wide = flags & WIDE != 0
    size = 8 if wide else 4
    # Of each block there is a base and a width: so a chunk is only as large as its payload allows.
    if length < 5 * ((cells + BLOCK - 1) // BLOCK):
        return WRONG_LENGTH
    blocks = split_blocks(ndim, extent, mask, starts)
    bases = payload + 4
    patches = np.int64(0)
    if flags & PATCHED:
        if length < 8 or kind == INTEGERS:
            return WRONG_LENGTH
        patches = np.int64(u32(payload)[1])
        bases += 4
    bitmap_size = (cells + 7) // 8 if flags & MASKED else 0
    bitmap = payload + length - bitmap_size
    widths = bitmap - blocks
    words = bases + blocks * size
    if widths < words or patches > cells:
        return WRONG_LENGTH
    special = widths - patches * (4 + item) - (max(item, 4) if flags & MASKED else 0)
    if special < words:
        return WRONG_LENGTH
    if not (may_use(guard, payload, words) and are_whole(guard, special, payload + length)):
        return DAMAGED
    if _place_words(words, widths, blocks, size, starts, places, known) != special:
        return WRONG_LENGTH
    positions = widths - patches * (4 + item)
    boxes = 1
    for i in range(min(ndim, MAX_AXES)):
        boxes <<= (mask >> i) & 1
    for i in range(boxes):
        i64(until)[i] = 0
    rule = rule_of(kind, code, element, flags & MASKED != 0, special)
    table = (bases, places, known, starts)
    rest = (extent, begin, block, stop, mask, out, strides, item, rule, bitmap, own, spare, room, guard, until, past)
    if wide:
        is_whole = _lay_out(np.uint64(0), u64, i64, 8, HOLE64, table, ndim, *rest)
    else:
        is_whole = _lay_out(np.uint32(0), u32, i32, 4, HOLE32, table, ndim, *rest)
    if not is_whole:
        return DAMAGED
    return _patch(
        u32(positions), positions + 4 * patches, patches, cells, ndim, extent, begin, block, out, strides, item
    )


def unpack(
    src: Any,
    rows: Any,
    tasks: Any,
    offset: Any,
    length: Any,
    pipeline: Any,
    checksum: Any,
    geometry: Any,
    ndim: Any,
    chunk_extent: Any,
    block_start: Any,
    block_extent: Any,
    out: Any,
    destination: Any,
    strides: Any,
    element: Any,
    item: Any,
    most_blocks: Any,
    room: Any,
    past: Any,
    failed: Any,
) -> Any:
    """Unpack one box of every task's chunk; all arguments are addresses or integers.

    `room` is as large as :func:`atlas.kernels.slabs.unpack_room` says, `most_blocks` the most that any chunk has, and
    one. Without `pipeline` and `checksum` (0), payloads are taken as they are. Cells are written `past` the caches
    (see :mod:`atlas.kernels.moves`), or are not.

    Returns 0, or what is wrong with the row written to `failed`.
    """
    guard = room
    stop, own = room + GUARD_ROOM, room + GUARD_ROOM + 8 * ndim
    until = own + 24 * ndim
    starts = until + (8 << MAX_AXES)
    places = starts + 8 * most_blocks
    known = places + 8 * most_blocks
    spare = _whole_lines(known + most_blocks)
    for task in range(tasks):
        row = i64(rows)[task]
        at = np.int64(i32(geometry)[row]) * ndim * 8
        size = i64(length)[row]
        payload = src + i64(offset)[row]
        place = spare + 8 * BLOCK
        if payload & 7 != 0:
            # Numbers are read from aligned memory.
            copy(place, payload, size)
            payload = place
            place = _whole_lines(place + size)
        body = payload
        i64(guard)[0] = payload + size
        if checksum:
            body = open_payload(guard, payload, size, u8(pipeline)[row] & SEALED, i64(checksum)[row])
        # Axes of one cell in front would make the chunk one row.
        lead = np.int64(0)
        while lead < ndim - 1 and i64(chunk_extent + at)[lead] == 1 and i64(block_extent + at)[lead] == 1:
            lead += 1
        at += 8 * lead
        problem = np.int64(DAMAGED if body == 0 else -1)
        if (
            body != 0
            and body == payload
            and may_be_series(
                ndim - lead, i64(chunk_extent + at), i64(block_extent + at), i64(strides + at), item, past
            )
        ):
            problem = unpack_series(
                body,
                size,
                element,
                item,
                lead,
                i64(chunk_extent + at)[0],
                i64(block_start + at)[0],
                i64(block_extent + at)[0],
                out + i64(destination)[row],
                spare,
            )
        if body != 0 and problem < 0:
            problem = _unpack_chunk(
                body,
                payload + size - body,
                element,
                item,
                ndim - lead,
                lead,
                i64(chunk_extent + at),
                i64(block_start + at),
                i64(block_extent + at),
                out + i64(destination)[row],
                i64(strides + at),
                i64(stop),
                own,
                until,
                i64(starts),
                i64(places),
                u8(known),
                spare,
                place,
                guard,
                past,
            )
        if problem:
            i64(failed)[0] = row
            return problem
    if past:
        settle_streams()
    return 0
