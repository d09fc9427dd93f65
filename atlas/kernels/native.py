"""The compiled kernels as the rest of the package calls them: with arrays, and with every bound checked."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np

from atlas.errors import CorruptChunk
from atlas.kernels.bounds import check_rows, with_axes
from atlas.kernels.compile import library
from atlas.kernels.layout import (
    BLOCK,
    GUARD_ROOM,
    HASH_ROOM,
    ITEM_SIZES,
    LZ4,
    MAX_AXES,
    OUTSIDE_BUFFER,
    OUTSIDE_CHUNK,
    OUTSIDE_OUTPUT,
    PROBLEMS,
    REFUSALS,
    Packing,
    Stored,
)
from atlas.kernels.slabs import cells_at_once, unpack_room

_buffers = threading.local()

# Finding the address of a smaller chunk takes longer than copying it behind others.
_ALONE = 32 << 10

# What a single huge chunk took is not kept for the next.
_MOST_KEPT = 1 << 30

# Each chosen axis doubles the boxes of a chunk, and each box begins a block.
_MOST_BOXES = 1 << MAX_AXES


def _room(name: str, size: int) -> Any:
    """Return working memory of this thread; memory that was touched before is several times faster."""
    found = getattr(_buffers, name, None)
    if found is None or len(found) < size:
        found = np.empty(-(-size // 65536) * 65536, np.uint8)
        if size <= _MOST_KEPT:
            setattr(_buffers, name, found)
    return found


def _address(array: Any) -> int:
    if not array.flags.c_contiguous:
        raise ValueError("kernels take arrays in one piece")
    return int(array.__array_interface__["data"][0])


_COLUMNS = ("geometry", "destination", "offset", "length", "pipeline", "checksum")


def _admit(
    src: Any, rows: Any, length: Any, tables: Any, boxes: Any, out: Any, item: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return what the largest task takes, and the arguments of kernels from the geometry to the strides.

    These are the most cells of a chunk, the length of the longest payload, and the most cells restored at once. When
    it returns, all tasks may touch memory.
    """
    report = np.zeros(3)
    columns = [tables[name] for name in _COLUMNS if name in tables]
    if len(set(map(len, columns))) > 1 or len(set(map(len, boxes))) > 1:
        raise ValueError("the columns of the tasks differ in length")
    kinds, ndim = boxes[0].shape
    geometry, extents, starts, blocks = map(_address, (tables["geometry"], *boxes[:3]))
    destination, strides = _address(tables["destination"]), _address(boxes[3])
    problem = library["admit"](
        _address(rows),
        len(rows),
        len(columns[0]),
        0 if src is None else _address(tables["offset"]),
        _address(length),
        0 if src is None else len(src),
        geometry,
        kinds,
        ndim,
        extents,
        starts,
        blocks,
        len(out),
        destination,
        strides,
        item,
        _address(report),
    )
    if problem:
        raise ValueError(REFUSALS[problem])
    places = (geometry, ndim, extents, starts, blocks, _address(out), destination, strides)
    return tuple(map(int, report)), places


def _stored(tables: Any) -> list[int]:
    return [_address(tables[name]) if name in tables else 0 for name in ("offset", "length", "pipeline", "checksum")]


def _boxes(tables: Any, item: int) -> Any:
    extent, start, block, strides = (
        tables[name] for name in ("chunk_extent", "block_start", "block_extent", "strides")
    )
    return with_axes(extent, start, block, strides, item)


def scatter(src: Any, rows: Any, tables: Any, out: Any, itemsize: int) -> None:
    """Copy one box of the chunks in some rows of a task table, which are stored as they are, or as lz4 blocks.

    Parameters
    ----------
    src : (n,) uint8
        The file that the payloads are in.
    rows : (R,) int64
        Which rows of the columns to do.
    tables : mapping
        ``offset, length`` (int64), ``pipeline`` (uint8) and ``checksum`` (uint64) of every row's payload, which is not
        checked where the last two are missing; ``geometry`` (int32), its row of ``chunk_extent, block_start,
        block_extent`` (in elements) and ``strides`` (of the output, in bytes), all (G, ndim) int64; ``destination``
        (int64), the byte at which its box begins in the output.
    out : (m,) uint8
    itemsize : int

    Raises
    ------
    CorruptChunk
        With the row of a payload that is not what was written.
    ValueError
        If any task would leave `src` or `out`.
    """
    boxes = _boxes(tables, itemsize)
    (cells, _, _), places = _admit(src, rows, tables["length"], tables, boxes, out, itemsize)
    is_coded = "pipeline" in tables and bool((tables["pipeline"][rows] & LZ4 != 0).any())
    chunks = (*_stored(tables), 0)
    _scatter(_address(src), rows, chunks, places, itemsize, cells * itemsize if is_coded else 0)


def scatter_decoded(chunks: Any, shuffled: Any, rows: Any, tables: Any, out: Any, itemsize: int) -> None:
    """Copy one box of each of some decoded chunks.

    Parameters
    ----------
    chunks : sequence of bytes-like
    shuffled : (R,) uint8
        Whether the bytes of each are shuffled: byte `b` of element `e` at ``b * cells + e``.
    rows, tables, out, itemsize
        As for :func:`scatter`.

    Raises
    ------
    ValueError
        If any task would leave its chunk or `out`.
    """
    if not len(chunks) == len(shuffled) == len(rows):
        raise ValueError("the columns of the tasks differ in length")
    boxes = _boxes(tables, itemsize)
    sizes = np.fromiter(map(len, chunks), np.int64, len(chunks))
    if int(sizes.sum()) < _ALONE * len(chunks):
        joined = np.frombuffer(b"".join(chunks), np.uint8)
        places = _address(joined) + np.cumsum(sizes) - sizes
    else:
        places = np.array([_address(np.frombuffer(chunk, np.uint8)) for chunk in chunks], np.int64)
    _, where = _admit(None, rows, sizes, tables, boxes, out, itemsize)
    _scatter(0, rows, (_address(places), 0, 0, 0, _address(shuffled)), where, itemsize, 0)


def _scatter(
    src: int, rows: Any, chunks: tuple[int, ...], places: tuple[int, ...], itemsize: int, largest: int
) -> None:
    room = _room("work", GUARD_ROOM + 16 * places[1] + largest)
    failed = np.zeros(1, np.int64)
    problem = library["scatter"](
        src, _address(rows), len(rows), *chunks, *places, itemsize, _address(room), _address(failed)
    )
    if problem:
        raise CorruptChunk(PROBLEMS[problem], int(failed[0]))


def unpack(src: Any, rows: Any, tables: Any, out: Any, element: int) -> None:
    """Unpack one box of the chunks in some rows of a task table.

    Parameters
    ----------
    src, rows, tables, out
        As for :func:`scatter`.
    element : int
        The type of the cells, see :data:`atlas.kernels.layout.ELEMENTS`.

    Raises
    ------
    CorruptChunk
        With the row of a payload that is not what it should be.
    ValueError
        If any task would leave `src` or `out`.
    """
    item = ITEM_SIZES[element]
    boxes = _boxes(tables, item)
    (cells, longest, at_once), places = _admit(src, rows, tables["length"], tables, boxes, out, item)
    most_blocks = cells // BLOCK + _MOST_BOXES + 2
    room = _room("work", unpack_room(places[1], most_blocks, longest, at_once))
    failed = np.zeros(1, np.int64)
    problem = library["unpack"](
        _address(src),
        _address(rows),
        len(rows),
        *_stored(tables),
        *places,
        element,
        item,
        most_blocks,
        _address(room),
        _address(failed),
    )
    if problem:
        raise CorruptChunk(PROBLEMS[problem], int(failed[0]))


# A chunk's shape, the first cell of a box of it, and the box's shape.
Box = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def unpack_one(src: Any, stored: Stored, box: Box, out: Any, element: int) -> None:
    """Unpack a box of one chunk: what :func:`unpack` does, sooner than a table of tasks is made.

    Parameters
    ----------
    src : (n,) uint8
        The file.
    stored : Stored
    box : (shape, start, extent)
    out : ndarray
        Takes the cells in C order.
    element : int

    Raises
    ------
    CorruptChunk
        If the payload is not what it should be.
    ValueError
        If it leaves `src`, or the box its chunk or `out`.
    """
    _unpack_single(src, _within(src, stored), box, out, element, is_checked=True)


def unpack_whole(payload: Any, shape: tuple[int, ...], element: int) -> Any:
    """Return the cells of one packed chunk.

    Parameters
    ----------
    payload : (n,) uint8
        Checked before, and without hashes.
    shape : tuple of int
        The chunk's shape, with at least one cell.
    element : int

    Returns
    -------
    (m,) uint8

    Raises
    ------
    CorruptChunk
        If the payload is not a chunk of that type and shape.
    """
    out = np.empty(math.prod(shape) * ITEM_SIZES[element], np.uint8)
    box = shape, (0,) * len(shape), shape
    _unpack_single(payload, (0, len(payload), 0, 0), box, out, element, is_checked=False)
    return out


def _unpack_single(src: Any, stored: Any, box: Box, out: Any, element: int, is_checked: bool) -> None:
    item, cells = ITEM_SIZES[element], math.prod(box[0])
    task = _Single(stored, box, out, item)
    row = cells // next((n for n in box[0] if n > 1), 1)
    most_blocks = cells // BLOCK + _MOST_BOXES + 2
    room = _room("work", unpack_room(task.ndim, most_blocks, stored[1], int(cells_at_once(cells, row))))
    columns = task.columns if is_checked else (*task.columns[:2], 0, 0)
    problem = library["unpack"](
        _address(src),
        task.zero,
        1,
        *columns,
        *task.places,
        element,
        item,
        most_blocks,
        _address(room),
        task.failed,
    )
    if problem:
        raise CorruptChunk(PROBLEMS[problem])


def scatter_one(src: Any, stored: Stored, box: Box, out: Any, itemsize: int) -> None:
    """Copy a box of one chunk that is stored as it is, or as an lz4 block: what :func:`scatter` does for many.

    Parameters
    ----------
    src, stored, box, out
        As for :func:`unpack_one`.
    itemsize : int

    Raises
    ------
    CorruptChunk, ValueError
        As for :func:`unpack_one`.
    """
    task = _Single(_within(src, stored), box, out, itemsize)
    largest = math.prod(box[0]) * itemsize if stored.pipeline & LZ4 else 0
    _scatter_single(_address(src), (*task.columns, 0), task, itemsize, largest)


def place_one(chunk: Any, is_shuffled: bool, box: Box, out: Any, itemsize: int) -> None:
    """Copy a box of one decoded chunk: what :func:`scatter_decoded` does for many.

    Parameters
    ----------
    chunk : bytes-like
    is_shuffled : bool
    box, out, itemsize
        As for :func:`scatter_one`.

    Raises
    ------
    ValueError
        If the box leaves the chunk, or that its buffer.
    """
    if len(chunk) < math.prod(box[0]) * itemsize:
        raise ValueError(REFUSALS[OUTSIDE_BUFFER])
    task = _Single((_address(np.frombuffer(chunk, np.uint8)), is_shuffled, 0, 0), box, out, itemsize)
    address, shuffled, _, _ = task.columns
    _scatter_single(0, (address, 0, 0, 0, shuffled), task, itemsize, 0)


def _scatter_single(src: int, columns: tuple[int, ...], task: _Single, itemsize: int, largest: int) -> None:
    room = _room("work", GUARD_ROOM + 16 * task.ndim + largest)
    problem = library["scatter"](src, task.zero, 1, *columns, *task.places, itemsize, _address(room), task.failed)
    if problem:
        raise CorruptChunk(PROBLEMS[problem])


def _within(src: Any, stored: Stored) -> tuple[int, ...]:
    """Return the numbers of a payload that is within its file, as signed ones."""
    offset, length, pipeline, checksum = stored
    if min(offset, length) < 0 or offset + length > len(src):
        raise ValueError(REFUSALS[OUTSIDE_BUFFER])
    return offset, length, pipeline, checksum - (1 << 64) if checksum >> 63 else checksum


class _Single:
    """The table of a single task, in one piece of memory.

    Attributes
    ----------
    ndim : int
    zero : int
        Address of a 0, which row, geometry and destination are.
    columns : tuple of int
        Addresses of the four numbers of the payload.
    failed : int
        Address of a number that a kernel may change.
    places : tuple of int
        The arguments of kernels from the geometry to the strides.
    """

    def __init__(self, payload: tuple[int, ...], box: Box, out: Any, item: int) -> None:
        shape, start, block = box if box[0] else ((1,), (0,), (1,))
        for extent, first, size in zip(shape, start, block, strict=True):
            if first < 0 or size < 0 or size > extent - first:
                raise ValueError(REFUSALS[OUTSIDE_CHUNK])
        strides = [item]
        for size in block[:0:-1]:
            strides.append(strides[-1] * size)
        if strides[-1] * block[0] > out.nbytes:
            raise ValueError(REFUSALS[OUTSIDE_OUTPUT])
        self._table = np.array([0, *payload, 0, *shape, *start, *block, *strides[::-1]], np.int64)
        self.ndim = ndim = len(shape)
        self.zero = zero = _address(self._table)
        self.columns = (zero + 8, zero + 16, zero + 24, zero + 32)
        self.failed = zero + 40
        extents, starts, blocks, pitches = range(zero + 48, zero + 48 + 32 * ndim, 8 * ndim)
        self.places = (zero, ndim, extents, starts, blocks, _address(out), zero, pitches)


def digest(src: Any, offset: Any, length: Any) -> Any:
    """Return the xxh3-64 of stretches of `src`.

    Parameters
    ----------
    src : (n,) uint8
    offset, length : (T,) int64

    Returns
    -------
    (T,) uint64

    Raises
    ------
    ValueError
        If any stretch leaves `src`.
    """
    offset, length = np.ascontiguousarray(offset), np.ascontiguousarray(length)
    check_rows(len(length), offset, length, len(src))
    out = np.empty(len(length), np.uint64)
    library["digest"](
        _address(src), len(out), *map(_address, (offset, length, out)), _address(_room("work", HASH_ROOM))
    )
    return out


def shuffle(src: Any, out: Any, itemsize: int) -> None:
    """Write the shuffled bytes of `src` to `out`, both (n,) uint8 with n a multiple of `itemsize`."""
    if len(src) != len(out) or len(src) % itemsize:
        raise ValueError("the buffers do not hold the same whole elements")
    library["shuffle"](_address(src), _address(out), len(src) // itemsize, itemsize)


def pack_rows(
    cells: Any, shape: tuple[int, ...], element: int, fill: Any, limit: int, packing: Packing | None = None
) -> tuple[Any, Any, Any]:
    """Return the packed payloads of chunks of one shape.

    Parameters
    ----------
    cells : (n, m) uint8
        A chunk's bytes in each row.
    shape : tuple of int
    element : int
    fill : (itemsize,) uint8 or None
        The bytes of a value that many cells may hold.
    limit : int
        Bytes that a payload may take.
    packing : Packing, optional
        How to pack all of them; chosen for each when not given.

    Returns
    -------
    payloads : (bytes,) uint8
        Back to back, in memory that the next call in this thread uses again.
    lengths : (n,) int64
        0 for those that packing does not make small enough, or where too many cells would be left over.
    packings : (n, 4) int64
        The :class:`~atlas.kernels.layout.Packing` of each; its kind is -1 where cells are no decimals.
    """
    extent = np.array(shape or (1,), np.int64)
    item, rows = ITEM_SIZES[element], len(cells)
    count = cells.shape[1] // item
    out = _room("out", rows * limit)
    lengths = np.empty(rows, np.int64)
    room = _room("work", 4096 + 1024 + 16 * len(extent) + 26 * count + 8 * (_MOST_BOXES + 2))
    packings = np.tile(np.array(packing or (0, 0, 0, 0), np.int64), (rows, 1))
    length = library["pack_rows"](
        _address(cells),
        rows,
        count,
        len(extent),
        _address(extent),
        element,
        item,
        0 if fill is None else _address(fill),
        limit,
        *map(_address, (out, lengths, packings)),
        packing is not None,
        _address(room),
    )
    return out[:length], lengths, packings
