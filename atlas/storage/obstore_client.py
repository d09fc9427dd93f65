"""Object stores through obstore: S3, Google Cloud and Azure by a client in Rust, where s3fs is not quick enough.

It opens connections in milliseconds, where botocore takes half a second to begin, and a request costs it next to no
time of the interpreter. It is not required: a store handle of it is opened like a file system, or ``s3://`` URLs are
with ``storage_options={"client": "obstore", …}``.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from atlas.config import settings
from atlas.errors import CorruptStore, InvalidArgument, MissingDependency, ReadOnlyStore, StorageError
from atlas.storage.base import ConditionFailed
from atlas.storage.client import Answer, Found, Transient, in_one_line, parts_at_once, secrets_of

_CONDITIONAL = ("S3Store", "GCSStore", "AzureStore")

# What s3fs calls the settings of the client.
_NAMES = {
    "key": "access_key_id",
    "secret": "secret_access_key",
    "token": "session_token",
    "endpoint_url": "endpoint",
    "anon": "skip_signature",
    "region_name": "region",
}


# The process that has used it, once there is one.
_user = 0

# How long its threads have for letting go of the last answers as a process ends: one that wants the interpreter when
# that is gone aborts the process.
_LAST_SECONDS = 0.05


def _begin_use() -> None:
    """Refuse to use it in a child of a process that has: its threads are not there, and every request would hang."""
    global _user
    if _user not in (0, os.getpid()):
        raise StorageError(
            "the client 'obstore' was in use before this process was forked, and is of no use in it: "
            "spawn processes, or use s3fs"
        )
    if not _user:
        atexit.register(time.sleep, _LAST_SECONDS)
    _user = os.getpid()


def s3_store(path: str, options: dict[str, Any]) -> tuple[Any, str]:
    """Return obstore's handle of a bucket and the path within it, from what s3fs would be told.

    Raises
    ------
    InvalidArgument
        If it is told something that is only known there.
    """
    try:
        from obstore.store import S3Store
    except ImportError:
        raise MissingDependency("the client 'obstore' is not installed: pip install obstore") from None
    bucket, _, prefix = path.partition("/")
    given = {**options, **options.get("client_kwargs", {})}
    given.pop("client_kwargs", None)
    strange = given.keys() - _NAMES.keys()
    if strange:
        raise InvalidArgument(f"the client 'obstore' does not know the option {min(strange)!r} of s3fs")
    config = {_NAMES[name]: value for name, value in given.items() if value is not None}
    # What is not given it looks for in the environment. Repeating is left to us.
    store = S3Store(bucket, client_options={"allow_http": True}, retry_config={"max_retries": 0}, **config)
    return store, prefix


def _patient(store: Any) -> Any:
    """Return the handle with which uploads in parts are made, whose requests we cannot repeat."""
    if (getattr(store, "retry_config", None) or {}).get("max_retries") != 0:
        return store
    options = {name: getattr(store, name) for name in ("prefix", "config", "client_options", "credential_provider")}
    return type(store)(**options, retry_config={"retry_timeout": timedelta(seconds=settings().request_seconds)})


class _Upload:
    """An object on its way in parts, of which the client asks for one after the other."""

    def __init__(self, store: Any, path: str) -> None:
        self._next = 1
        self._turn = asyncio.Condition()
        self._parts: asyncio.Queue[Any] = asyncio.Queue(1)
        size = settings().part_bytes
        sizes = {"chunk_size": size, "max_concurrency": parts_at_once(size)}
        self._task = asyncio.ensure_future(store.put_async(path, self._given(), use_multipart=True, **sizes))

    async def _given(self) -> AsyncIterator[Any]:
        while (part := await self._parts.get()) is not None:
            yield part

    async def give(self, number: int, part: Any) -> None:
        """Hand a part over when it is its turn, ``None`` behind the last one; one that was handed over stays so."""
        async with self._turn:
            await self._turn.wait_for(lambda: self._next >= number)
            if self._next == number:
                await self._hand_over(part)

    async def _hand_over(self, part: Any) -> None:
        taken = asyncio.ensure_future(self._parts.put(part))
        try:
            await asyncio.wait([taken, self._task], return_when=asyncio.FIRST_COMPLETED)
            if not taken.done():
                await self.end()
        finally:
            # Who gives it may be cancelled just after it was taken, and comes with it again.
            if not taken.cancel():
                self._next += 1
                self._turn.notify_all()

    async def end(self) -> None:
        """Wait until the object is there."""
        await asyncio.shield(self._task)

    async def stop(self) -> None:
        """End it early; the client cannot be told to drop the parts, so what they make is there then."""
        try:
            await self.give(self._next, None)
            await self.end()
        finally:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


class ObstoreClient:
    """Requests by way of an obstore store handle."""

    has_parts = True
    most_deleted = 1000
    protocol = "obstore"

    def __init__(self, store: Any) -> None:
        _begin_use()
        self._store = store
        self._secrets = secrets_of(dict(store.config)) if hasattr(store, "config") else []
        self.has_conditions = type(store).__name__ in _CONDITIONAL
        if type(store).__name__ == "S3Store":
            self.protocol = "s3"

    @property
    def root(self) -> str:
        """The bucket and the prefix that the handle itself is of."""
        config = getattr(self._store, "config", {})
        bucket = config.get("bucket") or config.get("container_name") or ""
        return "/".join(part for part in (bucket, str(getattr(self._store, "prefix", None) or "")) if part)

    @property
    def loop(self) -> Any:
        """The loop that fsspec keeps."""
        from fsspec.asyn import get_loop

        return get_loop()

    @property
    def identity(self) -> str:
        """The kind of store, and the endpoint and the bucket."""
        config = getattr(self._store, "config", {})
        return f"{type(self._store).__name__} {config.get('endpoint', '')} {self.root}"

    async def begin_session(self) -> None:
        """Do nothing: the handle is one."""

    @contextmanager
    def _translated(self, path: str, has_condition: bool = False) -> Iterator[None]:
        from obstore import exceptions

        try:
            yield
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise StorageError(f"the bucket of {self.root!r} does not exist") from None
            raise FileNotFoundError(path) from None
        except (exceptions.PreconditionError, exceptions.AlreadyExistsError) as error:
            if has_condition:
                raise ConditionFailed(path) from None
            # What it calls 409, whatever was asked: two requests have met.
            raise Transient(in_one_line(error, self._secrets)) from None
        except ValueError as error:
            # Such as a path with "//", which it does not take.
            raise InvalidArgument(in_one_line(error, self._secrets)) from None
        except (exceptions.BaseError, PermissionError, OSError) as error:
            raise self._meaning(error) from None

    def _meaning(self, error: BaseException) -> BaseException:
        text = str(error)
        # It says what went wrong, and then how: the whole of the answer, and of its own insides.
        said = in_one_line(Exception(text.split("\n\nDebug source")[0]), self._secrets)
        for code, meaning in _MEANINGS.items():
            if code in text:
                return StorageError(f"{meaning} ({code})")
        if isinstance(error, PermissionError) or "403 Forbidden" in text or "Unauthenticated" in type(error).__name__:
            return ReadOnlyStore(f"access denied: {said}")
        if "416 " in text or "Range Not Satisfiable" in text:
            return CorruptStore(f"an object is truncated: {said}")
        if any(status in text for status in ("400 Bad Request", "405 Method", "404 Not Found", "non-partial")):
            return StorageError(said)
        return Transient(said)

    async def get(self, path: str, start: int | None = None, end: int | None = None) -> Answer:
        """Return an object or a part of it, after looking at what the answer says it is."""
        with self._translated(path):
            options = None if start is None or end is None else {"range": (start, end)}
            answer = await self._store.get_async(path, options=options)
            data = bytes(await answer.bytes_async())
        version = str(answer.meta.get("e_tag") or "")
        if start is None or end is None:
            if len(data) != answer.meta["size"]:
                raise Transient(f"{len(data)} bytes of {answer.meta['size']} came")
            return Answer(data, version)
        if answer.meta["size"] < end:
            raise CorruptStore(f"{path} is truncated: {end} bytes were expected, and it has {answer.meta['size']}")
        if tuple(answer.range) != (start, end) or len(data) != end - start:
            raise Transient(f"bytes {start} to {end - 1} were asked for, and {tuple(answer.range)} came")
        return Answer(data, version)

    async def put(self, path: str, data: Any) -> str:
        """Put an object by one request."""
        with self._translated(path):
            return str((await self._store.put_async(path, bytes(data), use_multipart=False)).get("e_tag") or "")

    async def put_if(self, path: str, data: Any, version: str) -> str:
        """Put an object by one request with a condition."""
        mode = {"e_tag": version} if version else "create"
        with self._translated(path, has_condition=True):
            answer = await self._store.put_async(path, bytes(data), mode=mode, use_multipart=False)
        return str(answer.get("e_tag") or "")

    async def delete(self, paths: Sequence[str]) -> None:
        """Remove objects."""
        with suppress(FileNotFoundError), self._translated(paths[0]):
            await self._store.delete_async(list(paths))

    async def find(self, prefix: str, after: str = "") -> tuple[list[Found], str]:
        """Return a thousand objects below a prefix, and the last of them."""
        with self._translated(prefix):
            async for page in self._store.list(prefix or None, offset=after or None, chunk_size=1000):
                found = [Found(str(e["path"]), int(e["size"]), e["last_modified"].timestamp()) for e in page]
                return found, found[-1].path if len(found) == 1000 else ""
        return [], ""

    async def size(self, path: str) -> int:
        """Return the length of an object."""
        with self._translated(path):
            return int((await self._store.head_async(path))["size"])

    async def version(self, path: str) -> str:
        """Return the entity tag of an object."""
        with suppress(FileNotFoundError), self._translated(path):
            return str((await self._store.head_async(path)).get("e_tag") or "")
        return ""

    async def copy(self, source: str, target: str) -> None:
        """Have the server copy an object."""
        with self._translated(source):
            await self._store.copy_async(source, target)

    # ── uploads in parts ─────────────────────────────────────────────────────────────────────

    async def begin(self, path: str) -> _Upload:
        """Begin an upload in parts."""
        return _Upload(_patient(self._store), path)

    async def put_part(self, path: str, upload: _Upload, number: int, data: Any) -> str:
        """Hand a part over."""
        with self._translated_for_good(path):
            await upload.give(number, data)
        return str(number)

    async def complete(self, path: str, upload: _Upload, tags: Sequence[str]) -> None:
        """Wait for the object that the parts make."""
        with self._translated_for_good(path):
            await upload.give(len(tags) + 1, None)
            await upload.end()

    @contextmanager
    def _translated_for_good(self, path: str) -> Iterator[None]:
        try:
            with self._translated(path):
                yield
        except Transient as error:
            # The client has repeated it, and of the whole upload not all is at hand any more.
            raise StorageError(str(error)) from None

    async def give_up(self, path: str, upload: _Upload) -> None:
        """Remove what the upload makes."""
        with self._translated_for_good(path):
            await upload.stop()
        await self.delete([path])

    async def unfinished(self, prefix: str) -> list[tuple[str, Any, float]]:
        """Return nothing: it does not list uploads."""
        return []


_MEANINGS = {
    "NoSuchBucket": "the bucket does not exist",
    "ExpiredToken": "the credentials have expired; get new ones",
    "InvalidAccessKeyId": "the credentials are not accepted",
    "SignatureDoesNotMatch": "the credentials are not accepted",
    "RequestTimeTooSkewed": "the clocks here and of the server are too far apart",
}
