"""Chunks of text as bytes."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas.codecs import decode
from atlas.dtypes import DType, objects
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


def decode_text(payload: Any, pipeline: int, raw_length: int, dtype: DType, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the cells of a chunk of text; raises :class:`CorruptChunk` when its payload is none."""
    try:
        data = bytes(decode(payload, pipeline, raw_length, 1))
    except (MemoryError, OverflowError):
        # Text may be of any length; what does not fit into memory is taken for a lie.
        raise CorruptChunk(f"there is no room for {raw_length} bytes") from None
    return unpack_text(data, dtype, shape)


def unpack_text(data: bytes, dtype: DType, shape: tuple[int, ...]) -> NDArray[Any]:
    """Inverse of :func:`pack_texts`, for one chunk; raises :class:`CorruptChunk` when the cells do not add up."""
    count = math.prod(shape)
    if len(data) < 4 * count:
        raise CorruptChunk("it is too short for its cells")
    lengths = struct.unpack_from(f"<{count}I", data)
    body: Any = data[4 * count :]
    if sum(lengths) != len(body):
        raise CorruptChunk("its cells do not add up")
    try:
        return objects(_cut(body, lengths, dtype.kind == "U")).reshape(shape)
    except UnicodeDecodeError:
        raise CorruptChunk("a cell is not UTF-8") from None


def _cut(body: bytes, lengths: Sequence[int], is_text: bool) -> list[Any]:
    """Return the cells of these lengths that stand one behind the other."""
    if is_text and body.isascii():
        text = body.decode("ascii")
        if len(text) == len(lengths) and 0 not in lengths:
            return list(text)  # flags: a letter each
        return [text[first:last] for first, last in pairwise(accumulate(lengths, initial=0))]
    pieces = [body[first:last] for first, last in pairwise(accumulate(lengths, initial=0))]
    return [piece.decode("utf-8") for piece in pieces] if is_text else pieces
