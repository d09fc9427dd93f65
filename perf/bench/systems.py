"""What is compared: each system's requirements, codecs, and how it is set up."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HARNESS = Path(__file__).parent
ADAPTERS = HARNESS / "adapters"
REPOSITORY = Path(__file__).parents[2]

NUMPY = "numpy==2.4.6"
ZARR = "zarr==3.1.6"
PCODEC = "pcodec==1.1.0"
DASK = "dask[array]==2026.8.0"
XARRAY = "xarray==2026.9.0"
NETCDF = "netCDF4==1.7.5.1.post1"


@dataclass(frozen=True)
class System:
    """One contender.

    Parameters
    ----------
    name : str
    adapter : path
    requirements : tuple of str
        For pip.
    setup : str
        How it is set up, and why; quoted in the report.
    codecs : tuple of str
        The first is its densest, ``"lz4"`` its fastest, ``"none"`` no compression at all.
    workers : bool
        Whether it takes a number of workers.
    joined : bool
        Whether chunks of neighbouring datasets are stored as one of about 1 MiB.
    """

    name: str
    adapter: Path
    requirements: tuple[str, ...]
    setup: str
    codecs: tuple[str, ...] = ("zstd", "lz4", "none")
    workers: bool = False
    joined: bool = True


ALL_CODECS = ("zstd", "shuffle-zstd", "lz4", "none")

SYSTEMS = {
    system.name: system
    for system in (
        System(
            "atlas",
            ADAPTERS / "atlas_fleet.py",
            ("--editable", f"{REPOSITORY}[netcdf]"),
            "This work tree, default options but one: nothing that was decompressed is kept for the next read "
            "(`ATLAS_DECODED_BYTES=0`), as with the peers. One store, a dataset per dataset, "
            "`read_array_across_stacked`. With `lz4` numbers are not packed: it shows the codec.",
            workers=True,
        ),
        System(
            "atlas-0.14",
            ADAPTERS / "atlas_older.py",
            ("atlas-python==0.14.0", XARRAY, NETCDF, NUMPY),
            "The Rust package that this one succeeds, in its last release that could read arrays. Same calls.",
        ),
        System(
            "zarr+dask",
            ADAPTERS / "zarr_dask.py",
            (ZARR, PCODEC, DASK, NUMPY),
            "One stacked array per variable; dask blocks of about 32 MiB of whole datasets, threads, stored into one "
            "new array: `compute` takes longer.",
            workers=True,
        ),
        System(
            "zarr+dask-plain",
            ADAPTERS / "zarr_dask_plain.py",
            (ZARR, PCODEC, DASK, NUMPY),
            "The same without tuning, as most write it: a stored chunk per dataset, a dask block per stored chunk.",
            joined=False,
            workers=True,
        ),
        System(
            "zarr",
            ADAPTERS / "zarr_alone.py",
            (ZARR, PCODEC, NUMPY),
            "One stacked array per variable, basic slicing. `pcodec` at level 8, `lz4` is Blosc with byte shuffle.",
            ("pcodec", "zstd", "lz4", "none"),
            workers=True,
        ),
        System(
            "zarrs",
            ADAPTERS / "zarrs_pipeline.py",
            ("zarrs==0.2.3", ZARR, PCODEC, NUMPY),
            "Like zarr, with the Rust codec pipeline, strict so that it cannot fall back to Python.",
            ("pcodec", *ALL_CODECS),
            workers=True,
        ),
        System(
            "tensorstore",
            ADAPTERS / "tensorstore_zarr.py",
            # ml_dtypes 0.7.0 takes a second to import, this one a tenth of it.
            ("tensorstore==0.1.86", "ml_dtypes==0.5.4", NUMPY),
            "The `zarr3` driver, one stacked array per variable, files mapped; its own syncing of every file is off, "
            "since the harness syncs for everybody; its cache of decoded chunks is off, as it is by default.",
            ALL_CODECS,
            workers=True,
        ),
        System(
            "blosc2",
            ADAPTERS / "blosc2_ndarray.py",
            ("blosc2==4.14.1", NUMPY),
            "One stacked NDArray per variable, memory-mapped; chunks are whole datasets, blocks the workload's chunks, "
            "halved along all axes down to 64 KiB. `zstd` without a filter and `shuffle-zstd` with bit shuffle, which "
            "measured densest and fastest.",
            ALL_CODECS,
            workers=True,
        ),
        System(
            "hdf5",
            ADAPTERS / "hdf5.py",
            ("h5py==3.16.0", "hdf5plugin==7.1.0", NUMPY),
            "One file, one stacked array per variable, 64 MiB chunk cache, `read_direct` into a new array. HDF5 "
            "decodes in one thread.",
        ),
        System(
            "netcdf",
            ADAPTERS / "netcdf_files.py",
            (NETCDF, XARRAY, DASK, NUMPY),
            'One file per dataset; `open_mfdataset` with nested combination, `compat="override"`, '
            '`coords="minimal"`, `join="override"`, one task per file and variable. Not `parallel=True`: the library '
            "has one lock, and it crashed once in a run. All files stay open (`file_cache_maxsize`). Unequal files "
            "are read in a loop of `open_dataset`.",
            workers=True,
        ),
    )
}
