"""What checking costs: chunk checksums as part of a read, records as part of a commit, mapped indexes beside read ones.

``python -m perf.integrity [directory]``; prints Markdown.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

import atlas
from atlas import commitfiles
from atlas.kernels import native
from atlas.storage import LocalStorage
from perf.unchecked import taken_as_they_are


def field(seed: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Sums of sines with noise, rounded to hundredths."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(0, 3, n) for n in shape), indexing="ij")
    cells = sum(np.sin(axis * (i + 1) + seed) for i, axis in enumerate(axes)) * 10
    return np.round(cells + rng.normal(0, 0.05, shape), 2).astype(dtype)


def build(place: Path, codec: str, count: int, shape: tuple[int, ...], chunks: list[int], random: bool) -> list[str]:
    with atlas.Atlas.create(place, codec=codec) as store:
        for i in range(count):
            view = store.create_dataset(f"d{i}")
            view.define_array("t", "float32", [f"x{k}" for k in range(len(shape))], shape, chunks)
            cells = field(i, shape, "float32")
            view.write_array(
                "t", [0] * len(shape), np.random.default_rng(i).normal(size=shape).astype("f4") if random else cells
            )
    return atlas.Atlas.open(place).list_datasets()


def alternating(first: Callable[[], Any], second: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """Return the medians of two actions that take turns, so that both see the same machine."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for action, taken in zip((first, second), times, strict=True):
            began = time.perf_counter()
            action()
            taken.append(time.perf_counter() - began)
    return statistics.median(times[0]), statistics.median(times[1])


def unchecked(read: Callable[[], Any]) -> Callable[[], Any]:
    """Return a read that takes every payload for whole."""

    def without_checks(kernel: Callable[..., None]) -> Callable[..., None]:
        def call(src: Any, rows: Any, tables: dict[str, Any], *rest: Any) -> None:
            kernel(src, rows, taken_as_they_are(tables), *rest)

        return call

    def run() -> None:
        plain = native.unpack, native.scatter
        native.unpack, native.scatter = map(without_checks, plain)
        try:
            read()
        finally:
            native.unpack, native.scatter = plain

    return run


def checksums(work: Path) -> None:
    print("| read | with checksums, ms | without, ms | cost |\n|---|---|---|---|")
    cases = [
        ("gridded smooth, zstd (packed)", "zstd", 40, (100, 100, 48), [50, 50, 24], False),
        ("gridded random, zstd", "zstd", 40, (100, 100, 48), [50, 50, 24], True),
        ("gridded smooth, none", "none", 40, (100, 100, 48), [50, 50, 24], False),
        ("profiles", "zstd", 3000, (50, 168), [50, 168], False),
    ]
    for number, (what, *options) in enumerate(cases):
        names = build(work / f"s{number}", *options)  # type: ignore[arg-type]
        store = atlas.Atlas.open(work / f"s{number}", workers=1, executor="serial")
        sample = store.read_array_across_stacked("t", names)
        out = np.empty_like(sample)

        def read(store: Any = store, names: list[str] = names, out: Any = out) -> None:
            store.read_array_across_stacked("t", names, out=out)

        checked, plain = alternating(read, unchecked(read), 15)
        print(f"| {what} | {checked * 1e3:.1f} | {plain * 1e3:.1f} | {(checked / plain - 1) * 100:.1f} % |", flush=True)


def records(work: Path) -> None:
    print("\n| commit | with a record, ms | without, ms |\n|---|---|---|")
    place = work / "commits"
    build(place, "zstd", 200, (50, 168), [50, 168], False)
    plain = commitfiles.CommitFiles.write_record

    def without(action: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            commitfiles.CommitFiles.write_record = lambda *args: None  # type: ignore[method-assign]
            try:
                action()
            finally:
                commitfiles.CommitFiles.write_record = plain  # type: ignore[method-assign]

        return run

    store = atlas.Atlas.open(place)

    def attribute() -> None:
        store.open_dataset("d0").set_attribute("k", time.time())
        store.flush()

    def array() -> None:
        store.open_dataset("d0").write_array("t", [0, 0], field(int(time.time() * 1e3) % 1000, (50, 168), "float32"))
        store.flush()

    for what, action in (("attributes only", attribute), ("one array of one dataset", array)):
        checked, bare = alternating(action, without(action), 25)
        print(f"| {what} | {checked * 1e3:.2f} | {bare * 1e3:.2f} |", flush=True)


def indexes(work: Path) -> None:
    print("\n| index of | mapped, ms | read, ms |\n|---|---|---|")
    storage = LocalStorage(str(work))
    for megabytes in (5, 20, 100, 200):
        key, size = f"index-{megabytes}", megabytes << 20
        (work / key).write_bytes(os.urandom(size))

        def mapped(key: str = key, size: int = size) -> int:
            return xxhash.xxh3_64_intdigest(np.memmap(work / key, np.uint8, "r", 0, (size,)))

        def taken(key: str = key, size: int = size) -> int:
            return xxhash.xxh3_64_intdigest(storage.read_range(key, 0, size))

        first, second = alternating(mapped, taken, 7)
        print(f"| {megabytes} MiB | {first * 1e3:.1f} | {second * 1e3:.1f} |", flush=True)


def main() -> None:
    atlas.warm_up()
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as work:
        checksums(Path(work))
        records(Path(work))
        indexes(Path(work))


if __name__ == "__main__":
    main()
