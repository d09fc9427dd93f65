"""Chunks that are stored go into the heap as they are, to become those of another dataset or of another shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas.chunks import Integers
from atlas.errors import CorruptChunk, DatasetAlreadyExists
from atlas.heap import Heap
from atlas.indexes import expiring
from atlas.kernels.sealed import is_whole
from atlas.payloads import payloads_of
from atlas.reader import Snapshot
from atlas.schema import ArraySchema, check_name
from atlas.session import Session
from atlas.statistics import cell_statistics, statistics_of
from atlas.writer import Held, HeldRows, PendingArray, size_in_memory


def copy_dataset(session: Session, source: str, target: str) -> None:
    """Create a dataset that is what another one is now, pending changes included."""
    target = check_name(target, "dataset")
    with session.lock:
        session.writable()
        session.require(source)
        if session.exists(target):
            raise DatasetAlreadyExists(f"dataset already exists: {target!r}")
        record = session.record(source).copy()
        before = session.pending.heap.size
        try:
            arrays = {name: _copy_array(session, source, schema) for name, schema in record.arrays.items()}
        except BaseException:
            session.pending.heap.rewind(before)
            raise
        with session.pending.whole():
            session.create(target)
            session.pending.records[target] = record
            session.pending.arrays[target] = arrays
            for array in arrays.values():
                session.pending.note(array, waiting_bytes(array))


def _copy_array(session: Session, source: str, schema: ArraySchema) -> PendingArray:
    pending = session.pending.array(source, schema.name)
    result = PendingArray(schema, reset=True)
    if pending is None or not pending.reset:
        snapshot, ordinal = session.snapshot, session.ordinal(source)
        numbers = np.setdiff1d(snapshot.index(schema.name).numbers_of(ordinal), list(pending.chunks if pending else ()))
        result.chunks |= stored_chunks(snapshot, schema, ordinal, numbers.astype(np.int64), session.pending.heap)
    if pending is not None:
        # Cells that wait are replaced by later writes, never changed; two chunks of a file share no payload.
        result.chunks |= {n: _again(c, schema.name) if isinstance(c, Held) else c for n, c in pending.chunks.items()}
    return result


def _again(chunk: Held, array: str) -> Held:
    """Put the payload of a pending chunk into the heap once more."""
    own, heap = chunk.rows.one(chunk.row), chunk.rows.heap
    offset = heap.append(heap.read(int(own["offset"][0]), int(own["length"][0])), array)
    return Held(HeldRows(heap, 1, own | {"offset": np.array([offset])}), 0)


def waiting_bytes(array: PendingArray) -> int:
    """Return the bytes of the chunks that are not encoded yet."""
    return sum(size_in_memory(cells) for cells in array.chunks.values() if not isinstance(cells, Held))


def stored_chunks(
    snapshot: Snapshot, schema: ArraySchema, ordinal: int, numbers: Integers, heap: Heap
) -> dict[int, Held]:
    """Put stored chunks into the heap, encoded as they are.

    They are decoded nevertheless, for the statistics of each: a store keeps those of whole arrays.

    Raises
    ------
    CorruptChunk
        If one is damaged.
    """
    if not len(numbers):
        return {}
    index = snapshot.index(schema.name)
    rows = index.locate_all(np.array([ordinal]), numbers)[0]
    columns = {name: index.columns[name][rows].astype(np.int64) for name in ("offset", "length", "raw_length")}
    columns |= {name: index.columns[name][rows] for name in ("pipeline", "checksum")}
    numbered = index.columns["file"][rows].tolist()
    segments = snapshot.segments(schema.name)
    payloads = {n: payloads_of(snapshot.storage, index.files[n], segments[n]) for n in set(numbered)}
    for i, number in enumerate(numbered):
        with expiring(snapshot.storage, index.files[number].key):
            payload = payloads[number].read(int(columns["offset"][i]), int(columns["length"][i]))
        if not is_whole(payload, int(columns["pipeline"][i]), int(columns["checksum"][i])):
            raise _damaged(snapshot, schema, int(numbers[i]), "its checksum does not match")
        columns["offset"][i] = heap.append(payload, schema.name)
    held = _with_statistics(snapshot, schema, numbers, columns, heap)
    return {number: Held(held, row) for row, number in enumerate(numbers.tolist())}


def _with_statistics(
    snapshot: Snapshot, schema: ArraySchema, numbers: Integers, columns: dict[str, NDArray[Any]], heap: Heap
) -> HeldRows:
    def rows_with(parts: Sequence[Any]) -> HeldRows:
        return HeldRows(heap, len(numbers), columns | statistics_of(parts, schema.dtype)._asdict())

    encoded, parts = rows_with([]), []
    for row, number in enumerate(numbers.tolist()):
        try:
            cells = encoded.cells(row, schema, schema.grid.extent(number).shape)
        except CorruptChunk as error:
            raise _damaged(snapshot, schema, number, str(error)) from None
        parts.append(cell_statistics(schema.dtype, schema.fill, cells))
    return rows_with(parts)


def _damaged(snapshot: Snapshot, schema: ArraySchema, number: int, why: str) -> CorruptChunk:
    return CorruptChunk(f"chunk {number} of array {schema.name!r} in {snapshot.storage.describe()} is damaged: {why}")
