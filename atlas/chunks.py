"""Chunk-grid and selection arithmetic; no storage, no data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atlas.errors import CorruptIndex, InvalidArgument, SelectionError
from atlas.forks import cached_property

Shape = tuple[int, ...]
Integers = NDArray[np.int64]

# No array may hold more cells than a signed 64-bit byte offset can reach.
MAX_CELLS = 1 << 60


def as_extents(values: Any, what: str, minimum: int = 0) -> Shape:
    """Return a sequence of integers as a tuple, refusing anything else."""
    if isinstance(values, (str, bytes)) or not isinstance(values, (Sequence, np.ndarray)):
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


class Selection(NamedTuple):
    """A box of an array: first cell and extent along every axis."""

    start: Shape
    shape: Shape

    @property
    def cells(self) -> int:
        """Number of cells in the box."""
        return math.prod(self.shape)


def resolve_selection(array_shape: Shape, start: Any, shape: Any, what: str) -> Selection:
    """Return the box that `start` and `shape` ask for; a missing one means "from 0" or "to the end".

    Raises
    ------
    SelectionError
        If the number of axes is wrong or the box leaves the array.
    """
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
    return Selection(first, extent)


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

    def extent(self, number: int) -> Selection:
        """Return the box of the array that a chunk covers."""
        if number == 0 and self.chunk_shape == self.shape:
            return Selection((0,) * len(self.shape), self.shape)
        position = []
        for count in reversed(self.counts):
            number, last = divmod(number, count)
            position.append(last)
        if number:
            raise CorruptIndex(f"there is a chunk of a number that a grid of {self.count} chunks does not have")
        start = tuple(p * c for p, c in zip(reversed(position), self.chunk_shape, strict=True))
        shape = tuple(min(c, n - s) for s, c, n in zip(start, self.chunk_shape, self.shape, strict=True))
        return Selection(start, shape)

    def only_chunk(self, selection: Selection) -> int | None:
        """Return the number of the chunk that a box lies in, if it is one and not empty."""
        number = 0
        for start, length, chunk, count in zip(*selection, self.chunk_shape, self.counts, strict=True):
            position = start // chunk
            if length == 0 or (start + length - 1) // chunk != position:
                return None
            number = number * count + position
        return number

    def overlap(self, selection: Selection) -> Overlap:
        """Return the chunks that a box touches, and which part of each goes where; not to be changed."""
        touched = math.prod(n // c + 2 for n, c in zip(selection.shape, self.chunk_shape, strict=True))
        return (_known_overlap if touched <= _REMEMBERED_CHUNKS else ChunkGrid.find_overlap)(self, selection)

    def find_overlap(self, selection: Selection) -> Overlap:
        """Work out :meth:`overlap`, which remembers those of few chunks."""
        ndim = len(self.shape)
        if selection.cells == 0:
            empty = np.zeros((0, ndim), np.int64)
            return Overlap(np.zeros(0, np.int64), empty, empty, empty, empty)
        axes = [self._axis_overlap(axis, selection) for axis in range(ndim)]
        if not axes:
            nothing = np.zeros((1, 0), np.int64)
            return Overlap(np.zeros(1, np.int64), nothing, nothing, nothing, nothing)
        mesh = np.meshgrid(*[np.arange(len(axis[0])) for axis in axes], indexing="ij")
        picks = [m.reshape(-1) for m in mesh]
        columns = [
            np.stack([axis[part][pick] for axis, pick in zip(axes, picks, strict=True)], axis=1) for part in range(5)
        ]
        numbers = np.ravel_multi_index(tuple(columns[0].T), self.counts).astype(np.int64)
        return Overlap(numbers, *columns[1:])

    def _axis_overlap(self, axis: int, selection: Selection) -> tuple[Integers, Integers, Integers, Integers, Integers]:
        size, chunk = self.shape[axis], self.chunk_shape[axis]
        begin = selection.start[axis]
        end = begin + selection.shape[axis]
        positions = np.arange(begin // chunk, (end - 1) // chunk + 1, dtype=np.int64)
        first = positions * chunk
        extent = np.minimum(first + chunk, size) - first
        low = np.maximum(begin - first, 0)
        high = np.minimum(end - first, extent)
        return positions, extent, low, high - low, first + low - begin


class Overlap(NamedTuple):
    """The chunks that a selection touches, one row each.

    Attributes
    ----------
    numbers : (G,) chunk numbers
    chunk_extent : (G, ndim) shape of the stored chunk
    block_start : (G, ndim) first selected cell, within the chunk
    block_extent : (G, ndim) selected cells
    target_start : (G, ndim) where the block begins in the selection
    """

    numbers: Integers
    chunk_extent: Integers
    block_start: Integers
    block_extent: Integers
    target_start: Integers


@lru_cache(maxsize=64)
def _known_overlap(grid: ChunkGrid, selection: Selection) -> Overlap:
    found = grid.find_overlap(selection)
    for table in found:
        table.flags.writeable = False
    return found
