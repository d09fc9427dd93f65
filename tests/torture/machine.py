"""Two writers, readers, crashes and faults in any order, against plain dictionaries."""

from __future__ import annotations

import copy
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import atlas
from atlas import col, commitfiles
from torture.disk import Disk, Fault
from torture.model import KINDS, Array, Model, State, Writer, arrays_of, check_store, same_cells
from torture.scenes import in_child, leftovers

WHICH = st.integers(0, 4)  # one of the datasets that are there
ARRAYS = st.sampled_from(sorted(KINDS))
WRITERS = st.sampled_from([0, 0, 0, 1])
SIZES = st.fixed_dictionaries({"y": st.integers(0, 5), "x": st.integers(0, 6)})
PARTS = st.tuples(st.floats(0, 1), st.floats(0, 1))
TEXT = st.text(max_size=4)

# One type for each name: what happens when types clash has tests of its own.
ATTRIBUTES = st.one_of(
    st.tuples(st.just("int"), st.integers(-(2**63), 2**63 - 1)),
    st.tuples(st.just("float"), st.floats()),
    st.tuples(st.just("bool"), st.booleans()),
    st.tuples(st.just("text"), TEXT),
    st.tuples(st.just("bytes"), st.binary(max_size=4)),
    st.tuples(st.just("ints"), st.lists(st.integers(-9, 9), max_size=3)),
    st.tuples(st.just("texts"), st.lists(TEXT, min_size=1, max_size=3)),
    st.tuples(st.just("np"), st.integers(-99, 99).map(np.int16)),
    st.tuples(st.just("array"), st.lists(st.floats(width=32), max_size=3).map(lambda v: np.array(v, "f4"))),
)

NEW_NAMES = ["a", "b", "c", "ü d", "e"]
IN_PROCESS = ("EIO", "late EIO", "dead", "ENOSPC", "full", "Ctrl-C")


def make_cells(array: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Return cells of an array's type: few values, so that some repeat, some are the fill, and some are odd."""
    rng, kind = np.random.default_rng(seed), KINDS[array]
    numbers = rng.integers(0, 4, shape)
    if kind.numpy.kind == "O":
        choices = np.array(["", "x", "ü" * 3, "-"], object)
        cells = np.array(choices[numbers], object).reshape(shape)
        return np.vectorize(str.encode, otypes=[object])(cells) if array == "b" and cells.size else cells
    if kind.numpy.kind in "fc":
        return np.array([0.0, np.nan, -0.0, 12.34], kind.numpy)[numbers]
    if kind.numpy.kind == "M":
        return np.array([0, np.iinfo("i8").min, 10**18, 5], "i8")[numbers].view(kind.numpy).reshape(shape)
    return (numbers * (seed % 3 + 1) + 5).astype(kind.numpy)


def some_box(shape: tuple[int, ...], parts: tuple[float, float]) -> tuple[list[int], list[int]]:
    """Return start and shape of a box within an array."""
    low, high = min(parts), max(parts)
    start = [min(int(low * n), max(n - 1, 0)) for n in shape]
    return start, [min(n - first, max(1, round(high * n) - first)) for first, n in zip(start, shape, strict=True)]


def within(cells: np.ndarray, start: list[int], shape: list[int]) -> Any:
    # With the ellipsis, what is taken of an array without axes is a view too.
    return cells[(*(slice(s, s + n) for s, n in zip(start, shape, strict=True)), ...)]


class StoreMachine(RuleBasedStateMachine):
    """Every rule does the same to the store and to the model, and compares."""

    @initialize(
        fmt=st.sampled_from(["json", "msgpack"]),
        compression=st.sampled_from(["none", "zstd", "lz4"]),
        codec=st.sampled_from(["zstd", "lz4", "none"]),
        inline=st.sampled_from([1 << 16, 500]),
        sizes=st.lists(SIZES, min_size=1, max_size=3),
    )
    def begin(self, fmt: str, compression: str, codec: str, inline: int, sizes: list[dict[str, int]]) -> None:
        self.top = Path(tempfile.mkdtemp(prefix="machine-"))
        self.place = self.top / "store"
        self._inline = commitfiles.INLINE_BYTES
        commitfiles.INLINE_BYTES = inline  # how soon the dataset table moves into files of its own
        atlas.Atlas.create(self.place, codec, fmt, compression, workers=1)
        self.model = Model()
        self.stores = [self.opened(), self.opened()]
        self.writers = [Writer(self.model), Writer(self.model)]
        self.readers: list[tuple[atlas.Atlas, State]] = []
        for which, one in enumerate(sizes):
            self.create_dataset(0, which)
            for array in sorted(KINDS):
                self.define_array(0, which, array, one, which or None)
        self.flush(0)
        self.refresh(1)

    def teardown(self) -> None:
        if not hasattr(self, "top"):
            return
        try:
            for store, state in self.readers:
                check_store(store, state)
            check_store(self.opened(), self.model.state)
            self.tidied()
        finally:
            commitfiles.INLINE_BYTES = self._inline
            shutil.rmtree(self.top)

    def tidied(self) -> None:
        """Once all other handles are gone, a compaction leaves nothing that is not needed."""
        self.stores, self.readers = [], []
        last = self.opened()
        last.create_dataset("last")
        last.flush()
        last.compact()
        assert leftovers(self.place) == []
        assert all(len(files.files) == 1 for files in last._session.snapshot.root.arrays.values())

    def opened(self) -> atlas.Atlas:
        return atlas.Atlas.open(self.place, workers=1)

    def reopen(self, who: int) -> None:
        self.stores[who], self.writers[who] = self.opened(), Writer(self.model)

    @invariant()
    def the_same_datasets(self) -> None:
        for store, writer in zip(self.stores, self.writers, strict=True):
            assert store.list_datasets() == list(writer.shown)

    # ── changes ──────────────────────────────────────────────────────────────────────────────

    def picked(self, who: int, which: int) -> str | None:
        """Return the name of one of the datasets that a writer shows, if there is any."""
        names = list(self.writers[who].shown)
        return names[which % len(names)] if names else None

    @rule(who=WRITERS, which=WHICH)
    def create_dataset(self, who: int, which: int) -> None:
        name = NEW_NAMES[which]
        if name in self.writers[who].shown:
            with pytest.raises(atlas.DatasetAlreadyExists):
                self.stores[who].create_dataset(name)
            return
        self.stores[who].create_dataset(name)
        self.writers[who].create(name)

    @rule(who=WRITERS, which=WHICH)
    def delete_dataset(self, who: int, which: int) -> None:
        name = self.picked(who, which)
        if name is not None:
            self.stores[who].delete_dataset(name)
            self.writers[who].delete(name)

    @rule(who=WRITERS, which=WHICH, array=ARRAYS, sizes=SIZES, chunk=st.one_of(st.none(), st.integers(1, 4)))
    def define_array(self, who: int, which: int, array: str, sizes: dict[str, int], chunk: int | None) -> None:
        shown, kind, name = self.writers[who].shown, KINDS[array], self.picked(who, which)
        if name is not None and array not in shown[name].arrays:
            shape = tuple(sizes[dim] for dim in kind.dims)
            chunks = None if chunk is None else [min(chunk, max(n, 1)) for n in shape]
            self.stores[who].open_dataset(name).define_array(array, kind.dtype, kind.dims, shape, chunks, kind.fill)
            self.writers[who].touch(name).arrays[array] = Array.unwritten(array, shape)

    @rule(who=WRITERS, which=WHICH, array=ARRAYS, sizes=SIZES)
    def resize(self, who: int, which: int, array: str, sizes: dict[str, int]) -> None:
        shown, name = self.writers[who].shown, self.picked(who, which)
        shape = tuple(sizes[dim] for dim in KINDS[array].dims)
        if name is not None and array in shown[name].arrays and shown[name].arrays[array].cells.shape != shape:
            self.stores[who].open_dataset(name).resize(array, shape)
            self.writers[who].touch(name).arrays[array].resize(shape)

    @rule(who=WRITERS, which=WHICH, new=WHICH)
    def rename_dataset(self, who: int, which: int, new: int) -> None:
        old, name = self.picked(who, which), NEW_NAMES[new]
        if old is not None and name not in self.writers[who].shown:
            self.stores[who].rename_dataset(old, name)
            self.writers[who].rename(old, name)

    @rule(who=WRITERS, which=WHICH, new=WHICH)
    def copy_dataset(self, who: int, which: int, new: int) -> None:
        source, name = self.picked(who, which), NEW_NAMES[new]
        if source is not None and name not in self.writers[who].shown:
            self.stores[who].copy_dataset(source, name)
            self.writers[who].create(name)
            self.writers[who].shown[name] = copy.deepcopy(self.writers[who].shown[source])

    @rule(who=WRITERS, which=WHICH, array=ARRAYS)
    def delete_array(self, who: int, which: int, array: str) -> None:
        shown, name = self.writers[who].shown, self.picked(who, which)
        if name is not None and array in shown[name].arrays:
            self.stores[who].open_dataset(name).delete_array(array)
            del self.writers[who].touch(name).arrays[array]

    @rule(who=WRITERS, array=ARRAYS, parts=st.one_of(st.just((0.0, 1.0)), PARTS), seed=st.integers(0, 9))
    def write_array(self, who: int, array: str, parts: tuple[float, float], seed: int) -> None:
        for name, model in list(arrays_of(self.writers[who].shown, array)):
            start, shape = some_box(model.cells.shape, parts)
            cells = make_cells(array, tuple(shape), seed)
            self.stores[who].open_dataset(name).write_array(array, start, cells)
            within(self.writers[who].touch(name).arrays[array].cells, start, shape)[...] = cells

    @rule(who=WRITERS, which=WHICH, pair=ATTRIBUTES)
    def set_attribute(self, who: int, which: int, pair: tuple[str, Any]) -> None:
        name = self.picked(who, which)
        if name is not None:
            self.stores[who].open_dataset(name).set_attribute(*pair)
            self.writers[who].touch(name).attributes[pair[0]] = pair[1]

    @rule(who=WRITERS, array=ARRAYS, pair=ATTRIBUTES)
    def set_array_attribute(self, who: int, array: str, pair: tuple[str, Any]) -> None:
        for name, _ in list(arrays_of(self.writers[who].shown, array))[:1]:
            self.stores[who].open_dataset(name).set_array_attribute(array, *pair)
            self.writers[who].touch(name).arrays[array].attributes[pair[0]] = pair[1]

    # ── commits ──────────────────────────────────────────────────────────────────────────────

    @rule(who=WRITERS)
    def flush(self, who: int) -> None:
        if not self.refused(who):
            self.stores[who].flush()
            self.committed(who)

    def something_pending(self, who: int) -> None:
        if not self.writers[who].seen:
            missing = next(i for i, name in enumerate([*NEW_NAMES, None]) if name not in self.writers[who].shown)
            if missing < len(NEW_NAMES):
                self.create_dataset(who, missing)
            self.set_attribute(who, 4, ("int", 1))

    def refused(self, who: int) -> bool:
        """Whether the other writer was first: then this one is told so, and begins anew."""
        clashes = self.writers[who].clashes()
        if clashes:
            with pytest.raises(atlas.ConflictError) as caught:
                self.stores[who].flush()
            assert caught.value.datasets == clashes
            self.reopen(who)
        return bool(clashes)

    def committed(self, who: int) -> None:
        if self.writers[who].seen:
            self.writers[who].commit()
            self.writers[who].done()
        check_store(self.stores[who], self.writers[who].shown)

    @rule(who=WRITERS, number=st.integers(0, 50), kind=st.sampled_from(IN_PROCESS))
    def flush_on_a_bad_disk(self, who: int, number: int, kind: str) -> None:
        self.something_pending(who)
        if self.refused(who):
            return
        before = self.generation()
        with Disk(str(self.top), Fault(number, kind)).installed():
            try:
                self.stores[who].flush()
                ended = "done"
            except (atlas.StorageError, KeyboardInterrupt):
                ended = "failed"
        happened = self.generation() > before
        if ended == "done":
            self.committed(who)
            return
        if happened:
            self.writers[who].commit()
        self.writers[who].failed(happened)
        check_store(self.opened(), self.model.state)

    @rule(who=WRITERS, number=st.integers(0, 50), kind=st.sampled_from(["kill", "torn"]))
    def killed_while_flushing(self, who: int, number: int, kind: str) -> None:
        self.something_pending(who)
        if self.refused(who):
            return
        before = self.generation()
        in_child(lambda: self.flush_until(who, Fault(number, kind)))
        if self.generation() > before:
            self.writers[who].commit()
        check_store(self.opened(), self.model.state)
        self.reopen(who)

    def flush_until(self, who: int, fault: Fault) -> None:
        with Disk(str(self.top), fault).installed():
            self.stores[who].flush()

    def generation(self) -> int:
        return int(self.opened().info()["generation"])

    @rule(who=WRITERS, kind=st.one_of(st.none(), st.sampled_from(IN_PROCESS)), number=st.integers(0, 50))
    def compact(self, who: int, kind: str | None, number: int) -> None:
        with (
            Disk(str(self.top), kind and Fault(number, kind)).installed(),
            suppress(atlas.StorageError, KeyboardInterrupt),
        ):
            self.stores[who].compact()
        check_store(self.opened(), self.model.state)
        # Interrupted while it tidies up, the handle has moved on already.
        if self.stores[who].info()["generation"] == self.generation():
            self.writers[who].follow()
            self.refused(who)

    @rule(who=WRITERS)
    def refresh(self, who: int) -> None:
        self.stores[who].refresh()
        self.writers[who].follow()
        self.refused(who)

    @rule(who=WRITERS)
    def drop_the_handle(self, who: int) -> None:
        self.reopen(who)

    # ── reads ────────────────────────────────────────────────────────────────────────────────

    @rule(who=WRITERS)
    def look_at_everything(self, who: int) -> None:
        check_store(self.stores[who], self.writers[who].shown)

    @precondition(lambda self: len(self.readers) < 3)
    @rule()
    def open_a_reader(self) -> None:
        self.readers.append((atlas.Atlas.open(self.place, mode="r", workers=1), self.model.copy()))

    @precondition(lambda self: self.readers)
    @rule(close=st.booleans())
    def a_reader_keeps_its_state(self, close: bool) -> None:
        check_store(*self.readers[0])
        if close:
            self.readers.pop(0)

    @rule(who=WRITERS, array=ARRAYS, parts=PARTS, seed=st.integers(0, 99))
    def read_across(self, who: int, array: str, parts: tuple[float, float], seed: int) -> None:
        store, shown = self.stores[who], self.writers[who].shown
        having = dict(arrays_of(shown, array))
        if not having:
            return
        parts_read = store.read_array_across(array, list(shown))
        for name, part in zip(shown, parts_read, strict=True):
            assert part is None if name not in having else same_cells(part, having[name].cells)
        shapes = [model.cells.shape for model in having.values()]
        common = shapes[seed % len(shapes)]
        rng = np.random.default_rng(seed)
        alike = [name for name in having if having[name].cells.shape == common]
        names = [alike[i] for i in rng.integers(0, len(alike), 5)] + [name for name in shown if name not in having]
        start, shape = some_box(common, parts)
        found = store.read_array_across_stacked(array, names, start, shape, on_missing="fill")
        absent = Array.unwritten(array, common).cells
        for row, name in enumerate(names):
            cells = within(having[name].cells if name in having else absent, start, shape)
            # A stack of texts has rows of objects, also those of scalars.
            assert same_cells(np.asarray(found[row, ...]), np.array(cells)), (array, name, found[row], cells)

    @rule(who=WRITERS)
    def prune(self, who: int) -> None:
        base = self.writers[who].base
        arrays = [array for array in KINDS if any(arrays_of(base, array))]
        index = self.stores[who].pruning_index(arrays)
        assert [name for name in index["datasets"] if name is not None] == list(base)
        assert index["live"].tolist() == [name is not None for name in index["datasets"]]
        for array in arrays:
            column = index["columns"][array]
            for row, name in enumerate(index["datasets"]):
                model = base[name].arrays.get(array) if name is not None else None
                if model is None:
                    assert not column["present"][row]
                    assert not column["stats_valid"][row]
                    continue
                expected = model.statistics()
                assert column["present"][row]
                assert (column["row_count"][row], column["null_count"][row]) == (
                    model.cells.size,
                    expected["null_count"],
                )
                assert column["stats_valid"][row] == (expected["min"] is not None), (array, name)
                if expected["min"] is not None:
                    assert (column["min"][row], column["max"][row]) == (expected["min"], expected["max"])

    @rule(who=WRITERS, array=st.sampled_from("tnusw"), number=st.integers(0, 13))
    def select(self, who: int, array: str, number: int) -> None:
        base = self.writers[who].base
        having = dict(arrays_of(base, array))
        value: Any = {"s": "w", "w": np.datetime64(number, "ns")}.get(array, number)
        threshold: Any = {"s": "w", "w": number}.get(array, number)
        condition = col(array) > value
        if not having:
            with pytest.raises(atlas.ArrayNotFound):
                self.stores[who].select(condition)
            return
        matching = [n for n, model in having.items() if any(c > threshold for c in model.counted())]
        assert list(self.stores[who].select(condition, confirm=True)) == matching
        could = self.stores[who].select(condition)
        assert set(matching) <= set(could)
        assert {name for name, certain in zip(could, could.certain, strict=True) if certain} <= set(matching)


def run(sequences: int, steps: int, start: int | None = None) -> None:
    """Run sequences of operations; the first that goes wrong is shown as it is, not made smaller, which takes long."""
    wanted = settings(
        max_examples=sequences,
        stateful_step_count=steps,
        derandomize=start is None,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    machine = StoreMachine if start is None else seed(start)(StoreMachine)
    run_state_machine_as_test(machine, settings=wanted)
