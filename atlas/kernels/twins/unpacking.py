"""Packed chunks read, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from atlas.errors import CorruptChunk
from atlas.kernels.layout import (
    BAD_POSITION,
    BINARY,
    BITS,
    FLOAT32,
    INTEGERS,
    ITEM_SIZES,
    MASKED,
    MAX_AXES,
    MAX_BINARY,
    MAX_DECIMAL,
    PATCHED,
    PROBLEMS,
    SIGN_LAST,
    UNKNOWN_HEADER,
    WIDE,
    WRONG_LENGTH,
    Stored,
)
from atlas.kernels.twins.moving import flat, place_row, single_task, stored_payload
from atlas.kernels.twins.numbers import TYPES, floats
from atlas.kernels.twins.stream import accumulated, block_sizes, block_words, unpack_block


def unpack(src: Any, rows: Any, tables: Any, out: Any, element: int, past: bool = False) -> None:
    """Twin of :func:`atlas.kernels.native.unpack`, without its bounds check."""
    for row in rows.tolist():
        payload = stored_payload(src, row, tables)
        shape = tuple(tables["chunk_extent"][tables["geometry"][row]].tolist())
        try:
            cells = _unpack_chunk(payload.tobytes(), shape or (1,), element).reshape(shape)
        except _Problem as problem:
            raise CorruptChunk(PROBLEMS[problem.args[0]], row) from None
        place_row(cells.view(f"V{ITEM_SIZES[element]}"), row, tables, out)


def unpack_one(src: Any, stored: Stored, box: Any, out: Any, element: int) -> None:
    """Twin of :func:`atlas.kernels.native.unpack_one`, without its bounds check."""
    tables = single_task(stored, box, ITEM_SIZES[element])
    unpack(src, np.zeros(1, np.int64), tables, flat(out), element)


def unpack_whole(payload: Any, shape: tuple[int, ...], element: int) -> Any:
    """Twin of :func:`atlas.kernels.native.unpack_whole`."""
    try:
        return _unpack_chunk(payload.tobytes(), shape or (1,), element).reshape(-1).view(np.uint8)
    except _Problem as problem:
        raise CorruptChunk(PROBLEMS[problem.args[0]]) from None


class _Problem(Exception):
    """What is wrong with a payload."""


def _expect(condition: bool, problem: int) -> None:
    if not condition:
        raise _Problem(problem)


def _unpack_chunk(payload: bytes, shape: tuple[int, ...], element: int) -> Any:
    dtype = np.dtype(TYPES[element])
    cells, item = int(np.prod(shape, dtype=np.int64)), dtype.itemsize
    _expect(len(payload) >= 4, WRONG_LENGTH)
    kind, code, axes, flags = payload[:4]
    _expect(kind <= BITS and (kind != INTEGERS) == (element >= FLOAT32), UNKNOWN_HEADER)
    _expect(flags <= MASKED | PATCHED | WIDE and (code <= MAX_DECIMAL or BINARY <= code <= MAX_BINARY), UNKNOWN_HEADER)
    _expect(kind != BITS or (code <= SIGN_LAST and bool(flags & WIDE) == (item == 8)), UNKNOWN_HEADER)
    _expect(len(shape) >= MAX_AXES or not axes >> len(shape), UNKNOWN_HEADER)
    size, sizes = 8 if flags & WIDE else 4, block_sizes(shape, axes)
    at, patches = 4, 0
    if flags & PATCHED:
        _expect(len(payload) >= 8 and element >= FLOAT32, WRONG_LENGTH)
        patches, at = int.from_bytes(payload[4:8], "little"), 8
    bitmap = len(payload) - (-(-cells // 8) if flags & MASKED else 0)
    words = at + len(sizes) * size
    _expect(bitmap - len(sizes) >= words and patches <= cells, WRONG_LENGTH)
    widths = list(payload[bitmap - len(sizes) : bitmap])
    _expect(all(width <= 8 * size for width in widths), WRONG_LENGTH)
    counts = [block_words(n, width) for n, width in zip(sizes, widths, strict=True)]
    special = words + 4 * sum(counts)
    positions = special + (max(item, 4) if flags & MASKED else 0)
    _expect(positions + patches * (4 + item) == bitmap - len(sizes), WRONG_LENGTH)
    bases = np.frombuffer(payload, f"<u{size}", len(sizes), at)
    parts = []
    for n, width, count, base in zip(sizes, widths, counts, bases, strict=True):
        parts.append(unpack_block(np.frombuffer(payload, "<u4", count, words), n, width).astype(bases.dtype) + base)
        words += 4 * count
    stream = np.concatenate(parts)
    numbers = accumulated(stream, shape, axes).view(f"<i{size}").reshape(-1)
    result = numbers.astype(dtype) if kind == INTEGERS else floats(numbers, kind, code, dtype)
    if flags & MASKED:
        bits = np.unpackbits(np.frombuffer(payload, np.uint8, -1, bitmap), bitorder="little")[:cells]
        result[bits.astype(bool)] = np.frombuffer(payload, dtype, 1, special)
    if patches:
        where = np.frombuffer(payload, "<u4", patches, positions)
        _expect(int(where.max()) < cells, BAD_POSITION)
        result[where] = np.frombuffer(payload, dtype, patches, positions + 4 * patches)
    return result.reshape(shape)
