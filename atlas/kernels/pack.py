"""Pack the cells of a chunk as integers of few bits; the inverse of :mod:`atlas.kernels.unpack`."""

from __future__ import annotations

from typing import Any

import numpy as np

from atlas.kernels.bits import block_words, pack_block
from atlas.kernels.choose import integer_at
from atlas.kernels.compile import helper
from atlas.kernels.layout import BITS, DIVIDED, FLOAT32, MASKED, MAX_AXES, ORDERED, PATCHED, WIDE
from atlas.kernels.memory import both, copy, f32, f64, float_bits, i32, i64, sub, u8, u32, u64
from atlas.kernels.numbers import HOLE32, HOLE64, LIMIT32, LIMIT64, as_integer, in_order, power_of, scale_of, sign_last
from atlas.kernels.predict import box_cells, difference, move_box, next_box, split_blocks

# Of 16 cells, one may be kept as it is.
_MOST_PATCHES = 16

# The bits of infinity; those of NaN are larger.
_INFINITY32, _INFINITY64 = 0x7F800000, 0x7FF0000000000000
_NAN32, _NAN64 = 0x7FC00000, 0x7FF8000000000000

# Adding this to a float64 below LIMIT64 leaves its integer in the low bits.
_MAGIC = 6755399441055744.0


@helper
def _numbers_of_f32(src: Any, cells: Any, divided: Any, power: Any, scale: Any, fill: Any, out: Any, good: Any) -> Any:
    x, bits = f32(src), u32(src)
    limit = np.float32(LIMIT32)
    bad: Any = 0
    for i in range(cells):
        y = x[i] * power
        n = np.int32(np.rint(y if abs(y) < limit else np.float32(0)))
        out[i] = n
        back = np.float32(n) / scale if divided else np.float32(n) * scale
        ok = np.uint8((back == x[i]) & ((n != 0) | (bits[i] == 0)) & (bits[i] != fill))
        good[i] = ok
        bad += 1 - np.int64(ok)
    return bad


@helper
def _numbers_of_f64(src: Any, cells: Any, divided: Any, power: Any, scale: Any, fill: Any, out: Any, good: Any) -> Any:
    x, bits = f64(src), u64(src)
    bad: Any = 0
    for i in range(cells):
        y = x[i] * power
        n = np.int32(np.rint(y if abs(y) < LIMIT32 else 0.0))
        out[i] = n
        back = np.float64(n) / scale if divided else np.float64(n) * scale
        ok = np.uint8((back == x[i]) & ((n != 0) | (bits[i] == 0)) & (bits[i] != fill))
        good[i] = ok
        bad += 1 - np.int64(ok)
    return bad


@helper
def _wide_numbers_of_f64(
    src: Any, cells: Any, divided: Any, power: Any, scale: Any, fill: Any, out: Any, good: Any
) -> Any:
    x, bits = f64(src), u64(src)
    magic = float_bits(_MAGIC)
    bad: Any = 0
    for i in range(cells):
        y = x[i] * power
        n = float_bits((y if abs(y) < LIMIT64 else 0.0) + _MAGIC) - magic
        out[i] = n
        back = np.float64(n) / scale if divided else np.float64(n) * scale
        ok = np.uint8((back == x[i]) & ((n != 0) | (bits[i] == 0)) & (bits[i] != fill))
        good[i] = ok
        bad += 1 - np.int64(ok)
    return bad


@helper
def _numbers_of_bits(
    src: Any, cells: Any, top: Any, code: Any, infinity: Any, fill: Any, out: Any, good: Any, hole: Any
) -> Any:
    """Write floats, given as integers like `infinity`, as numbers that are their bits."""
    bad: Any = 0
    for i in range(cells):
        x = src[i]
        n = in_order(x, top) if code == ORDERED else sign_last(x, top)
        out[i] = n
        is_number = np.int64(both(x, (1 << top) - 1)) <= infinity
        ok = np.uint8(is_number & (x != fill) & (n != hole))
        good[i] = ok
        bad += 1 - np.int64(ok)
    return bad


@helper
def _numbers_of_integers(src: Any, cells: Any, element: Any, fill: Any, out: Any, good: Any, hole: Any) -> Any:
    """Return how many cells are the fill value, or -1 where one looks like a marked cell."""
    special = integer_at(fill, np.int64(0), element) if fill else np.int64(0)
    bad: Any = 0
    for i in range(cells):
        n = integer_at(src, i, element)
        out[i] = n
        is_fill = fill != 0 and n == special
        if n == hole and not is_fill:
            return -1
        good[i] = not is_fill
        bad += np.int64(is_fill)
    return bad


@helper
def _fits_narrow(src: Any, cells: Any, element: Any, fill: Any, power: Any) -> Any:
    """Tell whether the integers of 8-byte cells fit 32 bits; those of floats by a sample."""
    low, high = np.int64(0), np.int64(0)
    if element >= FLOAT32:
        for i in range(0, cells, max(cells // 64, 1)):
            y = f64(src)[i] * power
            # What is no number of this scale is patched or masked.
            if LIMIT32 <= abs(y) < LIMIT64 and not (fill != 0 and u64(src)[i] == u64(fill)[0]):
                return False
        return True
    special = i64(fill)[0] if fill else np.int64(0)
    for i in range(cells):
        n = i64(src)[i]
        n = np.int64(0) if fill != 0 and n == special else n
        low, high = min(low, n), max(high, n)
    return low > HOLE32 and high < -np.int64(HOLE32)


@helper
def _is_masked(src: Any, i: Any, first: Any, element: Any, fill: Any) -> Any:
    """Tell whether a cell holds the special value: NaN or the fill value, whichever comes first."""
    if element == FLOAT32:
        if first >= 0:
            return u32(src)[i] == u32(src)[first]
        return np.isnan(f32(src)[i]) or (fill != 0 and u32(src)[i] == u32(fill)[0])
    if element > FLOAT32:
        if first >= 0:
            return u64(src)[i] == u64(src)[first]
        return np.isnan(f64(src)[i]) or (fill != 0 and u64(src)[i] == u64(fill)[0])
    return True


@helper
def _settle(
    src: Any,
    cells: Any,
    element: Any,
    item: Any,
    fill: Any,
    kind: Any,
    code: Any,
    numbers: Any,
    good: Any,
    bitmap: Any,
    positions: Any,
    values: Any,
    highest: Any,
) -> Any:
    """Find a place for the cells that are no integers of the scale.

    Returns the number of patches (-1: too many) and the first cell that holds the special value (-1: none).
    """
    for i in range((cells + 7) >> 3):
        bitmap[i] = 0
    last = numbers[0]
    for i in range(cells):
        if good[i]:
            last = numbers[i]
            break
        last = numbers[i] & 0
    first: Any = np.int64(-1)
    patches: Any = np.int64(0)
    for i in range(cells):
        if good[i]:
            last = numbers[i]
            continue
        if _is_masked(src, i, first, element, fill):
            first = i if first < 0 else first
            bitmap[i >> 3] |= np.uint8(1 << (i & 7))
        else:
            # A float32 product is rounded; this one is not.
            n = as_integer(src, i, element, kind, code)
            if -highest < n < highest:
                last = numbers[i] & 0
                last += n
            else:
                if patches * _MOST_PATCHES >= cells:
                    return -1, first
                positions[patches] = i
                copy(values + patches * item, src + i * item, item)
                patches += 1
        numbers[i] = last
    return patches, first


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
    cells: Any,
    starts: Any,
    blocks: Any,
    signed: Any,
    unsigned_of: Any,
    unsigned: Any,
    size: Any,
    header: Any,
    limit: Any,
    out: Any,
    patches: Any,
    positions: Any,
    values: Any,
    item: Any,
    special: Any,
    bitmap: Any,
    room: Any,
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
    floats = element >= FLOAT32
    divided = kind == DIVIDED
    wide = item == 8 and (kind == BITS or not _fits_narrow(src, cells, element, fill, power_of(code)))
    highest = np.int64(LIMIT64) if wide else np.int64(LIMIT32)
    bad = 0
    if kind == BITS and element == FLOAT32:
        highest = -np.int64(HOLE32)
        filled = i32(fill)[0] if fill else np.int32(_NAN32)
        bad = _numbers_of_bits(i32(src), cells, 31, code, _INFINITY32, filled, i32(numbers), u8(good), np.int64(HOLE32))
    elif kind == BITS:
        highest = -(HOLE64 + 1)
        filled64 = i64(fill)[0] if fill else np.int64(_NAN64)
        bad = _numbers_of_bits(i64(src), cells, 63, code, _INFINITY64, filled64, i64(numbers), u8(good), HOLE64)
    elif element == FLOAT32:
        scale = np.float32(scale_of(kind, code))
        special = u32(fill)[0] if fill else np.uint32(_NAN32)
        bad = _numbers_of_f32(src, cells, divided, np.float32(power_of(code)), scale, special, i32(numbers), u8(good))
    elif floats:
        special64 = u64(fill)[0] if fill else np.uint64(_NAN64)
        if wide:
            bad = _wide_numbers_of_f64(
                src, cells, divided, power_of(code), scale_of(kind, code), special64, i64(numbers), u8(good)
            )
        else:
            bad = _numbers_of_f64(
                src, cells, divided, power_of(code), scale_of(kind, code), special64, i32(numbers), u8(good)
            )
    elif wide:
        bad = _numbers_of_integers(src, cells, element, fill, i64(numbers), u8(good), HOLE64)
    else:
        bad = _numbers_of_integers(src, cells, element, fill, i32(numbers), u8(good), np.int64(HOLE32))
    if bad < 0:
        # A value looks like a mark: then nothing is marked.
        bad = 0
        for i in range(cells):
            if wide:
                i64(numbers)[i] = integer_at(src, i, element)
            else:
                i32(numbers)[i] = integer_at(src, i, element)
    patches, first = np.int64(0), np.int64(-1)
    if bad:
        if wide:
            patches, first = _settle(
                src,
                cells,
                element,
                item,
                fill,
                kind,
                code,
                i64(numbers),
                u8(good),
                u8(bitmap),
                u32(positions),
                values,
                highest,
            )
        else:
            patches, first = _settle(
                src,
                cells,
                element,
                item,
                fill,
                kind,
                code,
                i32(numbers),
                u8(good),
                u8(bitmap),
                u32(positions),
                values,
                highest,
            )
        if patches < 0:
            return 0
    special_at = src + first * item if first >= 0 else np.int64(0)
    header = kind | code << 8 | mask << 16
    if wide:
        stream = _predicted(np.uint64(0), numbers, other, cells, ndim, axes, mask, u64, 8, position)
        other = numbers if stream == other else other
        return _write(
            stream,
            cells,
            starts,
            blocks,
            i64,
            _as_u64,
            u64,
            8,
            header,
            limit,
            out,
            patches,
            positions,
            values,
            item,
            special_at,
            bitmap,
            other,
        )
    stream = _predicted(np.uint32(0), numbers, other, cells, ndim, axes, mask, u32, 4, position)
    other = numbers if stream == other else other
    return _write(
        stream,
        cells,
        starts,
        blocks,
        i32,
        _as_u32,
        u32,
        4,
        header,
        limit,
        out,
        patches,
        positions,
        values,
        item,
        special_at,
        bitmap,
        other,
    )
