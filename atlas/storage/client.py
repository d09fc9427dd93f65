"""How one request is made of an object store: the contract, and the client that any fsspec file system gives."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, Protocol

import xxhash

from atlas.config import settings
from atlas.errors import CorruptStore, ReadOnlyStore, StorageError
from atlas.storage.base import ConditionFailed

# Parts of one object that are on their way at once.
_PARTS_AT_ONCE = 8


# What servers answer, besides 500 and above, that may be otherwise in a moment.
PASSING_STATUS = (408, 409, 429)


class Transient(Exception):
    """A request failed in a way that may not last: it is worth making again."""


class NotOffered(StorageError):
    """The service does not do this at all."""


class Found(NamedTuple):
    """An object in a listing; `modified` is when it was put, in seconds since 1970."""

    path: str
    size: int
    modified: float


class Answer(NamedTuple):
    """An object or a part of it, and what tells this version of it from others."""

    data: bytes
    version: str


class Client(Protocol):
    """One request each; a path is what the service calls the object.

    Absent objects raise :class:`FileNotFoundError`, what may pass :class:`Transient`, and the rest an
    :class:`~atlas.errors.AtlasError`.
    """

    # Requests for ranges, and uploads in parts, make sense.
    has_parts: bool
    # Whether a put can be made to depend on what is there; asking a server may show otherwise.
    has_conditions: bool
    # Objects that one request removes.
    most_deleted: int

    @property
    def loop(self) -> Any:
        """The event loop that the requests are made from."""

    @property
    def identity(self) -> str:
        """The service that this is a client of, without a secret."""

    async def begin_session(self) -> None:
        """Make what requests need that takes no request."""

    async def get(self, path: str, start: int | None = None, end: int | None = None) -> Answer:
        """Return an object, or bytes `start` to `end` of it; never other ones."""

    async def put(self, path: str, data: Any) -> str:
        """Put an object and return its version."""

    async def put_if(self, path: str, data: Any, version: str) -> str:
        """Put an object if it has that version, or, when that is empty, if it is not there."""

    async def delete(self, paths: Sequence[str]) -> None:
        """Remove objects, `most_deleted` at most; missing ones are fine."""

    async def find(self, prefix: str, after: str = "") -> tuple[list[Found], str]:
        """Return objects below a prefix, and what to ask for those after them with: nothing when that was all."""

    async def size(self, path: str) -> int:
        """Return the length of an object."""

    async def version(self, path: str) -> str:
        """Return the version of an object, nothing when it is not there."""

    async def copy(self, source: str, target: str) -> None:
        """Put a copy of an object."""


class UploadingClient(Client, Protocol):
    """What those offer besides that have parts."""

    async def begin(self, path: str) -> Any:
        """Begin an upload in parts, and return what the other calls want to know of it."""

    async def put_part(self, path: str, upload: Any, number: int, data: Any) -> str:
        """Put a part; numbers begin at 1."""

    async def complete(self, path: str, upload: Any, tags: Sequence[str]) -> None:
        """Make an object of the parts."""

    async def give_up(self, path: str, upload: Any) -> None:
        """Remove the parts of an upload."""

    async def unfinished(self, prefix: str) -> list[tuple[str, Any, float]]:
        """Return the uploads below a prefix that were not completed: path, upload, seconds since 1970."""


def parts_at_once(size: int) -> int:
    """Return how many parts of a size may be on their way at once."""
    return max(1, min(_PARTS_AT_ONCE, settings().flight_bytes // size))


def in_one_line(error: object, secrets: Sequence[str] = ()) -> str:
    """Return what an error says, without secrets."""
    text = " ".join(str(error).split()) or type(error).__name__
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def secrets_of(options: Any) -> list[str]:
    """Return the values of options that nobody must see."""
    found: list[str] = []
    for name, value in options.items() if isinstance(options, dict) else ():
        if isinstance(value, dict):
            found += secrets_of(value)
        elif isinstance(value, str) and len(value) > 3 and any(word in name.lower() for word in _SECRET):
            found.append(value)
    return found


_SECRET = ("secret", "token", "password", "key", "credential", "auth", "sas", "connection_string")


def passing_errors() -> tuple[type[BaseException], ...]:
    """Return the errors of HTTP clients that may not last; nothing comes from a module that is not loaded."""
    own = (
        ("botocore.exceptions", "HTTPClientError"),
        # A connection that was refused, reset, or not made in time.
        ("botocore.exceptions", "EndpointConnectionError"),
        ("botocore.exceptions", "ConnectTimeoutError"),
        ("botocore.exceptions", "IncompleteReadError"),
        ("botocore.exceptions", "FlexibleChecksumError"),
        ("botocore.parsers", "ResponseParserError"),
        ("aiohttp", "ClientConnectionError"),
        ("aiohttp", "ClientPayloadError"),
    )
    named = (getattr(sys.modules[module], name, None) for module, name in own if module in sys.modules)
    return (TimeoutError, ConnectionError, *(kind for kind in named if kind is not None))


def client_errors() -> tuple[type[BaseException], ...]:
    """Return the errors that clients of object stores raise, which are more than OSError."""
    own = (("botocore.exceptions", "BotoCoreError"), ("botocore.exceptions", "ClientError"), ("aiohttp", "ClientError"))
    return (OSError, *(getattr(sys.modules[module], name) for module, name in own if module in sys.modules))


# The calls that change something.
_CHANGES = ("pipe_file", "makedirs", "rm_file")


class FsspecClient:
    """Any fsspec file system, by the calls that all of them have.

    Versions are hashes of what is there: whether an object still has one is looked up before it is put. That is
    exact among the threads of a process, which hold the store's lock.
    """

    has_parts = False
    has_conditions = False
    most_deleted = 1

    def __init__(self, filesystem: Any, secrets: Sequence[str] = ()) -> None:
        self._filesystem = filesystem
        self._secrets = [*secrets, *secrets_of(filesystem.storage_options)]

    @property
    def loop(self) -> Any:
        """The loop of the file system, or the one that fsspec keeps."""
        from fsspec.asyn import get_loop

        return (self._filesystem.loop if self._filesystem.async_impl else None) or get_loop()

    @property
    def identity(self) -> str:
        """The protocol."""
        protocol = self._filesystem.protocol
        return protocol if isinstance(protocol, str) else str(protocol[0])

    async def begin_session(self) -> None:
        """Leave it to the first request."""

    async def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        with self._translated(name):
            if self._filesystem.async_impl:
                return await getattr(self._filesystem, f"_{name}")(*args, **kwargs)
            return await asyncio.to_thread(getattr(self._filesystem, name), *args, **kwargs)

    @contextmanager
    def _translated(self, name: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise type(error)(in_one_line(error, self._secrets)) from None
        except NotImplementedError as error:
            if name in _CHANGES:
                raise ReadOnlyStore(f"{self.identity} is read-only") from error
            raise NotOffered(f"{self.identity} has no {name}: {in_one_line(error, self._secrets)}") from error
        except PermissionError as error:
            raise ReadOnlyStore(in_one_line(error, self._secrets)) from error
        except passing_errors() as error:
            raise Transient(in_one_line(error, self._secrets)) from error
        except Exception as error:
            # Those of some services are no OSErrors, and say in various ways what the server answered.
            said = (getattr(error, name, None) for name in ("status", "status_code", "code"))
            status = next((number for number in said if isinstance(number, int)), 0)
            kind = Transient if status in PASSING_STATUS or status >= 500 else StorageError
            raise kind(in_one_line(error, self._secrets)) from error

    async def get(self, path: str, start: int | None = None, end: int | None = None) -> Answer:
        """Return an object or a part of it."""
        try:
            data = bytes(await self._call("cat_file", path, start=start, end=end))
        except (NotADirectoryError, IsADirectoryError):
            raise FileNotFoundError(path) from None
        if start is not None and end is not None and len(data) > end - start:
            # Plain web servers send the whole of what a part was asked of.
            data = data[start:end]
        if start is not None and end is not None and len(data) < end - start:
            said = in_one_line(path, self._secrets)
            raise CorruptStore(f"{said} is truncated: {end} bytes were expected")
        return Answer(data, xxhash.xxh3_128_hexdigest(data) if start is None else "")

    async def put(self, path: str, data: Any) -> str:
        """Put an object; where directories are real, they are made."""
        data = bytes(data)
        try:
            await self._call("pipe_file", path, data)
        except (FileNotFoundError, NotADirectoryError):
            await self._call("makedirs", path.rsplit("/", 1)[0], exist_ok=True)
            await self._call("pipe_file", path, data)
        return xxhash.xxh3_128_hexdigest(data)

    async def put_if(self, path: str, data: Any, version: str) -> str:
        """Look, then put."""
        if await self.version(path) != version:
            raise ConditionFailed(path)
        return await self.put(path, data)

    async def version(self, path: str) -> str:
        """Return a hash of what is there."""
        with suppress(FileNotFoundError):
            return (await self.get(path)).version
        return ""

    async def delete(self, paths: Sequence[str]) -> None:
        """Remove an object."""
        for path in paths:
            with suppress(FileNotFoundError):
                await self._call("rm_file", path)

    async def find(self, prefix: str, after: str = "") -> tuple[list[Found], str]:
        """Return all objects below a prefix."""
        self._filesystem.invalidate_cache()
        try:
            found = await self._call("find", prefix, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return [], ""
        return [Found(path, int(info.get("size") or 0), _modified(info)) for path, info in sorted(found.items())], ""

    async def size(self, path: str) -> int:
        """Return the length of an object."""
        self._filesystem.invalidate_cache()
        size = (await self._call("info", path)).get("size")
        if size is None:
            raise StorageError(f"{self.identity} does not say how long an object is")
        return int(size)

    async def copy(self, source: str, target: str) -> None:
        """Put a copy of an object."""
        await self.put(target, (await self.get(source)).data)


def _modified(info: dict[str, Any]) -> float:
    for name in ("LastModified", "last_modified", "mtime", "created"):
        value: Any = info.get(name)
        if hasattr(value, "timestamp"):
            return float(value.timestamp())
        if isinstance(value, (int, float)):
            return float(value)
    return 0.0


def concurrently(calls: Sequence[Callable[[], Awaitable[Any]]], at_once: int) -> Awaitable[list[Any]]:
    """Make calls, so many at once; the first error ends all of them."""

    async def run() -> list[Any]:
        gate = asyncio.Semaphore(at_once)

        async def one(call: Callable[[], Awaitable[Any]]) -> Any:
            async with gate:
                return await call()

        tasks = [asyncio.ensure_future(one(call)) for call in calls]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    return run()
