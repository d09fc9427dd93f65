"""Compaction: one data file per array again, deleted datasets and replaced chunks left out.

Payloads are copied as they are; nothing is decoded, so nothing can change.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from atlas.chunks import Integers
from atlas.columns import distinct, positions
from atlas.commit import publish
from atlas.commitfiles import CommitFiles, settle
from atlas.datafiles import Target, newest_statistics, pick_entries, stored_statistics, write_file
from atlas.errors import SnapshotExpired
from atlas.leftovers import recover
from atlas.payloads import payloads_of
from atlas.reader import Snapshot
from atlas.root import ArrayFiles, Root
from atlas.roots import LostRace, Race, load_root, next_state, overtaken
from atlas.segment import Piece
from atlas.storage import Storage


def compact(storage: Storage, workers: int) -> Root:
    """Compact the committed state and return the new one; pending changes are not touched."""
    storage.begin_writing()
    race = Race(storage)
    with storage.writer_lock() as interrupted:
        current = load_root(storage)
        # A power cut may have taken the mark of an interrupted writer along with what it wrote.
        if storage.is_local:
            recover(storage, current, interrupted)
        while True:
            try:
                return _compact(storage, current, workers)
            except SnapshotExpired as error:
                current = race.again(overtaken(storage, current, error))
            except LostRace as lost:
                current = race.again(lost)


def _compact(storage: Storage, current: Root, workers: int) -> Root:
    """Compact the state `current`; raises LostRace if another writer committed meanwhile."""
    snapshot = Snapshot(storage, current, workers)
    catalog, before = current.catalog.compacted()
    if catalog.slots == current.catalog.slots and _is_compact(snapshot):
        return current
    retired = [file.key for file in current.files]
    successor = next_state(storage, current)
    with CommitFiles(storage, successor) as files:
        catalog, _ = settle(files, catalog)
        arrays: dict[str, ArrayFiles] = {}
        for name in current.arrays:
            live = _live_entries(snapshot, name)
            if len(live):
                target = Target(files, name, current.arrays[name], current.catalog)
                arrays[name] = _copy(snapshot, name, live, positions(before, live), target)
            # What is read of one array would otherwise stay in memory with that of all others.
            snapshot.forget(name)
        root = files.state(catalog, arrays)
        files.write_record(root, retired)
        files.make_durable()
        files.keep()
    with files.publishing():
        return publish(storage, root, current, retired, current.commits)


def _is_compact(snapshot: Snapshot) -> bool:
    return all(
        len(files.files) == 1 and len(_live_entries(snapshot, name)) == len(snapshot.segments(name)[0].entries) > 0
        for name, files in snapshot.root.arrays.items()
    )


def _live_entries(snapshot: Snapshot, array: str) -> Integers:
    """Return the ordinals that have the array and something stored for it."""
    entries = distinct(np.concatenate([np.array([], np.int64), *(part.entries for part in snapshot.segments(array))]))
    return np.asarray(entries[snapshot.root.catalog.having(array, entries)])


def _copy(snapshot: Snapshot, array: str, live: Integers, moved: Integers, target: Target) -> ArrayFiles:
    files = target.known.files
    segments = snapshot.segments(array)
    merged = Piece.merged([Piece.load(number, segment) for number, segment in enumerate(segments)])
    merged = pick_entries(merged, np.searchsorted(merged.entries, live))
    found = newest_statistics(stored_statistics(segments), live)
    _, schemas = snapshot.root.catalog.layouts(array, live)
    # Nothing is below the one file that is left, so that there is nothing to void.
    final = Piece(moved, merged.starts, np.array([], np.int64), merged.columns)
    payloads = [payloads_of(snapshot.storage, *source) for source in zip(files, segments, strict=True)]
    empty = ArrayFiles(target.known.directory, ())
    return replace(empty, files=(write_file(target, empty, final, found, schemas, payloads),))
