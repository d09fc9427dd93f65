"""Options, resolved once: what a store is made with and how this process reads."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache

from atlas.errors import InvalidArgument

CODECS = ("zstd", "lz4", "none")
META_FORMATS = ("json", "msgpack")
META_COMPRESSIONS = ("none", "zstd", "lz4")
S3_CLIENTS = ("s3fs", "obstore")
MISMATCH_POLICIES = ("warn", "error")

# Spellings that the older package accepted.
_ALIASES = {"uncompressed": "none", "mp": "msgpack", "raise": "error"}

MIB = 1 << 20
GIB = 1 << 30


def choice(value: str, allowed: tuple[str, ...], what: str) -> str:
    """Return the canonical spelling of `value`, or raise :class:`InvalidArgument`."""
    name = _ALIASES.get(value, value) if isinstance(value, str) and value not in allowed else value
    if name not in allowed:
        raise InvalidArgument(f"unknown {what}: {value!r}; use one of {', '.join(map(repr, allowed))}")
    return name


@dataclass(frozen=True)
class StoreConfig:
    """How a new store is laid out.

    Parameters
    ----------
    codec : {"zstd", "lz4", "none"}
        General-purpose codec of new chunks. ``"none"`` stores raw bytes.
    meta_format : {"json", "msgpack"}
        Encoding of the root object.
    meta_compression : {"none", "zstd", "lz4"}
        Compression of the root object.
    level : int
        zstd compression level, 1 to 19.
    packing : bool
        Whether chunks of numbers that are short decimals or integers are stored as packed
        differences, bit by bit the same when read, where that is smaller and faster than `codec`.
        Never with ``"none"``.

    Examples
    --------
    >>> import atlas
    >>> store = atlas.Atlas.create("fleet", config=atlas.StoreConfig(codec="lz4"))
    >>> store.info()["codec"]
    'lz4'
    """

    codec: str = "zstd"
    meta_format: str = "json"
    meta_compression: str = "none"
    level: int = 1
    packing: bool = True

    def __post_init__(self) -> None:
        for field, allowed, what in (
            ("codec", CODECS, "codec"),
            ("meta_format", META_FORMATS, "meta_format"),
            ("meta_compression", META_COMPRESSIONS, "meta_compression"),
        ):
            object.__setattr__(self, field, choice(getattr(self, field), allowed, what))
        if isinstance(self.level, bool) or not isinstance(self.level, int) or not 1 <= self.level <= 19:
            raise InvalidArgument(f"level must be an integer from 1 to 19, not {self.level!r}")
        if not isinstance(self.packing, bool):
            raise InvalidArgument(f"packing must be True or False, not {self.packing!r}")


@dataclass(frozen=True)
class Settings:
    """How this process reads and writes; every field has an environment variable.

    Parameters
    ----------
    workers : int
        ``ATLAS_WORKERS``. Tasks that run at once; the cores this process may use by default.
    arena_bytes : int
        ``ATLAS_ARENA_BYTES``. How much freed result memory is kept for reuse.
    parallel_threshold : int
        ``ATLAS_PARALLEL_THRESHOLD``. Reads that decode fewer bytes run in the calling thread.
    pool_threshold : int
        ``ATLAS_POOL_THRESHOLD``. Once this process has decoded so many bytes in chunks too small for threads to help
        each other (each counts for 16 KiB), worker processes start.
    decoded_bytes : int
        ``ATLAS_DECODED_BYTES``. How much of what was decompressed is kept, for reads that need no more than that.
    pending_bytes : int
        ``ATLAS_PENDING_BYTES``. How much of what waits for a flush is kept in memory.
    fetch_gap : int
        ``ATLAS_FETCH_GAP``. Ranges of an object that are no further apart are fetched by one request.
    fetch_bytes : int
        ``ATLAS_FETCH_BYTES``. The most that such a request asks for.
    fetch_requests : int
        ``ATLAS_FETCH_REQUESTS``. Requests to an object store that are made at the same time.
    flight_bytes : int
        ``ATLAS_FLIGHT_BYTES``. How much may be under way to or from an object store, or wait to be decoded or put.
    part_bytes : int
        ``ATLAS_PART_BYTES``. Objects of twice this size or more are put in parts of it, at least 5 MiB.
    request_seconds : int
        ``ATLAS_REQUEST_SECONDS``. How long a request to an object store is made again and again before it has failed.
    commit_seconds : int
        ``ATLAS_COMMIT_SECONDS``. How long a commit begins anew because other writers were faster.
    single_writer : int
        ``ATLAS_SINGLE_WRITER``. With 1, object stores are written to that cannot keep two writers apart.
    object_cache : str
        ``ATLAS_OBJECT_CACHE``. A directory that keeps what is fetched of data files; none by default.
    object_cache_bytes : int
        ``ATLAS_OBJECT_CACHE_BYTES``. About how much it may hold.
    s3_client : str
        ``ATLAS_S3_CLIENT``. What ``s3://`` URLs are opened with: ``"s3fs"``, or ``"obstore"``.

    Examples
    --------
    >>> settings().s3_client
    's3fs'
    """

    workers: int
    arena_bytes: int
    parallel_threshold: int
    pool_threshold: int
    decoded_bytes: int
    pending_bytes: int
    fetch_gap: int
    fetch_bytes: int
    fetch_requests: int
    flight_bytes: int
    part_bytes: int
    request_seconds: int
    commit_seconds: int
    single_writer: int
    object_cache: str
    object_cache_bytes: int
    s3_client: str


def _environment_int(name: str, default: int, minimum: int) -> int:
    text = os.environ.get(name)
    if text is None:
        return default
    try:
        value = int(text)
    except ValueError:
        raise InvalidArgument(f"{name} must be an integer, not {text!r}") from None
    if value < minimum:
        raise InvalidArgument(f"{name} must be at least {minimum}, not {value}")
    return value


def available_cores() -> int:
    """Cores that this process may use (not those of the machine)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@lru_cache(maxsize=1)
def settings() -> Settings:
    """Return the process-wide settings, read from the environment on first use."""
    return Settings(
        workers=_environment_int("ATLAS_WORKERS", available_cores(), 1),
        arena_bytes=_environment_int("ATLAS_ARENA_BYTES", 2 * GIB, 0),
        parallel_threshold=_environment_int("ATLAS_PARALLEL_THRESHOLD", 4 * MIB, 0),
        pool_threshold=_environment_int("ATLAS_POOL_THRESHOLD", 512 * MIB, 0),
        decoded_bytes=_environment_int("ATLAS_DECODED_BYTES", 256 * MIB, 0),
        pending_bytes=_environment_int("ATLAS_PENDING_BYTES", 512 * MIB, 0),
        fetch_gap=_environment_int("ATLAS_FETCH_GAP", MIB // 2, 0),
        fetch_bytes=_environment_int("ATLAS_FETCH_BYTES", 8 * MIB, 1),
        fetch_requests=_environment_int("ATLAS_FETCH_REQUESTS", 32, 1),
        flight_bytes=_environment_int("ATLAS_FLIGHT_BYTES", 256 * MIB, 1),
        part_bytes=_environment_int("ATLAS_PART_BYTES", 8 * MIB, 5 * MIB),
        request_seconds=_environment_int("ATLAS_REQUEST_SECONDS", 60, 1),
        commit_seconds=_environment_int("ATLAS_COMMIT_SECONDS", 300, 1),
        single_writer=_environment_int("ATLAS_SINGLE_WRITER", 0, 0),
        object_cache=os.environ.get("ATLAS_OBJECT_CACHE", ""),
        object_cache_bytes=_environment_int("ATLAS_OBJECT_CACHE_BYTES", 4 * GIB, 0),
        s3_client=choice(os.environ.get("ATLAS_S3_CLIENT", S3_CLIENTS[0]), S3_CLIENTS, "ATLAS_S3_CLIENT"),
    )


def pending_limit(value: int | None) -> int:
    """Return how many bytes of pending changes are kept in memory."""
    if value is None:
        return settings().pending_bytes
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidArgument(f"pending_bytes must be a number of bytes, not {value!r}")
    return value
