"""From boxes to a table of tasks, with vectorised look-ups and no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atlas.chunks import Box, Integers, Overlap, find_overlaps
from atlas.codecs import BY_KERNELS, PACKED, RAW, plain
from atlas.columns import copies, distinct
from atlas.config import settings
from atlas.decoded import worth_keeping
from atlas.dtypes import DType
from atlas.errors import CorruptIndex
from atlas.executor import CALL_BYTES
from atlas.forks import cached_property
from atlas.schema import ArraySchema
from atlas.segment import ArrayIndex

# Packed chunks are decoded about so many times faster than compressed ones.
_PACKED_SPEED = 4

# What a plan takes over from the index.
_TAKEN = ("file", "offset", "length", "raw_length", "pipeline", "checksum")

# Bytes that a chunk costs besides those it decodes to.
CHUNK_COST = 512


class Wanted(NamedTuple):
    """Datasets that declare an array alike, and the box to read of each.

    Attributes
    ----------
    schema : ArraySchema
    box : Box
    positions : (n,) which of the requested datasets these are
    ordinals : (n,) their rows in the catalog
    """

    schema: ArraySchema
    box: Box
    positions: Integers
    ordinals: Integers


@dataclass(frozen=True)
class ReadPlan:
    """One row per chunk to decode, and the geometry those rows refer to.

    Attributes
    ----------
    columns : dict of (T,) arrays
        ``file, offset, length, raw_length, pipeline, checksum`` from the index, ``geometry`` the
        row of the geometry tables, ``destination`` the byte offset of the block in the output.
    chunk_extent, block_start, block_extent, target_start, strides : (G, ndim) int64
        Shape of the stored chunk; selected block in it; where the block begins in the result;
        byte strides of the result.
    owners, numbers : (T,) requested dataset and chunk number, for messages
    incomplete : (k,) requested datasets with chunks that were never written
    """

    columns: dict[str, NDArray[Any]]
    chunk_extent: Integers
    block_start: Integers
    block_extent: Integers
    target_start: Integers
    strides: Integers
    owners: Integers
    numbers: Integers
    incomplete: Integers

    @property
    def tasks(self) -> int:
        """Chunks to decode."""
        return len(self.owners)

    @property
    def tables(self) -> dict[str, NDArray[Any]]:
        """The columns, and the geometry that they refer to, as tasks use them."""
        return {
            **self.columns,
            "chunk_extent": self.chunk_extent,
            "block_start": self.block_start,
            "block_extent": self.block_extent,
            "strides": self.strides,
        }

    @cached_property
    def cost(self) -> int:
        """Bytes that would take as long to decompress as all chunks take to decode; of few chunks all bytes."""
        sizes, pipelines = self.columns["raw_length"], plain(self.columns["pipeline"])
        total = int(sizes.sum()) + len(sizes) * CHUNK_COST
        if total < settings().parallel_threshold or not self.chunk_extent.shape[1]:
            return total
        # Of what is packed, rows behind the box are left alone; of what is stored as it is, those above, too.
        rows = self.block_extent[:, 0] / self.chunk_extent[:, 0]
        above = self.block_start[:, 0] / self.chunk_extent[:, 0]
        shares, geometry = np.ones(len(sizes)), self.columns["geometry"]
        for pipeline, share in ((RAW, rows), (PACKED, (rows + above) / _PACKED_SPEED)):
            chosen = pipelines == pipeline
            shares[chosen] = share[geometry[chosen]]
        return int((sizes * shares).sum()) + len(sizes) * CHUNK_COST

    def saved(self, rows: Iterable[int]) -> int:
        """Return what of the cost falls away where the chunks in some rows are at hand decompressed."""
        return int(self.columns["raw_length"][list(rows)].sum() * (1 - 1 / _PACKED_SPEED))

    @cached_property
    def kept_bytes(self) -> int:
        """Bytes of the chunks that are worth keeping once they are decompressed."""
        sizes = self.columns["raw_length"]
        return int(sizes[worth_keeping(self.columns["pipeline"], sizes)].sum())

    @cached_property
    def calls(self) -> int:
        """Chunks for which the call from Python that decompresses each takes longer than what it does."""
        sizes = self.columns["raw_length"][~BY_KERNELS[self.columns["pipeline"]]]
        return len(sizes) if sizes.sum() < len(sizes) * CALL_BYTES else 0


def plan_reads(index: ArrayIndex, dtype: DType, wanted: Sequence[Wanted], bases: Integers) -> ReadPlan:
    """Return the tasks that read all boxes, of which there is at least one; they have the same rank and type.

    Parameters
    ----------
    index : ArrayIndex
    dtype : DType
    wanted : sequence of Wanted
    bases : array
        By position, the byte offset of each result in the output.

    Raises
    ------
    CorruptIndex
        If a chunk's declared size is not that of its place in the grid.
    """
    schemas, boxes, places, rows_of = zip(*wanted, strict=True)
    overlap, counts = _overlaps(schemas, boxes)
    strides = np.repeat(_strides(boxes, dtype.itemsize), counts, axis=0)
    targets = (overlap.target_start * strides).sum(axis=1)
    positions, ordinals = np.concatenate(places), np.concatenate(rows_of)
    dataset, geometry, chunks = _tasks(counts, list(map(len, places)))
    rows = index.locate(ordinals, chunks, overlap.numbers[geometry])
    absent = np.zeros(0, np.int64)
    present = rows >= 0
    if not present.all():
        absent = distinct(dataset[~present])
        rows, dataset, geometry = rows[present], dataset[present], geometry[present]
    owners = positions[dataset]
    columns = copies(index.columns, _TAKEN, rows) if index.columns else dict.fromkeys(_TAKEN, np.zeros(0, np.int64))
    columns["geometry"] = geometry.astype(np.int32)
    columns["destination"] = bases[owners] + targets[geometry]
    plan = ReadPlan(
        columns,
        overlap.chunk_extent,
        overlap.block_start,
        overlap.block_extent,
        overlap.target_start,
        strides,
        owners,
        numbers=overlap.numbers[geometry],
        incomplete=positions[absent],
    )
    if not dtype.is_text:
        _check_sizes(plan, dtype.itemsize)
    return plan


def _tasks(counts: Integers, datasets: Sequence[int]) -> tuple[Integers, Integers, Integers | int]:
    """Return the dataset of each task, which chunk of which box it is about, and how many tasks each dataset has.

    Parameters
    ----------
    counts : (n,) int64
        How many chunks each box has.
    datasets : sequence of n int
        How many datasets each is read of.
    """
    if len(counts) == 1:
        count, total = int(counts[0]), datasets[0]
        return np.repeat(np.arange(total), count), np.tile(np.arange(count), total), count
    kind = np.repeat(np.arange(len(counts)), datasets)
    chunks = counts[kind]
    dataset = np.repeat(np.arange(len(kind)), chunks)
    skipped = np.cumsum(counts) - counts
    geometry = np.arange(len(dataset)) + np.repeat(skipped[kind] - (np.cumsum(chunks) - chunks), chunks)
    return dataset, geometry, chunks


def _overlaps(schemas: Sequence[ArraySchema], boxes: Sequence[Box]) -> tuple[Overlap, Integers]:
    """Return the chunks of the boxes, and how many each has."""
    if len(boxes) > 1:
        return find_overlaps([schema.grid for schema in schemas], boxes)
    found = schemas[0].grid.overlap(boxes[0])
    return found, np.array([len(found.numbers)])


def _strides(boxes: Sequence[Box], itemsize: int) -> Integers:
    """Return the byte strides of the results, which are C-contiguous."""
    shapes = np.array([box.shape for box in boxes], np.int64).reshape(len(boxes), -1)
    sizes = np.full_like(shapes, itemsize)
    sizes[:, :-1] = shapes[:, 1:]
    return np.multiply.accumulate(sizes[:, ::-1], axis=1)[:, ::-1]


def _check_sizes(plan: ReadPlan, itemsize: int) -> None:
    expected = np.prod(plan.chunk_extent, axis=1, dtype=np.int64)[plan.columns["geometry"]] * itemsize
    wrong = np.flatnonzero(expected != plan.columns["raw_length"])
    if len(wrong):
        row = int(wrong[0])
        raise CorruptIndex(
            f"chunk {plan.numbers[row]} is declared to hold {plan.columns['raw_length'][row]} bytes, "
            f"but its place in the array takes {expected[row]}"
        )
