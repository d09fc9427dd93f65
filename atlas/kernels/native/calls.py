"""The kernels that give cells, with the working memory that each takes."""

from __future__ import annotations

from atlas.kernels.compile import library
from atlas.kernels.layout import BLOCK, ITEM_SIZES
from atlas.kernels.native.buffers import MOST_BOXES, address, scratch
from atlas.kernels.slabs import scatter_room, unpack_room

Addresses = tuple[int, ...]


def unpack_rows(
    src: int,
    rows: int,
    count: int,
    stored: Addresses,
    places: Addresses,
    largest: Addresses,
    element: int,
    past: bool,
    failed: int,
) -> int:
    """Unpack boxes of chunks; return what is wrong with the row written to `failed`, or 0.

    Parameters
    ----------
    src, rows : int
        Addresses of the file, and of which rows of the table to do.
    count : int
        How many.
    stored : (offset, length, pipeline, checksum)
        Addresses of the columns of payloads.
    places : tuple of int
        The arguments from the geometry to the strides.
    largest : (cells, longest, at_once)
        The most cells of a chunk, the length of the longest payload, the most cells restored at once.
    element : int
    past : bool
        Whether cells are written past the caches.
    failed : int
        Address of an int64.
    """
    cells, longest, at_once = largest
    most_blocks = cells // BLOCK + MOST_BOXES + 2
    room = scratch("work", unpack_room(places[1], most_blocks, longest, at_once))
    types = element, ITEM_SIZES[element]
    return int(library["unpack"](src, rows, count, *stored, *places, *types, most_blocks, address(room), past, failed))


def scatter_rows(
    src: int,
    rows: int,
    count: int,
    chunks: Addresses,
    places: Addresses,
    itemsize: int,
    largest: int,
    past: bool,
    failed: int,
) -> int:
    """Copy boxes of chunks that are stored as they are, as lz4 blocks, or decoded; return as :func:`unpack_rows` does.

    Parameters
    ----------
    src, rows, count, places, past, failed
        As there.
    chunks : (offset, length, pipeline, checksum, shuffled)
        Addresses of columns.
    itemsize : int
    largest : int
        Bytes of the largest chunk that is decompressed.
    """
    room = scratch("work", scatter_room(places[1], largest))
    return int(library["scatter"](src, rows, count, *chunks, *places, itemsize, address(room), past, failed))
