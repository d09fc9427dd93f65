"""Blosc2 arrays, one file a variable with the datasets along the first axis.

Blosc2 has two levels: whole datasets are its chunks, and parts of the workload's chunks its blocks, the unit that is
decoded. Blocks as large as the workload's chunks make slices take about four times as long, full reads as long.
"""

from __future__ import annotations

from math import prod
from pathlib import Path

import blosc2
from adapters.box import box

# Blocks are halved along every axis down to this size, which fits a core's own cache; those of small datasets are
# joined up to it.
BLOCK_BYTES = 64 << 10

# Level 2 is zstd's 3.
CODECS = {
    "zstd": {"codec": blosc2.Codec.ZSTD, "clevel": 2, "filters": [blosc2.Filter.NOFILTER]},
    "shuffle-zstd": {"codec": blosc2.Codec.ZSTD, "clevel": 2, "filters": [blosc2.Filter.BITSHUFFLE]},
    "lz4": {"codec": blosc2.Codec.LZ4, "clevel": 5, "filters": [blosc2.Filter.SHUFFLE]},
    "none": {"codec": blosc2.Codec.LZ4, "clevel": 0, "filters": [blosc2.Filter.NOFILTER]},
}


def fitting(shape, itemsize):
    """Return the shape of blocks."""
    while prod(shape) * itemsize > BLOCK_BYTES:
        shape = [-(-n // 2) for n in shape]
    return shape


def write(place, arrays, layout, codec):
    Path(place).mkdir(parents=True)
    for name, data in arrays.items():
        rows = layout["stacked"][name][0]
        block = fitting(layout["chunks"], data.dtype.itemsize)
        together = max(1, min(rows, BLOCK_BYTES // (prod(block) * data.dtype.itemsize)))
        blosc2.asarray(
            data,
            urlpath=f"{place}/{name}.b2nd",
            mode="w",
            chunks=(rows, *data.shape[1:]),
            blocks=(together, *block),
            cparams=CODECS[codec],
        )


def open_store(place, workers):
    if workers is not None:
        blosc2.set_nthreads(workers)
    return {path.stem: blosc2.open(str(path), mmap_mode="r") for path in Path(place).glob("*.b2nd")}


def read(handle, array, shape):
    return handle[array][box(shape, handle[array].ndim)]


def read_into(handle, array, out):
    # What `[...]` does behind the scenes; there is no public word for it.
    handle[array].get_slice_numpy(out, ([0] * out.ndim, list(out.shape)))
