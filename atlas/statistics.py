"""Per-dataset statistics: what a read of the array would return, summed up.

`rows` counts cells, `nulls` those equal to the declared fill value (NaN equals a NaN fill);
min and max skip nulls, NaN and NaT; strings compare as UTF-8 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas.chunks import Integers
from atlas.dtypes import DType, fill_cell, objects
from atlas.segment import StatisticsColumns
from atlas.text import encoded_cells


@dataclass(frozen=True)
class Statistics:
    """Statistics of some cells of one array.

    Attributes
    ----------
    rows, nulls : int
    minimum, maximum : int, float, bool, bytes or None
        ``None`` when no cell counts, or the type has no order.
    """

    rows: int
    nulls: int
    minimum: Any = None
    maximum: Any = None

    def to_dict(self) -> dict[str, Any]:
        """Return the form that users see."""
        return {"row_count": self.rows, "null_count": self.nulls, "min": self.minimum, "max": self.maximum}


def fill_statistics(dtype: DType, fill: Any, cells: int) -> Statistics:
    """Return the statistics of cells that were never written."""
    if fill is not None:
        return Statistics(cells, cells)
    if not cells:
        return Statistics(0, 0)
    cell = np.array(fill_cell(dtype, None), dtype.numpy).reshape(1)
    one = cell_statistics(dtype, None, cell)
    return Statistics(cells, 0, one.minimum, one.maximum)


def cell_statistics(dtype: DType, fill: Any, cells: NDArray[Any]) -> Statistics:
    """Return the statistics of an array of cells."""
    if not cells.size:
        return Statistics(0, 0)
    return from_columns(dtype, *(column[0] for column in row_statistics(dtype, fill, cells.reshape(1, -1))))


def _looked_through(dtype: DType, fill: Any, cells: NDArray[Any]) -> tuple[NDArray[Any], Any, Any]:
    """Return cells as they are compared, and which are NaN or no time, and which equal the fill; None for none."""
    if dtype.kind in "Mm":
        values = cells.view(np.int64)
        absent = values == np.iinfo(np.int64).min
    else:
        values = cells
        absent = np.isnan(cells) if dtype.kind in "fc" else None
    return values, absent, _equal_fill(dtype, fill, values, absent)


def counted_cells(dtype: DType, fill: Any, cells: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return cells as the type that their statistics have, and which of them count.

    Returns
    -------
    values : (n,) int64, uint64, float64, complex or object array
    counted : (n,) bool
    """
    flat = cells.reshape(-1)
    if dtype.is_text:
        return objects(encoded_cells(flat)), np.array([fill is None or cell != fill for cell in flat.tolist()], bool)
    values, absent, null = _looked_through(dtype, fill, flat)
    counted = np.ones(len(flat), bool)
    for skipped in (absent, null):
        counted &= True if skipped is None else ~skipped
    return values if dtype.kind == "c" else values.astype(statistics_dtype(dtype)), counted


def _equal_fill(dtype: DType, fill: Any, values: NDArray[Any], absent: Any) -> Any:
    if fill is None:
        return None
    cell = np.int64(fill) if dtype.kind in "Mm" else dtype.numpy.type(fill)
    if dtype.kind in "fc" and np.isnan(cell):
        return absent
    return values == cell


def text_statistics(dtype: DType, fill: Any, cells: list[bytes], counts: Integers) -> StatisticsColumns:
    """Return the statistics of chunks of text, given as their cells one behind the other, and how many each has."""
    null = fill.encode("utf-8") if isinstance(fill, str) else fill
    parts, begin = [], 0
    for end in np.cumsum(counts).tolist():
        own = cells[begin:end]
        # Of many cells, few are different.
        kept = set(own) - {null}
        parts.append(Statistics(len(own), own.count(null), min(kept, default=None), max(kept, default=None)))
        begin = end
    return statistics_of(parts, dtype)


def _plain_statistics(dtype: DType, fill: Any, rows: Any, values: NDArray[Any]) -> StatisticsColumns | None:
    """Return the statistics of rows of numbers where the fill value is NaN, or within no row's bounds."""
    if dtype.kind not in "iuf":
        return None
    lowest, highest = (np.fmin, np.fmax) if dtype.kind == "f" else (np.minimum, np.maximum)
    low, high = lowest.reduce(values, axis=1), highest.reduce(values, axis=1)
    nulls = np.zeros(len(rows), np.int64)
    if fill is not None:
        cell = dtype.numpy.type(fill)
        if ((low <= cell) & (cell <= high)).any():
            return None
        if np.isnan(cell):
            nulls = np.count_nonzero(np.isnan(values), axis=1)
    # Not so where all is NaN.
    valid = low <= high
    kept = statistics_dtype(dtype)
    return StatisticsColumns(rows, nulls, valid, *(np.where(valid, side, 0).astype(kept) for side in (low, high)))


def row_statistics(dtype: DType, fill: Any, cells: NDArray[Any]) -> StatisticsColumns:
    """Return the statistics of every row of an array, as :func:`cell_statistics` has them.

    Bounds have the type that index columns keep them in, text is an object array of ``bytes``.
    """
    count = len(cells)
    rows = np.full(count, cells.size // max(count, 1), np.int64)
    if dtype.is_text:
        return text_statistics(dtype, fill, encoded_cells(cells), rows)
    if not cells.size:
        return statistics_of([Statistics(0, 0)] * count, dtype)
    found = _plain_statistics(dtype, fill, rows, cells.reshape(count, -1))
    if found is not None:
        return found
    values, absent, null = _looked_through(dtype, fill, cells.reshape(count, -1))
    nulls = np.zeros(count, np.int64) if null is None else np.count_nonzero(null, axis=1)
    kept = statistics_dtype(dtype)
    if dtype.kind == "c":
        return StatisticsColumns(rows, nulls, np.zeros(count, bool), np.zeros(count, kept), np.zeros(count, kept))
    skipped = null if absent is None else (absent if null is None else absent | null)
    if skipped is None or not skipped.any():
        valid = np.ones(count, bool)
        return StatisticsColumns(rows, nulls, valid, values.min(axis=1).astype(kept), values.max(axis=1).astype(kept))
    counted = ~skipped
    valid = counted.any(axis=1)
    lowest, highest = _extremes(values.dtype)
    low = values.min(axis=1, where=counted, initial=highest)
    high = values.max(axis=1, where=counted, initial=lowest)
    low, high = (np.where(valid, bound, 0).astype(kept) for bound in (low, high))
    return StatisticsColumns(rows, nulls, valid, low, high)


def _extremes(dtype: np.dtype[Any]) -> tuple[Any, Any]:
    if dtype.kind == "f":
        return -np.inf, np.inf
    return (False, True) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)


def statistics_of(parts: Sequence[Statistics], dtype: DType) -> StatisticsColumns:
    """Return statistics of single chunks or datasets, all of one type, by column."""
    kept = np.dtype("O" if dtype.is_text else statistics_dtype(dtype))
    nothing = b"" if dtype.is_text else 0
    bounds = [
        np.array([nothing if value is None else value for value in values], kept)
        for values in ([part.minimum for part in parts], [part.maximum for part in parts])
    ]
    return StatisticsColumns(
        np.array([part.rows for part in parts], np.int64),
        np.array([part.nulls for part in parts], np.int64),
        np.array([part.minimum is not None for part in parts], bool),
        *bounds,
    )


def statistics_dtype(dtype: DType) -> str:
    """Return the type that an array's min and max are kept in; every value fits exactly."""
    return {"b": "<u8", "u": "<u8", "f": "<f8", "c": "<f8", "U": "bytes", "S": "bytes"}.get(dtype.kind, "<i8")


def from_columns(dtype: DType, rows: Any, nulls: Any, valid: bool, minimum: Any, maximum: Any) -> Statistics:
    """Return the statistics in one row of the index columns."""
    if not valid:
        return Statistics(int(rows), int(nulls))
    cast = {"f": float, "b": bool, "U": bytes, "S": bytes}.get(dtype.kind, int)
    return Statistics(int(rows), int(nulls), cast(minimum), cast(maximum))
