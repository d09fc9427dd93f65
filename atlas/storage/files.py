"""Files and directories of the local disk, each made durable: what a local store is made of."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

from atlas.errors import CorruptStore, ReadOnlyStore, StorageError
from atlas.storage.base import DataWriter
from atlas.threads import take_turns

_RETIRED = "_retired"
BUFFER_BYTES = 1 << 20
# Threads that sync files and directories side by side, if there are as many for each of them.
_SYNCING = 8
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)

# Elsewhere a directory cannot be opened, and its entries are the file system's own business.
can_sync_directories = hasattr(os, "O_DIRECTORY")


@contextmanager
def translated(place: str, doing: str) -> Iterator[None]:
    """Turn the operating system's errors into ours; missing and existing files stay what they are."""
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError as error:
        if isinstance(error, (StorageError, ReadOnlyStore)):
            raise
        kind = ReadOnlyStore if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else StorageError
        raise kind(f"{doing} {place}: {error.strerror or error}") from error


def sync_directory(path: str) -> None:
    """Make the entries of a directory durable."""
    if not can_sync_directories:
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems sync files only, and say so like this; on read-only ones there is nothing to do.
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.EROFS):
            raise
    finally:
        os.close(descriptor)


def finish_writer(writer: DataWriter) -> None:
    """Finish a writer."""
    writer.finish()


def for_each(action: Callable[[Any], None], items: Sequence[Any]) -> None:
    """Do something with every item: many at a time, as the disk takes the syncs of several threads in one go."""
    take_turns(action, items, min(_SYNCING, len(items) // _SYNCING))


def make_directories(*paths: str) -> None:
    """Make directories and their parents durably, with one sync for all that are in the same place."""
    missing: list[str] = []
    for path in paths:
        above = []
        while not os.path.isdir(path):
            above.append(path)
            path = os.path.dirname(path)
        missing += reversed(above)
    for directory in missing:
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory)
    for parent in dict.fromkeys(map(os.path.dirname, missing)):
        sync_directory(parent)


def sync_ancestors(path: str) -> None:
    """Make the directories above durable: a creator that was killed may have made some and synced none."""
    while path != os.path.dirname(path):
        path = os.path.dirname(path)
        with contextlib.suppress(PermissionError):
            sync_directory(path)


def open_file(path: str) -> BinaryIO:
    """Open a file for reading; what is no file, and may keep whoever opens it waiting, is refused."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CorruptStore(f"{path} is no regular file")
    return os.fdopen(descriptor, "rb")


class LocalWriter:
    """Writes one new file; implements :class:`~atlas.storage.base.DataWriter`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._position = 0
        with translated(path, "creating"):
            self._file = os.fdopen(self._open_new(path), "wb", BUFFER_BYTES)

    @staticmethod
    def _open_new(path: str) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        make_directories(os.path.dirname(path))
        try:
            return os.open(path, flags, 0o666)
        except FileNotFoundError:
            # purge() of another process took the empty directory away in between.
            make_directories(os.path.dirname(path))
            return os.open(path, flags, 0o666)

    @property
    def position(self) -> int:
        """Bytes written so far."""
        return self._position

    def write(self, data: Any) -> None:
        """Append bytes."""
        with translated(self._path, "writing"):
            self._position += self._file.write(data)

    def finish(self) -> None:
        """Sync and close the file."""
        with translated(self._path, "writing"):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def abort(self) -> None:
        """Close and remove the file."""
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            os.unlink(self._path)


def sync_parent(path: str) -> None:
    """Make the entry of a file durable."""
    sync_directory(os.path.dirname(path))


def put_aside(place: str) -> str:
    """Return where a data file is once it has been replaced while readers needed it."""
    aside = os.path.join(os.path.dirname(os.path.dirname(place)), _RETIRED, os.path.basename(place))
    refuse_link(aside)
    refuse_link(os.path.dirname(aside))
    return aside


def refuse_link(place: str) -> None:
    """Refuse to follow a link out of the store."""
    if os.path.islink(place):
        raise CorruptStore(f"{place} is a symbolic link; a store does not follow links")
