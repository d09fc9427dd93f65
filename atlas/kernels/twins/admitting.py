"""Which tasks may touch memory, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from atlas.kernels.bounds import check_rows
from atlas.kernels.layout import (
    NEGATIVE,
    NO_GEOMETRY,
    NO_ROW,
    OUTSIDE_BUFFER,
    OUTSIDE_CHUNK,
    OUTSIDE_OUTPUT,
    REFUSALS,
    SLAB,
)


def admit(src: Any, rows: Any, length: Any, tables: Any, boxes: Any, out: Any, item: int) -> tuple[int, ...]:
    """Twin of the kernel that looks at tasks before others do them: the same refusals, as ValueError."""
    if len(rows) and not 0 <= rows.min() <= rows.max() < len(tables["geometry"]):
        raise ValueError(REFUSALS[NO_ROW])
    geometry, destination = tables["geometry"][rows], tables["destination"][rows]
    extent, start, block, strides = boxes
    if not len(rows):
        return 0, 0, 0
    if geometry.min() < 0 or geometry.max() >= len(extent):
        raise ValueError(REFUSALS[NO_GEOMETRY])
    extent, start, block, strides = (table[geometry] for table in boxes)
    if min(table.min(initial=0) for table in (extent, start, block, strides)) < 0:
        raise ValueError(REFUSALS[NEGATIVE])
    if (block > extent - start).any():
        raise ValueError(REFUSALS[OUTSIDE_CHUNK])
    steps = np.multiply(np.maximum(block, 1) - 1, strides, dtype=np.float64)
    # An empty box writes nothing, wherever it is said to begin.
    reach = np.where((block > 0).all(axis=1), steps.sum(axis=1) + item, 0)
    if destination.min() < 0 or (destination + reach).max() > len(out):
        raise ValueError(REFUSALS[OUTSIDE_OUTPUT])
    # In float64, forged extents cannot wrap around; whatever fits into memory is exact.
    cells = np.prod(extent, axis=1, dtype=np.float64)
    taken = length if src is None else length[rows]
    if src is not None:
        check_rows(len(rows), tables["offset"][rows], taken, len(src))
    elif (cells * item > taken).any():
        raise ValueError(REFUSALS[OUTSIDE_BUFFER])
    # Axes of one cell in front do not count.
    padded = np.column_stack([extent, np.ones(len(extent), np.int64)])
    first = padded[np.arange(len(extent)), np.argmax(padded > 1, axis=1)]
    row = cells / np.maximum(first, 1)
    at_once = np.minimum(cells, np.maximum(SLAB, 8 * row)) + row
    return int(cells.max()), int(taken.max()), int(at_once.max())
