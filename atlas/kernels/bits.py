"""Bit packing of blocks of up to 1,024 integers, in lanes that vector instructions work on together.

A block of *n* values has ``ceil(n / 32)`` lanes; value *i* is in lane ``i % lanes``. Every lane is a string of
``width``-bit numbers in 32-bit words, lowest bits first, and the words of the lanes alternate. Of numbers
wider than 32 bits the low halves come first, then the rest.

Values are 32 or 64 bits wide; `base`, which is added to what is packed, has their type and says so.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from atlas.kernels.compile import helper
from atlas.kernels.lanes import (
    LANES,
    pack_row,
    pack_spilled_row,
    unpack_row,
    unpack_split_row,
    unpack_wide_row,
    unpack_wide_split_row,
)
from atlas.kernels.layout import BLOCK
from atlas.kernels.memory import add, both, either, shl, shr, sub, u32, u64

_ONES = np.uint32(0xFFFFFFFF)

# From so many lanes on, numbers of one row are worth doing together.
_MANY_LANES = 4


@helper
def block_words(n: Any, width: Any) -> Any:
    """Words that a block of `n` values takes."""
    lanes = (n + 31) >> 5
    rows = (n + lanes - 1) // lanes
    if width > 32:
        return lanes * (rows + ((rows * (width - 32) + 31) >> 5))
    return lanes * ((rows * width + 31) >> 5)


@helper
def _unpack_rows(
    words: Any, n: Any, lanes: Any, width: Any, mask: Any, base: Any, cast: Any, size: Any, out: Any
) -> None:
    """Unpack a block that has not all lanes row after row, as the numbers of one are shifted alike."""
    bit = 0
    for first in range(0, n, lanes):
        shift = np.uint32(bit & 31)
        low, row = u32(words + 4 * lanes * (bit >> 5)), cast(out + first * size)
        count = min(lanes, n - first)
        if (bit & 31) + width <= 32:
            for i in range(count):
                row[i] = add(base, both(shr(low[i], shift), mask))
        else:
            high, up = u32(words + 4 * lanes * ((bit >> 5) + 1)), sub(np.uint32(32), shift)
            for i in range(count):
                row[i] = add(base, both(either(shr(low[i], shift), shl(high[i], up)), mask))
        bit += width


@helper
def unpack_block(
    words: Any, n: Any, width: Any, base: Any, cast: Any, size: Any, out: Any, begin: Any, end: Any
) -> None:
    """Write ``base +`` the `n` values of up to 32 bits at address `words` to address `out`.

    Those before `begin` and from `end` on may be left out; of :data:`BLOCK` values, no more than 31 of either are not.
    """
    target = cast(out)
    if width == 0:
        for i in range(begin, end):
            target[i] = base
        return
    width = min(width, 32)
    mask = shr(_ONES, np.uint32(32 - width))
    if n == BLOCK:
        first, last = begin // LANES, (end + LANES - 1) // LANES
        out += size * LANES * first
        for bit in range(first * width, last * width, width):
            low = words + 4 * LANES * (bit >> 5)
            if (bit & 31) + width <= 32:
                unpack_row(low, np.uint32(bit & 31), mask, base, out)
            else:
                unpack_split_row(low, np.uint32(bit & 31), mask, base, out)
            out += size * LANES
        return
    lanes = (n + 31) >> 5
    if lanes >= _MANY_LANES:
        _unpack_rows(words, n, lanes, width, mask, base, cast, size, out)
        return
    for lane in range(lanes):
        word = u32(words + 4 * lane)
        bit = 0
        for i in range(lane, n, lanes):
            at = (bit >> 5) * lanes
            shift = np.uint32(bit & 31)
            value = shr(word[at], shift)
            if (bit & 31) + width > 32:
                value = either(value, shl(word[at + lanes], sub(np.uint32(32), shift)))
            target[i] = add(base, both(value, mask))
            bit += width


@helper
def unpack_wide_block(words: Any, n: Any, width: Any, base: Any, out: Any, begin: Any, end: Any) -> None:
    """Do the same for values of more than 32 bits, written as 64-bit integers."""
    lanes = (n + 31) >> 5
    rows = (n + lanes - 1) // lanes
    above = width - 32
    high = words + 4 * lanes * rows
    if n == BLOCK:
        mask = shr(_ONES, np.uint32(32 - above))
        first, last = begin // LANES, (end + LANES - 1) // LANES
        words += 4 * LANES * first
        out += 8 * LANES * first
        for bit in range(first * above, last * above, above):
            upper = high + 4 * LANES * (bit >> 5)
            if (bit & 31) + above <= 32:
                unpack_wide_row(words, upper, np.uint32(bit & 31), mask, base, out)
            else:
                unpack_wide_split_row(words, upper, np.uint32(bit & 31), mask, base, out)
            words += 4 * LANES
            out += 8 * LANES
        return
    unpack_block(words, n, width, base, u64, 8, out, begin, end)
    mask = shr(_ONES, np.uint32(32 - above))
    bit = 0
    for first in range(0, n, lanes):
        shift = np.uint32(bit & 31)
        lower, row = u32(high + 4 * lanes * (bit >> 5)), u64(out + 8 * first)
        count = min(lanes, n - first)
        if (bit & 31) + above <= 32:
            for i in range(count):
                row[i] = add(row[i], shl(np.uint64(both(shr(lower[i], shift), mask)), np.uint64(32)))
        else:
            upper, up = u32(high + 4 * lanes * ((bit >> 5) + 1)), sub(np.uint32(32), shift)
            for i in range(count):
                value = both(either(shr(lower[i], shift), shl(upper[i], up)), mask)
                row[i] = add(row[i], shl(np.uint64(value), np.uint64(32)))
        bit += above


@helper
def _pack_part(values: Any, n: Any, width: Any, base: Any, down: Any, cast: Any, size: Any, words: Any) -> None:
    mask = shr(_ONES, np.uint32(32 - width))
    out = u32(words)
    for i in range(block_words(n, width)):
        out[i] = np.uint32(0)
    if n == BLOCK:
        for bit in range(0, LANES * width, width):
            low = words + 4 * LANES * (bit >> 5)
            pack_row(values, base, down, mask, np.uint32(bit & 31), low)
            if (bit & 31) + width > 32:
                pack_spilled_row(values, base, down, mask, np.uint32(bit & 31), low)
            values += size * LANES
        return
    lanes = (n + 31) >> 5
    bit = 0
    for first in range(0, n, lanes):
        shift = np.uint32(bit & 31)
        low, row = u32(words + 4 * lanes * (bit >> 5)), cast(values + first * size)
        count = min(lanes, n - first)
        for i in range(count):
            low[i] = either(low[i], shl(both(np.uint32(shr(sub(row[i], base), down)), mask), shift))
        if (bit & 31) + width > 32:
            high, up = u32(words + 4 * lanes * ((bit >> 5) + 1)), sub(np.uint32(32), shift)
            for i in range(count):
                high[i] = shr(both(np.uint32(shr(sub(row[i], base), down)), mask), up)
        bit += width


@helper
def pack_block(values: Any, n: Any, width: Any, base: Any, cast: Any, size: Any, words: Any) -> None:
    """Pack the `n` values at address `values`, less `base`, of `width` bits each, at address `words`."""
    if width == 0:
        return
    _pack_part(values, n, min(width, 32), base, sub(base, base), cast, size, words)
    if width > 32:
        lanes = (n + 31) >> 5
        rows = (n + lanes - 1) // lanes
        down = add(sub(base, base), 32)
        _pack_part(values, n, width - 32, base, down, cast, size, words + 4 * lanes * rows)
