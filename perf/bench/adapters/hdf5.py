"""h5py: one file, one array a variable with the datasets along the first axis."""

from __future__ import annotations

from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
from adapters.box import box

CODECS = {
    "zstd": hdf5plugin.Zstd(clevel=3),
    "lz4": hdf5plugin.Blosc(cname="lz4", clevel=5, shuffle=hdf5plugin.Blosc.SHUFFLE),
    "none": {},
}
# The default of 1 MiB holds fewer chunks than one row of them.
CHUNK_CACHE = 64 << 20


def write(place, arrays, layout, codec):
    Path(place).mkdir(parents=True)
    with h5py.File(f"{place}/fleet.h5", "w", libver="latest") as file:
        for name, data in arrays.items():
            file.create_dataset(name, data=data, chunks=tuple(layout["stacked"][name]), **CODECS[codec])


def open_store(place, workers):
    return h5py.File(f"{place}/fleet.h5", "r", rdcc_nbytes=CHUNK_CACHE)


def read(handle, array, shape):
    source = handle[array]
    out = np.empty((source.shape[0], *(source.shape[1:] if shape is None else shape)), source.dtype)
    source.read_direct(out, box(shape, source.ndim))
    return out


def read_into(handle, array, out):
    handle[array].read_direct(out)
