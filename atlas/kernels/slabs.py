"""How much of a chunk is restored at once, in plain Python: kernels and their callers share it."""

from __future__ import annotations

from atlas.kernels.layout import BLOCK, GUARD_ROOM, LINE, MAX_AXES, SLAB

# What is written past the caches is made ready so many bytes at once, which stay in the first-level cache.
STRIP_BYTES = 4 << 10


def whole_bytes(row: int) -> int:
    """Return how many rows of so many cells begin and end with a whole byte of marks, a bit for each cell."""
    rows = 8
    while rows > 1 and (rows >> 1) * row % 8 == 0:
        rows >>= 1
    return rows


def slab_rows(row: int, step: int) -> int:
    """Return how many rows of so many cells are restored at once, a multiple of `step`."""
    return max(SLAB // row // step, 1) * step


def cells_at_once(cells: float, row: float) -> float:
    """Return the most cells that are restored at once of a chunk, together with the row before them."""
    return min(cells, max(SLAB, 8 * row)) + row


def whole_lines(address: int) -> int:
    """Return the first address from there on where a cache line begins."""
    return (address + LINE - 1) // LINE * LINE


def scatter_room(ndim: int, largest: int) -> int:
    """Return the bytes of working memory that scattering takes.

    Parameters
    ----------
    ndim : int
    largest : int
        Bytes of the largest chunk that is decompressed.
    """
    return GUARD_ROOM + 16 * ndim + LINE + STRIP_BYTES + largest


def unpack_room(ndim: int, most_blocks: int, longest: int, at_once: int) -> int:
    """Return the bytes of working memory that unpacking takes.

    Parameters
    ----------
    ndim : int
    most_blocks : int
        Blocks of the largest chunk, and one.
    longest : int
        Bytes of the longest payload.
    at_once : int
        See :func:`cells_at_once`.
    """
    fixed = GUARD_ROOM + 32 * ndim + (8 << MAX_AXES) + 8 * BLOCK + 4 * LINE
    return fixed + 17 * most_blocks + longest + 16 * at_once
