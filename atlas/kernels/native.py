"""The compiled kernels as the rest of the package calls them: with arrays, and with every bound checked."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np

from atlas.errors import CorruptChunk
from atlas.kernels.bounds import check_boxes, check_rows, with_axes
from atlas.kernels.compile import library
from atlas.kernels.layout import BLOCK, ITEM_SIZES, MAX_AXES, PROBLEMS, Packing

_buffers = threading.local()

# Each chosen axis doubles the boxes of a chunk, and each box begins a block.
_MOST_BOXES = 1 << MAX_AXES


def load() -> None:
    """Have the kernels ready, compiled if they never were."""
    library.load()


def _room(name: str, size: int) -> Any:
    """Return working memory of this thread; memory that was touched before is several times faster."""
    found = getattr(_buffers, name, None)
    if found is None or len(found) < size:
        found = np.empty(-(-size // 65536) * 65536, np.uint8)
        setattr(_buffers, name, found)
    return found


def _address(array: Any) -> int:
    return int(array.__array_interface__["data"][0])


def scatter(
    src: Any,
    src_offset: Any,
    geometry: Any,
    chunk_extent: Any,
    block_start: Any,
    block_extent: Any,
    out: Any,
    dst_offset: Any,
    dst_strides: Any,
    itemsize: int,
    shuffled: Any,
) -> None:
    """Copy one box of every task's chunk to the output.

    Parameters
    ----------
    src : (n,) uint8
        Decoded chunks.
    src_offset : (T,) int64
        Where each task's chunk begins.
    geometry : (T,) int32
        Row of the geometry tables that describes the task.
    chunk_extent, block_start, block_extent : (G, ndim) int64
        The chunk's shape and the box within it, in elements.
    out : (m,) uint8
    dst_offset : (T,) int64
        Byte at which the box begins in `out`.
    dst_strides : (G, ndim) int64
        Byte strides of the output.
    itemsize : int
    shuffled : (T,) uint8
        Whether the chunk's bytes are shuffled: byte `b` of element `e` at ``b * cells + e``.

    Raises
    ------
    ValueError
        If any task would leave `src` or `out`.
    """
    cells = check_boxes(geometry, chunk_extent, block_start, block_extent, len(out), dst_offset, dst_strides, itemsize)
    check_rows(len(geometry), src_offset, cells * itemsize, len(src))
    if len(shuffled) != len(geometry):
        raise ValueError("the columns of the tasks differ in length")
    offsets, kinds, targets = (np.ascontiguousarray(column) for column in (src_offset, geometry, dst_offset))
    ndim = chunk_extent.shape[1]
    library["scatter"](
        _address(src),
        _address(offsets),
        len(offsets),
        _address(kinds),
        ndim,
        *map(_address, (chunk_extent, block_start, block_extent, out, targets, dst_strides)),
        itemsize,
        _address(shuffled),
        _address(_room("work", 16 * ndim + 16)),
    )


def unpack(
    src: Any,
    rows: Any,
    offset: Any,
    length: Any,
    geometry: Any,
    chunk_extent: Any,
    block_start: Any,
    block_extent: Any,
    out: Any,
    destination: Any,
    strides: Any,
    element: int,
) -> None:
    """Unpack one box of the chunks in some rows of a task table.

    Parameters
    ----------
    src : (n,) uint8
        The file that the payloads are in.
    rows : (R,) int64
        Which rows of the columns to do.
    offset, length : (T,) int64
        Where each payload is.
    geometry, chunk_extent, block_start, block_extent, out, destination, strides
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
    chunk_extent, block_start, block_extent, strides = with_axes(chunk_extent, block_start, block_extent, strides, item)
    cells = check_boxes(
        geometry[rows], chunk_extent, block_start, block_extent, len(out), destination[rows], strides, item
    )
    check_rows(len(rows), offset[rows], length[rows], len(src))
    ndim = chunk_extent.shape[1]
    most_blocks = int(cells.max(initial=0)) // BLOCK + _MOST_BOXES + 2
    space = int((length[rows] + 16 * cells.astype(np.int64)).max(initial=0))
    room = _room("work", 16 * ndim + 8 * most_blocks + 128 + space)
    failed = np.zeros(1, np.int64)
    problem = library["unpack"](
        _address(src),
        _address(rows),
        len(rows),
        *map(_address, (offset, length, geometry)),
        ndim,
        *map(_address, (chunk_extent, block_start, block_extent, out, destination, strides)),
        element,
        item,
        most_blocks,
        _address(room),
        _address(failed),
    )
    if problem:
        raise CorruptChunk(PROBLEMS[problem], int(failed[0]))


def unpack_whole(payload: Any, shape: tuple[int, ...], element: int) -> Any:
    """Return the cells of one packed chunk.

    Parameters
    ----------
    payload : (n,) uint8
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
    item, ndim = ITEM_SIZES[element], max(len(shape), 1)
    cells = math.prod(shape)
    # The tables of one task, one behind the other: row, offset, geometry and destination are 0.
    strides = [item] * ndim
    for axis in range(ndim - 2, -1, -1):
        strides[axis] = strides[axis + 1] * shape[axis + 1]
    tables = np.array([0, len(payload), *(0,) * ndim, *(shape or (1,)), *strides], np.int64)
    zero = _address(tables)
    length, start = zero + 8, zero + 16
    extent = start + 8 * ndim
    out = np.empty(cells * item, np.uint8)
    most_blocks = cells // BLOCK + _MOST_BOXES + 2
    room = _room("work", 16 * ndim + 8 * most_blocks + 128 + len(payload) + 16 * cells)
    where = (zero, length, zero, ndim, extent, start, extent, _address(out), zero, extent + 8 * ndim)
    # The row of a failure goes where the length was.
    problem = library["unpack"](_address(payload), zero, 1, *where, element, item, most_blocks, _address(room), length)
    if problem:
        raise CorruptChunk(PROBLEMS[problem])
    return out


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
    library["digest"](_address(src), len(out), *map(_address, (offset, length, out)), _address(_room("work", 64)))
    return out


def shuffle(src: Any, out: Any, itemsize: int) -> None:
    """Write the shuffled bytes of `src` to `out`, both (n,) uint8 with n a multiple of `itemsize`."""
    if len(src) != len(out) or len(src) % itemsize:
        raise ValueError("the buffers do not hold the same whole elements")
    library["shuffle"](_address(src), _address(out), len(src) // itemsize, itemsize)


def choose(cells: Any, shape: tuple[int, ...], element: int, fill: Any) -> Packing | None:
    """Return how a chunk is best packed, or ``None`` where its cells are no decimals.

    Parameters
    ----------
    cells : (n,) uint8
        The chunk's bytes.
    shape : tuple of int
    element : int
    fill : (itemsize,) uint8 or None
        The fill value's bytes.
    """
    extent = np.array(shape or (1,), np.int64)
    report = np.zeros(4, np.int64)
    count = len(cells) // ITEM_SIZES[element]
    found = library["choose"](
        _address(cells),
        count,
        len(extent),
        _address(extent),
        element,
        0 if fill is None else _address(fill),
        _address(_room("work", 4096)),
        _address(report),
    )
    return Packing(*report.tolist()) if found else None


def pack(cells: Any, shape: tuple[int, ...], element: int, fill: Any, packing: Packing, limit: int) -> bytes | None:
    """Return a chunk's payload, or ``None`` where it would exceed `limit` bytes or leave too many cells over.

    Parameters are those of :func:`choose`, and its result.
    """
    extent = np.array(shape or (1,), np.int64)
    item = ITEM_SIZES[element]
    count = len(cells) // item
    out = _room("out", limit)
    length = library["pack"](
        _address(cells),
        count,
        len(extent),
        _address(extent),
        element,
        item,
        packing.kind,
        packing.code,
        packing.axes,
        0 if fill is None else _address(fill),
        limit,
        _address(out),
        _address(_room("work", 1024 + 16 * len(extent) + 26 * count + 8 * (_MOST_BOXES + 2))),
    )
    return out[:length].tobytes() if length else None


def pack_rows(cells: Any, shape: tuple[int, ...], element: int, fill: Any, limit: int) -> tuple[Any, Any, Any]:
    """Return the packed payloads of many chunks of one shape.

    Parameters
    ----------
    cells : (n, m) uint8
        A chunk's bytes in each row.
    shape, element, fill, limit
        As for :func:`choose` and :func:`pack`.

    Returns
    -------
    payloads : (bytes,) uint8
        Back to back.
    lengths : (n,) int64
        0 for those that packing does not make small enough.
    repetitive : (n,) bool
        As in :class:`~atlas.kernels.layout.Packing`.
    """
    extent = np.array(shape or (1,), np.int64)
    item, rows = ITEM_SIZES[element], len(cells)
    count = cells.shape[1] // item
    out = np.empty(rows * limit, np.uint8)
    lengths, repetitive = np.empty(rows, np.int64), np.empty(rows, np.uint8)
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
        *map(_address, (out, lengths, repetitive)),
        _address(_room("work", 4096 + 64 + 1024 + 16 * len(extent) + 26 * count + 8 * (_MOST_BOXES + 2))),
    )
    return out[:length], lengths, repetitive.astype(bool)
