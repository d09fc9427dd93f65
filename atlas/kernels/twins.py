"""Plain NumPy twins of the kernels: the reference in tests, and the path of small reads."""

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
    """Twin of :func:`atlas.kernels.scatter.scatter`, without its bounds check."""
    item = np.dtype(f"V{itemsize}")
    for task in range(len(src_offset)):
        g = int(geometry[task])
        extent = tuple(block_extent[g].tolist())
        if 0 in extent:
            continue
        shape = tuple(chunk_extent[g].tolist())
        cells = int(np.prod(shape, dtype=np.int64))
        begin = int(src_offset[task])
        data = src[begin : begin + cells * itemsize]
        if shuffled[task]:
            data = np.ascontiguousarray(data.reshape(itemsize, cells).T).reshape(-1)
        chunk = data.view(item).reshape(shape)
        box = tuple(slice(s, s + e) for s, e in zip(block_start[g].tolist(), extent, strict=True))
        target = np.ndarray(extent, item, out, int(dst_offset[task]), tuple(dst_strides[g].tolist()))
        target[...] = chunk[box]


def shuffle(src: Any, out: Any, itemsize: int) -> None:
    """Twin of :func:`atlas.kernels.shuffle.shuffle`."""
    cells = len(src) // itemsize
    out.reshape(itemsize, cells)[...] = src.reshape(cells, itemsize).T
