"""The indexes of one committed state, each loaded when it is first needed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas.columnfile import Area, ColumnFile, DataFile
from atlas.dtypes import DType
from atlas.errors import CorruptIndex, SnapshotExpired
from atlas.forks import free_in_children
from atlas.root import ArrayFiles, Root
from atlas.segment import ArrayIndex, SegmentIndex
from atlas.statistics import Statistics, from_columns
from atlas.storage import Range, Storage
from atlas.threads import take_turns

# Indexes above this size are read a column at a time. They are not mapped: a file that is cut short under its
# map ends the process.
_READ_WHOLE = 32 << 20


# Things that are asked of an object store at once, each by a request or two.
_AT_ONCE = 16


def side_by_side(storage: Storage, action: Callable[[Any], object], items: Sequence[Any]) -> None:
    """Do something with every item, with several at once where that takes requests."""
    take_turns(action, items, 0 if storage.is_local else min(len(items), _AT_ONCE) - 1)


def read_index(storage: Storage, file: DataFile) -> Area:
    """Return the index of a file; on a local disk, the parts of a large one are read when they are asked for.

    One that comes from afar and is damaged is read once more: it may be so on its way only.

    Raises
    ------
    SnapshotExpired
        If the file is gone.
    """
    if storage.is_local and file.index_length > _READ_WHOLE:
        return _LargeIndex(storage, file)
    area = _read(storage, file, 0, file.index_length)
    return area if storage.is_local else _unharmed(storage, file, area)


def _unharmed(storage: Storage, file: DataFile, area: NDArray[np.uint8]) -> NDArray[np.uint8]:
    with suppress(CorruptIndex):
        if ColumnFile(area, file).is_whole:
            return area
    with expiring(storage, file.key):
        return np.frombuffer(storage.read_anew(_place(file)), np.uint8)


def _place(file: DataFile) -> Range:
    return Range(file.key, file.index_offset, file.index_offset + file.index_length)


class _LargeIndex:
    """An index of which each part is read when it is asked for."""

    def __init__(self, storage: Storage, file: DataFile) -> None:
        self._storage = storage
        self._file = file

    def __len__(self) -> int:
        return self._file.index_length

    def __getitem__(self, part: slice) -> NDArray[np.uint8]:
        first, end, _ = part.indices(len(self))
        return _read(self._storage, self._file, first, max(end - first, 0))


def _read(storage: Storage, file: DataFile, first: int, length: int) -> NDArray[np.uint8]:
    with expiring(storage, file.key):
        return np.frombuffer(storage.read_range(file.key, file.index_offset + first, length), np.uint8)


@contextmanager
def expiring(storage: Storage, key: str) -> Iterator[None]:
    """Turn the news that a data file is not there into what that means to a reader."""
    try:
        yield
    except FileNotFoundError:
        raise SnapshotExpired(
            f"data file {key} is gone from {storage.describe()}; call refresh() to see the store as it is now"
        ) from None


class Indexed:
    """A committed state and where its chunks are; many threads may ask at once.

    Parameters
    ----------
    storage : Storage
    root : Root
    before : Indexed, optional
        An earlier state; the indexes of files that are still the same are taken from it.
    """

    def __init__(self, storage: Storage, root: Root, before: Indexed | None = None) -> None:
        self.storage = storage
        self.root = root
        self._lock = free_in_children(threading.Lock())
        self._segments: dict[str, tuple[SegmentIndex, ...]] = {}
        self._turns: dict[str, threading.Lock] = {}
        self._indexes: dict[str, ArrayIndex] = {}
        self._known: dict[DataFile, SegmentIndex] = {}
        if before is not None:
            self._take_over(before)

    def _take_over(self, before: Indexed) -> None:
        for array, found in before._loaded_indexes():
            if found.files == self._files(array).files:
                self._indexes[array] = found
        known = before._loaded_segments()
        self._known = {file: known[file] for file in self.root.files if file in known}

    def _loaded_indexes(self) -> list[tuple[str, ArrayIndex]]:
        with self._lock:
            return list(self._indexes.items())

    def _loaded_segments(self) -> dict[DataFile, SegmentIndex]:
        with self._lock:
            found = dict(self._known)
            for array, segments in self._segments.items():
                found |= zip(self._files(array).files, segments, strict=True)
            return found

    def segments(self, array: str) -> tuple[SegmentIndex, ...]:
        """Return the indexes of an array's data files, oldest first."""
        with self._lock:
            found = self._segments.get(array)
        if found is None and not self.storage.is_local:
            with self._turn(array):
                return self._segments.get(array) or self._load(array)
        return self._load(array) if found is None else found

    def fetch(self, arrays: Iterable[str]) -> None:
        """Fetch the indexes of arrays that are going to be wanted at once, where each takes requests."""
        if not self.storage.is_local:
            side_by_side(self.storage, self.segments, list(dict.fromkeys(arrays)))

    def _turn(self, array: str) -> threading.Lock:
        """Return what is held while the indexes of an array are fetched: others who want them wait, and need not."""
        with self._lock:
            return self._turns.setdefault(array, free_in_children(threading.Lock()))

    def _load(self, array: str) -> tuple[SegmentIndex, ...]:
        files = self._files(array).files
        if not self.storage.is_local:
            self._fetch_segments(array, files)
        found = tuple(self.segment(array, file) for file in files)
        with self._lock:
            self._segments[array] = found
        return found

    def _fetch_segments(self, array: str, files: Sequence[DataFile]) -> None:
        """Fetch, at once, the indexes that are not known, nor copied into the root."""
        with self._lock:
            missing = [file for file in files if file not in self._known]
        missing = [file for file in missing if self._copied(array, file) is None]
        with expiring(self.storage, f"of array {array!r}"):
            areas = self.storage.read_ranges([_place(file) for file in missing])
        for file, area in zip(missing, areas, strict=True):
            found = SegmentIndex(_unharmed(self.storage, file, np.frombuffer(area, np.uint8)), file, array)
            with self._lock:
                self._known[file] = found

    def segment(self, array: str, file: DataFile) -> SegmentIndex:
        """Return the index of one data file."""
        with self._lock:
            found = self._known.get(file)
        if found is None:
            found = self._copied(array, file) or SegmentIndex(read_index(self.storage, file), file, array)
            with self._lock:
                self._known[file] = found
        return found

    def _copied(self, array: str, file: DataFile) -> SegmentIndex | None:
        """Return the index of a file that the root has a copy of; one that is not true is passed over."""
        copy = self.root.copies.get(file.key)
        with suppress(CorruptIndex):
            found = None if copy is None else SegmentIndex(np.frombuffer(copy, np.uint8), file, array)
            return found if found is not None and found.is_whole else None
        return None

    def index(self, array: str) -> ArrayIndex:
        """Return where every chunk of an array is."""
        with self._lock:
            found = self._indexes.get(array)
        if found is None:
            found = ArrayIndex.merge(self._files(array).files, self.segments(array))
            with self._lock:
                self._indexes[array] = found
        return found

    def forget(self, array: str) -> None:
        """Let go of what was read of an array's indexes."""
        with self._lock:
            self._segments.pop(array, None)
            self._indexes.pop(array, None)
            for file in self._files(array).files:
                self._known.pop(file, None)

    def statistics(self, array: str, dtype: DType, ordinal: int) -> Statistics | None:
        """Return the statistics of an array of one dataset; ``None`` when it was never written."""
        for segment in reversed(self.segments(array)):
            row = int(np.searchsorted(segment.entries, ordinal))
            if row < len(segment.entries) and segment.entries[row] == ordinal:
                columns = segment.statistics
                try:
                    return from_columns(dtype, *(column[row] for column in columns))
                except (TypeError, ValueError, OverflowError) as error:
                    raise CorruptIndex(f"a statistic of array {array!r} makes no sense: {error}") from None
        return None

    def _files(self, array: str) -> ArrayFiles:
        return self.root.arrays.get(array, ArrayFiles(array, ()))
