"""What travels beside the cells: attributes of any kind, encodings, and the internal attributes that reads take out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from atlas.dtypes import DType, fill_cell
from atlas.errors import AtlasError, DataTypeError, InvalidArgument

if TYPE_CHECKING:
    from atlas.schema import ArraySchema
    from atlas.view import DatasetView

COORDS = "_pyatlas_coords"
DTYPE = "_atlas_dtype"
MISSING = "_atlas_missing"
ENCODING = "_atlas_encoding"
EXPLICIT_FILL = "_atlas_explicit_fill"
INTERNAL = (COORDS, DTYPE, MISSING, ENCODING, EXPLICIT_FILL)
_JSON = "json:"

# By which CF lets a variable refer to others.
RELATED = (
    "bounds",
    "grid_mapping",
    "climatology",
    "geometry",
    "node_coordinates",
    "node_count",
    "part_node_count",
    "interior_ring",
    "cell_measures",
    "formula_terms",
)

# Encoding keys that describe values; the rest (chunk sizes, compression, source) describes a file.
KEPT_ENCODING = (
    "_FillValue",
    "missing_value",
    "scale_factor",
    "add_offset",
    "dtype",
    "units",
    "calendar",
    "_Unsigned",
    "_Encoding",
    "char_dim_name",
    "char_dim_size",
    "coordinates",
    *RELATED,
)

# Of an enumeration, what xarray keeps in the metadata of its type.
_ENUMERATION = ("enum", "enum_name")

_NAT = np.iinfo(np.int64).min


# ── attributes ───────────────────────────────────────────────────────────────────────────────


def sanitized(text: str) -> str:
    """Return text that has a UTF-8 form; bytes that a backend smuggled in as surrogates are decoded."""
    try:
        text.encode("utf-8")
        return text
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def attribute_key(key: Any) -> str:
    """Return the key that an attribute of xarray's is stored under."""
    if not isinstance(key, str):
        raise InvalidArgument(f"attribute names must be strings, not {key!r}; rename it first")
    text = sanitized(key)
    if text in INTERNAL:
        raise InvalidArgument(f"attribute {text!r} is one that Atlas keeps for itself; rename it first")
    return text


def stored_attribute(value: Any, what: str) -> Any:
    """Return an attribute as the store takes it; lists, like all else, become JSON behind a marker."""
    if isinstance(value, str):
        text = sanitized(value)
        # Text that looks like the marker is marked itself, so that it comes back as text.
        return _JSON + json.dumps(text) if text.startswith(_JSON) else text
    if isinstance(value, (bool, int, float, bytes, np.generic)):
        return value
    if isinstance(value, np.ndarray) and value.ndim <= 1 and value.dtype.kind in "biufMmUS":
        return value
    if isinstance(value, (list, tuple)):
        value = [sanitized(item) if isinstance(item, str) else item for item in value]
    if _has_odd_keys(value):
        raise DataTypeError(f"{what}: {value!r} cannot be stored, as keys of dictionaries are text")
    try:
        return _JSON + json.dumps(value.tolist() if isinstance(value, np.ndarray) else value, default=_as_python)
    except (TypeError, ValueError):
        raise DataTypeError(f"{what}: {value!r} of type {type(value).__name__} cannot be stored") from None


def _has_odd_keys(value: Any) -> bool:
    """Return whether JSON would make text of keys that are none."""
    if isinstance(value, dict):
        return any(not isinstance(key, str) or _has_odd_keys(item) for key, item in value.items())
    return isinstance(value, (list, tuple)) and any(map(_has_odd_keys, value))


def _as_python(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError


def plain_attribute(value: Any) -> Any:
    """Return an attribute as it was given."""
    if isinstance(value, str) and value.startswith(_JSON):
        try:
            return json.loads(value[len(_JSON) :])
        except ValueError:
            return value  # set by hand, and no JSON
    return value


def user_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes as users gave them: without the internal ones, lists as lists again."""
    return {key: plain_attribute(value) for key, value in attributes.items() if key not in INTERNAL}


def coordinate_names(view: DatasetView) -> set[str]:
    """Return which arrays of a dataset are coordinates."""
    dims = {array: array_meta(view, array)["dimension_names"] for array in view.list_arrays()}
    return coordinates_among(dims, view.get_attribute(COORDS), view.name)


def coordinates_among(dims: Mapping[str, Sequence[str]], marker: Any, name: str) -> set[str]:
    """Return which arrays are coordinates, given the dimensions of each, and the marker of their dataset."""
    if isinstance(marker, str):
        return marked_coordinates(marker, f"dataset {name!r}") & dims.keys()
    # Not written from xarray: an array along a dimension of its own name is that dimension's coordinate.
    return {array for array, along in dims.items() if list(along) == [array]}


def marked_coordinates(marker: str, what: str) -> set[str]:
    """Return the coordinates that a marker lists."""
    try:
        return set(json.loads(marker))
    except (TypeError, ValueError) as error:
        raise AtlasError(f"{what}: its list of coordinates is not readable: {error}") from None


def array_meta(view: DatasetView, array: str) -> dict[str, Any]:
    """Return type, shape, chunks and dimensions of an array that is there."""
    meta = view.array_meta(array)
    assert meta is not None
    return meta


def variable_attributes(schema: ArraySchema, stored: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return attributes and encoding of an array as xarray has them."""
    attrs, text = user_attributes(stored), stored.get(ENCODING)
    dtype, fill = schema.dtype, schema.fill
    if fill is not None and (EXPLICIT_FILL in stored or not is_default_fill(dtype, fill)):
        attrs["_FillValue"] = fill_cell(dtype, fill)
    return attrs, encoding_from(text) if text else {}


def default_fill(dtype: DType) -> Any:
    """Return the fill value of arrays that were given none: NaN, NaT or "" where the type has one."""
    return {"f": float("nan"), "M": _NAT, "m": _NAT, "U": "", "S": b""}.get(dtype.kind)


def is_default_fill(dtype: DType, fill: Any) -> bool:
    """Return whether a fill value says no more than that there is none."""
    return fill is None or fill != fill or fill in ("", b"") or (dtype.kind in "Mm" and fill == _NAT)


# ── encodings ────────────────────────────────────────────────────────────────────────────────


def encoding_json(encoding: Mapping[Any, Any]) -> str | None:
    """Return what of an encoding describes values, as text; ``None`` if nothing does."""
    kept = {
        key: encoding[key]
        for key in KEPT_ENCODING
        # That there is to be no fill value is worth remembering as well.
        if encoding.get(key) is not None or (key == "_FillValue" and key in encoding)
    }
    return json.dumps({key: _encoding_value(value) for key, value in kept.items()}) if kept else None


def _encoding_value(value: Any) -> Any:
    if value is str:
        return {"type": "str"}
    if isinstance(value, (np.dtype, type)):
        dtype = np.dtype(value)
        # What Zarr calls text of any length has no name by which NumPy would know it again.
        return {"type": "str"} if dtype.kind == "T" else {"dtype": dtype.str, **_enumeration(dtype)}
    if isinstance(value, bytes):
        return {"bytes": value.decode("latin-1")}
    if isinstance(value, (list, tuple)):
        return [_encoding_value(item) for item in value]
    if isinstance(value, np.ndarray) and not value.ndim:
        value = value[()]
    if isinstance(value, np.generic) and value.dtype.kind in "biuf":
        return {"scalar": [value.dtype.str, repr(value.item())]}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return {"array": [value.dtype.str, [repr(item) for item in value.reshape(-1).tolist()]]}
    return value if value is None or isinstance(value, (str, bool, int, float)) else str(value)


def _enumeration(dtype: np.dtype[Any]) -> dict[str, Any]:
    """Return what the values of a type are called, and the type itself, where it is an enumeration."""
    told: Mapping[str, Any] = dtype.metadata or {}
    if "enum" not in told:
        return {}
    return {"enum": {name: int(number) for name, number in told["enum"].items()}, "enum_name": told.get("enum_name")}


def encoding_from(text: str) -> dict[str, Any]:
    """Return the encoding that :func:`encoding_json` wrote down."""
    return {key: _encoding_restored(value) for key, value in json.loads(text).items()}


def _encoding_restored(value: Any) -> Any:
    if isinstance(value, list):
        return [_encoding_restored(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "type" in value:
        return str
    if "dtype" in value:
        enumeration = {key: value[key] for key in _ENUMERATION if key in value}
        return np.dtype(value["dtype"], metadata=enumeration) if enumeration else np.dtype(value["dtype"])
    if "bytes" in value:
        return value["bytes"].encode("latin-1")
    if "array" in value:
        dtype, texts = value["array"]
        return np.array([_number(dtype, text) for text in texts])
    return _number(*value["scalar"])


def _number(dtype: str, text: str) -> Any:
    return np.dtype(dtype).type(text == "True" if text in ("True", "False") else text)
