"""What stores on S3 cost in time: ``python -m perf.objectstore`` (``make bench-s3``).

A server (rclone's, in memory-backed files where there are such) stands behind a proxy that makes every request wait for
30 ms and lets 200 MB/s through, both ways and all connections together. Every measurement is a process of its own;
the clock runs from before the store is opened, connections included, until the result is there. What systems
return is compared.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests")]

from objectstore import servers  # noqa: E402

BUCKET = "bench"
LATENCY, BANDWIDTH = 0.030, 200e6
FLEET = 10_000
MANY = 1_000
FIELD, CHUNK = (8, 96, 96), (2, 96, 96)
PROFILE, PROFILE_CHUNK = (50, 168), (25, 84)
JOINED_BYTES = 1 << 20


# ── what is stored ───────────────────────────────────────────────────────────────────────────────


def names(count: int) -> list[str]:
    return [f"dataset_{i:06d}" for i in range(count)]


def cells(shape: tuple[int, ...], count: int) -> np.ndarray:
    """Smooth fields with a little noise, to two decimals."""
    rng = np.random.default_rng(7)
    axes = np.meshgrid(*(np.linspace(0, 3, n) for n in shape), indexing="ij", sparse=True)
    wave = sum(np.sin((i + 1) * axis) for i, axis in enumerate(axes))
    result = np.empty((count, *shape), np.float32)
    for row in result:
        row[...] = np.round(15 + rng.uniform(1, 9) * wave + rng.normal(0, 0.05, shape), 2)
    return result


def attributes(i: int) -> dict[str, Any]:
    return {"platform": "float" if i % 2 else "buoy", "number": i, "lat": i / 1000}


def digest(value: Any) -> str:
    data = value.tobytes() if isinstance(value, np.ndarray) else json.dumps(value, sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()[:16]


def joined(chunk: tuple[int, ...]) -> tuple[int, ...]:
    """Stacked layouts store the chunks of neighbouring datasets as one, a mebibyte of cells."""
    return (max(1, JOINED_BYTES // (4 * int(np.prod(chunk)))), *chunk)


def selection(shape: tuple[int, ...], chunk: tuple[int, ...]) -> tuple[slice, ...]:
    """A box in the first chunk of every dataset."""
    return (slice(None), *(slice(0, n) for n in chunk))


# ── the systems: each writes a workload, and reads it ────────────────────────────────────────────


class Atlas:
    """One store; the default client is s3fs."""

    def __init__(self, port: int) -> None:
        import s3fs  # noqa: F401 - the clock is not for imports

        import atlas
        import atlas.pruning
        import atlas.storage.remote
        import atlas.store

        self.atlas = atlas
        self.options = {"storage_options": servers.options(port), "single_writer": True}

    def put_fleet(self, prefix: str) -> None:
        store = self.atlas.Atlas.create(f"s3://{BUCKET}/{prefix}", **self.options)
        for i, name in enumerate(names(FLEET)):
            view = store.create_dataset(name)
            for array in ("temperature", "salinity", "pressure"):
                view.define_array(array, "float32", ["depth", "time"], PROFILE, chunk_shape=PROFILE_CHUNK)
            for key, value in attributes(i).items():
                view.set_attribute(key, value)
        store.flush()

    def read_fleet(self, prefix: str) -> Any:
        store = self.atlas.Atlas.open(f"s3://{BUCKET}/{prefix}", mode="r", **self.options)
        found = store.list_datasets()
        arrays = {name: (entry["dtype"], None) for name, entry in store.merged_schema()["arrays"].items()}
        columns = store.pruning_index(arrays=[], global_attrs=["platform", "number", "lat"])["columns"]
        return lambda: [
            found,
            sorted(arrays),
            [value.decode() for value in columns["platform"]["min"]],
            columns["number"]["min"].tolist(),
            columns["lat"]["min"].tolist(),
        ]

    def put_many(self, prefix: str, data: np.ndarray, chunk: tuple[int, ...]) -> None:
        dims = [f"d{i}" for i in range(data.ndim - 1)]
        with self.atlas.Atlas.create(f"s3://{BUCKET}/{prefix}", **self.options) as store:
            layout = {"dtype": "float32", "dims": dims, "shape": list(data.shape[1:]), "chunk_shape": list(chunk)}
            store.create_datasets(names(len(data)), {"t": layout})
            store.write_stacked("t", names(len(data)), data)

    def read_many(self, prefix: str, box: tuple[slice, ...]) -> np.ndarray:
        store = self.atlas.Atlas.open(f"s3://{BUCKET}/{prefix}", mode="r", **self.options)
        return store.read_array_across_stacked(
            "t", store.list_datasets(), [s.start for s in box[1:]], [s.stop - s.start for s in box[1:]]
        )


class AtlasObstore(Atlas):
    """The same through obstore."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        import obstore.store  # noqa: F401

        import atlas.storage.obstore_client  # noqa: F401

        self.options["storage_options"]["client"] = "obstore"


class Zarr:
    """Zarr 3: consolidated metadata, one stacked array."""

    def __init__(self, port: int) -> None:
        import obstore.store  # noqa: F401
        import s3fs  # noqa: F401
        import zarr
        import zarr.storage

        # Its own choice, 10 requests at a time, is less than what hides the latency here.
        zarr.config.set({"async.concurrency": 64})
        self.zarr, self.port = zarr, port

    def place(self, prefix: str, read_only: bool = False) -> Any:
        from obstore.store import S3Store
        from zarr.storage import ObjectStore

        store = S3Store(
            BUCKET,
            prefix=prefix,
            endpoint=f"http://127.0.0.1:{self.port}",
            access_key_id=servers.KEY,
            secret_access_key=servers.SECRET,
            region=servers.REGION,
            client_options={"allow_http": True},
        )
        return ObjectStore(store, read_only=read_only)

    def read_fleet(self, prefix: str) -> Any:
        group = self.zarr.open_group(self.place(prefix, True), mode="r", zarr_format=3, use_consolidated=True)
        found = sorted(group.group_keys())
        values = [group[name].attrs.asdict() for name in found]
        arrays = sorted(group[found[0]].array_keys())
        return lambda: [found, arrays, *([v[k] for v in values] for k in ("platform", "number", "lat"))]

    def put_many(self, prefix: str, data: np.ndarray, chunk: tuple[int, ...]) -> None:
        self.target(prefix, data, chunk)[...] = data

    def target(self, prefix: str, data: np.ndarray, chunk: tuple[int, ...]) -> Any:
        return self.zarr.create_array(
            self.place(prefix), name="t", shape=data.shape, dtype=data.dtype, chunks=joined(chunk)
        )

    def read_many(self, prefix: str, box: tuple[slice, ...]) -> np.ndarray:
        return self.zarr.open_array(self.place(prefix, True), path="t", mode="r")[box]


class ZarrGroups(Zarr):
    """Zarr 3 through obstore with a group a dataset, as datasets are that come one by one; 32 threads."""

    def each(self, action: Callable[[str], Any]) -> list[Any]:
        with ThreadPoolExecutor(32) as threads:
            return list(threads.map(action, names(MANY)))

    def put_many(self, prefix: str, data: np.ndarray, chunk: tuple[int, ...]) -> None:
        place = self.place(prefix)
        rows = dict(zip(names(MANY), data, strict=True))

        def put(name: str) -> None:
            cells = rows[name]
            target = self.zarr.create_array(
                place, name=f"{name}/t", shape=cells.shape, dtype=cells.dtype, chunks=chunk, overwrite=False
            )
            target[...] = cells

        self.each(put)

    def read_many(self, prefix: str, box: tuple[slice, ...]) -> np.ndarray:
        place = self.place(prefix, True)
        return np.stack(self.each(lambda name: self.zarr.open_array(place, path=f"{name}/t", mode="r")[box[1:]]))


class ZarrDask(Zarr):
    """Zarr 3 through s3fs, in dask blocks of about 32 MiB, 16 threads: they wait for requests."""

    def place(self, prefix: str, read_only: bool = False) -> Any:
        from zarr.storage import FsspecStore

        options = servers.options(self.port) | {"asynchronous": True}
        # Zarr asks for parts, and this server sends the checksum of the whole along.
        options["config_kwargs"] = {"response_checksum_validation": "when_required", "max_pool_connections": 64}
        return FsspecStore.from_url(f"s3://{BUCKET}/{prefix}", storage_options=options, read_only=read_only)

    def blocks(self, shape: tuple[int, ...], chunk: tuple[int, ...]) -> tuple[int, ...]:
        rows = max(1, (32 << 20) // (4 * int(np.prod(shape[1:]))) // chunk[0]) * chunk[0]
        return (min(rows, shape[0]), *shape[1:])

    def put_many(self, prefix: str, data: np.ndarray, chunk: tuple[int, ...]) -> None:
        import dask.array as da

        target = self.target(prefix, data, chunk)
        source = da.from_array(data, chunks=self.blocks(data.shape, target.chunks))
        da.store(source, target, lock=False, scheduler="threads", num_workers=16)

    def read_many(self, prefix: str, box: tuple[slice, ...]) -> np.ndarray:
        import dask.array as da

        source = self.zarr.open_array(self.place(prefix, True), path="t", mode="r")
        return da.from_array(source, chunks=self.blocks(source.shape, source.chunks))[box].compute(
            scheduler="threads", num_workers=16
        )


class TensorStore:
    """The zarr3 driver, one stacked array; metadata of groups by its key-value store."""

    def __init__(self, port: int) -> None:
        import tensorstore

        self.ts, self.port = tensorstore, port
        os.environ.update(AWS_ACCESS_KEY_ID=servers.KEY, AWS_SECRET_ACCESS_KEY=servers.SECRET)

    def kvstore(self, prefix: str) -> dict[str, Any]:
        return {
            "driver": "s3",
            "bucket": BUCKET,
            "path": f"{prefix}/",
            "endpoint": f"http://127.0.0.1:{self.port}",
            "aws_region": servers.REGION,
        }

    def read_fleet(self, prefix: str) -> Any:
        # It knows no groups and no consolidated metadata: a document a dataset, all at once.
        store = self.ts.KvStore.open(self.kvstore(prefix)).result()
        waiting = [store.read(f"{name}/zarr.json") for name in names(FLEET)]
        documents = [json.loads(answer.result().value) for answer in waiting]
        arrays = ["pressure", "salinity", "temperature"]
        values = [document["attributes"] for document in documents]
        return lambda: [names(FLEET), arrays, *([v[k] for v in values] for k in ("platform", "number", "lat"))]

    def put_many(self, prefix: str, data: np.ndarray, chunk: tuple[int, ...]) -> None:
        codecs = [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "zstd", "configuration": {"level": 3}},
        ]
        grid = {"name": "regular", "configuration": {"chunk_shape": joined(chunk)}}
        spec = {"shape": data.shape, "data_type": "float32", "chunk_grid": grid, "codecs": codecs}
        place = {"driver": "zarr3", "kvstore": self.kvstore(f"{prefix}/t"), "metadata": spec}
        self.ts.open(place, create=True).result().write(data).result()

    def read_many(self, prefix: str, box: tuple[slice, ...]) -> np.ndarray:
        place = {"driver": "zarr3", "kvstore": self.kvstore(f"{prefix}/t")}
        return self.ts.open(place, read=True).result()[box].read(order="C").result()


SYSTEMS: dict[str, Callable[[int], Any]] = {
    "atlas": Atlas,
    "atlas+obstore": AtlasObstore,
    "zarr+obstore": Zarr,
    "zarr+obstore, groups": ZarrGroups,
    "zarr+s3fs+dask": ZarrDask,
    "tensorstore": TensorStore,
}


def put_zarr_fleet(directory: Path) -> None:
    """Write the metadata of a group a dataset, and all of it once more in the root, without a request."""
    import zarr

    with tempfile.TemporaryDirectory() as scratch:
        group = zarr.create_group(scratch, attributes=attributes(0))
        for array in ("temperature", "salinity", "pressure"):
            group.create_array(array, shape=PROFILE, dtype="float32", chunks=PROFILE_CHUNK)
        own = json.loads((Path(scratch) / "zarr.json").read_text())
        arrays = {a: json.loads((Path(scratch) / a / "zarr.json").read_text()) for a in group.array_keys()}
    consolidated = {}
    for i, name in enumerate(names(FLEET)):
        document = own | {"attributes": attributes(i)}
        consolidated[name] = document
        for path, content in [("", document), *((a, d) for a, d in arrays.items())]:
            place = directory / name / path
            place.mkdir(parents=True, exist_ok=True)
            (place / "zarr.json").write_text(json.dumps(content))
            if path:
                consolidated[f"{name}/{path}"] = content
    root = own | {"attributes": {}}
    root["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": consolidated}
    (directory / "zarr.json").write_text(json.dumps(root))


# ── one measurement, in a process of its own ─────────────────────────────────────────────────────

WORKLOADS = ("catalogue", "slice", "slice of profiles", "write", "write profiles")


def shapes(workload: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return (PROFILE, PROFILE_CHUNK) if "profiles" in workload else (FIELD, CHUNK)


def prefix_of(system: str, workload: str) -> str:
    if workload == "catalogue":
        system = system if system.startswith("atlas") else "zarr"
    return f"{workload}-{system}".replace(" ", "-").replace("+", "-").replace(",", "")


def measure(system: str, workload: str, port: int, prefix: str) -> dict[str, Any]:
    contender = SYSTEMS[system](port)
    shape, chunk = shapes(workload)
    data = cells(shape, MANY) if workload.startswith("write") else None
    warm = getattr(contender, "atlas", None)
    if warm is not None:
        warm.warm_up(1)  # kernels are loaded, as the others' machine code is when they are imported
    began = time.perf_counter()
    if workload == "catalogue":
        found = contender.read_fleet(prefix)
    elif data is not None:
        contender.put_many(prefix, data, chunk)
    else:
        found = contender.read_many(prefix, selection(shape, chunk))
    seconds = time.perf_counter() - began
    if data is not None:
        found = contender.read_many(prefix, (slice(None), *(slice(0, n) for n in shape)))
    return {"seconds": seconds, "digest": digest(found() if callable(found) else np.ascontiguousarray(found))}


# ── all of them ──────────────────────────────────────────────────────────────────────────────────


@contextmanager
def proxy(upstream: int) -> Iterator[int]:
    command = [
        sys.executable,
        str(ROOT / "tests" / "objectstore" / "proxy.py"),
        str(upstream),
        str(LATENCY),
        str(BANDWIDTH),
    ]
    process = subprocess.Popen(command, cwd=ROOT / "tests", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield int(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait(10)


def prepare(directory: Path, port: int, workloads: list[str]) -> None:
    """Write what is read, past the proxy."""
    if "catalogue" in workloads:
        put_zarr_fleet(directory / BUCKET / prefix_of("zarr", "catalogue"))
        for name in ("atlas", "atlas+obstore"):
            SYSTEMS[name](port).put_fleet(prefix_of(name, "catalogue"))
    for workload in workloads:
        if workload.startswith("slice"):
            shape, chunk = shapes(workload)
            data = cells(shape, MANY)
            for name, system in SYSTEMS.items():
                system(port).put_many(prefix_of(name, workload), data, chunk)


def run(system: str, workload: str, port: int, number: int) -> dict[str, Any]:
    prefix = prefix_of(system, workload) + (f"-{number}" if workload.startswith("write") else "")
    command = [sys.executable, "-m", "perf.objectstore", "--measure", system, workload, str(port), prefix]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    if process.returncode:
        return {"error": (process.stderr.strip().splitlines() or ["?"])[-1]}
    return json.loads(process.stdout.splitlines()[-1])


def table(results: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    systems = list(SYSTEMS)
    lines = [
        "| seconds | " + " | ".join(systems) + " | best of the others ÷ atlas |",
        "|---|" + "---|" * (len(systems) + 1),
    ]
    for workload, by_system in results.items():
        medians = {
            system: statistics.median(run["seconds"] for run in runs)
            if runs and all("seconds" in run for run in runs)
            else None
            for system, runs in by_system.items()
        }
        others = [value for system, value in medians.items() if not system.startswith("atlas") and value]
        shown = [f"{medians[s]:.2f}" if medians.get(s) else "–" for s in systems]
        ratio = " / ".join(
            f"{min(others) / medians[own]:.1f}" if others and medians.get(own) else "–"
            for own in systems
            if own.startswith("atlas")
        )
        lines.append(f"| {workload} | {' | '.join(shown)} | {ratio} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--out", type=Path, default=ROOT / "perf" / "results" / "objectstore")
    parser.add_argument("--measure", nargs=4, metavar=("SYSTEM", "WORKLOAD", "PORT", "PREFIX"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        system, workload, port, prefix = options.measure
        print(json.dumps(measure(system, workload, int(port), prefix)))
        return
    scratch = "/dev/shm" if os.path.isdir("/dev/shm") else None
    directory = Path(tempfile.mkdtemp(dir=scratch))
    try:
        (directory / BUCKET).mkdir()
        with servers.rclone(directory) as upstream, proxy(upstream) as port:
            prepare(directory, upstream, options.only)
            results: dict[str, dict[str, list[dict[str, Any]]]] = {}
            for workload in options.only:
                runs = results[workload] = {system: [] for system in SYSTEMS}
                for number in range(options.repeat):
                    for system in SYSTEMS:
                        if workload == "catalogue" and system == "zarr+obstore, groups":
                            continue  # that is how all of them have it
                        runs[system].append(run(system, workload, port, number))
                        print(workload, system, runs[system][-1], flush=True)
                seen = {item.get("digest") for several in runs.values() for item in several if "digest" in item}
                if len(seen) != 1:
                    raise SystemExit(f"{workload}: the systems do not return the same")
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    text = table(results)
    (options.out / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
