"""Payloads move from files and from the heap into a new data file, as they are: nothing is decoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from atlas.chunks import Integers
from atlas.columnfile import DataFile
from atlas.config import settings
from atlas.errors import StorageError
from atlas.indexes import expiring
from atlas.kernels import digests
from atlas.kernels.layout import SEALED
from atlas.kernels.sealed import is_whole
from atlas.segment import ALIGNED_FROM, ALIGNMENT, SegmentIndex, SegmentWriter
from atlas.storage import Range, Storage

# Payloads are read in windows of at most this many bytes.
_WINDOW_BYTES = 8 << 20

# Where less than this fraction of a window is wanted, its runs are read one by one.
_DENSE = 0.25

# What is read ahead of an object that is not local: so much at first, and the more the longer it goes on.
_AHEAD_BYTES = 1 << 20
_MOST_AHEAD = 32 << 20


@dataclass(frozen=True)
class Payloads:
    """Where payloads are copied from: a data file, or the heap.

    Attributes
    ----------
    read : callable
        Gives bytes, by offset and length.
    are_fetched : bool
        Whether a read may take a request. Then they are best read front to back, and large ones whole too: only of
        what is whole can be seen whether it was damaged on its way.
    """

    read: Callable[[int, int], Any]
    are_fetched: bool = False


def payloads_of(storage: Storage, file: DataFile, index: SegmentIndex) -> Payloads:
    """Return the payloads of a data file; they are read ahead where every read takes a request."""
    if storage.is_local:
        return Payloads(partial(storage.read_range, file.key))
    return Payloads(ReadAhead(storage, file, index).read, are_fetched=True)


class ReadAhead:
    """Reads payloads in about ascending order, some at a time, in pieces that are asked for at once.

    A payload that is not what the index says is asked for once more: were it damaged on its way, the copy would be
    for good, and the original goes. What comes like that again is damaged where it is stored, and stays as it is.
    """

    def __init__(self, storage: Storage, file: DataFile, index: SegmentIndex) -> None:
        self._storage = storage
        self._file = file
        chunks = index.chunk_columns()
        order = np.argsort(chunks["offset"], kind="stable")
        order = order[chunks["length"][order] > 0]
        self._chunks = {name: chunks[name][order] for name in ("offset", "length", "pipeline", "checksum")}
        self._ends = self._chunks["offset"] + self._chunks["length"]
        self._start = 0
        self._data = memoryview(b"")
        self._size = _AHEAD_BYTES

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes of the file, whole payloads of it."""
        end = offset + length
        if not (self._start <= offset and end <= self._start + len(self._data)):
            if offset == self._start + len(self._data):
                self._size = min(self._size * 2, _MOST_AHEAD)
            self._fill(offset, max(end, min(offset + self._size, self._file.index_offset)))
        data = bytes(self._data[offset - self._start : end - self._start])
        return data if self._are_whole(offset, data) else self._once_more(offset, data)

    def _once_more(self, offset: int, data: bytes) -> bytes:
        with expiring(self._storage, self._file.key):
            again = self._storage.read_anew(Range(self._file.key, offset, offset + len(data)))
        if again != data and not self._are_whole(offset, again):
            raise StorageError(f"{self._file.key} of {self._storage.describe()} is another whenever it is read")
        return again

    def _are_whole(self, start: int, data: bytes) -> bool:
        """Return whether the payloads in some bytes of the file have their checksums."""
        first = np.searchsorted(self._chunks["offset"], start)
        last = np.searchsorted(self._ends, start + len(data), side="right")
        own = {name: column[first:last] for name, column in self._chunks.items()}
        offsets, is_sealed = own["offset"] - start, (own["pipeline"] & SEALED) != 0
        plain, cells = ~is_sealed, np.frombuffer(data, np.uint8)
        if (digests(cells, offsets[plain], own["length"][plain]) != own["checksum"][plain]).any():
            return False
        columns = (column[is_sealed].tolist() for column in (offsets, own["length"], own["pipeline"], own["checksum"]))
        view, sealed = memoryview(data), zip(*columns, strict=True)
        return all(is_whole(view[at : at + size], pipeline, checksum) for at, size, pipeline, checksum in sealed)

    def _fill(self, start: int, end: int) -> None:
        edges = [*range(start, end, settings().fetch_bytes), end]
        ranges = [Range(self._file.key, low, high) for low, high in pairwise(edges)]
        with expiring(self._storage, self._file.key):
            self._start, self._data = start, memoryview(b"".join(self._storage.read_ranges(ranges)))


def copy_payloads(source: Payloads, offsets: Integers, lengths: Integers, segment: SegmentWriter) -> Integers:
    """Append payloads in the order in which the source has them, and return their new offsets.

    Parameters
    ----------
    source : Payloads
    offsets, lengths : (n,) int64
        Where the payloads are; those at one place are copied once.
    """
    if (np.diff(offsets) > 0).all():
        return _copied(source, offsets, lengths, segment)
    order = np.lexsort((lengths, offsets))
    begins, sizes = offsets[order], lengths[order]
    fresh = np.ones(len(order), bool)
    fresh[1:] = (np.diff(begins) != 0) | (np.diff(sizes) != 0)
    placed = _copied(source, begins[fresh], sizes[fresh], segment)
    result = np.empty(len(offsets), np.int64)
    result[order] = placed[np.cumsum(fresh) - 1]
    return result


def _copied(source: Payloads, begins: Integers, sizes: Integers, segment: SegmentWriter) -> Integers:
    placed = np.empty(len(begins), np.int64)
    for rows in _windows(begins, sizes):
        placed[rows] = _copy_window(source, begins[rows], sizes[rows], segment)
    return placed


def _windows(begins: Integers, sizes: Integers) -> list[slice]:
    """Split payloads so that those of one window end within its bytes of its beginning."""
    windows, first = [], 0
    ends = np.maximum.accumulate(begins + sizes) if len(begins) else begins
    while first < len(begins):
        last = max(int(np.searchsorted(ends, begins[first] + _WINDOW_BYTES, side="right")), first + 1)
        windows.append(slice(first, last))
        first = last
    return windows


def _copy_window(source: Payloads, begins: Integers, sizes: Integers, segment: SegmentWriter) -> Integers:
    if len(begins) == 1:
        return np.array([_copy_bytes(source, int(begins[0]), int(sizes[0]), segment)], np.int64)
    # Where one of them is large, each begins where the words in it can be read in place.
    unit = ALIGNMENT if int(sizes.max()) >= ALIGNED_FROM else 1
    steps = -(-sizes // unit) * unit
    places = np.cumsum(steps) - steps
    block = _without_junk(_gathered(source, begins, sizes, steps), (places + sizes)[:-1], (steps - sizes)[:-1])
    return segment.append(block) + places


def _gathered(source: Payloads, begins: Integers, sizes: Integers, steps: Integers) -> memoryview:
    """Return payloads one behind the other, each with what it steps over behind it but the last."""
    firsts, counts = _runs(begins, steps)
    lasts = firsts + counts - 1
    begin, end = int(begins[0]), int((begins + sizes).max())
    spans = zip(begins[firsts].tolist(), (begins[lasts] + sizes[lasts]).tolist(), strict=True)
    if int(sizes.sum()) > _DENSE * (end - begin):
        data = memoryview(source.read(begin, end - begin))
        parts = [data[low - begin : high - begin] for low, high in spans]
    else:
        parts = [memoryview(source.read(low, high - low)) for low, high in spans]
    if len(parts) == 1:
        return parts[0]
    gaps = [*(steps - sizes)[lasts[:-1]].tolist(), 0]
    return memoryview(b"".join(piece for part, gap in zip(parts, gaps, strict=True) for piece in (part, bytes(gap))))


def _without_junk(block: memoryview, ends: Integers, gaps: Integers) -> memoryview:
    """Return a block whose gaps are zeros, whatever the source had there."""
    at = np.repeat(ends - (np.cumsum(gaps) - gaps), gaps) + np.arange(int(gaps.sum()))
    cells = np.frombuffer(block, np.uint8)
    if not cells[at].any():
        return block
    cells = cells.copy()
    cells[at] = 0
    return memoryview(cells.tobytes())


def _runs(begins: Integers, steps: Integers) -> tuple[Integers, Integers]:
    """Return the first payload, and the number, of every run that lies as it is to lie."""
    joined = np.concatenate([[1], (begins[1:] != begins[:-1] + steps[:-1]).astype(np.int64)])
    starts = np.flatnonzero(joined)
    return starts, np.diff(np.append(starts, len(begins)))


def _copy_bytes(source: Payloads, begin: int, length: int, segment: SegmentWriter) -> int:
    window = max(length, 1) if source.are_fetched else _WINDOW_BYTES
    position = segment.append(source.read(begin, min(length, window)))
    for offset in range(begin + window, begin + length, window):
        segment.append(source.read(offset, min(window, begin + length - offset)))
    return position
