"""What a task does: fetch chunks, check them, decompress them, and scatter them into the output.

Runs alike in the calling thread, in threads and in worker processes; it knows byte tables, not stores.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas import kernels
from atlas.arena import SegmentHandle, attach
from atlas.codecs import BY_KERNELS, PACKED, RAW, decode, element_of, is_shuffled, plain
from atlas.columns import group_members
from atlas.config import settings
from atlas.decoded import decoded_chunks, worth_keeping
from atlas.errors import CorruptChunk, SnapshotExpired
from atlas.forks import free_in_children
from atlas.kernels import digests
from atlas.kernels.layout import Stored
from atlas.kernels.sealed import is_whole
from atlas.storage.files import put_aside, translated

Bytes = NDArray[np.uint8]

# Decoded bytes handed to one kernel call: they stay in the second-level cache in between.
BATCH_BYTES = 512 << 10


@dataclass(frozen=True)
class Source:
    """A data file as a task finds it: a path that any process can map, or bytes already fetched.

    Attributes
    ----------
    key : str
        The file's place in the store, for messages.
    path : str or None
        Where to map it; ``None`` when `data` is given.
    length : int
        Committed bytes.
    """

    key: str
    path: str | None
    length: int
    data: Bytes | None = field(default=None, repr=False)

    def bytes(self) -> Bytes:
        """Return the file's bytes without reading them."""
        if self.data is not None:
            return self.data
        assert self.path is not None
        return _maps.get(self.path, self.length)

    def let_go(self, begin: int, end: int) -> None:
        """Take pages of the file off this process's account of memory; the system's cache keeps them."""
        if self.path is not None:
            _maps.let_go(self.path, self.length, begin, end)


class _MapCache:
    """Mapped files of this process, least recently used out."""

    def __init__(self, capacity: int = 128) -> None:
        self._capacity = capacity
        self._maps: OrderedDict[tuple[str, int], tuple[Any, Bytes]] = OrderedDict()
        self._lock = free_in_children(threading.Lock())

    def get(self, path: str, length: int) -> Bytes:
        key = (path, length)
        with self._lock:
            identity = _identity(path, length)
            known, found = self._maps.get(key, (None, None))
            # A file that was removed since is still whole behind its map.
            if found is None or identity not in (known, None):
                with translated(path, "reading"):
                    found = _map_file(path, length)
                self._maps[key] = identity, found
                if len(self._maps) > self._capacity:
                    self._maps.popitem(last=False)
            self._maps.move_to_end(key)
            return found

    def let_go(self, path: str, length: int, begin: int, end: int) -> None:
        with self._lock:
            _, found = self._maps.get((path, length), (None, None))
        if found is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapped: Any = memoryview(found.base).obj  # type: ignore[arg-type]
            first = begin - begin % mmap.PAGESIZE
            mapped.madvise(mmap.MADV_DONTNEED, first, end - first)


def _identity(path: str, length: int) -> tuple[int, int, int] | None:
    # Looked at for every read: a map of a file that was cut short since would kill the process with SIGBUS.
    try:
        with translated(path, "reading"):
            status = _stat(path)
    except FileNotFoundError:
        return None
    if status.st_size < length:
        raise CorruptChunk(f"data file {path} is truncated: {length} bytes were committed")
    return status.st_dev, status.st_ino, status.st_mtime_ns


def _stat(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except FileNotFoundError:
        # As when it is opened: it may have been put aside since.
        return os.stat(put_aside(path))


def _map_file(path: str, length: int) -> Bytes:
    descriptor = _open(path)
    try:
        if os.fstat(descriptor).st_size < length:
            raise CorruptChunk(f"data file {path} is truncated: {length} bytes were committed")
        return np.frombuffer(mmap.mmap(descriptor, length, access=mmap.ACCESS_READ), np.uint8)
    finally:
        os.close(descriptor)


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        # Another process may have compacted the store since the path was looked up.
        with suppress(FileNotFoundError):
            return os.open(put_aside(path), os.O_RDONLY)
    raise SnapshotExpired(f"data file {path} is gone; call refresh() to see the store as it is now")


_maps = _MapCache()


class Kept:
    """What is known of a read's chunks from reads before.

    Attributes
    ----------
    found : dict of int to bytes
        Decompressed chunks by row.
    rows : array of int
        Which chunks are kept, found or not.
    """

    def __init__(self) -> None:
        self.found: dict[int, Any] = {}
        self.rows = np.zeros(0, np.int64)
        self._keys: dict[int, tuple[Any, ...]] = {}

    @staticmethod
    def of(sources: Sequence[Source], tables: dict[str, NDArray[Any]]) -> Kept:
        """Look up the chunks that are worth it."""
        kept = Kept()
        rows = kept.rows = np.flatnonzero(worth_keeping(tables["pipeline"], tables["raw_length"]))
        names = ("file", "offset", "length", "raw_length", "pipeline", "checksum")
        columns = [tables[name][rows].tolist() for name in names]
        # Only of files that such chunks are in: one that is cut short is no trouble to others.
        needed = {file: sources[file] for file in set(columns[0])}
        identities = {file: _identity(source.path, source.length) for file, source in needed.items() if source.path}
        for row, file, *rest in zip(rows.tolist(), *columns, strict=True):
            if identities.get(file) is not None:
                # The checksum that a chunk was verified by is part of what it is found by.
                key = kept._keys[row] = (identities[file], *rest)
                chunk = decoded_chunks.get(key)
                if chunk is not None:
                    kept.found[row] = chunk
        return kept

    def put(self, row: int, chunk: Any) -> None:
        """Keep a chunk for reads to come."""
        if row in self._keys:
            decoded_chunks.put(self._keys[row], chunk)


@dataclass(frozen=True)
class DecodeJob:
    """Everything that tasks of one read share.

    Attributes
    ----------
    sources : tuple of Source
    itemsize : int
    element : int
        The type as kernels number it, -1 for types that are never packed.
    output : uint8 array or SegmentHandle
    tables : dict of arrays, or (SegmentHandle, layout)
        The columns and geometry of a :class:`~atlas.plan.ReadPlan`.
    shareable : bool
        Whether other processes can take part.
    kept : Kept
        Chunks that need not be decompressed; others are added.
    lets_go : bool
        Whether what was decoded is to leave no file mapped page by page behind it.
    streams : bool
        Whether cells are written past the caches.
    """

    sources: tuple[Source, ...]
    itemsize: int
    element: int
    output: Any
    tables: Any
    shareable: bool = False
    kept: Kept = field(default_factory=Kept)
    lets_go: bool = False
    streams: bool = False

    def open(self) -> tuple[Bytes, dict[str, NDArray[Any]]]:
        """Return the output and the tables, mapped into this process."""
        if isinstance(self.output, SegmentHandle):
            handle, layout = self.tables
            return attach(self.output), unpack_tables(attach(handle), layout)
        return self.output, self.tables


Layout = tuple[tuple[str, str, tuple[int, ...], int], ...]


def pack_layout(tables: dict[str, NDArray[Any]]) -> tuple[Layout, int]:
    """Return where each table goes in one shared buffer, and the buffer's size."""
    layout, position = [], 0
    for name, table in tables.items():
        layout.append((name, table.dtype.str, table.shape, position))
        position += -(-table.nbytes // 64) * 64
    return tuple(layout), max(position, 64)


def unpack_tables(buffer: Bytes, layout: Layout) -> dict[str, NDArray[Any]]:
    """Return the tables that lie in a shared buffer."""
    tables = {}
    for name, dtype, shape, position in layout:
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        tables[name] = buffer[position : position + size].view(dtype).reshape(shape)
    return tables


def decode_range(job: DecodeJob, low: int, high: int) -> None:
    """Decode the chunks in rows `low` to `high` of the tables into the output.

    Raises
    ------
    CorruptChunk
        Naming the row of the chunk that is damaged.
    """
    output, tables = job.open()
    # Names in any order may have their chunks in any file: each file's are taken together.
    for number, members in group_members(tables["file"][low:high]):
        rows = low + members
        _decode_file(job, output, tables, number, rows)
        if job.lets_go:
            begins = tables["offset"][rows]
            job.sources[number].let_go(int(begins.min()), int((begins + tables["length"][rows]).max()))


def _decode_file(
    job: DecodeJob, output: Bytes, tables: dict[str, NDArray[Any]], number: int, rows: NDArray[np.int64]
) -> None:
    data = job.sources[number].bytes()
    pipelines = plain(tables["pipeline"][rows])
    packed = pipelines == PACKED
    stored = BY_KERNELS[pipelines] & ~packed
    if len(job.kept.rows):
        stored &= ~np.isin(rows, job.kept.rows)
    for chosen, decode_all in ((packed, _unpack), (stored, _copy)):
        if chosen.any():
            decode_all(job, output, tables, rows[chosen], data)
    left = ~(packed | stored)
    if left.any():
        _decode_rows(job, output, tables, rows[left], data, pipelines[left].tolist())


def _unpack(
    job: DecodeJob, output: Bytes, tables: dict[str, NDArray[Any]], rows: NDArray[np.int64], data: Bytes
) -> None:
    if job.element < 0:
        raise CorruptChunk("cells of this type are never packed", int(rows[0]))
    _loops(tables, rows).unpack(data, rows, tables, output, job.element, job.streams)


def _copy(job: DecodeJob, output: Bytes, tables: dict[str, NDArray[Any]], rows: NDArray[np.int64], data: Bytes) -> None:
    """Copy chunks that are stored as they are, or as lz4 blocks, from the mapped file to the output, in one pass."""
    _loops(tables, rows).scatter(data, rows, tables, output, job.itemsize, job.streams)


def _loops(tables: dict[str, NDArray[Any]], rows: NDArray[np.int64]) -> Any:
    return kernels.pick(max(int(tables["raw_length"][rows].sum()), kernels.CALL * len(rows)))


def _decode_rows(
    job: DecodeJob,
    output: Bytes,
    tables: dict[str, NDArray[Any]],
    rows: NDArray[np.int64],
    data: Bytes,
    pipelines: list[int],
) -> None:
    """Decode chunks one by one, and scatter them a batch at a time."""
    known = job.kept.found
    _check_payloads(data, tables, rows[~np.isin(rows, list(known))] if known else rows)
    view = memoryview(data)  # type: ignore[arg-type]
    batch: list[Any] = []
    size, begin = 0, 0
    shuffled = np.fromiter(map(is_shuffled, pipelines), np.uint8, len(rows))
    columns = (tables[name][rows].tolist() for name in ("offset", "length", "raw_length"))
    for i, (row, offset, length, raw) in enumerate(zip(rows.tolist(), *columns, strict=True)):
        chunk = known.get(row)
        if chunk is None:
            try:
                chunk = decode(view[offset : offset + length], pipelines[i], raw, job.itemsize)
            except CorruptChunk as error:
                raise CorruptChunk(str(error), row) from None
            job.kept.put(row, chunk)
            size += raw
        batch.append(chunk)
        if size >= BATCH_BYTES or i + 1 == len(rows):
            own, loops = slice(begin, i + 1), kernels.pick(sum(map(len, batch)))
            loops.scatter_decoded(batch, shuffled[own], rows[own], tables, output, job.itemsize, job.streams)
            batch, size, begin = [], 0, i + 1


def _check_payloads(data: Bytes, tables: dict[str, NDArray[Any]], rows: NDArray[np.int64]) -> None:
    offset, length, expected = (tables[name][rows] for name in ("offset", "length", "checksum"))
    wrong = np.flatnonzero(digests(data, offset, length) != expected)
    if len(wrong):
        raise CorruptChunk("its checksum does not match", int(rows[wrong[0]]))


def decode_one(source: Source, stored: Stored, raw: int, dtype: np.dtype[Any], box: Any, out: NDArray[Any]) -> None:
    """Decode a box of one chunk: what :func:`decode_range` does, without tables of tasks.

    Parameters
    ----------
    source : Source
    stored : Stored
    raw : int
        Bytes of the whole chunk.
    dtype : numpy.dtype
    box : (shape, start, extent)
        Of the chunk, and of what is wanted of it.
    out : ndarray
        In one piece, and as large as the box.

    Raises
    ------
    CorruptChunk
    """
    if stored.pipeline == RAW:
        # Not sealed, it is small.
        chunk = _decompressed(source, stored, raw, dtype.itemsize, keeps=False)
        shape, start, extent = box
        cells = np.frombuffer(chunk, out.dtype).reshape(shape)
        out[...] = cells[tuple(slice(first, first + size) for first, size in zip(start, extent, strict=True))]
        return
    loops, pipeline = kernels.pick(max(raw, kernels.CALL)), plain(stored.pipeline)
    if pipeline == PACKED:
        element = element_of(dtype)
        if element < 0:
            raise CorruptChunk("cells of this type are never packed")
        loops.unpack_one(source.bytes(), stored, box, out, element)
    elif BY_KERNELS[pipeline] and not worth_keeping(pipeline, raw):
        loops.scatter_one(source.bytes(), stored, box, out, dtype.itemsize)
    else:
        chunk = _decompressed(source, stored, raw, dtype.itemsize)
        loops.place_one(chunk, is_shuffled(pipeline), box, out, dtype.itemsize)


def _decompressed(source: Source, stored: Stored, raw: int, itemsize: int, keeps: bool = True) -> Any:
    """Return a chunk's bytes, kept from a read before or for those to come."""
    keeps = keeps and raw <= settings().decoded_bytes and bool(worth_keeping(stored.pipeline, raw))
    identity = _identity(source.path, source.length) if keeps and source.path is not None else None
    key = (identity, stored.offset, stored.length, raw, stored.pipeline, stored.checksum)
    chunk = None if identity is None else decoded_chunks.get(key)
    if chunk is None:
        payload = memoryview(source.bytes())[stored.offset : stored.offset + stored.length]  # type: ignore[arg-type]
        if not is_whole(payload, stored.pipeline, stored.checksum):
            raise CorruptChunk("its checksum does not match")
        chunk = decode(payload, stored.pipeline, raw, itemsize)
        if identity is not None:
            decoded_chunks.put(key, chunk)
    return chunk
