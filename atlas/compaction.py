"""Compaction: one data file per array again, deleted datasets and replaced chunks left out.

Payloads are copied as they are; nothing is decoded, so nothing can change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas.catalog import Catalog
from atlas.chunks import Integers
from atlas.columnfile import DataFile
from atlas.commit import load_root, new_commit_id, publish, recover
from atlas.commitfiles import CommitFiles, settle
from atlas.dtypes import DType
from atlas.reader import Snapshot
from atlas.root import ArrayFiles, Root
from atlas.segment import STATISTICS, SegmentWriter
from atlas.statistics import Statistics, statistics_columns
from atlas.storage import Storage

# Adjacent payloads are copied in pieces of at most this many bytes.
_COPY_BYTES = 8 << 20


def compact(storage: Storage, workers: int) -> Root:
    """Compact the committed state and return the new one; pending changes are not touched."""
    with storage.writer_lock() as interrupted:
        current = load_root(storage)
        # A power cut may have taken the mark of an interrupted writer along with what it wrote.
        if interrupted or storage.is_local:
            recover(storage, current)
        snapshot = Snapshot(storage, current, workers)
        catalog, moved = current.catalog.compacted()
        live = {name: _live_entries(snapshot, name) for name in current.arrays}
        if _is_compact(snapshot, catalog, live):
            return current
        retired = [file.key for file in current.files]
        successor = current.successor(new_commit_id())
        with CommitFiles(storage, successor) as files:
            catalog, _ = settle(files, catalog)
            arrays: dict[str, ArrayFiles] = {}
            for name in current.arrays:
                if len(live[name]):
                    directory = current.arrays[name].directory
                    file = _copy(snapshot, name, live[name], moved, files.create(directory), files.origin)
                    arrays[name] = ArrayFiles(directory, (file,))
            root = replace(successor, catalog=catalog, arrays=arrays)
            files.write_record(root, retired)
            files.make_durable()
            files.keep()
        return publish(storage, root, retired, current.commits)


def _is_compact(snapshot: Snapshot, compacted: Catalog, live: dict[str, Integers]) -> bool:
    root = snapshot.root
    return compacted.slots == root.catalog.slots and all(
        len(files.files) == 1 and len(live[name]) == len(snapshot.segments(name)[0].entries) > 0
        for name, files in root.arrays.items()
    )


def _live_entries(snapshot: Snapshot, array: str) -> Integers:
    """Return the ordinals that have the array and something stored for it."""
    entries = np.unique(np.concatenate([segment.entries for segment in snapshot.segments(array)]))
    codes, _ = snapshot.root.catalog.layouts(array, entries)
    return np.asarray(entries[codes >= 0])


def _copy(
    snapshot: Snapshot, array: str, live: Integers, moved: Integers, segment: SegmentWriter, head: Mapping[str, Any]
) -> DataFile:
    index = snapshot.index(array)
    position = np.searchsorted(index.entries, live)
    position = np.minimum(position, max(len(index.entries) - 1, 0))
    found = index.entries[position] == live if len(index.entries) else np.zeros(len(live), bool)
    first = np.where(found, index.starts[:-1][position] if len(index.entries) else 0, 0)
    counts = np.where(found, np.diff(index.starts)[position] if len(index.entries) else 0, 0)
    rows = np.repeat(first - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
    columns = {name: column[rows] for name, column in index.columns.items()}
    columns["offset"] = _copy_payloads(snapshot, index.files, columns, segment)
    del columns["file"]
    schemas = _dtypes(snapshot, array, live)
    statistics = [
        snapshot.statistics(array, dtype, int(ordinal)) or Statistics(0, 0)
        for dtype, ordinal in zip(schemas, live, strict=True)
    ]
    entries: dict[str, Any] = {
        "ordinal": moved[live].astype("<u4"),
        "count": counts.astype("<u4"),
        "flags": np.array([STATISTICS if s.minimum is not None else 0 for s in statistics], "u1"),
        **statistics_columns(schemas, statistics),
    }
    return segment.finish(array, entries | columns, head)


def _dtypes(snapshot: Snapshot, array: str, ordinals: Integers) -> list[DType]:
    codes, schemas = snapshot.root.catalog.layouts(array, ordinals)
    return [schemas[code].dtype for code in codes.tolist()]


def _copy_payloads(
    snapshot: Snapshot, files: tuple[DataFile, ...], columns: dict[str, NDArray[Any]], segment: SegmentWriter
) -> Integers:
    offsets, lengths, numbers = columns["offset"], columns["length"], columns["file"]
    placed = np.zeros(len(offsets), np.int64)
    ends = offsets + lengths
    adjacent = (offsets[1:] == ends[:-1]) & (numbers[1:] == numbers[:-1])
    for run in np.split(np.arange(len(offsets)), np.flatnonzero(~adjacent) + 1):
        if not len(run):
            continue
        key = files[int(numbers[run[0]])].key
        begin, end = int(offsets[run[0]]), int(ends[run[-1]])
        base = None
        for start in range(begin, end, _COPY_BYTES) if end > begin else [begin]:
            size = min(_COPY_BYTES, end - start)
            position = segment.append(snapshot.storage.read_range(key, start, size) if size else b"")
            base = position if base is None else base
        placed[run] = offsets[run] - begin + (base or 0)
    return placed
