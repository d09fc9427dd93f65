"""Bringing a damaged store back: the root and indexes from the records of commits, and every chunk that is intact.

A repair is a commit. What is damaged is written anew beside it, what is replaced is kept in ``_damaged/``,
and only then is the root replaced. Chunks that are lost stay listed, without bytes: they read as errors.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial

import numpy as np

from atlas.columnfile import DataFile
from atlas.commit import publish
from atlas.commitfiles import CommitFiles
from atlas.damage import Damage, FileFound, RepairReport
from atlas.errors import ConflictError, CorruptStore, ReadOnlyStore, StoreNotFound
from atlas.examine import intact_rows
from atlas.indexes import read_index
from atlas.leftovers import files_of, known_files, recover, strays
from atlas.root import ArrayFiles, Root
from atlas.roots import LostRace, delete_other_roots, has_root, load_table, next_state
from atlas.segment import HEADER_LENGTH, SegmentIndex
from atlas.storage import REPAIRING, WRITING, Storage
from atlas.storage.names import DAMAGED, is_file_of_a_commit
from atlas.table import read_layer


def repair(storage: Storage, dry_run: bool = False) -> RepairReport:
    """Repair a store; see :meth:`atlas.Atlas.repair`."""
    listed = None if has_root(storage) else storage.inventory()
    if listed is not None and not any(is_file_of_a_commit(item.key) for item in listed):
        raise StoreNotFound(f"there is no Atlas store at {storage.describe()}, nor what is left of one")
    if dry_run:
        with ExitStack() as held:
            # What others are at work on looks damaged. Where nothing can be written nobody is at work.
            with suppress(ReadOnlyStore):
                held.enter_context(storage.writer_lock(mark=b""))
            return Damage(storage, listed).report
    storage.begin_writing()
    with storage.writer_lock(mark=REPAIRING) as interrupted:
        # Where a lock kept others out just now, they may have been at work before.
        found = Damage(storage, None if storage.is_local else listed)
        if found.report.actions:
            _carry_out(found)
        elif interrupted:
            # When this has ended well, nobody knows any more that there is something which was never acknowledged.
            recover(storage, found.root, interrupted)
        return found.report


def _carry_out(found: Damage) -> None:
    """Write anew what is damaged, keep what is replaced, and publish."""
    storage, old = found.storage, found.root
    # Above everything that is there, so that no older state is taken for a newer one.
    others = [*(root for root in found.roots.values() if root is not None), *found.passed_over.values()]
    newest = max(root.generation for root in (old, *others))
    successor = next_state(storage, replace(old, generation=newest))
    with CommitFiles(storage, successor) as files:
        tables = tuple(_table(found, files, table) for table in found.tables)
        catalog = replace(
            old.catalog.with_top(tables, old.catalog.top), load=partial(load_table, storage, successor.store)
        )
        arrays = {
            name: ArrayFiles(old.arrays[name].directory, tuple(_data_file(found, files, name, item) for item in items))
            for name, items in found.arrays.items()
            if not found.useless(name)
        }
        root = files.state(catalog, arrays)
        replaced = sorted({file.key for file in old.files} - {file.key for file in root.files})
        files.write_record(root, replaced)
        files.make_durable()
        found.report.kept = _keep_replaced(found, root, replaced)
        files.keep()
    try:
        with files.publishing():
            root = publish(storage, root, found.standing, replaced, old.commits)
    except LostRace:
        raise ConflictError(
            f"another writer committed to {storage.describe()} meanwhile; nothing was repaired, try again"
        ) from None
    delete_other_roots(storage, root.config)
    if storage.is_local:
        recover(storage, root, WRITING)


def _table(found: Damage, files: CommitFiles, table: FileFound) -> DataFile:
    if table.problem and table.index is not None:
        slots = found.root.catalog.slots
        return files.write_table(read_layer(table.index, slots), slots)
    return _recorded(found, files, table)


def _data_file(found: Damage, files: CommitFiles, array: str, item: FileFound) -> DataFile:
    if item.problem and isinstance(item.index, SegmentIndex):
        directory = found.root.arrays[array].directory
        return _rewritten(found.storage, files, array, directory, item.file, item.index)
    return _recorded(found, files, item)


def _recorded(found: Damage, files: CommitFiles, item: FileFound) -> DataFile:
    """Return a file that stays; its index goes into this commit's record when it is in no other."""
    if item.problem or not item.unrecorded:
        return item.file
    return files.adopt(item.file, read_index(found.storage, item.file)[:].tobytes())


def _rewritten(
    storage: Storage, files: CommitFiles, array: str, directory: str, file: DataFile, index: SegmentIndex
) -> DataFile:
    """Write a data file anew, with the chunks of the damaged one that are intact; those that are not take no bytes."""
    chunks = index.chunk_columns()
    intact, _ = intact_rows(storage, file, chunks)
    segment = files.create(directory)
    offsets, lengths = np.full(len(intact), HEADER_LENGTH, np.int64), np.where(intact, chunks["length"], 0)
    for row in np.flatnonzero(intact).tolist():
        payload = storage.read_range(file.key, int(chunks["offset"][row]), int(chunks["length"][row]))
        offsets[row] = segment.append(payload)
    columns = {name: index.column(name) for name in index.names}
    return segment.finish(array, columns | {"offset": offsets, "length": lengths}, files.origin)


def _keep_replaced(found: Damage, root: Root, replaced: list[str]) -> str:
    """Give everything that is about to go a second name; return the directory, or nothing when there is nothing."""
    keys = replaced + found.damaged_records
    keys += [key for key, there in found.roots.items() if there is None or found.from_record]
    # Where a record tells more than the root does, it may be that of a repair that was cut off, and replaced them.
    named = {file.key for there in found.roots.values() if there is not None for file in there.files}
    keys += sorted(named - {file.key for file in root.files})
    # What was passed over is kept whole, with what it shares with the state that stays: as a store without a root.
    keys += [key for state in found.passed_over.values() for key in sorted(known_files(state))]
    if found.from_record and found.storage.is_local:
        # What belongs to commits that nothing is known of any more.
        keys += sorted(strays(files_of(found.storage), found.root, root))
    place, kept = f"{DAMAGED}/{root.commit}", ""
    for key in dict.fromkeys(keys):
        # What is no file, but a directory or a link in the place of one, stays where it is.
        with suppress(FileNotFoundError, CorruptStore):
            found.storage.keep_copy(key, f"{place}/{key}")
            kept = place
    return kept
