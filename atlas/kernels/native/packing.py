"""Chunks that are written."""

from __future__ import annotations

from typing import Any

import numpy as np

from atlas.kernels.compile import library
from atlas.kernels.layout import ITEM_SIZES, Packing
from atlas.kernels.native.buffers import MOST_BOXES, address, scratch


def pack_rows(
    cells: Any, shape: tuple[int, ...], element: int, fill: Any, limit: int, packing: Packing | None = None
) -> tuple[Any, Any, Any]:
    """Return the packed payloads of chunks of one shape.

    Parameters
    ----------
    cells : (n, m) uint8
        A chunk's bytes in each row.
    shape : tuple of int
    element : int
    fill : (itemsize,) uint8 or None
        The bytes of a value that many cells may hold.
    limit : int
        Bytes that a payload may take.
    packing : Packing, optional
        How to pack all of them; chosen for each when not given.

    Returns
    -------
    payloads : (bytes,) uint8
        Back to back, in memory that the next call in this thread uses again.
    lengths : (n,) int64
        0 for those that packing does not make small enough, or where too many cells would be left over.
    packings : (n, 4) int64
        The :class:`~atlas.kernels.layout.Packing` of each; its kind is -1 where cells are no decimals.
    """
    extent = np.array(shape or (1,), np.int64)
    item, rows = ITEM_SIZES[element], len(cells)
    count = cells.shape[1] // item
    out = scratch("out", rows * limit)
    lengths = np.empty(rows, np.int64)
    room = scratch("work", 4096 + 1024 + 16 * len(extent) + 26 * count + 8 * (MOST_BOXES + 2))
    packings = np.tile(np.array(packing or (0, 0, 0, 0), np.int64), (rows, 1))
    length = library["pack_rows"](
        address(cells),
        rows,
        count,
        len(extent),
        address(extent),
        element,
        item,
        0 if fill is None else address(fill),
        limit,
        *map(address, (out, lengths, packings)),
        packing is not None,
        address(room),
    )
    return out[:length], lengths, packings
