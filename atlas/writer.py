"""Changes that are not committed yet, and how their chunks are encoded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atlas.chunks import Selection
from atlas.codecs import decode_numbers, encode, encode_numbers
from atlas.config import StoreConfig
from atlas.conflicts import Attempt
from atlas.dtypes import fill_cell
from atlas.reader import pack_text
from atlas.root import Root
from atlas.schema import ArraySchema, DatasetRecord
from atlas.segment import chunk_checksum
from atlas.statistics import Statistics, cell_statistics

_BATCH_BYTES = 1 << 20
_BATCH_CHUNKS = 1024

# Whole chunks of writes this large are encoded at once: a copy to wait in would cost more than that does.
_ENCODE_ABOVE = 256 << 10

ReadChunk = Callable[[int], NDArray[Any]]
Cells = NDArray[Any]


def filled(schema: ArraySchema, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return cells that were never written."""
    return np.full(shape, fill_cell(schema.dtype, schema.fill), schema.dtype.numpy)


class EncodedChunk(NamedTuple):
    """A chunk as it goes to disk."""

    payload: bytes
    raw_length: int
    pipeline: int
    checksum: int
    statistics: Statistics


@dataclass
class PendingArray:
    """Chunks of one array of one dataset that wait for the next flush.

    Attributes
    ----------
    schema : ArraySchema
    reset : bool
        Whether the array was defined in this batch: what is stored under its name is void.
    chunks : dict of int to ndarray or EncodedChunk
        Whole chunks, by chunk number.
    """

    schema: ArraySchema
    reset: bool
    chunks: dict[int, Cells | EncodedChunk] = field(default_factory=dict)

    def write(
        self, selection: Selection, data: Cells, read_chunk: ReadChunk, config: StoreConfig, workers: int = 1
    ) -> None:
        """Take a box of cells; `read_chunk` gives what a partly written chunk held before."""
        whole: dict[int, Cells] = {}
        partial: dict[int, Cells] = {}
        if selection.shape == self.schema.shape == data.shape and self.schema.grid.count == 1:
            # The common case, a whole array of one chunk, needs no arithmetic.
            whole[0] = data
        else:
            overlap = self.schema.grid.overlap(selection)
            for number, extent, first, block, target in zip(overlap.numbers.tolist(), *overlap[1:], strict=True):
                cells = data[tuple(map(slice, target, target + block))]
                if (block == extent).all():
                    whole[number] = cells
                else:
                    partial[number] = self._held(number, read_chunk)
                    partial[number][tuple(map(slice, first, first + block))] = cells
        # Nothing is taken before everything has been read and encoded: a write happens whole or not at all.
        if data.nbytes < _ENCODE_ABOVE or self.schema.dtype.is_text:
            self.chunks |= {number: np.array(cells, order="C") for number, cells in whole.items()}
        else:
            pairs = ((self.schema, cells) for cells in whole.values())
            self.chunks |= dict(zip(whole, encode_chunks(pairs, config, workers), strict=True))
        self.chunks |= partial

    def _held(self, number: int, read_chunk: ReadChunk) -> Cells:
        """Return a copy of the chunk as it is now."""
        chunk = self.chunks.get(number)
        if chunk is None:
            return read_chunk(number)
        return self._cells(number, chunk).copy()

    def _cells(self, number: int, chunk: Cells | EncodedChunk) -> Cells:
        if not isinstance(chunk, EncodedChunk):
            return chunk
        dtype = self.schema.dtype
        shape = self.schema.grid.extent(number).shape
        cells: Cells = decode_numbers(chunk.payload, chunk.pipeline, dtype.storage, shape).view(dtype.numpy)
        return cells

    def overlay(self, selection: Selection, result: NDArray[Any]) -> None:
        """Copy the pending cells of a box over `result`."""
        overlap = self.schema.grid.overlap(selection)
        for number, first, block, target in zip(
            overlap.numbers.tolist(), overlap.block_start, overlap.block_extent, overlap.target_start, strict=True
        ):
            chunk = self.chunks.get(number)
            if chunk is not None:
                source = self._cells(number, chunk)[tuple(map(slice, first, first + block))]
                result[tuple(map(slice, target, target + block))] = source


@dataclass
class Pending:
    """Everything that the next flush will commit.

    Attributes
    ----------
    records : dict of str to DatasetRecord
        Datasets that were created or changed, as they are now.
    created : set of str
        Those of them that the committed state does not have (any more).
    deleted : set of str
        Committed datasets that go, if they are there.
    seen : dict of str to Root
        The committed state in which each of all these datasets was first changed.
    arrays : dict of str to dict of str to PendingArray
        Chunks, by dataset and array.
    layout : StoreConfig or None
        When given, the batch begins a store of this layout in place of the one that is there.
    attempt : Attempt or None
        The last commit that these changes were put in, which failed, or seemed to.
    """

    records: dict[str, DatasetRecord] = field(default_factory=dict)
    created: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    arrays: dict[str, dict[str, PendingArray]] = field(default_factory=dict)
    seen: dict[str, Root] = field(default_factory=dict)
    layout: StoreConfig | None = None
    attempt: Attempt | None = None

    def __bool__(self) -> bool:
        return bool(self.records or self.deleted or self.layout)

    def delete(self, name: str) -> None:
        """Have a dataset go; one that was created in this batch is forgotten."""
        attempted = self.attempt is not None and name in self.attempt.names
        self.records.pop(name, None)
        self.arrays.pop(name, None)
        if name in self.created and not attempted:
            # Unless another writer's dataset of that name went before it.
            if name not in self.deleted:
                del self.seen[name]
        else:
            self.deleted.add(name)
        self.created.discard(name)

    def recognise(self, current: Root) -> None:
        """See whether the last attempt was committed after all: then it is no other writer's work."""
        if self.attempt is None:
            return
        if self.attempt.led_to(current):
            self.seen |= dict.fromkeys(self.attempt.names, self.attempt.root)
        elif current.generation <= self.attempt.root.generation + 1:
            self.attempt = None

    def by_array(self) -> dict[str, list[tuple[str, PendingArray]]]:
        """Return the pending chunks as the data files want them: by array name."""
        result: dict[str, list[tuple[str, PendingArray]]] = {}
        for dataset, arrays in self.arrays.items():
            for array, pending in arrays.items():
                # A reset without chunks matters only where older files hold something.
                if pending.chunks or (pending.reset and dataset not in self.created):
                    result.setdefault(array, []).append((dataset, pending))
        return result


def encode_chunk(schema: ArraySchema, cells: NDArray[Any], config: StoreConfig) -> EncodedChunk:
    """Return the bytes of a chunk, and what is to be known about it."""
    cells = np.ascontiguousarray(cells).reshape(cells.shape)
    raw: Any
    if schema.dtype.is_text:
        raw = pack_text(cells)
        payload, pipeline = encode(raw, 1, config.codec, config.level)
    else:
        raw = np.ascontiguousarray(cells.reshape(-1)).view(schema.dtype.storage).view(np.uint8)
        payload, pipeline = encode_numbers(
            raw, schema.dtype.storage, cells.shape, _frequent_value(schema), config.codec, config.level
        )
    statistics = cell_statistics(schema.dtype, schema.fill, cells)
    return EncodedChunk(payload, len(raw), pipeline, chunk_checksum(payload), statistics)


def _frequent_value(schema: ArraySchema) -> Any:
    """Return the bytes of the value that stands for "nothing here", or ``None``."""
    if schema.fill is None and schema.dtype.kind not in "Mm":
        return None
    value = np.iinfo(np.int64).min if schema.fill is None else schema.fill
    return np.array([value]).astype(schema.dtype.storage).view(np.uint8)


def encode_chunks(
    chunks: Iterable[tuple[ArraySchema, Cells | EncodedChunk]], config: StoreConfig, workers: int
) -> Iterator[EncodedChunk]:
    """Yield encoded chunks in order, a few batches ahead on threads (the codecs release the GIL).

    Those that are encoded already pass through.
    """
    batches = _batches(chunks)
    if workers == 1:
        for batch in batches:
            yield from _encode_batch(batch, config)
        return
    with ThreadPoolExecutor(workers) as pool:
        ahead = deque(pool.submit(_encode_batch, batch, config) for batch in islice(batches, 2 * workers))
        while ahead:
            done = ahead.popleft().result()
            ahead.extend(pool.submit(_encode_batch, batch, config) for batch in islice(batches, 1))
            yield from done


def _batches(chunks: Iterable[Any]) -> Iterator[list[tuple[ArraySchema, Cells | EncodedChunk]]]:
    """Group chunks: a task for every tiny one would cost more than encoding it."""
    batch, size = [], 0
    for schema, cells in chunks:
        batch.append((schema, cells))
        size += 0 if isinstance(cells, EncodedChunk) else cells.nbytes
        if size >= _BATCH_BYTES or len(batch) == _BATCH_CHUNKS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _encode_batch(batch: list[tuple[ArraySchema, Cells | EncodedChunk]], config: StoreConfig) -> list[EncodedChunk]:
    return [
        cells if isinstance(cells, EncodedChunk) else encode_chunk(schema, cells, config) for schema, cells in batch
    ]
