"""Requests to one service: made again while they may yet succeed, counted, and their errors say where."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit, urlunsplit

from atlas.config import MIB, settings
from atlas.errors import CorruptStore, ReadOnlyStore, StorageError
from atlas.storage.base import check_key
from atlas.storage.client import Client, FsspecClient, Transient, UploadingClient
from atlas.storage.s3 import S3Client
from atlas.storage.stats import Counters

_Result = TypeVar("_Result")

# A request may take so long, and a second more for every MiB that is under way, before it is made anew.
_ANSWER_SECONDS = 15.0
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 5.0


class Requests:
    """What one store asks of its service.

    Parameters
    ----------
    filesystem : fsspec.AbstractFileSystem or obstore store
    prefix : str
        The store's place in it.

    Attributes
    ----------
    filesystem : fsspec.AbstractFileSystem or obstore store
        The one in use, in this process.
    prefix, protocol : str
    counters : Counters
        What was asked so far.
    """

    def __init__(self, filesystem: Any, prefix: str) -> None:
        self.prefix = prefix.rstrip("/")
        self.counters = Counters()
        self._use(filesystem)

    def _use(self, filesystem: Any) -> None:
        self.filesystem = filesystem
        self._owner = os.getpid()
        self._bytes_under_way = 0
        if type(filesystem).__module__.startswith("obstore."):
            # Here, since it is not required.
            from atlas.storage.obstore_client import ObstoreClient

            client = ObstoreClient(filesystem)
            self._known_client: Client = client
            self.protocol, self._top = client.protocol, f"{client.root}/"
            return
        names = (filesystem.protocol,) if isinstance(filesystem.protocol, str) else filesystem.protocol
        self.protocol, self._top = names[0], ""
        self._known_client = S3Client(filesystem) if "s3" in names else FsspecClient(filesystem, self._url_secrets())

    @property
    def client(self) -> UploadingClient:
        """What makes the requests, in this process."""
        # Connections and the loop that they belong to are of the process that made them.
        if self._owner != os.getpid():
            old = self.filesystem
            self._use(old if self._top else type(old)(*old.storage_args, **old.storage_options))
        # What only those have that have parts is asked of those only.
        return cast(UploadingClient, self._known_client)

    def _url_secrets(self) -> list[str]:
        """Return what of an address on the web nobody must see."""
        url = urlsplit(self.prefix)
        return [part for part in (url.netloc.rpartition("@")[0], url.query) if part and self.on_the_web]

    @property
    def on_the_web(self) -> bool:
        """Whether the store is at an address on the web, which can only be read."""
        return self.protocol in ("http", "https")

    def describe(self) -> str:
        """Return the protocol and the prefix."""
        if self.on_the_web:
            url = urlsplit(self.prefix)
            return urlunsplit((url.scheme, url.netloc.rpartition("@")[2], url.path, "", ""))
        return f"{self.protocol}://{self._top}{self.prefix.lstrip('/')}"

    def place(self, key: str) -> str:
        """Return where an object of the store is."""
        return f"{self.prefix}/{check_key(key)}" if self.prefix else check_key(key)

    def run(self, doing: str, call: Callable[[], Awaitable[_Result]]) -> _Result:
        """Make a call on the loop of the client, and wait for it."""
        from fsspec.asyn import sync

        async def ended() -> _Result:
            try:
                return await self.explained(doing, call)
            except asyncio.CancelledError:
                # Nobody here cancels all of it, and whoever waits would take it for done.
                raise StorageError(f"{doing} {self.describe()}: it was cancelled") from None

        result: _Result = sync(self.client.loop, ended)
        return result

    async def explained(self, doing: str, call: Callable[[], Awaitable[_Result]]) -> _Result:
        """Make a call, and say of its errors where they happened."""
        try:
            return await call()
        except (StorageError, ReadOnlyStore, CorruptStore) as error:
            raise type(error)(f"{doing} {self.describe()}: {error}") from error

    async def insist(
        self, kind: str, call: Callable[[], Awaitable[_Result]], asked: int = 0, used: int = 0, written: int = 0
    ) -> _Result:
        """Make a request, again and again while it may yet succeed and there is time."""
        self._bytes_under_way += asked + written
        try:
            # So that those which are made together know of each other.
            await asyncio.sleep(0)
            result = await self._answer(kind, call, asked, written)
        finally:
            self._bytes_under_way -= asked + written
        self.counters.count("", used=used)
        return result

    async def _answer(self, kind: str, call: Callable[[], Awaitable[_Result]], asked: int, written: int) -> _Result:
        clock = time.monotonic
        deadline, pause, failure, late, has_begun = clock() + settings().request_seconds, _FIRST_PAUSE, "", 0, False
        while True:
            # They share the line.
            transfer = self._bytes_under_way / MIB
            try:
                if not has_begun:
                    # It takes botocore a second of work, on a busy machine many: no answer is late before the question.
                    await self.client.begin_session()
                    deadline, has_begun = clock() + settings().request_seconds, True
                self.counters.count(kind, asked, 0, written)
                patience = min((_ANSWER_SECONDS + transfer) * 2**late, deadline + transfer - clock())
                return await asyncio.wait_for(call(), max(patience, 0.1))
            except Transient as error:
                failure = str(error)
            except TimeoutError:
                failure = failure or "no answer"
                late += 1
            if clock() + pause > deadline:
                raise StorageError(
                    f"{failure}; given up after {settings().request_seconds:g} s (ATLAS_REQUEST_SECONDS)"
                ) from None
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, _LONGEST_PAUSE)
