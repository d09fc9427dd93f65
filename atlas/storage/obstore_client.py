"""Object stores through obstore: S3, Google Cloud and Azure by a client in Rust, where s3fs is not quick enough.

It opens connections in milliseconds, where botocore takes half a second to begin, and a request costs it next to no
time of the interpreter. It is not required: a store handle of it is opened like a file system, or ``s3://`` URLs are
with ``storage_options={"client": "obstore", …}``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from atlas.errors import CorruptStore, InvalidArgument, MissingDependency, ReadOnlyStore, StorageError
from atlas.storage.base import ConditionFailed
from atlas.storage.client import Answer, Found, Transient, in_one_line, secrets_of

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
    config.setdefault("region", os.environ.get("AWS_DEFAULT_REGION", "us-east-1"))
    config.setdefault("endpoint", os.environ.get("AWS_ENDPOINT_URL"))
    config = {name: value for name, value in config.items() if value is not None}
    # Repeating is left to us.
    store = S3Store(bucket, client_options={"allow_http": True}, retry_config={"max_retries": 0}, **config)
    return store, prefix


class ObstoreClient:
    """Requests by way of an obstore store handle."""

    has_parts = False
    protocol = "obstore"

    def __init__(self, store: Any) -> None:
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
    def _translated(self, path: str) -> Iterator[None]:
        from obstore import exceptions

        try:
            yield
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise StorageError(f"the bucket of {self.root!r} does not exist") from None
            raise FileNotFoundError(path) from None
        except (exceptions.PreconditionError, exceptions.AlreadyExistsError):
            raise ConditionFailed(path) from None
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
        """Put an object; large ones leave in parts."""
        with self._translated(path):
            return str((await self._store.put_async(path, bytes(data))).get("e_tag") or "")

    async def put_if(self, path: str, data: Any, version: str) -> str:
        """Put an object by one request with a condition."""
        mode = {"e_tag": version} if version else "create"
        with self._translated(path):
            answer = await self._store.put_async(path, bytes(data), mode=mode, use_multipart=False)
        return str(answer.get("e_tag") or "")

    async def delete(self, paths: Sequence[str]) -> None:
        """Remove objects."""
        with suppress(FileNotFoundError), self._translated(paths[0]):
            await self._store.delete_async(list(paths))

    async def find(self, prefix: str) -> list[Found]:
        """Return all objects below a prefix."""
        found: list[Found] = []
        with self._translated(prefix):
            async for page in self._store.list(prefix or None, chunk_size=1000):
                found += [Found(str(e["path"]), int(e["size"]), e["last_modified"].timestamp()) for e in page]
        return found

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


_MEANINGS = {
    "NoSuchBucket": "the bucket does not exist",
    "ExpiredToken": "the credentials have expired; get new ones",
    "InvalidAccessKeyId": "the credentials are not accepted",
    "SignatureDoesNotMatch": "the credentials are not accepted",
}
