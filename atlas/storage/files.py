"""Files and directories of the local disk, each made durable: what a local store is made of."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, TypeVar

from atlas.errors import CorruptStore, ReadOnlyStore, StorageError
from atlas.storage.base import DataWriter
from atlas.storage.names import RETIRED
from atlas.threads import take_turns

_Read = TypeVar("_Read")

BUFFER_BYTES = 1 << 20
# Threads that sync files and directories side by side, if there are as many for each of them.
_SYNCING = 8
# Why a file cannot have a second name, though it could be copied: no file system has it, or here it has too many.
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK)
# What a disk answers that cannot read something any more.
_UNREADABLE = (errno.EIO, errno.EBADMSG, getattr(errno, "EUCLEAN", errno.EIO))
# How much is written before the disk is told to begin with it.
_BEGIN_BYTES = 8 << 20
_SYNC_FILE_RANGE_WRITE = 2

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


@contextmanager
def while_writing(place: str, doing: str) -> Iterator[None]:
    """Do as :func:`translated` does; what is missing is not something that was asked for, but the place itself."""
    try:
        with translated(place, doing):
            yield
    except FileNotFoundError as error:
        raise StorageError(f"{doing} {place}: {error.strerror or error}") from error


def read_insistently(place: str, read: Callable[[], _Read]) -> _Read:
    """Return what is read; what the disk cannot read, asked twice, is damage: of this file, and of no other."""
    with translated(place, "reading"):
        for is_again in (False, True):
            try:
                return read()
            except OSError as error:
                if error.errno not in _UNREADABLE:
                    raise
                if is_again:
                    raise CorruptStore(f"{place} cannot be read: {error.strerror}") from error
    raise AssertionError


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
    """Make the directories above durable."""
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


def _find_sync_file_range() -> Callable[[int, int, int, int], int] | None:
    try:
        call = ctypes.CDLL(None).sync_file_range
    except (AttributeError, OSError, TypeError):  # pragma: no cover - another system
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return call


_sync_file_range = _find_sync_file_range()


def start_writing(descriptor: int, offset: int, length: int) -> None:
    """Have the disk begin with part of a file, so that less is left to wait for when it is synced: no more than that.

    It tells nobody whether that works, also not the system, which tells the next sync of what it could not write.
    """
    if _sync_file_range is not None:
        _sync_file_range(descriptor, offset, length, _SYNC_FILE_RANGE_WRITE)


def name_file(descriptor: int, path: str) -> bool:
    """Give an open file without a name one; return whether that is possible here."""
    make_directories(os.path.dirname(path))
    try:
        # Beside a directory, any, the call looks behind the link that the source is.
        os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor, follow_symlinks=True)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(path)
        if error.errno in (*NO_LINKS, errno.ENOENT, errno.EACCES):
            return False
        raise
    return True


class LocalWriter:
    """Writes one new file; implements :class:`~atlas.storage.base.DataWriter`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._position = self._begun = 0
        with while_writing(path, "creating"):
            self._file = os.fdopen(self._open_new(path), "wb", BUFFER_BYTES)

    @classmethod
    def going_on(cls, path: str, descriptor: int, size: int) -> LocalWriter | None:
        """Give an open file that has no name one, and go on behind its first bytes; None where there are no such names.

        Parameters
        ----------
        path : str
        descriptor : int
            Stays open, and the caller's.
        size : int
            How many bytes there are to be.
        """
        with while_writing(path, "creating"):
            own = os.dup(descriptor)
            try:
                os.ftruncate(own, size)
                os.lseek(own, size, os.SEEK_SET)
                named = name_file(own, path)
            except BaseException:
                os.close(own)
                raise
            if not named:
                os.close(own)
                return None
            writer = cls.__new__(cls)
            writer._path, writer._position, writer._begun = path, size, size
            writer._file = os.fdopen(own, "wb", BUFFER_BYTES)
        return writer

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
            if self._position - self._begun >= _BEGIN_BYTES:
                start_writing(self._file.fileno(), self._begun, self._position - self._begun)
                self._begun = self._position

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
    aside = os.path.join(os.path.dirname(os.path.dirname(place)), RETIRED, os.path.basename(place))
    refuse_link(aside)
    refuse_link(os.path.dirname(aside))
    return aside


def refuse_link(place: str) -> None:
    """Refuse to follow a link out of the store."""
    if os.path.islink(place):
        raise CorruptStore(f"{place} is a symbolic link; a store does not follow links")
