"""Bytes put in their places, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np


def scatter(
    src: Any,
    src_offset: Any,
    geometry: Any,
    chunk_extent: Any,
    block_start: Any,
    block_extent: Any,
    out: Any,
    dst_offset: Any,
    dst_strides: Any,
    itemsize: int,
    shuffled: Any,
) -> None:
    """Twin of :func:`atlas.kernels.native.scatter`, without its bounds check."""
    for task in range(len(src_offset)):
        g = int(geometry[task])
        shape = tuple(chunk_extent[g].tolist())
        cells = int(np.prod(shape, dtype=np.int64))
        begin = int(src_offset[task])
        data = src[begin : begin + cells * itemsize]
        if shuffled[task]:
            data = np.ascontiguousarray(data.reshape(itemsize, cells).T).reshape(-1)
        place(
            data.view(f"V{itemsize}").reshape(shape),
            block_start[g],
            block_extent[g],
            out,
            int(dst_offset[task]),
            dst_strides[g],
        )


def place(chunk: Any, start: Any, extent: Any, out: Any, offset: int, strides: Any) -> None:
    """Write a box of a chunk to a strided output."""
    if extent.all():
        box = tuple(map(slice, start, start + extent))
        target: Any = np.ndarray(tuple(extent.tolist()), chunk.dtype, out, offset, tuple(strides.tolist()))
        target[...] = chunk[box]


def shuffle(src: Any, out: Any, itemsize: int) -> None:
    """Twin of :func:`atlas.kernels.native.shuffle`."""
    cells = len(src) // itemsize
    out.reshape(itemsize, cells)[...] = src.reshape(cells, itemsize).T
