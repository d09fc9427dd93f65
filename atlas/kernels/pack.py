"""Pack the cells of a chunk as integers of few bits; the inverse of :mod:`atlas.kernels.unpack`."""

from __future__ import annotations

from typing import Any

import numpy as np

from atlas.kernels.bits import block_words, pack_block
from atlas.kernels.compile import helper
from atlas.kernels.integers import are_wide, highest_integer, settle, to_integers
from atlas.kernels.layout import MASKED, MAX_AXES, PATCHED, WIDE
from atlas.kernels.memory import copy, i32, i64, sub, u8, u32, u64
from atlas.kernels.predict import box_cells, difference, move_box, next_box, split_blocks


@helper
def _bits_of(span: Any) -> Any:
    width = 0
    while span:
        span >>= 1
        width += 1
    return width


@helper
def _measure(numbers: Any, starts: Any, blocks: Any, bases: Any, widths: Any, unsigned: Any) -> Any:
    """Write the smallest value of every block and the bits above it; return the words of all blocks."""
    words = 0
    for block in range(blocks):
        at = starts[block]
        n = starts[block + 1] - at
        low, high = numbers[at], numbers[at]
        for i in range(at, at + n):
            low, high = min(low, numbers[i]), max(high, numbers[i])
        width = _bits_of(unsigned(sub(high, low)))
        bases[block] = low
        widths[block] = width
        words += block_words(n, width)
    return words


@helper
def _predicted(
    like: Any,
    numbers: Any,
    other: Any,
    cells: Any,
    ndim: Any,
    extent: Any,
    mask: Any,
    cast: Any,
    size: Any,
    position: Any,
) -> Any:
    """Turn numbers into differences in the order of the boxes; return the address that they are at."""
    for axis in range(min(ndim, MAX_AXES)):
        if mask & (1 << axis):
            difference(cast(numbers), cast(other), cells, ndim, extent, axis)
            numbers, other = other, numbers
    if mask & ~1 == 0:
        return numbers
    begin, box, no = np.int64(0), np.int64(0), np.int64(0)
    while True:
        move_box(like, other + begin * size, numbers, cast, size, no, no, ndim, extent, extent, box, mask, position)
        begin += box_cells(ndim, extent, box, mask)
        box = next_box(box, mask)
        if box == 0:
            return other


@helper
def _write(
    stream: Any,
    room: Any,
    signed: Any,
    unsigned_of: Any,
    unsigned: Any,
    size: Any,
    cells: Any,
    starts: Any,
    blocks: Any,
    header: Any,
    limit: Any,
    out: Any,
    patches: Any,
    positions: Any,
    values: Any,
    item: Any,
    special: Any,
    bitmap: Any,
) -> Any:
    """Write the payload; return its length, or 0 where it would exceed `limit`."""
    bases, widths = signed(room), u8(room + 8 * blocks)
    words = _measure(signed(stream), starts, blocks, bases, widths, unsigned_of)
    masked_size = (cells + 7) // 8 + max(item, 4) if special else 0
    patched_size = 4 + patches * (4 + item) if patches else 0
    length = 4 + patched_size + blocks * (size + 1) + 4 * words + masked_size
    if length > limit:
        return 0
    flags = (MASKED if special else 0) | (PATCHED if patches else 0) | (WIDE if size == 8 else 0)
    u32(out)[0] = np.uint32(header | flags << 24)
    at = out + 4
    if patches:
        u32(at)[0] = np.uint32(patches)
        at += 4
    copy(at, room, blocks * size)
    at += blocks * size
    for block in range(blocks):
        n = starts[block + 1] - starts[block]
        width = np.int64(widths[block])
        pack_block(stream + starts[block] * size, n, width, unsigned(room)[block], unsigned, size, at)
        at += 4 * block_words(n, width)
    if special:
        u32(at)[0] = 0
        copy(at, special, item)
        at += max(item, 4)
    copy(at, positions, 4 * patches)
    copy(at + 4 * patches, values, item * patches)
    at += patches * (4 + item)
    copy(at, room + 8 * blocks, blocks)
    if special:
        copy(at + blocks, bitmap, (cells + 7) // 8)
    return length


@helper
def _as_u32(n: Any) -> Any:
    return np.uint32(n)


@helper
def _as_u64(n: Any) -> Any:
    return np.uint64(n)


def pack(
    src: Any,
    cells: Any,
    ndim: Any,
    extent: Any,
    element: Any,
    item: Any,
    kind: Any,
    code: Any,
    mask: Any,
    fill: Any,
    limit: Any,
    out: Any,
    room: Any,
) -> Any:
    """Write a chunk's payload of at most `limit` bytes to `out`; return its length, or 0 where packing does not pay.

    `src`, `extent`, `fill` (0: none), `out` and `room` are addresses. `room` takes 25 bytes a cell, 16 an axis
    and 8 a block beyond one KiB.
    """
    axes = i64(extent)
    position = i64(room)
    starts = i64(room + 16 * ndim)
    blocks = split_blocks(ndim, axes, mask, starts)
    numbers = room + 16 * ndim + 8 * blocks + 64
    other = numbers + 8 * cells + 64
    good = other + 8 * cells + 64
    bitmap = good + cells + 64
    positions = bitmap + cells // 8 // 8 * 8 + 64
    values = positions + cells // 2 // 8 * 8 + 64
    wide = are_wide(src, cells, element, item, kind, code, fill)
    bad = to_integers(src, cells, element, kind, code, fill, wide, numbers, good)
    patches, first = np.int64(0), np.int64(-1)
    if bad:
        highest = highest_integer(element, kind, wide)
        rest = (src, cells, element, item, kind, code, fill, u8(good), u8(bitmap), u32(positions), values, highest)
        patches, first = settle(i64(numbers), *rest) if wide else settle(i32(numbers), *rest)
        if patches < 0:
            return 0
    special = src + first * item if first >= 0 else np.int64(0)
    header = kind | code << 8 | mask << 16
    payload = (cells, starts, blocks, header, limit, out, patches, positions, values, item, special, bitmap)
    if wide:
        stream = _predicted(np.uint64(0), numbers, other, cells, ndim, axes, mask, u64, 8, position)
        return _write(stream, numbers if stream == other else other, i64, _as_u64, u64, 8, *payload)
    stream = _predicted(np.uint32(0), numbers, other, cells, ndim, axes, mask, u32, 4, position)
    return _write(stream, numbers if stream == other else other, i32, _as_u32, u32, 4, *payload)
