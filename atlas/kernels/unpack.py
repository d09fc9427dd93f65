"""Unpack chunks of packed integers and copy a box of each to a strided output.

A packed chunk (docs/format.md, pipeline 64) is integers, perhaps scaled to decimals, as differences from
their neighbours, in blocks of as few bits as each needs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from atlas.kernels.bits import block_words, unpack_block, unpack_wide_block
from atlas.kernels.compile import helper
from atlas.kernels.emit import DIVIDE, MULTIPLY, ORDER, SIGN, emit_box
from atlas.kernels.lanes import LANES, punch_row
from atlas.kernels.layout import (
    BAD_POSITION,
    BINARY,
    BITS,
    DAMAGED,
    DIVIDED,
    FLOAT32,
    GUARD_ROOM,
    INTEGERS,
    MASKED,
    MAX_AXES,
    MAX_BINARY,
    MAX_DECIMAL,
    ORDERED,
    PATCHED,
    SEALED,
    SIGN_LAST,
    STRETCH,
    UNKNOWN_HEADER,
    WIDE,
    WRONG_LENGTH,
)
from atlas.kernels.memory import copy, i32, i64, u8, u32, u64
from atlas.kernels.numbers import HOLE32, HOLE64, may_multiply, scale_of
from atlas.kernels.predict import accumulate, box_begin, box_cells, box_end, inner_of, move_box, next_box, split_blocks
from atlas.kernels.seal import are_whole, may_use, open_payload

_SHORT_ROW = 256


@helper
def _restore(
    like: Any,
    bases: Any,
    words: Any,
    widths: Any,
    starts: Any,
    ndim: Any,
    extent: Any,
    start: Any,
    stop: Any,
    mask: Any,
    stream: Any,
    numbers: Any,
    cast: Any,
    size: Any,
    position: Any,
    guard: Any,
) -> Any:
    """Write a chunk's integers, as far as cells from row `start` on and before `stop` need them, at address `numbers`.

    Returns whether the words they come from are what was written.
    """
    # Differences along the first axis alone lie in the order of the cells.
    in_order = mask & ~1 == 0
    # Those along one other axis are added up on their way to their place.
    single = not in_order and mask & (mask - 1) == 0
    axis: Any = np.int64(0)
    while single and mask >> axis != 1:
        axis += 1
    target = numbers if in_order else stream
    at = words
    top, inward = np.int64(0), np.int64(1)
    # Rows before the box matter only to differences along the first axis.
    first = np.int64(0) if mask & 1 else start[0]
    block = np.int64(0)
    begin = np.int64(0)
    box = np.int64(0)
    while True:
        count = box_cells(ndim, extent, box, mask)
        rows = box_end(box, mask, top, extent) - box_begin(box, mask, top)
        wanted = min(stop[0], box_end(box, mask, top, extent)) - box_begin(box, mask, top)
        if count > 0 and wanted > 0:
            end = begin + count // rows * wanted
            needed = begin + count // rows * first
            while starts[block] < end:
                n = starts[block + 1] - starts[block]
                width = np.int64(widths[block])
                if starts[block] >= begin and starts[block + 1] > needed:
                    if not may_use(guard, at, at + 4 * block_words(n, width)):
                        return False
                    base = cast(bases + block * size)[0]
                    place = target + starts[block] * size
                    if width > 32:
                        unpack_wide_block(at, n, width, np.uint64(base), place)
                    else:
                        unpack_block(at, n, width, base, cast, size, place)
                at += 4 * block_words(n, width)
                block += 1
            if not in_order:
                lag = inner_of(ndim, extent, axis) if single and box != 0 else np.int64(0)
                move_box(
                    like,
                    stream + begin * size,
                    numbers,
                    cast,
                    size,
                    inward,
                    lag,
                    ndim,
                    extent,
                    stop,
                    box,
                    mask,
                    position,
                )
        begin += count
        box = next_box(box, mask)
        if box == 0:
            break
    if single:
        return True
    for axis in range(min(ndim, MAX_AXES)):
        if mask & (1 << axis):
            accumulate(like, numbers, cast, size, ndim, extent, stop, axis, position)
    return True


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
def _unpack_chunk(
    payload: Any,
    length: Any,
    element: Any,
    item: Any,
    ndim: Any,
    extent: Any,
    begin: Any,
    block: Any,
    out: Any,
    strides: Any,
    stop: Any,
    position: Any,
    starts: Any,
    room: Any,
    guard: Any,
) -> Any:
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
    floats = element >= FLOAT32
    if kind > BITS or (kind != INTEGERS) != floats or flags > MASKED | PATCHED | WIDE:
        return UNKNOWN_HEADER
    if kind == BITS and (code > SIGN_LAST or (flags & WIDE != 0) != (item == 8)):
        return UNKNOWN_HEADER
    if code > MAX_BINARY or MAX_DECIMAL < code < BINARY or (ndim < MAX_AXES and mask >> ndim):
        return UNKNOWN_HEADER
    wide = flags & WIDE != 0
    size = 8 if wide else 4
    blocks = split_blocks(ndim, extent, mask, starts)
    bases = payload + 4
    patches = np.int64(0)
    if flags & PATCHED:
        if length < 8 or not floats:
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
    end = words
    for k in range(blocks):
        width = np.int64(u8(widths)[k])
        if width > 8 * size:
            return WRONG_LENGTH
        end += 4 * block_words(starts[k + 1] - starts[k], width)
    if end != special:
        return WRONG_LENGTH
    positions = widths - patches * (4 + item)
    numbers = room
    stream = room + 8 * cells
    # What lies behind the last wanted row along the first axis is never looked at.
    seen = cells // extent[0] * stop[0] if ndim > 0 else cells
    masked = flags & MASKED != 0
    scale = scale_of(kind, code)
    divided = kind == DIVIDED
    how = DIVIDE if divided and not may_multiply(code, element) else MULTIPLY
    if kind == BITS:
        how = ORDER if code == ORDERED else SIGN
    inverse = 1.0 / scale if divided else scale
    correction = inverse if divided else 0.0
    rule = (element, how, scale, inverse, correction, masked, special)
    if wide:
        like64 = np.uint64(0)
        if not _restore(
            like64, bases, words, u8(widths), starts, ndim, extent, begin, stop, mask, stream, numbers, u64, 8, position, guard
        ):
            return DAMAGED
        if masked:
            _punch(numbers, i64, 8, bitmap, seen, HOLE64)
        emit_box(
            numbers,
            i64,
            8,
            HOLE64,
            ndim,
            extent,
            begin,
            block,
            out,
            strides,
            item,
            position,
            rule,
            stream,
        )
    else:
        like32 = np.uint32(0)
        if not _restore(
            like32, bases, words, u8(widths), starts, ndim, extent, begin, stop, mask, stream, numbers, u32, 4, position, guard
        ):
            return DAMAGED
        if masked:
            _punch(numbers, i32, 4, bitmap, seen, HOLE32)
        emit_box(
            numbers,
            i32,
            4,
            HOLE32,
            ndim,
            extent,
            begin,
            block,
            out,
            strides,
            item,
            position,
            rule,
            stream,
        )
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
    failed: Any,
) -> Any:
    """Unpack one box of every task's chunk; all arguments are addresses or integers.

    `room` begins with a guard, 16 bytes an axis and 8 for each of `most_blocks`, the most that any chunk has and one.
    Without `pipeline` and `checksum` (0), payloads are taken as they are.

    Returns 0, or what is wrong with the row written to `failed`.
    """
    guard = room
    room += GUARD_ROOM
    stop, position, starts = i64(room), i64(room + 8 * ndim), i64(room + 16 * ndim)
    for task in range(tasks):
        row = i64(rows)[task]
        at = np.int64(i32(geometry)[row]) * ndim * 8
        size = i64(length)[row]
        payload = src + i64(offset)[row]
        place = room + 16 * ndim + 8 * most_blocks
        if payload & 7 != 0:
            # Numbers are read from aligned memory.
            copy(place, payload, size)
            payload = place
            place += (size + 15) // 8 * 8
        problem = DAMAGED
        body = payload
        i64(guard)[0] = payload + size
        if checksum:
            body = open_payload(guard, payload, size, u8(pipeline)[row] & SEALED, i64(checksum)[row])
        if body != 0:
            problem = _unpack_chunk(
                body,
                payload + size - body,
                element,
                item,
                ndim,
                i64(chunk_extent + at),
                i64(block_start + at),
                i64(block_extent + at),
                out + i64(destination)[row],
                i64(strides + at),
                stop,
                position,
                starts,
                place,
                guard,
            )
        if problem:
            i64(failed)[0] = row
            return problem
    return 0
