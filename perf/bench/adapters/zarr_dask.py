"""Zarr 3 read and written through dask arrays, with threads."""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np
from adapters import zarr_alone
from adapters.box import box

# A task costs dask some hundred microseconds whatever it does, so one task covers many chunks.
BLOCK_BYTES = 32 << 20


def blocks(shape, chunks, itemsize):
    """Whole datasets, as many as a block may hold, in multiples of the stored chunk."""
    row = itemsize
    for n in shape[1:]:
        row *= n
    rows = max(1, BLOCK_BYTES // row // chunks[0]) * chunks[0]
    return (min(rows, shape[0]), *shape[1:])


def write(place, arrays, layout, codec):
    targets = zarr_alone.create(place, arrays, layout, codec)
    sources = [
        da.from_array(data, chunks=blocks(data.shape, layout["stacked"][name], data.dtype.itemsize))
        for name, data in arrays.items()
    ]
    da.store(sources, list(targets.values()), lock=False, scheduler="threads")


def open_store(place, workers):
    if workers is not None:
        dask.config.set(num_workers=workers)
    return zarr_alone.open_store(place, workers)


def lazy(source):
    return da.from_array(source, chunks=blocks(source.shape, source.chunks, source.dtype.itemsize))


def read(handle, array, shape):
    part = lazy(handle[array])[box(shape, handle[array].ndim)]
    # `compute` would copy all blocks together in one thread at the end.
    out = np.empty(part.shape, part.dtype)
    da.store(part, out, lock=False, scheduler="threads")
    return out


def read_into(handle, array, out):
    da.store(lazy(handle[array]), out, lock=False, scheduler="threads")
