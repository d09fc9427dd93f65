"""A local cache of what was fetched of objects that never change, shared by any number of processes.

Keys of data and table files hold an id that is used once, so what is cached under one cannot become stale. A part is
a file that is written beside and renamed into place; it begins with a hash of the rest, so that damage, or a file
that a full disk cut short, is a miss and not an error.
"""

from __future__ import annotations

import os
import random
import uuid
from contextlib import suppress

import xxhash

from atlas.storage.names import is_file_of_a_commit
from atlas.storage.ranges import Range

_HASH_BYTES = 16

# How many puts come between two looks at the size of the cache, on average.
_PUTS_PER_LOOK = 64
_LEAVE_FULL = 0.8


class RangeCache:
    """Parts of objects in a directory.

    Parameters
    ----------
    directory : str
        Made when it is first needed.
    limit : int
        Bytes. When there are more, the parts that were used least recently go.
    """

    def __init__(self, directory: str, limit: int) -> None:
        self._directory = directory
        self._limit = limit

    def _path(self, place: str, item: Range) -> str:
        name = xxhash.xxh3_128_hexdigest(f"{place}\0{item.key}\0{item.start}\0{item.end}".encode())
        return os.path.join(self._directory, name[:2], name)

    def get(self, place: str, item: Range) -> bytes | None:
        """Return a part of an object of the store at `place`, if it is there and whole."""
        path = self._path(place, item)
        try:
            with open(path, "rb") as file:
                digest, data = file.read(_HASH_BYTES), file.read()
        except OSError:
            return None
        if len(data) != item.end - item.start or xxhash.xxh3_128_digest(data) != digest:
            return None
        with suppress(OSError):
            os.utime(path)
        return data

    def put(self, place: str, item: Range, data: bytes) -> None:
        """Keep a part, if its object is one that never changes; a full disk is no failure."""
        if not is_file_of_a_commit(item.key) or len(data) > self._limit:
            return
        path = self._path(place, item)
        beside = f"{path}.{uuid.uuid4().hex}"
        try:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            with open(beside, "xb") as file:
                file.write(xxhash.xxh3_128_digest(data))
                file.write(data)
            os.replace(beside, path)
        except OSError:
            with suppress(OSError):
                os.unlink(beside)
        if random.random() < 1 / _PUTS_PER_LOOK or len(data) > self._limit / _PUTS_PER_LOOK:
            self._trim()

    def _trim(self) -> None:
        found = []
        for directory, _, names in os.walk(self._directory):
            for name in names:
                with suppress(OSError):
                    status = os.stat(os.path.join(directory, name))
                    found.append((status.st_mtime, status.st_size, os.path.join(directory, name)))
        size = sum(size for _, size, _ in found)
        if size <= self._limit:
            return
        for _, own, path in sorted(found):
            if size <= self._limit * _LEAVE_FULL:
                return
            with suppress(OSError):
                os.unlink(path)
                size -= own
