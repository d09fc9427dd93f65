"""Encoded chunks that wait for a flush: in memory up to a limit, beyond it in a file that has no name.

The file is made unlinked (``O_TMPFILE`` where the system has it) in the store's own directory, so it
needs room where the data will go, and nothing of it is ever seen or left behind.
"""

from __future__ import annotations

import errno
import os
import tempfile
import uuid
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from atlas.errors import StorageError

# How much is read from the file at a time, and how much is gathered before more is written to it.
PIECE_BYTES = 8 << 20


def open_nameless(directory: str) -> int:
    """Open a new file that goes when it is closed, and is seen by nobody."""
    flags = os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    if hasattr(os, "O_TMPFILE"):
        try:
            return os.open(directory, flags | os.O_TMPFILE, 0o600)
        except OSError as error:
            # The kernel, or the file system, does not know such files.
            if error.errno not in (errno.EISDIR, errno.ENOENT, errno.EOPNOTSUPP):
                raise
    path = os.path.join(directory, f".atlas.spill-{uuid.uuid4().hex}")
    descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL | getattr(os, "O_TEMPORARY", 0), 0o600)
    # Should this process die before the next line, the name is left; another writer may take it away before it does.
    if not hasattr(os, "O_TEMPORARY"):
        with suppress(FileNotFoundError):
            os.unlink(path)
    return descriptor


def _write(file: int, data: Any, position: int) -> int:
    """Write all of some bytes at a position; return the position behind them."""
    view = memoryview(data)
    while len(view):
        written = os.pwrite(file, view, position)
        position, view = position + written, view[written:]
    return position


class Heap:
    """Bytes by offset, only ever added to.

    Parameters
    ----------
    directory : str or None
        Where the file goes; ``None`` for the system's directory of temporary files.
    limit : int
        Bytes that may be in memory.
    """

    def __init__(self, directory: str | None, limit: int) -> None:
        self._directory = directory
        self._limit = limit
        self._pieces: list[Any] = []
        self._starts: list[int] = []
        self._filed = 0
        self._file = -1
        self._close: Callable[[], object] = lambda: None
        self._owner = os.getpid()
        self.size = 0
        # How often something was forgotten: an offset that is remembered from before may have been given away anew.
        self.rewinds = 0

    @property
    def spilled(self) -> int:
        """Bytes that went to the file."""
        return self._filed

    def append(self, data: Any) -> int:
        """Take bytes, which must not change any more, and return their offset.

        Raises
        ------
        StorageError
            If memory is full and the file cannot take more; what was taken before is still there.
        """
        held = self.size - self._filed
        if held and held + len(data) > (self._limit if self._file < 0 else min(self._limit, PIECE_BYTES)):
            self._spill()
        offset = self.size
        self._starts.append(offset)
        self._pieces.append(data)
        self.size += len(data)
        return offset

    def rewind(self, size: int) -> None:
        """Forget everything from an offset on: what failed half way is not kept."""
        while self._starts and self._starts[-1] >= size:
            self._starts.pop()
            self._pieces.pop()
        self._filed = min(self._filed, size)
        self.size = size
        self.rewinds += 1

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes that were taken, of any number of pieces."""
        return b"".join(self._parts(offset, length))

    def _parts(self, offset: int, length: int) -> Iterator[Any]:
        end = offset + length
        if offset < min(self._filed, end):
            yield self._read_file(offset, min(self._filed, end) - offset)
        position = max(offset, self._filed)
        number = max(bisect_right(self._starts, position) - 1, 0)
        while position < end:
            begin, piece = self._starts[number], self._pieces[number]
            part = memoryview(piece)[position - begin : end - begin]
            yield part
            position += len(part)
            number += 1

    def _read_file(self, offset: int, length: int) -> bytes:
        try:
            data = os.pread(self._file, length, offset)
        except OSError as error:
            raise StorageError(f"reading pending changes back: {error.strerror or error}") from error
        if len(data) != length:
            raise StorageError("reading pending changes back: their temporary file was cut short")
        return data

    def _spill(self) -> None:
        """Move what is in memory to the file; all of it, or nothing."""
        try:
            file = self._own_file()
            position = self._filed
            for view in self._gathered():
                position = _write(file, view, position)
        except OSError as error:
            place = self._directory or tempfile.gettempdir()
            raise StorageError(
                f"pending changes exceed the {self._limit >> 20} MiB that are kept in memory, and the disk of {place} "
                f"does not take more: {error.strerror or error}; flush earlier, or raise pending_bytes"
            ) from error
        self._filed, self._pieces, self._starts = position, [], []

    def _gathered(self) -> Iterator[memoryview]:
        """Yield what is in memory; small pieces together, for a call each would cost more than a copy."""
        group: list[Any] = []
        size = 0
        for piece in self._pieces:
            group.append(piece)
            size += len(piece)
            if size >= PIECE_BYTES:
                yield memoryview(piece if len(group) == 1 else b"".join(group))
                group, size = [], 0
        yield memoryview(b"".join(group))

    def _own_file(self) -> int:
        """Return the file; a forked child copies its parent's, which both would otherwise write to."""
        if self._file >= 0 and self._owner == os.getpid():
            return self._file
        descriptor = open_nameless(self._directory or tempfile.gettempdir())
        try:
            for offset in range(0, self._filed, PIECE_BYTES):
                _write(descriptor, self._read_file(offset, min(PIECE_BYTES, self._filed - offset)), offset)
        except BaseException:
            os.close(descriptor)
            raise
        self._close()
        self._file, self._owner = descriptor, os.getpid()
        # The file goes with the heap.
        self._close = finalize(self, os.close, descriptor)
        return descriptor


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
