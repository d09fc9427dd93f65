"""From pending changes to the columns of a new data file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from atlas.catalog import Catalog
from atlas.chunks import Box, Integers, in_steps
from atlas.columns import Texts, distinct, group_members, positions
from atlas.dtypes import DType
from atlas.errors import CorruptChunk, CorruptIndex
from atlas.pending import Block, Pending
from atlas.plan import Wanted
from atlas.reader import Snapshot
from atlas.schema import ArraySchema
from atlas.segment import CHUNK_COLUMNS, RESET, STATISTICS, Piece, StatisticsColumns, joined_cells
from atlas.statistics import (
    Statistics,
    cell_statistics,
    fill_statistics,
    row_statistics,
    statistics_dtype,
    statistics_of,
)
from atlas.writer import Growth, Held, HeldRows, PendingArray

# Cells that are read at a time when only some chunks of arrays are written and the statistics need the others.
_READ_BYTES = 64 << 20


@dataclass(frozen=True)
class Ordinals:
    """Where the datasets of a batch are in the dataset table that it will make.

    Attributes
    ----------
    loose : dict of str to int
    table : (n,) int64
        By number in the name table; -1 for those that are loose or gone.
    """

    loose: dict[str, int]
    table: Integers


@dataclass(frozen=True)
class Written:
    """What a batch writes of one array.

    Attributes
    ----------
    piece : Piece
        Chunks in the heap, with the statistics of each.
    schemas : list of ArraySchema
    codes : (E,) int64
        Which of them each dataset declares.
    growth : dict of int to Growth
        By ordinal, for arrays that only grew.
    """

    piece: Piece
    schemas: list[ArraySchema]
    codes: Integers
    growth: dict[int, Growth]


def gather(
    pending: Pending, array: str, loose: Sequence[tuple[str, PendingArray]], ordinals: Ordinals, catalog: Catalog
) -> Written:
    """Return what a batch writes of an array, all of it encoded.

    Parameters
    ----------
    loose : sequence of (str, PendingArray)
        The loose datasets that have it.
    catalog : Catalog
        The dataset table after the commit.
    """
    pieces = [_block_piece(pending, block, ordinals.table) for block in pending.blocks.get(array, ())]
    if loose:
        ordered = sorted(((ordinals.loose[name], pending) for name, pending in loose), key=lambda item: item[0])
        pieces.append(_loose_piece(ordered))
    # Defined anew concerns what is stored: blocks of one dataset do not void each other.
    reset = distinct(np.concatenate([np.zeros(0, np.int64), *(piece.reset for piece in pieces)]))
    pieces = [replace(piece, reset=reset[:0]) for piece in pieces if len(piece.entries)]
    piece = replace(Piece.merged(pieces), reset=reset)
    codes, schemas = catalog.layouts(array, piece.entries)
    growth = {ordinals.loose[name]: array.growth for name, array in loose if array.growth is not None}
    return Written(piece, schemas, codes, growth)


def _block_piece(pending: Pending, block: Block, table: Integers) -> Piece:
    places = table[block.ids]
    rows = np.flatnonzero(places >= 0)
    rows = rows[np.argsort(places[rows], kind="stable")]
    entries, count = places[rows], len(block.numbers)
    columns = block.rows.columns
    if len(rows) != len(block.ids) or (np.diff(rows) != 1).any():
        picked = (rows[:, None] * count + np.arange(count)).reshape(-1)
        columns = {name: column[picked] for name, column in columns.items()}
    columns["number"] = np.tile(block.numbers, len(rows))
    reset = entries[pending.by_batch(block.ids[rows])]
    return Piece(entries, np.arange(len(rows) + 1) * count, reset, columns)


def _loose_piece(items: Sequence[tuple[int, PendingArray]]) -> Piece:
    entries = np.array([ordinal for ordinal, _ in items], np.int64)
    counts = [len(array.chunks) for _, array in items]
    chunks = [(number, array.chunks[number]) for _, array in items for number in sorted(array.chunks)]
    reset = entries[[array.reset for _, array in items]]
    held = [chunk for _, chunk in chunks if isinstance(chunk, Held)]
    assert len(held) == len(chunks), "not every chunk that waits is encoded"
    columns = _held_columns(held)
    columns["number"] = np.array([number for number, _ in chunks], np.int64)
    return Piece(entries, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), reset, columns)


def _held_columns(chunks: Sequence[Held]) -> dict[str, NDArray[Any]]:
    places: dict[int, tuple[HeldRows, list[int], list[int]]] = {}
    for place, held in enumerate(chunks):
        _, own, rows = places.setdefault(id(held.rows), (held.rows, [], []))
        own.append(place)
        rows.append(held.row)
    parts = [held.take(np.array(rows)).columns for held, _, rows in places.values()]
    if not parts:
        nothing = np.zeros(0, np.int64)
        return dict.fromkeys((*CHUNK_COLUMNS, *StatisticsColumns._fields), nothing)
    order = np.argsort(np.concatenate([own for _, own, _ in places.values()]), kind="stable")
    return {name: joined_cells([part[name] for part in parts])[order] for name in parts[0]}


# ── statistics ───────────────────────────────────────────────────────────────────────────────────


def total_statistics(snapshot: Snapshot, written: Written) -> StatisticsColumns:
    """Return the statistics of the whole arrays: of the chunks written, and of those that stay as they are."""
    piece = written.piece
    totals = _Totals(len(piece.entries))
    owners = np.repeat(np.arange(len(piece.entries)), np.diff(piece.starts))
    totals.add(owners, StatisticsColumns(*(piece.columns[name] for name in StatisticsColumns._fields)))
    grown = []
    for ordinal, growth in written.growth.items():
        entry = int(np.searchsorted(piece.entries, ordinal))
        schema = written.schemas[int(written.codes[entry])]
        known = snapshot.statistics(schema.name, schema.dtype, ordinal)
        # A commit that only seemed to fail has counted what was added already: then stored chunks are looked at.
        if known is None or known.rows == math.prod(growth.shape):
            totals.add(np.array([entry]), _unchanged_statistics(known, schema, growth))
            grown.append(ordinal)
    cells = np.array([schema.cells for schema in written.schemas], np.int64)[written.codes]
    incomplete = np.flatnonzero(cells > totals.rows)
    complete = distinct(np.array([*piece.reset.tolist(), *grown], np.int64)) if grown else piece.reset
    kept = incomplete[positions(complete, piece.entries[incomplete]) < 0]
    for schema, entries, numbers in _alike(written, kept):
        _add_stored(snapshot, schema, piece.entries, entries, numbers, totals)
    for code, places in group_members(written.codes[incomplete]):
        schema, entries = written.schemas[code], incomplete[places]
        entries = entries[schema.cells > totals.rows[entries]]
        if len(entries):
            totals.add_fill(entries, schema)
    return totals.columns()


def _unchanged_statistics(known: Statistics | None, schema: ArraySchema, growth: Growth) -> StatisticsColumns:
    """Return the statistics of what is stored and has not changed; chunks that are written anew are not counted."""
    known = known or fill_statistics(schema.dtype, schema.fill, math.prod(growth.shape))
    known = replace(known, rows=known.rows - growth.rows, nulls=known.nulls - growth.nulls)
    return statistics_of([known], schema.dtype)


def _alike(written: Written, entries: Integers) -> list[tuple[ArraySchema, Integers, Integers]]:
    """Group datasets that declare the array alike, and of which the same chunks are written."""
    starts, numbers = written.piece.starts, written.piece.columns["number"]
    groups: dict[Any, list[int]] = {}
    for entry in entries.tolist():
        own = numbers[starts[entry] : starts[entry + 1]]
        groups.setdefault((int(written.codes[entry]), own.tobytes()), []).append(entry)
    return [
        (written.schemas[code], np.array(members), numbers[starts[members[0]] : starts[members[0] + 1]])
        for (code, _), members in groups.items()
    ]


def _add_stored(
    snapshot: Snapshot,
    schema: ArraySchema,
    ordinals: Integers,
    entries: Integers,
    written: Integers,
    totals: _Totals,
) -> None:
    """Add the statistics of stored chunks that are not written anew."""
    index = snapshot.index(schema.name)
    stored = [index.numbers_of(ordinal) for ordinal in ordinals[entries].tolist()]
    numbers = np.setdiff1d(np.concatenate(stored), written)
    for number in numbers.tolist():
        holders = entries[index.locate_all(ordinals[entries], np.array([number]))[:, 0] >= 0]
        box = schema.grid.extent(number)
        for rows in in_steps(len(holders), box.cells * schema.dtype.itemsize, _READ_BYTES):
            own = holders[rows]
            try:
                totals.add(own, _stored_statistics(snapshot, schema, box, ordinals[own]))
            except CorruptChunk:
                for entry in own:
                    totals.add(np.array([entry]), _bounded_statistics(snapshot, schema, box, int(ordinals[entry])))


def _stored_statistics(snapshot: Snapshot, schema: ArraySchema, box: Box, ordinals: Integers) -> StatisticsColumns:
    wanted = [Wanted(schema, box, np.arange(len(ordinals)), ordinals)]
    parts = snapshot.read_boxes(schema.name, schema.dtype, wanted)
    if schema.dtype.is_text:
        return statistics_of([cell_statistics(schema.dtype, schema.fill, part) for part in parts], schema.dtype)
    return row_statistics(schema.dtype, schema.fill, np.stack(parts))


def _bounded_statistics(snapshot: Snapshot, schema: ArraySchema, box: Box, ordinal: int) -> StatisticsColumns:
    try:
        return _stored_statistics(snapshot, schema, box, np.array([ordinal]))
    except CorruptChunk:
        # A chunk that is damaged must not keep the others from being written anew: what was known of the whole
        # array bounds it.
        known = snapshot.statistics(schema.name, schema.dtype, ordinal) or Statistics(0, 0)
        return statistics_of([replace(known, rows=box.cells, nulls=0)], schema.dtype)


class _Totals:
    """Statistics of datasets, summed up over their chunks."""

    def __init__(self, count: int) -> None:
        self.rows = np.zeros(count, np.int64)
        self._nulls = np.zeros(count, np.int64)
        self._valid = np.zeros(count, bool)
        self._bounds: list[NDArray[Any] | None] = [None, None]

    def add(self, owners: Integers, part: StatisticsColumns) -> None:
        """Add statistics of chunks, each of the dataset beside it; the datasets are ascending."""
        if not len(owners):
            return
        # np.bincount would add up floats, which count no further than 2 to the power of 53.
        firsts = _firsts(owners)
        self.rows[owners[firsts]] += np.add.reduceat(part.rows, firsts, dtype=np.int64)
        self._nulls[owners[firsts]] += np.add.reduceat(part.nulls, firsts, dtype=np.int64)
        valid = np.flatnonzero(part.valid)
        if not len(valid):
            return
        own = owners[valid]
        firsts = _firsts(own)
        for side, (cells, pick) in enumerate(((part.minimum, np.minimum), (part.maximum, np.maximum))):
            self._put(side, own[firsts], pick.reduceat(cells[valid], firsts), pick)
        self._valid[own] = True

    def _put(self, side: int, entries: Integers, cells: NDArray[Any], pick: Any) -> None:
        known = self._bounds[side]
        if known is None:
            known = np.zeros(len(self.rows), cells.dtype)
        elif known.dtype != cells.dtype:
            known, cells = known.astype(object), cells.astype(object)
        there = self._valid[entries]
        known[entries[~there]] = cells[~there]
        known[entries[there]] = pick(known[entries[there]], cells[there])
        self._bounds[side] = known

    def add_fill(self, entries: Integers, schema: ArraySchema) -> None:
        """Add the cells that were never written."""
        missing = schema.cells - self.rows[entries]
        one = fill_statistics(schema.dtype, schema.fill, 1)
        single = statistics_of([one], schema.dtype)
        rows = [np.repeat(column, len(entries)) for column in single]
        self.add(entries, StatisticsColumns(missing, missing * one.nulls, *rows[2:]))

    def columns(self) -> StatisticsColumns:
        """Return the sums."""
        nothing = np.zeros(len(self.rows), np.int64)
        low, high = (nothing if bound is None else bound for bound in self._bounds)
        return StatisticsColumns(self.rows, self._nulls, self._valid, low, high)


def _firsts(owners: Integers) -> Integers:
    """Return where each of some owners, who are ascending, begins."""
    return np.flatnonzero(np.concatenate([[True], np.diff(owners) != 0]))


def entry_columns(
    entries: Integers, counts: Integers, reset: Integers, dtypes: Sequence[DType], found: StatisticsColumns
) -> dict[str, Any]:
    """Return the columns that a data file has of datasets.

    Parameters
    ----------
    dtypes : sequence of DType
        Every type that they declare the array with.
    """
    flags = np.where(positions(reset, entries) >= 0, RESET, 0) | np.where(found.valid, STATISTICS, 0)
    columns = {
        "ordinal": entries.astype("<u4"),
        "count": np.asarray(counts).astype("<u4"),
        "flags": flags.astype("u1"),
        "rows": found.rows.astype("<u8"),
        "nulls": found.nulls.astype("<u8"),
    }
    kinds = {statistics_dtype(dtype) for dtype in dtypes}
    for name, cells in (("min", found.minimum), ("max", found.maximum)):
        columns |= _bound_column(name, cells, found.valid, kinds)
    return columns


def _bound_column(name: str, cells: Any, valid: NDArray[np.bool_], kinds: set[str]) -> dict[str, Any]:
    """Return smallest or largest cells as a column; as MessagePack values where types share no representation."""
    if len(kinds) > 1:
        values = [value if there else None for value, there in zip(cells.tolist(), valid.tolist(), strict=True)]
        return {f"{name}_any": [msgpack.packb(value) for value in values]}
    (kind,) = kinds
    try:
        if kind == "bytes":
            return {name: cells if isinstance(cells, Texts) else Texts.of([value or b"" for value in cells.tolist()])}
        return {name: np.asarray(cells).astype(kind)}
    except (TypeError, ValueError, OverflowError) as error:
        # Of a file that is taken into a new one, and that was not written by Atlas.
        raise CorruptIndex(f"stored statistics do not fit the type of their array: {error}") from None
