"""Looking at the files of a store as if nothing that they say could be trusted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas.chunks import Integers
from atlas.columnfile import Area, ColumnFile, DataFile
from atlas.config import settings
from atlas.errors import CorruptIndex, CorruptStore
from atlas.indexes import read_index
from atlas.kernels.sealed import is_whole
from atlas.record import record_behind
from atlas.root import Root
from atlas.segment import ALIGNMENT, HEADER_LENGTH, MAGIC, SegmentIndex
from atlas.storage import Storage, coalesce
from atlas.table import MAGIC as TABLE_MAGIC

# On a disk, the few bytes between payloads that are no further apart are read together with those.
_NEAR_BYTES = 64 << 10


def open_index(area: Area, file: DataFile, array: str | None) -> ColumnFile:
    """Return an index with every column of it checked.

    Parameters
    ----------
    area : Area
        The index, or a copy of it.
    file : DataFile
    array : str or None
        The array that the file belongs to; ``None`` for a table file.

    Raises
    ------
    CorruptIndex
        If anything is not as it was committed.
    """
    if array is None:
        table = ColumnFile(area, file)
        table.expect_no_junk()
        for name in table.names:
            table.column(name, constant=True)
        return table
    index = SegmentIndex(area, file, array)
    index.expect_no_junk()
    for name in index.names:
        index.column(name)
    index.expect(len(index.statistics.rows) == len(index.entries), "its columns differ in length")
    index.chunk_columns()
    return index


def copied_index(root: Root, file: DataFile, array: str | None) -> ColumnFile | None:
    """Return the index of a file if the root has a copy of it; raises :class:`CorruptIndex` if that is not true."""
    copy = root.copies.get(file.key)
    try:
        return None if copy is None else open_index(np.frombuffer(copy, np.uint8), file, array)
    except CorruptIndex as error:
        raise CorruptIndex(f"the copy in the root is of no use: {error}") from None


def check_file(storage: Storage, file: DataFile, array: str | None) -> ColumnFile:
    """Return the index of a file that is, but perhaps for its payloads, as it was committed.

    Raises
    ------
    CorruptIndex
        If it is gone, has another length, or its head or index are damaged.
    """
    try:
        size = storage.size(file.key)
    except FileNotFoundError:
        raise CorruptIndex(f"{file.key} is gone") from None
    if size < file.length:
        raise CorruptIndex(f"{file.key} is damaged: it is truncated: {size} bytes, not {file.length}")
    if size > file.length:
        try:
            record_behind(storage, file.key, file.length, size)
        except CorruptIndex as error:
            raise CorruptIndex(f"{file.key} is damaged: there is something behind it: {error}") from None
    magic = MAGIC if array is not None else TABLE_MAGIC
    try:
        head = storage.read_range(file.key, 0, HEADER_LENGTH)
    except FileNotFoundError:
        # Others have taken it away in between.
        raise CorruptIndex(f"{file.key} is gone") from None
    name = file.key.rsplit("-", 1)[-1].rsplit(".", 1)[0]
    if not head.startswith(magic) or head[len(magic) :].hex() != name:
        raise CorruptIndex(f"the head of {file.key} is damaged: it is not the file of that name")
    index = open_index(read_index(storage, file), file, array)
    if isinstance(index, SegmentIndex):
        _expect_no_gaps(storage, file, index)
    return index


def _expect_no_gaps(storage: Storage, file: DataFile, index: SegmentIndex) -> None:
    """Refuse bytes around the payloads that no checksum covers, but for the few zeros before aligned ones."""
    columns = index.chunk_columns()
    stored = np.flatnonzero(columns["length"])
    stored = stored[np.argsort(columns["offset"][stored], kind="stable")]
    offsets, lengths = columns["offset"][stored], columns["length"][stored]
    begins = np.append(HEADER_LENGTH, offsets + lengths)
    sizes = np.append(offsets, file.index_offset) - begins
    index.expect((sizes < ALIGNMENT).all(), "there is something between its chunks")
    # Between the chunks of an object that is not local one cannot look without fetching it whole.
    there = np.flatnonzero(sizes) if storage.is_local else np.arange(len(sizes) - 1, len(sizes))
    for rows, start, data in _pieces(storage, file, begins[there], sizes[there], _NEAR_BYTES):
        # What cannot be read there is seen when the payloads are looked at.
        if data is not None:
            own = sizes[there][rows]
            within = np.arange(int(own.sum())) - np.repeat(np.cumsum(own) - own, own)
            cells = np.frombuffer(data, np.uint8)[np.repeat(begins[there][rows] - start, own) + within]
            index.expect(not cells.any(), "there is something between its chunks")


def intact_rows(storage: Storage, file: DataFile, chunks: Mapping[str, NDArray[Any]]) -> tuple[NDArray[np.bool_], bool]:
    """Return which payloads of a data file, whatever is left of it, have their checksums, and if some cannot be read.

    Nothing is mapped: where a disk cannot read what is behind a map, the process ends.

    Parameters
    ----------
    chunks : mapping
        Columns ``offset, length, pipeline, checksum`` of the chunks to look at, all of them in that file.
    """
    offsets, lengths = (chunks[name].astype(np.int64) for name in ("offset", "length"))
    intact, is_unreadable = np.zeros(len(offsets), bool), False
    try:
        fits = offsets + lengths <= storage.size(file.key)
    except (FileNotFoundError, CorruptStore):
        # Something else may be in its place: a directory, a link.
        return intact, False
    left = [np.flatnonzero(fits)]
    while left:
        rows = left.pop()
        for part, start, data in _pieces(storage, file, offsets[rows], lengths[rows], settings().fetch_gap):
            own = rows[part]
            if data is not None:
                columns = (offsets[own] - start, lengths[own], chunks["pipeline"][own], chunks["checksum"][own])
                view, listed = memoryview(data), zip(*(column.tolist() for column in columns), strict=True)
                intact[own] = [is_whole(view[at : at + size], *sealed) for at, size, *sealed in listed]
            elif len(own) > 1:
                left += np.array_split(own, 2)
            else:
                is_unreadable = True
    return intact, is_unreadable


def _pieces(
    storage: Storage, file: DataFile, begins: Integers, sizes: Integers, near: int
) -> Iterator[tuple[Integers, int, bytes | None]]:
    """Yield parts of a file, near ones together: which they are, where, and what is there if that can be read."""
    requests = coalesce(begins, sizes, near, settings().fetch_bytes)
    groups = np.split(requests.order, requests.firsts[1:-1])
    for rows, start, end in zip(groups, requests.starts.tolist(), requests.ends.tolist(), strict=False):
        try:
            yield rows, start, storage.read_range(file.key, start, end - start)
        except (FileNotFoundError, CorruptStore):
            yield rows, start, None
