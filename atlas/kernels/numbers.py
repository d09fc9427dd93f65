"""Integers and the floats that they stand for."""

from __future__ import annotations

from typing import Any

import numpy as np

from atlas.kernels.compile import helper
from atlas.kernels.layout import BINARY, BITS, DIVIDED, FLOAT32, ORDERED
from atlas.kernels.memory import HAS_FMA, add, differ, either, f32, f64, fma, i32, i64, shl, shr, sub, u32, u64

# No integer of a chunk is one of these: they mark the cells that hold the special value.
HOLE32 = np.int32(-(1 << 31))
HOLE64 = np.int64(-(1 << 63))

# Within these every integer is exact, also on its way through a float64.
LIMIT32 = 2147483000.0
LIMIT64 = 2251799813685248.0


@helper
def power_of(code: Any) -> Any:
    """Return the power of ten or two that a scale code names."""
    power = 1.0
    if code >= BINARY:
        for _ in range(code - BINARY):
            power *= 2.0
    else:
        for _ in range(code):
            power *= 10.0
    return power


@helper
def scale_of(kind: Any, code: Any) -> Any:
    """Return the number that integers are divided or multiplied by."""
    return power_of(code) if kind == DIVIDED else 1.0 / power_of(code)


# Up to these powers of ten a quotient may be found without dividing, see `quotient`.
_EXACT32 = 8
_EXACT64 = 20


@helper
def may_multiply(code: Any, element: Any) -> Any:
    """Return whether :func:`quotient` is exact for a scale."""
    return HAS_FMA and (code >= BINARY or code <= (_EXACT32 if element == FLOAT32 else _EXACT64))


@helper
def quotient(number: Any, scale: Any, inverse: Any, correction: Any) -> Any:
    """Return ``number / scale`` to the last bit, sooner than a division does.

    `inverse` is ``1 / scale``, `correction` the same; with a `correction` of 0 the result is the
    product ``number * inverse``.

    The product is off by a few units in the last place at most, so its remainder, which is a multiple of
    the last place of the product and of `scale`, is exact as long as 5**code has a bit less than a
    mantissa. The corrected quotient, before it is rounded, is then closer to the true one than any
    number half-way between two floats can be, as that differs by at least 1 / 5**code of a half unit.
    """
    rough = number * inverse
    return fma(fma(-rough, scale, number), correction, rough)


@helper
def in_order(bits: Any, top: Any) -> Any:
    """Return the bits of a float as an integer that is ordered like the floats; its own inverse.

    `bits` is signed, and `top` the number of its highest bit.
    """
    return differ(bits, shr(sub(sub(bits, bits), shr(bits, top)), 1))


@helper
def sign_last(bits: Any, top: Any) -> Any:
    """Return the bits of a float as an integer ordered by size, with the sign as its last bit.

    0.0 is the second smallest integer, as the smallest one marks holes.
    """
    return sub(either(shl(bits, 1), shr(bits, top)), (1 << top) - 1)


@helper
def from_sign_last(number: Any, top: Any) -> Any:
    """Undo :func:`sign_last`."""
    bits = add(number, (1 << top) - 1)
    return either(shr(bits, 1), shl(bits, top))


@helper
def bits_as_integer(src: Any, i: Any, element: Any, code: Any) -> Any:
    """Return the integer that the bits of cell `i` are, HOLE64 when it is the one that marks holes."""
    if element == FLOAT32:
        narrow = i32(src)[i]
        n = np.int64(in_order(narrow, 31) if code == ORDERED else sign_last(narrow, 31))
        return HOLE64 if n == np.int64(HOLE32) else n
    return in_order(i64(src)[i], 63) if code == ORDERED else sign_last(i64(src)[i], 63)


@helper
def as_integer(src: Any, i: Any, element: Any, kind: Any, code: Any) -> Any:
    """Return the integer that cell `i` of a float type stands for, HOLE64 when it is none of this scale."""
    if kind == BITS:
        return bits_as_integer(src, i, element, code)
    power = power_of(code)
    if element == FLOAT32:
        y = np.float64(f32(src)[i]) * power
        if not abs(y) < LIMIT32:
            return HOLE64
        n = np.int64(np.rint(y))
        scale = np.float32(scale_of(kind, code))
        back = np.float32(n) / scale if kind == DIVIDED else np.float32(n) * scale
        same = back == f32(src)[i] and (n != 0 or u32(src)[i] == 0)
    else:
        y = f64(src)[i] * power
        if not abs(y) < LIMIT64:
            return HOLE64
        n = np.int64(np.rint(y))
        wide = scale_of(kind, code)
        other = np.float64(n) / wide if kind == DIVIDED else np.float64(n) * wide
        same = other == f64(src)[i] and (n != 0 or u64(src)[i] == 0)
    return n if same else HOLE64
