"""New objects on their way: small ones wait and are put whole, large ones leave in parts while they are written."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from atlas.config import settings
from atlas.errors import AtlasError
from atlas.storage.client import parts_at_once

if TYPE_CHECKING:
    from atlas.storage.remote import RemoteStorage
    from atlas.storage.requests import Requests

# Parts get larger as an object grows, since there may be 10,000 at most.
_PARTS_OF_ONE_SIZE = 1000


class RemoteWriter:
    """Gathers one new object; implements :class:`~atlas.storage.base.DataWriter`."""

    def __init__(self, storage: RemoteStorage, requests: Requests, path: str, is_large: bool = False) -> None:
        self._storage = storage
        self._requests = requests
        self._path = path
        self._part_bytes = settings().part_bytes
        # What is little more than a part is put whole, by one request instead of four.
        self._kept_parts = 1 if is_large else 2
        self._waiting: deque[memoryview] = deque()
        self._left = 0
        self._position = 0
        self._upload: Future[Any] | None = None
        self._sent: list[Future[str]] = []
        self._is_put = False
        if is_large:
            self._upload = self._start(self._begin())

    @property
    def position(self) -> int:
        """Bytes written so far."""
        return self._position

    @property
    def held(self) -> int:
        """Bytes that are in memory, about."""
        return self._left + sum(not part.done() for part in self._sent) * self._size

    @property
    def has_failed(self) -> bool:
        """Whether a part that was sent did not arrive."""
        requests = [part for part in (self._upload, *self._sent) if part is not None and part.done()]
        return any(part.cancelled() or part.exception() is not None for part in requests)

    def write(self, data: Any) -> None:
        """Append bytes; what makes a part of a large object leaves."""
        view = memoryview(data)
        # What may be changed later on is copied.
        self._waiting.append(view if view.readonly else memoryview(bytes(view)))
        self._left += len(data)
        self._position += len(data)
        while self._left > self._size * self._kept_parts and self._requests.client.has_parts:
            self._kept_parts = 1
            self._send(self._taken(self._size))

    def _taken(self, size: int) -> bytes:
        """Return the first bytes that wait, which do so no longer."""
        pieces, wanted = [], size
        while wanted:
            piece = self._waiting.popleft()
            if len(piece) > wanted:
                self._waiting.appendleft(piece[wanted:])
                piece = piece[:wanted]
            pieces.append(piece)
            wanted -= len(piece)
        self._left -= size
        return b"".join(pieces)

    @property
    def _size(self) -> int:
        return self._part_bytes * (1 + len(self._sent) // _PARTS_OF_ONE_SIZE)

    def _send(self, part: bytes) -> None:
        if self._upload is None:
            self._upload = self._start(self._begin())
        at_once = parts_at_once(self._size)
        if len(self._sent) >= at_once:
            self._sent[-at_once].result()
        self._sent.append(self._start(self._put_part(part, len(self._sent) + 1)))

    def _start(self, request: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(request, self._requests.client.loop)

    async def _begin(self) -> Any:
        requests = self._requests
        insist = partial(requests.insist, "multipart", partial(requests.client.begin, self._path))
        return await requests.explained("writing to", insist)

    async def _put_part(self, part: bytes, number: int) -> str:
        put = partial(self._requests.client.put_part, self._path, await self._begun(), number, part)
        insist = partial(self._requests.insist, "part", put, written=len(part))
        return await self._requests.explained("writing to", insist)

    async def _begun(self) -> Any:
        assert self._upload is not None
        # Who waits for it may be cancelled; the upload is begun all the same, and has to be taken back.
        return await asyncio.shield(asyncio.wrap_future(self._upload))

    async def complete(self) -> None:
        """Put the object, or the last part of it."""
        requests, client = self._requests, self._requests.client
        # From here on it may be there, whatever the answer.
        self._is_put = True
        if self._upload is None:
            data = self._taken(self._left)
            await requests.insist("put", partial(client.put, self._path, data), written=len(data))
            return
        self._sent.append(self._start(self._put_part(self._taken(self._left), len(self._sent) + 1)))
        tags = await asyncio.gather(*map(asyncio.wrap_future, self._sent))
        await requests.insist("multipart", partial(client.complete, self._path, await self._begun(), tags))
        self._upload = None

    def finish(self) -> None:
        """Put the object."""
        self._storage.finish_all([self])

    def abort(self) -> None:
        """Take back what was put."""
        self._storage.abort_all([self])

    def taking_back(self) -> Callable[[], Awaitable[None]] | None:
        """Return what takes back what was put; ``None`` where nothing was."""
        for part in self._sent:
            part.cancel()
        self._waiting.clear()
        self._left = 0
        return self._take_back if self._upload is not None or self._is_put else None

    async def _take_back(self) -> None:
        requests, client = self._requests, self._requests.client
        # What cannot be taken back now is garbage that nothing refers to.
        if self._upload is not None:
            with suppress(AtlasError, FileNotFoundError):
                await requests.insist("delete", partial(client.give_up, self._path, await self._begun()))
        if self._is_put:
            with suppress(AtlasError, FileNotFoundError):
                await requests.insist("delete", partial(client.delete, [self._path]))
