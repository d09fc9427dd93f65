"""Chunks of text as bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas.dtypes import DType
from atlas.errors import CorruptChunk


def pack_text(cells: NDArray[Any]) -> bytes:
    """Return a chunk of text as bytes: the cells' lengths as u32, then the cells."""
    encoded = [cell.encode("utf-8") if isinstance(cell, str) else cell for cell in cells.reshape(-1).tolist()]
    return np.array([len(cell) for cell in encoded], "<u4").tobytes() + b"".join(encoded)


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
