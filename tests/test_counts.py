"""What reads cost, counted: these numbers are the same on every machine."""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import atlas
from atlas import catalog, kernels, worker
from atlas.arena import shared_arena
from atlas.encoding import encode_rows
from atlas.executor import run
from atlas.fetching import balanced
from atlas.kernels import native
from atlas.plan import plan_reads


def build(place: Path, datasets: int) -> list[str]:
    names = [f"d{i:04d}" for i in range(datasets)]
    with atlas.Atlas.create(place) as store:
        for i, name in enumerate(names):
            view = store.create_dataset(name)
            view.define_array("t", "float32", ["y", "x"], [40, 60], [20, 30])
            cells = np.round(np.cumsum(np.random.default_rng(i).normal(0, 1, (40, 60)), axis=1), 2)
            view.write_array("t", [0, 0], cells.astype("f4"))
    return names


@pytest.fixture
def decoded(monkeypatch) -> Counter:
    """Count the chunks that are decoded, and how often kernels are called for that."""
    counts: Counter = Counter()

    class Counting:
        @staticmethod
        def unpack(src, rows, *rest):
            counts.update(chunks=len(rows), calls=1)
            native.unpack(src, rows, *rest)

        pack_rows, digest = staticmethod(native.pack_rows), staticmethod(native.digest)

    monkeypatch.setattr(kernels, "pick", lambda cost: Counting)
    return counts


def test_a_slice_decodes_only_the_chunks_it_touches(place, decoded):
    names = build(place, 12)
    store = atlas.Atlas.open(place)
    cases = [([0, 0], [20, 30], 1), ([19, 0], [2, 30], 2), ([19, 29], [2, 2], 4), ([0, 0], [0, 5], 0)]
    for start, shape, chunks in cases:
        decoded.clear()
        store.read_array_across_stacked("t", names, start, shape)
        assert decoded["chunks"] == chunks * len(names)
        assert decoded["calls"] <= 1  # a small read is one call, however many chunks it has


def test_a_few_small_chunks_are_read_without_a_plan(place, monkeypatch):
    names = build(place, 9)
    store = atlas.Atlas.open(place)
    expected = store.read_array_across_stacked("t", names, [3, 5], [10, 20])

    def unexpected(*arguments):
        raise AssertionError("a plan was made")

    monkeypatch.setattr("atlas.reader.plan_reads", unexpected)
    out = np.empty((5, 10, 20), "f4")
    assert store.read_array_across_stacked("t", names[:5], [3, 5], [10, 20], out=out) is out
    assert out.tobytes() == expected[:5].tobytes()
    assert [row.tobytes() for row in store.read_array_across("t", [names[8], names[0]], [3, 5], [10, 20])] == [
        expected[8].tobytes(),
        expected[0].tobytes(),
    ]
    for more in (names, [*names[:5], names[0], names[0]]):
        with pytest.raises(AssertionError, match="a plan was made"):
            store.read_array_across_stacked("t", more, [3, 5], [10, 20])


@pytest.mark.parametrize(("shape", "most"), [((), 8), ((7,), 8), ((100,), 6), ((1000, 65), 6), ((1000, 700), 1)])
def test_how_many_chunks_are_few(place, monkeypatch, shape, most):
    names = [f"d{i}" for i in range(13)]
    cells = np.random.default_rng(0).integers(0, 900, (13, *shape)).astype("f4")
    with atlas.Atlas.create(place) as store:
        store.create_datasets(names, {"t": {"dims": list("xyz")[: len(shape)], "data": cells}})
    plans = []

    def noting(*arguments):
        plans.append(1)
        return plan_reads(*arguments)

    monkeypatch.setattr("atlas.reader.plan_reads", noting)
    store = atlas.Atlas.open(place)
    for count in range(1, 14):
        plans.clear()
        assert store.read_array_across_stacked("t", names[:count]).tobytes() == cells[:count].tobytes()
        assert bool(plans) == (count > most)


def test_of_a_chunk_alone_the_box_is_unpacked_where_it_is_wanted(place, monkeypatch):
    names = build(place, 5)
    kernels.load()
    store = atlas.Atlas.open(place)
    whole = store.read_array_across_stacked("t", names)
    unpacked = []

    def noting(src, stored, box, out, element):
        unpacked.append((box, out))
        native.unpack_one(src, stored, box, out, element)

    monkeypatch.setattr(kernels, "pick", lambda cost, compiled=False: SimpleNamespace(unpack_one=noting))
    out = np.empty((5, 1, 30), "f4")
    found = store.read_array_across_stacked("t", names, [22, 0], [1, 30], out=out)
    assert found is out
    assert found.tobytes() == whole[:, 22:23, :30].tobytes()
    assert [box for box, _ in unpacked] == [((20, 30), (2, 0), (1, 30))] * 5
    assert all(np.shares_memory(row, target) for (_, row), target in zip(unpacked, out, strict=True))
    cell = store.open_dataset(names[0]).read_array("t", [22, 7], [1, 1])
    assert cell == whole[0, 22, 7]
    assert np.shares_memory(cell, unpacked[-1][1])


def test_arrays_that_were_never_written_are_filled_together(place):
    names = [f"d{i:03d}" for i in range(300)]
    with atlas.Atlas.create(place) as store:
        store.create_datasets(names, {"t": {"dims": ["x"], "dtype": "float32", "shape": [7], "fill_value": -1.0}})
    store = atlas.Atlas.open(place, executor="serial")
    few, many = (python_calls(partial(store.read_array_across_stacked, "t", some)) for some in (names[:20], names))
    assert many - few < 280
    assert (store.read_array_across_stacked("t", names) == -1).all()


def test_unequal_arrays_are_not_stacked_however_few_and_small(place):
    with atlas.Atlas.create(place) as store:
        for name, size in (("a", 4), ("b", 5)):
            store.create_dataset(name).define_array("t", "float32", ["x"], [size])
            store.open_dataset(name).write_array("t", [0], np.arange(size, dtype="f4"))
    store = atlas.Atlas.open(place)
    with pytest.raises(atlas.ShapeMismatch, match=r"'a'.*'b'"):
        store.read_array_across_stacked("t", ["a", "b"], [0], [2])
    assert [row.tolist() for row in store.read_array_across("t", ["b", "a"], [1], [2])] == [[1, 2], [1, 2]]


def test_a_read_within_one_chunk_makes_no_plan(place, monkeypatch):
    build(place, 3)
    view = atlas.Atlas.open(place).open_dataset("d0001")
    expected = view.read_array("t")

    def unexpected(*arguments):
        raise AssertionError("a plan was made")

    monkeypatch.setattr("atlas.reader.plan_reads", unexpected)
    assert view.read_array("t", [20, 30], [20, 30]).tobytes() == expected[20:, 30:].tobytes()
    assert view.read_array("t", [3, 5], [1, 7]).tobytes() == expected[3:4, 5:12].tobytes()
    with pytest.raises(AssertionError, match="a plan was made"):
        view.read_array("t", [19, 0], [2, 1])


def test_names_are_looked_up_once_in_each_state_of_the_store(place, monkeypatch):
    names = build(place, 12)
    store = atlas.Atlas.open(place)
    looked_up = []

    def seek(names):
        looked_up.append(len(names))
        return real(names)

    real = catalog.seek
    monkeypatch.setattr(catalog, "seek", seek)
    for start in ([0, 0], [3, 0]):
        store.read_array_across_stacked("t", list(names), start, [20, 30])
    assert looked_up == [12]
    store.read_array_across_stacked("t", names[::-1])
    assert looked_up == [12, 12]
    store.open_dataset(names[0]).set_attribute("k", 1)
    looked_up.clear()
    store.flush()
    store.read_array_across_stacked("t", names)
    assert 12 in looked_up
    monkeypatch.setattr(catalog, "_REMEMBERED_NAMES", 30)
    for few in range(9, 12):
        store.read_array_across_stacked("t", names[:few])
    assert sum(map(len, store._session.snapshot.root.catalog._lists)) <= 30


def test_of_many_small_reads_few_are_remembered(place, monkeypatch):
    """Adding up what all of them remember would take longer than looking names up."""
    names = build(place, 12)
    monkeypatch.setattr(catalog, "_REMEMBERED_READS", 5)
    store = atlas.Atlas.open(place)
    for i in range(12):
        store.read_array_across_stacked("t", [*names[:6], names[i]])
        assert len(store._session.snapshot.root.catalog._lists) <= 5


def test_names_in_any_order_take_a_call_per_file(place, decoded, monkeypatch):
    monkeypatch.setattr("atlas.datafiles.MERGE_ALWAYS", 0)
    monkeypatch.setattr("atlas.datafiles.MERGE_RATIO", 0)
    names = build(place, 12)
    with atlas.Atlas.open(place) as store:
        for name in names[::2]:
            view = store.open_dataset(name)
            view.write_array("t", [0, 0], view.read_array("t")[::-1])
    store = atlas.Atlas.open(place)
    assert len(store._session.snapshot.index("t").files) == 2
    decoded.clear()
    found = store.read_array_across_stacked("t", names)
    assert decoded == {"chunks": 48, "calls": 2}
    assert all(
        row.tobytes() == store.open_dataset(name).read_array("t").tobytes()
        for name, row in zip(names, found, strict=True)
    )


def python_calls(read: Callable[[], object]) -> int:
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event == "call"

    read()
    sys.setprofile(count)
    try:
        read()
    finally:
        sys.setprofile(None)
    return calls


def test_no_python_function_is_called_per_chunk(place):
    names = build(place, 300)
    kernels.load()
    store = atlas.Atlas.open(place, executor="serial")
    few, many = (python_calls(partial(store.read_array_across_stacked, "t", some)) for some in (names[:20], names))
    # Names are looked up one by one; each of these datasets has four chunks.
    assert many - few < 280 + 40


def test_unequal_datasets_take_a_few_calls_each(place):
    names = [f"p{i:03d}" for i in range(300)]
    with atlas.Atlas.create(place) as store:
        for i, name in enumerate(names):
            view = store.create_dataset(name)
            for array, dtype, data in (
                ("t", "float64", np.arange(i + 1.0)),
                ("s", "string", np.array(["x"] * (i + 1))),
            ):
                view.define_array(array, dtype, ["z"], data.shape)
                view.write_array(array, [0], data)
    kernels.load()
    store = atlas.Atlas.open(place, executor="serial")
    for array, calls in (("t", 10), ("s", 30)):
        few, many = (python_calls(partial(store.read_array_across, array, some)) for some in (names[:20], names))
        assert many - few < calls * 280
    assert [len(cells) for cells in store.read_array_across("t", names)] == list(range(1, 301))


def test_every_task_of_a_read_is_a_range_of_chunks(place, monkeypatch):
    names = build(place, 50)
    ranges: list[tuple[int, int]] = []

    def counting(job, low, high):
        ranges.append((low, high))
        return worker.decode_range(job, low, high)

    monkeypatch.setattr("atlas.reader.decode_range", counting)
    store = atlas.Atlas.open(place, workers=2, executor="threads")
    store.read_array_across_stacked("t", names)
    assert sorted(ranges)[0][0] == 0
    assert sorted(ranges)[-1][1] == 200
    assert len(ranges) == 4


@pytest.mark.parametrize(("rows", "threshold", "tasks"), [(20, 40_000, 4), (1, 40_000, 1), (1, 25_000, 4)])
def test_rows_behind_a_box_are_no_work_for_threads(place, monkeypatch, rows, threshold, tasks):
    """But of fifty chunks each takes a while, however little of it is wanted."""
    names = build(place, 50)
    monkeypatch.setenv("ATLAS_PARALLEL_THRESHOLD", str(threshold))
    atlas.config.settings.cache_clear()
    ranges = []

    def counting(job, low, high):
        ranges.append((low, high))
        return worker.decode_range(job, low, high)

    monkeypatch.setattr("atlas.reader.decode_range", counting)
    store = atlas.Atlas.open(place, workers=2)
    store.read_array_across_stacked("t", names, [0, 0], [rows, 30])
    assert len(ranges) == tasks


@pytest.mark.parametrize("shape", [[20, 30], [40, 60]])
def test_large_arrays_are_read_into_memory_that_is_used_again(place, monkeypatch, shape):
    (name,) = build(place, 1)
    monkeypatch.setenv("ATLAS_PARALLEL_THRESHOLD", "1000")
    atlas.config.settings.cache_clear()
    view = atlas.Atlas.open(place).open_dataset(name)
    cells = view.read_array("t", [0, 0], shape)
    free = shared_arena().free_bytes
    del cells
    assert shared_arena().free_bytes > free


def test_large_results_go_past_the_caches_unless_their_memory_is_new(place, monkeypatch):
    names, jobs = build(place, 12), []
    monkeypatch.setattr("atlas.reader.run", lambda task, job, *rest: jobs.append(job) or run(task, job, *rest))
    store = atlas.Atlas.open(place)
    expected = store.read_array_across_stacked("t", names)
    for threshold in (expected.nbytes, expected.nbytes + 1):
        monkeypatch.setattr("atlas.reader._STREAM_FROM", threshold)
        for pages in (mmap.mmap(-1, expected.nbytes), bytearray(b"!" * expected.nbytes)):
            out = np.frombuffer(pages, expected.dtype).reshape(expected.shape)
            assert store.read_array_across_stacked("t", names, out=out).tobytes() == expected.tobytes()
    assert [job.streams for job in jobs] == [False, False, True, False, False]


FIRST_READ = """
store = atlas.Atlas.open(sys.argv[1])
store.read_array_across_stacked("t", store.list_datasets())
"""
FIRST_WRITE = """
with atlas.Atlas.create(sys.argv[1]) as store:
    store.create_datasets(["a", "b"], {"t": {"dims": ["x"], "data": np.arange(6.0).reshape(2, 3)}})
    view = store.create_dataset("c")
    view.define_array("t", "float64", ["x"], [3])
    view.write_array("t", [0], np.arange(3.0))
    view.set_attribute("depth", 3)
store = atlas.Atlas.open(sys.argv[1])
store.delete_dataset("a")
store.flush()
store.pruning_index(global_attrs=["depth"])
store.compact()
"""
HEAVY = [
    *("numba", "loky", "xarray", "dask", "fsspec", "s3fs", "pandas", "zstandard", "llvmlite", "lz4", "rich"),
    "numpy.ma",
]


def imported(program: str, place: Path) -> list[str]:
    ending = f"import json; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    command = [sys.executable, "-c", f"import sys, numpy as np, atlas\n{program}\n{ending}", place]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_a_first_read_imports_only_what_it_needs(tmp_path):
    kernels.load()
    build(tmp_path / "small", 5)
    assert imported(FIRST_READ, tmp_path / "small") == []
    build(tmp_path / "large", 300)
    assert imported(FIRST_READ, tmp_path / "large") == ["zstandard", "llvmlite"]


def test_first_writes_and_searches_import_only_what_they_need(tmp_path):
    assert imported(FIRST_WRITE, tmp_path / "new") == ["zstandard"]


def test_chunks_are_packed_many_at_a_time(place, monkeypatch):
    """Threads that encode wait for each other whenever a kernel returns, so it is called for 8 MiB, not for a chunk."""
    rows, pack_rows = [], native.pack_rows
    monkeypatch.setattr(native, "pack_rows", lambda cells, *how: rows.append(len(cells)) or pack_rows(cells, *how))
    data = np.round(np.cumsum(np.random.default_rng(1).normal(0, 1, (60, 200, 400)), axis=2), 2).astype("f4")
    with atlas.Atlas.create(place, workers=2) as store:
        names = [f"d{i:02d}" for i in range(len(data))]
        store.create_datasets(names, {"t": {"dims": ["y", "x"], "chunk_shape": [200, 200], "data": data}})
        store.create_dataset("one").define_array("t", "float32", ["y", "x"], [12_000, 400], [200, 200])
        assert sorted(rows) == [8, 8, 52, 52]
        rows.clear()
        store.open_dataset("one").write_array("t", [0, 0], data.reshape(12_000, 400))
        assert len(rows) <= 4
        assert sum(rows) == 120


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_a_task_of_a_large_read_decodes_little_at_once(workers):
    """What it used of the files counts as memory until it ends."""
    ranges = balanced(np.full(1000, 1 << 20), 1000 << 20, None, workers)
    assert [low for low, _ in ranges] == [0, *(high for _, high in ranges[:-1])]
    assert ranges[-1][1] == 1000
    assert max(high - low for low, high in ranges) <= 65


@pytest.mark.parametrize("workers", [2, 3, 8])
@pytest.mark.parametrize("chunks", [40, 366, 733, 1000])
def test_every_worker_has_as_many_tasks(workers, chunks):
    """Of five tasks for two workers, one would do three while the other waits."""
    ranges = balanced(np.full(chunks, 1 << 20), chunks << 20, None, workers)
    assert len(ranges) % workers == 0
    sizes = [high - low for low, high in ranges]
    assert max(sizes) - min(sizes) <= 2


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs /proc")
def test_a_large_result_leaves_no_mapped_pages_behind(place, monkeypatch):
    def resident() -> int:
        """Kibibytes of data files that count as this process's memory."""
        total, ours = 0, False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            if "-" in line.split(" ")[0]:
                ours = str(place) in line and line.endswith(".af")
            elif ours and line.startswith("Rss:"):
                total += int(line.split()[1])
        return total

    names = build(place, 12)
    store = atlas.Atlas.open(place)
    expected = store.read_array_across_stacked("t", names)
    assert resident() > 4
    monkeypatch.setattr("atlas.reader._LET_GO_ABOVE", 0)
    assert store.read_array_across_stacked("t", names).tobytes() == expected.tobytes()
    assert resident() <= 4, "but for the page that begins with the file's magic"
    assert store.read_array_across_stacked("t", names).tobytes() == expected.tobytes()


def test_small_chunks_of_one_dataset_are_encoded_together(place, monkeypatch):
    cells = np.random.default_rng(0).integers(0, 900, (2, 401, 30)).astype("f4")
    batches = []

    def counting(schema, chunks, config):
        batches.append(len(chunks))
        return encode_rows(schema, chunks, config)

    monkeypatch.setattr("atlas.encoding.encode_rows", counting)
    with atlas.Atlas.create(place) as store:
        store.create_datasets(["a", "b"], {"t": {"dims": ["y", "x"], "chunk_shape": [3, 20], "data": cells}})
    # By shape: whole ones and those at the end of a row alternate, and the last row is shorter.
    assert sum(batches) == 2 * 134 * 2
    assert atlas.Atlas.open(place).read_array_across_stacked("t", ["b", "a"]).tobytes() == cells[::-1].tobytes()
    batches.clear()
    with atlas.Atlas.create(place, overwrite=True) as store:
        store.create_datasets(["a", "b"], {"t": {"dims": ["y", "x"], "chunk_shape": [1, 30], "data": cells}})
    assert batches == [2 * 401]
    assert atlas.Atlas.open(place).read_array_across_stacked("t", ["b", "a"]).tobytes() == cells[::-1].tobytes()
