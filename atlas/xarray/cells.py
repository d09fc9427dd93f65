"""Cells that the store has no type for: missing text, text of a fixed width, dates of other calendars."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas.dtypes import DType, from_numpy, objects, parse_dtype
from atlas.errors import DataTypeError, MissingDependency, UnsupportedDataType

_CALENDAR = "cftime:"
_EPOCH = "microseconds since 1970-01-01"


# ── which type stores what ───────────────────────────────────────────────────────────────────


def storage_type(name: str, cells: NDArray[Any], calendar: str | None = None) -> tuple[DType, str | None]:
    """Return the type to store with, and the one to restore when reads give another.

    Of objects, where there are none, a calendar tells that they would be dates.
    """
    dtype = cells.dtype
    if dtype.kind == "O":
        return (None if cells.size or calendar is None else _no_dates(calendar)) or _object_type(name, cells)
    if dtype.kind == "S":
        flat = cells.reshape(-1).tolist()
        return parse_dtype("string" if all(map(_is_utf8, flat)) else "binary"), dtype.str
    try:
        return from_numpy(dtype), {"U": dtype.str, "T": "T"}.get(dtype.kind)
    except UnsupportedDataType as error:
        raise UnsupportedDataType(f"variable {name!r}: {error}") from None


def _object_type(name: str, data: NDArray[Any]) -> tuple[DType, str | None]:
    cells = [cell for cell in data.reshape(-1).tolist() if not is_missing(cell)]
    if all(isinstance(cell, str) for cell in cells):
        return parse_dtype("string"), None
    if all(isinstance(cell, bytes) for cell in cells):
        # Text in bytes stays searchable as text; the marker gives it back as bytes.
        return (parse_dtype("string"), "bytes") if all(map(_is_utf8, cells)) else (parse_dtype("binary"), None)
    if all(isinstance(cell, (bool, np.bool_)) for cell in cells) and len(cells) == data.size:
        return parse_dtype("bool"), None
    if all(isinstance(cell, (int, float, np.integer, np.floating)) for cell in cells):
        return from_numpy(np.result_type(np.array(cells), *([] if len(cells) == data.size else [float]))), None
    if hasattr(cells[0], "calendar"):
        return _date_type(name, cells, data.size)
    odd = next(type(cell) for cell in cells if not isinstance(cell, str))
    raise UnsupportedDataType(
        f"variable {name!r} holds {odd.__module__}.{odd.__name__} objects; convert it to text first"
    )


def _date_type(name: str, cells: list[Any], size: int) -> tuple[DType, str]:
    kinds = {(cell.calendar, cell.has_year_zero) for cell in cells if hasattr(cell, "calendar")}
    if len(kinds) > 1 or len(cells) < size or not all(hasattr(cell, "calendar") for cell in cells):
        raise UnsupportedDataType(
            f"variable {name!r} holds dates of several calendars, or other things among them; "
            "a variable keeps dates of one calendar, without gaps"
        )
    return parse_dtype("int64"), _CALENDAR + json.dumps(list(kinds.pop()))


def _no_dates(calendar: str) -> tuple[DType, str] | None:
    """Return the type of dates of a calendar; `None` if there is no such calendar."""
    try:
        import cftime

        some = cftime.datetime(2000, 1, 1, calendar=calendar)
    except (ImportError, ValueError):
        return None
    return parse_dtype("int64"), _CALENDAR + json.dumps([some.calendar, some.has_year_zero])


def _is_utf8(cell: bytes) -> bool:
    try:
        cell.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def is_missing(cell: Any) -> bool:
    """Return whether a cell is None, NaN or one of pandas' missing values."""
    if isinstance(cell, (str, bytes)):  # most cells are
        return False
    if cell is None or (isinstance(cell, float) and cell != cell):
        return True
    return type(cell).__name__ in ("NAType", "NaTType")


# ── in ───────────────────────────────────────────────────────────────────────────────────────


def stored_cells(name: str, block: NDArray[Any], dtype: DType, original: str | None, fill: Any) -> NDArray[Any]:
    """Return a block as the store takes it."""
    if original is not None and original.startswith(_CALENDAR):
        return _numbers(name, block, original)
    if block.dtype.kind != "O":
        return block
    if not dtype.is_text:
        return np.array([np.nan if is_missing(c) else c for c in block.reshape(-1)], dtype.numpy).reshape(block.shape)
    return filled_text(block, fill)


def filled_text(block: NDArray[Any], fill: str | bytes) -> NDArray[Any]:
    """Replace missing cells (None, NaN, pandas NA) of an object block."""
    if block.dtype.kind != "O" or not (missing := _missing(block)).any():
        return block
    result = block.copy()
    result[missing] = fill
    return result


def _missing(block: NDArray[Any]) -> NDArray[np.bool_]:
    return np.fromiter(map(is_missing, block.reshape(-1)), bool, block.size).reshape(block.shape)


def _numbers(name: str, dates: NDArray[Any], original: str) -> NDArray[Any]:
    import cftime

    calendar, has_year_zero = json.loads(original[len(_CALENDAR) :])
    if any(getattr(cell, "calendar", None) != calendar for cell in dates.reshape(-1)):
        raise DataTypeError(f"variable {name!r} begins with dates of the calendar {calendar!r}, and holds others")
    if not dates.size:
        return np.zeros(dates.shape, np.int64)
    numbers = cftime.date2num(dates, _EPOCH, calendar=calendar, has_year_zero=has_year_zero)
    return np.asarray(numbers, np.int64).reshape(dates.shape)


class Gaps:
    """Remembers which text cells were missing, so that a read can tell them from real fill values."""

    def __init__(self, shape: tuple[int, ...], fill: str | bytes) -> None:
        self._shape = shape
        # Text that came in as bytes is compared as bytes.
        self._fills = {fill, fill.encode("utf-8", "surrogatepass") if isinstance(fill, str) else fill}
        self._cells: dict[str, list[int]] = {}
        self._real_fills = False
        self.count = 0

    def note(self, start: Sequence[int], block: NDArray[Any]) -> None:
        """Take in a block of cells that begins at `start`."""
        if block.dtype.kind != "O":
            return
        missing = _missing(block)
        self._real_fills = self._real_fills or not self._fills.isdisjoint(block[~missing].tolist())
        if missing.any():
            places = np.argwhere(missing) + np.array(start, np.int64)
            flat = np.ravel_multi_index(tuple(places.T), self._shape).tolist() if block.ndim else [0]
            for cell, place in zip(block[missing].tolist(), flat, strict=True):
                self._cells.setdefault("none" if cell is None else "nan", []).append(place)
            self.count += len(flat)

    def marker(self) -> str:
        """Return the note as text: every fill cell is a gap, or the flat positions of the gaps."""
        if len(self._cells) == 1 and not self._real_fills:
            return json.dumps(dict.fromkeys(self._cells, "fill"))
        return json.dumps(self._cells)


# ── out ──────────────────────────────────────────────────────────────────────────────────────


def restored_dtype(stored: np.dtype[Any], original: str | None) -> np.dtype[Any]:
    """Return the NumPy type that an array comes back with."""
    if original is None:
        return stored
    return np.dtype(object) if original == "bytes" or original.startswith(_CALENDAR) else np.dtype(original)


def is_date_type(original: str | None) -> bool:
    """Return whether cells of a type are dates of some other calendar."""
    return original is not None and original.startswith(_CALENDAR)


def restored(cells: NDArray[Any], original: str | None) -> NDArray[Any]:
    """Return stored cells in the type that they came in with."""
    if original is None:
        return cells
    if original.startswith(_CALENDAR):
        return _dates(cells, original)
    if original == "bytes" or original.startswith("|S"):
        flat = [cell.encode("utf-8") if isinstance(cell, str) else cell for cell in cells.reshape(-1).tolist()]
        cells = objects(flat).reshape(cells.shape)
    return cells if original == "bytes" else cells.astype(original)


def _dates(numbers: NDArray[Any], original: str) -> NDArray[Any]:
    try:
        import cftime
    except ImportError as error:
        raise MissingDependency(f"dates of other calendars need cftime ({error}): pip install cftime") from None
    calendar, has_year_zero = json.loads(original[len(_CALENDAR) :])
    dates = np.empty(numbers.shape, object)
    if not numbers.size:
        return dates
    dates[...] = cftime.num2date(
        numbers, _EPOCH, calendar=calendar, only_use_cftime_datetimes=True, has_year_zero=has_year_zero
    )
    return dates


def with_gaps(
    cells: NDArray[Any], marker: str | None, fill: Any, start: Sequence[int], shape: Sequence[int]
) -> NDArray[Any]:
    """Return text cells of the box at `start` of an array of `shape` with its gaps as None or NaN again."""
    for kind, places in json.loads(marker).items() if marker else ():
        gap = None if kind == "none" else np.nan
        if places == "fill":
            cells[cells == fill] = gap
            continue
        position = np.stack(np.unravel_index(places, tuple(shape))) if shape else np.zeros((0, 1), np.int64)
        first = np.array(start, np.int64).reshape(-1, 1)
        inside = ((position >= first) & (position < first + np.array(cells.shape).reshape(-1, 1))).all(axis=0)
        cells[tuple((position - first)[:, inside])] = gap
    return cells
