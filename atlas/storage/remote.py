"""Stores in any fsspec file system: objects are put whole and never changed, but for the root."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas.errors import CorruptStore, ReadOnlyStore, StorageError
from atlas.storage import locks
from atlas.storage.base import Pin, Storage, check_key

# Ranges closer together than this are fetched as one, up to the size of a request.
GAP_BYTES = 64 << 10
REQUEST_BYTES = 32 << 20


@contextmanager
def _translated(place: str, doing: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except PermissionError as error:
        raise ReadOnlyStore(f"{doing} {place}: {error}") from error
    except _client_errors() as error:
        raise StorageError(f"{doing} {place}: {' '.join(str(error).split())}") from error


def _client_errors() -> tuple[type[BaseException], ...]:
    # Clients of object stores raise more than OSError; nothing comes from a module that is not loaded.
    own = (("botocore.exceptions", "BotoCoreError"), ("botocore.exceptions", "ClientError"), ("aiohttp", "ClientError"))
    return (OSError, *(getattr(sys.modules[module], name) for module, name in own if module in sys.modules))


class RemoteWriter:
    """Gathers one new object and puts it whole; implements :class:`~atlas.storage.base.DataWriter`."""

    def __init__(self, filesystem: Any, path: str) -> None:
        self._filesystem = filesystem
        self._path = path
        self._parts = bytearray()
        self._done = False

    @property
    def position(self) -> int:
        """Bytes written so far."""
        return len(self._parts)

    def write(self, data: Any) -> None:
        """Append bytes."""
        self._parts += data

    def finish(self, sync_directory: bool = True) -> None:
        """Put the object."""
        with _translated(self._path, "writing"):
            self._filesystem.makedirs(self._path.rsplit("/", 1)[0], exist_ok=True)
            self._filesystem.pipe_file(self._path, bytes(self._parts))
        self._done = True

    def abort(self) -> None:
        """Remove the object if it was put."""
        if self._done:
            with contextlib.suppress(OSError):
                self._filesystem.rm_file(self._path)


class FsspecStorage(Storage):
    """A store in an fsspec file system.

    Parameters
    ----------
    filesystem : fsspec.AbstractFileSystem
    prefix : str
        The store's place in it.
    """

    def __init__(self, filesystem: Any, prefix: str) -> None:
        self._shared = filesystem
        self._owner = os.getpid()
        self._prefix = prefix.rstrip("/")

    @property
    def _filesystem(self) -> Any:
        # The connections of most file systems belong to the process that made them.
        if self._owner != os.getpid():
            self._shared = type(self._shared)(*self._shared.storage_args, **self._shared.storage_options)
            self._owner = os.getpid()
        return self._shared

    def __getstate__(self) -> tuple[Any, str]:
        return self._shared, self._prefix

    def __setstate__(self, state: tuple[Any, str]) -> None:
        self._shared, self._prefix = state
        self._owner = os.getpid()

    def describe(self) -> str:
        """Return the protocol and the prefix."""
        protocol = self._filesystem.protocol
        return f"{protocol if isinstance(protocol, str) else protocol[0]}://{self._prefix.lstrip('/')}"

    def _place(self, key: str) -> str:
        return f"{self._prefix}/{check_key(key)}"

    def data_path(self, key: str) -> None:
        """Return nothing: there is no path to map."""
        return None

    def read(self, key: str) -> bytes:
        """Return a whole object."""
        with _translated(self.describe(), f"reading {key} of"):
            return bytes(self._filesystem.cat_file(self._place(key)))

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        """Return part of an object."""
        with _translated(self.describe(), f"reading {key} of"):
            data = bytes(self._filesystem.cat_file(self._place(key), start=offset, end=offset + length))
        if len(data) != length:
            raise CorruptStore(f"{key} of {self.describe()} is truncated: {offset + length} bytes were expected")
        return data

    def exists(self, key: str) -> bool:
        """Return whether there is such an object."""
        with _translated(self.describe(), f"looking for {key} in"):
            self._filesystem.invalidate_cache(self._prefix)
            return bool(self._filesystem.exists(self._place(key)))

    def size(self, key: str) -> int:
        """Return the length of an object."""
        with _translated(self.describe(), f"looking at {key} of"):
            self._filesystem.invalidate_cache(self._prefix)
            return int(self._filesystem.size(self._place(key)))

    def list_dir(self, prefix: str) -> list[str]:
        """Return the names below a prefix."""
        place = self._place(prefix) if prefix else self._prefix
        try:
            with _translated(place, "listing"):
                self._filesystem.invalidate_cache(place)
                return sorted(name.rstrip("/").rsplit("/", 1)[-1] for name in self._filesystem.ls(place, detail=False))
        except FileNotFoundError:
            return []

    def delete(self, key: str) -> None:
        """Remove an object."""
        with _translated(self.describe(), f"removing {key} of"), contextlib.suppress(FileNotFoundError):
            self._filesystem.rm_file(self._place(key))

    def open_map(self, key: str, length: int) -> NDArray[np.uint8]:
        """Read the first `length` bytes of an object."""
        return np.frombuffer(self.read_range(key, 0, length), np.uint8)

    def fetch_ranges(
        self, key: str, offsets: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Fetch ranges, near ones together, into one buffer."""
        if not len(offsets):
            return np.empty(0, np.uint8), offsets
        order = np.argsort(offsets, kind="stable")
        requests: list[list[int]] = []
        request_of = np.zeros(len(order), np.int64)
        for position in order.tolist():
            first, last = int(offsets[position]), int(offsets[position] + lengths[position])
            current = requests[-1] if requests else None
            if current and first - current[1] <= GAP_BYTES and last - current[0] <= REQUEST_BYTES:
                current[1] = max(current[1], last)
            else:
                requests.append([first, last])
            request_of[position] = len(requests) - 1
        place = self._place(key)
        with _translated(self.describe(), f"reading {key} of"):
            parts = self._filesystem.cat_ranges(
                [place] * len(requests), [r[0] for r in requests], [r[1] for r in requests], on_error="raise"
            )
        for (first, last), part in zip(requests, parts, strict=True):
            if len(part) != last - first:
                raise CorruptStore(f"{key} of {self.describe()} is truncated: {last} bytes were expected")
        sizes = np.array([len(part) for part in parts], np.int64)
        begins = np.cumsum(sizes) - sizes
        firsts = np.array([r[0] for r in requests], np.int64)
        return np.frombuffer(b"".join(parts), np.uint8), offsets - firsts[request_of] + begins[request_of]

    def create(self, key: str) -> RemoteWriter:
        """Begin a new object."""
        return RemoteWriter(self._filesystem, self._place(key))

    def sync_directories(self, keys: Sequence[str]) -> None:
        """Do nothing: a put is durable when it returns."""

    def replace(self, key: str, data: bytes) -> None:
        """Put the object over the old one."""
        with _translated(self.describe(), f"replacing {key} of"):
            self._filesystem.pipe_file(self._place(key), data)

    def create_exclusive(self, key: str, data: bytes) -> None:
        """Put an object that must not be there yet."""
        if self.exists(key):
            raise FileExistsError(self._place(key))
        with _translated(self.describe(), f"creating {key} of"):
            self._filesystem.makedirs(self._prefix, exist_ok=True)
            self._filesystem.pipe_file(self._place(key), data)

    def writer_lock(self, timeout: float = 60.0) -> AbstractContextManager[bool]:
        """Exclude the other writers of this process."""
        return locks.thread_lock(self.describe(), timeout)

    def pin(self, generation: int) -> Pin:
        """Return an empty claim: readers are protected by a grace period."""
        return locks.NoPin()

    def oldest_pin(self, below: int) -> bool:
        """Return True: nobody can tell."""
        return True

    def retire(self, key: str) -> None:
        """Leave the object where it is; it is removed after the grace period."""

    def keep_copy(self, key: str, copy: str) -> None:
        """Copy the object."""
        with _translated(self.describe(), f"copying {key} of"):
            self._filesystem.makedirs(self._place(copy).rsplit("/", 1)[0], exist_ok=True)
            self._filesystem.cp_file(self._place(key), self._place(copy))

    def purge(self, key: str) -> None:
        """Remove an object."""
        self.delete(key)
