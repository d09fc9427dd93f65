"""Many chunks at once, as the rows of a table of tasks."""

from __future__ import annotations

from typing import Any

import numpy as np

from atlas.errors import CorruptChunk
from atlas.kernels.bounds import with_axes
from atlas.kernels.compile import library
from atlas.kernels.layout import ITEM_SIZES, LZ4, PROBLEMS, REFUSALS
from atlas.kernels.native.buffers import BYTES, INT32, INT64, UINT64, address
from atlas.kernels.native.calls import scatter_rows, unpack_rows

# Finding the address of a smaller chunk takes longer than copying it behind others.
_ALONE = 32 << 10

_STORED = {"offset": INT64, "length": INT64, "pipeline": BYTES, "checksum": UINT64}
_COLUMNS = ("geometry", "destination", *_STORED)


def admit(
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
    geometry, destination = address(tables["geometry"], INT32), address(tables["destination"], INT64)
    extents, starts, blocks, strides = (address(table, INT64) for table in boxes)
    problem = library["admit"](
        address(rows, INT64),
        len(rows),
        len(columns[0]),
        0 if src is None else address(tables["offset"], INT64),
        address(length, INT64),
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
        address(report),
    )
    if problem:
        raise ValueError(REFUSALS[problem])
    places = (geometry, ndim, extents, starts, blocks, address(out), destination, strides)
    return tuple(map(int, report)), places


def _stored(tables: Any) -> list[int]:
    return [address(tables[name], dtype) if name in tables else 0 for name, dtype in _STORED.items()]


def _boxes(tables: Any, item: int) -> Any:
    extent, start, block, strides = (
        tables[name] for name in ("chunk_extent", "block_start", "block_extent", "strides")
    )
    return with_axes(extent, start, block, strides, item)


def scatter(src: Any, rows: Any, tables: Any, out: Any, itemsize: int, past: bool = False) -> None:
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
    past : bool
        Whether cells are written past the caches, see :mod:`atlas.kernels.moves`.

    Raises
    ------
    CorruptChunk
        With the row of a payload that is not what was written.
    ValueError
        If any task would leave `src` or `out`, or a column is of another type.
    """
    boxes = _boxes(tables, itemsize)
    (cells, _, _), places = admit(src, rows, tables["length"], tables, boxes, out, itemsize)
    is_coded = "pipeline" in tables and bool((tables["pipeline"][rows] & LZ4 != 0).any())
    chunks = (*_stored(tables), 0)
    _scatter(address(src), rows, chunks, places, itemsize, cells * itemsize if is_coded else 0, past)


def scatter_decoded(
    chunks: Any, shuffled: Any, rows: Any, tables: Any, out: Any, itemsize: int, past: bool = False
) -> None:
    """Copy one box of each of some decoded chunks.

    Parameters
    ----------
    chunks : sequence of bytes-like
    shuffled : (R,) uint8
        Whether the bytes of each are shuffled: byte `b` of element `e` at ``b * cells + e``.
    rows, tables, out, itemsize, past
        As for :func:`scatter`.

    Raises
    ------
    ValueError
        If any task would leave its chunk or `out`, or a column is of another type.
    """
    if not len(chunks) == len(shuffled) == len(rows):
        raise ValueError("the columns of the tasks differ in length")
    boxes = _boxes(tables, itemsize)
    sizes = np.fromiter(map(len, chunks), np.int64, len(chunks))
    if int(sizes.sum()) < _ALONE * len(chunks):
        joined = np.frombuffer(b"".join(chunks), np.uint8)
        places = address(joined) + np.cumsum(sizes) - sizes
    else:
        places = np.array([address(np.frombuffer(chunk, np.uint8)) for chunk in chunks], np.int64)
    _, where = admit(None, rows, sizes, tables, boxes, out, itemsize)
    _scatter(0, rows, (address(places, INT64), 0, 0, 0, address(shuffled, BYTES)), where, itemsize, 0, past)


def _scatter(
    src: int, rows: Any, chunks: tuple[int, ...], places: tuple[int, ...], itemsize: int, largest: int, past: bool
) -> None:
    failed = np.zeros(1, np.int64)
    problem = scatter_rows(src, address(rows), len(rows), chunks, places, itemsize, largest, past, address(failed))
    if problem:
        raise CorruptChunk(PROBLEMS[problem], int(failed[0]))


def unpack(src: Any, rows: Any, tables: Any, out: Any, element: int, past: bool = False) -> None:
    """Unpack one box of the chunks in some rows of a task table.

    Parameters
    ----------
    src, rows, tables, out, past
        As for :func:`scatter`.
    element : int
        The type of the cells, see :data:`atlas.kernels.layout.ELEMENTS`.

    Raises
    ------
    CorruptChunk
        With the row of a payload that is not what it should be.
    ValueError
        If any task would leave `src` or `out`, or a column is of another type.
    """
    item = ITEM_SIZES[element]
    boxes = _boxes(tables, item)
    largest, places = admit(src, rows, tables["length"], tables, boxes, out, item)
    failed, stored = np.zeros(1, np.int64), tuple(_stored(tables))
    problem = unpack_rows(
        address(src), address(rows), len(rows), stored, places, largest, element, past, address(failed)
    )
    if problem:
        raise CorruptChunk(PROBLEMS[problem], int(failed[0]))
