"""Arithmetic of chunk grids and boxes; no storage, no data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atlas.errors import CorruptIndex, InvalidArgument, SelectionError
from atlas.forks import cached_property

Shape = tuple[int, ...]
Integers = NDArray[np.int64]

# No array may hold more cells than a signed 64-bit byte offset can reach, 16 bytes to each.
MAX_CELLS = 1 << 58


def is_too_large(shape: Shape) -> bool:
    """Return whether there can be no array of a shape. Empty axes are left out: so does NumPy, which refuses it."""
    return math.prod(shape if 0 not in shape else filter(None, shape)) > MAX_CELLS


def as_extents(values: Any, what: str, minimum: int = 0) -> Shape:
    """Return a sequence of integers as a tuple, refusing anything else."""
    is_sequence = isinstance(values, Sequence) or (isinstance(values, np.ndarray) and values.ndim > 0)
    if isinstance(values, (str, bytes)) or not is_sequence:
        raise InvalidArgument(f"{what} must be a sequence of integers, not {values!r}")
    result = []
    for value in values:
        if type(value) is int and value >= minimum:
            result.append(value)
            continue
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
            raise InvalidArgument(f"{what} must hold integers, not {value!r}")
        if value < minimum:
            raise InvalidArgument(f"{what} must hold integers of at least {minimum}, not {value}")
        result.append(int(value))
    return tuple(result)


class Box(NamedTuple):
    """A box of an array: first cell and extent along every axis."""

    start: Shape
    shape: Shape

    @property
    def cells(self) -> int:
        """Number of cells in the box."""
        return math.prod(self.shape)

    @staticmethod
    @lru_cache(maxsize=4096)
    def whole(shape: Shape) -> Box:
        """Return the box of all cells of an array; remembered, as lists of unequal arrays ask for hundreds of them."""
        return Box((0,) * len(shape), shape)


def whole_chunk(shape: Shape) -> Shape:
    """Return the chunk shape with which an array is one chunk."""
    return tuple(max(size, 1) for size in shape)


def in_steps(count: int, size: int, most: int) -> Iterator[slice]:
    """Yield consecutive rows of `size` bytes each, as many at a time as are no more than `most`, or else one."""
    step = max(1, most // max(1, size))
    for first in range(0, count, step):
        yield slice(first, min(first + step, count))


def resolve_box(array_shape: Shape, start: Any, shape: Any, what: str) -> Box:
    """Return the box that `start` and `shape` ask for; a missing one means "from 0" or "to the end".

    Raises
    ------
    SelectionError
        If the number of axes is wrong or the box leaves the array.
    """
    if start is None and shape is None:
        return Box.whole(array_shape)
    try:
        first = (0,) * len(array_shape) if start is None else as_extents(start, "start")
        if shape is None:
            extent = tuple(max(n - s, 0) for n, s in zip(array_shape, first, strict=False))
        else:
            extent = as_extents(shape, "shape")
    except InvalidArgument as error:
        raise SelectionError(f"{what}: {error}") from None
    if len(first) != len(array_shape) or len(extent) != len(array_shape):
        raise SelectionError(
            f"{what} has {len(array_shape)} axes {list(array_shape)}, "
            f"but start={start!r} and shape={shape!r} were asked for"
        )
    if any(s + e > n for s, e, n in zip(first, extent, array_shape, strict=True)):
        raise SelectionError(
            f"{what} has shape {list(array_shape)}; the region start={list(first)}, shape={list(extent)} leaves it"
        )
    return Box(first, extent)


# Boxes of so few chunks are remembered: the same one is mostly read from many arrays, and again and again.
_REMEMBERED_CHUNKS = 512


@dataclass(frozen=True)
class ChunkGrid:
    """The regular grid of chunks that covers an array; trailing chunks are clipped.

    Attributes
    ----------
    shape : tuple of int
        The array's shape.
    chunk_shape : tuple of int
        Cells per chunk along each axis, at least 1.
    """

    shape: Shape
    chunk_shape: Shape

    @cached_property
    def counts(self) -> Shape:
        """Chunks along each axis; 0 where the axis is empty."""
        return tuple(-(-n // c) for n, c in zip(self.shape, self.chunk_shape, strict=True))

    @cached_property
    def chunk_cells(self) -> int:
        """Cells of a whole chunk."""
        return math.prod(self.chunk_shape)

    @property
    def count(self) -> int:
        """Chunks in all. Chunk numbers are C-order positions in the grid."""
        return math.prod(self.counts)

    def expect(self, number: int) -> None:
        """Raise :class:`CorruptIndex` unless there is a chunk of that number."""
        if number >= self.count:
            raise CorruptIndex(f"there is a chunk of a number that a grid of {self.count} chunks does not have")

    def extent(self, number: int) -> Box:
        """Return the box of the array that a chunk covers."""
        if number == 0 and self.chunk_shape == self.shape:
            return Box.whole(self.shape)
        self.expect(number)
        position = []
        for count in reversed(self.counts):
            number, last = divmod(number, count)
            position.append(last)
        start = tuple(p * c for p, c in zip(reversed(position), self.chunk_shape, strict=True))
        shape = tuple(min(c, n - s) for s, c, n in zip(start, self.chunk_shape, self.shape, strict=True))
        return Box(start, shape)

    def only_chunk(self, box: Box) -> int | None:
        """Return the number of the chunk that a box lies in, if it is one and not empty."""
        if self.chunk_shape == self.shape:
            return None if 0 in box.shape else 0
        number = 0
        for start, length, chunk, count in zip(*box, self.chunk_shape, self.counts, strict=True):
            position = start // chunk
            if length == 0 or (start + length - 1) // chunk != position:
                return None
            number = number * count + position
        return number

    def overlap(self, box: Box) -> Overlap:
        """Return the chunks that a box touches, and which part of each goes where; not to be changed."""
        touched = math.prod(n // c + 2 for n, c in zip(box.shape, self.chunk_shape, strict=True))
        return _known_overlap(self, box) if touched <= _REMEMBERED_CHUNKS else _overlap(self, box)


class Overlap(NamedTuple):
    """The chunks that a box touches, one row each.

    Attributes
    ----------
    numbers : (G,) chunk numbers
    chunk_extent : (G, ndim) shape of the stored chunk
    block_start : (G, ndim) first selected cell, within the chunk
    block_extent : (G, ndim) selected cells
    target_start : (G, ndim) where the block begins in the box
    """

    numbers: Integers
    chunk_extent: Integers
    block_start: Integers
    block_extent: Integers
    target_start: Integers


def find_overlaps(grids: Sequence[ChunkGrid], boxes: Sequence[Box]) -> tuple[Overlap, Integers]:
    """Return the chunks that boxes of several arrays touch, one after the other, and how many each box does.

    The arrays have the same rank. Every step is done for all chunks together, since a few steps for every array are
    what takes the time where many of them are small and unequal.
    """
    shape, chunk, start, extent = (
        np.array(rows, np.int64).reshape(len(grids), -1)
        for rows in (
            [grid.shape for grid in grids],
            [grid.chunk_shape for grid in grids],
            [box.start for box in boxes],
            [box.shape for box in boxes],
        )
    )
    first = start // chunk
    spans = np.where(extent > 0, (start + extent - 1) // chunk - first + 1, 0)
    counts = spans.prod(axis=1)
    owner = np.repeat(np.arange(len(grids)), counts)
    rest = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    position = np.empty((len(owner), shape.shape[1]), np.int64)
    for axis in reversed(range(shape.shape[1])):
        rest, position[:, axis] = np.divmod(rest, spans[owner, axis])
    position += first[owner]
    numbers = np.zeros(len(owner), np.int64)
    for axis, along in enumerate((-(-shape // chunk)).T):
        numbers = numbers * along[owner] + position[:, axis]
    begin = position * chunk[owner]
    size = np.minimum(begin + chunk[owner], shape[owner]) - begin
    low = np.maximum(start[owner] - begin, 0)
    high = np.minimum((start + extent)[owner] - begin, size)
    return Overlap(numbers, size, low, high - low, begin + low - start[owner]), counts


def _overlap(grid: ChunkGrid, box: Box) -> Overlap:
    return find_overlaps([grid], [box])[0]


@lru_cache(maxsize=64)
def _known_overlap(grid: ChunkGrid, box: Box) -> Overlap:
    found = _overlap(grid, box)
    for table in found:
        table.flags.writeable = False
    return found
