"""Data files (``.af``): chunk payloads back to back, then a columnar index.

::

    magic "ATLASAF1" | file id, 16 bytes | payloads … | columns … | directory | directory length, u64

The index is the part from the first column to the end. The root vouches for the directory by its
hash, the directory for every column, and the ``checksum`` column for every payload.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import msgpack
import numpy as np
from numpy.typing import NDArray

from atlas.columnfile import Area, ColumnFile, DataFile, finish_file
from atlas.columns import Integers, Texts, distinct, positions
from atlas.errors import CorruptIndex
from atlas.forks import cached_property
from atlas.storage import DataWriter

MAGIC = b"ATLASAF1"
HEADER_LENGTH = len(MAGIC) + 16

# Entry flags.
RESET = 1  # the array was defined anew: what older files hold for the dataset is void
STATISTICS = 2  # min and max are valid

# Payloads from this size on begin where the words in them can be read in place, without a copy.
ALIGNED_FROM = 1024
ALIGNMENT = 8

# So much longer than a chunk its payload may be, besides an eighth.
_MOST_BESIDES = 1024

# Types of numbers that bounds are kept in.
_BOUNDS = ("<i8", "<u8", "<f8")

_ENTRY_COLUMNS = {"ordinal": "<u4", "count": "<u4", "flags": "|u1", "rows": "<u8", "nulls": "<u8"}
_CHUNK_COLUMNS = {"number": "<u8", "offset": "<u8", "length": "<u8", "raw_length": "<u8"}
_EXACT_COLUMNS = {"pipeline": "|u1", "checksum": "<u8"}

CHUNK_COLUMNS = (*_CHUNK_COLUMNS, *_EXACT_COLUMNS)


class SegmentWriter:
    """Writes one data file: payloads as they come, the index at the end.

    Parameters
    ----------
    writer : DataWriter
        Where the bytes go, or go on.
    key : str
        The file's place in the store.
    file_id : bytes
        16 bytes that no other file has.
    recorded : bool
        Whether the record of the commit has a copy of the index.
    """

    def __init__(self, writer: DataWriter, key: str, file_id: bytes, recorded: bool = True) -> None:
        self._writer = writer
        self._key = key
        self._recorded = recorded
        if not writer.position:
            writer.write(MAGIC + file_id)
        # Once the file is finished: its entry in the root, and a copy of its index.
        self.written: tuple[DataFile, bytes | bytearray] | None = None

    def append(self, payload: Any) -> int:
        """Write a payload and return its offset."""
        if len(payload) >= ALIGNED_FROM:
            self._writer.write(bytes(-self._writer.position % ALIGNMENT))
        offset = self._writer.position
        self._writer.write(payload)
        return offset

    def finish(self, array: str, columns: dict[str, Any], head: Mapping[str, Any] | None = None) -> DataFile:
        """Write the index; the file is not yet durable.

        Parameters
        ----------
        array : str
        columns : dict
            Entry columns ``ordinal, count, flags, rows, nulls, min, max`` and chunk columns
            ``number, offset, length, raw_length, pipeline, checksum``, entries in ascending
            order, each entry's chunks in ascending order.
        head : mapping, optional
            What else the directory says.
        """
        cast = {name: _cast(name, values) for name, values in columns.items()}
        file, index = finish_file(self._writer, self._key, {"array": array, **(head or {})}, cast)
        self.written = file if self._recorded else replace(file, commit=""), index
        return self.written[0]


def _cast(name: str, values: Any) -> Any:
    return values if isinstance(values, (list, Texts)) else np.ascontiguousarray(values, _column_dtype(name, values))


def _column_dtype(name: str, values: Any) -> Any:
    wanted = _ENTRY_COLUMNS.get(name) or _CHUNK_COLUMNS.get(name) or _EXACT_COLUMNS.get(name)
    if name in _CHUNK_COLUMNS and (not len(values) or int(np.max(values)) < 1 << 32):
        return "<u4"
    return wanted or np.dtype(values.dtype).newbyteorder("<")


class StatisticsColumns(NamedTuple):
    """Statistics of many datasets: (n,) integers, bools, and bounds as numbers, Texts or a list."""

    rows: NDArray[Any]
    nulls: NDArray[Any]
    valid: NDArray[np.bool_]
    minimum: Any
    maximum: Any


class SegmentIndex(ColumnFile):
    """The index of one data file; columns are checked and decoded when first asked for.

    Parameters
    ----------
    area : Area
        The bytes of the index, as the root locates them.
    file : DataFile
    array : str
        The array that the file must belong to.

    Raises
    ------
    CorruptIndex
        If the index is not what the root vouches for.
    """

    def __init__(self, area: Area, file: DataFile, array: str) -> None:
        super().__init__(area, file)
        self._limit = file.index_offset
        owner = self.head.get("array")
        self.expect(owner == array, f"it belongs to array {owner!r}, not {array!r}")

    @cached_property
    def statistics(self) -> StatisticsColumns:
        """The statistics of every dataset in the file."""
        rows, nulls, flags = (self.integers(name) for name in ("rows", "nulls", "flags"))
        valid = (flags & STATISTICS) != 0
        columns = StatisticsColumns(rows, nulls, valid, self._bound("min", valid), self._bound("max", valid))
        self.expect({len(column) for column in columns} == {len(self.entries)}, "its columns differ in length")
        return columns

    def _bound(self, name: str, valid: NDArray[np.bool_]) -> Any:
        if name in self:
            bounds = self.column(name)
            fits = isinstance(bounds, Texts) or bounds.dtype.str in _BOUNDS
            self.expect(fits, f"column {name!r} holds something else than bounds")
            return bounds
        cells = self.column(f"{name}_any")
        self.expect(isinstance(cells, Texts), f"column '{name}_any' holds no values")
        try:
            values = [msgpack.unpackb(cell) for cell in cells.tolist()]
        except (ValueError, msgpack.UnpackException) as error:
            raise CorruptIndex(f"a statistic of array {self.head['array']!r} cannot be decoded: {error}") from None
        kinds = {type(value) for value, there in zip(values, valid.tolist(), strict=False) if there}
        self.expect(kinds <= {bool, int, float, bytes}, f"column '{name}_any' holds something else than bounds")
        return values

    @cached_property
    def entries(self) -> Integers:
        """Ordinals of the datasets in the file, ascending."""
        ordinals = self.integers("ordinal").astype(np.int64)
        self.expect((np.diff(ordinals) > 0).all() and (ordinals[:1] >= 0).all(), "its entries are out of order")
        return np.asarray(ordinals)

    @cached_property
    def starts(self) -> Integers:
        """First chunk row of every entry, and the number of rows at the end."""
        counts = self.integers("count")
        self.expect(len(counts) == len(self.entries), "its columns differ in length")
        # Each by itself first: a sum of forged numbers may wrap around.
        self.expect((counts <= self.most_rows).all(), "a dataset has an absurd number of chunks")
        return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])

    def chunk_columns(self) -> dict[str, Integers]:
        """Return the chunk columns, checked to lie within the file's payloads."""
        columns = {name: self.integers(name) for name in CHUNK_COLUMNS}
        rows = int(self.starts[-1])
        self.expect(all(len(column) == rows for column in columns.values()), "its columns differ in length")
        # Kernels read these as they are.
        for name, dtype in _EXACT_COLUMNS.items():
            self.expect(columns[name].dtype == dtype, f"column {name!r} is not of type {dtype!r}")
        for name in _CHUNK_COLUMNS:
            columns[name] = columns[name].astype(np.int64)
            self.expect((columns[name] >= 0).all(), f"column {name!r} is out of range")
        # First each by itself: a sum of forged numbers may wrap around.
        self.expect(all((columns[n] <= self._limit).all() for n in ("offset", "length")), "a chunk lies outside")
        ends = columns["offset"] + columns["length"]
        self.expect((columns["offset"] >= HEADER_LENGTH).all() and (ends <= self._limit).all(), "a chunk lies outside")
        # What does not get smaller is kept as it is, beside hashes. In a file, holes of any length cost nothing.
        most = columns["raw_length"] + (columns["raw_length"] >> 3) + _MOST_BESIDES
        self.expect((columns["length"] <= most).all(), "a payload is larger than its chunk")
        rising = np.diff(columns["number"]) > 0
        rising[self.starts[1:-1][(self.starts[1:-1] > 0) & (self.starts[1:-1] < rows)] - 1] = True
        self.expect(rising.all(), "chunks are out of order")
        self.expect(_apart(columns["offset"], ends), "chunks overlap")
        return columns


def _apart(offsets: Integers, ends: Integers) -> bool:
    """Whether no two payloads share bytes; they are written one behind the other as a rule."""
    if (offsets[1:] >= ends[:-1]).all():
        return True
    stored = ends > offsets
    order = np.argsort(offsets[stored], kind="stable")
    return bool((offsets[stored][order][1:] >= ends[stored][order][:-1]).all())


@dataclass(frozen=True)
class ArrayIndex:
    """Where every chunk of an array is, over all its data files.

    Rows are in ascending order of (ordinal, chunk number).

    Attributes
    ----------
    files : tuple of DataFile
    entries : (E,) ordinals with data, ascending
    starts : (E + 1,) first row of each
    columns : dict of (rows,) arrays
        ``file, number, offset, length, raw_length, pipeline, checksum``.
    """

    files: tuple[DataFile, ...]
    entries: Integers
    starts: Integers
    columns: dict[str, NDArray[Any]]

    @staticmethod
    def merge(files: Sequence[DataFile], indexes: Iterable[SegmentIndex]) -> ArrayIndex:
        """Merge the indexes of an array's data files, oldest first; newer chunks win."""
        merged = Piece.merged([Piece.load(number, index) for number, index in enumerate(indexes)])
        return ArrayIndex(tuple(files), merged.entries, merged.starts, merged.columns)

    @cached_property
    def dense(self) -> bool:
        """Whether every entry holds the chunks 0, 1, 2 … without a gap."""
        rows = np.arange(len(self.columns["number"])) if self.columns else np.zeros(0, np.int64)
        expected = rows - np.repeat(self.starts[:-1], np.diff(self.starts))
        return bool((expected == self.columns["number"]).all()) if self.columns else True

    def numbers_of(self, ordinal: int) -> Integers:
        """Return the chunks that are stored of one dataset, ascending."""
        position = int(np.searchsorted(self.entries, ordinal))
        if position == len(self.entries) or self.entries[position] != ordinal:
            return np.zeros(0, np.int64)
        found: Integers = self.columns["number"][self.starts[position] : self.starts[position + 1]]
        return found

    def locate_one(self, ordinal: int, number: int) -> int:
        """Return the row of one chunk of one dataset, -1 where it was never written."""
        position = int(np.searchsorted(self.entries, ordinal))
        if position == len(self.entries) or self.entries[position] != ordinal:
            return -1
        first, last = int(self.starts[position]), int(self.starts[position + 1])
        numbers, row = self.columns["number"], first + number
        if row >= last or numbers[row] != number:
            # Chunks before it were never written.
            row = first + int(np.searchsorted(numbers[first:last], number))
        return row if row < last and numbers[row] == number else -1

    def locate(self, ordinals: Integers, counts: Integers | int, numbers: Integers) -> Integers:
        """Return the rows of chunks, -1 where one was never written.

        Parameters
        ----------
        ordinals : (n,) of datasets
        counts : (n,) or int, how many chunks of each are looked for
        numbers : (m,) which ones, those of one dataset after those of the other

        Returns
        -------
        (m,) int64
        """
        if not len(self.entries):
            return np.full(len(numbers), -1, np.int64)
        entry = positions(self.entries, ordinals)
        known, entry = np.repeat(entry >= 0, counts), np.maximum(entry, 0)
        if self.dense:
            rows = np.repeat(self.starts[entry], counts) + numbers
            return np.where(known & (rows < np.repeat(self.starts[entry + 1], counts)), rows, -1)
        known_numbers, keys = self._keys
        span = len(known_numbers) + 1  # the last one stands for all that are not stored
        places = positions(known_numbers, numbers)
        wanted = np.repeat(entry * span, counts) + np.where(places < 0, span - 1, places)
        rows = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where(known & (keys[rows] == wanted), rows, -1)

    def locate_all(self, ordinals: Integers, numbers: Integers) -> Integers:
        """Return the row of each of some chunks of every dataset, -1 where it was never written.

        Returns
        -------
        (len(ordinals), len(numbers)) int64
        """
        counts = np.full(len(ordinals), len(numbers))
        return self.locate(ordinals, counts, np.tile(numbers, len(ordinals))).reshape(len(ordinals), len(numbers))

    @cached_property
    def _keys(self) -> tuple[Integers, Integers]:
        """The chunk numbers that there are, and, ascending, each chunk's entry and place among these as one integer.

        With the numbers themselves, which may be as large as there are cells, such integers could be too large.
        """
        numbers = distinct(self.columns["number"])
        owners = np.repeat(np.arange(len(self.entries)), np.diff(self.starts))
        return numbers, owners * (len(numbers) + 1) + positions(numbers, self.columns["number"])


@dataclass(frozen=True)
class Piece:
    """What one source says of an array: datasets, and chunks with any columns.

    Attributes
    ----------
    entries : (E,) ordinals, ascending
    starts : (E + 1,) first row of each
    reset : ordinals whose older chunks are void, ascending
    columns : dict of (rows,) arrays
        ``number``, ``file``, and whatever else is known of a chunk.
    """

    entries: Integers
    starts: Integers
    reset: Integers
    columns: dict[str, NDArray[Any]]

    @staticmethod
    def load(number: int, index: SegmentIndex) -> Piece:
        """Return what a data file says; `number` goes into the column ``file``."""
        columns: dict[str, NDArray[Any]] = dict(index.chunk_columns())
        columns["file"] = np.broadcast_to(np.int32(number), (int(index.starts[-1]),))
        flags = index.integers("flags")
        index.expect(len(flags) == len(index.entries), "its columns differ in length")
        return Piece(index.entries, index.starts, index.entries[(flags & RESET) != 0], columns)

    @property
    def row_ordinals(self) -> Integers:
        """The dataset of every row."""
        return np.repeat(self.entries, np.diff(self.starts))

    @staticmethod
    def merged(pieces: Sequence[Piece]) -> Piece:
        """Return pieces, oldest first, as one; newer chunks win."""
        if not pieces:
            nothing = np.zeros(0, np.int64)
            return Piece(nothing, np.zeros(1, np.int64), nothing, {})
        if len(pieces) == 1:
            return pieces[0]
        columns = {name: joined_cells([piece.columns[name] for piece in pieces]) for name in pieces[0].columns}
        entries = np.concatenate([piece.entries for piece in pieces])
        reset = distinct(np.concatenate([piece.reset for piece in pieces]))
        if (np.diff(entries) > 0).all():
            # New datasets only: they come behind the others, and nothing is replaced.
            counts = np.concatenate([np.diff(piece.starts) for piece in pieces])
            return Piece(entries, np.concatenate([[0], np.cumsum(counts)]), reset, columns)
        ordinals = np.concatenate([piece.row_ordinals for piece in pieces])
        age = np.repeat(np.arange(len(pieces)), [len(piece.columns["number"]) for piece in pieces])
        order = np.lexsort((age, columns["number"], ordinals))
        order = order[~_voided(pieces, ordinals, age)[order]]
        same = np.zeros(len(order), bool)
        if len(order) > 1:
            after, before = order[1:], order[:-1]
            same[:-1] = (ordinals[after] == ordinals[before]) & (columns["number"][after] == columns["number"][before])
        order = order[~same]
        entries = distinct(entries)
        starts = np.append(np.searchsorted(ordinals[order], entries), len(order))
        return Piece(entries, starts, reset, {name: column[order] for name, column in columns.items()})


def joined_cells(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return columns below each other; those without a common exact type as Python objects."""
    if len({part.dtype for part in parts}) > 1:
        parts = [part.astype(object) for part in parts]
    return np.concatenate(parts)


def _voided(pieces: Sequence[Piece], ordinals: Integers, age: Integers) -> NDArray[np.bool_]:
    voided = np.zeros(len(ordinals), bool)
    for number, piece in enumerate(pieces):
        if len(piece.reset):
            voided |= (age < number) & np.isin(ordinals, piece.reset)
    return voided
