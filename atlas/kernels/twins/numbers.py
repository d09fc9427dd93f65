"""Integers and the floats that they stand for, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from atlas.kernels.layout import BINARY, BITS, DIVIDED, ORDERED, Packing

# The types of the cells, by their number.
TYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")
LIMIT32, LIMIT64 = 2147483000.0, 2251799813685248.0


def power(code: int) -> float:
    """Return the power of ten or two that a scale code names."""
    return 2.0 ** (code - BINARY) if code >= BINARY else 10.0**code


def _scale(kind: int, code: int, dtype: Any) -> Any:
    return dtype.type(power(code) if kind == DIVIDED else 1.0 / power(code))


def floats(numbers: Any, kind: int, code: int, dtype: Any) -> Any:
    """Return the floats that integers stand for."""
    if kind == BITS:
        return _from_bits(numbers, code, dtype)
    scale = _scale(kind, code, dtype)
    return numbers.astype(dtype) / scale if kind == DIVIDED else numbers.astype(dtype) * scale


def bits_of(values: Any, code: int) -> Any:
    """Return the bits of floats as integers of their size."""
    bits = values.view(f"<i{values.itemsize}")
    top = 8 * values.itemsize - 1
    if code == ORDERED:
        return bits ^ np.where(bits < 0, bits.dtype.type((1 << top) - 1), bits.dtype.type(0))
    turned = bits.view(f"<u{values.itemsize}")
    turned = turned << 1 | turned >> top
    return (turned - turned.dtype.type((1 << top) - 1)).view(bits.dtype)


def _from_bits(numbers: Any, code: int, dtype: Any) -> Any:
    """Undo :func:`bits_of`."""
    if code == ORDERED:
        return bits_of(numbers.view(dtype), code).view(dtype)
    top = 8 * dtype.itemsize - 1
    turned = numbers.view(f"<u{dtype.itemsize}") + np.array((1 << top) - 1, f"<u{dtype.itemsize}")
    return (turned >> 1 | turned << top).view(dtype)


def is_fill(values: Any, fill: Any) -> Any:
    """Tell which values are the fill value."""
    unsigned = f"<u{values.itemsize}"
    if fill is None:
        return np.zeros(len(values), bool)
    return values.view(unsigned) == fill.view(unsigned)[0]


def is_special(values: Any, fill: Any) -> Any:
    """Tell which values are the fill value or NaN."""
    special = is_fill(values, fill)
    return special | np.isnan(values) if values.dtype.kind == "f" else special


def same(first: Any, second: Any) -> Any:
    """Tell which floats are equal to the bit, and numbers."""
    unsigned = f"<u{first.itemsize}"
    return (first.view(unsigned) == second.view(unsigned)) & ~np.isnan(second)


def exact(values: Any, packing: Packing) -> Any:
    """Return the integers that floats stand for, computed in float64; the smallest int64 where there is none."""
    if packing.kind == BITS:
        numbers = bits_of(values, packing.code).astype(np.int64)
        hole = -(1 << 8 * values.itemsize - 1)
        return np.where(numbers == hole, np.iinfo(np.int64).min, numbers)
    limit = LIMIT32 if values.itemsize == 4 else LIMIT64
    with np.errstate(over="ignore", invalid="ignore"):
        y = values.astype(np.float64) * power(packing.code)
        inside = np.abs(y) < limit
        n = np.rint(np.where(inside, y, 0.0)).astype(np.int64)
        equal = same(floats(n, packing.kind, packing.code, values.dtype), values)
    return np.where(inside & equal, n, np.iinfo(np.int64).min)
