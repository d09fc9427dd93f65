"""Columns of values, one per dataset, without a Python object for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from atlas.attributes import element_type
from atlas.dtypes import decode_float, encode_float
from atlas.errors import CorruptStore, InvalidArgument

Integers = NDArray[np.int64]


def runs(rows: NDArray[Any]) -> tuple[Integers, Integers]:
    """Return the first row and the length of every run of consecutive rows."""
    if not len(rows):
        return rows, rows
    begins = np.concatenate([[0], np.flatnonzero(np.diff(rows) != 1) + 1])
    return rows[begins], np.diff(np.append(begins, len(rows)))


def _follow(rows: NDArray[Any]) -> bool:
    """Tell whether rows follow each other without gaps."""
    return bool((np.diff(rows) == 1).all())


def are_all(rows: NDArray[Any], count: int) -> bool:
    """Return whether rows are all of so many, in order."""
    return len(rows) == count and _follow(rows)


def copies(columns: Mapping[str, NDArray[Any]], names: Sequence[str], rows: Integers) -> dict[str, NDArray[Any]]:
    """Return some rows of some columns, copied; of rows that follow each other sooner than by looking at each."""
    if len(rows) and _follow(rows):
        part = slice(int(rows[0]), int(rows[0]) + len(rows))
        return {name: columns[name][part].copy() for name in names}
    return {name: columns[name][rows] for name in names}


def distinct(values: NDArray[Any]) -> NDArray[Any]:
    """Return the values in order, each once. NumPy's own function would load masked arrays for it."""
    ordered = np.sort(values)
    return ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])] if len(ordered) else ordered


def group_members(codes: NDArray[np.integer]) -> list[tuple[int, Integers]]:
    """Return the distinct values of a column, ascending, each with the rows that have it."""
    if len(codes) and (codes == codes[0]).all():
        return [(int(codes[0]), np.arange(len(codes)))]
    order = np.argsort(codes, kind="stable")
    edges = np.flatnonzero(np.diff(codes[order])) + 1
    return [(int(codes[piece[0]]), piece) for piece in np.split(order, edges) if len(piece)]


def positions(ascending: Integers, wanted: Integers) -> Integers:
    """Return where each value is in an ascending array, or -1."""
    size = len(ascending)
    if not size or not len(wanted):
        return np.full(len(wanted), -1, np.int64)
    first = int(ascending[0])
    if int(ascending[-1]) - first == size - 1:
        places = wanted - first
        return np.where((places >= 0) & (places < size), places, -1)
    places = np.minimum(np.searchsorted(ascending, wanted), size - 1)
    return np.where(ascending[places] == wanted, places, -1)


class Texts:
    """Byte strings back to back.

    Parameters
    ----------
    data : (bytes,) uint8
    ends : (n,) int64
        Where each string ends in `data`; it begins where the one before ends.
    """

    __slots__ = ("data", "ends")

    def __init__(self, data: NDArray[np.uint8], ends: Integers) -> None:
        self.data = data
        self.ends = ends

    @staticmethod
    def of(cells: Sequence[bytes]) -> Texts:
        """Return a sequence of byte strings as one."""
        lengths = np.fromiter(map(len, cells), np.int64, len(cells))
        return Texts(np.frombuffer(b"".join(cells), np.uint8), np.cumsum(lengths))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> bytes:
        begin = int(self.ends[row - 1]) if row else 0
        return self.data[begin : int(self.ends[row])].tobytes()

    def begins_of(self, rows: NDArray[Any]) -> Integers:
        """Return where the strings of some rows begin."""
        # Signed first: row 0 of an unsigned column has one before it that is not there.
        return np.where(rows > 0, self.ends[rows.astype(np.int64) - 1], 0)

    @property
    def lengths(self) -> Integers:
        """Bytes of each string."""
        return np.diff(self.ends, prepend=0)

    def tolist(self) -> list[bytes]:
        """Return the strings."""
        data, ends = self.data.tobytes(), self.ends.tolist()
        return [data[begin:end] for begin, end in zip([0, *ends[:-1]], ends, strict=True)] if ends else []

    def take(self, rows: NDArray[Any]) -> Texts:
        """Return the strings of some rows."""
        firsts, counts = runs(rows)
        begins, ends = self.begins_of(firsts).tolist(), self.ends[firsts + counts - 1].tolist()
        pieces = [self.data[begin:end] for begin, end in zip(begins, ends, strict=True)]
        data = np.concatenate(pieces) if pieces else np.zeros(0, np.uint8)
        return Texts(data, np.cumsum(self.ends[rows] - self.begins_of(rows)))

    def matches(self, rows: Integers, others: Texts, places: Integers) -> NDArray[np.bool_]:
        """Return which strings of some rows are those at as many places of `others`."""
        begins, other_begins = self.begins_of(rows), others.begins_of(places)
        lengths = self.ends[rows] - begins
        same: NDArray[np.bool_] = lengths == others.ends[places] - other_begins
        if same.all() and _follow(rows) and _follow(places):
            # All in one piece in both: usually equal as a whole.
            size = int(lengths.sum())
            first, other = (int(column[0]) if size else 0 for column in (begins, other_begins))
            if np.array_equal(self.data[first : first + size], others.data[other : other + size]):
                return same
        begins, other_begins, lengths = begins[same], other_begins[same], lengths[same]
        within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        differs = (
            self.data[np.repeat(begins, lengths) + within] != others.data[np.repeat(other_begins, lengths) + within]
        )
        same[np.flatnonzero(same)[np.repeat(np.arange(len(lengths)), lengths)[differs]]] = False
        return same

    @staticmethod
    def joined(parts: Sequence[Texts]) -> Texts:
        """Return several as one."""
        lengths = np.concatenate([part.lengths for part in parts])
        return Texts(np.concatenate([part.data for part in parts]), np.cumsum(lengths))


Cells = NDArray[Any] | Texts


@dataclass(frozen=True)
class Column:
    """One value for each of many rows.

    Attributes
    ----------
    rows : int
    cells : (rows,) or (1,) array or Texts
        A single cell stands for all rows.
    """

    rows: int
    cells: Cells

    @property
    def constant(self) -> bool:
        """Whether one cell stands for all rows."""
        return len(self.cells) == 1

    def cell(self, row: int) -> Any:
        """Return the cell of one row."""
        return self.cells[0 if self.constant else row]

    def take(self, rows: NDArray[Any]) -> Column:
        """Return the column of some rows."""
        if self.constant:
            return Column(len(rows), self.cells) if len(rows) else Column(0, self.cells)
        if are_all(rows, self.rows):
            return self
        cells = self.cells.take(rows) if isinstance(self.cells, Texts) else self.cells[rows]
        return Column(len(rows), cells)

    def spread(self) -> Cells:
        """Return a cell for every row."""
        if not self.constant or self.rows == 1:
            return self.cells
        if isinstance(self.cells, Texts):
            size = len(self.cells.data)
            return Texts(np.tile(self.cells.data, self.rows), np.arange(1, self.rows + 1) * size)
        return np.broadcast_to(self.cells, (self.rows,))

    @staticmethod
    def joined(parts: Sequence[Column]) -> Column:
        """Return several columns of one kind below each other."""
        parts = [part for part in parts if part.rows] or list(parts[:1])
        rows = sum(part.rows for part in parts)
        first = parts[0].cells
        if all(part.constant and _bytes(part.cells) == _bytes(first) for part in parts):
            return Column(rows, first)
        spread = [part.spread() for part in parts]
        texts = [cells for cells in spread if isinstance(cells, Texts)]
        numbers = [cells for cells in spread if not isinstance(cells, Texts)]
        return Column(rows, Texts.joined(texts) if texts else np.concatenate(numbers))


def _bytes(cells: Cells) -> bytes:
    # Compared as bytes: -0.0 is not 0.0, and a NaN is itself.
    return (cells.data if isinstance(cells, Texts) else cells).tobytes()


def integer_column(values: Any) -> Column:
    """Return integers as a column; one cell when all are the same."""
    return _shortened(np.asarray(values, np.int64))


def _shortened(cells: Cells) -> Column:
    rows = len(cells)
    if rows > 1:
        if isinstance(cells, Texts):
            lengths = cells.lengths
            first = cells.data[: lengths[0]]
            same = (lengths == lengths[0]).all() and (cells.data.reshape(rows, lengths[0]) == first).all()
            cells = Texts(first, cells.ends[:1]) if same else cells
        elif (cells.view(f"V{cells.itemsize}") == cells[:1].view(f"V{cells.itemsize}")).all():
            cells = cells[:1]
    return Column(rows, cells)


# ── attribute values ─────────────────────────────────────────────────────────────────────────────


def cell_type(tag: str) -> str:
    """Return the kind of cells that hold attributes of a type: a NumPy type string, ``text`` or ``packed``."""
    if tag.endswith("[]"):
        return "packed"
    element = element_type(tag)
    if element in ("string", "binary"):
        return "text"
    if element == "bool":
        return "|b1"
    return "<f8" if element.startswith("float") else "<u8" if element.startswith("uint") else "<i8"


def values_column(tag: str, values: Sequence[Any]) -> Column:
    """Return JSON-able attribute values of one type as a column.

    Raises
    ------
    InvalidArgument
        If a value is not of that type.
    """
    try:
        return _shortened(_values_cells(cell_type(tag), values))
    except (TypeError, ValueError, OverflowError, AttributeError) as error:
        raise InvalidArgument(f"a column of {tag!r} holds something else: {error}") from None


def _values_cells(kind: str, values: Sequence[Any]) -> Cells:
    if kind == "packed":
        return Texts.of([msgpack.packb(value) for value in values])
    if kind == "text":
        return Texts.of([value.encode("utf-8") for value in values])
    types = set(map(type, values))
    if kind == "<f8":
        return np.array(values if types <= {float} else [decode_float(value) for value in values], "<f8")
    if types - {bool if kind == "|b1" else int}:
        raise TypeError(f"{', '.join(sorted(t.__name__ for t in types))} among numbers")
    return np.array(values, kind)


def cell_value(tag: str, cell: Any) -> Any:
    """Return the JSON-able value of a cell.

    Raises
    ------
    CorruptStore
        If the cell makes no sense.
    """
    kind = cell_type(tag)
    try:
        if kind == "packed":
            return msgpack.unpackb(cell)
        if kind == "text":
            return cell.decode("utf-8")
    except (ValueError, msgpack.UnpackException) as error:
        raise CorruptStore(f"an attribute of type {tag!r} cannot be decoded: {error}") from None
    return encode_float(float(cell)) if kind == "<f8" else bool(cell) if kind == "|b1" else int(cell)


def column_values(tag: str, column: Column) -> list[Any]:
    """Return the JSON-able values of a column."""
    if column.constant:
        return [cell_value(tag, column.cells[0])] * column.rows
    cells = column.cells.tolist()
    return cells if cell_type(tag) in ("<i8", "<u8", "|b1") else [cell_value(tag, cell) for cell in cells]
