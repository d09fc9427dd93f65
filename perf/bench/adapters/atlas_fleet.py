"""This package."""

from __future__ import annotations

import os
from pathlib import Path

# Nobody answers from what was decoded before, so that warm reads are decoded everywhere.
os.environ["ATLAS_DECODED_BYTES"] = "0"

import atlas


def write(place, arrays, layout, codec):
    dims = [f"axis{i}" for i in range(len(layout["chunks"]))]
    # What the codec itself does shows without packing, which lz4 would hardly ever come into play beside.
    layout_options = atlas.StoreConfig(codec=codec, packing=codec == "zstd")
    arrays = {name: {"dims": dims, "chunk_shape": layout["chunks"], "data": data} for name, data in arrays.items()}
    with atlas.Atlas.create(place, config=layout_options) as store:
        store.create_datasets(layout["names"], arrays=arrays)


def open_store(place, workers):
    store = atlas.Atlas.open(place, mode="r", workers=workers)
    return store, store.list_datasets()


def read(handle, array, shape):
    store, names = handle
    start = None if shape is None else [0] * len(shape)
    return store.read_array_across_stacked(array, names, start, shape)


def read_into(handle, array, out):
    store, names = handle
    store.read_array_across_stacked(array, names, out=out)


def ingest(place, files, codec):
    from atlas.ingest import create

    create([Path(file) for file in files], place, codec=codec)


def read_each(handle, array):
    store, names = handle
    return store.read_array_across(array, names)
