"""Encoded chunks that wait for a flush: in memory up to a limit, beyond it in files that have no name.

What waits of an array goes, once it is much, to a file of that array alone, which the flush completes and gives a
name. The rest goes to one that all share, when memory is full.
"""

from __future__ import annotations

import math
import tempfile
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atlas.chunks import Integers
from atlas.errors import StorageError
from atlas.segment import ALIGNED_FROM, ALIGNMENT
from atlas.spill import Spill

# From so much that waits on, an array has a file of its own, if it is among the first so many; more follows in
# pieces of such a size.
OWN_BYTES = 8 << 20
OWN_FILES = 64
MORE_BYTES = 512 << 10


class _Part(NamedTuple):
    """Bytes that follow each other: in memory, or from a position on in a file."""

    size: int
    array: str | None
    data: Any
    spill: Spill | None = None
    position: int = 0

    def read(self, first: int, size: int) -> Any:
        """Return some of the bytes."""
        if self.spill is None:
            return memoryview(self.data).toreadonly()[first : first + size]
        return self.spill.read(self.position + first, size)


class Heap:
    """Bytes by offset, only ever added to.

    Ctrl-C may end any step half way: what was taken before is still what it was, and the next step puts the rest right.

    Parameters
    ----------
    directory : str or None
        The store's, where the files go; ``None`` for the system's directory of temporary files.
    limit : int
        Bytes that may be in memory.
    """

    def __init__(self, directory: str | None, limit: int) -> None:
        self._directory = directory
        self._limit = limit
        self._starts: list[int] = []
        self._parts: list[_Part] = []
        # Where parts begin that are in memory, by array; how large they are together.
        self._waiting: dict[str | None, list[int]] = {}
        self._sizes: dict[str | None, int] = {}
        self._held = 0
        self._own: dict[str, Spill] = {}
        self._shared: Spill | None = None
        self.size = 0
        # How often something was forgotten: an offset that is remembered from before may have been given away anew.
        self.rewinds = 0

    @property
    def spilled(self) -> int:
        """Bytes that went to files."""
        return sum(part.size for part in self._parts if part.spill is not None)

    def append(self, data: Any, array: str | None = None) -> int:
        """Take bytes, which must not change any more, and return their offset.

        Parameters
        ----------
        data : bytes-like
        array : str, optional
            Whose payloads these are, all of them; they may become its data file.

        Raises
        ------
        StorageError
            If memory is full and the files cannot take more; what was taken before is still there.
        """
        if not len(data):
            return self.size
        if self._starts and self._starts[-1] >= self.size:
            # An interrupt came before the end of this.
            self.rewind(self.size)
        if self._held and self._held + len(data) > self._limit:
            self._spill_all()
        # As in a file, so that what follows each other here may do so there.
        offset = self.size + (-self.size % ALIGNMENT if len(data) >= ALIGNED_FROM else 0)
        part, count = _Part(len(data), array, data), len(self._parts)
        # In one step, without a call, between which and the next an interrupt might come.
        self._starts[count:], self._parts[count:] = [offset], [part]
        self._waiting.setdefault(array, []).append(offset)
        self._count(array, len(data))
        self.size = offset + len(data)
        if array is not None and self._directory is not None and self._sizes[array] >= self._ahead_from(array):
            # The less is left for the flush to do. What the disk does not take now can wait until memory is full.
            with suppress(OSError):
                self._own[array] = self._begun(self._own.get(array))
                self._spill(self._own[array], [array])
        return offset

    def _ahead_from(self, array: str) -> float:
        """Return how much of an array goes to its file while there is room in memory."""
        if array in self._own and self._own[array].is_open:
            return MORE_BYTES
        return OWN_BYTES if len(self._own) < OWN_FILES else math.inf

    def _count(self, array: str | None, size: int) -> None:
        self._sizes[array] = self._sizes.get(array, 0) + size
        self._held += size

    def rewind(self, size: int) -> None:
        """Forget everything from an offset on: what failed half way is not kept."""
        kept = bisect_left(self._starts, size)
        for part in reversed(self._parts[kept:]):
            if part.spill is not None:
                part.spill.forget(part.position)
        del self._starts[kept:], self._parts[kept:]
        if self._starts:
            part = self._parts[-1]
            left = min(part.size, size - self._starts[-1])
            self._parts[-1] = part._replace(size=left)
            if part.spill is not None:
                part.spill.forget(part.position + left)
        self.size = size
        self.rewinds += 1
        self._waiting, self._sizes, self._held = {}, {}, 0
        for start, part in zip(self._starts, self._parts, strict=True):
            if part.spill is None:
                self._waiting.setdefault(part.array, []).append(start)
                self._count(part.array, part.size)

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes that were taken, of any number of pieces."""
        return b"".join(self._views(offset, length))

    def view(self, offset: int, length: int) -> Any:
        """Return the same, without copying what is in memory in one piece."""
        views = list(self._views(offset, length))
        return views[0] if len(views) == 1 else b"".join(views)

    def _views(self, offset: int, length: int) -> Iterator[Any]:
        position, end = offset, offset + length
        number = max(bisect_right(self._starts, position) - 1, 0)
        while position < end:
            begin, part = self._starts[number], self._parts[number]
            if begin > position:
                # What is left free before an aligned piece.
                yield bytes(begin - position)
                position = begin
            last = min(end, begin + part.size)
            if position < last:
                yield part.read(position - begin, last - position)
                position = last
            number += 1

    def filed(self, array: str, offsets: Integers) -> tuple[Spill, Integers] | None:
        """Return the file that an array has for itself, and where payloads are in it; -1 for those that are not."""
        spill = self._own.get(array)
        if spill is None or not spill.is_open or spill.is_empty or spill.has_junk or spill.end != spill.claimed:
            return None
        numbers = np.maximum(np.searchsorted(self._starts, offsets, side="right") - 1, 0)
        is_there = np.array([part.spill is spill for part in self._parts])
        shifts = np.array([part.position for part in self._parts]) - np.array(self._starts)
        return spill, np.where(is_there[numbers], offsets + shifts[numbers], -1)

    # ── to files ─────────────────────────────────────────────────────────────────────────────

    def _begun(self, spill: Spill | None) -> Spill:
        """Return a file that takes more: this one, if it does."""
        return spill if spill is not None and spill.is_open else Spill(self._directory or tempfile.gettempdir())

    def _spill_all(self) -> None:
        """Move what is in memory to files."""
        waiting = [array for array, starts in self._waiting.items() if starts]
        alone = [array for array in waiting if array in self._own and self._own[array].is_open]
        shared = [array for array in waiting if array not in alone]
        try:
            for array in alone:
                self._spill(self._own[array], [array])
            if shared:
                self._shared = self._begun(self._shared)
                self._spill(self._shared, shared)
        except OSError as error:
            place = self._directory or tempfile.gettempdir()
            raise StorageError(
                f"pending changes exceed the {self._limit >> 20} MiB that are kept in memory, and the disk of {place} "
                f"does not take more: {error.strerror or error}; flush earlier, or raise pending_bytes"
            ) from error

    def _spill(self, spill: Spill, arrays: Sequence[str | None]) -> None:
        """Move what is in memory of some arrays to a file; all of it, or nothing."""
        starts = sorted(start for array in arrays for start in self._waiting[array])
        numbers = [bisect_left(self._starts, start) for start in starts]
        # The others were moved by an earlier call, which was interrupted before it said so.
        numbers = [number for number in numbers if self._parts[number].spill is None]
        positions = spill.append(self._parts[number].data for number in numbers)
        for number, position in zip(numbers, positions, strict=True):
            self._parts[number] = self._parts[number]._replace(data=None, spill=spill, position=position)
        spill.claimed = spill.end
        for array in arrays:
            self._waiting[array] = []
            self._count(array, -self._sizes[array])
        if numbers:
            self._join_from(max(numbers[0] - 1, 0))

    def _join_from(self, first: int) -> None:
        """Make one of parts that follow each other in a file as they do here."""
        starts, parts = self._starts[first : first + 1], self._parts[first : first + 1]
        for start, part in zip(self._starts[first + 1 :], self._parts[first + 1 :], strict=True):
            before, distance = parts[-1], start - starts[-1]
            if part.spill is before.spill is not None and part.position - before.position == distance:
                parts[-1] = before._replace(size=distance + part.size)
            else:
                starts.append(start)
                parts.append(part)
        # In one step, as above.
        self._starts[first:], self._parts[first:] = starts, parts


class Shelf:
    """Columns of equal length in a heap, each as narrow as its values allow; one value in all rows takes no room.

    Parameters
    ----------
    heap : Heap
    columns : mapping of str to (n,) array
    """

    def __init__(self, heap: Heap, columns: Mapping[str, NDArray[Any]]) -> None:
        self._heap = heap
        self._places = {name: self._put(column) for name, column in columns.items()}

    def _put(self, column: NDArray[Any]) -> tuple[np.dtype[Any], NDArray[Any] | int, np.dtype[Any]]:
        """Return a column's type, where it is (or the column, if it stays as it is), and the type that it has there."""
        if column.dtype.hasobject or not len(column):
            return column.dtype, column, column.dtype
        bits = column.view(f"V{column.itemsize}")
        if (bits == bits[0]).all():
            return column.dtype, np.broadcast_to(column[0], column.shape), column.dtype
        narrow = np.ascontiguousarray(_narrow(column))
        return column.dtype, self._heap.append(narrow.view(np.uint8).data), narrow.dtype

    def columns(self, first: int, count: int) -> dict[str, NDArray[Any]]:
        """Return some rows of all columns."""
        return {name: self._column(*place, first, count) for name, place in self._places.items()}

    def _column(
        self, dtype: np.dtype[Any], place: NDArray[Any] | int, kept: np.dtype[Any], first: int, count: int
    ) -> NDArray[Any]:
        if isinstance(place, np.ndarray):
            return place[first : first + count]
        data = self._heap.read(place + first * kept.itemsize, count * kept.itemsize)
        return np.frombuffer(data, kept).astype(dtype, copy=False)


def _narrow(column: NDArray[Any]) -> NDArray[Any]:
    if column.dtype.kind in "iu":
        low, high = int(column.min()), int(column.max())
        # Where some are negative, the largest takes as much room as its complement.
        return column.astype(
            np.promote_types(np.min_scalar_type(low), np.min_scalar_type(high if low >= 0 else ~max(high, 0)))
        )
    if column.dtype == np.float64:
        with np.errstate(over="ignore"):
            single = column.astype(np.float32)
        return single if (single == column).all() else column
    return column
