"""Tensorstore's Zarr 3 driver, one array a variable with the datasets along the first axis."""

from __future__ import annotations

from pathlib import Path

import tensorstore as ts
from adapters.box import box


def codecs(codec, itemsize):
    def blosc(cname, level):
        options = {"cname": cname, "clevel": level, "shuffle": "shuffle", "typesize": itemsize}
        return [{"name": "blosc", "configuration": options}]

    compressors = {
        "zstd": [{"name": "zstd", "configuration": {"level": 3}}],
        "shuffle-zstd": blosc("zstd", 2),  # that is zstd's 3
        "lz4": blosc("lz4", 5),
        "none": [],
    }
    return [{"name": "bytes", "configuration": {"endian": "little"}}, *compressors[codec]]


def place_of(place, array):
    # The harness syncs the files of every system in the same way, behind the write.
    return {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": f"{place}/{array}/", "file_io_sync": False},
    }


def write(place, arrays, layout, codec):
    for name, data in arrays.items():
        target = ts.open(
            place_of(place, name)
            | {
                "metadata": {
                    "shape": data.shape,
                    "data_type": data.dtype.name,
                    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": layout["stacked"][name]}},
                    "codecs": codecs(codec, data.dtype.itemsize),
                }
            },
            create=True,
        ).result()
        target.write(data).result()


def open_store(place, workers):
    # Mapped files were faster than those that are read, by up to two fifths.
    options = {"file_io_mode": {"mode": "memmap"}}
    if workers is not None:
        options["data_copy_concurrency"] = {"limit": workers}
    context = ts.Context(options)
    names = [path.name for path in Path(place).iterdir()]
    waiting = {name: ts.open(place_of(place, name), context=context, read=True) for name in names}
    return {name: store.result() for name, store in waiting.items()}


def read(handle, array, shape):
    return handle[array][box(shape, handle[array].ndim)].read(order="C").result()


def read_into(handle, array, out):
    ts.array(out).write(handle[array]).result()
