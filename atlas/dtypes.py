"""The element types of arrays: their names, NumPy types and fill values."""

from __future__ import annotations

import base64
import binascii
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas.errors import DataTypeError, InvalidArgument, UnsupportedDataType, ValueOutOfRange

# As many as NumPy's arrays have at most.
_MOST_AXES = 64

TIME_UNITS = ("s", "ms", "us", "ns")

_ALIASES = {
    "i8": "int8",
    "i16": "int16",
    "i32": "int32",
    "i64": "int64",
    "u8": "uint8",
    "u16": "uint16",
    "u32": "uint32",
    "u64": "uint64",
    "f16": "float16",
    "f32": "float32",
    "f64": "float64",
    "c64": "complex64",
    "c128": "complex128",
    "timestamp_ns": "timestamp_nanoseconds",
    "datetime64[ns]": "timestamp_nanoseconds",
    "timedelta64": "timedelta64[ns]",
    "str": "string",
    "bytes": "binary",
}


@dataclass(frozen=True)
class DType:
    """An element type.

    Attributes
    ----------
    name : str
        The canonical name that the format stores.
    numpy : numpy.dtype
        What reads return: the element type itself, or ``object`` for `string` and `binary`.
    kind : str
        ``"b"`` bool, ``"i"`` signed, ``"u"`` unsigned, ``"f"`` float, ``"c"`` complex, ``"M"``
        datetime, ``"m"`` timedelta, ``"U"`` string, ``"S"`` binary.
    """

    name: str
    numpy: np.dtype[Any]
    kind: str

    @property
    def is_text(self) -> bool:
        """Whether elements have no fixed size."""
        return self.kind in "US"

    @property
    def itemsize(self) -> int:
        """Bytes of one element; 1 for elements of variable length."""
        return 1 if self.is_text else self.numpy.itemsize

    @property
    def storage(self) -> np.dtype[Any]:
        """The little-endian NumPy type of the bytes in a chunk."""
        if self.kind in "Mm":
            return np.dtype("<i8")
        return self.numpy.newbyteorder("<") if not self.is_text else np.dtype("u1")

    def default(self) -> Any:
        """What unwritten cells hold when no fill value was declared."""
        return {"U": "", "S": b""}.get(self.kind, np.zeros((), self.numpy)[()])


def _registry() -> dict[str, DType]:
    numeric = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
    numeric += ["float16", "float32", "float64", "complex64", "complex128"]
    types = {name: DType(name, np.dtype(name), np.dtype(name).kind) for name in numeric}
    types["timestamp_nanoseconds"] = DType("timestamp_nanoseconds", np.dtype("M8[ns]"), "M")
    for unit in TIME_UNITS:
        if unit != "ns":
            types[f"datetime64[{unit}]"] = DType(f"datetime64[{unit}]", np.dtype(f"M8[{unit}]"), "M")
        types[f"timedelta64[{unit}]"] = DType(f"timedelta64[{unit}]", np.dtype(f"m8[{unit}]"), "m")
    types["string"] = DType("string", np.dtype(object), "U")
    types["binary"] = DType("binary", np.dtype(object), "S")
    return types


DTYPES = _registry()


def parse_dtype(spec: Any) -> DType:
    """Return the type that a name, alias or NumPy dtype stands for.

    Raises
    ------
    InvalidArgument
        If the name is unknown.

    Examples
    --------
    >>> parse_dtype("f32").name
    'float32'
    """
    if isinstance(spec, DType):
        return spec
    if isinstance(spec, str):
        # The older package took names in any case.
        found = DTYPES.get(_ALIASES.get(spec.lower(), spec.lower()))
        if found is not None:
            return found
    elif spec is not None:  # which NumPy takes for float64
        try:
            return from_numpy(np.dtype(spec))
        except (TypeError, ValueError, UnsupportedDataType):
            pass
    raise InvalidArgument(f"unknown dtype {spec!r}; use one of {', '.join(sorted(DTYPES))}")


@lru_cache(maxsize=256)
def from_numpy(dtype: np.dtype[Any]) -> DType:
    """Return the type that stores arrays of a NumPy dtype.

    Raises
    ------
    UnsupportedDataType
        If Atlas has no such type.
    """
    if dtype.kind in "OUST":
        return DTYPES["string"]
    native = dtype.newbyteorder("=")
    if native.kind in "Mm":
        unit = np.datetime_data(native)[0]
        name = f"{'datetime64' if native.kind == 'M' else 'timedelta64'}[{unit}]"
        if np.datetime_data(native)[1] == 1 and _ALIASES.get(name, name) in DTYPES:
            return DTYPES[_ALIASES.get(name, name)]
    elif native.name in DTYPES:
        return DTYPES[native.name]
    raise UnsupportedDataType(f"NumPy dtype {dtype} cannot be stored; convert it to one of {', '.join(sorted(DTYPES))}")


def objects(values: Sequence[Any]) -> NDArray[Any]:
    """Return values as an array of objects: lists stay lists, whatever NumPy would make of them."""
    return np.fromiter(values, object, len(values))


def as_elements(dtype: DType, data: Any, what: str) -> NDArray[Any]:
    """Return `data` as a C-contiguous native array of `dtype` without changing any value.

    Timestamps and durations also take plain int64; strings take object, ``S`` and ``U`` arrays.

    Raises
    ------
    DataTypeError
        If the data has another type; nothing is cast.
    """
    array = as_array(data, what)
    if dtype.is_text:
        return _as_text(dtype, array, what)
    native = array.dtype.newbyteorder("=")
    same = native == dtype.numpy or (dtype.kind in "Mm" and native == np.dtype("i8"))
    if not same:
        raise DataTypeError(f"{what} is declared {dtype.name} but the data is {array.dtype}; convert it first")
    flat = np.array(array, dtype=native, order="C", copy=None, ndmin=0)
    return flat.view(dtype.numpy) if native != dtype.numpy else flat


def is_masked_array(data: Any) -> bool:
    """Return whether it is a masked array; NumPy's part for these, which takes 10 ms to load, is not for that."""
    masked = getattr(sys.modules.get("numpy.ma"), "MaskedArray", None)
    return masked is not None and isinstance(data, masked)


def as_array(data: Any, what: str) -> NDArray[Any]:
    """Return `data` as an array of any type, or raise :class:`DataTypeError` where it is none, or cells are masked."""
    masked = _masked_cells(data, _MOST_AXES)
    if masked:
        raise DataTypeError(f"{what}: {masked} cells of the data are masked; pass data.filled(value)")
    try:
        return np.asarray(data)
    except ValueError as error:
        raise DataTypeError(f"{what}: the data is not an array: {error}") from None


def _masked_cells(data: Any, axes: int) -> int:
    """Return how many cells are masked of a masked array, or of those in lists: NumPy would take what is below."""
    if is_masked_array(data):
        mask = np.asarray(data.mask)
        return int(mask.sum()) if mask.dtype == bool else 0  # of fields there is no array
    if "numpy.ma" not in sys.modules or not isinstance(data, (list, tuple)) or not axes:
        return 0
    # Most lists hold nothing but numbers, whose types are told at once.
    nested = any(issubclass(kind, (list, tuple, np.ma.MaskedArray)) for kind in set(map(type, data)))
    return sum(_masked_cells(item, axes - 1) for item in data) if nested else 0


def _as_text(dtype: DType, array: NDArray[Any], what: str) -> NDArray[Any]:
    wanted = str if dtype.kind == "U" else bytes
    if array.dtype.kind not in "OUST":
        raise DataTypeError(f"{what} is declared {dtype.name} but the data is {array.dtype}; convert it first")
    cells = array.astype(object, order="C")
    flat = cells.reshape(-1)
    for i, cell in enumerate(flat):
        if type(cell) is wanted and (wanted is bytes or cell.isascii()):
            continue
        flat[i] = _text_cell(cell, wanted, what)
    return cells


def _text_cell(cell: Any, wanted: type, what: str) -> Any:
    if wanted is str and isinstance(cell, bytes):
        try:
            return cell.decode("utf-8")
        except UnicodeDecodeError:
            raise DataTypeError(f"{what}: {cell!r} is not UTF-8; declare the array 'binary'") from None
    if wanted is bytes and isinstance(cell, (str, bytearray, memoryview)):
        return cell.encode("utf-8") if isinstance(cell, str) else bytes(cell)
    if isinstance(cell, wanted):
        return require_utf8(cell, what) if isinstance(cell, str) else wanted(cell)
    raise DataTypeError(f"{what}: a cell holds {type(cell).__name__}, not {wanted.__name__}: {cell!r}")


def require_utf8(text: str, what: str) -> str:
    """Return `text` as a plain ``str``, or raise :class:`DataTypeError` when it cannot be written as UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        shown = ascii(text if len(text) <= 40 else text[:40] + "…")
        raise DataTypeError(f"{what}: {shown} holds a lone surrogate and has no UTF-8 form") from None
    return str(text)


def to_float(dtype: np.dtype[Any], value: float, what: str) -> float:
    """Return `value` rounded to a float type, or raise :class:`ValueOutOfRange` when it is too large for it."""
    try:
        with np.errstate(over="ignore"):
            rounded = float(dtype.type(value))
    except OverflowError:
        rounded = math.inf
    if math.isinf(rounded) and not (isinstance(value, float) and math.isinf(value)):
        shown = repr(value) if isinstance(value, float) else "the integer"
        raise ValueOutOfRange(f"{what}: {shown} does not fit {dtype.name}")
    return rounded


def normalize_fill(dtype: DType, value: Any, what: str) -> Any:
    """Check a declared fill value and return it as a Python scalar (``int`` for times).

    Raises
    ------
    DataTypeError
        If the value is of the wrong kind.
    ValueOutOfRange
        If an integer does not fit.
    """
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, (np.datetime64, np.timedelta64)):
        if dtype.kind not in "Mm" or value.dtype.kind != dtype.kind:
            raise DataTypeError(_wrong_fill(dtype, value, what))
        return _fill_time(dtype, value, what)
    if isinstance(value, np.generic):
        value = value.item()
    checker = {"b": _fill_bool, "U": _fill_str, "S": _fill_bytes, "f": _fill_float, "c": _fill_complex}
    return checker.get(dtype.kind, _fill_int)(dtype, value, what)


def _wrong_fill(dtype: DType, value: Any, what: str) -> str:
    return f"{what}: a fill value for {dtype.name} cannot be {type(value).__name__} {value!r}"


def _fill_time(dtype: DType, value: Any, what: str) -> int:
    converted = in_unit(value, dtype)
    if converted is None:
        raise ValueOutOfRange(f"{what}: fill value {value!r} does not fit {dtype.name}")
    return int(converted.astype("i8"))


def in_unit(times: Any, dtype: DType) -> Any:
    """Return times in the unit of a type; ``None`` where one of them is no whole number of it, or beyond its range."""
    try:
        converted = times.astype(dtype.numpy)
        # NumPy truncates to a coarser unit, and before 2.5 wraps around where a finer one overflows.
        same = (converted.astype(times.dtype) == times) | np.isnat(times)
    except OverflowError:
        return None
    return converted if same.all() else None


def _fill_bool(dtype: DType, value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise DataTypeError(_wrong_fill(dtype, value, what))
    return value


def _fill_str(dtype: DType, value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise DataTypeError(_wrong_fill(dtype, value, what))
    return require_utf8(value, f"{what}: fill value")


def _fill_bytes(dtype: DType, value: Any, what: str) -> bytes:
    if not isinstance(value, bytes):
        raise DataTypeError(_wrong_fill(dtype, value, what))
    return value


def _fill_float(dtype: DType, value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DataTypeError(_wrong_fill(dtype, value, what))
    return to_float(dtype.numpy, value, f"{what}: fill value")


def _fill_complex(dtype: DType, value: Any, what: str) -> complex:
    if isinstance(value, bool) or not isinstance(value, (int, float, complex)):
        raise DataTypeError(_wrong_fill(dtype, value, what))
    part = np.zeros((), dtype.numpy).real.dtype
    parts = (value.real, value.imag) if isinstance(value, complex) else (value, 0.0)
    return complex(*(to_float(part, number, f"{what}: fill value") for number in parts))


def _fill_int(dtype: DType, value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise DataTypeError(_wrong_fill(dtype, value, what))
    limits = np.iinfo(dtype.storage)
    if not limits.min <= value <= limits.max:
        raise ValueOutOfRange(f"{what}: fill value {value} does not fit {dtype.name}")
    return value


def fill_cell(dtype: DType, fill: Any) -> Any:
    """Return the element that unwritten cells hold, as a NumPy scalar or Python text."""
    if fill is None:
        return dtype.default()
    if dtype.is_text:
        return fill
    if dtype.kind in "Mm":
        return np.int64(fill).view(dtype.numpy)
    return dtype.numpy.type(fill)


def encode_fill(dtype: DType, fill: Any) -> Any:
    """Return a fill value as JSON takes it: numbers, text, ``"NaN"`` and the like."""
    if dtype.kind == "S":
        return base64.b64encode(fill).decode("ascii")
    if dtype.kind == "c":
        return [encode_float(fill.real), encode_float(fill.imag)]
    return encode_float(fill) if dtype.kind == "f" else fill


def decode_fill(dtype: DType, value: Any, what: str) -> Any:
    """Inverse of :func:`encode_fill`; anything unexpected is refused with :class:`InvalidArgument`."""
    try:
        if dtype.kind == "S":
            return base64.b64decode(value, validate=True)
        if dtype.kind == "c":
            real, imag = value
            return normalize_fill(dtype, complex(decode_float(real), decode_float(imag)), what)
        if dtype.kind == "f":
            return normalize_fill(dtype, decode_float(value), what)
        return normalize_fill(dtype, value, what)
    except (TypeError, ValueError, OverflowError, binascii.Error) as error:
        raise InvalidArgument(f"{what}: bad fill value {value!r}: {error}") from None


def encode_float(value: float) -> float | str:
    """Return a float as JSON takes it; NaN and the infinities become words."""
    if math.isfinite(value):
        return float(value)
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def decode_float(value: Any) -> float:
    """Inverse of :func:`encode_float`."""
    if isinstance(value, str):
        if value not in ("NaN", "Infinity", "-Infinity"):
            raise InvalidArgument(f"not a number: {value!r}")
        return float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidArgument(f"not a number: {value!r}")
    return float(value)


def widen(first: DType, second: DType) -> DType | None:
    """Return the type that holds both, or ``None`` when the two cannot merge."""
    if first == second:
        return first
    kinds = {first.kind, second.kind}
    if kinds <= {"i", "u", "f", "c"}:
        if kinds == {"i", "u"} and "uint64" in (first.name, second.name):
            return DTYPES["int64"]
        return DTYPES[np.result_type(first.numpy, second.numpy).name]
    if kinds in ({"M"}, {"m"}):
        return from_numpy(np.promote_types(first.numpy, second.numpy))
    return DTYPES["string"] if kinds == {"M", "U"} else None
