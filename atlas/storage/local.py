"""Stores in a local directory."""

from __future__ import annotations

import contextlib
import os
import stat
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

from atlas.errors import CorruptStore, StorageError, StoreNotFound
from atlas.storage import locks, pins
from atlas.storage.base import MOST_BYTES, DataWriter, Pin, Storage, Stored, check_key
from atlas.storage.files import (
    BUFFER_BYTES,
    NO_LINKS,
    LocalWriter,
    finish_writer,
    for_each,
    make_directories,
    open_file,
    put_aside,
    read_insistently,
    refuse_link,
    sync_ancestors,
    sync_directory,
    sync_parent,
    translated,
    while_writing,
)


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

    def _path_of(self, key: str) -> str:
        return os.path.join(self._path, *check_key(key).split("/"))

    def _place(self, key: str) -> str:
        place = part = self._path_of(key)
        for _ in range(key.count("/") + 1):
            refuse_link(part)
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
            return open_file(place)
        except FileNotFoundError:
            return open_file(put_aside(place))
        except NotADirectoryError:
            raise FileNotFoundError(key) from None

    def read(self, key: str) -> bytes:
        """Return a whole file, or as much of one as shows that it is too long."""
        with translated(self._path, f"reading {key} of"):
            try:
                with open_file(self._place(key)) as file:
                    return file.read(min(os.fstat(file.fileno()).st_size, MOST_BYTES + 1))
            except NotADirectoryError:
                raise FileNotFoundError(key) from None

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        """Return part of a file."""
        place = self._place(key)

        def read() -> bytes:
            with self._open_data(key) as file:
                file.seek(offset)
                return file.read(length)

        data = read_insistently(place, read)
        if len(data) != length:
            raise CorruptStore(f"{place} is truncated: {offset + length} bytes were expected")
        return data

    def exists(self, key: str) -> bool:
        """Return whether there is such a file."""
        place = self._path_of(key)
        try:
            # Also behind a link: there is something, which whoever reads it refuses.
            return stat.S_ISREG(os.stat(place).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            # Not being able to look is not the same as there being nothing.
            raise StorageError(f"looking for {place}: {error.strerror}") from error

    def size(self, key: str) -> int:
        """Return the length of a file."""

        def look() -> int:
            with self._open_data(key) as file:
                return os.fstat(file.fileno()).st_size

        return read_insistently(self._place(key), look)

    def list_dir(self, prefix: str) -> list[str]:
        """Return the names in a directory of the store."""
        place = self._path_of(prefix) if prefix else self._path
        with translated(place, "listing"):
            try:
                # Nothing of the store's is behind a link; and where no store is, most of what is asked about are files.
                is_other = prefix and not stat.S_ISDIR(os.lstat(place).st_mode)
                return [] if is_other else sorted(os.listdir(place))
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
            sync_parent(place)

    def create(self, key: str) -> LocalWriter:
        """Begin a new file."""
        return LocalWriter(self._place(key))

    def adopt(self, key: str, descriptor: int, size: int) -> LocalWriter | None:
        """Give a file without a name its place."""
        return LocalWriter.going_on(self._place(key), descriptor, size)

    def make_directories(self, names: Sequence[str]) -> None:
        """Make directories of the store."""
        with while_writing(self._path, "writing to"):
            make_directories(*map(self._place, names))

    def sync_place(self) -> None:
        """Sync the store's directory, and those above, which a creator that was killed may have made and not synced."""
        with while_writing(self._path, "writing to"):
            sync_directory(self._path)
            sync_ancestors(self._path)

    def sync_directories(self, keys: Sequence[str]) -> None:
        """Sync each directory that holds one of the files, once."""
        directories = sorted({os.path.dirname(self._place(key)) for key in keys})
        with while_writing(self._path, "writing to"):
            for_each(sync_directory, directories)

    def finish_all(self, writers: Sequence[DataWriter]) -> None:
        """Sync and close files."""
        for_each(finish_writer, writers)

    def replace(self, key: str, data: bytes, version: str | None = None) -> None:
        """Write a file beside, sync it, rename it over the old one, sync the directory."""
        place = self._place(key)
        beside = self._write_beside(place, data)
        with while_writing(place, "replacing"):
            try:
                os.replace(beside, place)
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(beside)
                raise
            sync_parent(place)

    def create_exclusive(self, key: str, data: bytes) -> None:
        """Write a file beside, sync it, link it into place, sync the directory."""
        place = self._place(key)
        with while_writing(self._path, "creating"):
            make_directories(self._path)
        if os.path.exists(place):
            raise FileExistsError(place)
        beside = self._write_beside(place, data)
        with while_writing(place, "creating"):
            try:
                self._link(beside, place)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(beside)
            self.sync_place()

    @staticmethod
    def _link(beside: str, place: str) -> None:
        try:
            os.link(beside, place)
        except OSError as error:
            if error.errno not in NO_LINKS:
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

    def begin_creating(self, keys: Sequence[str]) -> bool:
        """Make the directory, where the lock file is to be."""
        with while_writing(self._path, "creating"):
            make_directories(self._path)
            os.stat(self._path)  # it may be a link that leads nowhere
        return False

    @contextmanager
    def writer_lock(self, timeout: float = 60.0, mark: bytes = locks.WRITING) -> Iterator[bytes]:
        """Exclude every other writer, whether thread, process or handle."""
        if not mark and not self.exists(locks.LOCK_NAME):
            # Who only looks makes no lock file; and nobody has written where there is none.
            yield b""
            return
        with contextlib.ExitStack() as held:
            try:
                with translated(self._path, "locking"):
                    interrupted = held.enter_context(locks.writer_lock(self._path, timeout, mark))
            except FileNotFoundError:
                raise StoreNotFound(f"there is no Atlas store at {self._path}: its directory is gone") from None
            yield interrupted

    def holds_lock(self) -> bool:
        """Return whether the lock file is still the one that was locked."""
        with translated(self._path, "looking at the lock of"):
            return locks.is_in_place(self._path)

    def was_interrupted(self) -> bool:
        """Return whether the lock file has a writer's mark."""
        return bool(self._mark())

    def was_writing(self) -> bool:
        """Return whether the mark is not that of a repair."""
        return self._mark() == locks.WRITING

    def _mark(self) -> bytes:
        place = self._place(locks.LOCK_NAME)
        with translated(place, "looking at"), contextlib.suppress(FileNotFoundError), open_file(place) as file:
            return locks.unfinished(file.read(1))
        return b""

    def pin(self, generation: int) -> Pin:
        """Claim the files of a generation."""
        with translated(self._path, "claiming the files of"):
            return pins.pin(self._path, generation)

    def is_pinned(self, below: int) -> bool | None:
        """Return whether a reader holds an older generation; ``None`` where nobody can tell."""
        return pins.pinned_below(self._path, below)

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
                if error.errno not in NO_LINKS:
                    raise
                self._copy(source, place)
            sync_parent(place)

    @staticmethod
    def _copy(source: str, place: str) -> None:
        writer = LocalWriter(place)
        try:
            with open_file(source) as file:
                while piece := file.read(BUFFER_BYTES):
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
