"""Chunks of text as bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas.dtypes import DType
from atlas.errors import CorruptChunk


def encoded_cells(cells: NDArray[Any]) -> list[bytes]:
    """Return cells of text, in C order, as they are stored."""
    return [cell.encode("utf-8") if isinstance(cell, str) else cell for cell in cells.reshape(-1).tolist()]


def pack_texts(cells: Sequence[bytes], counts: NDArray[np.int64]) -> list[bytes]:
    """Return chunks of text as bytes: their cells' lengths as u32, then the cells.

    Parameters
    ----------
    cells : sequence of bytes
        Those of all chunks, one behind the other.
    counts : (n,) int64
        How many each chunk has.
    """
    lengths = np.fromiter(map(len, cells), "<u4", len(cells))
    data, heads = b"".join(cells), lengths.tobytes()
    ends = np.cumsum(counts)
    places = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    spans = zip(4 * (ends - counts), 4 * ends, places[ends - counts], places[ends], strict=True)
    return [heads[low:high] + data[begin:end] for low, high, begin, end in spans]


def unpack_text(data: bytes, dtype: DType, shape: tuple[int, ...]) -> NDArray[Any]:
    """Inverse of :func:`pack_text`; raises :class:`CorruptChunk` when the cells do not add up."""
    count = int(np.prod(shape, dtype=np.int64))
    if len(data) < 4 * count:
        raise CorruptChunk("it is too short for its cells")
    lengths = np.frombuffer(data, "<u4", count).astype(np.int64)
    ends = np.cumsum(lengths) + 4 * count
    if (int(ends[-1]) if count else 0) != len(data):
        raise CorruptChunk("its cells do not add up")
    cells = np.empty(count, object)
    try:
        pairs = zip((ends - lengths).tolist(), ends.tolist(), strict=True)
        if dtype.kind == "U":
            cells[:] = [data[first:last].decode("utf-8") for first, last in pairs]
        else:
            cells[:] = [data[first:last] for first, last in pairs]
    except UnicodeDecodeError:
        raise CorruptChunk("a cell is not UTF-8") from None
    return cells.reshape(shape)
