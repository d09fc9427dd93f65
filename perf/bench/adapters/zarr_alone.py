"""Zarr 3, one array a variable with the datasets along the first axis."""

from __future__ import annotations

import zarr
from adapters.box import box
from zarr.codecs import BloscCodec, ZstdCodec
from zarr.core.buffer.cpu import NDBuffer

COMPRESSORS = {
    "zstd": ZstdCodec(level=3),
    # Level 2 is zstd's 3.
    "shuffle-zstd": BloscCodec(cname="zstd", clevel=2, shuffle="shuffle"),
    "lz4": BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"),
    "none": None,
}


def options(codec):
    if codec == "pcodec":
        from zarr.codecs.numcodecs import PCodec

        return {"serializer": PCodec(level=8), "compressors": None}
    return {"compressors": COMPRESSORS[codec]}


def create(place, arrays, layout, codec):
    root = zarr.open_group(place, mode="w")
    return {
        name: root.create_array(
            name, shape=data.shape, dtype=data.dtype, chunks=layout["stacked"][name], **options(codec)
        )
        for name, data in arrays.items()
    }


def write(place, arrays, layout, codec):
    for name, target in create(place, arrays, layout, codec).items():
        target[:] = arrays[name]


def open_store(place, workers):
    if workers is not None:
        zarr.config.set({"threading.max_workers": workers})
    return dict(zarr.open_group(place, mode="r").arrays())


def read(handle, array, shape):
    return handle[array][box(shape, handle[array].ndim)]


def read_into(handle, array, out):
    handle[array].get_basic_selection(..., out=NDBuffer.from_numpy_array(out))
