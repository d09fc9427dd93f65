"""Statistics and attributes of all datasets by column: what can be known without reading a chunk."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas.attributes import decode_attribute, element_type
from atlas.catalog import Catalog
from atlas.columns import Column, Integers, Texts, cell_type, column_values, group_members
from atlas.dtypes import objects, parse_dtype
from atlas.errors import CorruptStore
from atlas.reader import Snapshot
from atlas.statistics import fill_statistics, statistics_dtype

# Text is compared as fixed-width bytes up to this length, which is what NumPy does at speed.
_WIDE = 256


@dataclass(frozen=True)
class Bounds:
    """What is known of one column, over all ordinals.

    Attributes
    ----------
    present : (slots,) bool
        Whether the dataset has the array or attribute.
    valid : (slots,) bool
        Whether `minimum` and `maximum` hold something.
    minimum, maximum : (slots,) int64, uint64, float64, ``S`` or object array
    rows, nulls : (slots,) int64
        Cells, and how many of them equal the declared fill value.
    """

    present: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    minimum: NDArray[Any]
    maximum: NDArray[Any]
    rows: Integers
    nulls: Integers

    def to_dict(self) -> dict[str, Any]:
        """Return the form that users see."""
        return {
            "present": self.present,
            "stats_valid": self.valid,
            "min": _shown(self.minimum, self.valid),
            "max": _shown(self.maximum, self.valid),
            "row_count": self.rows,
            "null_count": self.nulls,
        }

    def summary(self) -> dict[str, Any]:
        """Return ``{"min", "max", "present_count"}`` over all datasets."""
        return {
            "min": _extreme(self.minimum[self.valid], min),
            "max": _extreme(self.maximum[self.valid], max),
            "present_count": int(np.count_nonzero(self.present)),
        }


def _extreme(cells: NDArray[Any], pick: Any) -> Any:
    if not len(cells):
        return None
    if cells.dtype.kind in "SO":
        # As a list: NumPy's min has no loop for bytes. Text and numbers have no common order.
        values = cells.tolist()
        return None if len({isinstance(value, bytes) for value in values}) > 1 else pick(values)
    return (cells.min() if pick is min else cells.max()).item()


def _shown(cells: NDArray[Any], valid: NDArray[np.bool_]) -> Any:
    if cells.dtype.kind not in "SO":
        return cells
    shown = cells.astype(object)
    shown[~valid] = None
    return shown.tolist()


class _Bound:
    """One column of bounds while it is put together from pieces of possibly different types."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._pieces: list[tuple[Integers, NDArray[Any]]] = []

    def put(self, ordinals: Integers, cells: Any) -> None:
        """Take the cells of some ordinals; later ones win."""
        self._pieces.append((ordinals, comparable(cells) if isinstance(cells, Texts) else _array(cells)))

    def result(self) -> NDArray[Any]:
        """Return the column over all ordinals."""
        types = {cells.dtype for _, cells in self._pieces if len(cells)}
        # What has no common type without loss stays Python objects.
        exact = len(types) == 1 or {dtype.kind for dtype in types} == {"S"}
        dtype = max(types, key=lambda t: t.itemsize) if exact else np.dtype(object if types else "f8")
        if len(self._pieces) == 1 and len(self._pieces[0][0]) == self._slots:
            return self._pieces[0][1]
        column = np.zeros(self._slots, dtype)
        for ordinals, cells in self._pieces:
            column[ordinals] = cells
        return column


def _array(cells: Any) -> NDArray[Any]:
    if isinstance(cells, list):
        return objects(cells)
    column = np.asarray(cells)
    return column.astype("u8") if column.dtype.kind == "b" else column


def comparable(texts: Texts) -> NDArray[Any]:
    """Return byte strings as an array that compares element by element."""
    lengths = texts.lengths
    width = int(lengths.max(initial=1))
    if width > _WIDE or width * len(texts) > _WIDE << 20 or not texts.data.all():
        # NumPy's fixed-width bytes cannot tell trailing zeros.
        return _array(texts.tolist())
    cells = np.zeros((len(texts), width), np.uint8)
    cells[np.arange(width) < lengths[:, None]] = texts.data
    return cells.view(f"S{width}").reshape(-1)


def live_mask(catalog: Catalog) -> NDArray[np.bool_]:
    """Return which ordinals have a dataset."""
    live = np.zeros(catalog.columns_length, bool)
    live[catalog.ordinals] = True
    return live


def array_bounds(snapshot: Snapshot, array: str) -> Bounds:
    """Return the statistics of an array of every dataset; those of datasets without it are zeros."""
    catalog = snapshot.root.catalog
    slots, live = catalog.columns_length, catalog.ordinals
    present, seen, valid = np.zeros(slots, bool), np.zeros(slots, bool), np.zeros(slots, bool)
    present[live] = catalog.having(array, live)
    rows, nulls, low, high = np.zeros(slots, np.int64), np.zeros(slots, np.int64), _Bound(slots), _Bound(slots)
    for segment in snapshot.segments(array):
        ordinals, columns = segment.entries, segment.statistics
        segment.expect(not len(ordinals) or ordinals[-1] < slots, "it holds datasets that there are none of")
        rows[ordinals], nulls[ordinals], valid[ordinals] = columns.rows, columns.nulls, columns.valid
        seen[ordinals] = True
        low.put(ordinals, columns.minimum)
        high.put(ordinals, columns.maximum)
    unwritten = np.flatnonzero(present & ~seen)
    codes, schemas = catalog.layouts(array, unwritten)
    for code, members in group_members(codes):
        schema, ordinals = schemas[code], unwritten[members]
        known = fill_statistics(schema.dtype, schema.fill, schema.cells)
        rows[ordinals], nulls[ordinals] = known.rows, known.nulls
        if known.minimum is not None:
            valid[ordinals] = True
            for bound, value in ((low, known.minimum), (high, known.maximum)):
                bound.put(ordinals, _repeated(statistics_dtype(schema.dtype), value, len(ordinals)))
    absent = ~present
    if absent.any():
        rows[absent], nulls[absent] = 0, 0
        valid &= present
    return Bounds(present, valid, low.result(), high.result(), rows, nulls)


def _repeated(dtype: str, value: Any, count: int) -> Any:
    return Texts.of([value] * count) if dtype == "bytes" else np.full(count, value, dtype)


def attribute_bounds(catalog: Catalog, array: str | None, key: str) -> Bounds:
    """Return the values of an attribute (of an array) of every dataset, each its own minimum and maximum."""
    slots = catalog.columns_length
    present, valid = np.zeros(slots, bool), np.zeros(slots, bool)
    rows, low, high = np.zeros(slots, np.int64), _Bound(slots), _Bound(slots)
    for tag, ordinals, column in catalog.attribute(array, key):
        present[ordinals] = True
        if cell_type(tag) == "packed":
            for ordinal, values in zip(ordinals.tolist(), attribute_values(tag, column), strict=True):
                rows[ordinal] = len(values)
                _put_extremes(ordinal, _items(values), valid, low, high)
            continue
        cells = column.spread()
        if tag.endswith("binary") and isinstance(cells, Texts):
            cells = _decoded(cells)
        rows[ordinals] = 1
        valid[ordinals] = True if isinstance(cells, Texts) else ~_is_nothing(tag, cells)
        cells = comparable(cells) if isinstance(cells, Texts) else cells
        low.put(ordinals, cells)
        high.put(ordinals, cells)
    return Bounds(present, valid, low.result(), high.result(), rows, np.zeros(slots, np.int64))


def _decoded(cells: Texts) -> Texts:
    """Return what base64 stands for."""
    try:
        return Texts.of([base64.b64decode(cell, validate=True) for cell in cells.tolist()])
    except ValueError as error:
        raise CorruptStore(f"a binary attribute cannot be decoded: {error}") from None


def attribute_values(tag: str, column: Column) -> list[Any]:
    """Return the values of an attribute column as users see them."""
    return [decode_attribute(tag, value) for value in column_values(tag, column)]


def attribute_items(catalog: Catalog, array: str | None, key: str) -> dict[int, list[Any]]:
    """Return the items of an attribute, by ordinal, where it is a list; without NaN and "not a time"."""
    return {
        ordinal: _items(values)
        for tag, ordinals, column in catalog.attribute(array, key)
        if cell_type(tag) == "packed"
        for ordinal, values in zip(ordinals.tolist(), attribute_values(tag, column), strict=True)
    }


def _is_nothing(tag: str, cells: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which values of an attribute are NaN or no time."""
    if parse_dtype(element_type(tag)).kind in "Mm":
        return np.asarray(cells == np.iinfo(np.int64).min)
    return np.asarray(cells != cells)


def _items(values: Any) -> list[Any]:
    if isinstance(values, np.ndarray):
        values = values[~np.isnat(values)].view(np.int64) if values.dtype.kind in "Mm" else values
        values = values.tolist()
    return [item.encode() if isinstance(item, str) else item for item in values if item == item]


def _put_extremes(ordinal: int, items: list[Any], valid: NDArray[np.bool_], low: _Bound, high: _Bound) -> None:
    if items:
        valid[ordinal] = True
        low.put(np.array([ordinal]), [min(items)])
        high.put(np.array([ordinal]), [max(items)])


def pruning_index(
    snapshot: Snapshot, arrays: Sequence[str], global_attrs: Sequence[str], array_attrs: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """Return the columns asked for, over all ordinals."""
    catalog = snapshot.root.catalog
    snapshot.fetch(arrays)
    columns = {array: array_bounds(snapshot, array) for array in arrays}
    columns |= {key: attribute_bounds(catalog, None, key) for key in global_attrs}
    columns |= {f"{array}:{key}": attribute_bounds(catalog, array, key) for array, key in array_attrs}
    return {
        "rows": catalog.slots,
        "datasets": slot_names(catalog),
        "live": live_mask(catalog),
        "columns": {name: bounds.to_dict() for name, bounds in columns.items()},
    }


def slot_names(catalog: Catalog) -> list[str | None]:
    """Return the name of the dataset of every ordinal, ``None`` where there is none."""
    if catalog.count == catalog.slots:
        return [*catalog.names()]
    names = np.full(catalog.columns_length, None, object)
    names[catalog.ordinals] = catalog.names()
    return list(names)
