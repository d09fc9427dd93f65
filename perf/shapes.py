"""Fleets of other shapes than that of :mod:`perf.scale`: built in slices, of very many arrays, by very many flushes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from atlas import Atlas, col, kernels
from perf.measure import memory, peak, timed

SLICE = 100_000
DATASETS, SCHEMAS, ARRAYS = 10_000, 1_000, 5_000
FLUSHES = 10_000

# By part and cost: what is measured.
TITLES = {
    "slices": {
        "build": "a million sensors in ten flushes, s",
        "build_memory": "peak memory beyond one slice of data, MiB",
    },
    "arrays": {
        "make": "create 10,000 datasets one by one, s",
        "flush": "flush, s",
        "files": "files",
        "directories": "directories",
        "root": "root object, KiB",
        "open": "open, ms",
        "list": "list_datasets and list_arrays, ms",
        "common": "stacked read of the array that all have, ms",
        "rare": "stacked read of an array that ten have, ms",
        "select": "select by the maximum of the array that all have, ms",
        "summaries": "column_summaries of all columns, s",
        "add": "add one dataset of 8 arrays and flush, ms",
        "compact": "delete a tenth and compact, s",
        "verify": "verify, s",
        "memory": "peak memory, MiB",
    },
    "flushes": {
        "first": "median of the first 1,000 flushes, ms",
        "middle": "of the 5,000th to the 6,000th, ms",
        "last": "of the last 1,000, ms",
        "slowest": "the slowest, ms",
        "files": "files at the end",
        "root": "root object at the end, KiB",
        "open": "open and list, ms",
        "stacked": "stacked read of all, ms",
        "compact": "compact, s",
    },
}


def slices(place: Path) -> dict[str, float]:
    """Build a million sensors with a flush after every hundred thousand."""
    rng, costs = np.random.default_rng(0), {"build": 0.0}
    kernels.load()
    before = memory()
    with Atlas.create(place) as store:
        for first in range(0, 10 * SLICE, SLICE):
            arrays = {
                name: {"dims": ["hour"], "data": np.round(rng.normal(15, 5, (SLICE, 24)), 2).astype(dtype)}
                for name, dtype in {"temperature": "f4", "pressure": "f8", "humidity": "f4"}.items()
            }
            attributes = {"lat": rng.uniform(-90, 90, SLICE), "platform": "buoy", "year": 2019}
            began = time.perf_counter()
            store.create_datasets([f"sensor_{i:08d}" for i in range(first, first + SLICE)], arrays, attributes)
            store.flush()
            costs["build"] += time.perf_counter() - began
    costs["build_memory"] = peak() - before - SLICE * 24 * 16 / 2**20
    return costs


def arrays(place: Path) -> dict[str, float]:
    """Ten datasets of each of 1,000 schemas: one array in all, five in its schema alone, two in a few others."""
    costs: dict[str, float] = {}
    rng = np.random.default_rng(0)
    names = [f"array {i:04d}" for i in range(ARRAYS)]
    own = ARRAYS // SCHEMAS
    schemas = [
        list(dict.fromkeys(["common", *names[own * i : own * i + own], *rng.choice(names, 2).tolist()]))
        for i in range(SCHEMAS)
    ]
    store = Atlas.create(place)

    def add(name: str, schema: int) -> None:
        view = store.create_dataset(name)
        for array in schemas[schema]:
            view.define_array(array, "float32", ["x"], [12 + schema % 3])
            view.write_array(array, [0], rng.normal(15, 5, 12 + schema % 3).astype("f4").round(2))
        view.set_attribute("schema", schema)

    with timed(costs, "make"):
        for i in range(DATASETS):
            add(f"d{i:05d}", i % SCHEMAS)
    with timed(costs, "flush"):
        store.flush()
    costs |= sizes(place)
    with timed(costs, "open", 1000):
        store = Atlas.open(place)
    with timed(costs, "list", 1000):
        found = store.list_datasets()
        store.list_arrays()
    same = [name for i, name in enumerate(found) if i % SCHEMAS % 3 == 0]
    with timed(costs, "common", 1000):
        store.read_array_across_stacked("common", same)
    with timed(costs, "rare", 1000):
        store.read_array_across_stacked(schemas[5][1], [name for i, name in enumerate(found) if i % SCHEMAS == 5])
    with timed(costs, "select", 1000):
        store.select(col("common").max() > 25)
    with timed(costs, "summaries"):
        store.column_summaries()
    add("warm", 3)
    store.flush()
    add("one more", 4)
    with timed(costs, "add", 1000):
        store.flush()
    store.delete_datasets(found[::10])
    store.flush()
    with timed(costs, "compact"):
        store.compact()
    with timed(costs, "verify"):
        assert store.verify().ok
    costs["memory"] = peak()
    return costs


def sizes(place: Path) -> dict[str, float]:
    """Return how many files and directories there are, and how large the root is."""
    found = [(len(files), len(directories)) for _, directories, files in os.walk(place)]
    files, directories = map(sum, zip(*found, strict=True))
    return {"files": files, "directories": directories, "root": (place / "atlas.json").stat().st_size / 1024}


def flushes(place: Path) -> dict[str, float]:
    """Commit ten thousand datasets of three arrays, each by a flush of its own."""
    rng, times = np.random.default_rng(0), []
    store = Atlas.create(place)
    for i in range(FLUSHES):
        view = store.create_dataset(f"d{i:05d}")
        for array in ("temperature", "pressure", "humidity"):
            view.define_array(array, "float32", ["hour"], [24])
            view.write_array(array, [0], rng.normal(15, 5, 24).astype("f4").round(2))
        view.set_attribute("lat", float(rng.uniform(-90, 90)))
        began = time.perf_counter()
        store.flush()
        times.append(1000 * (time.perf_counter() - began))
    medians = {"first": times[:1000], "middle": times[5000:6000], "last": times[-1000:]}
    costs = {name: float(np.median(part)) for name, part in medians.items()} | {"slowest": max(times)}
    costs |= {name: value for name, value in sizes(place).items() if name != "directories"}
    with timed(costs, "open", 1000):
        again = Atlas.open(place)
        names = again.list_datasets()
    with timed(costs, "stacked", 1000):
        again.read_array_across_stacked("temperature", names)
    with timed(costs, "compact"):
        store.compact()
    return costs


SHAPES: dict[str, Callable[[Path], dict[str, float]]] = {"slices": slices, "arrays": arrays, "flushes": flushes}


def table(part: str, costs: dict[str, float]) -> str:
    """Return the costs of a part as Markdown."""
    cells = {key: f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for key, value in costs.items()}
    rows = [f"| {title} | {cells[key]} |" for key, title in TITLES[part].items()]
    return "\n".join(["| | |", "|---|---|", *rows]) + "\n"
