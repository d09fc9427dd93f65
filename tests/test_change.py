"""Datasets are renamed and copied, arrays grow and shrink: against dictionaries of arrays, in any order."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torture.model import Array, Dataset, check_store

import atlas
import atlas.cli
import atlas.commit
import atlas.reader
import atlas.writer
from atlas import Atlas
from atlas.errors import (
    ArrayNotFound,
    ConflictError,
    CorruptStore,
    DatasetAlreadyExists,
    DatasetNotFound,
    DataTypeError,
    InvalidArgument,
    InvalidName,
    ShapeMismatch,
)

NAMES = st.sampled_from(["a", "b", "c", "d"])
SHAPE = st.tuples(st.integers(0, 7), st.integers(0, 5))
KINDS = st.sampled_from(["t", "u", "f"])  # those of two axes
CHUNK = st.sampled_from([None, (2, 3), (3, 1)])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("create"), NAMES),
        st.tuples(st.just("create together"), NAMES),
        st.tuples(st.just("define"), NAMES, KINDS, SHAPE, CHUNK),
        st.tuples(st.just("write"), NAMES, KINDS, st.integers(0, 9)),
        st.tuples(st.just("write stacked"), KINDS, st.integers(0, 9)),
        st.tuples(st.just("resize"), NAMES, KINDS, SHAPE),
        st.tuples(st.just("append"), NAMES, KINDS, st.integers(0, 3), st.sampled_from([0, 1, -1])),
        st.tuples(st.just("rename"), NAMES, NAMES),
        st.tuples(st.just("copy"), NAMES, NAMES),
        st.tuples(st.just("delete"), NAMES),
        st.tuples(st.just("flush")),
        st.tuples(st.just("compact")),
    ),
    max_size=25,
)


def some(kind: Any, shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2 if kind.numpy.kind == "b" else 9, shape).astype(kind.numpy)


class Twin:
    """A store, and what it must hold."""

    def __init__(self, place: str) -> None:
        self.store = Atlas.create(place, workers=1)
        self.state: dict[str, Dataset] = {}

    def step(self, what: str, *args: Any) -> None:
        getattr(self, what.replace(" ", "_"))(*args)
        assert self.store.list_datasets() == list(self.state)

    def create(self, name: str) -> None:
        if name not in self.state:
            self.store.create_dataset(name)
            self.state[name] = Dataset()

    def create_together(self, name: str) -> None:
        if name not in self.state:
            model = Array.unwritten("t", (4, 3))
            model.cells = some(model.kind, (4, 3), 1)
            spec = {"dims": ["y", "x"], "data": model.cells[None], "chunk_shape": [2, 2], "fill_value": np.nan}
            self.store.create_datasets([name], {"t": spec})
            self.state[name] = Dataset({"t": model})

    def find(self, name: str, array: str) -> Array | None:
        return self.state[name].arrays.get(array) if name in self.state else None

    def define(self, name: str, array: str, shape: tuple[int, ...], chunk: Any) -> None:
        if name in self.state and array not in self.state[name].arrays:
            model = self.state[name].arrays[array] = Array.unwritten(array, shape)
            kind = model.kind
            self.store.open_dataset(name).define_array(array, kind.dtype, kind.dims, shape, chunk, kind.fill)

    def write(self, name: str, array: str, seed: int) -> None:
        model = self.find(name, array)
        if model is not None:
            start = tuple(seed % (n + 1) for n in model.cells.shape)
            box = model.cells[tuple(slice(s, None) for s in start)]
            box[...] = some(model.kind, box.shape, seed)
            self.store.open_dataset(name).write_array(array, start, box)

    def write_stacked(self, array: str, seed: int) -> None:
        having = {name: found for name in self.state if (found := self.find(name, array)) is not None}
        shapes = {model.cells.shape for model in having.values()}
        if len(shapes) == 1:
            data = some(next(iter(having.values())).kind, (len(having), *shapes.pop()), seed)
            self.store.write_stacked(array, list(having), data)
            for model, cells in zip(having.values(), data, strict=True):
                model.cells = cells.copy()

    def resize(self, name: str, array: str, shape: tuple[int, ...]) -> None:
        model = self.find(name, array)
        if model is not None:
            self.store.open_dataset(name).resize(array, shape)
            model.resize(shape)

    def append(self, name: str, array: str, count: int, axis: int) -> None:
        model = self.find(name, array)
        if model is not None:
            shape = list(model.cells.shape)
            shape[axis] = count
            data = some(model.kind, tuple(shape), count)
            model.cells = np.concatenate([model.cells, data], axis)
            assert self.store.open_dataset(name).append(array, data, axis) == model.cells.shape

    def rename(self, old: str, new: str) -> None:
        if old in self.state and (new == old or new not in self.state):
            self.store.rename_dataset(old, new)
            self.state = {new if name == old else name: found for name, found in self.state.items()}

    def copy(self, source: str, target: str) -> None:
        if source in self.state and target not in self.state:
            self.store.copy_dataset(source, target)
            arrays = self.state[source].arrays
            self.state[target] = Dataset({name: Array(a.kind, a.cells.copy()) for name, a in arrays.items()})

    def delete(self, name: str) -> None:
        if self.state.pop(name, None) is not None:
            self.store.delete_dataset(name)

    def flush(self) -> None:
        self.store.flush()
        # New datasets come behind those that were there.
        self.check_index()

    def compact(self) -> None:
        self.store.flush()
        self.store.compact()

    def check_index(self) -> None:
        arrays = self.store.list_arrays()
        index = self.store.pruning_index(arrays)
        assert [name for name in index["datasets"] if name is not None] == list(self.state)
        for array in arrays:
            column = index["columns"][array]
            for row, name in enumerate(index["datasets"]):
                model = self.find(name, array) if name is not None else None
                assert column["present"][row] == (model is not None)
                if model is not None:
                    expected = model.statistics()
                    assert column["null_count"][row] == expected["null_count"]
                    assert column["row_count"][row] == expected["row_count"]
                    assert bool(column["stats_valid"][row]) == (expected["min"] is not None)
                    if expected["min"] is not None:
                        assert (column["min"][row], column["max"][row]) == (expected["min"], expected["max"])


@settings(max_examples=150)
@given(STEPS)
@example([("create together", "b"), ("delete", "b"), ("create together", "b")])
def test_a_store_is_what_dictionaries_say_after_any_changes(steps):
    with tempfile.TemporaryDirectory() as top:
        twin = Twin(f"{top}/store")
        for step in steps:
            twin.step(*step)
        check_store(twin.store, twin.state)
        twin.flush()
        again = Atlas.open(f"{top}/store", workers=1)
        check_store(again, twin.state)
        assert again.verify().ok
        twin.compact()
        twin.check_index()
        check_store(Atlas.open(f"{top}/store", workers=1), twin.state)
        assert twin.store.verify().ok


@pytest.fixture
def store(place) -> Atlas:
    store = Atlas.create(place, workers=1)
    for i, name in enumerate(("a", "b")):
        view = store.create_dataset(name)
        view.define_array("t", "int32", ["x"], [10], [4])
        view.write_array("t", [0], np.arange(10, dtype="i4") + 100 * i)
    store.flush()
    return store


def firsts(store: Atlas) -> dict[str, int]:
    return {name: int(store.open_dataset(name).read_array("t")[0]) for name in store.list_datasets()}


def test_a_rename_moves_no_data_and_keeps_the_ordinal(store, place):
    before = sorted(place.rglob("*.af"))
    store.rename_dataset("a", "A")
    assert (store.dataset_row("A"), store.dataset_row("a"), len(store)) == (0, None, 2)
    with pytest.raises(DatasetNotFound):
        store.read_array_across("t", ["a"])
    store.flush()
    assert sorted(place.rglob("*.af")) == before
    assert firsts(Atlas.open(place)) == {"A": 0, "b": 100}
    assert Atlas.open(place).dataset_row("A") == 0


def test_names_are_exchanged(store, place):
    for old, new in (("a", "c"), ("b", "a"), ("c", "b")):
        store.rename_dataset(old, new)
    assert firsts(store) == {"b": 0, "a": 100}
    store.flush()
    assert firsts(Atlas.open(place)) == {"b": 0, "a": 100}


@pytest.mark.parametrize("refresh", [False, True])
def test_renames_go_on_after_a_flush_that_failed_once_it_had_happened(store, place, monkeypatch, refresh):
    def published(*args, **kwargs):
        publish(*args, **kwargs)
        raise atlas.StorageError("lost the answer")

    publish = atlas.commit.publish
    for old, new in (("a", "c"), ("b", "a"), ("c", "b")):
        store.rename_dataset(old, new)
    for _ in range(2):
        monkeypatch.setattr(atlas.commit, "publish", published)
        with pytest.raises(atlas.StorageError, match="lost the answer"):
            store.flush()
        monkeypatch.undo()
        assert firsts(store) == {"b": 0, "a": 100}
        if refresh:
            store.refresh()
            assert firsts(store) == {"b": 0, "a": 100}
        store.rename_dataset("a", "d")
        store.create_dataset("a").define_array("t", "int32", ["x"], [1])
        assert firsts(store) == {"b": 0, "d": 100, "a": 0}
        store.delete_dataset("a")
        store.rename_dataset("d", "a")
    store.flush()
    assert firsts(store) == firsts(Atlas.open(place)) == {"b": 0, "a": 100}


def test_what_took_a_name_that_became_free_goes_again(store, place):
    store.rename_dataset("a", "A")
    store.create_dataset("a")
    store.rename_dataset("a", "c")
    store.create_dataset("a")
    store.delete_dataset("a")
    store.delete_dataset("c")
    assert firsts(store) == {"A": 0, "b": 100}
    other = Atlas.open(place)
    other.delete_dataset("a")
    other.flush()
    with pytest.raises(ConflictError):
        store.flush()


def test_two_writers_and_names(store, place):
    other = Atlas.open(place, workers=1)
    store.rename_dataset("a", "A")
    store.flush()
    other.open_dataset("a").set_attribute("k", 1)
    with pytest.raises(ConflictError) as caught:
        other.flush()
    assert caught.value.datasets == ("a",)
    other = Atlas.open(place, workers=1)
    other.rename_dataset("b", "new")
    store.create_dataset("new")
    store.flush()
    with pytest.raises(ConflictError) as caught:
        other.flush()
    assert caught.value.datasets == ("new",)
    other = Atlas.open(place, workers=1)
    other.rename_dataset("b", "B")
    store.create_dataset("far away")
    store.flush()
    other.flush()
    assert Atlas.open(place).list_datasets() == ["A", "B", "new", "far away"]


def test_a_name_that_became_free_can_be_taken_by_many(store, place):
    store.rename_dataset("a", "A")
    store.create_datasets(["a", "c"], {"t": {"dims": ["x"], "data": np.full((2, 10), 7, "i4")}})
    with pytest.raises(DatasetAlreadyExists, match="'A'"):
        store.create_datasets(["A"])
    assert firsts(store) == {"A": 0, "b": 100, "a": 7, "c": 7}
    store.delete_datasets(["A", "b"])
    store.flush()
    assert firsts(store) == firsts(Atlas.open(place)) == {"a": 7, "c": 7}
    with pytest.raises(DatasetNotFound):
        store.delete_datasets(["A"])


def test_a_renamed_store_is_repaired(store, place):
    store.rename_dataset("a", "A")
    store.open_dataset("b").resize("t", [3])
    store.copy_dataset("A", "copy")
    store.flush()
    (place / "atlas.json").unlink()
    assert Atlas.repair(place).ok
    again = Atlas.open(place)
    assert firsts(again) == {"A": 0, "b": 100, "copy": 0}
    assert again.verify().ok


@pytest.mark.parametrize("count", [1, 3])
def test_appending_writes_only_the_chunk_that_was_cut(store, count):
    view, size = store.open_dataset("a"), 10
    for i in range(4):
        size += count
        assert view.append("t", np.full(count, i, "i4")) == (size,)
        waiting = store._session.pending.array("a", "t")
        assert not waiting.reset
        assert min(waiting.chunks) == (size - count) // 4
        store.flush()
        assert view.read_array("t").tolist()[10:] == np.repeat(np.arange(i + 1), count).tolist()
        assert view.array_stats("t") == {"row_count": size, "null_count": 0, "min": 0, "max": 9}
    assert store.pruning_index(["t"])["columns"]["t"]["row_count"].tolist() == [size, 10]


def test_statistics_follow_a_shape_that_changes_no_chunk(store):
    view = store.open_dataset("a")
    view.resize("t", [8])
    store.flush()
    view.resize("t", [16])
    store.flush()
    assert view.array_stats("t") == {"row_count": 16, "null_count": 0, "min": 0, "max": 7}
    assert store.pruning_index(["t"])["columns"]["t"]["row_count"].tolist() == [16, 10]


def test_chunks_of_another_place_in_the_grid_are_copied_without_encoding(store, monkeypatch):
    view = store.create_dataset("c")
    view.define_array("v", "float64", ["y", "x"], [4, 4], [2, 2])
    cells = np.arange(16.0).reshape(4, 4)
    view.write_array("v", [0, 0], cells)
    store.flush()
    encoded = []
    plain = atlas.writer.encode_batches
    monkeypatch.setattr(atlas.writer, "encode_batches", lambda *args: encoded.append(1) or plain(*args))
    view.resize("v", [4, 6])
    assert all(isinstance(chunk, atlas.writer.Held) for chunk in store._session.pending.array("c", "v").chunks.values())
    store.copy_dataset("c", "d")
    assert encoded == []
    store.flush()
    for name in "cd":
        assert store.open_dataset(name).read_array("v").tolist() == np.pad(cells, ((0, 0), (0, 2))).tolist()
    assert store.verify().ok


def test_an_array_without_cells_takes_the_first_shape_as_its_chunk(store):
    view = store.create_dataset("c")
    view.define_array("v", "string", ["x"], [0])
    assert view.append("v", np.array(["one", "two"], object)) == (2,)
    assert view.append("v", np.array(["three"], object)) == (3,)
    store.flush()
    assert view.array_meta("v")["chunk_shape"] == [2]
    assert view.read_array("v").tolist() == ["one", "two", "three"]
    store.copy_dataset("c", "d")
    store.flush()
    assert store.open_dataset("d").array_stats("v") == view.array_stats("v")
    assert view.array_stats("v") == {"row_count": 3, "null_count": 0, "min": b"one", "max": b"two"}


@pytest.mark.parametrize("is_reopened", [False, True])
def test_an_array_without_cells_keeps_the_chunk_shape_that_it_was_declared_with(store, place, is_reopened):
    """A cell in each chunk along an empty axis is what an array without a chunk shape seems to have, too."""
    names = ["one", "two", "three"]
    shape = {"dtype": "int8", "dims": ["t", "x"], "shape": [0, 4]}
    store.create_datasets(names[:2], {"v": {**shape, "chunk_shape": [1, 4]}, "w": shape})
    store.create_dataset("three").define_array("v", "int8", ["t", "x"], [0, 4], [1, 4])
    store.open_dataset("three").define_array("w", "int8", ["t", "x"], [0, 4])
    if is_reopened:
        store.flush()
        store.rename_dataset("two", "other")
        store.copy_dataset("other", "two")
        store.flush()
        store = Atlas.open(place)
        store.compact()
    for name in names:
        view = store.open_dataset(name)
        view.resize("v", [0, 5])
        view.resize("w", [0, 5])
        for array in ("v", "w"):
            view.append(array, np.ones((3, 5), "i1"))
    store.flush()
    for name in names:
        view = Atlas.open(place).open_dataset(name)
        assert (view.array_meta("v")["chunk_shape"], view.array_meta("w")["chunk_shape"]) == ([1, 4], [3, 5])
        view.resize("v", [0, 5])
        view.append("v", np.ones((3, 5), "i1"))
        assert view.array_meta("v")["chunk_shape"] == [1, 4]
        assert view.read_array("v").tolist() == view.read_array("w").tolist() == [[1] * 5] * 3


def test_what_is_refused_changes_nothing(store, place, monkeypatch):
    view = store.open_dataset("a")
    for error, call in {
        DatasetAlreadyExists: lambda: store.rename_dataset("a", "b"),
        DatasetNotFound: lambda: store.rename_dataset("x", "y"),
        InvalidName: lambda: store.copy_dataset("a", "_x"),
        ArrayNotFound: lambda: view.resize("x", [1]),
        ShapeMismatch: lambda: view.append("t", np.zeros((2, 2), "i4")),
        DataTypeError: lambda: view.append("t", np.zeros(2, "f4")),
        InvalidArgument: lambda: view.append("t", np.zeros(2, "i4"), axis=1),
    }.items():
        with pytest.raises(error):
            call()
    with pytest.raises(DatasetAlreadyExists):
        store.copy_dataset("a", "b")
    with pytest.raises(InvalidArgument):
        view.resize("t", [1, 2])
    with monkeypatch.context() as patch:
        patch.setattr(atlas.writer.PendingArray, "write", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            view.append("t", np.zeros(2, "i4"))
    assert view.read_array("t").tolist() == list(range(10))
    store.rename_dataset("a", "a")
    for call in (lambda s: s.rename_dataset("a", "c"), lambda s: s.open_dataset("a").resize("t", [1])):
        with pytest.raises(atlas.ReadOnlyStore):
            call(Atlas.open(place, mode="r"))


def test_a_damaged_chunk_is_neither_copied_nor_cut(store, place):
    (file,) = (place / "t").glob("*.af")
    data = bytearray(file.read_bytes())
    data[25:60] = bytes(35)
    file.write_bytes(bytes(data))
    fresh = Atlas.open(place, workers=1)
    for call in (lambda: fresh.copy_dataset("a", "c"), lambda: fresh.open_dataset("a").resize("t", [3])):
        with pytest.raises(CorruptStore, match="array 't'"):
            call()
    fresh.rename_dataset("a", "A")
    fresh.flush()
    assert Atlas.open(place).list_datasets() == ["A", "b"]


def test_the_command_renames_and_copies(store, place, capsys):
    for words in (["mv", str(place), "a", "A"], ["cp", str(place), "A", "copy"]):
        atlas.cli.app(words, standalone_mode=False)
    assert firsts(Atlas.open(place)) == {"A": 0, "b": 100, "copy": 0}
    assert capsys.readouterr().out.splitlines() == ["a is A now", "A copied to copy"]


def test_chunks_that_are_cut_wait_within_the_limit(place):
    store = Atlas.create(place, workers=1, pending_bytes=1024)
    for name in "abcd":
        view = store.create_dataset(name)
        view.define_array("v", "int64", ["y", "x"], [8, 8], [2, 5])
        view.write_array("v", [0, 0], np.arange(64).reshape(8, 8))
    store.flush()
    for name in "abcd":
        store.open_dataset(name).resize("v", [8, 20])
        arrays = [arrays["v"] for arrays in store._session.pending.arrays.values()]
        waiting = [cells for array in arrays for cells in array.chunks.values() if isinstance(cells, np.ndarray)]
        assert sum(cells.nbytes for cells in waiting) <= 512
    store.flush()
    expected = np.pad(np.arange(64).reshape(8, 8), ((0, 0), (0, 12)))
    assert (store.read_array_across_stacked("v", list("abcd")) == expected).all()


def counted(cells: np.ndarray, fill: float | None) -> dict[str, Any]:
    """Return the statistics of an array, counted."""
    null = np.isnan(cells) if fill != fill else cells == fill
    kept = cells[~null]
    return {"row_count": cells.size, "null_count": int(np.sum(null)), "min": kept.min(), "max": kept.max()}


@pytest.mark.parametrize("fill", [None, -1.0, float("nan")])
def test_an_append_reads_no_other_chunk(place, monkeypatch, fill):
    cells = np.arange(25, dtype="f4")
    cells[[3, 24]] = -1 if fill is None else fill
    with Atlas.create(place) as store:
        for name in ("written", "partly", "never"):
            store.create_dataset(name).define_array("t", "float32", ["x"], [25], [10], fill)
        store.open_dataset("written").write_array("t", [0], cells)
        store.open_dataset("partly").write_array("t", [10], cells[10:20])
    store, expected = Atlas.open(place), {}
    for name in ("written", "partly", "never"):
        view = store.open_dataset(name)
        view.append("t", np.full(3, 50, "f4"))
        view.append("t", np.full(12, 60, "f4"))
        view.resize("t", [45])
        expected[name] = view.read_array("t")
    reads: list[Any] = []
    monkeypatch.setattr(atlas.reader.Snapshot, "read_boxes", lambda *args: reads.append(args))
    store.flush()
    monkeypatch.undo()
    assert reads == []
    for name, found in expected.items():
        view = Atlas.open(place).open_dataset(name)
        assert view.read_array("t").tobytes() == found.tobytes()
        assert view.array_stats("t") == counted(found, fill)
    # What is overwritten is counted anew.
    view = store.open_dataset("written")
    view.append("t", np.full(1, 70, "f4"))
    view.write_array("t", [0], np.full(40, 7, "f4"))
    store.flush()
    assert view.array_stats("t") == counted(view.read_array("t"), fill)
