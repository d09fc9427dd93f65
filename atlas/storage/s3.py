"""S3 and what speaks its protocol, through s3fs: its credentials and connections, and the answers whole.

s3fs itself has no word for the version of what it read, drops conditions when it uploads in parts, and takes
a part for another when a server sends the wrong one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from atlas.config import settings
from atlas.errors import CorruptStore, InvalidArgument, ReadOnlyStore, StorageError
from atlas.storage.base import ConditionFailed
from atlas.storage.client import (
    PASSING_STATUS,
    Answer,
    Found,
    NotOffered,
    Transient,
    client_errors,
    in_one_line,
    passing_errors,
    secrets_of,
)

_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired")
_UNKNOWN = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "InvalidClientTokenId")
_PASSING = ("SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "ThrottlingException", "BadDigest")

# Of answers that do not say how long they are.
_ANY_LENGTH = 1 << 62


def with_defaults(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a file system with as many connections as are used, that leaves repeating to us."""
    defaults = {"max_pool_connections": settings().fetch_requests, "retries": {"total_max_attempts": 1}}
    return options | {"config_kwargs": defaults | options.get("config_kwargs", {})}


class S3Client:
    """Requests by way of an :class:`s3fs.S3FileSystem`."""

    has_parts = True
    has_conditions = True
    most_deleted = 1000

    def __init__(self, filesystem: Any) -> None:
        self._filesystem = filesystem
        self._secrets = secrets_of(filesystem.storage_options)

    @property
    def loop(self) -> Any:
        """The loop of the file system."""
        return self._filesystem.loop

    @property
    def identity(self) -> str:
        """The endpoint."""
        options = self._filesystem.client_kwargs or {}
        return f"s3 {self._filesystem.endpoint_url or options.get('endpoint_url') or ''}"

    async def begin_session(self) -> None:
        """Have the file system make its session."""
        try:
            await self._filesystem.set_session()
        except (*passing_errors(), *client_errors()) as error:
            raise self._translated(error, "", "") from error
        except (TypeError, ValueError) as error:
            # It is only now that the options are looked at.
            raise InvalidArgument(f"storage_options: {in_one_line(error, self._secrets)}") from error

    async def _call(self, method: str, path: str, **parameters: Any) -> Any:
        filesystem = self._filesystem
        bucket, key, _ = filesystem.split_path(path)
        try:
            call = getattr(await filesystem.get_s3(bucket), method)
            named = {"Bucket": bucket, **({"Key": key} if key else {})}
            # Not by the file system's own call, which would try again on top of those who do so already.
            return await call(**filesystem._get_s3_method_kwargs(call, **named, **parameters))
        except (*passing_errors(), *client_errors()) as error:
            raise self._translated(error, bucket, path) from error

    def _translated(self, error: BaseException, bucket: str, path: str) -> BaseException:
        response = getattr(error, "response", None)
        if not isinstance(response, dict):
            if isinstance(error, passing_errors()):
                return Transient(in_one_line(error, self._secrets))
            return StorageError(in_one_line(error, self._secrets))
        code = str(response.get("Error", {}).get("Code", ""))
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        said = in_one_line(error, self._secrets)
        if code == "NoSuchBucket":
            return StorageError(f"bucket {bucket!r} does not exist")
        if status == 404:
            return FileNotFoundError(path)
        if status == 412:
            return ConditionFailed(path)
        if status == 416:
            return CorruptStore(f"{path} is truncated")
        if status == 501:
            return NotOffered(said)
        if status >= 500 or status in PASSING_STATUS or code in _PASSING:
            return Transient(f"{said} ({code or status})")
        if code == "RequestTimeTooSkewed":
            return StorageError(f"the clocks here and of the server are too far apart ({code})")
        if code in _EXPIRED:
            return StorageError(f"the credentials have expired ({code}); get new ones")
        if code in _UNKNOWN:
            return StorageError(f"the credentials are not accepted ({code}): {said}")
        if status == 403:
            # Without leave to list the bucket, S3 says the same of objects that are not there.
            return ReadOnlyStore(f"access denied ({code or status}): the credentials do not allow it")
        return StorageError(f"{said} ({code or status})")

    async def get(self, path: str, start: int | None = None, end: int | None = None) -> Answer:
        """Return an object or a part of it, after looking at what the answer says it is."""
        part = {} if start is None or end is None else {"Range": f"bytes={start}-{end - 1}"}
        answer = await self._call("get_object", path, **part)
        try:
            data = await _body(answer["Body"], _length(answer))
        except passing_errors() as error:
            raise Transient(f"the answer broke off: {in_one_line(error, self._secrets)}") from error
        finally:
            answer["Body"].close()
        version = str(answer.get("ETag", ""))
        if start is None or end is None:
            return Answer(data, version)
        if "ContentRange" in answer:
            _check_range(answer["ContentRange"], path, start, end, len(data))
        elif answer["ResponseMetadata"]["HTTPStatusCode"] == 206:
            raise Transient("the answer does not say which bytes it is of")
        elif len(data) < end:
            raise CorruptStore(f"{path} is truncated: {end} bytes were expected")
        else:
            data = data[start:end]  # a server that knows no ranges
        return Answer(data, version)

    async def put(self, path: str, data: Any) -> str:
        """Put an object."""
        return str((await self._call("put_object", path, Body=data)).get("ETag", ""))

    async def put_if(self, path: str, data: Any, version: str) -> str:
        """Put an object by one request with a condition; a put in parts would have none."""
        condition = {"IfMatch": version} if version else {"IfNoneMatch": "*"}
        return str((await self._call("put_object", path, Body=data, **condition)).get("ETag", ""))

    async def delete(self, paths: Sequence[str]) -> None:
        """Remove objects by one request."""
        if len(paths) == 1:
            await self._call("delete_object", paths[0])
            return
        bucket = self._filesystem.split_path(paths[0])[0]
        keys = [{"Key": self._filesystem.split_path(path)[1]} for path in paths]
        answer = await self._call("delete_objects", bucket, Delete={"Objects": keys, "Quiet": True})
        if answer.get("Errors"):
            first = answer["Errors"][0]
            kind = Transient if first.get("Code") in _PASSING else StorageError
            raise kind(f"{first.get('Key')} was not removed: {first.get('Message') or first.get('Code')}")

    async def find(self, prefix: str, after: str = "") -> tuple[list[Found], str]:
        """Return a thousand objects below a prefix, and what to ask for the next ones with."""
        bucket, key, _ = self._filesystem.split_path(prefix)
        more = {"ContinuationToken": after} if after else {}
        page = await self._call("list_objects_v2", bucket, Prefix=f"{key}/" if key else "", **more)
        found = [
            Found(f"{bucket}/{entry['Key']}", entry["Size"], entry["LastModified"].timestamp())
            for entry in page.get("Contents", ())
        ]
        return found, page["NextContinuationToken"] if page.get("IsTruncated") else ""

    async def size(self, path: str) -> int:
        """Return the length of an object."""
        length = (await self._call("head_object", path)).get("ContentLength")
        if length is None:
            raise Transient("the answer does not say how long the object is")
        return int(length)

    async def version(self, path: str) -> str:
        """Return the entity tag of an object."""
        with suppress(FileNotFoundError):
            return str((await self._call("head_object", path)).get("ETag", ""))
        return ""

    async def copy(self, source: str, target: str) -> None:
        """Have the server copy an object."""
        await self._call("copy_object", target, CopySource=source)

    # ── uploads in parts ─────────────────────────────────────────────────────────────────────

    async def begin(self, path: str) -> str:
        """Begin an upload in parts."""
        return str((await self._call("create_multipart_upload", path))["UploadId"])

    async def put_part(self, path: str, upload: str, number: int, data: Any) -> str:
        """Put a part; numbers begin at 1."""
        answer = await self._call("upload_part", path, UploadId=upload, PartNumber=number, Body=data)
        return str(answer.get("ETag", ""))

    async def complete(self, path: str, upload: str, tags: Sequence[str]) -> None:
        """Make an object of the parts."""
        parts = [{"PartNumber": number + 1, "ETag": tag} for number, tag in enumerate(tags)]
        try:
            await self._call("complete_multipart_upload", path, UploadId=upload, MultipartUpload={"Parts": parts})
        except FileNotFoundError:
            # Asked again after a lost answer: the parts are gone, because they have become the object.
            if not await self.version(path):
                raise StorageError(f"the parts of {path} are gone") from None

    async def give_up(self, path: str, upload: str) -> None:
        """Remove the parts of an upload."""
        await self._call("abort_multipart_upload", path, UploadId=upload)

    async def unfinished(self, prefix: str) -> list[tuple[str, str, float]]:
        """Return the uploads in parts below a prefix that were not completed: path, id, seconds since 1970."""
        bucket, key, _ = self._filesystem.split_path(prefix)
        found: list[tuple[str, str, float]] = []
        more: dict[str, Any] = {}
        while True:
            try:
                page = await self._call("list_multipart_uploads", bucket, Prefix=f"{key}/" if key else "", **more)
            except (FileNotFoundError, NotOffered):
                return found  # what servers say that have none, or do not list them
            found += [
                (f"{bucket}/{entry['Key']}", entry["UploadId"], entry["Initiated"].timestamp())
                for entry in page.get("Uploads", ())
            ]
            if not page.get("IsTruncated"):
                return found
            more = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}


def _length(answer: dict[str, Any]) -> int | None:
    """Return how long the body of an answer is to be; ``None`` where it comes in chunks and does not say."""
    if "ContentLength" in answer:
        return int(answer["ContentLength"])
    part = re.match(r"bytes (\d+)-(\d+)/", answer.get("ContentRange", ""))
    return int(part[2]) + 1 - int(part[1]) if part else None


async def _body(body: Any, length: int | None) -> bytes:
    # In pieces: when all is asked for at once, the client checks a part against the checksum of the whole object,
    # which some servers send along.
    pieces, left = [], _ANY_LENGTH if length is None else length
    while left and (piece := await body.read(left)):
        pieces.append(piece)
        left -= len(piece)
    if left and length is not None:
        raise Transient(f"the answer broke off {left} bytes before its end")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _check_range(said: str, path: str, start: int, end: int, length: int) -> None:
    """Refuse an answer that is of other bytes than were asked for."""
    span, _, total = said.removeprefix("bytes ").partition("/")
    first, _, last = span.partition("-")
    if total.isdigit() and int(total) < end:
        raise CorruptStore(f"{path} is truncated: {end} bytes were expected, and it has {total}")
    if (first, last, length) != (str(start), str(end - 1), end - start):
        raise Transient(f"bytes {start} to {end - 1} were asked for, and {said} came")
