"""Unpack chunks of packed integers and copy a box of each to a strided output.

A packed chunk (docs/format.md, pipeline 64) is integers, perhaps scaled to decimals, as differences from
their neighbours, in blocks of as few bits as each needs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from atlas.kernels.bits import block_words, unpack_block, unpack_high
from atlas.kernels.compile import helper
from atlas.kernels.layout import (
    BAD_POSITION,
    BINARY,
    DIVIDED,
    FLOAT32,
    INTEGERS,
    MASKED,
    MAX_AXES,
    MAX_BINARY,
    MAX_DECIMAL,
    MULTIPLIED,
    PATCHED,
    UNKNOWN_HEADER,
    WIDE,
    WRONG_LENGTH,
)
from atlas.kernels.memory import copy, f32, f64, i32, i64, u8, u16, u32, u64
from atlas.kernels.numbers import HOLE32, HOLE64, scale_of
from atlas.kernels.predict import accumulate, box_begin, box_cells, box_end, inner_of, move_box, next_box, split_blocks


@helper
def _emit_floats(values: Any, run: Any, out: Any, divided: Any, scale: Any, cast: Any) -> None:
    if divided:
        for i in range(run):
            out[i] = cast(values[i]) / scale
    else:
        for i in range(run):
            out[i] = cast(values[i]) * scale


@helper
def _emit_masked(values: Any, run: Any, out: Any, divided: Any, scale: Any, cast: Any, hole: Any, special: Any) -> None:
    if divided:
        for i in range(run):
            n = values[i]
            out[i] = special if n == hole else cast(n) / scale
    else:
        for i in range(run):
            n = values[i]
            out[i] = special if n == hole else cast(n) * scale


@helper
def _emit_integers(values: Any, run: Any, out: Any, masked: Any, hole: Any, special: Any) -> None:
    if masked:
        for i in range(run):
            n = values[i]
            out[i] = special if n == hole else n
    else:
        for i in range(run):
            out[i] = values[i]


@helper
def _emit(
    values: Any, run: Any, out: Any, element: Any, divided: Any, scale: Any, masked: Any, hole: Any, special: Any
) -> None:
    """Write a run of cells at address `out`; `special` is the address of the special value."""
    if element == FLOAT32:
        if masked:
            _emit_masked(values, run, f32(out), divided, np.float32(scale), np.float32, hole, f32(special)[0])
        else:
            _emit_floats(values, run, f32(out), divided, np.float32(scale), np.float32)
    elif element > FLOAT32:
        if masked:
            _emit_masked(values, run, f64(out), divided, scale, np.float64, hole, f64(special)[0])
        else:
            _emit_floats(values, run, f64(out), divided, scale, np.float64)
    elif element < 2:
        _emit_integers(values, run, u8(out), masked, hole, u8(special)[0])
    elif element < 4:
        _emit_integers(values, run, u16(out), masked, hole, u16(special)[0])
    elif element < 6:
        _emit_integers(values, run, i32(out), masked, hole, i32(special)[0])
    else:
        _emit_integers(values, run, i64(out), masked, hole, i64(special)[0])


@helper
def _emit_box(
    numbers: Any,
    signed: Any,
    size: Any,
    hole: Any,
    ndim: Any,
    extent: Any,
    begin: Any,
    block: Any,
    out: Any,
    strides: Any,
    item: Any,
    position: Any,
    element: Any,
    divided: Any,
    scale: Any,
    masked: Any,
    special: Any,
) -> None:
    """Write the cells of a box, whose integers are at address `numbers`, to a strided output."""
    # Merge trailing axes that are contiguous in both, so that the inner run is long.
    inner = ndim
    run = 1
    strip = 1
    while inner > 0 and strides[inner - 1] == run * item and strip == run:
        inner -= 1
        run *= block[inner]
        strip *= extent[inner]
    first = 0
    for i in range(ndim):
        first += begin[i] * inner_of(ndim, extent, i)
        position[i] = 0
    target = out
    while True:
        _emit(signed(numbers + first * size), run, target, element, divided, scale, masked, hole, special)
        i = inner - 1
        while i >= 0:
            step = inner_of(ndim, extent, i)
            position[i] += 1
            first += step
            target += strides[i]
            if position[i] < block[i]:
                break
            first -= position[i] * step
            target -= position[i] * strides[i]
            position[i] = 0
            i -= 1
        if i < 0:
            return


@helper
def _restore(
    bases: Any,
    words: Any,
    widths: Any,
    starts: Any,
    ndim: Any,
    extent: Any,
    stop: Any,
    mask: Any,
    stream: Any,
    numbers: Any,
    cast: Any,
    size: Any,
    position: Any,
) -> None:
    """Write a chunk's integers, as far as cells before `stop` need them, at address `numbers`."""
    # Differences along the first axis alone lie in the order of the cells.
    in_order = mask & ~1 == 0
    target = numbers if in_order else stream
    at = words
    top, inward = np.int64(0), np.int64(1)
    block = np.int64(0)
    begin = np.int64(0)
    box = np.int64(0)
    while True:
        count = box_cells(ndim, extent, box, mask)
        rows = box_end(box, mask, top, extent) - box_begin(box, mask, top)
        wanted = min(stop[0], box_end(box, mask, top, extent)) - box_begin(box, mask, top)
        if count > 0 and wanted > 0:
            end = begin + count // rows * wanted
            while starts[block] < end:
                n = starts[block + 1] - starts[block]
                width = np.int64(widths[block])
                if starts[block] >= begin:
                    base = cast(bases + block * size)[0]
                    unpack_block(at, n, width, base, cast, size, target + starts[block] * size)
                    if width > 32:
                        unpack_high(at, n, width, u64(target + starts[block] * size))
                at += 4 * block_words(n, width)
                block += 1
            if not in_order:
                move_box(
                    stream + begin * size, numbers, np.int64(size), inward, ndim, extent, stop, box, mask, position
                )
        begin += count
        box = next_box(box, mask)
        if box == 0:
            break
    for axis in range(min(ndim, MAX_AXES)):
        if mask & (1 << axis):
            accumulate(numbers, cast, size, ndim, extent, stop, axis, position)


@helper
def _punch(numbers: Any, bitmap: Any, cells: Any, hole: Any) -> None:
    """Mark the cells whose bit is set."""
    for byte in range((cells + 7) >> 3):
        bits = bitmap[byte]
        if bits != 0:
            for i in range(min(8, cells - 8 * byte)):
                if (bits >> i) & 1:
                    numbers[8 * byte + i] = hole


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
) -> Any:
    cells = np.int64(1)
    wanted = np.int64(1)
    for i in range(ndim):
        cells *= extent[i]
        wanted *= block[i]
        stop[i] = begin[i] + block[i]
    if wanted == 0:
        return 0
    if length < 4:
        return WRONG_LENGTH
    header = u8(payload)
    kind, code, mask, flags = np.int64(header[0]), np.int64(header[1]), np.int64(header[2]), np.int64(header[3])
    floats = element >= FLOAT32
    if kind > MULTIPLIED or (kind != INTEGERS) != floats or flags > MASKED | PATCHED | WIDE:
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
    end = words
    for k in range(blocks):
        width = np.int64(u8(widths)[k])
        if width > 8 * size:
            return WRONG_LENGTH
        end += 4 * block_words(starts[k + 1] - starts[k], width)
    special = end
    if flags & MASKED:
        end += max(item, 4)
    positions = end
    if end + patches * (4 + item) != widths:
        return WRONG_LENGTH
    numbers = room
    stream = room + 8 * cells
    masked = flags & MASKED != 0
    divided = kind == DIVIDED
    scale = scale_of(kind, code)
    if wide:
        _restore(bases, words, u8(widths), starts, ndim, extent, stop, mask, stream, numbers, u64, 8, position)
        if masked:
            _punch(i64(numbers), u8(bitmap), cells, HOLE64)
        _emit_box(
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
            element,
            divided,
            scale,
            masked,
            special,
        )
    else:
        _restore(bases, words, u8(widths), starts, ndim, extent, stop, mask, stream, numbers, u32, 4, position)
        if masked:
            _punch(i32(numbers), u8(bitmap), cells, HOLE32)
        _emit_box(
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
            element,
            divided,
            scale,
            masked,
            special,
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

    `room` begins with 16 bytes an axis and 8 for each of `most_blocks`, the most that any chunk has and one.

    Returns 0, or what is wrong with the row written to `failed`.
    """
    stop, position, starts = i64(room), i64(room + 8 * ndim), i64(room + 16 * ndim)
    for task in range(tasks):
        row = i64(rows)[task]
        at = np.int64(i32(geometry)[row]) * ndim * 8
        size = i64(length)[row]
        payload = room + 16 * ndim + 8 * most_blocks
        # Files place payloads anywhere; numbers are read from aligned memory.
        copy(payload, src + i64(offset)[row], size)
        problem = _unpack_chunk(
            payload,
            size,
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
            payload + (size + 15) // 8 * 8,
        )
        if problem:
            i64(failed)[0] = row
            return problem
    return 0
