"""Which tasks may touch memory: kernels index it raw, so nothing reaches one before its whole table has passed here."""

from __future__ import annotations

from typing import Any

import numpy as np

from atlas.kernels.compile import helper
from atlas.kernels.layout import NEGATIVE, NO_GEOMETRY, NO_ROW, OUTSIDE_BUFFER, OUTSIDE_CHUNK, OUTSIDE_OUTPUT
from atlas.kernels.memory import f64, i32, i64
from atlas.kernels.slabs import cells_at_once

_cells_at_once = helper(cells_at_once)


def admit(
    rows: Any,
    tasks: Any,
    count: Any,
    offset: Any,
    length: Any,
    size: Any,
    geometry: Any,
    kinds: Any,
    ndim: Any,
    chunk_extent: Any,
    block_start: Any,
    block_extent: Any,
    out_size: Any,
    destination: Any,
    strides: Any,
    item: Any,
    report: Any,
) -> Any:
    """Return 0, or why some task is refused; all arguments are addresses or integers.

    `rows` are those of columns of `count` values that `tasks` are about.
    Without `offset` (0), every task has a buffer of its own, and `length` has one value per task instead of per row.
    `report` gets three float64: the most cells that a chunk has, the length of the longest payload, and the most
    cells that are restored at once. Products are taken in float64, where forged extents cannot wrap around; whatever
    fits into memory is exact.
    """
    most, longest = np.float64(0), np.float64(0)
    at_once: Any = np.float64(0)
    for task in range(tasks):
        row = i64(rows)[task]
        if row < 0 or row >= count:
            return NO_ROW
        kind = np.int64(i32(geometry)[row])
        if kind < 0 or kind >= kinds:
            return NO_GEOMETRY
        at = kind * ndim * 8
        cells, reach, first = np.float64(1), np.float64(item), np.float64(1)
        for axis in range(ndim):
            extent, start = i64(chunk_extent + at)[axis], i64(block_start + at)[axis]
            block, step = i64(block_extent + at)[axis], i64(strides + at)[axis]
            if min(extent, start, block, step) < 0:
                return NEGATIVE
            if block > extent - start:
                return OUTSIDE_CHUNK
            cells *= np.float64(extent)
            # Axes of one cell in front do not count.
            first = np.float64(extent) if cells == np.float64(extent) else first
            reach += np.float64(block - 1) * np.float64(step)
        for axis in range(ndim):
            # An empty box writes nothing, wherever it is said to begin.
            if i64(block_extent + at)[axis] == 0:
                reach = np.float64(0)
        target = i64(destination)[row]
        if target < 0 or np.float64(target) + reach > np.float64(out_size):
            return OUTSIDE_OUTPUT
        taken = i64(length)[row if offset else task]
        begin = i64(offset)[row] if offset else np.int64(0)
        if begin < 0 or taken < 0 or (offset and np.float64(begin) + np.float64(taken) > np.float64(size)):
            return OUTSIDE_BUFFER
        if not offset and cells * np.float64(item) > np.float64(taken):
            return OUTSIDE_BUFFER
        most, longest = max(most, cells), max(longest, np.float64(taken))
        at_once = max(at_once, _cells_at_once(cells, cells / max(first, np.float64(1))))
    f64(report)[0], f64(report)[1], f64(report)[2] = most, longest, at_once
    return 0
