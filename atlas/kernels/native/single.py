"""One chunk, sooner than a table of tasks is made."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from atlas.errors import CorruptChunk
from atlas.kernels.layout import (
    ITEM_SIZES,
    LZ4,
    OUTSIDE_BUFFER,
    OUTSIDE_CHUNK,
    OUTSIDE_OUTPUT,
    PROBLEMS,
    REFUSALS,
    Stored,
)
from atlas.kernels.native.buffers import address
from atlas.kernels.native.calls import scatter_rows, unpack_rows
from atlas.kernels.slabs import cells_at_once

# A chunk's shape, the first cell of a box of it, and the box's shape.
Box = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


class _Single:
    """The table of a single task, in one piece of memory.

    Attributes
    ----------
    ndim : int
    zero : int
        Address of a 0, which row, geometry and destination are.
    columns : tuple of int
        Addresses of the four numbers of the payload.
    failed : int
        Address of a number that a kernel may change.
    places : tuple of int
        The arguments of kernels from the geometry to the strides.
    """

    def __init__(self, payload: tuple[int, ...], box: Box, out: Any, item: int) -> None:
        shape, start, block = box if box[0] else ((1,), (0,), (1,))
        for extent, first, size in zip(shape, start, block, strict=True):
            if first < 0 or size < 0 or size > extent - first:
                raise ValueError(REFUSALS[OUTSIDE_CHUNK])
        strides = [item]
        for size in block[:0:-1]:
            strides.append(strides[-1] * size)
        if strides[-1] * block[0] > out.nbytes:
            raise ValueError(REFUSALS[OUTSIDE_OUTPUT])
        self._table = np.array([0, *payload, 0, *shape, *start, *block, *strides[::-1]], np.int64)
        self.ndim = ndim = len(shape)
        self.zero = zero = address(self._table)
        self.columns = (zero + 8, zero + 16, zero + 24, zero + 32)
        self.failed = zero + 40
        extents, starts, blocks, pitches = range(zero + 48, zero + 48 + 32 * ndim, 8 * ndim)
        self.places = (zero, ndim, extents, starts, blocks, address(out), zero, pitches)


def unpack_one(src: Any, stored: Stored, box: Box, out: Any, element: int) -> None:
    """Unpack a box of one chunk: what :func:`unpack` does, sooner than a table of tasks is made.

    Parameters
    ----------
    src : (n,) uint8
        The file.
    stored : Stored
    box : (shape, start, extent)
    out : ndarray
        Takes the cells in C order.
    element : int

    Raises
    ------
    CorruptChunk
        If the payload is not what it should be.
    ValueError
        If it leaves `src`, or the box its chunk or `out`.
    """
    _unpack_single(src, _within(src, stored), box, out, element, is_checked=True)


def unpack_whole(payload: Any, shape: tuple[int, ...], element: int) -> Any:
    """Return the cells of one packed chunk.

    Parameters
    ----------
    payload : (n,) uint8
        Checked before, and without hashes.
    shape : tuple of int
        The chunk's shape, with at least one cell.
    element : int

    Returns
    -------
    (m,) uint8

    Raises
    ------
    CorruptChunk
        If the payload is not a chunk of that type and shape.
    """
    out = np.empty(math.prod(shape) * ITEM_SIZES[element], np.uint8)
    box = shape, (0,) * len(shape), shape
    _unpack_single(payload, (0, len(payload), 0, 0), box, out, element, is_checked=False)
    return out


def _unpack_single(src: Any, stored: Any, box: Box, out: Any, element: int, is_checked: bool) -> None:
    item, cells = ITEM_SIZES[element], math.prod(box[0])
    task = _Single(stored, box, out, item)
    row = cells // next((n for n in box[0] if n > 1), 1)
    stored_at = task.columns if is_checked else (*task.columns[:2], 0, 0)
    largest = cells, stored[1], int(cells_at_once(cells, row))
    problem = unpack_rows(address(src), task.zero, 1, stored_at, task.places, largest, element, False, task.failed)
    if problem:
        raise CorruptChunk(PROBLEMS[problem])


def scatter_one(src: Any, stored: Stored, box: Box, out: Any, itemsize: int) -> None:
    """Copy a box of one chunk that is stored as it is, or as an lz4 block: what :func:`scatter` does for many.

    Parameters
    ----------
    src, stored, box, out
        As for :func:`unpack_one`.
    itemsize : int

    Raises
    ------
    CorruptChunk, ValueError
        As for :func:`unpack_one`.
    """
    task = _Single(_within(src, stored), box, out, itemsize)
    largest = math.prod(box[0]) * itemsize if stored.pipeline & LZ4 else 0
    _scatter_single(address(src), (*task.columns, 0), task, itemsize, largest)


def place_one(chunk: Any, is_shuffled: bool, box: Box, out: Any, itemsize: int) -> None:
    """Copy a box of one decoded chunk: what :func:`scatter_decoded` does for many.

    Parameters
    ----------
    chunk : bytes-like
    is_shuffled : bool
    box, out, itemsize
        As for :func:`scatter_one`.

    Raises
    ------
    ValueError
        If the box leaves the chunk, or that its buffer.
    """
    if len(chunk) < math.prod(box[0]) * itemsize:
        raise ValueError(REFUSALS[OUTSIDE_BUFFER])
    task = _Single((address(np.frombuffer(chunk, np.uint8)), is_shuffled, 0, 0), box, out, itemsize)
    place, shuffled, _, _ = task.columns
    _scatter_single(0, (place, 0, 0, 0, shuffled), task, itemsize, 0)


def _scatter_single(src: int, columns: tuple[int, ...], task: _Single, itemsize: int, largest: int) -> None:
    problem = scatter_rows(src, task.zero, 1, columns, task.places, itemsize, largest, False, task.failed)
    if problem:
        raise CorruptChunk(PROBLEMS[problem])


def _within(src: Any, stored: Stored) -> tuple[int, ...]:
    """Return the numbers of a payload that is within its file, as signed ones."""
    offset, length, pipeline, checksum = stored
    if min(offset, length) < 0 or offset + length > len(src):
        raise ValueError(REFUSALS[OUTSIDE_BUFFER])
    return offset, length, pipeline, checksum - (1 << 64) if checksum >> 63 else checksum
