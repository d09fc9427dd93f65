"""Publishing: under the writer lock, new data files first, then the root, each made durable in turn.

The order is the guarantee. Until the root is replaced nothing refers to the new files, so a crash
leaves the old state; once it is, everything it refers to is already on the disk.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from atlas.catalog import Catalog
from atlas.columnfile import ColumnFile, DataFile
from atlas.commitfiles import CommitFiles, settle
from atlas.config import StoreConfig
from atlas.conflicts import Attempt, check_conflicts
from atlas.errors import AtlasError, CorruptChunk, CorruptRoot, StorageError, StoreNotFound
from atlas.layer import Layer
from atlas.reader import Snapshot, read_index
from atlas.record import RECORD_NAME, record_key
from atlas.root import ROOT_KEYS, ArrayFiles, Root, decode_root, encode_root, root_key
from atlas.schema import ArraySchema
from atlas.segment import RESET, STATISTICS
from atlas.statistics import Statistics, cell_statistics, fill_statistics, merge_statistics, statistics_columns
from atlas.storage import Storage, array_directory
from atlas.table import read_layer
from atlas.writer import EncodedChunk, Pending, PendingArray, encode_chunks

_log = logging.getLogger("atlas")

# How long a retired file outlives its replacement where nobody can tell whether it is still read.
GRACE_SECONDS = 15 * 60


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
    # Overwriting may put the new root under a name that was looked at before the old one went: look again.
    found = _roots(storage) or _roots(storage)
    if not found:
        raise StoreNotFound(
            f"there is no Atlas store at {storage.describe()}: none of {', '.join(ROOT_KEYS)} is there; "
            "Atlas.create makes one"
        )
    # Two are there only while a store is being overwritten in another encoding: the successor counts.
    return max(found, key=lambda root: root.generation)


def _roots(storage: Storage) -> list[Root]:
    found = []
    for key in ROOT_KEYS:
        with suppress(FileNotFoundError):
            found.append(decode_root(storage.read(key), key, partial(load_table, storage)))
    return found


# Table files that are in use, so that those which a commit leaves alone are not read again.
_tables: WeakValueDictionary[tuple[str, DataFile], Layer] = WeakValueDictionary()


def load_table(storage: Storage, store: str, file: DataFile, slots: int) -> Layer:
    """Return the layer that a table file of a store holds."""
    place = storage.describe(), file
    layer = _tables.get(place)
    if layer is None:
        columns = ColumnFile(read_index(storage, file), file)
        columns.expect(columns.head.get("store") == store, "it belongs to another store")
        layer = _tables[place] = read_layer(columns, slots)
    return layer


def create_root(storage: Storage, config: StoreConfig) -> Root:
    """Make an empty store and return its state; fails with FileExistsError when there is one."""
    root = Root(config, 0, new_commit_id(), "", Catalog(), {}, store=new_commit_id())
    storage.create_exclusive(root_key(config), encode_root(root))
    return root


def overwrite_root(storage: Storage, config: StoreConfig) -> Root:
    """Replace whatever store is there by an empty one."""
    try:
        old = load_root(storage)
    except (StoreNotFound, CorruptRoot):
        old = Root(config, 0, "", "", Catalog(), {})
    root = emptied(old, config).successor(new_commit_id())
    root = publish(storage, root, [file.key for file in old.files], old.commits)
    delete_other_roots(storage, config)
    return root


def emptied(root: Root, config: StoreConfig) -> Root:
    """Return the state of an empty store of this layout that stands in the place of `root`."""
    return replace(root, config=config, catalog=Catalog(), arrays={}, store=new_commit_id())


def delete_other_roots(storage: Storage, config: StoreConfig) -> None:
    """Remove the root objects of other encodings, which the one of this encoding has replaced."""
    for key in ROOT_KEYS:
        if key != root_key(config):
            storage.delete(key)


def discard_root(storage: Storage, root: Root) -> None:
    """Take a store away that is still what `root` says; a store that others committed to stays."""
    with storage.writer_lock():
        if load_root(storage).commit == root.commit:
            storage.delete(root_key(root.config))


def publish(storage: Storage, root: Root, retired: Sequence[str] = (), recorded: Collection[str] = ()) -> Root:
    """Replace the root object, then take away files that nobody needs any more.

    Parameters
    ----------
    retired : sequence of str
        Files that `root` no longer refers to. They are removed as soon as no reader of an older generation is left.
    recorded : collection of str
        The commits whose records are there; of those that tell nothing more, they are removed.
    """
    now = int(time.time())
    # No reader needs a record: should its removal fail, the next commit makes up for it.
    obsolete = [record_key(commit) for commit in sorted(set(recorded) - root.commits)]
    added = (*((key, root.generation, now) for key in retired), *((key, 0, now) for key in obsolete))
    published = replace(root, retired=sweep(storage, root) + added)
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
        _is_removed(storage, key)
    return published


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


def sweep(storage: Storage, root: Root) -> tuple[tuple[str, int, int], ...]:
    """Remove the retired files that no reader can need any more; return those that stay, for the next commit to note.

    No state refers to a retired file, so it may go before the next one is published. One that cannot be
    removed stays noted, and somebody tries again.
    """
    now = int(time.time())
    return tuple(
        entry for entry in root.retired if not (_is_free(storage, entry, now) and _is_removed(storage, entry[0]))
    )


def _is_removed(storage: Storage, key: str) -> bool:
    try:
        storage.purge(key)
    except AtlasError as error:
        _log.warning("%s: an old data file could not be removed: %s", storage.describe(), error)
        return False
    return True


_FILE_NAME = re.compile(r"data-[0-9a-f]{32}\.af|table-[0-9a-f]{32}\.at|" + RECORD_NAME.pattern)
_BESIDE_NAME = re.compile(r"\.atlas\..*\.tmp-[0-9a-f]{32}")


def recover(storage: Storage, root: Root) -> None:
    """Remove what a writer that died left behind: files that `root` does not know.

    Only called under the writer lock, so none of them can belong to a commit under way.
    """
    # What it made and did not sync is relied on from here on.
    storage.sync_directories([root_key(root.config)])
    for name in storage.list_dir(""):
        # A root of another name was overwritten, and the writer died before it could remove it.
        if _BESIDE_NAME.fullmatch(name) or (name in ROOT_KEYS and name != root_key(root.config)):
            storage.delete(name)
    for key in strays(storage, root):
        storage.purge(key)


def strays(storage: Storage, root: Root) -> list[str]:
    """Return the files of a store that `root` does not know."""
    known = {file.key for file in root.files} | {record_key(commit) for commit in root.commits}
    aside = {key.rsplit("/", 1)[-1] for key, _, _ in root.retired}
    return [
        f"{name}/{file}"
        for name in storage.list_dir("")
        for file in storage.list_dir(name)
        if _FILE_NAME.fullmatch(file) and file not in aside and f"{name}/{file}" not in known
    ]


def _is_free(storage: Storage, entry: tuple[str, int, int], now: int) -> bool:
    _, generation, since = entry
    return not storage.oldest_pin(generation) or now - since > GRACE_SECONDS


def commit(storage: Storage, snapshot: Snapshot, pending: Pending, workers: int) -> Root:
    """Commit pending changes and return the new state.

    Raises
    ------
    ConflictError
        If another writer changed the same datasets since `snapshot`.
    StorageError
        If the disk failed; nothing was committed and `pending` still holds everything.
    """
    with storage.writer_lock() as interrupted:
        current = load_root(storage)
        if interrupted:
            recover(storage, current)
        pending.recognise(current)
        if current.commit != snapshot.root.commit:
            snapshot = Snapshot(storage, current, snapshot.workers, snapshot.mode)
        replaced, recorded = [], current.commits
        if pending.layout is None:
            check_conflicts(current, pending.seen)
        else:
            replaced = [file.key for file in current.files]
            current = emptied(current, pending.layout)
            snapshot = Snapshot(storage, current, snapshot.workers, snapshot.mode)
        ordinals = _assign_ordinals(current.catalog, pending)
        successor = current.successor(new_commit_id())
        with CommitFiles(storage, successor) as files:
            catalog, merged = settle(files, current.catalog.with_layer(_layer(current, pending, ordinals)))
            arrays = dict(current.arrays)
            for name, items in sorted(pending.by_array().items()):
                rows = sorted((ordinals[dataset], dataset, array) for dataset, array in items)
                arrays[name] = _write_array(snapshot, files, arrays, name, rows, workers)
            # A store that was emptied has another id than the one that its table files were read with.
            catalog = replace(catalog, load=partial(load_table, storage, successor.store))
            root = replace(successor, catalog=catalog, arrays=arrays)
            files.write_record(root, replaced + merged)
            files.make_durable()
            # From here on the root may refer to them. Were it not replaced after all, the next
            # writer finds the lock's mark and removes them.
            files.keep()
        pending.attempt = Attempt(root, frozenset(pending.seen))
        try:
            root = publish(storage, root, replaced + merged, recorded)
        except BaseException:
            # Best known while no other writer can add to it; the next flush asks once more.
            with suppress(AtlasError):
                pending.recognise(load_root(storage))
            raise
        if pending.layout is not None:
            delete_other_roots(storage, root.config)
        return root


def _assign_ordinals(catalog: Catalog, pending: Pending) -> dict[str, int]:
    names = list(pending.records)
    ordinals = dict(zip(names, catalog.find(names).tolist(), strict=True))
    following = catalog.slots
    for name in names:
        if name in pending.created:
            ordinals[name], following = following, following + 1
    return ordinals


def _layer(current: Root, pending: Pending, ordinals: dict[str, int]) -> Layer:
    rows = ((ordinals[name], name, record) for name, record in pending.records.items())
    # A dataset that is created and there already is from an earlier attempt to commit the same changes.
    gone = current.catalog.find(sorted({*pending.deleted, *pending.created}))
    return Layer.of_records(rows, current.generation + 1).deleting(gone[gone >= 0])


def directory_for(arrays: dict[str, ArrayFiles], name: str) -> str:
    """Return the directory of an array, a new one when it has none."""
    known = arrays.get(name)
    taken = {files.directory.casefold() for files in arrays.values()}
    return known.directory if known else array_directory(name, taken)


def _write_array(
    snapshot: Snapshot,
    files: CommitFiles,
    arrays: dict[str, ArrayFiles],
    name: str,
    rows: list[tuple[int, str, PendingArray]],
    workers: int,
) -> ArrayFiles:
    directory = directory_for(arrays, name)
    segment = files.create(directory)
    chunks = [(number, array.schema) for _, _, array in rows for number in sorted(array.chunks)]
    cells = ((array.schema, array.chunks[n]) for _, _, array in rows for n in sorted(array.chunks))
    written = [
        _Written(number, segment.append(chunk.payload), chunk._replace(payload=b""), len(chunk.payload))
        for (number, _), chunk in zip(chunks, encode_chunks(cells, snapshot.root.config, workers), strict=True)
    ]
    entries, position = [], 0
    for ordinal, _, array in rows:
        own = written[position : position + len(array.chunks)]
        position += len(array.chunks)
        entries.append(_Entry(ordinal, array, [chunk.encoded.statistics for chunk in own]))
    columns = _index_columns(snapshot, entries, written)
    file = segment.finish(name, columns, files.origin)
    known = arrays[name].files if name in arrays else ()
    return ArrayFiles(directory, (*known, file))


@dataclass(frozen=True)
class _Written:
    number: int
    offset: int
    encoded: EncodedChunk
    length: int


@dataclass(frozen=True)
class _Entry:
    ordinal: int
    array: PendingArray
    statistics: list[Statistics]

    def total(self, snapshot: Snapshot) -> Statistics:
        """Statistics of the whole array: of the pending chunks, and of those that stay as they are."""
        schema = self.array.schema
        parts = list(self.statistics)
        missing = schema.cells - sum(part.rows for part in parts)
        if missing and not self.array.reset:
            for number in _stored_chunks(snapshot, schema, self.ordinal):
                if number not in self.array.chunks:
                    part = _stored_statistics(snapshot, schema, self.ordinal, number)
                    parts.append(part)
                    missing -= part.rows
        if missing:
            parts.append(fill_statistics(schema.dtype, schema.fill, missing))
        return merge_statistics(parts)


def _stored_chunks(snapshot: Snapshot, schema: ArraySchema, ordinal: int) -> list[int]:
    index = snapshot.index(schema.name)
    position = int(np.searchsorted(index.entries, ordinal))
    if position == len(index.entries) or index.entries[position] != ordinal:
        return []
    return [int(n) for n in index.columns["number"][index.starts[position] : index.starts[position + 1]]]


def _stored_statistics(snapshot: Snapshot, schema: ArraySchema, ordinal: int, number: int) -> Statistics:
    extent = schema.grid.extent(number)
    try:
        cells = snapshot.read_box(schema, ordinal, extent)
    except CorruptChunk:
        # A chunk that is damaged must not keep the others from being written anew: what was known of the whole
        # array bounds it.
        known = snapshot.statistics(schema.name, schema.dtype, ordinal) or Statistics(0, 0)
        return replace(known, rows=extent.cells, nulls=0)
    return cell_statistics(schema.dtype, schema.fill, cells)


def _index_columns(snapshot: Snapshot, entries: list[_Entry], written: list[_Written]) -> dict[str, Any]:
    totals = [entry.total(snapshot) for entry in entries]
    flags = [
        (RESET if entry.array.reset else 0) | (STATISTICS if total.minimum is not None else 0)
        for entry, total in zip(entries, totals, strict=True)
    ]
    return {
        "ordinal": np.array([entry.ordinal for entry in entries], "<u4"),
        "count": np.array([len(entry.statistics) for entry in entries], "<u4"),
        "flags": np.array(flags, "u1"),
        **statistics_columns([entry.array.schema.dtype for entry in entries], totals),
        "number": np.array([chunk.number for chunk in written], "<u8"),
        "offset": np.array([chunk.offset for chunk in written], "<u8"),
        "length": np.array([chunk.length for chunk in written], "<u8"),
        "raw_length": np.array([chunk.encoded.raw_length for chunk in written], "<u8"),
        "pipeline": np.array([chunk.encoded.pipeline for chunk in written], "u1"),
        "checksum": np.array([chunk.encoded.checksum for chunk in written], "<u8"),
    }
