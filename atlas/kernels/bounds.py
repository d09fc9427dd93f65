"""Checks of task tables. Kernels index raw memory, so nothing reaches one before these have passed."""

from __future__ import annotations

from typing import Any

import numpy as np


def with_axes(chunk_extent: Any, block_start: Any, block_extent: Any, strides: Any, itemsize: int) -> Any:
    """Return the geometry tables, those of arrays without axes with one axis of one cell."""
    if chunk_extent.shape[1]:
        return chunk_extent, block_start, block_extent, strides
    one = np.ones((len(chunk_extent), 1), np.int64)
    return one, np.zeros_like(one), one, one * itemsize


def check_boxes(
    geometry: Any,
    chunk_extent: Any,
    block_start: Any,
    block_extent: Any,
    out_size: int,
    dst_offset: Any,
    dst_strides: Any,
    itemsize: int,
) -> Any:
    """Raise ValueError unless every task's box lies in its chunk and goes into the output.

    Returns
    -------
    (T,) float64
        The cells of every task's chunk. In float64, forged extents cannot wrap around; whatever fits into
        memory is exact.
    """
    tasks = len(geometry)
    if len(dst_offset) != tasks or itemsize < 1:
        raise ValueError("the columns of the tasks differ in length")
    if not tasks:
        return np.zeros(0)
    if geometry.min() < 0 or geometry.max() >= len(chunk_extent):
        raise ValueError("a task has no geometry")
    rows: Any = geometry
    if tasks < len(chunk_extent):
        # A batch of a read of many shapes: looking at all of them in every batch would be quadratic.
        tables = (chunk_extent, block_start, block_extent, dst_strides)
        chunk_extent, block_start, block_extent, dst_strides = (table[geometry] for table in tables)
        rows = slice(None)
    if min(table.min(initial=0) for table in (chunk_extent, block_start, block_extent, dst_strides)) < 0:
        raise ValueError("a box has a negative extent")
    if (block_extent > chunk_extent - block_start).any():
        raise ValueError("a box leaves its chunk")
    steps = np.multiply(np.maximum(block_extent, 1) - 1, dst_strides, dtype=np.float64)
    # An empty box writes nothing, wherever it is said to begin.
    reach = np.where((block_extent > 0).all(axis=1), steps.sum(axis=1) + itemsize, 0)[rows]
    if dst_offset.min() < 0 or (dst_offset + reach).max() > out_size:
        raise ValueError("a box leaves the output")
    return np.prod(chunk_extent, axis=1, dtype=np.float64)[rows]


def check_rows(tasks: int, offset: Any, length: Any, size: int) -> None:
    """Raise ValueError unless every task's bytes lie within a buffer of `size` bytes."""
    if len(offset) != tasks:
        raise ValueError("the columns of the tasks differ in length")
    if tasks and (
        offset.min() < 0 or length.min() < 0 or max(offset.max(), length.max()) > size or (offset + length).max() > size
    ):
        raise ValueError("a chunk leaves its buffer")
