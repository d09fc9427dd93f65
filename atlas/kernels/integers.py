"""From cells to integers: the inverse of :mod:`atlas.kernels.emit`, and a place for the cells that are none."""

from __future__ import annotations

from typing import Any

import numpy as np

from atlas.kernels.choose import integer_at
from atlas.kernels.compile import helper
from atlas.kernels.layout import BITS, DIVIDED, FLOAT32, ORDERED
from atlas.kernels.memory import both, copy, f32, f64, float_bits, i32, i64, u8, u32, u64
from atlas.kernels.numbers import HOLE32, HOLE64, LIMIT32, LIMIT64, as_integer, in_order, power_of, scale_of, sign_last

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
def are_wide(src: Any, cells: Any, element: Any, item: Any, kind: Any, code: Any, fill: Any) -> Any:
    """Tell whether the integers of cells take 64 bits."""
    return item == 8 and (kind == BITS or not _fits_narrow(src, cells, element, fill, power_of(code)))


@helper
def to_integers(
    src: Any, cells: Any, element: Any, kind: Any, code: Any, fill: Any, wide: Any, numbers: Any, good: Any
) -> Any:
    """Write the integer of every cell to address `numbers`, and whether it has one to `good`; return how many do not.

    The integers take 8 bytes each where they are `wide`, else 4.
    """
    divided, power, scale = kind == DIVIDED, power_of(code), scale_of(kind, code)
    bad: Any = np.int64(0)
    if kind == BITS and element == FLOAT32:
        filled = i32(fill)[0] if fill else np.int32(_NAN32)
        bad = _numbers_of_bits(i32(src), cells, 31, code, _INFINITY32, filled, i32(numbers), u8(good), np.int64(HOLE32))
    elif kind == BITS:
        filled64 = i64(fill)[0] if fill else np.int64(_NAN64)
        bad = _numbers_of_bits(i64(src), cells, 63, code, _INFINITY64, filled64, i64(numbers), u8(good), HOLE64)
    elif element == FLOAT32:
        special = u32(fill)[0] if fill else np.uint32(_NAN32)
        bad = _numbers_of_f32(
            src, cells, divided, np.float32(power), np.float32(scale), special, i32(numbers), u8(good)
        )
    elif element > FLOAT32:
        special64 = u64(fill)[0] if fill else np.uint64(_NAN64)
        if wide:
            bad = _wide_numbers_of_f64(src, cells, divided, power, scale, special64, i64(numbers), u8(good))
        else:
            bad = _numbers_of_f64(src, cells, divided, power, scale, special64, i32(numbers), u8(good))
    elif wide:
        bad = _numbers_of_integers(src, cells, element, fill, i64(numbers), u8(good), HOLE64)
    else:
        bad = _numbers_of_integers(src, cells, element, fill, i32(numbers), u8(good), np.int64(HOLE32))
    if bad < 0:
        # A value looks like a mark: then nothing is marked.
        bad = np.int64(0)
        for i in range(cells):
            if wide:
                i64(numbers)[i] = integer_at(src, i, element)
            else:
                i32(numbers)[i] = integer_at(src, i, element)
    return bad


@helper
def highest_integer(element: Any, kind: Any, wide: Any) -> Any:
    """Return what the size of every integer is below."""
    if kind == BITS:
        return -np.int64(HOLE32) if element == FLOAT32 else -(HOLE64 + 1)
    return np.int64(LIMIT64) if wide else np.int64(LIMIT32)


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
def settle(
    numbers: Any,
    src: Any,
    cells: Any,
    element: Any,
    item: Any,
    kind: Any,
    code: Any,
    fill: Any,
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
