"""Data files are written: what is new of an array, together with small files that are there already.

Every flush adds a file for each array that it touches. So that they stay few, the newest ones that are not
much larger than what is added are taken into the new file; their sizes form a geometric series, and
each payload is copied a few times at most.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas.ahead import MOST_CHUNKS_APART, HeadStart
from atlas.assembly import Written, entry_columns, total_statistics
from atlas.catalog import Catalog
from atlas.chunks import Integers
from atlas.columnfile import DataFile
from atlas.columns import Texts, positions
from atlas.commitfiles import CommitFiles
from atlas.dtypes import objects
from atlas.errors import CorruptStore, SnapshotExpired
from atlas.heap import Heap
from atlas.payloads import Payloads, copy_payloads, payloads_of
from atlas.reader import Snapshot
from atlas.root import ArrayFiles
from atlas.schema import ArraySchema
from atlas.segment import (
    ALIGNMENT,
    CHUNK_COLUMNS,
    HEADER_LENGTH,
    Piece,
    SegmentIndex,
    SegmentWriter,
    StatisticsColumns,
)
from atlas.storage import Range

# Files above this size are left alone by a flush; so are those that are so many times larger than what it adds,
# unless they are so small that copying them costs nothing beside making a file.
MERGE_BELOW = 16 << 20
MERGE_RATIO = 4
MERGE_ALWAYS = 256 << 10

# On object stores, where reading what is taken in costs requests, so many are waited for.
MERGE_AT_ONCE = 8

# The source of chunks that already are where they are to be.
_IN_PLACE = -1


@dataclass(frozen=True)
class Target:
    """Where the new file of an array goes.

    Attributes
    ----------
    files : CommitFiles
    array : str
    known : ArrayFiles
        Its directory, and the files it has.
    catalog : Catalog
        The dataset table after the commit.
    start : HeadStart, optional
        What was sent of it ahead.
    """

    files: CommitFiles
    array: str
    known: ArrayFiles
    catalog: Catalog
    start: HeadStart | None = None


def write_array(snapshot: Snapshot, target: Target, written: Written, heap: Heap) -> tuple[ArrayFiles, list[str]]:
    """Write what is new of an array.

    Returns
    -------
    files : ArrayFiles
        The array's files after the commit.
    replaced : list of str
        Files that are in the new one now.
    """
    known = target.known.files
    kept = _count_kept(known, int(np.sum(written.piece.columns.get("length", ()))))
    if not snapshot.storage.is_local and len(known) - kept < MERGE_AT_ONCE:
        kept = len(known)
    kept = kept if _are_whole(snapshot, target.array, known[kept:]) else len(known)
    tail = [snapshot.segment(target.array, file) for file in known[kept:]]
    totals = total_statistics(snapshot, written)
    chunks = dict(written.piece.columns) or dict.fromkeys(CHUNK_COLUMNS, np.array([], np.int64))
    chunks["file"] = np.full(len(chunks["number"]), len(tail), np.int32)
    new = Piece(written.piece.entries, written.piece.starts, written.piece.reset, {n: chunks[n] for n in _COLUMNS})
    merged, found, schemas = new, totals, written.schemas
    # A million statistics of chunks are of no use once they are summed up.
    del written, chunks
    if tail:
        merged = Piece.merged([*(Piece.load(number, segment) for number, segment in enumerate(tail)), new])
        codes, schemas = target.catalog.layouts(target.array, merged.entries)
        merged = pick_entries(merged, np.flatnonzero(codes >= 0))
        found = newest_statistics([*stored_statistics(tail), (new.entries, totals)], merged.entries)
    payloads = [payloads_of(snapshot.storage, *source) for source in zip(known[kept:], tail, strict=True)]
    staying = ArrayFiles(target.known.directory, known[:kept])
    file = write_file(target, staying, merged, found, schemas, payloads, heap)
    return replace(staying, files=(*staying.files, file)), [file.key for file in known[kept:]]


_COLUMNS = (*CHUNK_COLUMNS, "file")


def _count_kept(files: Sequence[DataFile], size: int) -> int:
    kept = len(files)
    while kept and files[kept - 1].length < min(MERGE_BELOW, max(MERGE_ALWAYS, MERGE_RATIO * size)):
        kept -= 1
        size += files[kept].length
    return kept


def _are_whole(snapshot: Snapshot, array: str, files: Sequence[DataFile]) -> bool:
    """Return whether files can be taken into another: damage must not keep anything else from being written."""
    try:
        for file in files:
            Piece.load(0, snapshot.segment(array, file))
            if snapshot.storage.is_local:
                # All of it, which is little, and about to be copied: a disk may have lost any part.
                snapshot.storage.read_range(file.key, 0, file.length)
        if not snapshot.storage.is_local:
            snapshot.storage.read_ranges([Range(file.key, file.length - 1, file.length) for file in files])
    except (CorruptStore, SnapshotExpired, FileNotFoundError):
        return False
    return True


def write_file(
    target: Target,
    staying: ArrayFiles,
    piece: Piece,
    found: StatisticsColumns,
    schemas: Sequence[ArraySchema],
    payloads: Sequence[Payloads],
    heap: Heap | None = None,
) -> DataFile:
    """Write a data file with chunks; column ``file`` of the piece says which of `payloads` has each, or the heap."""
    columns = dict(piece.columns)
    sources = np.array(columns.pop("file"))
    offsets = np.zeros(len(sources), np.int64)
    segment = None
    if heap is not None:
        waiting = np.flatnonzero((sources == len(payloads)) & (columns["length"] > 0))
        segment = _completed(target, staying.directory, waiting, columns, offsets)
        segment = segment or _adopted(target, staying.directory, heap, waiting, columns, offsets)
        payloads = [*payloads, Payloads(heap.view)]
        sources[offsets != 0] = _IN_PLACE
    segment = segment or target.files.create(staying.directory)
    for source, rows in _copy_order(target.files.are_fetched, payloads, sources, columns):
        offsets[rows] = copy_payloads(payloads[source], columns["offset"][rows], columns["length"][rows], segment)
    columns["offset"] = offsets
    entries = entry_columns(
        piece.entries, np.diff(piece.starts), piece.reset, [schema.dtype for schema in schemas], found
    )
    return segment.finish(target.array, entries | columns, target.files.origin)


def _completed(
    target: Target, directory: str, rows: Integers, columns: Mapping[str, NDArray[Any]], offsets: Integers
) -> SegmentWriter | None:
    """Go on with the data file that was begun on an object store, if all of it is wanted; note what it has."""
    if target.start is None:
        return None
    places = target.start.places(directory, columns["offset"][rows], columns["length"][rows])
    if places is None:
        target.start.drop()
        return None
    offsets[rows[places != -1]] = places[places != -1]
    return target.files.complete(target.start)


def _adopted(
    target: Target,
    directory: str,
    heap: Heap,
    rows: Integers,
    columns: Mapping[str, NDArray[Any]],
    offsets: Integers,
) -> SegmentWriter | None:
    """Begin a data file with the one that the heap has of the array, if all of it is wanted; note what it has."""
    found = heap.filed(target.array, columns["offset"][rows])
    if found is None:
        return None
    spill, places = found
    rows, places = rows[places != -1], places[places != -1]
    order = np.argsort(places)
    ends = (places + columns["length"][rows])[order]
    gaps = np.append(places[order], spill.end) - np.append(HEADER_LENGTH, ends)
    # What was replaced since would stay in it, and may not.
    if not ((gaps >= 0) & (gaps < ALIGNMENT)).all():
        return None
    segment = target.files.take_over(directory, spill)
    if segment is not None:
        offsets[rows] = places
    return segment


def _copy_order(
    are_fetched: bool, payloads: Sequence[Payloads], sources: Integers, columns: Mapping[str, NDArray[Any]]
) -> Iterator[tuple[int, Integers]]:
    """Yield what is copied next: a source, and rows of chunks that it has.

    From object stores the same part of many datasets is fetched by few requests when it lies together: so the first
    chunks of all datasets come first, then the second ones. A dataset of very many chunks would be too many requests.
    """
    numbers = columns["number"].astype(np.int64)
    together = are_fetched and bool((numbers < MOST_CHUNKS_APART).all())
    apart = {
        source
        for source, own in enumerate(payloads)
        if not together or (own.are_fetched and _goes_back(sources, columns, source))
    }
    is_left = sources != _IN_PLACE
    for source in sorted(apart):
        rows = np.flatnonzero(sources == source)
        is_left[rows] = False
        yield source, rows
    left = np.flatnonzero(is_left)
    order = left[np.lexsort((sources[left], numbers[left]))]
    edges = np.flatnonzero(np.diff(numbers[order]) | np.diff(sources[order])) + 1
    for rows in np.split(order, edges):
        if len(rows):
            yield int(sources[rows[0]]), rows


def _goes_back(sources: Integers, columns: Mapping[str, NDArray[Any]], source: int) -> bool:
    """Whether a file, copied by chunk numbers, would not be read front to back, but once for each number."""
    rows = np.flatnonzero(sources == source)
    order = np.lexsort((columns["offset"][rows], columns["number"][rows]))
    return bool((np.diff(columns["offset"][rows][order].astype(np.int64)) < 0).any())


def pick_entries(piece: Piece, entries: Integers) -> Piece:
    """Return a piece with some of its datasets only, given by position."""
    if len(entries) == len(piece.entries):
        return piece
    counts = np.diff(piece.starts)[entries]
    starts = np.concatenate([[0], np.cumsum(counts)])
    rows = np.repeat(piece.starts[entries] - starts[:-1], counts) + np.arange(starts[-1])
    columns = {name: column[rows] for name, column in piece.columns.items()}
    reset = piece.reset[np.isin(piece.reset, piece.entries[entries])]
    return Piece(piece.entries[entries], starts, reset, columns)


# ── statistics of what is stored ─────────────────────────────────────────────────────────────────


Known = tuple[Integers, StatisticsColumns]


def stored_statistics(segments: Sequence[SegmentIndex]) -> list[Known]:
    """Return the datasets of data files with their statistics, text as object arrays of bytes."""
    return [
        (segment.entries, found._replace(minimum=_bound(found.minimum), maximum=_bound(found.maximum)))
        for segment in segments
        for found in [segment.statistics]
    ]


def _bound(cells: Any) -> NDArray[Any]:
    if not isinstance(cells, (Texts, list)):
        return np.asarray(cells)
    return objects([0 if value is None else value for value in (cells if isinstance(cells, list) else cells.tolist())])


def newest_statistics(known: Sequence[Known], entries: Integers) -> StatisticsColumns:
    """Return the statistics of datasets, given by ascending ordinal; those that come later in `known` count."""
    count = len(entries)
    rows, nulls, valid = np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count, bool)
    types = {part.dtype for _, found in known for part in (found.minimum, found.maximum) if len(part)}
    kind = types.pop() if len(types) == 1 else np.dtype(object if types else "i8")
    low, high = np.zeros(count, kind), np.zeros(count, kind)
    for ordinals, found in known:
        places = positions(entries, ordinals)
        own = np.flatnonzero(places >= 0)
        at = places[own]
        rows[at], nulls[at], valid[at] = found.rows[own], found.nulls[own], found.valid[own]
        low[at], high[at] = found.minimum[own], found.maximum[own]
    return StatisticsColumns(rows, nulls, valid, low, high)
