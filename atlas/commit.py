"""Publishing: under the writer lock, new data files first, then the root, each made durable in turn.

The order is the guarantee. Until the root is replaced nothing refers to the new files, so a crash
leaves the old state; once it is, everything it refers to is already on the disk.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from atlas.assembly import Ordinals, gather
from atlas.catalog import Catalog
from atlas.commitfiles import CommitFiles, settle
from atlas.config import StoreConfig
from atlas.conflicts import check_conflicts
from atlas.datafiles import Target, write_array
from atlas.errors import AtlasError, ConflictError, CorruptRoot, SnapshotExpired, StorageError, StoreNotFound
from atlas.layer import Layer, stacked
from atlas.leftovers import files_of, known_to_newer, recover, strays, sweep, try_to_remove, unneeded
from atlas.pending import Pending
from atlas.reader import Snapshot
from atlas.root import ROOT_KEYS, ArrayFiles, Root, encode_root, root_key
from atlas.roots import (
    CLAIMED_KEY,
    LostRace,
    Race,
    create_root,
    delete_other_roots,
    emptied,
    load_root,
    load_table,
    next_state,
    overtaken,
    recorded_state,
    replace_root,
)
from atlas.storage import Storage, array_directory
from atlas.storage.names import CATALOG, is_record, name_of, record_key

_log = logging.getLogger("atlas")

# How old an object is that belongs to no commit under way, where no lock tells of those; a commit may take half as
# long, so that none of its objects is as old while it may still refer to them.
UNFINISHED_SECONDS = 24 * 60 * 60
_LONGEST_SECONDS = UNFINISHED_SECONDS // 2

# With more retired files than this the root of a store whose garbage nobody collects would grow and grow.
_MOST_RETIRED = 1000


def overwrite_root(storage: Storage, config: StoreConfig) -> Root:
    """Replace whatever store is there by an empty one."""
    try:
        old = load_root(storage)
        replaced, recorded = [file.key for file in old.files], old.commits
    except StoreNotFound:
        # Who was faster has taken his store away again.
        return create_root(storage, config)
    except CorruptRoot:
        old, replaced, recorded = _unreadable(storage), strays(files_of(storage)) if storage.is_local else [], set()
        if not storage.is_local:
            storage.delete_all([key for key in ROOT_KEYS if key != CLAIMED_KEY])
    while True:
        root = next_state(storage, emptied(old, config))
        try:
            root = publish(storage, root, old, replaced, recorded)
        except LostRace as lost:
            old = lost.current
            replaced = [file.key for file in old.files]
        else:
            delete_other_roots(storage, config)
            return root


def _unreadable(storage: Storage) -> Root:
    """Return an empty state, without a commit, that stands for one whose root is damaged.

    Readers may still have its files. Their claims are by generation, of which records tell.
    """
    keys = [f"{CATALOG}/{name}" for name in storage.list_dir(CATALOG) if is_record(name)] if storage.is_local else []
    states = [state for key in keys if (state := recorded_state(storage, key)) is not None]
    # To which name it led on an object store is not known: the new one is put where every store begins.
    return Root(StoreConfig(), max((state.generation for state in states), default=0), "", "", Catalog(), {})


def discard_root(storage: Storage, root: Root) -> None:
    """Take a store away that is still what `root` says; a store that others committed to stays."""
    with storage.writer_lock() as interrupted:
        if load_root(storage).commit == root.commit:
            if interrupted:
                # Without the root, the record of a commit that failed would make this a store that has lost it.
                recover(storage, root, interrupted)
            # Where every store begins as the same object, that is the one which others look for.
            for key in dict.fromkeys(([] if storage.is_local else [CLAIMED_KEY]) + [root_key(root.config)]):
                storage.delete(key)


def publish(
    storage: Storage, root: Root, base: Root, retired: Sequence[str] = (), recorded: Collection[str] = ()
) -> Root:
    """Replace the root object, then take away files that nobody needs any more.

    On object stores nothing is removed; :func:`atlas.garbage.collect` does that.

    Parameters
    ----------
    base : Root
        The state, as it was loaded, in whose place the new one is put; without a commit where that could not be read.
    retired : sequence of str
        Files that `root` no longer refers to. They are removed as soon as no reader of an older generation is left.
    recorded : collection of str
        The commits whose records are there; of those that tell nothing more, they are removed.

    Raises
    ------
    LostRace
        If another writer committed first, on an object store.
    ConflictError
        If one did so although this one had the lock.
    """
    now = int(time.time())
    # No reader needs a record: should its removal fail, the next commit makes up for it.
    obsolete = [record_key(commit) for commit in sorted(set(recorded) - root.commits)] if storage.is_local else []
    added = (*((key, root.generation, now) for key in retired), *((key, 0, now) for key in obsolete))
    if not storage.is_local:
        if len(root.retired) > _MOST_RETIRED:
            root = replace(root, retired=_without_old(storage, root, now))
        return replace_root(storage, replace(root, retired=root.retired + added), base)
    _expect_alone(storage, base)
    needed = known_to_newer(storage, replace(root, retired=root.retired + added))
    published = replace(root, retired=sweep(storage, root, needed) + added)
    try:
        storage.replace(root_key(root.config), encode_root(published))
    except StorageError:
        # Renamed, but not known to be durable: the changes are committed, so they must not be
        # applied again. Trying once more makes them durable, or fails for good.
        if not _is_there(storage, published):
            raise
        storage.replace(root_key(root.config), encode_root(published))
    _put_aside(storage, retired)
    for key in obsolete:
        if name_of(key) not in needed:
            try_to_remove(storage, key)
    return published


def _expect_alone(storage: Storage, base: Root) -> None:
    """Raise :class:`ConflictError` if what is to be replaced is not what was there when the lock was taken.

    Somebody has removed the lock file, then, or put another store in the place of this one, or there are no locks here.
    What others do from now until the root is replaced nobody sees, but that is no more than a moment.
    """
    try:
        current = load_root(storage).commit
    except (CorruptRoot, StoreNotFound):
        if base.commit:
            raise
        current = ""
    if current != base.commit or not storage.holds_lock():
        raise ConflictError(
            f"another writer was let into {storage.describe()} while this one had the lock: its lock file was removed, "
            "the store was put elsewhere, or there are no locks; nothing was committed, try again"
        )


def _without_old(storage: Storage, root: Root, now: int) -> tuple[tuple[str, int, int], ...]:
    """Remove what was retired long ago by few requests; return what stays."""
    old = set(unneeded(storage, root, now))
    storage.delete_all([key for key, *_ in old])
    return tuple(entry for entry in root.retired if entry not in old)


def _is_there(storage: Storage, root: Root) -> bool:
    with suppress(StoreNotFound, CorruptRoot):
        return load_root(storage).commit == root.commit
    return False


def _put_aside(storage: Storage, retired: Sequence[str]) -> None:
    # The commit has happened: what cannot be put aside now is no reason to call it a failure.
    try:
        for key in retired:
            storage.retire(key)
    except AtlasError as error:
        _log.warning("%s: old data files could not be put aside: %s", storage.describe(), error)


def commit(storage: Storage, snapshot: Snapshot, pending: Pending, workers: int) -> Root:
    """Commit pending changes and return the new state.

    Raises
    ------
    ConflictError
        If another writer changed the same datasets since `snapshot`.
    StorageError
        If the disk failed; nothing was committed and `pending` still holds everything.
    """
    storage.begin_writing()
    race = Race(storage)
    with storage.writer_lock() as interrupted:
        base = _base(storage, snapshot, pending)
        if interrupted:
            recover(storage, base, interrupted)
        while True:
            try:
                return _commit_onto(storage, base, snapshot, pending, workers)
            except LostRace as lost:
                base = race.again(lost)


def _base(storage: Storage, snapshot: Snapshot, pending: Pending) -> Root:
    """Return the state to build on; where a condition guards it, the one that is known will do as a rule."""
    known = snapshot.root
    is_plain = not pending.attempts and pending.layout is None
    return known if is_plain and known.version is not None else load_root(storage)


def _commit_onto(storage: Storage, base: Root, snapshot: Snapshot, pending: Pending, workers: int) -> Root:
    """Commit pending changes in the place of the state `base`; raises LostRace if that is not the newest any more."""
    pending.recognise(base)
    if pending.is_committed and not storage.is_local:
        # Whatever others have made of it since. On a disk it may not be durable yet.
        return base
    try:
        ground = _ground(storage, base, snapshot, pending)
        files, root, retired = _write_files(storage, ground, pending, workers)
    except SnapshotExpired as error:
        raise overtaken(storage, base, error) from error
    pending.tried(root, pending.renamed(ground.root))
    try:
        with files.publishing():
            root = publish(storage, root, base, retired, base.commits)
    except (LostRace, ConflictError):
        raise
    except BaseException:
        # Best known while no other writer can add to it; the next flush asks once more.
        with suppress(AtlasError):
            pending.recognise(load_root(storage))
        raise
    if pending.layout is not None:
        delete_other_roots(storage, root.config)
    return root


@dataclass(frozen=True)
class _Ground:
    """What a commit is put on top of.

    Attributes
    ----------
    snapshot : Snapshot
    root : Root
        Its state: the newest one, or an empty one in place of that.
    replaced : list of str
        The files that are replaced with all that is there.
    """

    snapshot: Snapshot
    root: Root
    replaced: list[str]


def _ground(storage: Storage, root: Root, snapshot: Snapshot, pending: Pending) -> _Ground:
    """Return what pending changes are put on top of; raises ConflictError if others changed the same datasets."""
    if root.commit != snapshot.root.commit:
        snapshot = Snapshot(storage, root, snapshot.workers, snapshot.mode, before=snapshot)
    # A new store that has begun, although that seemed to fail, must not begin again: others may have added to it.
    has_begun = any(attempt.led_to(root) for attempt in pending.attempts)
    if pending.layout is None or has_begun:
        check_conflicts(root, pending.all_seen(root))
        return _Ground(snapshot, root, [])
    empty = emptied(root, pending.layout)
    return _Ground(Snapshot(storage, empty, snapshot.workers, snapshot.mode), empty, [file.key for file in root.files])


def _write_files(
    storage: Storage, ground: _Ground, pending: Pending, workers: int
) -> tuple[CommitFiles, Root, list[str]]:
    """Write the files of a commit and make them durable; return them, the new state, and the files it does without."""
    ordinals = _assign_ordinals(ground.root, pending)
    pending.settle(ground.root.config, workers)
    successor, began = next_state(storage, ground.root), time.monotonic()
    with CommitFiles(storage, successor) as files:
        after = ground.root.catalog.with_layer(_layer(ground.root, pending, ordinals))
        catalog, merged = settle(files, after)
        arrays, superseded = _write_arrays(files, ground, pending, ordinals, after)
        # A store that was emptied has another id than the one that its table files were read with.
        catalog = replace(catalog, load=partial(load_table, storage, successor.store))
        root, retired = files.state(catalog, arrays), [*ground.replaced, *merged, *superseded]
        files.write_record(root, retired)
        files.make_durable()
        if time.monotonic() - began > _LONGEST_SECONDS and not storage.is_local:
            raise StorageError(f"putting data took {_LONGEST_SECONDS // 3600} hours; flush more often")
        # From here on the root may refer to them. Were it not replaced after all, the next
        # writer finds the lock's mark and removes them.
        files.keep()
    return files, root, retired


def _write_arrays(
    files: CommitFiles, ground: _Ground, pending: Pending, ordinals: Ordinals, after: Catalog
) -> tuple[dict[str, ArrayFiles], list[str]]:
    """Write the new file of each changed array; return the files of all, and those that are in new ones now."""
    changed, superseded = pending.changed_arrays(), list[str]()
    arrays = with_directories(ground.snapshot.storage, ground.root.arrays, changed)
    for name, loose in changed.items():
        target = Target(files, name, arrays[name], after, pending.starts.of(name))
        # Not named: what is gathered of one array would stay in memory with that of the next.
        arrays[name], old = write_array(
            ground.snapshot, target, gather(pending, name, loose, ordinals, after), pending.heap
        )
        superseded += old
    return arrays, superseded


def _assign_ordinals(current: Root, pending: Pending) -> Ordinals:
    catalog, loose = current.catalog, list(pending.records)
    found = catalog.find([pending.committed_name(name, current) for name in loose])
    ordinals = dict(zip(loose, found.tolist(), strict=True))
    table = np.full(len(pending.table.alive), -1, np.int64)
    together = np.flatnonzero(pending.table.alive)
    table[together] = catalog.find_sought(pending.table.names(together).sought)
    # New datasets follow in the order of their creation, however they were created.
    batches = [(batch, ids) for batch, ids in pending.new_in_batches()]
    sequences = [ids - batch.first + batch.sequence for batch, ids in batches]
    order = np.sort(np.concatenate([np.fromiter(pending.created.values(), np.int64), *sequences]))
    for (_, ids), own in zip(batches, sequences, strict=True):
        table[ids] = catalog.slots + np.searchsorted(order, own)
    for name, sequence in pending.created.items():
        ordinals[name] = catalog.slots + int(np.searchsorted(order, sequence))
    return Ordinals(ordinals, table)


def _layer(current: Root, pending: Pending, ordinals: Ordinals) -> Layer:
    generation = current.generation + 1
    rows = ((ordinals.loose[name], name, record) for name, record in pending.records.items())
    layers = [Layer.of_records(rows, generation)]
    alive = np.flatnonzero(pending.table.alive)
    new = pending.by_batch(alive)
    for batch, ids in pending.new_in_batches():
        declared = batch.declared.take(ids - batch.first)
        layers.append(Layer.of(pending.table.names(ids), declared, ordinals.table[ids], generation))
    layers.append(current.catalog.excerpt(np.sort(ordinals.table[alive[~new]])))
    # A dataset that is created and there already is from an earlier attempt to commit the same changes.
    gone = pending.replaced(current)
    return stacked([layer.changed_in(generation) for layer in layers if len(layer)]).deleting(gone)


def with_directories(storage: Storage, arrays: Mapping[str, ArrayFiles], names: Iterable[str]) -> dict[str, ArrayFiles]:
    """Return the directory and the files of each array, those without any with a new directory among them."""
    result = dict(arrays)
    taken = {files.directory.casefold() for files in arrays.values()}
    for name in names:
        if name not in arrays:
            directory = array_directory(name, taken)
            taken.add(directory.casefold())
            result[name] = ArrayFiles(directory, ())
    storage.make_directories([result[name].directory for name in names if name not in arrays])
    return result
