"""Stores in object stores and other fsspec file systems: objects are put whole and never changed, but for the root."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import Any

import xxhash

from atlas.config import settings
from atlas.errors import AtlasError, ConflictError, ReadOnlyStore, StorageError, UnsafeStorage
from atlas.storage import locks, pins
from atlas.storage.base import ConditionFailed, Pin, Storage, Stored, check_key
from atlas.storage.cache import RangeCache
from atlas.storage.client import Found, UploadingClient, concurrently
from atlas.storage.conditions import Conditions
from atlas.storage.flight import Job, in_flight
from atlas.storage.ranges import Range
from atlas.storage.requests import Requests
from atlas.storage.stats import IOStats
from atlas.storage.upload import RemoteWriter

# How long it is tried to take back what a failed commit has put.
_TAKE_BACK_SECONDS = 10


def _cache() -> RangeCache | None:
    directory = settings().object_cache
    return RangeCache(directory, settings().object_cache_bytes) if directory else None


class RemoteStorage(Storage):
    """A store in an fsspec file system.

    Parameters
    ----------
    filesystem : fsspec.AbstractFileSystem or obstore store
    prefix : str
        The store's place in it.
    single_writer : bool
        Whether the caller vouches that nobody else writes to it meanwhile.
    """

    def __init__(self, filesystem: Any, prefix: str, single_writer: bool = False) -> None:
        self._requests = Requests(filesystem, prefix)
        self._prefix = self._requests.prefix
        self._single_writer = single_writer
        self._conditions = Conditions(self._requests)
        self._look: tuple[str, Future[str]] | None = None

    def __getstate__(self) -> tuple[Any, str, bool]:
        return self._requests.filesystem, self._prefix, self._single_writer

    def __setstate__(self, state: tuple[Any, str, bool]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    def describe(self) -> str:
        """Return the protocol and the prefix."""
        return self._requests.describe()

    @property
    def _client(self) -> UploadingClient:
        return self._requests.client

    @property
    def token(self) -> Hashable:
        """A hash of what the file system was made with."""
        options = xxhash.xxh3_128_hexdigest(pickle.dumps(self._requests.filesystem))
        return self.describe(), self._single_writer, options

    @property
    def io_stats(self) -> IOStats:
        """What this handle has asked for so far."""
        return self._requests.counters.read()

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────

    async def _get(self, key: str) -> Any:
        answer = await self._requests.insist("get", partial(self._client.get, self._requests.place(key)))
        self._requests.counters.count("", len(answer.data), len(answer.data))
        return answer

    async def _get_range(self, item: Range, used: int, anew: bool = False) -> bytes:
        cache = _cache()
        if cache is not None and not anew:
            known = await asyncio.to_thread(cache.get, self._identity, item)
            if known is not None:
                return known
        size = item.end - item.start
        call = partial(self._client.get, self._requests.place(item.key), item.start, item.end)
        data = bytes((await self._requests.insist("range", call, size, used)).data)
        if cache is not None:
            await asyncio.to_thread(cache.put, self._identity, item, data)
        return data

    @property
    def _identity(self) -> str:
        # Not the endpoint: it may have several names, and keys of files are used once.
        return self.describe()

    def data_path(self, key: str) -> None:
        """Return nothing: there is no path to map."""
        return None

    def read(self, key: str) -> bytes:
        """Return a whole object."""
        return self.read_versioned(key)[0]

    def read_versioned(self, key: str) -> tuple[bytes, str]:
        """Return a whole object and its version."""
        answer = self._requests.run(f"reading {key} of", partial(self._get, key))
        return answer.data, answer.version

    def read_each(self, keys: Sequence[str]) -> dict[str, tuple[bytes, str | None]]:
        """Return those objects that there are, asked for at once."""
        calls = [partial(self._get_if_there, key) for key in keys]
        answers = self._requests.run("reading", lambda: concurrently(calls, settings().fetch_requests))
        return {key: tuple(answer) for key, answer in zip(keys, answers, strict=True) if answer is not None}

    async def _get_if_there(self, key: str) -> Any:
        try:
            return await self._get(key)
        except FileNotFoundError:
            return None

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        """Return part of an object."""
        return self.read_ranges([Range(key, offset, offset + length)])[0]

    def read_anew(self, item: Range) -> bytes:
        """Return part of an object as it is stored; where that is cached, it is cached anew."""
        return self._requests.run(f"reading {item.key} of", partial(self._get_range, item, item.end - item.start, True))

    def read_ranges(self, ranges: Sequence[Range]) -> list[bytes]:
        """Return parts of objects, asked for at once."""
        found = [b""] * len(ranges)
        for number, data in self.fetch(ranges, [item.end - item.start for item in ranges]):
            found[number] = data
        return found

    def fetch(self, ranges: Sequence[Range], used: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """Yield parts of objects with their numbers, as they come in."""
        wanted = [number for number, item in enumerate(ranges) if item.end > item.start]
        yield from ((number, b"") for number, item in enumerate(ranges) if item.end <= item.start)
        jobs = [
            Job(
                ranges[number].end - ranges[number].start,
                partial(
                    self._requests.explained,
                    f"reading {ranges[number].key} of",
                    partial(self._get_range, ranges[number], used[number]),
                ),
            )
            for number in wanted
        ]
        if jobs:
            limits = settings().fetch_requests, settings().flight_bytes
            for number, data in in_flight(self._client.loop, jobs, *limits):
                yield wanted[number], data

    def exists(self, key: str) -> bool:
        """Return whether there is such an object."""
        try:
            return self.size(key) >= 0
        except FileNotFoundError:
            return False

    def size(self, key: str) -> int:
        """Return the length of an object."""
        call = partial(self._requests.insist, "head", partial(self._client.size, self._requests.place(key)))
        return int(self._requests.run(f"looking at {key} of", call))

    def inventory(self) -> list[Stored]:
        """Return every object of the store."""
        found = self._requests.run("listing", self._find)
        start = len(self._prefix.lstrip("/")) + 1 if self._prefix else 0
        return [Stored(item.path.lstrip("/")[start:], item.size, item.modified) for item in found]

    async def _find(self) -> list[Found]:
        found, more = await self._requests.insist("list", partial(self._client.find, self._prefix))
        while more:
            page, more = await self._requests.insist("list", partial(self._client.find, self._prefix, more))
            found += page
        return found

    def list_dir(self, prefix: str) -> list[str]:
        """Return the names below a prefix."""
        start = f"{check_key(prefix)}/" if prefix else ""
        keys = (item.key[len(start) :] for item in self.inventory() if item.key.startswith(start))
        return sorted({key.split("/")[0] for key in keys})

    # ── writing ──────────────────────────────────────────────────────────────────────────────

    @property
    def is_safe(self) -> bool:
        """Whether a put that depends on what is there does, on this server; found out when first asked."""
        if self._requests.protocol == "memory":
            return True  # the lock of the store keeps out everybody who could write to it
        if not self._client.has_conditions:
            return False
        if self._conditions.are_honoured is None:
            try:
                self._requests.run("trying a conditional put in", self._conditions.try_server)
            finally:
                self._conditions.drop_probes()
        return bool(self._conditions.are_honoured)

    def begin_writing(self) -> None:
        """Refuse to write where two writers could undo each other's commits, unless there is one only."""
        if self._requests.on_the_web:
            protocol = self._requests.protocol
            raise ReadOnlyStore(f"{self.describe()} is read-only: nothing can be written over {protocol}")
        if not self.is_safe and not (self._single_writer or settings().single_writer):
            raise UnsafeStorage(
                f"{self.describe()} does not honour conditional writes, so that two writers could undo each other's "
                "commits; if there is only one, say so with single_writer=True (ATLAS_SINGLE_WRITER=1)"
            )

    def begin_creating(self, keys: Sequence[str]) -> bool:
        """Look for objects while the server is tried."""
        calls: list[Callable[[], Awaitable[Any]]] = [partial(self._get_if_there, key) for key in keys]
        if self._client.has_conditions and self._conditions.are_honoured is None:
            calls.append(self._conditions.try_server)
        else:
            self.begin_writing()
        is_free = False
        try:
            found = self._requests.run("looking for a store at", lambda: concurrently(calls, settings().fetch_requests))
            self.begin_writing()
            is_free = all(answer is None for answer in found)
        finally:
            if not is_free:
                self._conditions.drop_probes()
        return not is_free

    def create(self, key: str) -> RemoteWriter:
        """Begin a new object."""
        return RemoteWriter(self, self._requests, self._requests.place(key))

    def create_early(self, key: str) -> RemoteWriter | None:
        """Begin a new object that leaves in parts."""
        return (
            RemoteWriter(self, self._requests, self._requests.place(key), is_large=True)
            if self._client.has_parts
            else None
        )

    def must_finish(self, writers: Sequence[Any]) -> bool:
        """Return whether what waits to be put fills the memory that was set aside for it."""
        return super().must_finish(writers) or sum(writer.held for writer in writers) > settings().flight_bytes

    def sync_place(self) -> None:
        """Do nothing: a put is durable when it returns."""

    def sync_directories(self, keys: Sequence[str]) -> None:
        """Do nothing: a put is durable when it returns."""

    def finish_all(self, writers: Sequence[Any]) -> None:
        """Put objects at once."""
        calls = [writer.complete for writer in writers]
        try:
            self._requests.run("writing to", lambda: concurrently(calls, settings().fetch_requests))
        except FileNotFoundError as error:
            # An upload in parts that somebody else has ended.
            raise StorageError(f"writing to {self.describe()}: the parts of {error} are gone") from None

    def abort_all(self, writers: Sequence[Any]) -> None:
        """Take back what was put, at once and as far as the service lets us; the rest is left to gc."""
        self._look = None
        calls = [call for writer in writers if (call := writer.taking_back()) is not None]
        if not calls:
            return

        def take_back() -> Awaitable[Any]:
            return asyncio.wait_for(concurrently(calls, settings().fetch_requests), _TAKE_BACK_SECONDS)

        with suppress(AtlasError, TimeoutError):
            self._requests.run("taking back", take_back)

    def replace(self, key: str, data: bytes, version: str | None = None) -> str:
        """Put the object over the version that it is to replace; :class:`ConditionFailed` when that is not there."""
        try:
            return self._requests.run(
                f"replacing {key} of", partial(self._replace, self._requests.place(key), data, version)
            )
        finally:
            self._conditions.drop_probes()

    async def _replace(self, place: str, data: bytes, version: str | None) -> str:
        if version is not None and self._conditions.are_honoured is not False:
            return await self._conditions.put(place, data, version)
        # Who makes a store has looked just now whether there is one.
        if version:
            await self._check_version(place, version)
        put = partial(self._client.put, place, data)
        return await self._requests.insist("put", put, written=len(data))

    def expect_version(self, key: str, version: str | None) -> None:
        """Begin to look at an object where no condition does."""
        if version and self._conditions.are_honoured is False:
            place = self._requests.place(key)
            self._look = place, asyncio.run_coroutine_threadsafe(self._version_of(place), self._client.loop)

    async def _version_of(self, place: str) -> str:
        return await self._requests.insist("head", partial(self._client.version, place))

    async def _check_version(self, place: str, version: str) -> None:
        # As good as it gets: whoever does write here although there was to be one writer is seen, as a rule.
        begun, self._look = self._look, None
        look = asyncio.wrap_future(begun[1]) if begun and begun[0] == place else self._version_of(place)
        if await look != version:
            raise ConflictError(
                "another writer has committed, but the server does not honour conditional writes: "
                "only one may write; open the store anew"
            )

    def create_exclusive(self, key: str, data: bytes) -> str:
        """Put an object that must not be there yet."""
        try:
            return self.replace(key, data, "")
        except ConditionFailed:
            # Or was the answer lost, and the request made again?
            there, version = self.read_each([key]).get(key, (None, None))
            if there == data and version is not None:
                return version
            raise FileExistsError(self._requests.place(key)) from None

    def delete(self, key: str) -> None:
        """Remove an object."""
        self.delete_all([key])

    def delete_all(self, keys: Sequence[str]) -> None:
        """Remove objects by as few requests as may be."""
        places, most = [self._requests.place(key) for key in keys], self._client.most_deleted
        calls = [partial(self._delete, places[first : first + most]) for first in range(0, len(places), most)]
        self._requests.run("removing objects of", lambda: concurrently(calls, settings().fetch_requests))

    async def _delete(self, places: Sequence[str]) -> None:
        with suppress(FileNotFoundError):
            await self._requests.insist("delete", partial(self._client.delete, places))

    def drop_unfinished(self, before: float) -> int:
        """Remove uploads that were begun before a time, and not completed; return how many."""
        if not self._client.has_parts:
            return 0
        unfinished = partial(self._client.unfinished, self._prefix)
        found = self._requests.run("listing uploads of", partial(self._requests.insist, "list", unfinished))
        old = [(path, upload) for path, upload, begun in found if begun < before]
        for path, upload in old:
            give_up = partial(self._client.give_up, path, upload)
            with suppress(FileNotFoundError):
                self._requests.run("removing an upload of", partial(self._requests.insist, "delete", give_up))
        return len(old)

    def writer_lock(self, timeout: float = 60.0, mark: bytes = locks.WRITING) -> AbstractContextManager[bytes]:
        """Exclude the other writers of this process, where no condition excludes all others."""
        if self._client.has_conditions and self.is_safe:
            return nullcontext(b"")
        return locks.thread_lock(self.describe(), timeout)

    def pin(self, generation: int) -> Pin:
        """Return an empty claim: readers are protected by a grace period."""
        return pins.NoPin()

    def is_pinned(self, below: int) -> bool | None:
        """Return None: nobody can tell."""
        return None

    def retire(self, key: str) -> None:
        """Leave the object where it is; it is removed after the grace period."""

    def keep_copy(self, key: str, copy: str) -> None:
        """Copy the object."""
        call = partial(self._client.copy, self._requests.place(key), self._requests.place(copy))
        self._requests.run(f"copying {key} of", partial(self._requests.insist, "put", call))

    def purge(self, key: str) -> None:
        """Remove an object."""
        self.delete(key)
