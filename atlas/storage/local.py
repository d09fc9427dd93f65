"""Stores in a local directory."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import stat
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from atlas.errors import CorruptStore, ReadOnlyStore, StorageError
from atlas.storage import locks
from atlas.storage.base import DataWriter, Pin, Storage, Stored, check_key
from atlas.threads import Turn, finish, help_with, insist

_RETIRED = "_retired"
_BUFFER_BYTES = 1 << 20
# Threads that sync files and directories side by side, if there are as many for each of them.
_SYNCING = 8
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)

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


def _finish(writer: DataWriter) -> None:
    writer.finish()


def _for_each(action: Callable[[Any], None], items: Sequence[Any]) -> None:
    """Do something with every item: many at a time, as the disk takes the syncs of several threads in one go."""
    waiting, errors = deque(items), deque[BaseException]()

    def work() -> None:
        while not errors:
            try:
                item = waiting.popleft()
            except IndexError:
                return
            try:
                action(item)
            except BaseException as error:
                errors.append(error)

    helping: list[Turn] = []
    try:
        help_with(work, min(_SYNCING, len(items) // _SYNCING), helping)
        work()
    finally:
        waiting.clear()
        insist(partial(finish, helping))
    if errors:
        raise errors[0]


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


def _open_file(path: str) -> BinaryIO:
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
            self._file = os.fdopen(self._open_new(path), "wb", _BUFFER_BYTES)

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


def _sync_parent(path: str) -> None:
    sync_directory(os.path.dirname(path))


def put_aside(place: str) -> str:
    """Return where a data file is once it has been replaced while readers needed it."""
    aside = os.path.join(os.path.dirname(os.path.dirname(place)), _RETIRED, os.path.basename(place))
    _refuse_link(aside)
    _refuse_link(os.path.dirname(aside))
    return aside


def _refuse_link(place: str) -> None:
    if os.path.islink(place):
        raise CorruptStore(f"{place} is a symbolic link; a store does not follow links")


class LocalStorage(Storage):
    """A store in a local directory.

    Parameters
    ----------
    path : str
        Absolute path of the directory.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    @property
    def local_path(self) -> str:
        """The directory."""
        return self._path

    def describe(self) -> str:
        """Return the directory."""
        return self._path

    def _place(self, key: str) -> str:
        place = os.path.join(self._path, *check_key(key).split("/"))
        part = place
        for _ in range(key.count("/") + 1):
            _refuse_link(part)
            part = os.path.dirname(part)
        return place

    def data_path(self, key: str) -> str:
        """Return where a data file is, put aside or not."""
        place = self._place(key)
        if not os.path.exists(place):
            aside = put_aside(place)
            return aside if os.path.exists(aside) else place
        return place

    def _open_data(self, key: str) -> BinaryIO:
        # Asking first and opening then would miss a file that is put aside in between.
        place = self._place(key)
        try:
            return _open_file(place)
        except FileNotFoundError:
            return _open_file(put_aside(place))

    def read(self, key: str) -> bytes:
        """Return a whole file."""
        with translated(self._path, f"reading {key} of"):
            try:
                with _open_file(self._place(key)) as file:
                    return file.read()
            except NotADirectoryError:
                raise FileNotFoundError(key) from None

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        """Return part of a file."""
        place = self._place(key)
        with translated(place, "reading"), self._open_data(key) as file:
            file.seek(offset)
            data = file.read(length)
        if len(data) != length:
            raise CorruptStore(f"{place} is truncated: {offset + length} bytes were expected")
        return data

    def exists(self, key: str) -> bool:
        """Return whether there is such a file."""
        place = os.path.join(self._path, *check_key(key).split("/"))
        try:
            return stat.S_ISREG(os.stat(place).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            # Not being able to look is not the same as there being nothing.
            raise StorageError(f"looking for {place}: {error.strerror}") from error

    def size(self, key: str) -> int:
        """Return the length of a file."""
        place = self._place(key)
        with translated(place, "looking at"), self._open_data(key) as file:
            return os.fstat(file.fileno()).st_size

    def list_dir(self, prefix: str) -> list[str]:
        """Return the names in a directory of the store."""
        place = os.path.join(self._path, *check_key(prefix).split("/")) if prefix else self._path
        with translated(place, "listing"):
            try:
                # Nothing of the store's is behind a link.
                return [] if prefix and os.path.islink(place) else sorted(os.listdir(place))
            except (FileNotFoundError, NotADirectoryError):
                return []
            except PermissionError:
                # Nor in what others keep there for themselves (lost+found).
                if prefix:
                    return []
                raise

    def inventory(self) -> list[Stored]:
        """Return every file of the store and of its directories."""
        found = []
        for directory in ("", *self.list_dir("")):
            for name in self.list_dir(directory):
                key = f"{directory}/{name}" if directory else name
                place = os.path.join(self._path, key)
                with translated(place, "looking at"), contextlib.suppress(FileNotFoundError):
                    status = os.lstat(place)
                    if stat.S_ISREG(status.st_mode):
                        found.append(Stored(key, status.st_size, status.st_mtime))
        return found

    def delete(self, key: str) -> None:
        """Remove a file."""
        place = self._place(key)
        with translated(place, "removing"), contextlib.suppress(FileNotFoundError):
            os.unlink(place)
            _sync_parent(place)

    def open_map(self, key: str, length: int) -> NDArray[np.uint8]:
        """Map the first `length` bytes of a file."""
        place = self._place(key)
        with translated(place, "reading"), self._open_data(key) as file:
            if os.fstat(file.fileno()).st_size < length:
                raise CorruptStore(f"{place} is truncated: {length} bytes were committed")
            if not length:
                return np.empty(0, np.uint8)  # a map of length 0 would be of the whole file
            return np.frombuffer(mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ), np.uint8)

    def fetch_ranges(
        self, key: str, offsets: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Map the file; the ranges are where they are."""
        return self.open_map(key, int((offsets + lengths).max(initial=1))), offsets

    def create(self, key: str) -> LocalWriter:
        """Begin a new file."""
        return LocalWriter(self._place(key))

    def make_directories(self, names: Sequence[str]) -> None:
        """Make directories of the store."""
        with translated(self._path, "writing to"):
            make_directories(*map(self._place, names))

    def sync_directories(self, keys: Sequence[str]) -> None:
        """Sync each directory that holds one of the files, once."""
        directories = sorted({os.path.dirname(self._place(key)) for key in keys})
        with translated(self._path, "writing to"):
            _for_each(sync_directory, directories)

    def finish_all(self, writers: Sequence[DataWriter]) -> None:
        """Sync and close files."""
        _for_each(_finish, writers)

    def replace(self, key: str, data: bytes, version: str | None = None) -> None:
        """Write a file beside, sync it, rename it over the old one, sync the directory."""
        place = self._place(key)
        beside = self._write_beside(place, data)
        with translated(place, "replacing"):
            try:
                os.replace(beside, place)
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(beside)
                raise
            _sync_parent(place)

    def create_exclusive(self, key: str, data: bytes) -> None:
        """Write a file beside, sync it, link it into place, sync the directory."""
        place = self._place(key)
        with translated(self._path, "creating"):
            make_directories(self._path)
        if os.path.exists(place):
            raise FileExistsError(place)
        beside = self._write_beside(place, data)
        with translated(place, "creating"):
            try:
                self._link(beside, place)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(beside)
            sync_directory(self._path)
            sync_ancestors(self._path)

    @staticmethod
    def _link(beside: str, place: str) -> None:
        try:
            os.link(beside, place)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # A file system without hard links; the writer lock keeps other creators out.
            os.rename(beside, place)

    def _write_beside(self, place: str, data: bytes) -> str:
        directory, name = os.path.split(place)
        beside = os.path.join(directory, f".{name}.tmp-{uuid.uuid4().hex}")
        writer = LocalWriter(beside)
        try:
            writer.write(data)
            writer.finish()
        except BaseException:
            writer.abort()
            raise
        return beside

    def begin_writing(self) -> None:
        """Do nothing: the lock keeps writers apart."""

    @contextmanager
    def writer_lock(self, timeout: float = 60.0, marks: bool = True) -> Iterator[bool]:
        """Exclude every other writer, whether thread, process or handle."""
        with contextlib.ExitStack() as held:
            with translated(self._path, "locking"):
                make_directories(self._path)
                interrupted = held.enter_context(locks.writer_lock(self._path, timeout, marks))
            yield interrupted

    def was_interrupted(self) -> bool:
        """Return whether the lock file has a writer's mark."""
        try:
            return self.size(locks.LOCK_NAME) > 0
        except FileNotFoundError:
            return False

    def pin(self, generation: int) -> Pin:
        """Claim the files of a generation."""
        return locks.pin(self._path, generation)

    def oldest_pin(self, below: int) -> bool:
        """Return whether any reader may hold an older generation."""
        return locks.pinned_below(self._path, below)

    def retire(self, key: str) -> None:
        """Move a data file out of its array's directory."""
        place = self._place(key)
        aside = put_aside(place)
        with translated(place, "retiring"), contextlib.suppress(FileNotFoundError):
            make_directories(os.path.dirname(aside))
            os.rename(place, aside)

    def keep_copy(self, key: str, copy: str) -> None:
        """Link the file to a second place, or copy it where there are no links."""
        source, place = self.data_path(key), self._place(copy)
        with translated(place, "keeping"):
            make_directories(os.path.dirname(place))
            try:
                os.link(source, place)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                self._copy(source, place)
            _sync_parent(place)

    @staticmethod
    def _copy(source: str, place: str) -> None:
        writer = LocalWriter(place)
        try:
            with open(source, "rb") as file:
                while piece := file.read(_BUFFER_BYTES):
                    writer.write(piece)
            writer.finish()
        except BaseException:
            writer.abort()
            raise

    def purge(self, key: str) -> None:
        """Remove a data file, and its directory when that was the last."""
        place = self._place(key)
        aside = put_aside(place)
        for path in (place, aside):
            with translated(path, "removing"), contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            # Not empty as a rule; an empty directory that stays hurts nobody.
            with contextlib.suppress(OSError):
                os.rmdir(os.path.dirname(path))
