"""Reads from object stores: chunks are decoded as they come in, while more are on their way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atlas.chunks import Integers
from atlas.codecs import element_of
from atlas.columnfile import DataFile
from atlas.columns import distinct
from atlas.config import settings
from atlas.dtypes import DType
from atlas.errors import CorruptChunk, SnapshotExpired
from atlas.executor import run
from atlas.indexes import expiring
from atlas.plan import CHUNK_COST, ReadPlan
from atlas.storage import Range, Storage, coalesce
from atlas.worker import DecodeJob, Source, decode_range

_PER_CHUNK = ("file", "offset", "length", "raw_length", "pipeline", "checksum", "geometry", "destination")

# Decoded bytes of one range of a read.
_MOST_AT_ONCE = 64 << 20


class Fetched(NamedTuple):
    """Chunks that were fetched together.

    Attributes
    ----------
    storage : Storage
    item : Range
        Where they came from.
    rows : (n,) int64
        Which ones they are.
    data : (b,) uint8
    offsets : (n,) int64
        Where each is in `data`.
    """

    storage: Storage
    item: Range
    rows: Integers
    data: NDArray[np.uint8]
    offsets: Integers

    def use(self, decode: Callable[[Fetched], None]) -> None:
        """Have the chunks decoded; if one is damaged, fetch them once more: it may be so on its way only."""
        try:
            decode(self)
        except CorruptChunk:
            with expiring(self.storage, self.item.key):
                data = self.storage.read_anew(self.item)
            decode(self._replace(data=np.frombuffer(data, np.uint8)))


def fetched(storage: Storage, files: Sequence[DataFile], columns: Mapping[str, NDArray[Any]]) -> Iterator[Fetched]:
    """Yield chunks in the order in which they come in.

    Parameters
    ----------
    columns : mapping
        Columns ``file, offset, length`` of the chunks.
    """
    ranges: list[Range] = []
    members: list[Integers] = []
    for number in distinct(columns["file"]).tolist():
        mine = np.flatnonzero(columns["file"] == number)
        requests = coalesce(
            columns["offset"][mine], columns["length"][mine], settings().fetch_gap, settings().fetch_bytes
        )
        members += np.split(mine[requests.order], requests.firsts[1:-1])
        spans = zip(requests.starts.tolist(), requests.ends.tolist(), strict=True)
        ranges += [Range(files[number].key, start, end) for start, end in spans]
    used = [int(columns["length"][rows].sum()) for rows in members]
    try:
        for number, data in storage.fetch(ranges, used):
            rows = members[number]
            offsets = columns["offset"][rows] - ranges[number].start
            yield Fetched(storage, ranges[number], rows, np.frombuffer(data, np.uint8), offsets)
    except FileNotFoundError as error:
        raise SnapshotExpired(
            f"a data file is gone from {storage.describe()} ({error}); call refresh() to see the store as it is now"
        ) from None


def decode_fetched(
    storage: Storage,
    files: Sequence[DataFile],
    plan: ReadPlan,
    dtype: DType,
    output: NDArray[np.uint8],
    mode: str | None,
    workers: int,
) -> None:
    """Fetch the chunks of a plan and decode them into the output.

    Raises
    ------
    CorruptChunk
        Naming the row of the chunk that is damaged.
    """
    tables = plan.tables

    def decode(found: Fetched) -> None:
        rows = found.rows
        own = tables | {name: tables[name][rows] for name in _PER_CHUNK}
        own |= {"offset": found.offsets, "file": np.zeros(len(rows), np.int32)}
        sources = (Source("", None, len(found.data), found.data),)
        job = DecodeJob(sources, dtype.itemsize, element_of(dtype.storage), output, own)
        cost = int(own["raw_length"].sum())
        try:
            run(decode_range, job, balanced(own["raw_length"], cost, mode, workers), mode, workers, cost)
        except CorruptChunk as error:
            raise CorruptChunk(str(error), int(rows[error.row]) if error.row >= 0 else -1) from None

    for found in fetched(storage, files, plan.columns):
        found.use(decode)


def balanced(sizes: Integers, cost: int, mode: str | None, workers: int) -> list[tuple[int, int]]:
    """Return contiguous ranges of about equal decoded size, a few per worker so that none waits long.

    Of large reads there are more, as each range ends with letting go of the files' pages that it used.
    """
    alone = workers == 1 or (mode is None and cost < settings().parallel_threshold)
    at_once, fewest = (1, 1) if alone else (workers, 2)
    ends = np.cumsum(sizes + CHUNK_COST)
    # As many for each worker: of five, one would do three while the other waits.
    each = max(fewest, -(-int(ends[-1]) // (_MOST_AT_ONCE * at_once)))
    pieces = min(len(sizes), at_once * each)
    if pieces == 1:
        return [(0, len(sizes))]
    cuts = np.searchsorted(ends, np.linspace(0, ends[-1], pieces + 1)[1:-1])
    edges = distinct(np.concatenate([[0], cuts, [len(sizes)]]))
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
