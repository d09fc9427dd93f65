"""Which measurements make up a run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from math import prod

from perf.bench.argo import ARGO
from perf.bench.runner import Pace
from perf.bench.systems import SYSTEMS
from perf.bench.workloads import WORKLOADS, Workload

FRACTIONS = {"slice": 0.25, "full": 1.0}
# All cells, into arrays that were there before.
INTO = "into"
OPERATIONS = ("write", *FRACTIONS, INTO)
SWEEPS = ("datasets", "fraction", "chunks", "workers")

# Sweeps over other things than the number of datasets read this many of the gridded ones.
SWEEP_DATASETS = 50


@dataclass(frozen=True)
class Step:
    """One operation on one collection, measured for all contenders.

    Parameters
    ----------
    workload : Workload, or None for the Argo files
    operation : str
        ``"write"``, or what is read.
    fraction : float
        How much of every axis a read takes.
    workers : int or None
    sweep : str or None
        The sweep that it is a point of.
    """

    workload: Workload | None
    operation: str
    fraction: float = 1.0
    workers: int | None = None
    sweep: str | None = None

    @property
    def collection(self) -> str:
        return ARGO if self.workload is None else self.workload.key

    def facts(self) -> dict[str, object]:
        """Return what identifies the step's records in the results."""
        known: dict[str, object] = {"workload": ARGO}
        if self.workload is not None:
            known = {
                "workload": self.workload.name,
                "datasets": self.workload.datasets,
                "chunk": prod(self.workload.chunks),
                "bytes": self.workload.bytes,
            }
        mine = {"operation": self.operation, "fraction": self.fraction, "workers": self.workers, "sweep": self.sweep}
        return known | mine

    def __str__(self) -> str:
        extra = f" with {self.workers} workers" if self.workers else ""
        return f"{self.collection}: {self.operation}{extra}"


@dataclass(frozen=True)
class Part:
    """What is measured of a run with the same contenders, at the same pace.

    Parameters
    ----------
    contenders : tuple of str
        Systems, or systems with one codec, see :func:`perf.bench.contenders.chosen`.
    workloads : dict of str to int or None
        Number of datasets by name, ``None`` for the workload's own.
    sweeps : tuple of str
    pace : Pace
    operations : tuple of str
        What is done with each workload.
    """

    contenders: tuple[str, ...]
    workloads: dict[str, int | None]
    sweeps: tuple[str, ...]
    pace: Pace
    operations: tuple[str, ...] = OPERATIONS

    def steps(self, operations: Sequence[str]) -> list[Step]:
        """Return the steps of this part, those of one collection together, its write first."""
        found: list[Step] = []
        for name, datasets in self.workloads.items():
            found += _of_workload(name, datasets, [one for one in operations if one in self.operations])
        for sweep in self.sweeps:
            found += _SWEEPS[sweep]()
        return found


# Where a system is far behind with any codec, one codec says all; close rivals run with each.
_CLOSE = ("atlas", "zarrs", "tensorstore", "blosc2")
_FAR = ("atlas-0.14:zstd", "zarr+dask:zstd", "zarr+dask-plain:zstd", "zarr:zstd", "hdf5:zstd", "netcdf:zstd")
_NEAREST = ("tensorstore:zstd", "tensorstore:none", "zarrs:none", "blosc2:shuffle-zstd", "blosc2:none")

_HEADLINE = {"gridded-smooth": None, "profile-smooth": None, ARGO: None}
_MASKED = {"masked": None}
_OTHERS = {name: None for name in WORKLOADS if name not in _HEADLINE | _MASKED}

PRESETS = {
    "quick": (
        Part(
            ("atlas", "zarrs:lz4", "tensorstore:zstd", "tensorstore:none", "blosc2:lz4", *_FAR),
            {"gridded-smooth": 24, "profile-smooth": 1000},
            (),
            Pace(rounds=3, budget=3, limit=60),
        ),
    ),
    # One workload with every codec that each system has; the others beside those that come near.
    "full": (
        Part((*_CLOSE, *_FAR), _HEADLINE, (), Pace(rounds=5, budget=6, limit=120)),
        Part(tuple(SYSTEMS), _MASKED, (), Pace(rounds=3, budget=2, limit=60), OPERATIONS[:-1]),
        Part(
            ("atlas", *_NEAREST, "zarrs:zstd", "atlas-0.14:zstd", "zarr+dask:zstd"),
            _OTHERS,
            (),
            Pace(rounds=3, budget=2, limit=60),
            OPERATIONS[:-1],
        ),
        Part(("atlas:zstd", *_NEAREST, "zarr+dask:zstd"), {}, SWEEPS, Pace(rounds=3, budget=2, limit=60)),
    ),
}


def narrowed(parts: Sequence[Part], workloads: Sequence[str], sweeps: Sequence[str]) -> list[Part]:
    """Return the parts with these workloads and sweeps only; what none of them has is measured as the first does."""
    known = zip(
        parts,
        _shared([part.workloads for part in parts], workloads),
        _shared([part.sweeps for part in parts], sweeps),
        strict=True,
    )
    return [
        replace(part, workloads={name: part.workloads.get(name) for name in names}, sweeps=tuple(mine))
        for part, names, mine in known
        if names or mine
    ]


def _shared(known: Sequence[Collection[str]], wanted: Sequence[str]) -> list[list[str]]:
    """Give each wanted name to the first that knows it, or else to the first of all."""
    found: list[list[str]] = [[] for _ in known]
    for name in wanted:
        found[next((i for i, names in enumerate(known) if name in names), 0)].append(name)
    return found


def _of_workload(name: str, datasets: int | None, operations: Sequence[str]) -> list[Step]:
    if name == ARGO:
        return [Step(None, operation) for operation in ("write", "full") if operation in operations]
    workload = WORKLOADS[name]
    workload = replace(workload, datasets=datasets or workload.datasets)
    return [Step(workload, operation, FRACTIONS.get(operation, 1.0)) for operation in operations]


def _datasets() -> list[Step]:
    sizes = {"profile-smooth": (100, 1_000, 10_000), "sensors-smooth": (100, 1_000, 10_000, 100_000)}
    return [Step(replace(WORKLOADS[name], datasets=n), "full", sweep="datasets") for name in sizes for n in sizes[name]]


def _fraction() -> list[Step]:
    workload = replace(WORKLOADS["gridded-smooth"], datasets=SWEEP_DATASETS)
    fractions = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
    return [Step(workload, f"first {fraction:.0%}", fraction, sweep="fraction") for fraction in fractions]


def _chunks() -> list[Step]:
    workload = replace(WORKLOADS["gridded-smooth"], datasets=SWEEP_DATASETS)
    grids = ((10, 10, 12), (25, 25, 24), (50, 50, 24), (100, 100, 48))
    return [Step(replace(workload, chunks=chunks), "full", sweep="chunks") for chunks in grids]


def _workers() -> list[Step]:
    workload = replace(WORKLOADS["gridded-smooth"], datasets=SWEEP_DATASETS)
    return [Step(workload, "full", workers=n, sweep="workers") for n in (1, 2, 4, 8)]


_SWEEPS = {"datasets": _datasets, "fraction": _fraction, "chunks": _chunks, "workers": _workers}
