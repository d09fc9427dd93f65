"""Packed chunks written, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from atlas.kernels.layout import BITS, INTEGERS, MASKED, PATCHED, WIDE, Packing
from atlas.kernels.twins.choosing import choose
from atlas.kernels.twins.numbers import (
    LIMIT32,
    LIMIT64,
    TYPES,
    bits_of,
    exact,
    floats,
    is_fill,
    is_special,
    power,
    same,
)
from atlas.kernels.twins.stream import block_sizes, differences, pack_block


def pack(cells: Any, shape: tuple[int, ...], element: int, fill: Any, packing: Packing, limit: int) -> bytes | None:
    """Twin of :func:`atlas.kernels.native.pack`."""
    shape = shape or (1,)
    values = cells.view(TYPES[element])
    kind, code, axes, _ = packing
    wide = values.itemsize == 8 and (kind == BITS or not _fits_narrow(values, fill, code))
    signed = np.dtype("<i8" if wide else "<i4")
    if kind == INTEGERS:
        numbers, good = _integers(values, fill, signed)
    elif kind == BITS:
        numbers = bits_of(values, code)
        good = ~is_special(values, fill) & (numbers != np.iinfo(signed).min)
    else:
        numbers, good = _decimals(values, fill, kind, code, wide)
    special, masked, patches = _settled(values, numbers, good, fill, packing, wide)
    if len(patches) > -(-len(values) // 16):
        return None
    stream = differences(numbers.reshape(shape), axes)
    bases, widths, words = [], [], []
    for block in np.split(stream, np.cumsum(block_sizes(shape, axes))[:-1]):
        low = block.min()
        left = block.view(f"<u{block.itemsize}") - np.array(low).view(f"<u{block.itemsize}")
        widths.append(int(left.max()).bit_length())
        bases.append(low)
        words.append(pack_block(left.astype(np.uint64), widths[-1]))
    flags = (MASKED if special is not None else 0) | (PATCHED if len(patches) else 0) | (WIDE if wide else 0)
    parts = [bytes((kind, code, axes, flags))]
    if len(patches):
        parts.append(len(patches).to_bytes(4, "little"))
    parts += [np.array(bases, signed).tobytes(), *words]
    if special is not None:
        parts.append(special.tobytes().ljust(4, b"\0"))
    parts += [patches.astype("<u4").tobytes(), values[patches].tobytes(), bytes(widths)]
    if special is not None:
        parts.append(np.packbits(masked, bitorder="little").tobytes())
    payload = b"".join(parts)
    return payload if len(payload) <= limit else None


def pack_rows(
    cells: Any, shape: tuple[int, ...], element: int, fill: Any, limit: int, packing: Packing | None = None
) -> tuple[Any, Any, Any]:
    """Twin of :func:`atlas.kernels.native.pack_rows`."""
    packings = [packing or choose(row, shape, element, fill) for row in cells]
    payloads = [
        (found and limit and pack(row, shape, element, fill, found, limit)) or b""
        for row, found in zip(cells, packings, strict=True)
    ]
    lengths = np.array([len(payload) for payload in payloads], np.int64)
    rows = [found or Packing(-1, 0, 0) for found in packings]
    return np.frombuffer(b"".join(payloads), np.uint8), lengths, np.array(rows, np.int64).reshape(-1, 4)


def _fits_narrow(values: Any, fill: Any, code: int) -> bool:
    if values.dtype.kind == "f":
        sample = slice(None, None, max(len(values) // 64, 1))
        with np.errstate(over="ignore", invalid="ignore"):
            size = np.abs(values[sample] * power(code))
        return not ((size >= LIMIT32) & (size < LIMIT64) & ~is_fill(values[sample], fill)).any()
    kept = values.view("<i8")[~is_fill(values, fill)]
    return not len(kept) or (int(kept.min()) > -(1 << 31) and int(kept.max()) < 1 << 31)


def _integers(values: Any, fill: Any, signed: Any) -> tuple[Any, Any]:
    numbers = values.astype(signed)
    good = ~is_fill(values, fill)
    if (numbers[good] == np.iinfo(signed).min).any():
        good[:] = True
    return numbers, good


def _decimals(values: Any, fill: Any, kind: int, code: int, wide: bool) -> tuple[Any, Any]:
    dtype = values.dtype
    limit = dtype.type(LIMIT64 if wide else LIMIT32)
    with np.errstate(over="ignore", invalid="ignore"):
        y = values * dtype.type(power(code))
        numbers = np.rint(np.where(np.abs(y) < limit, y, dtype.type(0))).astype("<i8" if wide else "<i4")
        back = floats(numbers, kind, code, dtype)
    return numbers, same(back, values) & ~is_fill(values, fill)


def _settled(values: Any, numbers: Any, good: Any, fill: Any, packing: Packing, wide: bool) -> tuple[Any, Any, Any]:
    """Give the cells that are no integers a number; return the special value, where it is, and the patches."""
    bad = np.flatnonzero(~good)
    if not len(bad):
        return None, None, bad
    special, masked = None, np.zeros(len(values), bool)
    if packing.kind == INTEGERS:
        special, masked[bad] = values[bad[0]], True
    else:
        candidates = bad[np.isnan(values[bad]) | is_fill(values[bad], fill)]
        if len(candidates):
            special = values[candidates[0]]
            unsigned = f"<u{values.itemsize}"
            masked[bad] = values[bad].view(unsigned) == np.array(special).view(unsigned)
    left = bad[~masked[bad]]
    numbers_left = exact(values[left], packing) if len(left) else np.zeros(0, np.int64)
    highest = int(LIMIT64 if wide else LIMIT32)
    if packing.kind == BITS:
        highest = (1 << 63) - 1 if wide else 1 << 31
    saved = (numbers_left > -highest) & (numbers_left < highest)
    numbers[left[saved]] = numbers_left[saved]
    known = good.copy()
    known[left[saved]] = True
    source = np.maximum.accumulate(np.where(known, np.arange(len(values)), -1))
    # Before the first number, the first that needed no second look; 0 where there is none.
    first = numbers[int(np.argmax(good))] if good.any() else 0
    filler = np.where(source >= 0, numbers[np.maximum(source, 0)], first)
    numbers[~known] = filler[~known]
    return special, masked, left[~saved]
