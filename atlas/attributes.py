"""Attribute values: which Python and NumPy values are kept, and how each is written down.

A value is stored as a *type tag* and a JSON-able value. The tag is an element type
(``int64``, ``string`` …), with ``np.`` before it when the value was a NumPy scalar or array, and
``[]`` behind it when it was a flat list or a 1-D array. Types therefore round-trip.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from atlas.dtypes import decode_float, encode_float, from_numpy, in_unit, parse_dtype, require_utf8, to_float
from atlas.errors import AtlasError, DataTypeError, InvalidArgument, UnsupportedDataType, ValueOutOfRange

# Element tags, with the limits of the integers.
_INTEGERS = {
    name: np.iinfo(name) for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
}
_FLOATS = ("float16", "float32", "float64")
_PLAIN = {bool: "bool", int: "int64", float: "float64", str: "string", bytes: "binary"}


def encode_attribute(value: Any, dtype: str | None, what: str) -> tuple[str, Any]:
    """Return the type tag and the JSON-able form of an attribute value.

    Parameters
    ----------
    value : bool, int, float, str, bytes, flat list of one of them, NumPy scalar or 1-D array
    dtype : str, optional
        Element type to narrow to (``"int8"``, ``"float32"``, ``"timestamp_nanoseconds"`` …).
    what : str
        The attribute's place, for messages.

    Raises
    ------
    DataTypeError, ValueOutOfRange, InvalidArgument
        If the value cannot be kept as it is.
    """
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, (np.generic, np.ndarray)):
        return _encode_numpy(value, dtype, what)
    if isinstance(value, (list, tuple)):
        return _encode_list(list(value), dtype, what)
    tag = _element_tag(value, dtype, what)
    return tag, _encode_element(tag, value, what)


def _encode_list(values: list[Any], dtype: str | None, what: str) -> tuple[str, Any]:
    values = [item.item() if isinstance(item, np.generic) else item for item in values]
    tags = {_element_tag(item, dtype, what) for item in values} or {dtype or "int64"}
    if len(tags) > 1 and tags <= {"int64", "uint64", "float64"}:
        # An integer among floats is widened: that direction loses nothing a reader would miss.
        tags = {"float64"} if "float64" in tags else {"uint64"}
    if len(tags) > 1:
        raise InvalidArgument(f"{what}: a list attribute holds one type throughout, not {', '.join(sorted(tags))}")
    tag = tags.pop()
    return f"{tag}[]", [_encode_element(tag, item, what) for item in values]


def _encode_numpy(value: Any, dtype: str | None, what: str) -> tuple[str, Any]:
    array = np.asarray(value)
    if array.ndim > 1:
        raise DataTypeError(f"{what}: an attribute is a scalar or one-dimensional, not of shape {array.shape}")
    kind = array.dtype.kind
    if kind in "OUS":
        tag, cells = _encode_list(array.reshape(-1).tolist(), dtype, what)
        name = tag.removesuffix("[]")
    elif kind in "Mm":
        name, cells = _times(array, what)
    elif dtype is None and kind in "biuf":
        name = array.dtype.newbyteorder("=").name
        if name not in ("bool", *_INTEGERS, *_FLOATS):
            raise DataTypeError(f"{what}: attributes of type {array.dtype} cannot be stored")
        cells = [_encode_element(name, item, what) for item in array.reshape(-1).tolist()]
    else:
        return encode_attribute(array.tolist(), dtype, what)
    return (f"np.{name}[]", cells) if array.ndim else (f"np.{name}", cells[0])


def _times(array: Any, what: str) -> tuple[str, list[int]]:
    """Return the type of times, and their numbers; days and other units coarser than seconds are kept as seconds."""
    seconds = np.dtype(f"{array.dtype.kind}8[s]")
    is_of_a_unit = np.datetime_data(array.dtype)[0] != "generic"
    dtype = seconds if is_of_a_unit and np.can_cast(array.dtype, seconds, "safe") else array.dtype
    try:
        found = from_numpy(dtype)
    except UnsupportedDataType as error:
        raise DataTypeError(f"{what}: {error}") from None
    times = in_unit(array, found)
    if times is None:
        raise ValueOutOfRange(f"{what}: {array.dtype} beyond the range of seconds")
    return found.name, times.astype("i8").reshape(-1).tolist()


def _element_tag(value: Any, dtype: str | None, what: str) -> str:
    if dtype is not None:
        return _hinted_tag(dtype, what)
    if isinstance(value, np.generic):
        value = value.item()
    for plain, tag in _PLAIN.items():
        if isinstance(value, plain):
            too_large = isinstance(value, int) and value > _INTEGERS["int64"].max
            return "uint64" if too_large else tag
    raise InvalidArgument(
        f"{what}: unsupported attribute type {type(value).__name__!r}; "
        "use bool, int, float, str, bytes, or a flat list or NumPy array of one of them"
    )


def _hinted_tag(dtype: Any, what: str) -> str:
    hint = parse_dtype(dtype)
    if hint.kind == "c":
        raise InvalidArgument(f"{what}: unknown attribute dtype {dtype!r}; attributes are real numbers, text or times")
    return hint.name


def _encode_element(tag: str, value: Any, what: str) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    encoder: Callable[[str, Any, str], Any] = _ENCODERS.get(tag, _encode_int)
    return encoder(tag, value, what)


def _wrong(tag: str, value: Any, what: str) -> DataTypeError:
    return DataTypeError(f"{what}: {type(value).__name__} {value!r} is not {tag}")


def _encode_bool(tag: str, value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(tag, value, what)
    return value


def _encode_int(tag: str, value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(tag, value, what)
    limits = _INTEGERS.get(tag, _INTEGERS["int64"])
    if not limits.min <= value <= limits.max:
        raise ValueOutOfRange(f"{what}: {value} does not fit {tag}")
    return value


def _encode_float(tag: str, value: Any, what: str) -> float | str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong(tag, value, what)
    return encode_float(to_float(np.dtype(tag), value, what))


def _encode_str(tag: str, value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise _wrong(tag, value, what)
    return require_utf8(value, what)


def _encode_bytes(tag: str, value: Any, what: str) -> str:
    if not isinstance(value, bytes):
        raise _wrong(tag, value, what)
    return base64.b64encode(value).decode("ascii")


_ENCODERS: dict[str, Callable[[str, Any, str], Any]] = {
    "bool": _encode_bool,
    "string": _encode_str,
    "binary": _encode_bytes,
    **dict.fromkeys(_FLOATS, _encode_float),
}


def encode_named(key: Any, value: Any, dtype: str | None, array: str | None = None) -> tuple[str, Any]:
    """Return an attribute of a dataset, or of an array of it, as :func:`encode_attribute` does; its key is checked."""
    of = "" if array is None else f" of array {array!r}"
    return encode_attribute(value, dtype, f"attribute {check_key(key)!r}{of}")


def element_type(tag: str) -> str:
    """Return the name of the type that a value, or each item of a list, has."""
    return tag.removeprefix("np.").removesuffix("[]")


def decode_attribute(tag: str, value: Any) -> Any:
    """Return the value that :func:`encode_attribute` wrote down.

    Raises
    ------
    InvalidArgument
        If tag and value do not fit together.
    """
    element = element_type(tag)
    try:
        items = [_decode_element(element, item) for item in (value if tag.endswith("[]") else [value])]
        if not tag.startswith("np."):
            return items if tag.endswith("[]") else items[0]
        array = _numpy_array(element, items)
        return array if tag.endswith("[]") else array[0]
    except (AtlasError, TypeError, ValueError, OverflowError, binascii.Error) as error:
        raise InvalidArgument(f"bad attribute value {value!r} of type {tag!r}: {error}") from None


def decode_attributes(attributes: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
    """Return attributes as users set them."""
    return {key: decode_attribute(tag, value) for key, (tag, value) in attributes.items()}


def _decode_element(element: str, value: Any) -> Any:
    if element == "binary":
        return base64.b64decode(value, validate=True)
    if element in _FLOATS:
        return decode_float(value)
    _encode_element(element, value, "attribute")
    return value


def _numpy_array(element: str, items: list[Any]) -> Any:
    if element in ("string", "binary"):
        return np.array(items) if items else np.array([], dtype="U1" if element == "string" else "S1")
    dtype = parse_dtype(element)
    return (
        np.array(items, dtype=dtype.storage).view(dtype.numpy) if dtype.kind in "Mm" else np.array(items, dtype.numpy)
    )


def check_key(key: Any) -> str:
    """Return an attribute's key that the store accepts."""
    if not isinstance(key, str):
        raise InvalidArgument(f"attribute keys are strings, not {type(key).__name__}")
    return require_utf8(key, "attribute key")
