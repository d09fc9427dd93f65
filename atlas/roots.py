"""Finding the root object of a store, and putting the next one in its place.

Locally the root's name tells its encoding, and a lock keeps other writers out. An object store has no lock, and
looking for six names takes six requests. There every store begins as ``atlas.json``, whatever its encoding, made on
the condition that there is none: that is the one key which creators compete for. If later states are to be
in another encoding, it says under which name they are. A commit replaces the root on the condition that it
is still the one which the commit was built on.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from weakref import WeakValueDictionary

import numpy as np

from atlas.catalog import Catalog
from atlas.chunks import MAX_CELLS
from atlas.columnfile import ColumnFile, DataFile
from atlas.config import StoreConfig, settings
from atlas.errors import (
    AtlasError,
    CommitUnknownError,
    ConflictError,
    CorruptIndex,
    CorruptRoot,
    CorruptStore,
    SnapshotExpired,
    StorageError,
    StoreNotFound,
)
from atlas.indexes import read_index
from atlas.layer import Layer
from atlas.record import has_record, read_record
from atlas.root import ROOT_KEYS, Root, decode_root, encode_root, root_key
from atlas.storage import ConditionFailed, Storage
from atlas.storage.names import record_key
from atlas.table import read_layer

CLAIMED_KEY = root_key(StoreConfig())

# Commits that a root remembers: so many may come before somebody asks whether theirs is there. On object stores
# that is asked after every answer that was lost, on local disks only after the disk failed.
_REMEMBERED = 100
_REMEMBERED_LOCALLY = 32

_LONGEST_PAUSE = 2.0


class LostRace(Exception):
    """A root was not the one to be replaced, `base`; `current` is what it is now.

    Attributes
    ----------
    current : Root
    is_final : bool
        Whether the state that was put is not there and never will be, so that nothing refers to its files. If what
        is read is still the base, one of the two answers was wrong, or late.
    """

    def __init__(self, current: Root, base: Root) -> None:
        self.current = current
        self.is_final = current.commit != base.commit


def new_commit_id() -> str:
    """Return an id that no other commit has."""
    return uuid.uuid4().hex


def load_root(storage: Storage) -> Root:
    """Return the committed state of a store.

    Raises
    ------
    StoreNotFound
        If there is no root object.
    CorruptRoot
        If it cannot be trusted.
    """
    found = _newest_root(storage) if storage.is_local else _claimed_root(storage)
    if found is None:
        advice = "Atlas.repair brings its root back" if is_lost(storage) else "Atlas.create makes one"
        if not storage.is_local:
            advice += ", Atlas.repair brings one back whose root was deleted"
        raise StoreNotFound(f"there is no Atlas store at {storage.describe()}: no root object is there; {advice}")
    return found


def _newest_root(storage: Storage) -> Root | None:
    # Overwriting may put the new root under a name that was looked at before the old one went: look again.
    keys = list(ROOT_KEYS)
    found = _decoded(storage, storage.read_each(keys)) or _decoded(storage, storage.read_each(keys))
    # Two are there only while a store is being overwritten in another encoding: the successor counts.
    return max(found.values(), key=lambda root: root.generation, default=None)


def _claimed_root(storage: Storage) -> Root | None:
    found = _decoded(storage, storage.read_each([CLAIMED_KEY]))
    if not found:
        # A store that was made elsewhere and copied here need not have it.
        found = _decoded(storage, storage.read_each([key for key in ROOT_KEYS if key != CLAIMED_KEY]))
    if not found:
        return None
    at, root = max(found.items(), key=lambda item: item[1].generation)
    while (key := root_key(root.config)) != at:
        later = _decoded(storage, storage.read_each([key])).get(key)
        if later is None:
            return replace(root, version="")
        # Nor one that is as old: two that name each other would be followed for ever.
        if later.generation <= root.generation:
            return replace(root, version=later.version)
        at, root = key, later
    _take_copied_tables(root)
    # Names, schemas and attributes are looked up without a request.
    root.catalog.layers  # noqa: B018
    return root


def _take_copied_tables(root: Root) -> None:
    """Read the table files that the root has copies of; those that are not true are passed over."""
    for file in root.catalog.tables:
        copy = root.copies.get(file.key)
        with suppress(CorruptIndex):
            table = None if copy is None else ColumnFile(np.frombuffer(copy, np.uint8), file)
            if table is not None and table.is_whole:
                root.catalog.loaded[file] = _layer_of(table, root.store, root.catalog.slots)


# States that are in use, by place and bytes: opened again, as loops over names do, they are not decoded again.
_states: WeakValueDictionary[tuple[str, str, bytes], Root] = WeakValueDictionary()


def _decoded(storage: Storage, objects: Mapping[str, tuple[bytes, str | None]]) -> dict[str, Root]:
    if not storage.is_local:  # others are what they are by their options, too
        return {key: _fetched_root(storage, key, *found) for key, found in objects.items()}
    load, found = partial(load_table, storage), {}
    for key, (data, _) in objects.items():
        place = storage.describe(), key, data
        root = _states.get(place)
        if root is None:
            root = _states[place] = decode_root(data, key, load)
        found[key] = root
    return found


def _fetched_root(storage: Storage, key: str, data: bytes, version: str | None) -> Root:
    """Return a root that came from afar; one that is damaged is read once more: it may be so on its way only."""
    load = partial(load_table, storage)
    try:
        root = decode_root(data, key, load)
    except CorruptRoot:
        again = storage.read_each([key]).get(key)
        if again is None:
            raise
        data, version = again
        root = decode_root(data, key, load)
    return replace(root, version=version)


# Table files that are in use, so that those which a commit leaves alone are not read again.
_tables: WeakValueDictionary[tuple[str, DataFile], Layer] = WeakValueDictionary()


def load_table(storage: Storage, store: str, file: DataFile, slots: int) -> Layer:
    """Return the layer that a table file of a store holds."""
    place = storage.describe(), file
    layer = _tables.get(place)
    if layer is None:
        layer = _tables[place] = _layer_of(ColumnFile(read_index(storage, file), file), store, slots)
    return layer


def _layer_of(table: ColumnFile, store: str, slots: int) -> Layer:
    table.expect(table.head.get("store") == store, "it belongs to another store")
    return read_layer(table, slots)


def recorded_state(storage: Storage, key: str) -> Root | None:
    """Return the state that the record of a commit tells of; ``None`` where it is damaged or gone."""
    with suppress(CorruptStore, FileNotFoundError):
        return read_record(storage, key).root(partial(load_table, storage))
    return None


def gives_way(storage: Storage, root: Root, recorded: Root) -> bool:
    """Whether an intact root is to give way to a later state of the same store that a record tells of.

    An older root was put in its place, then, or the power went just before it was replaced. To a state that did not
    come after this very root it does not: then commits were made on top of the older one, and nothing may take those
    away. Nor to the next commit if files of that are missing: it may be one that was cut off and cleared up in part.
    """
    if recorded.oldest_known <= root.generation:
        came_after = recorded.came_after(root.commit)
    else:
        # So far back it remembers nothing. But the next commit takes the record of the one before away, unless a file
        # of that stays.
        came_after = root.commit in recorded.commits or not storage.exists(record_key(root.commit))
    return came_after and (recorded.parent != root.commit or _are_there(storage, recorded))


def _are_there(storage: Storage, root: Root) -> bool:
    """Whether the files that a commit wrote are there, as long as they were."""
    try:
        return all(storage.size(file.key) >= file.length for file in root.files if file.commit == root.commit)
    except (FileNotFoundError, CorruptStore):
        return False


def is_lost(storage: Storage) -> bool:
    """Return whether a store without a root can be brought back; on object stores that is not looked for."""
    return storage.is_local and has_record(storage)


def has_root(storage: Storage) -> bool:
    """Return whether there is a root object, whatever state it is in."""
    if storage.is_local:
        return any(storage.exists(key) for key in ROOT_KEYS)
    return bool(storage.read_each(list(ROOT_KEYS)))


def create_root(storage: Storage, config: StoreConfig) -> Root:
    """Make an empty store and return its state; fails with FileExistsError when there is one."""
    root = Root(config, 0, new_commit_id(), "", Catalog(), {}, store=new_commit_id())
    key = root_key(config) if storage.is_local else CLAIMED_KEY
    version = storage.create_exclusive(key, encode_root(root, key))
    return replace(root, version=version if key == root_key(config) else "")


def emptied(root: Root, config: StoreConfig) -> Root:
    """Return the state of an empty store of this layout that stands in the place of `root`."""
    return replace(root, config=config, catalog=Catalog(), arrays={}, copies={}, store=new_commit_id())


def delete_other_roots(storage: Storage, config: StoreConfig) -> None:
    """Remove the root objects of other encodings, which the one of this encoding has replaced."""
    if storage.is_local:
        for key in ROOT_KEYS:
            if key != root_key(config):
                storage.delete(key)


def next_state(storage: Storage, root: Root) -> Root:
    """Return the state that follows `root`, without what changes in it."""
    if root.generation >= MAX_CELLS:
        # Beyond that no dataset may say that it has changed.
        raise CorruptRoot(f"{storage.describe()} claims to be of commit {root.generation}: none can follow that")
    before = (*root.recent, root.commit) if root.commit else ()
    recent = before[-(_REMEMBERED_LOCALLY if storage.is_local else _REMEMBERED) :]
    return root.successor(new_commit_id(), recent=recent)


def replace_root(storage: Storage, root: Root, base: Root) -> Root:
    """Put a state in the place of the one that it was built on.

    Raises
    ------
    LostRace
        If another writer did so first.
    CommitUnknownError
        If no answer came, and the root cannot be read.
    StoreNotFound
        If it is not there any more.
    """
    key = root_key(base.config)
    try:
        version = storage.replace(key, encode_root(root, key), base.version)
    except (ConditionFailed, StorageError) as error:
        return _find_out(storage, root, base, error)
    return replace(root, version=version) if key == root_key(root.config) else load_root(storage)


def _find_out(storage: Storage, root: Root, base: Root, failure: Exception) -> Root:
    """Return the state of the store if `root` became part of it after all."""
    try:
        current = load_root(storage)
    except StoreNotFound:
        raise
    except AtlasError as error:
        raise CommitUnknownError(
            f"whether commit {root.commit} of {storage.describe()} happened is not known ({failure}), since the root "
            f"cannot be read: {error}; flush again to find out and commit what is missing"
        ) from failure
    if root.commit in (current.commit, *current.recent):
        return current
    if isinstance(failure, StorageError) and current.commit == base.commit:
        raise failure
    if current.generation - root.generation >= _REMEMBERED:
        raise CommitUnknownError(
            f"whether commit {root.commit} of {storage.describe()} happened is not known: {_REMEMBERED} others "
            "have followed, and the store remembers no more; open it anew and look"
        ) from failure
    if current.store == base.store and current.generation < base.generation:
        raise StorageError(
            f"the root of {storage.describe()} is older than the one that was there before: it was deleted, or an old "
            "one put in its place; nothing was committed, and Atlas.repair brings the newest back"
        ) from failure
    raise LostRace(current, base) from failure


def overtaken(storage: Storage, base: Root, error: SnapshotExpired) -> LostRace:
    """Return what it means to a writer that files of the state it builds on are gone; raises it if nothing else is."""
    current = load_root(storage)
    if current.commit == base.commit:
        raise error
    return LostRace(current, base)


class Race:
    """The attempts of one writer against others: it begins anew after a while, and gives up in the end."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._deadline = time.monotonic() + settings().commit_seconds
        self._pause = 0.02

    def again(self, lost: LostRace) -> Root:
        """Return the state to build on next, after a pause of random length."""
        if time.monotonic() > self._deadline:
            raise ConflictError(
                f"other writers were faster for {settings().commit_seconds} s (ATLAS_COMMIT_SECONDS) at "
                f"{self._storage.describe()}; nothing was committed, flush again"
            ) from None
        time.sleep(random.uniform(0, self._pause))
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        return lost.current
