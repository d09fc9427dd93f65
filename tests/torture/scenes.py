"""What is done to a store while it is hurt, and what it must hold afterwards: black-box, through the public API."""

from __future__ import annotations

import gc
import itertools
import os
import pickle
import re
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

import atlas
from atlas import commitfiles, datafiles, heap

DAMAGED = "damaged"
T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """One of several equal shares of a campaign, for those who cannot run it in one piece."""

    number: int = 1
    count: int = 1

    def of(self, cases: Iterable[T]) -> Iterator[T]:
        """Yield the cases that belong to this share."""
        return itertools.islice(cases, self.number - 1, None, self.count)

    def __contains__(self, case: int) -> bool:
        return case % self.count == self.number - 1

    def size(self, whole: int) -> int:
        """Return how many of `whole` cases belong to this share."""
        return whole // self.count + (self.number <= whole % self.count)


State = Any  # what state_of returns; None: there is no store


WHOLE = Share()


def cells(seed: int, shape: tuple[int, ...] = (6, 8)) -> np.ndarray:
    """Cells that compress, and differ by seed."""
    return np.round(np.arange(np.prod(shape), dtype="float32").reshape(shape) * 0.25 + seed, 2)


def fill_dataset(store: atlas.Atlas, name: str, seed: int) -> None:
    """Add a dataset of three arrays, with attributes."""
    view = store.create_dataset(name)
    view.define_array("t", "float32", ["y", "x"], [6, 8], [3, 4], float("nan"))
    view.write_array("t", [0, 0], cells(seed))
    view.define_array("n", "int64", ["y"], [6])
    view.write_array("n", [0], np.arange(6) * seed)
    view.define_array("label", "string", ["y"], [2])
    view.write_array("label", [0], np.array(["a" * seed, "ü"], dtype=object))
    view.set_attribute("seed", seed)
    view.set_array_attribute("t", "units", "K")


def build(place: Path, **options: Any) -> None:
    """Make the store that everything starts from: two flushes, something deleted and something replaced."""
    with atlas.Atlas.create(place, workers=1, **options) as store:
        for i in range(4):
            fill_dataset(store, f"d{i}", i + 1)
    with atlas.Atlas.open(place, workers=1) as store:
        store.delete_dataset("d3")
        store.open_dataset("d1").write_array("t", [0, 0], cells(77, (3, 4)))


def state_of(place: Path) -> State:
    """Return all that a reader can see."""
    try:
        store = atlas.Atlas.open(place, mode="r", workers=1)
    except atlas.StoreNotFound:
        return None
    return state(store)


def seen_at(place: Path) -> State:
    """Return all that a reader can see, "damaged" where that is an error."""
    try:
        return state_of(place)
    except atlas.CorruptStore:
        return DAMAGED


def state(store: atlas.Atlas) -> State:
    """Return all that a handle shows."""
    seen, names = [], store.list_datasets()
    parts = {array: store.read_array_across(array, names) for array in store.list_arrays()}
    for row, name in enumerate(names):
        view = store.open_dataset(name)
        arrays = []
        for array in view.list_arrays():
            values = parts[array][row]
            data = values.tolist() if values.dtype == object else values.tobytes()
            shown = (repr(view.array_meta(array)), repr(view.array_stats(array)), repr(view.array_attributes(array)))
            arrays.append((array, data, *shown))
        seen.append((name, arrays, repr(view.attributes())))
    return seen


# ── operations ────────────────────────────────────────────────────────────────────────────────
# Each is a pair: prepare(place) gives what act(prepared) works on. `act` must be repeatable on the same
# prepared thing after it failed: that is what "the handle still holds its pending changes" means.


def _opened(place: Path) -> atlas.Atlas:
    return atlas.Atlas.open(place, workers=1)


def prepare_flush(place: Path) -> atlas.Atlas:
    """A dataset added, chunks changed in one, an array replaced in another, attributes set."""
    store = _opened(place)
    fill_dataset(store, "new", 9)
    store.open_dataset("d0").write_array("t", [1, 1], cells(50, (4, 5)))
    store.open_dataset("d0").set_attribute("seed", -1)
    view = store.open_dataset("d2")
    view.delete_array("n")
    view.define_array("n", "int64", ["y"], [6])
    view.write_array("n", [0], np.arange(6) + 1000)
    return store


def prepare_delete(place: Path) -> atlas.Atlas:
    """A dataset deleted, another deleted and made anew."""
    store = _opened(place)
    store.delete_dataset("d0")
    store.delete_dataset("d1")
    fill_dataset(store, "d1", 33)
    return store


def prepare_wide(place: Path) -> atlas.Atlas:
    """A first use of new arrays, hence of new directories: so many that threads sync them side by side."""
    store = _opened(place)
    view = store.create_dataset("wide")
    for i in range(8):
        view.define_array(f"w{i}", "uint8", ["x"], [5])
        view.write_array(f"w{i}", [0], np.full(5, i, "uint8"))
    return store


def prepare_change(place: Path) -> atlas.Atlas:
    """A dataset renamed, one copied, one array grown and another cut."""
    store = _opened(place)
    store.copy_dataset("d0", "copy")
    store.rename_dataset("d1", "renamed")
    store.open_dataset("d2").append("t", cells(4, (2, 8)))
    store.open_dataset("renamed").resize("n", [3])
    return store


def prepare_many(place: Path) -> atlas.Atlas:
    """Datasets created together, and an array written across them and an older one."""
    store = _opened(place)
    names = [f"many{i}" for i in range(3)]
    t = {"dtype": "float32", "dims": ["y", "x"], "shape": (6, 8), "chunk_shape": (3, 4), "fill_value": float("nan")}
    store.create_datasets(names, {"t": t}, {"seed": np.arange(3)})
    store.write_stacked("t", [*names, "d2"], np.stack([cells(i) for i in range(4)]))
    return store


class SpilledWrites:
    """Writes beyond what may wait in memory, then the flush: the disk is needed, and may fail, before it."""

    def __init__(self, place: Path) -> None:
        self.store = atlas.Atlas.open(place, workers=1, pending_bytes=0)

    def act(self) -> None:
        """Write and flush; what an earlier attempt has written is written again."""
        if "wide" not in self.store:
            self.store.create_dataset("wide").define_array("w", "int64", ["x"], [300], [100])
        self.store.open_dataset("wide").write_array("w", [0], np.arange(300) ** 3)
        self.store.write_stacked("t", ["d0", "d2"], np.stack([cells(8), cells(9)]))
        assert self.store._session.pending.heap.spilled
        self.store.flush()

    def check(self) -> None:
        assert self.store.open_dataset("wide").read_array("w")[299] == 299**3


class SpilledAlone(SpilledWrites):
    """The same, each array in a file of its own, which the flush makes its data file."""

    def act(self) -> None:
        heap.OWN_BYTES = heap.MORE_BYTES = 0
        super().act()


class NamedSpills(SpilledWrites):
    """The same where files cannot be made without a name."""

    def act(self) -> None:
        flag = os.O_TMPFILE
        del os.O_TMPFILE
        try:
            super().act()
        finally:
            os.O_TMPFILE = flag


def build_in_pieces(place: Path) -> None:
    """A store of several data files for each array, and several table files."""
    datafiles.MERGE_BELOW, commitfiles.INLINE_BYTES, commitfiles.TABLE_RATIO = 0, 0, 0
    build(place)
    with _opened(place) as store:
        fill_dataset(store, "more", 5)


def prepare_another_piece(place: Path) -> atlas.Atlas:
    """One more file for each array, and one more table file; those that are there stay."""
    datafiles.MERGE_BELOW, commitfiles.INLINE_BYTES, commitfiles.TABLE_RATIO = 0, 0, 0
    return prepare_flush(place)


def prepare_merging(place: Path) -> atlas.Atlas:
    """All files that are there are taken into new ones."""
    commitfiles.INLINE_BYTES = 0
    return prepare_flush(place)


def prepare_another_store(place: Path) -> atlas.Atlas:
    """A new store, whose root has another name, in place of the old one."""
    store = atlas.Atlas.create(place, meta_format="msgpack", overwrite="at flush", workers=1)
    fill_dataset(store, "new", 9)
    return store


def flush(store: atlas.Atlas) -> None:
    store.flush()


def collect(store: atlas.Atlas) -> None:
    store.gc()


def compact(store: atlas.Atlas) -> None:
    store.compact()


class CompactionUnderReaders:
    """Compaction while a reader holds the state before."""

    def __init__(self, place: Path) -> None:
        self.reader = atlas.Atlas.open(place, mode="r", workers=1)
        self.seen = state(self.reader)
        self.writer = _opened(place)

    def act(self) -> None:
        self.writer.compact()

    def check(self) -> None:
        assert state(self.reader) == self.seen, "the reader's snapshot changed"


def create(place: Path) -> None:
    atlas.Atlas.create(place, workers=1)


def overwrite(place: Path) -> None:
    atlas.Atlas.create(place, overwrite=True, workers=1)


def overwrite_elsewhere(place: Path) -> None:
    """Overwriting by a store whose root has another name."""
    atlas.Atlas.create(place, meta_format="msgpack", meta_compression="zstd", overwrite=True, workers=1)


def nothing(place: Path) -> None:
    """There is no store."""


def build_without_root(place: Path) -> None:
    """A store whose last commit changed attributes only, and whose root is gone."""
    build(place)
    with _opened(place) as store:
        store.open_dataset("d0").set_attribute("seed", 5)
    (place / "atlas.json").unlink()


def build_with_garbage(place: Path) -> None:
    """A store with what a writer left that was killed: files of a commit, and a root that was not renamed."""
    build(place)
    for name in ("t/data-{}.af", "_catalog/commit-{}.ar", ".atlas.json.tmp-{}"):
        (place / name.format("0" * 32)).write_bytes(b"junk")
    (place / ".atlas.lock").write_bytes(b"w")


def build_damaged(place: Path) -> None:
    """A store with damage to its root, to the index of one data file, and to the record of another's commit."""
    build(place)
    arrays = _opened(place)._session.snapshot.root.arrays
    changed, unchanged = arrays["t"].files[-1], arrays["n"].files[0]
    assert changed.commit != unchanged.commit
    for key in ("atlas.json", changed.key, f"_catalog/commit-{unchanged.commit}.ar"):
        data = bytearray((place / key).read_bytes())
        data[-20] ^= 4
        (place / key).write_bytes(data)


def repair(place: Path) -> None:
    assert atlas.Atlas.repair(place).ok


class Operation:
    """Something that changes a store: how it begins, what it works on, what it does."""

    def __init__(
        self,
        start: Callable[[Path], Any],
        prepare: Callable[[Path], Any],
        act: Callable[[Any], Any],
        check: Callable[[Any], Any] = lambda prepared: None,
    ) -> None:
        self.start, self.prepare, self.act, self.check = start, prepare, act, check


def _same(place: Path) -> Path:
    return place


OPERATIONS: dict[str, Operation] = {
    "create": Operation(nothing, _same, create),
    "flush": Operation(build, prepare_flush, flush),
    "flush new arrays": Operation(build, prepare_wide, flush),
    "flush after a killed writer": Operation(build_with_garbage, prepare_flush, flush),
    "delete and flush": Operation(build, prepare_delete, flush),
    "flush into pieces": Operation(build_in_pieces, prepare_another_piece, flush),
    "flush that merges pieces": Operation(build_in_pieces, prepare_merging, flush),
    "rename, copy, resize": Operation(build, prepare_change, flush),
    "many at once": Operation(build, prepare_many, flush),
    "spill": Operation(build, SpilledWrites, SpilledWrites.act, SpilledWrites.check),
    "spill alone": Operation(build, SpilledAlone, SpilledAlone.act, SpilledAlone.check),
    "spill by name": Operation(build, NamedSpills, NamedSpills.act, NamedSpills.check),
    "compact": Operation(build, _opened, compact),
    "compact under readers": Operation(
        build, CompactionUnderReaders, CompactionUnderReaders.act, CompactionUnderReaders.check
    ),
    "overwrite": Operation(build, _same, overwrite),
    "overwrite elsewhere": Operation(build, _same, overwrite_elsewhere),
    "overwrite at flush": Operation(build, prepare_another_store, flush),
    "collect garbage": Operation(build_with_garbage, _opened, collect),
    "repair without root": Operation(build_without_root, _same, repair),
    "repair": Operation(build_damaged, _same, repair),
}


# ── what may lie in a store's directory ───────────────────────────────────────────────────────


def leftovers(place: Path) -> list[str]:
    """Return the files that a store at rest does not need."""
    store = atlas.Atlas.open(place, mode="r")
    root = store._session.snapshot.root
    known = {file.key for file in root.files} | {f"_catalog/commit-{commit}.ar" for commit in root.commits}
    aside = {key.rsplit("/", 1)[-1] for key, _, _ in root.retired}
    found = []
    for directory, _, files in os.walk(place):
        for name in files:
            key = os.path.relpath(os.path.join(directory, name), place)
            at_rest = key in known or name in aside or key in (store.info()["root"], ".atlas.lock")
            kept = key.startswith("_damaged/")
            if not at_rest and not kept and re.search(r"\.a[frt]$|\.tmp-|\.spill-|^atlas\.", name):
                found.append(key)
    return found


# ── children ──────────────────────────────────────────────────────────────────────────────────


def in_child(action: Callable[[], Any]) -> Any:
    """Return what `action` returns in a forked child; its death is the string "killed"."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(read)
            try:
                answer = ("ok", action())
            except BaseException:
                answer = ("failed", traceback.format_exc())
            with os.fdopen(write, "wb") as pipe:
                pickle.dump(answer, pipe)
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    if not data:
        return "killed"
    kind, value = pickle.loads(data)
    if kind == "failed":
        raise AssertionError(f"in the child: {value}")
    return value


def warm_up() -> None:
    """Load here whatever a store needs, once: the children are forks of this process."""
    with tempfile.TemporaryDirectory() as place:
        for compression in ("none", "zstd", "lz4"):
            build(Path(place, compression), meta_compression=compression)
            state_of(Path(place, compression))
            _opened(Path(place, compression)).compact()
    gc.collect()
    gc.freeze()
