"""What one handle shows: a committed state, and the pending changes over it."""

from __future__ import annotations

import threading
import uuid
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

from atlas.ahead import HeadStarts
from atlas.commit import commit
from atlas.config import MISMATCH_POLICIES, StoreConfig, choice, pending_limit, settings
from atlas.dtypes import DType
from atlas.errors import (
    ArrayNotFound,
    AtlasError,
    ConflictError,
    DatasetAlreadyExists,
    DatasetNotFound,
    InvalidArgument,
    ReadOnlyStore,
    TypeMismatch,
)
from atlas.executor import MODES
from atlas.forks import cached_property, free_in_children
from atlas.heap import Heap
from atlas.layer import Layer
from atlas.pending import Pending
from atlas.reader import Snapshot
from atlas.root import PackedRoot, Root
from atlas.roots import emptied, load_root, load_table
from atlas.schema import ArraySchema, DatasetRecord, MergedSchema, Template, split_record
from atlas.storage import Storage

Mode = Literal["a", "r"]


class Session:
    """The state that a store's handle and its views share.

    Attributes
    ----------
    storage : Storage
    snapshot : Snapshot
        The committed state.
    pending : Pending
        What the next flush will commit.
    lock : threading.RLock
        Held while `snapshot` and `pending` are looked at together, or changed.
    """

    def __init__(
        self,
        storage: Storage,
        root: Root,
        on_type_mismatch: str,
        mode: Mode,
        workers: int | None,
        executor: str | None,
        pending_bytes: int | None = None,
    ) -> None:
        self.storage = storage
        self.on_type_mismatch = choice(on_type_mismatch, MISMATCH_POLICIES, "on_type_mismatch")
        self.mode = mode
        self._workers = workers
        self._executor = None if executor is None else choice(executor, MODES, "executor")
        self._pending_bytes = pending_limit(pending_bytes)
        self.lock = free_in_children(threading.RLock())
        self.pending = self._nothing_pending()
        self._frozen: FrozenSession | None = None
        self.adopt(root)

    def __getstate__(self) -> dict[str, Any]:
        with self.lock:
            if self.pending:
                raise InvalidArgument("a store with pending changes cannot be pickled; flush it first")
            options = (self.on_type_mismatch, self.mode, self._workers, self._executor, self._pending_bytes)
            return {"storage": self.storage, "root": PackedRoot.of(self.snapshot.root), "options": options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        storage = state["storage"]
        with _keeping_files(storage):
            self.__init__(storage, _unpacked(storage, state["root"]), *state["options"])  # type: ignore[misc]

    def frozen(self) -> FrozenSession:
        """Return a session on what is committed as seen now, which nothing changes any more."""
        with self.lock:
            if self._frozen is None or self._frozen.snapshot is not self.snapshot:
                self._frozen = FrozenSession(self.snapshot, self._workers, self._executor)
            return self._frozen

    @classmethod
    def load(
        cls,
        storage: Storage,
        on_type_mismatch: str,
        mode: Mode,
        workers: int | None,
        executor: str | None,
        pending_bytes: int | None = None,
    ) -> Session:
        """Return a session on the committed state of a store."""
        with _keeping_files(storage):
            return cls(storage, load_root(storage), on_type_mismatch, mode, workers, executor, pending_bytes)

    def adopt(self, root: Root, merged: MergedSchema | None = None) -> None:
        """Take a committed state as the one to show; `merged` is its merged schema, when that is known."""
        workers = settings().workers if self._workers is None else self._workers
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
            raise InvalidArgument(f"workers must be at least 1, not {workers!r}")
        pin = self.storage.pin(root.generation)
        before = getattr(self, "snapshot", None)
        # First: an interrupt before the end must not leave what is of another state. A frozen session would go on
        # claiming the files of that one: whoever still reads it has it, too.
        self._merged = self._frozen = None
        self.snapshot = Snapshot(self.storage, root, workers, self._executor, pin, before)
        self._merged = merged

    def flush(self) -> None:
        """Commit what is pending and show the new state."""
        with self.lock:
            if self.pending.is_torn:
                raise AtlasError(
                    "an interrupt ended a change half way, so what is pending cannot be committed; "
                    "open the store anew and make the changes again"
                )
            if self.pending:
                base = self.snapshot.root.commit
                root = commit(self.storage, self.snapshot, self.pending, self.snapshot.workers)
                # With no other writer's commit in between, what was pending is all that is new.
                self.adopt(root, self._merged if root.parent == base else None)
                # Last: were this interrupted, the next flush would find out that its changes are committed.
                self._replace_pending()

    def drop_pending(self) -> None:
        """Forget every pending change, but not that the first flush begins a new store."""
        with self.lock:
            self._replace_pending(self.pending.layout)
            self.forget_schema()

    def _replace_pending(self, layout: StoreConfig | None = None) -> None:
        old, self.pending = self.pending, self._nothing_pending(layout)
        old.starts.drop()

    def _nothing_pending(self, layout: StoreConfig | None = None) -> Pending:
        # Half for cells as they are, half for encoded chunks.
        limit = self._pending_bytes // 2
        heap = Heap(self.storage.local_path, limit)
        return Pending(heap, limit, HeadStarts(self.storage, heap), layout)

    def forget_schema(self) -> None:
        """Have the merged schema made anew when it is next asked for."""
        self._merged = None

    def refresh(self) -> None:
        """Show the newest committed state; what is pending stays."""
        with self.lock:
            root = load_root(self.storage)
            if root.commit != self.snapshot.root.commit:
                self.follow(root)

    def follow(self, root: Root) -> None:
        """Take another committed state up under the pending changes."""
        # A batch that begins a new store shows nothing of the one in whose place it will be.
        self.adopt(root if self.pending.layout is None else emptied(root, self.pending.layout))

    def writable(self) -> None:
        """Raise :class:`ReadOnlyStore` unless changes are allowed; asked under the lock, before each."""
        if self.mode == "r":
            raise ReadOnlyStore(
                f"{self.storage.describe()} was opened with mode='r'; open it with mode='a' to change it"
            )
        # What is changed now was no part of what a flush has tried to commit.
        self.pending.whole_attempt = None

    def exists(self, name: str) -> bool:
        """Return whether there is a dataset of that name."""
        if not isinstance(name, str):
            return False
        with self.lock:
            if name in self.pending.records or self.pending.number(name) >= 0:
                return True
            root = self.snapshot.root
            return name not in self.pending.deleted and name not in self.pending.renamed(root) and name in root.catalog

    def require(self, name: str) -> None:
        """Raise :class:`DatasetNotFound` unless there is a dataset of that name."""
        if not self.exists(name):
            raise DatasetNotFound(f"dataset not found: {name!r} in {self.storage.describe()}")

    def record(self, name: str) -> DatasetRecord:
        """Return what a dataset declares, pending changes included; not to be changed."""
        with self.lock:
            self.require(name)
            found = self.pending.records.get(name)
            if found is not None:
                return found
            catalog, number = self.snapshot.root.catalog, self.pending.number(name)
            together = None if number < 0 else self.pending.batch_record(number)
            if together is not None:
                return together
            ordinal = catalog.ordinal(name)
            if ordinal < 0:
                raise ConflictError(
                    f"another writer has deleted dataset {name!r}, changes of which are pending here; "
                    "open the store anew",
                    [name],
                )
            return catalog.record(ordinal)

    def array(self, name: str, array: object) -> ArraySchema:
        """Return how a dataset declares an array; raises :class:`ArrayNotFound` if it does not."""
        found = self.record(name).arrays.get(array) if isinstance(array, str) else None
        if found is None:
            raise ArrayNotFound(f"array not found: {array!r} in dataset {name!r}")
        return found

    def ordinal(self, name: str) -> int:
        """Return where the committed state has a dataset, under whatever name; -1 where it has not."""
        root = self.snapshot.root
        if name in self.pending.created:
            return -1
        return root.catalog.ordinal(self.pending.committed_name(name, root))

    def change(self, name: str) -> DatasetRecord:
        """Return what a dataset declares as a record that may be changed."""
        self.writable()
        if name not in self.pending.records:
            record = self.record(name).copy()
            with self.pending.whole():
                self.pending.loosen(name, record, self.snapshot.root)
        return self.pending.records[name]

    def create(self, name: str) -> None:
        """Add an empty dataset."""
        self.writable()
        if self.exists(name):
            raise DatasetAlreadyExists(f"dataset already exists: {name!r}")
        with self.pending.whole():
            self.pending.create(name, self.snapshot.root)

    def rename(self, old: str, new: str) -> None:
        """Give a dataset another name."""
        self.writable()
        self.require(old)
        if old == new:
            return
        if self.exists(new):
            raise DatasetAlreadyExists(f"dataset already exists: {new!r}")
        self.change(old)
        with self.pending.whole():
            self.pending.rename(old, new, self.snapshot.root)

    def delete(self, name: str) -> None:
        """Take a dataset away."""
        self.writable()
        self.require(name)
        with self.pending.whole():
            self.pending.delete(name, self.snapshot.root)
            self.forget_schema()

    def merged_schema(self) -> MergedSchema:
        """Return every array and attribute of the collection, pending ones included."""
        with self.lock:
            if self._merged is None:
                self._merged = self._merge()
            return self._merged

    def _merge(self) -> MergedSchema:
        merged = MergedSchema()
        catalog = self.snapshot.root.catalog
        overridden = catalog.find(list(self.hidden()))
        if (overridden >= 0).any():
            catalog = catalog.with_layer(Layer.empty().deleting(overridden[overridden >= 0]))
        for template in catalog.live_templates():
            merged.add_template(template)
        for batch, ids in self.pending.new_in_batches():
            for group in batch.declared.take(ids - batch.first).groups:
                merged.add_template(group.template)
        for record in self.pending.records.values():
            merged.add_template(split_record(record)[0])
        return merged

    def hidden(self) -> set[str]:
        """Committed datasets that single changes replace, rename or remove."""
        return self.pending.deleted | set(self.pending.records) | self.pending.renamed(self.snapshot.root).keys()

    def names(self) -> list[str]:
        """Return the names of all datasets: committed ones by ordinal, then new ones."""
        with self.lock:
            catalog, gone = self.snapshot.root.catalog, self.pending.replaced(self.snapshot.root)
            names = catalog.names()
            hidden = set(catalog.names_of(gone)) if len(gone) else set()
            names = [name for name in names if name not in hidden] if hidden else names
            renamed = self.pending.renamed(self.snapshot.root)
            names = [renamed.get(name, name) for name in names] if renamed else names
            return names + self.pending.created_names()

    def count(self) -> int:
        """Return the number of datasets."""
        with self.lock:
            return (
                self.snapshot.root.catalog.count
                - len(self.pending.replaced(self.snapshot.root))
                + self.pending.created_count()
            )

    def merge_template(self, template: Template) -> None:
        """Widen the collection's types by what datasets declare; of what cannot merge is told as the policy says."""
        for array in template.arrays:
            self.merge_array(array.name, array.dtype, array.dims)
        for owner, key, tag in template.slots:
            self.merge_attribute(owner, key, tag)

    def merge_array(self, name: str, dtype: DType, dims: tuple[str, ...]) -> None:
        """Widen the type that the collection has for arrays of a name."""
        clash = self.merged_schema().add_array(name, dtype, dims)
        if clash is not None:
            self._mismatch(f"array {name!r}", clash.name, dtype.name)

    def merge_attribute(self, array: str | None, key: str, tag: str) -> None:
        """Widen the type that the collection has for attributes of a key."""
        known = self.merged_schema().add_attribute(array, key, tag)
        if known is not None:
            of = f" of array {array!r}" if array else ""
            self._mismatch(f"attribute {key!r}{of}", known, tag)

    def _mismatch(self, what: str, known: str, found: str) -> None:
        """Warn of a type that cannot merge with the collection's, or raise, as the policy says."""
        message = (
            f"type mismatch for {what}: the collection has {known}, which cannot merge with {found} "
            "(types widen among numbers, and between string and timestamp)"
        )
        if self.on_type_mismatch == "error":
            raise TypeMismatch(message)
        warnings.warn(message, UserWarning, stacklevel=4)


class FrozenSession(Session):
    """One committed state of a store, for reading only.

    Pickled, it travels as its place and its version. A process opens a version once, however many of its tasks ask.
    """

    def __init__(self, snapshot: Snapshot, workers: int | None, executor: str | None) -> None:
        self.snapshot = snapshot
        super().__init__(snapshot.storage, snapshot.root, "warn", "r", workers, executor)

    def adopt(self, root: Root, merged: MergedSchema | None = None) -> None:
        """Keep to the state there is."""
        self._merged = merged

    def frozen(self) -> FrozenSession:
        """Return itself."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _thawed, (self.storage, self._packed, self._workers, self._executor)

    @cached_property
    def _packed(self) -> PackedRoot:
        return PackedRoot.of(self.snapshot.root)


# The versions that this process was sent, newest last; each claims its files, so they are few.
_versions: OrderedDict[tuple[Any, ...], FrozenSession] = OrderedDict()
_KEPT_VERSIONS = 4
_versions_lock = free_in_children(threading.Lock())


def _thawed(storage: Storage, packed: PackedRoot, workers: int | None, executor: str | None) -> FrozenSession:
    # With the options: whoever sends newer credentials along wants them used.
    place = storage.token, packed.commit, workers, executor
    with _versions_lock:
        if place not in _versions:
            with _keeping_files(storage):
                session = Session(storage, _unpacked(storage, packed), "warn", "r", workers, executor)
            _versions[place] = session.frozen()
        _versions.move_to_end(place)
        while len(_versions) > _KEPT_VERSIONS:
            _versions.popitem(last=False)
        return _versions[place]


def version_token(session: Session) -> tuple[str, ...]:
    """Return what tells one state of one store from all others, for the names of dask's tasks."""
    root = session.snapshot.root
    # What is not committed has no name that would stay true.
    return ("atlas", root.store, root.commit, *((uuid.uuid4().hex,) if session.pending else ()))


def _unpacked(storage: Storage, packed: PackedRoot) -> Root:
    return packed.root(partial(load_table, storage))


@contextmanager
def _keeping_files(storage: Storage) -> Iterator[None]:
    # Between reading the root and claiming its generation, another process could compact the files away.
    claim = storage.pin(0)
    try:
        yield
    finally:
        claim.release()
