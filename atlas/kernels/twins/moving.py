"""Bytes put in their places, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from atlas.errors import CorruptChunk
from atlas.kernels.layout import BAD_BLOCK, DAMAGED, LZ4, PROBLEMS, SEALED, SHUFFLE_LZ4, WRONG_SIZE, Stored
from atlas.kernels.sealed import body_of, is_whole


def scatter(src: Any, rows: Any, tables: Any, out: Any, itemsize: int, past: bool = False) -> None:
    """Twin of :func:`atlas.kernels.native.scatter`, without its bounds check; `past` makes no difference."""
    for row in rows.tolist():
        payload = stored_payload(src, row, tables)
        shape = tuple(tables["chunk_extent"][tables["geometry"][row]].tolist())
        size, kind = int(np.prod(shape, dtype=np.int64)) * itemsize, int(tables["pipeline"][row]) & ~SEALED
        if kind in (LZ4, SHUFFLE_LZ4):
            payload = _decompressed(payload, size, row)
            payload = _unshuffled(payload, itemsize) if kind == SHUFFLE_LZ4 else payload
        elif len(payload) != size:
            raise CorruptChunk(PROBLEMS[WRONG_SIZE], row)
        place_row(payload.view(f"V{itemsize}").reshape(shape), row, tables, out)


def scatter_decoded(
    chunks: Any, shuffled: Any, rows: Any, tables: Any, out: Any, itemsize: int, past: bool = False
) -> None:
    """Twin of :func:`atlas.kernels.native.scatter_decoded`, without its bounds check; `past` makes no difference."""
    for chunk, is_shuffled, row in zip(chunks, shuffled.tolist(), rows.tolist(), strict=True):
        data = np.frombuffer(chunk, np.uint8)
        if is_shuffled:
            data = _unshuffled(data, itemsize)
        shape = tuple(tables["chunk_extent"][tables["geometry"][row]].tolist())
        place_row(data.view(f"V{itemsize}").reshape(shape), row, tables, out)


def scatter_one(src: Any, stored: Stored, box: Any, out: Any, itemsize: int) -> None:
    """Twin of :func:`atlas.kernels.native.scatter_one`, without its bounds check."""
    scatter(src, np.zeros(1, np.int64), single_task(stored, box, itemsize), flat(out), itemsize)


def place_one(chunk: Any, is_shuffled: bool, box: Any, out: Any, itemsize: int) -> None:
    """Twin of :func:`atlas.kernels.native.place_one`, without its bounds check."""
    tables = single_task(Stored(0, 0, 0, 0), box, itemsize)
    scatter_decoded([chunk], np.array([is_shuffled]), np.zeros(1, np.int64), tables, flat(out), itemsize)


def single_task(stored: Stored, box: Any, itemsize: int) -> dict[str, Any]:
    """Return the table of a single task, whose cells go out in C order."""
    shape, start, block = (np.array([part], np.int64) for part in box)
    strides = itemsize * np.cumprod(np.append(block[0, 1:], 1)[::-1])[::-1][np.newaxis, : block.shape[1]]
    columns = zip(("offset", "length", "pipeline", "checksum"), stored, ("i8", "i8", "u1", "u8"), strict=True)
    boxes = {"chunk_extent": shape, "block_start": start, "block_extent": block, "strides": strides}
    nothing = {"geometry": np.zeros(1, np.int32), "destination": np.zeros(1, np.int64)}
    return boxes | nothing | {name: np.array([number], dtype) for name, number, dtype in columns}


def flat(out: Any) -> Any:
    """Return the bytes of an array that is in one piece."""
    return out.reshape(-1).view(np.uint8)


def _decompressed(payload: Any, size: int, row: int) -> Any:
    import lz4.block

    try:
        if int.from_bytes(payload[:4].tobytes(), "little") == size:
            return np.frombuffer(lz4.block.decompress(payload), np.uint8)
    except (lz4.block.LZ4BlockError, ValueError, OverflowError, MemoryError):
        pass
    raise CorruptChunk(PROBLEMS[BAD_BLOCK], row)


def _unshuffled(data: Any, itemsize: int) -> Any:
    return np.ascontiguousarray(data.reshape(itemsize, -1).T).reshape(-1)


def stored_payload(src: Any, row: int, tables: Any) -> Any:
    """Return the payload of a row once all of it is checked, without its hashes."""
    begin, length, pipeline, checksum = (
        int(tables[name][row]) for name in ("offset", "length", "pipeline", "checksum")
    )
    payload = src[begin : begin + length]
    if not is_whole(payload, pipeline, checksum):
        raise CorruptChunk(PROBLEMS[DAMAGED], row)
    return body_of(payload, pipeline)[0]


def place_row(chunk: Any, row: int, tables: Any, out: Any) -> None:
    """Write the box of a row's chunk to the output."""
    kind = int(tables["geometry"][row])
    start, extent, strides = (tables[name][kind] for name in ("block_start", "block_extent", "strides"))
    if extent.all():
        box = tuple(map(slice, start, start + extent))
        where = int(tables["destination"][row])
        target: Any = np.ndarray(tuple(extent.tolist()), chunk.dtype, out, where, tuple(strides.tolist()))
        target[...] = chunk[box]


def shuffle(src: Any, out: Any, itemsize: int) -> None:
    """Twin of :func:`atlas.kernels.native.shuffle`."""
    cells = len(src) // itemsize
    out.reshape(itemsize, cells)[...] = src.reshape(cells, itemsize).T
