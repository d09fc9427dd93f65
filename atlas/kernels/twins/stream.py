"""A chunk's numbers as a stream of bit-packed blocks, in NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from atlas.kernels.layout import BLOCK, MAX_AXES


def _boxes(shape: tuple[int, ...], axes: int) -> Iterator[tuple[slice, ...]]:
    """Yield the boxes of a chunk in the order of the stream."""
    box = 0
    while True:
        yield tuple(
            slice(None) if not axes >> i & 1 else slice(1, None) if box >> i & 1 else slice(0, 1)
            for i in range(len(shape))
        )
        box = (box - axes) & axes
        if not box:
            return


def block_sizes(shape: tuple[int, ...], axes: int) -> list[int]:
    """Return the cells of every block; none reaches from one box into the next."""
    counts = [np.empty(shape, "V0")[box].size for box in _boxes(shape, axes)]
    return [min(BLOCK, count - at) for count in counts for at in range(0, count, BLOCK)]


def _lanes_and_rows(n: int) -> tuple[int, int]:
    lanes = -(-n // 32)
    return lanes, -(-n // lanes)


def block_words(n: int, width: int) -> int:
    """Return the 32-bit words of a block of `n` numbers."""
    lanes, rows = _lanes_and_rows(n)
    if width > 32:
        return lanes * (rows + -(-rows * (width - 32) // 32))
    return lanes * -(-rows * width // 32)


def unpack_block(words: Any, n: int, width: int) -> Any:
    """Return the numbers of a block."""
    if width == 0:
        return np.zeros(n, np.uint64)
    lanes, rows = _lanes_and_rows(n)
    low = _unpack_part(words, lanes, rows, n, min(width, 32))
    if width > 32:
        low |= _unpack_part(words[lanes * rows :], lanes, rows, n, width - 32) << np.uint64(32)
    return low


def _unpack_part(words: Any, lanes: int, rows: int, n: int, width: int) -> Any:
    bits = np.arange(rows) * width
    table = np.concatenate([words, np.zeros(lanes, "<u4")]).astype(np.uint64).reshape(-1, lanes)
    pairs = table[bits >> 5] | table[np.minimum((bits >> 5) + 1, len(table) - 1)] << np.uint64(32)
    values = pairs >> (bits & 31).astype(np.uint64)[:, None] & np.uint64((1 << width) - 1)
    return values.reshape(-1)[:n]


def pack_block(values: Any, width: int) -> bytes:
    """Return the words of a block."""
    if width == 0:
        return b""
    lanes, rows = _lanes_and_rows(len(values))
    table: Any = np.zeros(lanes * rows, np.uint64)
    table[: len(values)] = values
    table = table.reshape(rows, lanes)
    low = _pack_part(table & np.uint64(0xFFFFFFFF), min(width, 32))
    return low + (_pack_part(table >> np.uint64(32), width - 32) if width > 32 else b"")


def _pack_part(table: Any, width: int) -> bytes:
    rows, lanes = table.shape
    words = np.zeros((-(-rows * width // 32) + 1, lanes), np.uint64)
    for row in range(rows):
        at, shift = row * width >> 5, np.uint64(row * width & 31)
        shifted = table[row] << shift
        words[at] |= shifted & np.uint64(0xFFFFFFFF)
        words[at + 1] |= shifted >> np.uint64(32)
    return bytes(words[:-1].astype("<u4").tobytes())


def accumulated(stream: Any, shape: tuple[int, ...], axes: int) -> Any:
    """Put the numbers of a stream in their places, and add them up along the axes."""
    numbers = np.empty(shape, stream.dtype)
    at = 0
    for box in _boxes(shape, axes):
        part = numbers[box]
        part[...] = stream[at : at + part.size].reshape(part.shape)
        at += part.size
    for axis in range(len(shape)):
        if axes >> axis & 1:
            np.cumsum(numbers, axis, numbers.dtype, numbers)
    return numbers


def differences(numbers: Any, axes: int) -> Any:
    """Undo :func:`accumulated`."""
    left = numbers
    for axis in range(min(numbers.ndim, MAX_AXES)):
        if axes >> axis & 1:
            first = [slice(None)] * numbers.ndim
            first[axis] = slice(0, 1)
            left = np.concatenate([left[tuple(first)], np.diff(left, axis=axis)], axis)
    return np.concatenate([left[box].reshape(-1) for box in _boxes(numbers.shape, axes)])
