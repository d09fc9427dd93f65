"""The collections of datasets that are stored and read, made from a seed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Maker = Callable[[np.random.Generator, Sequence[int]], NDArray[Any]]

# Stacked layouts join chunks of neighbouring datasets up to the size that Zarr's guide calls the least.
JOINED_CHUNK = 1 << 20


def waves(rng: np.random.Generator, shape: Sequence[int]) -> NDArray[np.float64]:
    """A sum of four standing waves of random length and phase, between about -10 and 10."""
    total = np.zeros(shape)
    axes = np.meshgrid(*(np.linspace(0, 3, n) for n in shape), indexing="ij", sparse=True)
    for _ in range(4):
        wave: Any = rng.uniform(0.5, 3)
        for axis in axes:
            wave = wave * np.sin(rng.uniform(0.5, 3) * axis + rng.uniform(0, 6))
        total += wave
    return total


def smooth(rng: np.random.Generator, shape: Sequence[int]) -> NDArray[Any]:
    """Like a measured or archived field: smooth, with a little noise, to two decimals."""
    return np.round(15 + waves(rng, shape) + rng.normal(0, 0.05, shape), 2)


def random(rng: np.random.Generator, shape: Sequence[int]) -> NDArray[Any]:
    """Normal noise, which nothing compresses well."""
    return rng.standard_normal(shape)


def sensor(rng: np.random.Generator, shape: Sequence[int]) -> NDArray[Any]:
    """A short series of a sensor that reports three decimals."""
    return np.round(15 + waves(rng, shape) + rng.normal(0, 0.05, shape), 3)


def masked(rng: np.random.Generator, shape: Sequence[int]) -> NDArray[Any]:
    """Like an ocean field to two decimals: 40 % of the map is land, NaN at every time."""
    land = waves(rng, shape[1:])
    field = smooth(rng, shape)
    field[:, land < np.quantile(land, 0.4)] = np.nan
    return field


def model(rng: np.random.Generator, shape: Sequence[int]) -> NDArray[Any]:
    """Like the same ocean field straight from a model: not rounded."""
    land = waves(rng, shape[1:])
    field = waves(rng, shape) + rng.normal(0, 0.05, shape)
    field[:, land < np.quantile(land, 0.4)] = np.nan
    return field


def packed(rng: np.random.Generator, shape: Sequence[int]) -> NDArray[Any]:
    """Like a field packed with a scale factor of 0.01 into 16 bits."""
    return np.round((waves(rng, shape) + rng.normal(0, 0.05, shape)) * 100)


@dataclass(frozen=True)
class Workload:
    """Datasets of the same arrays.

    Parameters
    ----------
    name : str
    datasets : int
    arrays : dict of str to (str, callable)
        Type and maker of each array.
    shape, chunks : tuple of int
        Of one dataset.
    """

    name: str
    datasets: int
    arrays: dict[str, tuple[str, Maker]]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]

    @property
    def key(self) -> str:
        """Names the data on the disk and in the results."""
        return f"{self.name} {self.datasets} {'x'.join(map(str, self.chunks))}"

    @property
    def bytes(self) -> int:
        """Size of all data in memory."""
        return self.datasets * prod(self.shape) * sum(np.dtype(dtype).itemsize for dtype, _ in self.arrays.values())

    def layout(self, joined: bool) -> dict[str, Any]:
        """Return what the adapters need to know, see there; with small chunks `joined` over datasets or not."""
        stacked = {}
        for array, (dtype, _) in self.arrays.items():
            size = prod(self.chunks) * np.dtype(dtype).itemsize
            rows = max(1, min(JOINED_CHUNK // size, self.datasets)) if joined else 1
            stacked[array] = [rows, *self.chunks]
        names = [f"dataset_{i:06d}" for i in range(self.datasets)]
        return {"chunks": list(self.chunks), "stacked": stacked, "names": names}

    def corner(self, fraction: float) -> list[int] | None:
        """Return the shape of the first `fraction` of every axis; ``None`` for all of it."""
        return None if fraction == 1 else [max(1, round(n * fraction)) for n in self.shape]


class Data:
    """A workload's arrays on the disk, and what every read of them must return."""

    def __init__(self, workload: Workload, seed: int, work: Path) -> None:
        self.workload = workload
        self.key = workload.key
        self.bytes = workload.bytes
        self.seed = seed
        # Chunks do not change the data.
        self.folder = work / "data" / f"{workload.name}-{workload.datasets}-seed{seed}"

    def make(self) -> None:
        """Write the arrays unless they are there."""
        if self.folder.exists():
            return
        unfinished = self.folder.with_name(f"{self.folder.name}-unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        for number, (array, (dtype, maker)) in enumerate(self.workload.arrays.items()):
            target = np.lib.format.open_memmap(
                unfinished / f"{array}.npy", "w+", dtype, (self.workload.datasets, *self.workload.shape)
            )
            for i in range(self.workload.datasets):
                target[i] = maker(np.random.default_rng([self.seed, number, i]), self.workload.shape)
            target.flush()
        unfinished.rename(self.folder)

    def write_request(self, place: Path, codec: str, joined: bool) -> dict[str, Any]:
        """Return what a worker is asked, to store the arrays at `place`."""
        return {
            "do": "write",
            "place": str(place),
            "arrays": self._paths(),
            "layout": self.workload.layout(joined),
            "codec": codec,
        }

    def read_request(self, fraction: float) -> dict[str, Any]:
        """Return what a worker is asked, to read the first `fraction` of every axis of every dataset."""
        return {"do": "read", "arrays": list(self.workload.arrays), "shape": self.workload.corner(fraction)}

    def into_request(self) -> dict[str, Any]:
        """Return what a worker is asked, to read all cells into arrays that it keeps."""
        shape = [self.workload.datasets, *self.workload.shape]
        return {"do": "read_into", "arrays": {n: [shape, dtype] for n, (dtype, _) in self.workload.arrays.items()}}

    def truth(self, fraction: float) -> dict[str, str]:
        """Return the digest, as the workers make it, of each array that the read must return."""
        from perf.bench.worker import digest

        shape = self.workload.corner(fraction)
        known = self.folder / "digests.json"
        digests: dict[str, dict[str, str]] = json.loads(known.read_text()) if known.exists() else {}
        if str(shape) not in digests:
            cells = (slice(None), *(slice(0, n) for n in shape or self.workload.shape))
            digests[str(shape)] = {
                array: digest(np.load(path, mmap_mode="r")[cells]) for array, path in self._paths().items()
            }
            known.write_text(json.dumps(digests))
        return digests[str(shape)]

    def _paths(self) -> dict[str, str]:
        return {array: str(self.folder / f"{array}.npy") for array in self.workload.arrays}


def gridded(kind: str, maker: Maker) -> Workload:
    arrays = {"temperature": ("float32", maker), "pressure": ("float64", maker), "salinity": ("float32", maker)}
    return Workload(f"gridded-{kind}", 200, arrays, (100, 100, 48), (50, 50, 24))


def profile(kind: str, maker: Maker) -> Workload:
    arrays = {"temperature": ("float32", maker), "pressure": ("float64", maker), "salinity": ("float32", maker)}
    return Workload(f"profile-{kind}", 10_000, arrays, (50, 168), (50, 168))


def sensors(kind: str, maker: Maker) -> Workload:
    return Workload(f"sensors-{kind}", 100_000, {"temperature": ("float32", maker)}, (24,), (24,))


WORKLOADS = {
    workload.name: workload
    for workload in (
        gridded("smooth", smooth),
        gridded("random", random),
        profile("smooth", smooth),
        profile("random", random),
        sensors("smooth", sensor),
        sensors("random", random),
        Workload(
            "masked",
            8,
            {"decimal": ("float32", masked), "model": ("float32", model)},
            (365, 90, 180),
            (73, 45, 90),
        ),
        Workload("packed", 16, {"temperature": ("int16", packed)}, (365, 90, 180), (73, 45, 90)),
    )
}
