"""Puts on condition of what is there, and whether a server honours the condition: found out by trying it."""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import Sequence
from concurrent.futures import wait
from contextlib import suppress
from functools import partial

from atlas.errors import AtlasError
from atlas.storage.base import ConditionFailed
from atlas.storage.client import NotOffered, Transient, concurrently
from atlas.storage.names import new_probe_key
from atlas.storage.requests import Requests

# Whether servers honour conditions, by what they are and the bucket.
_honours: dict[tuple[str, str], bool] = {}

# How long it is tried to remove what tried a server, and how long the end of the process waits for that.
_REMOVAL_SECONDS, _LAST_SECONDS = 10, 2


class Conditions:
    """What the server of a store makes of conditions.

    Parameters
    ----------
    requests : Requests
    """

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._probes: list[str] = []

    @property
    def _server(self) -> tuple[str, str]:
        return self._requests.client.identity, self._requests.prefix.split("/")[0]

    @property
    def are_honoured(self) -> bool | None:
        """Whether they are; ``None`` until this process has tried the server."""
        return _honours.get(self._server)

    async def try_server(self) -> None:
        """Find out whether they are honoured."""
        place, nothing = self._probes = [self._requests.place(new_probe_key()) for _ in range(2)]
        put = partial(self._requests.insist, "put", partial(self._requests.client.put, place, b""))
        # There are servers that know one of the two conditions only. When one of the requests fails, the other must
        # not go on: what it puts late would stay.
        _, is_bound = await concurrently([put, partial(self._is_refused, nothing, '"no-such-version"')], 2)
        _honours[self._server] = is_bound and await self._is_refused(place, "")

    async def _is_refused(self, place: str, version: str) -> bool:
        try:
            await self.put(place, b"", version)
        except ConditionFailed:
            return True
        except NotOffered:
            pass
        return False

    async def put(self, place: str, data: bytes, version: str) -> str:
        """Put an object over that version, or none, and return its own; :class:`ConditionFailed` where that is not."""
        put_if = partial(self._requests.client.put_if, place, data, version)
        try:
            return await self._requests.insist("conditional_put", put_if, written=len(data))
        except FileNotFoundError:
            # So servers say that there is nothing that could have the version.
            raise ConditionFailed(place) from None

    def drop_probes(self) -> None:
        """Remove what tried the server, while the store has a root or is not going to have one.

        A server that keeps objects in directories takes those away that are empty then, also from under a root that
        is just being put there.
        """
        probes, self._probes = self._probes, []
        if probes:
            self._requests.counters.count("delete")
            # Nobody waits for it but the end of the process; were it not to happen, gc does it.
            removal = asyncio.run_coroutine_threadsafe(self._drop(probes), self._requests.client.loop)
            atexit.register(wait, [removal], _LAST_SECONDS)

    async def _drop(self, places: Sequence[str]) -> None:
        with suppress(AtlasError, FileNotFoundError, Transient, TimeoutError):
            await asyncio.wait_for(self._requests.client.delete(places), _REMOVAL_SECONDS)
