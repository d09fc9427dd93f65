"""The main job on an embedded store, timed beside a loop with dask over the same data.

Builds a fleet of 1,000 datasets, reads a slice and the whole of every array stacked, and checks
that both ways give the same bits. Exits 0 only if they do.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import zarr
from rich.console import Console
from rich.table import Table

import atlas

DATASETS = 1000
SHAPE = (50, 168)
SLICE = (12, 42)
ARRAYS = {"temperature": "float32", "pressure": "float64", "salinity": "float32"}
WARM_RUNS = 3
PLACE = Path("demo-store")


def field(seed: int, dtype: str) -> np.ndarray[Any, Any]:
    """Sums of sines with noise, rounded to two decimals like a measured field."""
    rng = np.random.default_rng(seed)
    depth, hour = np.meshgrid(np.linspace(0, 3, SHAPE[0]), np.linspace(0, 9, SHAPE[1]), indexing="ij")
    waves = sum(a * np.sin(f * depth + p) * np.cos(f * hour) for a, f, p in rng.uniform(0.5, 3, (4, 3)))
    return np.round(15 + waves + rng.normal(0, 0.05, SHAPE), 2).astype(dtype)


def build_atlas(names: list[str]) -> None:
    with atlas.Atlas.create(PLACE / "atlas", overwrite=True) as store:
        for i, name in enumerate(names):
            view = store.create_dataset(name)
            for j, (array, dtype) in enumerate(ARRAYS.items()):
                view.define_array(array, dtype, ["depth", "hour"], SHAPE)
                view.write_array(array, [0, 0], field(i * len(ARRAYS) + j, dtype))


def build_zarr(names: list[str]) -> None:
    root = zarr.open_group(PLACE / "zarr", mode="w")
    for i, name in enumerate(names):
        group = root.create_group(name)
        for j, (array, dtype) in enumerate(ARRAYS.items()):
            target = group.create_array(array, shape=SHAPE, chunks=SHAPE, dtype=dtype)
            target[...] = field(i * len(ARRAYS) + j, dtype)


def read_atlas(names: list[str], shape: tuple[int, int]) -> dict[str, np.ndarray[Any, Any]]:
    store = atlas.Atlas.open(PLACE / "atlas", mode="r")
    return {array: store.read_array_across_stacked(array, names, (0, 0), shape) for array in ARRAYS}


def read_dask(names: list[str], shape: tuple[int, int]) -> dict[str, np.ndarray[Any, Any]]:
    root = zarr.open_group(PLACE / "zarr", mode="r")
    box = tuple(slice(0, n) for n in shape)
    with dask.config.set(scheduler="threads"):
        return {
            array: da.stack([da.from_zarr(root[f"{name}/{array}"])[box] for name in names]).compute()
            for array in ARRAYS
        }


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def measure(names: list[str], shape: tuple[int, int]) -> tuple[list[float], list[float], bool]:
    """Return the times of atlas and of dask, first read first, and whether they agree."""
    ours, theirs, equal = [], [], True
    for run in range(1 + WARM_RUNS):
        seconds, mine = timed(lambda: read_atlas(names, shape))
        ours.append(seconds)
        if run < 2:
            seconds, other = timed(lambda: read_dask(names, shape))
            theirs.append(seconds)
            equal = equal and all(mine[a].tobytes() == other[a].tobytes() for a in ARRAYS)
    return ours, theirs, equal


def main() -> int:
    console = Console()
    names = [f"station_{i:04d}" for i in range(DATASETS)]
    shutil.rmtree(PLACE, ignore_errors=True)
    built_atlas = timed(lambda: build_atlas(names))[0]
    built_zarr = timed(lambda: build_zarr(names))[0]
    table = Table(
        "", "atlas", "dask loop over zarr", "ratio", title=f"{DATASETS} datasets x {len(ARRAYS)} arrays of {SHAPE}"
    )
    table.add_row("write", f"{built_atlas:.2f} s", f"{built_zarr:.2f} s", f"{built_zarr / built_atlas:.1f}x")
    sizes = size(PLACE / "atlas"), size(PLACE / "zarr")
    table.add_row("size", f"{sizes[0] / 1e6:.1f} MB", f"{sizes[1] / 1e6:.1f} MB", f"{sizes[1] / sizes[0]:.1f}x")
    agree = True
    for label, shape in (("slice", SLICE), ("full", SHAPE)):
        ours, theirs, equal = measure(names, shape)
        agree = agree and equal
        table.add_row(f"{label}, first read", f"{ours[0]:.3f} s", f"{theirs[0]:.2f} s", f"{theirs[0] / ours[0]:.0f}x")
        warm = statistics.median(ours[1:]), statistics.median(theirs[1:])
        table.add_row(f"{label}, warm", f"{warm[0]:.3f} s", f"{warm[1]:.2f} s", f"{warm[1] / warm[0]:.0f}x")
    console.print(table)
    console.print(f"Both ways agree to the bit: {agree}. The store is in {PLACE / 'atlas'}.")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
