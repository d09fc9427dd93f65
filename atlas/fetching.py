"""Reads from object stores: chunks are decoded as they come in, while more are on their way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

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
from atlas.plan import ReadPlan
from atlas.storage import Range, Storage, coalesce
from atlas.worker import DecodeJob, Source, decode_range

_PER_CHUNK = ("file", "offset", "length", "raw_length", "pipeline", "checksum", "geometry", "destination")

# Bytes that a chunk costs besides those it decodes to.
_CHUNK_COST = 64

# Decoded bytes of one range of a read.
_MOST_AT_ONCE = 64 << 20


def fetched(
    storage: Storage, files: Sequence[DataFile], columns: Mapping[str, NDArray[Any]]
) -> Iterator[tuple[Integers, NDArray[np.uint8], Integers]]:
    """Yield chunks in the order in which they come in.

    Parameters
    ----------
    columns : mapping
        Columns ``file, offset, length`` of the chunks.

    Yields
    ------
    rows : (n,) int64
        Chunks that were fetched together.
    data : (b,) uint8
    offsets : (n,) int64
        Where each is in `data`.
    """
    ranges: list[Range] = []
    members: list[Integers] = []
    for number in distinct(np.sort(columns["file"])).tolist():
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
            yield rows, np.frombuffer(data, np.uint8), columns["offset"][rows] - ranges[number].start
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
    for rows, data, offsets in fetched(storage, files, plan.columns):
        own = tables | {name: tables[name][rows] for name in _PER_CHUNK}
        own |= {"offset": offsets, "file": np.zeros(len(rows), np.int32)}
        sources = (Source("", None, len(data), data),)
        job = DecodeJob(sources, dtype.itemsize, element_of(dtype.storage), output, own)
        cost = int(own["raw_length"].sum())
        try:
            run(decode_range, job, balanced(own["raw_length"], cost, mode, workers), mode, workers, cost)
        except CorruptChunk as error:
            raise CorruptChunk(str(error), int(rows[error.row]) if error.row >= 0 else -1) from None


def balanced(sizes: Integers, cost: int, mode: str | None, workers: int) -> list[tuple[int, int]]:
    """Return contiguous ranges of about equal decoded size, a few per worker so that none waits long.

    Of large reads there are more, as each range ends with letting go of the files' pages that it used.
    """
    alone = workers == 1 or (mode is None and cost < settings().parallel_threshold)
    ends = np.cumsum(sizes + _CHUNK_COST)
    pieces = min(len(sizes), max(1 if alone else workers * 2, int(ends[-1]) // _MOST_AT_ONCE))
    if pieces == 1:
        return [(0, len(sizes))]
    cuts = np.searchsorted(ends, np.linspace(0, ends[-1], pieces + 1)[1:-1])
    edges = distinct(np.concatenate([[0], cuts, [len(sizes)]]))
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
