"""What an ingest has prepared so far, so that the next one does not do it again.

A journal is a file beside the store: what must be the same for it to be of use, then a frame for every batch
of files, with a checksum. It is not synced: a kill loses nothing, a power cut what was not on the
disk yet, and what is only half there is not used.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import msgpack
import xxhash

from atlas.errors import StorageError
from atlas.ingest.work import Finished, Source

try:
    import fcntl
except ImportError:  # elsewhere than on POSIX systems
    fcntl = None  # type: ignore[assignment]

_KIND = b"atlas ingest "
_MAGIC = _KIND + b"3\n"

# Lengths of the two parts of a frame, and the checksum of both.
_FRAME = struct.Struct("<QQQ")


def stamp(source: Source) -> list[Any] | None:
    """Return what tells whether a file is still the one that was read; ``None`` if it cannot be looked at."""
    try:
        found = source.path.stat()
        newest = found.st_mtime_ns
        if source.path.is_dir():
            newest = max([newest, *(entry.stat().st_mtime_ns for entry in source.path.rglob("*"))])
        return [source.name, os.fsencode(source.path.resolve()), found.st_size, newest]
    except OSError:
        return None


class Journal:
    """The journal of one ingest.

    Parameters
    ----------
    path : Path
    setting : str
        All that the prepared datasets depend on, but for the files.

    Raises
    ------
    StorageError
        If it cannot be written, or another ingest is at work on it.
    """

    def __init__(self, path: Path, setting: str) -> None:
        self.path = path
        self._head = _MAGIC + msgpack.packb(setting)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = open(path, "a+b")  # noqa: SIM115
            if fcntl is not None:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._file.seek(0)
            begin = self._file.read(len(_KIND))
        except BlockingIOError:
            self._file.close()
            raise StorageError(f"another ingest is at work on {path}; wait for it, or name another journal") from None
        except OSError as error:
            raise StorageError(
                f"the journal {path} cannot be written: {error.strerror or error}; resume=False (--no-resume) does "
                "without, journal=… (--journal) names another place"
            ) from error
        # What was only begun, or what a power cut made of it, is as good as nothing.
        if begin.strip(b"\0") and not _KIND.startswith(begin):
            self._file.close()
            raise StorageError(f"{path} is no journal of an ingest; journal=… (--journal) names another place for it")

    def batches(self) -> Iterator[tuple[list[Any], Finished]]:
        """Yield the batches of an earlier run, each with the stamps of its files; then go on behind them."""
        self._file.seek(0)
        end = 0
        if self._file.read(len(self._head)) == self._head:
            end = len(self._head)
            while (frame := self._frame()) is not None:
                end = self._file.tell()
                stamps, names, remarks = msgpack.unpackb(frame[0])
                yield stamps, Finished(names, frame[1], {}, remarks)
        self._file.truncate(end)
        if not end:
            self._file.write(self._head)
            self._file.flush()

    def _frame(self) -> tuple[bytes, bytes] | None:
        sizes = self._file.read(_FRAME.size)
        if len(sizes) < _FRAME.size:
            return None
        first, second, checksum = _FRAME.unpack(sizes)
        if first + second > os.fstat(self._file.fileno()).st_size - self._file.tell():
            return None
        parts = self._file.read(first), self._file.read(second)
        return parts if _checksum(parts) == checksum else None

    def add(self, stamps: Sequence[Any], finished: Finished) -> None:
        """Take note of a batch, given the stamps of the files that became datasets."""
        parts = msgpack.packb([list(stamps), finished.names, finished.remarks]), finished.prepared
        try:
            self._file.write(_FRAME.pack(len(parts[0]), len(parts[1]), _checksum(parts)) + parts[0])
            self._file.write(parts[1])
            self._file.flush()
        except OSError as error:
            raise StorageError(f"the journal {self.path} cannot be written: {error.strerror or error}") from error

    def leave(self) -> None:
        """Leave it for the next run, if there is anything in it."""
        if self._file.seek(0, os.SEEK_END) <= len(self._head):
            self.path.unlink(missing_ok=True)
        self._file.close()

    def remove(self) -> None:
        """Take it away: everything in it is committed, and stays so if that fails."""
        with self._file, suppress(OSError):
            self.path.unlink(missing_ok=True)


def _checksum(parts: tuple[bytes, bytes]) -> int:
    hasher = xxhash.xxh3_64(parts[0])
    hasher.update(parts[1])
    return int(hasher.intdigest())
