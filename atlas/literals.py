"""Values that conditions compare with, as statistics and attributes are kept."""

from __future__ import annotations

import datetime
import math
from collections.abc import Set
from typing import Any

import numpy as np

from atlas.dtypes import parse_dtype
from atlas.errors import DataTypeError, InvalidArgument

_TEXT = frozenset("US")
_NUMBERS = frozenset("biuf")


def as_literal(value: Any, types: Set[str], what: str) -> Any:
    """Return a value to compare with a column: an int, a float, or bytes for text.

    Parameters
    ----------
    value : bool, int, float, str, bytes, datetime or NumPy scalar
        Text is also taken as a time where the column holds times.
    types : set of str
        The element types that the column's values were declared with.
    what : str
        The column, for messages.

    Raises
    ------
    DataTypeError
        If the value cannot be compared with the column.
    InvalidArgument
        If it is NaN, "not a time" or not the text of a time.
    """
    kinds = {parse_dtype(name).kind for name in types}
    if "c" in kinds:
        raise DataTypeError(f"{what} holds complex numbers, which have no order")
    if kinds & set("Mm"):
        return _as_time(value, types, what)
    if isinstance(value, np.generic):
        value = value.item()
    wanted = (isinstance(value, (str, bytes)) and _TEXT) or (isinstance(value, (int, float)) and _NUMBERS)
    if not wanted or not kinds & wanted:
        raise DataTypeError(f"{what} holds {', '.join(sorted(types))}, which cannot be compared with {value!r}")
    if isinstance(value, float) and math.isnan(value):
        raise InvalidArgument(f"{what} cannot be compared with NaN, which is neither smaller nor larger than anything")
    if isinstance(value, str):
        return value.encode("utf-8")
    return int(value) if isinstance(value, bool) else value


def check_comparable(first: tuple[str, Set[str]], second: tuple[str, Set[str]]) -> None:
    """Raise :class:`DataTypeError` unless two columns, each a description and its types, can be compared."""
    together = first[1] | second[1]
    one, other = ({parse_dtype(name).kind for name in types} for _, types in (first, second))
    alike = (one & _TEXT and other & _TEXT) or (one & _NUMBERS and other & _NUMBERS) or one == other
    # Times are kept as counts of their unit, which do not compare with those of another.
    if not alike or "c" in one | other or (len(together) > 1 and (one | other) & set("Mm")):
        named = " and ".join(f"{what} ({', '.join(sorted(types))})" for what, types in (first, second))
        raise DataTypeError(f"{named} cannot be compared")


def _as_time(value: Any, types: Set[str], what: str) -> int | float:
    if len(types) > 1:
        raise DataTypeError(f"{what} holds {', '.join(sorted(types))} by dataset, which have no common order")
    dtype = parse_dtype(next(iter(types)))
    if isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.timedelta64)):
        return int(value)
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        value = value.astimezone(datetime.UTC).replace(tzinfo=None)
    scalar: Any = np.datetime64 if dtype.kind == "M" else np.timedelta64
    if not isinstance(value, (str, datetime.date, datetime.timedelta, np.datetime64, np.timedelta64)):
        raise DataTypeError(f"{what} holds {dtype.name}, which cannot be compared with {value!r}")
    try:
        moment = scalar(value)
        ticks = int(moment.astype(dtype.numpy).astype("i8"))
    except OverflowError:
        return math.inf if moment.astype("i8") > 0 else -math.inf
    except (ValueError, TypeError) as error:
        raise InvalidArgument(f"{what} holds {dtype.name}: {value!r} is no such value: {error}") from None
    if np.isnat(moment):
        raise InvalidArgument(f"{what} cannot be compared with {value!r}, which is not a time")
    if np.int64(ticks).view(dtype.numpy).astype(moment.dtype) == moment:
        return ticks
    if np.promote_types(moment.dtype, dtype.numpy) == dtype.numpy:
        # Beyond what the column's unit can reach.
        return math.inf if moment.astype("i8") > 0 else -math.inf
    # Between two ticks of the column: any fraction says so.
    return ticks + 0.5


def as_integer_bound(op: str, value: float) -> tuple[str, float | int]:
    """Return a comparison of integers with a float as one with an integer, which is exact."""
    if not math.isfinite(value):
        return op, value
    if value == int(value):
        return op, int(value)
    if op in (">", ">="):
        return ">=", math.ceil(value)
    if op in ("<", "<="):
        return "<=", math.floor(value)
    # No integer equals a fraction.
    return op, math.inf


def as_float_bound(op: str, value: int) -> tuple[str, float]:
    """Return a comparison of floats with an integer as one with a float, which is exact."""
    try:
        near = float(value)
    except OverflowError:
        near = math.inf if value > 0 else -math.inf
    if near == value:
        return op, near
    if op in ("==", "!="):
        return op, math.nan
    # Only one side of the integer is as near: no float lies between the two.
    if near > value:
        return (">=" if op in (">", ">=") else "<"), near
    return (">" if op in (">", ">=") else "<="), near
