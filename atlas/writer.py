"""The chunks of one array of one dataset that wait for a flush, and how they are encoded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atlas.chunks import Box, Integers, Shape
from atlas.codecs import decode_numbers
from atlas.config import StoreConfig
from atlas.dtypes import fill_cell
from atlas.encoding import BATCH_BYTES, EncodedRows, encode_batches
from atlas.errors import ConflictError
from atlas.heap import Heap, Shelf
from atlas.reader import Snapshot
from atlas.schema import ArraySchema
from atlas.text import decode_text

_BATCH_CHUNKS = 4096

# Whole chunks of writes this large are encoded at once: a copy to wait in would cost more than that does.
_ENCODE_ABOVE = 256 << 10

# What Python takes for a text besides what it says.
_TEXT_BYTES = 49

ReadChunk = Callable[[int], NDArray[Any]]
Cells = NDArray[Any]


def filled(schema: ArraySchema, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return cells that were never written."""
    cells = np.empty(shape, schema.dtype.numpy)
    # Unlike np.full, this takes bytes as they are, also those that end in zeros.
    cells.fill(fill_cell(schema.dtype, schema.fill))
    return cells


def size_in_memory(cells: Cells) -> int:
    """Return about how many bytes cells take; of text, those that it says."""
    if not cells.dtype.hasobject:
        return cells.nbytes
    return cells.nbytes + _TEXT_BYTES * cells.size + sum(map(len, cells.reshape(-1).tolist()))


@dataclass(frozen=True)
class HeldRows:
    """Encoded chunks whose payloads are in the heap; by column, not an object for each.

    Attributes
    ----------
    heap : Heap
    count : int
    rows : dict of str to (count,) array, or Shelf
        What a data file says of them, with ``offset`` in the heap, and their statistics; where there are many, in the
        heap as well.
    """

    heap: Heap
    count: int
    rows: Mapping[str, NDArray[Any]] | Shelf

    @staticmethod
    def put(heap: Heap, encoded: EncodedRows, array: str) -> HeldRows:
        """Put encoded chunks of an array into the heap."""
        offset = heap.append(encoded.payloads.data, array) + encoded.offset
        chunks = {name: getattr(encoded, name) for name in ("length", "raw_length", "pipeline", "checksum")}
        return HeldRows(heap, len(offset), {"offset": offset, **chunks, **encoded.statistics._asdict()})

    def shelved(self) -> HeldRows:
        """Return the same, its columns in the heap."""
        return HeldRows(self.heap, self.count, Shelf(self.heap, self.columns))

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """The columns of all rows."""
        return self.rows.columns(0, self.count) if isinstance(self.rows, Shelf) else dict(self.rows)

    def one(self, row: int) -> dict[str, NDArray[Any]]:
        """Return the columns of one chunk."""
        if isinstance(self.rows, Shelf):
            return self.rows.columns(row, 1)
        return {name: column[row : row + 1] for name, column in self.rows.items()}

    def take(self, rows: Integers) -> HeldRows:
        """Return some of the chunks."""
        return HeldRows(self.heap, len(rows), {name: column[rows] for name, column in self.columns.items()})

    def cells(self, row: int, schema: ArraySchema, shape: tuple[int, ...]) -> Cells:
        """Decode one chunk."""
        own, dtype = self.one(row), schema.dtype
        offset, length, raw, pipeline = (int(own[name][0]) for name in ("offset", "length", "raw_length", "pipeline"))
        payload = self.heap.read(offset, length)
        if dtype.is_text:
            return decode_text(payload, pipeline, raw, dtype, shape)
        cells: Cells = decode_numbers(payload, pipeline, dtype.storage, shape).view(dtype.numpy)
        return cells


class Held(NamedTuple):
    """One encoded chunk."""

    rows: HeldRows
    row: int


@dataclass(frozen=True)
class Growth:
    """A stored array that has only grown so far: the statistics of what it was still hold.

    Attributes
    ----------
    shape : tuple of int
        What is stored.
    rows, nulls : int
        Cells of that shape, and how many of them equal the fill value, in chunks that are written anew.
    """

    shape: Shape
    rows: int = 0
    nulls: int = 0

    def kept_in(self, start: Shape, shape: Shape) -> int:
        """Return how many cells of a box are within what is stored."""
        ends = zip(start, shape, self.shape, strict=True)
        return math.prod(max(min(first + size, end) - first, 0) for first, size, end in ends)

    def and_rewritten(self, rows: int, nulls: int) -> Growth:
        """Return the same with more cells in chunks that are written anew."""
        return replace(self, rows=self.rows + rows, nulls=self.nulls + nulls)


@dataclass
class PendingArray:
    """Chunks of one array of one dataset that wait for the next flush.

    Attributes
    ----------
    schema : ArraySchema
    reset : bool
        Whether the array was defined in this batch: what is stored under its name is void.
    chunks : dict of int to ndarray or Held
        Whole chunks, by chunk number.
    resized : bool
        Whether the array has another shape than what is stored; its statistics change then, if nothing else.
    growth : Growth, optional
        As long as no cell of what is stored has changed.
    """

    schema: ArraySchema
    reset: bool
    chunks: dict[int, Cells | Held] = field(default_factory=dict)
    resized: bool = False
    growth: Growth | None = None

    def write(
        self,
        box: Box,
        data: Cells,
        read_chunk: ReadChunk,
        heap: Heap,
        config: StoreConfig,
        workers: int = 1,
    ) -> int:
        """Take a box of cells; `read_chunk` gives what a partly written chunk held before.

        Returns
        -------
        int
            By how much what waits unencoded has grown in memory.
        """
        whole: dict[int, Cells] = {}
        partial: dict[int, Cells] = {}
        if box.shape == self.schema.shape == data.shape and self.schema.grid.count == 1:
            # The common case, a whole array of one chunk, needs no arithmetic.
            whole[0] = data
        else:
            overlap = self.schema.grid.overlap(box)
            for number, extent, first, block, target in zip(overlap.numbers.tolist(), *overlap[1:], strict=True):
                cells = data[tuple(map(slice, target, target + block))]
                if (block == extent).all():
                    whole[number] = cells
                else:
                    partial[number] = self._held(number, read_chunk)
                    partial[number][tuple(map(slice, first, first + block))] = cells
        taken: dict[int, Cells | Held] = {**partial}
        if data.nbytes < _ENCODE_ABOVE or self.schema.dtype.is_text:
            taken |= {number: np.array(cells, order="C") for number, cells in whole.items()}
        else:
            items = ((self.schema, number, cells) for number, cells in whole.items())
            taken |= dict(encode_into(heap, items, config, workers))
        growth = self._grown(box, partial)
        size = sum(map(_waiting_size, taken.values())) - sum(_waiting_size(self.chunks.get(n)) for n in taken)
        # Nothing is taken before everything has been read and encoded, and then without a call, during which an
        # interrupt might come: a write happens whole or not at all.
        self.chunks |= taken
        self.growth = growth
        return size

    def _grown(self, box: Box, partial: Mapping[int, Cells]) -> Growth | None:
        """Return what is known of the growth once a box has been written; `partial` are the chunks that it cuts."""
        growth = self.growth
        if growth is None or growth.kept_in(*box):
            return None
        # Chunks that the old edge cuts are pending already, unless nobody ever wrote a cell of them.
        for number in partial.keys() - self.chunks.keys():
            rows = growth.kept_in(*self.schema.grid.extent(number))
            growth = growth.and_rewritten(rows, 0 if self.schema.fill is None else rows)
        return growth

    def _held(self, number: int, read_chunk: ReadChunk) -> Cells:
        """Return a copy of the chunk as it is now."""
        chunk = self.chunks.get(number)
        if chunk is None:
            return read_chunk(number)
        return self._cells(number, chunk).copy()

    def _cells(self, number: int, chunk: Cells | Held) -> Cells:
        if isinstance(chunk, Held):
            return chunk.rows.cells(chunk.row, self.schema, self.schema.grid.extent(number).shape)
        return chunk

    def overlay(self, box: Box, result: NDArray[Any]) -> None:
        """Copy the pending cells of a box over `result`."""
        overlap = self.schema.grid.overlap(box)
        for number, first, block, target in zip(
            overlap.numbers.tolist(), overlap.block_start, overlap.block_extent, overlap.target_start, strict=True
        ):
            chunk = self.chunks.get(number)
            if chunk is not None:
                source = self._cells(number, chunk)[tuple(map(slice, first, first + block))]
                result[tuple(map(slice, target, target + block))] = source


def _waiting_size(chunk: Cells | Held | None) -> int:
    return 0 if chunk is None or isinstance(chunk, Held) else size_in_memory(chunk)


class Overlay(NamedTuple):
    """What there is of an array of one dataset once pending changes are counted.

    Attributes
    ----------
    schema : ArraySchema
    pending : PendingArray or None
        Cells that wait.
    ordinal : int
        Where the committed state has the dataset; looked up together with the rest, since a flush of another thread
        forgets under which name that was.
    """

    schema: ArraySchema
    pending: PendingArray | None
    ordinal: int

    def read(self, snapshot: Snapshot, name: str, box: Box, lock: AbstractContextManager[Any]) -> NDArray[Any]:
        """Return a box: what is stored, with the pending cells over it, which are only looked at under the lock."""
        pending = self.pending
        if pending is not None and pending.reset:
            result = filled(self.schema, box.shape)
        else:
            result = self._stored(snapshot, name, box)
        if pending is not None:
            with lock:  # so that a write of another thread is seen whole or not at all
                pending.overlay(box, result)
        return result

    def _stored(self, snapshot: Snapshot, name: str, box: Box) -> NDArray[Any]:
        """Return what the committed state has of a box; the rest of it was never written."""
        stored, schema = self._stored_schema(snapshot, name), self.schema
        if stored.shape == schema.shape:
            return snapshot.read_box(schema, self.ordinal, box)
        # It has grown since: what is stored is cut as its old edge was.
        pairs = zip(*box, stored.shape, strict=True)
        common = tuple(max(min(first + size, end) - first, 0) for first, size, end in pairs)
        result = filled(schema, box.shape)
        if 0 not in common:
            result[tuple(map(slice, common))] = snapshot.read_box(stored, self.ordinal, Box(box.start, common))
        return result

    def _stored_schema(self, snapshot: Snapshot, name: str) -> ArraySchema:
        """Return what the committed state says of the array, whose shape alone pending changes may make another."""
        schema = self.schema if self.pending is None else self.pending.schema
        stored = None if self.ordinal < 0 else snapshot.root.catalog.record(self.ordinal).arrays.get(schema.name)
        if stored is None or (stored.dtype, stored.chunk_shape) != (schema.dtype, schema.chunk_shape):
            raise ConflictError(
                f"another writer has deleted dataset {name!r}, or array {schema.name!r} of it, or made it anew, while "
                "changes of it are pending here; open the store anew",
                [name],
            )
        return stored


Item = tuple[ArraySchema, Any, Cells]


def encode_into(heap: Heap, items: Iterable[Item], config: StoreConfig, workers: int) -> list[tuple[Any, Held]]:
    """Encode chunks, given with a key each, and put them into the heap: all of them, or none."""
    before = heap.size
    groups: list[tuple[str, list[Any]]] = []

    def batches() -> Iterator[tuple[ArraySchema, list[Cells]]]:
        for schema, keys, cells in in_batches(items, by_array=True):
            groups.append((schema.name, keys))
            yield schema, cells

    held: list[tuple[Any, Held]] = []
    try:
        for number, encoded in enumerate(encode_batches(batches(), config, workers)):
            array, keys = groups[number]
            rows = HeldRows.put(heap, encoded, array)
            held += [(key, Held(rows, row)) for row, key in enumerate(keys)]
    except BaseException:
        heap.rewind(before)
        raise
    return held


def in_batches(items: Iterable[Item], by_array: bool = False) -> Iterator[tuple[ArraySchema, list[Any], list[Cells]]]:
    """Group chunks that are encoded alike: a task for every tiny one would cost more than encoding it.

    Parameters
    ----------
    items : iterable of (ArraySchema, key, array)
    by_array : bool
        Whether those of each array are by themselves.
    """
    waiting: dict[Any, tuple[ArraySchema, list[Any], list[Cells]]] = {}
    for schema, key, cells in items:
        alike = None if schema.dtype.is_text else cells.shape
        kind = (schema.name if by_array else None, schema.dtype.name, repr(schema.fill), alike)
        _, keys, chunks = group = waiting.setdefault(kind, (schema, [], []))
        keys.append(key)
        chunks.append(cells)
        if len(chunks) * cells.nbytes >= BATCH_BYTES or len(chunks) == _BATCH_CHUNKS:
            del waiting[kind]
            yield group
    yield from waiting.values()
