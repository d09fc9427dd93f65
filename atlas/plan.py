"""From a selection to a table of tasks, with vectorised look-ups and no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas.chunks import Integers, Overlap, Selection
from atlas.codecs import PACKED, RAW, plain
from atlas.dtypes import DType
from atlas.errors import CorruptIndex
from atlas.executor import CALL_BYTES
from atlas.forks import cached_property
from atlas.schema import ArraySchema
from atlas.segment import ArrayIndex

# Packed chunks are decoded about so many times faster than compressed ones.
_PACKED_SPEED = 4


@dataclass(frozen=True)
class Member:
    """Datasets that declare an array alike, and the box to read of each.

    Attributes
    ----------
    schema : ArraySchema
    selection : Selection
    positions : (n,) which of the requested datasets these are
    ordinals : (n,) their rows in the catalog
    bases : (n,) byte offset of each result in the output
    """

    schema: ArraySchema
    selection: Selection
    positions: Integers
    ordinals: Integers
    bases: Integers


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
        """Bytes that would take as long to decompress as all chunks take to decode."""
        sizes = self.columns["raw_length"]
        return int(sizes.sum() - sizes[plain(self.columns["pipeline"]) == PACKED].sum() * (1 - 1 / _PACKED_SPEED))

    def saved(self, rows: Iterable[int]) -> int:
        """Return what of the cost falls away where the chunks in some rows are at hand decompressed."""
        return int(self.columns["raw_length"][list(rows)].sum() * (1 - 1 / _PACKED_SPEED))

    @cached_property
    def compressed(self) -> tuple[int, int]:
        """Chunks that are decompressed one by one, each by a call from Python, and their bytes."""
        pipelines = plain(self.columns["pipeline"])
        sizes = self.columns["raw_length"][(pipelines != PACKED) & (pipelines != RAW)]
        return len(sizes), int(sizes.sum())

    @property
    def calls(self) -> int:
        """Chunks for which the call takes longer than what it does."""
        count, size = self.compressed
        return count if size < count * CALL_BYTES else 0


def result_strides(shape: Sequence[int], itemsize: int) -> Integers:
    """Return the byte strides of a C-contiguous result."""
    sizes = [*shape[1:], itemsize] if shape else []
    return np.multiply.accumulate(np.array(sizes[::-1], np.int64))[::-1].copy()


def plan_reads(index: ArrayIndex, dtype: DType, members: Sequence[Member]) -> ReadPlan:
    """Return the tasks that read every member's box; members have the same rank and type.

    Raises
    ------
    CorruptIndex
        If a chunk's declared size is not that of its place in the grid.
    """
    parts = [_plan_member(index, dtype, member) for member in members]
    sizes = np.cumsum([0] + [len(part.overlap.numbers) for part in parts])
    rows = _joined([part.rows for part in parts])
    geometry = _joined([part.geometry + first for part, first in zip(parts, sizes, strict=False)])
    columns = {
        name: np.ascontiguousarray(index.columns[name][rows]) if index.columns else np.zeros(0, np.int64)
        for name in ("file", "offset", "length", "raw_length", "pipeline", "checksum")
    }
    columns["geometry"] = geometry.astype(np.int32)
    columns["destination"] = _joined([part.destinations for part in parts])
    ndim = len(members[0].schema.shape) if members else 0
    plan = ReadPlan(
        columns,
        chunk_extent=_stacked([part.overlap.chunk_extent for part in parts], ndim),
        block_start=_stacked([part.overlap.block_start for part in parts], ndim),
        block_extent=_stacked([part.overlap.block_extent for part in parts], ndim),
        target_start=_stacked([part.overlap.target_start for part in parts], ndim),
        strides=_stacked([np.tile(part.strides, (len(part.overlap.numbers), 1)) for part in parts], ndim),
        owners=_joined([part.owners for part in parts]),
        numbers=_joined([part.overlap.numbers[part.geometry] for part in parts]),
        incomplete=_joined([part.incomplete for part in parts]),
    )
    if not dtype.is_text:
        _check_sizes(plan, dtype.itemsize)
    return plan


@dataclass(frozen=True)
class _Part:
    overlap: Overlap
    rows: Integers
    geometry: Integers
    destinations: Integers
    owners: Integers
    incomplete: Integers
    strides: Integers


def _plan_member(index: ArrayIndex, dtype: DType, member: Member) -> _Part:
    overlap = member.schema.grid.overlap(member.selection)
    strides = result_strides(member.selection.shape, dtype.itemsize)
    rows = index.locate(member.ordinals, overlap.numbers)
    present = rows >= 0
    dataset, geometry = np.nonzero(present)
    targets = overlap.target_start @ strides if len(strides) else np.zeros(len(overlap.numbers), np.int64)
    return _Part(
        overlap,
        rows[present],
        geometry,
        member.bases[dataset] + targets[geometry],
        member.positions[dataset],
        member.positions[~present.all(axis=1)],
        strides,
    )


def _joined(pieces: Sequence[Integers]) -> Integers:
    return np.concatenate(pieces) if pieces else np.zeros(0, np.int64)


def _stacked(pieces: Sequence[Integers], ndim: int) -> Integers:
    return np.ascontiguousarray(np.concatenate(pieces) if pieces else np.zeros((0, ndim), np.int64))


def _check_sizes(plan: ReadPlan, itemsize: int) -> None:
    expected = np.prod(plan.chunk_extent, axis=1, dtype=np.int64)[plan.columns["geometry"]] * itemsize
    wrong = np.flatnonzero(expected != plan.columns["raw_length"])
    if len(wrong):
        row = int(wrong[0])
        raise CorruptIndex(
            f"chunk {plan.numbers[row]} is declared to hold {plan.columns['raw_length'][row]} bytes, "
            f"but its place in the array takes {expected[row]}"
        )
