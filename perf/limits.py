"""How far reads are from what the machine allows: the limits that the benchmark says nothing about.

``make limits``, or ``python -m perf.limits [directory]``; prints Markdown, and keeps it in ``perf/results/limits``.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pcodec
import tensorstore
import zarr
from pcodec import standalone

import atlas
from atlas.codecs import decode_numbers, element_of
from atlas.kernels import native
from perf.bench.workloads import WORKLOADS
from perf.unchecked import taken_as_they_are

RESULTS = Path(__file__).parent / "results" / "limits"
DATASETS = 100
CORES = os.cpu_count() or 1


def median(action: Callable[[], Any], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def on_all_cores(work: Callable[[int], Any]) -> None:
    """Run ``work(i)`` for every core, side by side."""
    threads = [threading.Thread(target=work, args=(i,)) for i in range(CORES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def build(place: Path) -> dict[str, np.ndarray]:
    workload = WORKLOADS["gridded-smooth"]
    data = {}
    for number, (array, (dtype, maker)) in enumerate(workload.arrays.items()):
        cells = [maker(np.random.default_rng([1, number, i]), workload.shape).astype(dtype) for i in range(DATASETS)]
        data[array] = np.stack(cells)
    names = [f"d{i:03d}" for i in range(DATASETS)]
    arrays = {a: {"dims": ["x", "y", "z"], "chunk_shape": workload.chunks, "data": cells} for a, cells in data.items()}
    with atlas.Atlas.create(place) as store:
        store.create_datasets(names, arrays=arrays)
    return data


def unpacker(store: atlas.Atlas, array: str) -> Callable[[int], None]:
    """Return what unpacks a core's share of an array's chunks, each into the same small memory."""
    session = store._session
    index = session.snapshot.index(array)
    schema = session.record(store.list_datasets()[0]).arrays[array]
    source = session.snapshot._source(index.files[0]).bytes()
    item = schema.dtype.itemsize
    extent = np.array([schema.chunk_shape], np.int64)
    strides = np.array([[schema.chunk_shape[1] * schema.chunk_shape[2], schema.chunk_shape[2], 1]], np.int64) * item
    columns = {name: np.ascontiguousarray(index.columns[name]) for name in ("offset", "length", "pipeline", "checksum")}
    count = len(columns["offset"])
    tables = columns | {"geometry": np.zeros(count, np.int32), "destination": np.zeros(count, np.int64)}
    tables |= {"chunk_extent": extent, "block_start": extent * 0, "block_extent": extent, "strides": strides}
    tables = taken_as_they_are(tables)
    outs = [np.zeros(int(extent.prod()) * item, np.uint8) for _ in range(CORES)]
    shares = np.array_split(np.arange(count), CORES)

    def unpack(core: int) -> None:
        native.unpack(source, shares[core], tables, outs[core], element_of(schema.dtype.storage))

    return unpack


def full_reads(store: atlas.Atlas, data: dict[str, np.ndarray]) -> Iterator[str]:
    """Yield a full stacked read beside filling its memory and unpacking its chunks, each alone on all cores."""
    names = store.list_datasets()
    yield "| array | read, ms | memset, ms | unpack alone, ms | (memset + unpack) / read |"
    yield "|---|---|---|---|---|"
    for array, cells in data.items():
        out = np.empty_like(cells)
        parts = np.array_split(out.reshape(-1).view(np.uint8), CORES)
        unpack = unpacker(store, array)
        times = []
        for action in (
            lambda array=array, out=out: store.read_array_across_stacked(array, names, out=out),
            lambda parts=parts: on_all_cores(lambda core: parts[core].fill(0)),
            lambda unpack=unpack: on_all_cores(unpack),
        ):
            action()
            times.append(median(action, 9) * 1e3)
        read, memset, alone = times
        yield f"| {array} | {read:.1f} | {memset:.1f} | {alone:.1f} | {(memset + alone) / read:.2f} |"


def sizes(place: Path, data: dict[str, np.ndarray]) -> str:
    """Return the store's size beside that of pcodec's densest level, chunk by chunk."""
    ours = sum(file.stat().st_size for file in place.rglob("*.af"))
    theirs, chunks = 0, WORKLOADS["gridded-smooth"].chunks
    config = pcodec.ChunkConfig(compression_level=8)
    for cells in data.values():
        for row in cells[:: DATASETS // 10]:
            for corner in np.ndindex(*(n // c for n, c in zip(row.shape, chunks, strict=True))):
                box = tuple(slice(i * c, (i + 1) * c) for i, c in zip(corner, chunks, strict=True))
                theirs += len(standalone.simple_compress(row[box].reshape(-1), config))
    theirs *= DATASETS / 10
    return f"Size: {ours / 1e6:.1f} MB, pcodec at level 8 {theirs / 1e6:.1f} MB: {ours / theirs:.2f} times it."


def small_reads(work: Path) -> str:
    """Return what reading one small chunk takes beside decoding it, and beside zarr and tensorstore."""
    cells = np.round(np.cumsum(np.random.default_rng(0).normal(0, 1, (40, 50)), axis=1), 2).astype("f4")
    with atlas.Atlas.create(work / "small") as store:
        view = store.create_dataset("d")
        view.define_array("t", "float32", ["y", "x"], cells.shape)
        view.write_array("t", [0, 0], cells)
    view = atlas.Atlas.open(work / "small", mode="r").open_dataset("d")
    index = view._session.snapshot.index("t")
    begin, length = (int(index.columns[name][0]) for name in ("offset", "length"))
    payload = view._session.snapshot._source(index.files[0]).bytes()[begin : begin + length]
    pipeline = int(index.columns["pipeline"][0])
    other = zarr.create_array(str(work / "small.zarr"), shape=cells.shape, chunks=cells.shape, dtype="f4")
    other[...] = cells
    kvstore = {"driver": "file", "path": str(work / "small.zarr")}
    third = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, read=True).result()
    atlas.warm_up()
    read = median(lambda: view.read_array("t"), 2000) * 1e6
    decode = median(lambda: decode_numbers(payload, pipeline, np.dtype("f4"), cells.shape), 2000) * 1e6
    theirs = median(lambda: other[...], 500) * 1e6
    least = median(lambda: third.read().result(), 2000) * 1e6
    return (
        f"One chunk of 8 kB: {read:.0f} µs, of which {decode:.0f} µs decode; zarr {theirs:.0f} µs, "
        f"tensorstore {least:.0f} µs."
    )


def main() -> None:
    atlas.warm_up()
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as work:
        place = Path(work) / "store"
        data = build(place)
        lines = ["# Limits", "", *full_reads(atlas.Atlas.open(place, mode="r"), data)]
        lines += ["", sizes(place, data), "", small_reads(Path(work)), ""]
    print("\n".join(lines))
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "table.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
