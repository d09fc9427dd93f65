"""Files without a name, of what does not wait in memory: nothing of them is ever seen or left behind.

Each is laid out as a data file is, and may be given a name to become one. Nobody syncs it before, so the disk may have
failed to write something without anybody's hearing of it: what is read back is compared with the hashes of what was
written.
"""

from __future__ import annotations

import errno
import os
import uuid
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from contextlib import suppress
from operator import itemgetter
from typing import Any
from weakref import finalize

import xxhash

from atlas.errors import StorageError
from atlas.segment import ALIGNED_FROM, ALIGNMENT, HEADER_LENGTH, MAGIC
from atlas.storage.files import start_writing

# Smaller pieces are gathered until there is so much, for a call each would cost more than a copy.
GATHERED_BYTES = 256 << 10
# So much has a hash at most, and is read together.
_BLOCK_BYTES = 1 << 20

_end_of = itemgetter(0)


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
    try:
        if not hasattr(os, "O_TEMPORARY"):
            with suppress(FileNotFoundError):
                os.unlink(path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


class Spill:
    """One such file; it goes with this object, unless it has been given a name.

    Attributes
    ----------
    descriptor : int
    file_id : uuid.UUID
        What a data file of these bytes is called after.
    is_taken : bool
        Whether a commit has made it a data file, or tried to: nothing is added any more.
    claimed : int
        How far what is in it is known to be somebody's.
    has_junk : bool
        Whether before that there is something which is nobody's: then it is not to become a data file.
    """

    def __init__(self, directory: str) -> None:
        self.descriptor = open_nameless(directory)
        # Not at exit, when a last flush may still want it: the system closes it.
        finalize(self, os.close, self.descriptor).atexit = False
        self._process = os.getpid()
        self.file_id = uuid.uuid4()
        self.is_taken = False
        # The blocks that it was written in: where each ends, and its hash; and the one that was read last.
        self._blocks: list[tuple[int, int]] = []
        self._read: tuple[int | None, bytes] = None, b""
        self._write(MAGIC + self.file_id.bytes)
        self.claimed, self.has_junk = self.end, False

    @property
    def end(self) -> int:
        """How far it is written."""
        return self._blocks[-1][0] if self._blocks else 0

    @property
    def is_open(self) -> bool:
        """Whether more may be added; a forked child leaves its parent's files as they are."""
        return not self.is_taken and self._process == os.getpid()

    def append(self, pieces: Iterable[Any]) -> list[int]:
        """Write pieces, large ones from multiples of 8 on, and return where each is; all of them, or none."""
        self.has_junk |= self.end != self.claimed
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
            self.forget(begun)
            raise
        start_writing(self.descriptor, begun, self.end - begun)
        return positions

    def _write_all(self, group: list[Any]) -> None:
        is_large = bool(group) and len(group[-1]) >= GATHERED_BYTES
        self._write(b"".join(group[:-1] if is_large else group))
        if is_large:
            self._write(group[-1])

    def _write(self, data: Any) -> None:
        view = memoryview(data).cast("B")
        while len(view):
            block, view = view[:_BLOCK_BYTES], view[_BLOCK_BYTES:]
            end = begin = self.end
            while end < begin + len(block):
                end += os.pwrite(self.descriptor, block[end - begin :], end)
            self._blocks.append((end, xxhash.xxh3_64_intdigest(block)))

    def forget(self, end: int) -> None:
        """Have what follows go over what is behind a position, but for the rest of a block."""
        del self._blocks[bisect_left(self._blocks, end, key=_end_of) + 1 :]
        self._read = None, b""
        self.has_junk |= self.end != end
        self.claimed = self.end

    def read(self, position: int, length: int) -> bytes:
        """Return bytes of the file."""
        end, pieces = position + length, []
        first = bisect_right(self._blocks, position, key=_end_of)
        for number in range(first, bisect_left(self._blocks, end, key=_end_of) + 1):
            begin = self._blocks[number - 1][0]
            pieces.append(memoryview(self._block(number))[max(position - begin, 0) : end - begin])
        return b"".join(pieces)

    def _block(self, number: int) -> bytes:
        read = self._read
        if read[0] != number:
            (begin, _), (end, digest) = self._blocks[number - 1 : number + 1]
            data = b"".join(self._pieces(begin, end))
            if xxhash.xxh3_64_intdigest(data) != digest:
                raise StorageError("reading pending changes back: the disk has not kept what was written")
            # Small chunks are read one by one.
            self._read = read = number, data
        return read[1]

    def _pieces(self, begin: int, end: int) -> Iterator[bytes]:
        # The system may give less than is asked for.
        while begin < end:
            try:
                piece = os.pread(self.descriptor, end - begin, begin)
            except OSError as error:
                raise StorageError(f"reading pending changes back: {error.strerror or error}") from error
            yield piece
            begin = begin + len(piece) if piece else end

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing in it."""
        return self.end <= HEADER_LENGTH
