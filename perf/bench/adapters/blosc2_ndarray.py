"""Blosc2 arrays, one file a variable with the datasets along the first axis.

Blosc2 has two levels: the workload's chunk is the block, the unit that is decoded, and whole datasets are the chunks.
"""

from __future__ import annotations

from pathlib import Path

import blosc2
from adapters.box import box

# Blocks of small datasets are joined up to this size, which still fits a core's own cache.
BLOCK_BYTES = 64 << 10

CODECS = {
    "zstd": {"codec": blosc2.Codec.ZSTD, "clevel": 3, "filters": [blosc2.Filter.NOFILTER]},
    "shuffle-zstd": {"codec": blosc2.Codec.ZSTD, "clevel": 5, "filters": [blosc2.Filter.BITSHUFFLE]},
    "lz4": {"codec": blosc2.Codec.LZ4, "clevel": 5, "filters": [blosc2.Filter.SHUFFLE]},
    "none": {"codec": blosc2.Codec.LZ4, "clevel": 0, "filters": [blosc2.Filter.NOFILTER]},
}


def write(place, arrays, layout, codec):
    Path(place).mkdir(parents=True)
    for name, data in arrays.items():
        rows = layout["stacked"][name][0]
        bytes_each = data.dtype.itemsize
        for n in layout["chunks"]:
            bytes_each *= n
        together = max(1, min(rows, BLOCK_BYTES // bytes_each))
        blosc2.asarray(
            data,
            urlpath=f"{place}/{name}.b2nd",
            mode="w",
            chunks=(rows, *data.shape[1:]),
            blocks=(together, *layout["chunks"]),
            cparams=CODECS[codec],
        )


def open_store(place, workers):
    if workers is not None:
        blosc2.set_nthreads(workers)
    return {path.stem: blosc2.open(str(path), mmap_mode="r") for path in Path(place).glob("*.b2nd")}


def read(handle, array, shape):
    return handle[array][box(shape, handle[array].ndim)]
