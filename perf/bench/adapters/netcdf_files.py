"""NetCDF files, one a dataset, opened together by xarray with the options that its documentation advises."""

from __future__ import annotations

import resource
import shutil
from functools import cache
from pathlib import Path

import dask
import netCDF4
import xarray as xr

CODECS = {
    "zstd": {"compression": "zstd", "complevel": 3, "shuffle": False},
    "lz4": {"compression": "blosc_lz4", "complevel": 5, "blosc_shuffle": 1},
    "none": {},
}


def write(place, arrays, layout, codec):
    Path(place).mkdir(parents=True)
    for i, name in enumerate(layout["names"]):
        with netCDF4.Dataset(f"{place}/{name}.nc", "w") as file:
            for array, data in arrays.items():
                dims = [f"axis{axis}" for axis in range(data.ndim - 1)]
                for dim, n in zip(dims, data.shape[1:], strict=True):
                    if dim not in file.dimensions:
                        file.createDimension(dim, n)
                target = file.createVariable(
                    array, data.dtype, dims, chunksizes=layout["chunks"], fill_value=False, **CODECS[codec]
                )
                target.set_auto_maskandscale(False)
                target[:] = data[i]


def open_store(place, workers):
    # Files that were opened stay open, all of them: a scan over more than fit would open each anew.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    xr.set_options(file_cache_maxsize=max(128, hard - 200))
    if workers is not None:
        dask.config.set(num_workers=workers)
    return tuple(sorted(str(path) for path in Path(place).glob("*.nc")))


@cache
def together(paths):
    """The files as one dataset, opened once; unequal ones cannot be."""
    return xr.open_mfdataset(
        paths,
        combine="nested",
        concat_dim="dataset",
        compat="override",
        coords="minimal",
        join="override",
        # Not opened in threads: the library has one lock, and it crashed once in a run.
        parallel=False,
        engine="netcdf4",
        mask_and_scale=False,
        # One task a file and variable; a task for each stored chunk only adds overhead.
        chunks=-1,
    )


def read(handle, array, shape):
    source = together(handle)[array]
    if shape is not None:
        source = source[(slice(None), *(slice(0, n) for n in shape))]
    return source.values


def ingest(place, files, codec):
    """The files are the store; numbers keep their order."""
    Path(place).mkdir(parents=True)
    for i, file in enumerate(files):
        shutil.copyfile(file, f"{place}/{i:06d}.nc")


def read_each(handle, array):
    parts = []
    for path in handle:
        with xr.open_dataset(path) as ds:
            parts.append(ds[array].values)
    return parts
