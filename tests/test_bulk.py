"""Many datasets at once: the same as one after another, whole or not at all, and in bounded memory."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import atlas
from atlas import Atlas, datafiles, heap, spill
from atlas.errors import (
    ArrayNotFound,
    DatasetAlreadyExists,
    DatasetNotFound,
    DataTypeError,
    InvalidArgument,
    InvalidName,
    SelectionError,
    ShapeMismatch,
    StorageError,
)

NAMES = [f"d{i}" for i in range(6)]
TYPES = ["float32", "float64", "int16", "bool", "uint64", "complex64", "datetime64[s]", "string"]


def cells(dtype: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    numbers = rng.integers(0, 2 if dtype == "bool" else 5, shape)
    if dtype == "string":
        return np.array([f"é{n}" * (n % 3) for n in numbers.reshape(-1)], object).reshape(shape)
    found = numbers.astype("M8[s]") if dtype.startswith("datetime") else numbers.astype(dtype)
    if dtype.startswith("float"):
        found[rng.random(shape) < 0.2] = np.nan
    return found


def define(store: Atlas, names: list[str], dtype: str, shape: tuple[int, ...], chunk: Any, fill: Any) -> None:
    for name in names:
        view = store.create_dataset(name)
        view.define_array("v", dtype, ["y", "x"], shape, chunk, fill)


@st.composite
def histories(draw):
    dtype = draw(st.sampled_from(TYPES))
    fill = draw(st.sampled_from([None, {"string": "é1", "bool": True}.get(dtype, 3), "nan"]))
    if fill == "nan":
        fill = float("nan") if dtype.startswith("float") else None
    shape = (draw(st.integers(1, 5)), draw(st.integers(1, 6)))
    chunk = draw(st.sampled_from([None, (2, 3), (1, 6)]))
    steps = []
    for _ in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from(["stacked", "stacked", "stacked", "single", "delete", "attribute", "flush"]))
        names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=8))
        start = [draw(st.integers(0, n - 1)) for n in shape] if draw(st.booleans()) else [0, 0]
        box = tuple(draw(st.integers(0, n - s)) for n, s in zip(shape, start, strict=True))
        steps.append((kind, names, start, shape if start == [0, 0] and draw(st.booleans()) else box))
    return dtype, fill, shape, chunk, draw(st.booleans()), steps


def run(place: str, history: Any, bulk: bool) -> tuple[list[Any], list[Any]]:
    """Play a history; return what is read before and after the last flush."""
    dtype, fill, shape, chunk, flushed, steps = history
    store = Atlas.create(place, workers=1, pending_bytes=200)
    if bulk:
        spec = {"dtype": dtype, "dims": ["y", "x"], "shape": shape, "chunk_shape": chunk, "fill_value": fill}
        store.create_datasets(NAMES, {"v": spec}, {"n": list(range(6))})
    else:
        define(store, NAMES, dtype, shape, chunk, fill)
        for i, name in enumerate(NAMES):
            store.open_dataset(name).set_attribute("n", i)
    if flushed:
        store.flush()
    for seed, (kind, names, start, box) in enumerate(steps):
        names = [name for name in names if store.dataset_exists(name)]
        if not names:
            continue
        if kind == "flush":
            store.flush()
        elif kind == "delete":
            store.delete_dataset(names[0])
        elif kind == "attribute":
            store.open_dataset(names[0]).set_attribute("n", -1)
        else:
            data = cells(dtype, (len(names), *box), seed)
            if kind == "stacked" and bulk:
                store.write_stacked("v", names, data, start)
            else:
                for name, row in zip(names, data, strict=True):
                    store.open_dataset(name).write_array("v", start, row)
    before = seen(store)
    store.flush()
    again = Atlas.open(place)
    assert seen(again)[0] == before[0]
    statistics = [again.open_dataset(name).array_stats("v") for name in again.list_datasets()]
    store.compact()
    assert [store.open_dataset(n).array_stats("v") for n in store.list_datasets()] == statistics
    assert seen(store) == before
    assert store.verify().ok
    return before, statistics


def seen(store: Atlas) -> list[Any]:
    names = store.list_datasets()
    values = [store.open_dataset(name).read_array("v") for name in names]
    shown = [value.tolist() if value.dtype == object else value.tobytes() for value in values]
    if names:
        stacked = store.read_array_across_stacked("v", names)
        for row, value in zip(stacked, values, strict=True):
            assert row.tolist() == value.tolist() if value.dtype == object else row.tobytes() == value.tobytes()
    return [names, shown, [store.open_dataset(name).attributes() for name in names], len(store)]


@settings(max_examples=40)
@given(histories())
def test_stacked_writes_are_what_a_loop_of_single_ones_is(history):
    with tempfile.TemporaryDirectory() as place:
        assert run(place + "/bulk", history, True) == run(place + "/loop", history, False)


def test_chunks_that_only_an_earlier_block_wrote_stay(place):
    with Atlas.create(place) as store:
        store.create_datasets(["a", "b"], {"v": {"dtype": "int32", "dims": ["x"], "shape": [4], "chunk_shape": [2]}})
        store.write_stacked("v", ["a", "b"], np.arange(8, dtype="i4").reshape(2, 4))
        store.write_stacked("v", ["b"], np.array([[9, 9]], "i4"))
    assert Atlas.open(place).read_array_across_stacked("v", ["a", "b"]).tolist() == [[0, 1, 2, 3], [9, 9, 6, 7]]


def payloads(place: Path) -> list[bytes]:
    arrays = Atlas.open(place)._session.snapshot.root.arrays
    return [(place / f.key).read_bytes()[24 : f.index_offset] for name in sorted(arrays) for f in arrays[name].files]


def test_the_stored_bytes_are_those_of_a_loop(tmp_path):
    rng = np.random.default_rng(3)
    names = [f"n{i}" for i in range(500)]
    data = {"a": np.round(rng.normal(0, 9, (500, 24)), 2).astype("f4"), "b": rng.normal(0, 1, (500, 24))}
    data["c"] = rng.integers(0, 2, (500, 24)).astype("i2")
    data["c"][:9] = 4
    with Atlas.create(tmp_path / "bulk") as store:
        store.create_datasets(names, {k: {"dims": ["x"], "data": v} for k, v in data.items()}, {"n": np.arange(500)})
    with Atlas.create(tmp_path / "loop") as store:
        for i, name in enumerate(names):
            view = store.create_dataset(name)
            for key, value in data.items():
                view.define_array(key, value.dtype, ["x"], [24])
                view.write_array(key, [0], value[i])
            view.set_attribute("n", np.arange(500)[i])
    assert payloads(tmp_path / "bulk") == payloads(tmp_path / "loop")
    bulk, loop = Atlas.open(tmp_path / "bulk"), Atlas.open(tmp_path / "loop")
    assert bulk.column_summaries() == loop.column_summaries()
    assert type(bulk.open_dataset("n7").get_attribute("n")) is type(loop.open_dataset("n7").get_attribute("n"))


def test_attributes_by_column(place):
    store = Atlas.create(place)
    attributes = {
        "one": "same",
        "text": ["a", "b", "ü"],
        "mixed": [1, 2.5, 3],
        "array": np.array([1, 2, 3], "int8"),
        "time": np.array(["2020-01-01", "2021-01-01", "2022-01-01"], "M8[s]"),
        "lists": [[1, 2], [3], [4, 5, 6]],
        "flag": [True, False, True],
    }
    spec = {"t": {"dtype": "float32", "dims": [], "shape": [], "attributes": {"units": "K", "serial": [7, 8, 9]}}}
    store.create_datasets(["x", "y", "z"], spec, attributes)
    for _ in range(2):
        found = store.open_dataset("y").attributes()
        assert found == {
            "one": "same",
            "text": "b",
            "mixed": 2.5,
            "array": 2,
            "time": np.datetime64("2021-01-01"),
            "lists": [3],
            "flag": False,
        }
        assert found["array"].dtype == "int8"
        assert store.open_dataset("z").array_attributes("t") == {"units": "K", "serial": 9}
        store.flush()
        store = Atlas.open(place)


def test_what_is_refused_leaves_no_trace(place):
    store = Atlas.create(place)
    store.create_dataset("there")
    good = {"t": {"dtype": "int32", "dims": ["x"], "shape": [3]}}
    for names, arrays, attributes, error in [
        (["a", "there"], good, None, DatasetAlreadyExists),
        (["a", "b", "a"], good, None, DatasetAlreadyExists),
        (["a", "_b"], good, None, InvalidName),
        ([], good, None, InvalidArgument),
        (["a"], {"t": {"dtype": "int32", "shape": [3]}}, None, InvalidArgument),
        (["a"], {"t": {**good["t"], "colour": 1}}, None, InvalidArgument),
        (["a"], {"t": {"dims": ["x"]}}, None, InvalidArgument),
        (["a", "b"], {"t": {"dims": ["x"], "data": np.zeros((3, 4))}}, None, ShapeMismatch),
        (["a", "b"], {"t": {**good["t"], "data": np.zeros((2, 4), "i4")}}, None, ShapeMismatch),
        (["a", "b"], {"t": {**good["t"], "data": np.zeros((2, 3))}}, None, DataTypeError),
        (["a", "b"], good, {"k": [1, 2, 3]}, ShapeMismatch),
        (["a", "b"], good, {"k": [[1], ["x"]]}, InvalidArgument),
        (["a", "b"], good, {"k": object()}, InvalidArgument),
    ]:
        with pytest.raises(error):
            store.create_datasets(names, arrays, attributes)
    store.create_datasets(["a", "b"], good)
    for names, data, start, error in [
        (["a", "c"], np.zeros((2, 3), "i4"), None, DatasetNotFound),
        (["a", "there"], np.zeros((2, 3), "i4"), None, ArrayNotFound),
        (["a", "b"], np.zeros((3, 3), "i4"), None, ShapeMismatch),
        (["a", "b"], np.zeros((2, 3)), None, DataTypeError),
        (["a", "b"], np.zeros((2, 3), "i4"), [1], SelectionError),
        (["a", "b"], np.zeros((2, 3, 1), "i4"), None, SelectionError),
    ]:
        with pytest.raises(error):
            store.write_stacked("t", names, data, start)
    assert store.list_datasets() == ["there", "a", "b"]
    assert store._session.pending.heap.size == 0
    assert not store._session.pending.blocks


def test_rows_in_a_list_are_refused_as_an_array_of_them_is(place):
    store = Atlas.create(place)
    rows = [np.ma.masked_array([1.0, 2.0], [False, True]), np.ma.masked_array([3.0, 4.0])]
    for data, said in ((rows, "1 cells of the data are masked"), ([[1.0, 2.0], [3.0]], "is not an array")):
        with pytest.raises(DataTypeError, match=f"array 'v'.*{said}"):
            store.create_datasets(["a", "b"], {"v": {"dims": ["x"], "data": data}})
    store.create_datasets(["a", "b"], {"v": {"dims": ["x"], "dtype": "float64", "shape": [2]}})
    for data, said in ((rows, "1 cells of the data are masked"), ([[1.0, 2.0], [3.0]], "is not an array")):
        with pytest.raises(DataTypeError, match=f"array 'v'.*{said}"):
            store.write_stacked("v", ["a", "b"], data)
    store.write_stacked(
        "v", ["a", "b", "a"], np.ma.masked_array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], [[1, 1], [0, 0], [0, 0]])
    )
    assert store.read_array_across_stacked("v", ["a", "b"]).tolist() == [[5.0, 6.0], [3.0, 4.0]]


def test_deleting_many(place):
    store = Atlas.create(place)
    store.create_datasets(NAMES, {"t": {"dims": ["x"], "data": np.arange(12.0).reshape(6, 2)}})
    store.flush()
    store.create_dataset("loose")
    store.create_datasets(["new", "newer"])
    with pytest.raises(DatasetNotFound, match="absent"):
        store.delete_datasets(["d1", "loose", "absent"])
    store.write_stacked("t", ["d3"], np.zeros((1, 2)))
    store.delete_datasets(["d1", "loose", "d3", "new", "d1"])
    with pytest.raises(DatasetNotFound, match="d1"):
        store.delete_datasets(["d0", "d1"])
    for _ in range(3):
        assert store.list_datasets() == ["d0", "d2", "d4", "d5", "newer"]
        assert len(store) == 5
        store.flush()
        store.compact()
    assert store.read_array_across_stacked("t", ["d2", "d5"])[:, 0].tolist() == [4, 10]


def test_two_writers_of_many_datasets(place):
    with Atlas.create(place) as store:
        store.create_datasets(["a", "b", "c"], {"t": {"dims": ["x"], "data": np.arange(9.0).reshape(3, 3)}})
    first, second, third = Atlas.open(place), Atlas.open(place), Atlas.open(place)
    first.write_stacked("t", ["a", "b"], np.full((2, 3), 7.0))
    first.create_datasets(["d"], {"t": {"dims": ["x"], "data": np.ones((1, 3))}})
    first.flush()
    second.write_stacked("t", ["c"], np.full((1, 3), 8.0))
    second.create_datasets(["e"], {"t": {"dims": ["x"], "data": np.full((1, 3), 2.0)}})
    second.flush()
    third.write_stacked("t", ["b", "c"], np.zeros((2, 3)))
    with pytest.raises(atlas.ConflictError) as caught:
        third.flush()
    assert list(caught.value.datasets) == ["b", "c"]
    store = Atlas.open(place)
    assert store.list_datasets() == ["a", "b", "c", "d", "e"]
    assert store.read_array_across_stacked("t", store.list_datasets())[:, 0].tolist() == [7, 7, 8, 1, 2]


# ── pending changes that do not fit into memory ──────────────────────────────────────────────────


def test_pending_changes_spill_and_nothing_of_it_is_seen(place):
    rng = np.random.default_rng(0)
    data = rng.normal(0, 1, (50, 4000))
    with Atlas.create(place, pending_bytes=100_000) as store:
        define(store, [f"d{i}" for i in range(50)], "float64", (4, 1000), None, None)
        for i, row in enumerate(data):
            store.open_dataset(f"d{i}").write_array("v", [0, 0], row.reshape(4, 1000))
        waiting = store._session.pending.heap
        assert waiting.spilled > 1_000_000
        assert sorted(os.listdir(place)) == [".atlas.lock", "atlas.json"]
        assert store.open_dataset("d3").read_array("v").tobytes() == data[3].tobytes()
    assert Atlas.open(place).read_array_across_stacked("v", ["d9", "d49"]).tobytes() == data[[9, 49]].tobytes()


def test_a_full_disk_while_spilling_loses_nothing(place, monkeypatch):
    store = Atlas.create(place, pending_bytes=20_000)
    define(store, NAMES, "float64", (4, 250), None, None)
    data = np.random.default_rng(0).normal(0, 1, (6, 4, 250))

    def full(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        written = []
        with pytest.raises(StorageError, match="pending_bytes"):
            for name, row in zip(NAMES, data, strict=True):
                store.open_dataset(name).write_array("v", [0, 0], row)
                written.append(name)
        assert 0 < len(written) < 6
        with pytest.raises(StorageError):
            store.write_stacked("v", NAMES, data)
    for name, row in zip(NAMES, data, strict=True):
        expected = row if name in written else np.zeros((4, 250))
        assert store.open_dataset(name).read_array("v").tobytes() == expected.tobytes()
    store.write_stacked("v", NAMES, data)
    store.flush()
    assert Atlas.open(place).read_array_across_stacked("v", NAMES).tobytes() == data.tobytes()


def test_a_forked_child_has_a_spill_file_of_its_own(tmp_path):
    waiting = heap.Heap(str(tmp_path), 100)
    for i in range(5):
        waiting.append(bytes([i]) * 90)
    child = os.fork()
    if not child:
        waiting.append(b"c" * 90)
        waiting.append(b"c" * 90)
        os._exit(waiting.read(0, 90) != bytes(90))
    assert os.waitpid(child, 0)[1] == 0
    waiting.append(b"p" * 90)
    waiting.append(b"p" * 90)
    assert waiting.read(430, 110) == b"\4" * 20 + b"p" * 90


@pytest.mark.parametrize("lacking", ["the system", "the file system"])
def test_a_file_without_a_name_where_there_are_none(tmp_path, monkeypatch, lacking):
    original = os.open

    def refused(path, flags, *args, **kwargs):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return original(path, flags, *args, **kwargs)

    if lacking == "the system":
        monkeypatch.delattr(os, "O_TMPFILE")
    else:
        monkeypatch.setattr(os, "open", refused)
    file = spill.open_nameless(str(tmp_path))
    os.pwrite(file, b"kept", 0)
    assert os.pread(file, 9, 0) == b"kept"
    assert list(tmp_path.iterdir()) == []
    assert os.fstat(file).st_mode & 0o077 == 0, "nor is it anybody else's while it has a name"
    os.close(file)


def test_a_directory_that_takes_no_file_is_an_error_of_ours(tmp_path):
    waiting = heap.Heap(str(tmp_path / "gone"), 10)
    waiting.append(b"a" * 20)
    with pytest.raises(StorageError, match="No such file"):
        waiting.append(b"b" * 20)
    assert waiting.read(0, 20) == b"a" * 20


def data_files(place):
    return {file.name: file.stat().st_ino for file in place.rglob("*.af")}


def failing(code):
    def call(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    return call


def files_of_pending_chunks(store):
    return {os.fstat(own.descriptor).st_ino for own in store._session.pending.heap._own.values()}


@pytest.mark.parametrize("road", ["together", "one by one"])
@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_large_arrays_are_written_once(place, monkeypatch, codec, road):
    """The file that an array's chunks wait in is the one that the flush gives a name."""
    monkeypatch.setattr(heap, "OWN_BYTES", 100_000)
    monkeypatch.setattr(datafiles, "MERGE_BELOW", 0)
    rng = np.random.default_rng(0)
    cells = {"a": rng.normal(0, 1, (6, 40, 250)), "b": rng.integers(0, 9000, (6, 40, 250)).astype("i2")}
    specs = {n: {"dims": ["y", "x"], "chunk_shape": [20, 99], "data": data} for n, data in cells.items()}
    store = Atlas.create(place, config=atlas.StoreConfig(codec=codec))
    for flushed in range(2):
        names = [f"{flushed}-{i}" for i in range(6)]
        if road == "together":
            store.create_datasets(names, specs)
        for i, name in enumerate(names if road == "one by one" else ()):
            view = store.create_dataset(name)
            for array, data in cells.items():
                view.define_array(array, data.dtype.name, ["y", "x"], [40, 250], chunk_shape=[20, 99])
                view.write_array(array, [0, 0], data[i])
        if road == "one by one":
            # What waits as it is goes there as well, once it is encoded.
            store._session.pending.settle(store._session.snapshot.root.config, 1)
        waiting = files_of_pending_chunks(store)
        assert len(waiting) == 2
        assert len(data_files(place)) == 2 * flushed
        assert store.open_dataset(names[3]).read_array("a").tobytes() == cells["a"][3].tobytes()
        store.flush()
        assert waiting <= set(data_files(place).values())
    again = Atlas.open(place)
    assert again.verify().ok
    for array, data in cells.items():
        read = again.read_array_across_stacked(array, again.list_datasets())
        assert read.tobytes() == np.tile(data, (2, 1, 1)).tobytes()


def test_the_file_of_a_large_write_takes_small_ones_in(place, monkeypatch):
    monkeypatch.setattr(heap, "OWN_BYTES", 100_000)
    data = np.random.default_rng(0).normal(0, 1, (6, 10_000))
    store = Atlas.create(place)
    store.create_datasets(["a"], {"v": {"dims": ["x"], "data": data[:1]}})
    store.flush()
    store.create_datasets(list("bcdef"), {"v": {"dims": ["x"], "data": data[1:]}})
    (waiting,) = files_of_pending_chunks(store)
    store.flush()
    (file,) = store._session.snapshot.root.arrays["v"].files
    assert (place / file.key).stat().st_ino == waiting
    again = Atlas.open(place)
    assert again.read_array_across_stacked("v", list("abcdef")).tobytes() == data.tobytes()
    assert again.verify().ok


@pytest.mark.parametrize(
    "why", ["a chunk was replaced", "a dataset was deleted", "no links", "the flush failed before"]
)
def test_what_cannot_become_a_data_file_is_copied(place, monkeypatch, why):
    monkeypatch.setattr(heap, "OWN_BYTES", 100_000)
    data = np.random.default_rng(0).normal(0, 1, (4, 10_000))
    store = Atlas.create(place)
    store.create_datasets(list("abcd"), {"v": {"dims": ["x"], "data": data}})
    waiting = files_of_pending_chunks(store)
    assert len(waiting) == 1
    names, expected = list("abcd"), data
    if why == "a chunk was replaced":
        expected = np.concatenate([data[:3], data[:1]])
        store.write_stacked("v", ["d"], data[:1])
    elif why == "a dataset was deleted":
        names, expected = list("acd"), data[[0, 2, 3]]
        store.delete_dataset("b")
    elif why == "no links":
        monkeypatch.setattr(os, "link", failing(errno.EXDEV))
    else:
        with monkeypatch.context() as patch, pytest.raises(StorageError):
            patch.setattr(os, "replace", failing(errno.EIO))
            store.flush()
    store.flush()
    assert not waiting & set(data_files(place).values())
    again = Atlas.open(place)
    assert again.read_array_across_stacked("v", names).tobytes() == expected.tobytes()
    assert again.verify().ok


MORE_THAN_MEMORY = """
import resource, sys
import numpy as np
import atlas
from atlas import kernels
kernels.load()  # compiling them takes memory of its own
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit = used + (256 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
rng = np.random.default_rng(0)
block = rng.integers(0, 2**62, (16, 65536))
with atlas.Atlas.create(sys.argv[1], pending_bytes=32 << 20, workers=1) as store:
    for i in range(50):
        names = [f"{i:03d}-{j:02d}" for j in range(16)]
        store.create_datasets(names, {"v": {"dims": ["x"], "data": block + i}})
    assert store._session.pending.heap.size > 384 << 20
"""


def test_writing_more_than_memory(tmp_path):
    subprocess.run([sys.executable, "-c", MORE_THAN_MEMORY, tmp_path / "s"], check=True)
    block = np.random.default_rng(0).integers(0, 2**62, (16, 65536))
    assert (Atlas.open(tmp_path / "s").open_dataset("049-15").read_array("v") == block[15] + 49).all()


# ── many small commits ───────────────────────────────────────────────────────────────────────────


def test_many_small_flushes_leave_few_files(place):
    store = Atlas.create(place)
    for i in range(150):
        view = store.create_dataset(f"d{i}")
        view.define_array("v", "float64", ["x"], [40])
        view.write_array("v", [0], np.random.default_rng(i).normal(0, 1, 40))
        store.flush()
    assert store.info()["arrays"]["v"]["files"] <= 3
    names = store.list_datasets()
    store.delete_dataset("d7")
    store.open_dataset("d9").delete_array("v")
    store.open_dataset("d8").write_array("v", [0], np.zeros(3))
    store.flush()
    again = Atlas.open(place)
    expected = np.stack([np.random.default_rng(i).normal(0, 1, 40) for i in range(150)])
    expected[8, :3] = 0
    kept = [i for i in range(150) if i not in (7, 9)]
    assert again.read_array_across_stacked("v", [names[i] for i in kept]).tobytes() == expected[kept].tobytes()
    assert again.open_dataset("d8").array_stats("v")["max"] == expected[8].max()
    assert again.open_dataset("d9").read_array("v") is None
    assert again.verify().ok


def test_text_without_axes_keeps_its_last_zero(place):
    store = Atlas.create(place)
    store.create_dataset("a").define_array("s", "string", [], [])
    rows = np.array(["z\0"], object)
    for _ in range(2):  # as a dataset that waits for a flush, and as one that is stored
        store.write_stacked("s", ["a"], rows)
        assert store.open_dataset("a").read_array("s").tolist() == "z\0"
        store.flush()


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1), st.lists(st.floats()))
def test_columns_on_a_shelf_are_what_they_were(integers, floats):
    kept = {"i": np.array(integers), "f": np.resize(np.array(floats or [0.5]), len(integers))}
    kept["u"], kept["b"] = kept["i"].astype("u8"), kept["i"] > 0
    shelf = heap.Shelf(heap.Heap(None, 100), kept)
    for name, column in shelf.columns(0, len(integers)).items():
        assert (column.dtype, column.tobytes()) == (kept[name].dtype, kept[name].tobytes())
    last = len(integers) - 1
    assert {name: column.tobytes() for name, column in shelf.columns(last, 1).items()} == {
        name: column[last:].tobytes() for name, column in kept.items()
    }


def test_steps_into_the_same_chunks_wait_once(place):
    store = Atlas.create(place)
    store.create_datasets(NAMES, {"t": {"dims": ["x"], "dtype": "float32", "shape": [12], "chunk_shape": [6]}})
    for step in range(12):
        store.write_stacked("t", NAMES, np.full((6, 1), step, "f4"), [step])
    assert len(store._session.pending.blocks["t"]) == 2
    assert (store.read_array_across_stacked("t", NAMES) == np.arange(12)).all()
    store.close()
    assert (Atlas.open(place).read_array_across_stacked("t", NAMES) == np.arange(12)).all()
