"""Files without a name, of what does not wait in memory: nothing of them is ever seen or left behind.

Each is laid out as a data file is, and may be given a name to become one.
"""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterable
from contextlib import suppress
from typing import Any
from weakref import finalize

from atlas.errors import StorageError
from atlas.segment import ALIGNED_FROM, ALIGNMENT, HEADER_LENGTH, MAGIC
from atlas.storage.files import start_writing

# Smaller pieces are gathered until there is so much, for a call each would cost more than a copy.
GATHERED_BYTES = 256 << 10


def open_nameless(directory: str) -> int:
    """Open a new file that goes when it is closed, and is seen by nobody."""
    flags = os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    if hasattr(os, "O_TMPFILE"):
        try:
            # As a data file would be made, for it may become one.
            return os.open(directory, flags | os.O_TMPFILE, 0o666)
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


class Spill:
    """One such file; it goes with this object, unless it has been given a name.

    Attributes
    ----------
    descriptor : int
    file_id : uuid.UUID
        What a data file of these bytes is called after.
    end : int
        How far it is written.
    is_taken : bool
        Whether a commit has made it a data file, or tried to: nothing is added any more.
    """

    def __init__(self, directory: str) -> None:
        self.descriptor = open_nameless(directory)
        self._close = finalize(self, os.close, self.descriptor)
        self._process = os.getpid()
        self.file_id = uuid.uuid4()
        self.is_taken = False
        self.end = 0
        self._write(MAGIC + self.file_id.bytes)

    @property
    def is_open(self) -> bool:
        """Whether more may be added; a forked child leaves its parent's files as they are."""
        return not self.is_taken and self._process == os.getpid()

    def append(self, pieces: Iterable[Any]) -> list[int]:
        """Write pieces, large ones from multiples of 8 on, and return where each is; all of them, or none."""
        positions, begun, position = [], self.end, self.end
        group: list[Any] = []
        try:
            for piece in pieces:
                gap = -position % ALIGNMENT if len(piece) >= ALIGNED_FROM else 0
                positions.append(position + gap)
                position += gap + len(piece)
                group += [bytes(gap), piece] if gap else [piece]
                if position - self.end >= GATHERED_BYTES:
                    self._write_all(group)
                    group = []
            self._write_all(group)
        except BaseException:
            self.end = begun
            raise
        start_writing(self.descriptor, begun, self.end - begun)
        return positions

    def _write_all(self, group: list[Any]) -> None:
        is_large = bool(group) and len(group[-1]) >= GATHERED_BYTES
        self._write(b"".join(group[:-1] if is_large else group))
        if is_large:
            self._write(group[-1])

    def _write(self, data: Any) -> None:
        view = memoryview(data)
        while len(view):
            written = os.pwrite(self.descriptor, view, self.end)
            self.end, view = self.end + written, view[written:]

    def read(self, position: int, length: int) -> bytes:
        """Return bytes of the file."""
        pieces, left = [], length
        while left:
            # The system may give less than is asked for, and never more than 2 GiB at once.
            try:
                pieces.append(os.pread(self.descriptor, left, position + length - left))
            except OSError as error:
                raise StorageError(f"reading pending changes back: {error.strerror or error}") from error
            if not pieces[-1]:
                raise StorageError("reading pending changes back: their temporary file was cut short")
            left -= len(pieces[-1])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing in it."""
        return self.end <= HEADER_LENGTH
