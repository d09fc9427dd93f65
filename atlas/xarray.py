"""xarray in and out.

Variables become arrays of the same name, coordinates first. What Atlas has no field for travels in
internal attributes that reads take out again: which variables are coordinates, the original NumPy
type of text, and the CF encoding.
"""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from atlas.dtypes import DType, fill_cell, from_numpy, parse_dtype
from atlas.errors import AtlasError, DataTypeError, InvalidArgument, MissingDependency, UnsupportedDataType

if TYPE_CHECKING:
    import xarray as xr

    from atlas.prepared import Draft
    from atlas.store import Atlas
    from atlas.view import DatasetView

_COORDS = "_pyatlas_coords"
_DTYPE = "_atlas_dtype"
_MISSING = "_atlas_missing"
_ENCODING = "_atlas_encoding"
_EXPLICIT_FILL = "_atlas_explicit_fill"
_INTERNAL = (_COORDS, _DTYPE, _MISSING, _ENCODING, _EXPLICIT_FILL)
_JSON = "json:"

# Encoding keys that describe values; the rest (chunk sizes, compression, source) describes a file.
_KEPT_ENCODING = (
    "_FillValue",
    "missing_value",
    "scale_factor",
    "add_offset",
    "dtype",
    "units",
    "calendar",
    "_Unsigned",
)

_NAT = np.iinfo(np.int64).min


def import_xarray() -> Any:
    """Return xarray, which Atlas does not require.

    Raises
    ------
    MissingDependency
        If it is not installed.
    """
    try:
        import xarray
    except ImportError as error:
        raise MissingDependency(f"this needs xarray ({error}): pip install 'atlas-fleet[netcdf]'") from None
    return xarray


# ── in ───────────────────────────────────────────────────────────────────────────────────────


def add_xarray_dataset(
    store: Atlas, ds: xr.Dataset, name: str, chunks: Mapping[str, Sequence[int]] | None = None, fill_value: Any = None
) -> None:
    """Add a dataset to the store; when it fails half-way, nothing of it stays.

    Parameters
    ----------
    store : Atlas
    ds : xarray.Dataset
        Dask-backed variables are computed and written block by block.
    name : str
    chunks : mapping of str to sequence of int, optional
        Chunk shape by variable; dask chunks, or the whole array, otherwise.
    fill_value : scalar or dict, optional
        Fill value of all numeric arrays, or by variable; ``None`` in the dict means none.

    Raises
    ------
    UnsupportedDataType
        If a variable has a type that cannot be stored.
    """
    view = store.create_dataset(name)
    try:
        write_dataset(view, ds, chunks or {}, fill_value)
    except BaseException:
        store.delete_dataset(name)
        raise


def write_dataset(
    view: DatasetView | Draft, ds: xr.Dataset, chunks: Mapping[str, Sequence[int]], fill_value: Any = None
) -> None:
    """Write a dataset into an empty view, or a draft of one."""
    for key in [*ds.coords, *ds.data_vars]:
        write_variable(view, _text_name(key, "variable"), ds.variables[key], chunks, fill_value)
    write_attributes(view, ds.attrs, list(ds.coords))


def write_attributes(view: DatasetView | Draft, attributes: Mapping[Any, Any], coords: Sequence[Any]) -> None:
    """Write the attributes of a dataset, and which of its variables are coordinates."""
    for key, value in attributes.items():
        view.set_attribute(_attribute_key(key), _attribute(value))
    view.set_attribute(_COORDS, json.dumps([_text_name(key, "coordinate") for key in coords]))


def _text_name(key: Any, what: str) -> str:
    if not isinstance(key, str):
        raise InvalidArgument(f"{what} names must be strings, not {key!r}; rename it first")
    return key


def write_variable(
    view: DatasetView | Draft,
    name: str,
    variable: xr.Variable,
    chunks: Mapping[str, Sequence[int]],
    fill_value: Any = None,
) -> None:
    """Write one variable into a view, or a draft of one."""
    data = variable.data if _is_dask(variable.data) else np.asarray(variable.values)
    dtype, original = _storage_type(name, data)
    dims = [_text_name(dim, "dimension") for dim in variable.dims]
    attrs = dict(variable.attrs)
    explicit = attrs.pop("_FillValue", None)
    fill = _resolve_fill(name, dtype, explicit, fill_value)
    chunk_shape = chunks.get(name)
    if chunk_shape is None and _is_dask(data):
        chunk_shape = [max(int(sizes[0]), 1) for sizes in variable.chunks or ()]
    view.define_array(name, dtype.name, dims, variable.shape, chunk_shape, fill)
    text_fill = fill if isinstance(fill, str) else ""
    gaps = _Gaps(variable.shape, text_fill)
    for start, block in _blocks(data):
        gaps.note(start, block)
        view.write_array(name, start=start, data=_fill_missing_strings(block, text_fill)[0])
    if gaps.count:
        view.set_array_attribute(name, _MISSING, gaps.marker())
        warnings.warn(
            f"{name!r}: replaced {gaps.count} missing string cell(s) (None or NaN) by the fill value {text_fill!r}; "
            "text has no null. open_as_xarray_dataset gives them back as they were",
            UserWarning,
            stacklevel=5,
        )
    for key, value in attrs.items():
        view.set_array_attribute(name, _attribute_key(key), _attribute(value))
    if explicit is not None and _is_default_fill(dtype, view.array_fill_value(name)):
        view.set_array_attribute(name, _EXPLICIT_FILL, True)
    if original is not None:
        view.set_array_attribute(name, _DTYPE, original)
    encoding = _encoding_json(variable.encoding)
    if encoding:
        view.set_array_attribute(name, _ENCODING, encoding)


def _is_dask(data: Any) -> bool:
    return type(data).__module__.startswith("dask.")


def _storage_type(name: str, data: Any) -> tuple[DType, str | None]:
    """Return the type to store with, and the NumPy type to restore when reads give another one."""
    dtype = data.dtype
    if dtype.kind == "O":
        return _object_type(name, data)
    if dtype.kind == "S":
        cells = np.asarray(data).reshape(-1).tolist()
        return parse_dtype("string" if all(map(_is_utf8, cells)) else "binary"), dtype.str
    try:
        return from_numpy(dtype), dtype.str if dtype.kind == "U" else None
    except UnsupportedDataType as error:
        raise UnsupportedDataType(f"variable {name!r}: {error}") from None


def _object_type(name: str, data: Any) -> tuple[DType, str | None]:
    if _is_dask(data):
        return parse_dtype("string"), None
    cells = [cell for cell in data.reshape(-1).tolist() if not _is_missing(cell)]
    if all(isinstance(cell, str) for cell in cells):
        return parse_dtype("string"), None
    if all(isinstance(cell, bytes) for cell in cells):
        # Text in bytes stays searchable as text; the marker gives it back as bytes.
        return (parse_dtype("string"), "bytes") if all(map(_is_utf8, cells)) else (parse_dtype("binary"), None)
    odd = next(type(cell) for cell in cells if not isinstance(cell, str))
    advice = "decode it with decode_times=False" if odd.__module__.startswith("cftime") else "convert it to text"
    raise UnsupportedDataType(f"variable {name!r} holds {odd.__module__}.{odd.__name__} objects; {advice} first")


def _is_utf8(cell: bytes) -> bool:
    try:
        cell.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _blocks(data: Any) -> Iterator[tuple[list[int], NDArray[Any]]]:
    """Yield every dask block with its first index; plain data is one block."""
    if not _is_dask(data):
        yield [0] * data.ndim, data
        return
    starts = [[0, *itertools.accumulate(sizes)][:-1] for sizes in data.chunks]
    for position in np.ndindex(*data.numblocks):
        yield [axis[i] for axis, i in zip(starts, position, strict=True)], np.asarray(data.blocks[position].compute())


def _is_missing(cell: Any) -> bool:
    if cell is None or (isinstance(cell, float) and cell != cell):
        return True
    return type(cell).__name__ in ("NAType", "NaTType")


def _fill_missing_strings(block: NDArray[Any], fill: str) -> tuple[NDArray[Any], int]:
    """Replace missing cells (None, NaN, pandas NA) of an object block; return it and how many there were."""
    if block.dtype.kind != "O" or not block.size:
        return block, 0
    missing = np.fromiter(map(_is_missing, block.reshape(-1)), bool, block.size).reshape(block.shape)
    count = int(missing.sum())
    if not count:
        return block, 0
    result = block.copy()
    result[missing] = fill
    return result, count


class _Gaps:
    """Remembers which text cells were missing, so that a read can tell them from real fill values."""

    def __init__(self, shape: tuple[int, ...], fill: str) -> None:
        self._shape = shape
        self._fill = fill
        self._cells: dict[str, list[int]] = {}
        self._real_fills = False
        self.count = 0

    def note(self, start: list[int], block: NDArray[Any]) -> None:
        """Take in a block of cells that begins at `start`."""
        if block.dtype.kind != "O":
            return
        for position, cell in np.ndenumerate(block):
            if _is_missing(cell):
                place = tuple(first + i for first, i in zip(start, position, strict=True))
                flat = int(np.ravel_multi_index(place, self._shape)) if place else 0
                self._cells.setdefault("none" if cell is None else "nan", []).append(flat)
                self.count += 1
            elif cell == self._fill:
                self._real_fills = True

    def marker(self) -> str:
        """Return the note as text: every fill cell is a gap, or the flat positions of the gaps."""
        if len(self._cells) == 1 and not self._real_fills:
            return json.dumps(dict.fromkeys(self._cells, "fill"))
        return json.dumps(self._cells)


def _with_gaps(cells: NDArray[Any], marker: str | None, fill: Any, start: Sequence[int], shape: Sequence[int]) -> Any:
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


def _resolve_fill(name: str, dtype: DType, attribute: Any, argument: Any) -> Any:
    """Return the fill value: the argument, else the ``_FillValue`` attribute, else NaN, NaT or ""."""
    if isinstance(argument, dict):
        if name in argument:
            return _as_fill(dtype, argument[name])
    elif argument is not None and dtype.kind in "iuf":
        return _as_fill(dtype, argument)
    if attribute is not None:
        return _as_fill(dtype, attribute)
    return {"f": float("nan"), "M": _NAT, "m": _NAT, "U": "", "S": b""}.get(dtype.kind)


def _as_fill(dtype: DType, value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if dtype.kind == "U" and isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return value


def _sanitized(text: str) -> str:
    """Return text that has a UTF-8 form; bytes that a backend smuggled in as surrogates are decoded."""
    try:
        text.encode("utf-8")
        return text
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _attribute_key(key: Any) -> str:
    text = _sanitized(str(key))
    if text in _INTERNAL:
        raise InvalidArgument(f"attribute {text!r} is one that Atlas keeps for itself; rename it first")
    return text


def _attribute(value: Any) -> Any:
    """Return an attribute as the store takes it; lists, like all else, become JSON behind a marker."""
    if isinstance(value, str):
        text = _sanitized(value)
        # Text that looks like the marker is marked itself, so that it comes back as text.
        return _JSON + json.dumps(text) if text.startswith(_JSON) else text
    if isinstance(value, (bool, int, float, bytes, np.generic)):
        return value
    if isinstance(value, np.ndarray) and value.ndim <= 1 and value.dtype.kind in "biufMmUS":
        return value
    if isinstance(value, (list, tuple)):
        value = [_sanitized(item) if isinstance(item, str) else item for item in value]
    try:
        return _JSON + json.dumps(value.tolist() if isinstance(value, np.ndarray) else value)
    except (TypeError, ValueError):
        raise DataTypeError(f"attribute value {value!r} of type {type(value).__name__} cannot be stored") from None


def _encoding_json(encoding: Mapping[Any, Any]) -> str | None:
    kept = {key: encoding[key] for key in _KEPT_ENCODING if encoding.get(key) is not None}
    return json.dumps({key: _encoding_value(value) for key, value in kept.items()}) if kept else None


def _encoding_value(value: Any) -> Any:
    if isinstance(value, (np.dtype, type)):
        return {"dtype": np.dtype(value).str}
    if isinstance(value, bytes):
        return {"bytes": value.decode("latin-1")}
    if isinstance(value, np.generic) and value.dtype.kind in "biuf":
        return {"scalar": [value.dtype.str, repr(value.item())]}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return {"array": [value.dtype.str, [repr(item) for item in value.reshape(-1).tolist()]]}
    return value if isinstance(value, (str, bool, int, float)) else str(value)


def _encoding_from(text: str) -> dict[str, Any]:
    return {key: _encoding_restored(value) for key, value in json.loads(text).items()}


def _encoding_restored(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if "dtype" in value:
        return np.dtype(value["dtype"])
    if "bytes" in value:
        return value["bytes"].encode("latin-1")
    if "array" in value:
        dtype, texts = value["array"]
        return np.array([_number(dtype, text) for text in texts])
    return _number(*value["scalar"])


def _number(dtype: str, text: str) -> Any:
    return np.dtype(dtype).type(text == "True" if text in ("True", "False") else text)


# ── out ──────────────────────────────────────────────────────────────────────────────────────


def open_as_xarray_dataset(store: Atlas, name: str) -> xr.Dataset:
    """Return a dataset; arrays of more than one chunk come back lazily, as dask arrays of those chunks."""
    xarray = import_xarray()
    view = store.open_dataset(name)
    arrays = view.list_arrays()
    coords = coordinate_names(view)
    variables = {array: _variable(view, array, _load(view, array)) for array in arrays}
    return xarray.Dataset(
        {array: variables[array] for array in arrays if array not in coords},
        {array: variables[array] for array in arrays if array in coords},
        user_attributes(view.attributes()),
    )


def user_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes as users gave them: without the internal ones, lists as lists again."""
    return {key: _plain_attribute(value) for key, value in attributes.items() if key not in _INTERNAL}


def coordinate_names(view: DatasetView) -> set[str]:
    """Return which arrays of a dataset are coordinates."""
    marker, arrays = view.get_attribute(_COORDS), view.list_arrays()
    if isinstance(marker, str):
        try:
            return set(json.loads(marker)) & set(arrays)
        except (TypeError, ValueError) as error:
            raise AtlasError(f"dataset {view.name!r}: its list of coordinates is not readable: {error}") from None
    # Not written from xarray: an array along a dimension of its own name is that dimension's coordinate.
    return {array for array in arrays if _meta(view, array)["dimension_names"] == [array]}


def _meta(view: DatasetView, array: str) -> dict[str, Any]:
    meta = view.array_meta(array)
    assert meta is not None
    return meta


def _load(view: DatasetView, array: str) -> Any:
    meta = _meta(view, array)
    if all(chunk >= size for chunk, size in zip(meta["chunk_shape"], meta["shape"], strict=True)):
        return _read_block(view, array, [0] * len(meta["shape"]), meta["shape"])
    return _lazy(view, array, meta)


def _restored(view: DatasetView, array: str, cells: Any, start: Sequence[int]) -> Any:
    """Return the cells of a box as they came in: text in its NumPy type, gaps as gaps."""
    marker, original = (view.get_array_attribute(array, key) for key in (_MISSING, _DTYPE))
    if marker is not None:
        cells = _with_gaps(cells, marker, view.array_fill_value(array), start, _meta(view, array)["shape"])
    if original is None:
        return cells
    if original == "bytes" or original.startswith("|S"):
        flat = [cell.encode("utf-8") if isinstance(cell, str) else cell for cell in cells.reshape(-1).tolist()]
        encoded = np.empty(len(flat), object)
        encoded[:] = flat
        cells = encoded.reshape(cells.shape)
    return cells if original == "bytes" else cells.astype(original)


def _lazy(view: DatasetView, array: str, meta: dict[str, Any]) -> Any:
    import dask.array
    from dask.base import tokenize

    chunks = tuple(
        tuple(min(chunk, size - first) for first in range(0, size, chunk)) or (0,)
        for size, chunk in zip(meta["shape"], meta["chunk_shape"], strict=True)
    )
    original = view.get_array_attribute(array, _DTYPE)
    starts = [[0, *itertools.accumulate(sizes)][:-1] for sizes in chunks]
    place = view._session.storage.describe()
    name = f"atlas-{array}-{tokenize(place, view._session.snapshot.root.commit, view.name, array)}"
    graph: dict[Any, Any] = {
        (name, *position): (
            _read_block,
            view,
            array,
            [axis[i] for axis, i in zip(starts, position, strict=True)],
            [sizes[i] for sizes, i in zip(chunks, position, strict=True)],
        )
        for position in np.ndindex(*map(len, chunks))
    }
    dtype = np.dtype(original) if original and original != "bytes" else parse_dtype(meta["dtype"]).numpy
    return dask.array.Array(graph, name, chunks, dtype=dtype)


def _read_block(view: DatasetView, array: str, start: list[int], shape: list[int]) -> Any:
    return _restored(view, array, view.read_array(array, start, shape), start)


def _variable(view: DatasetView, array: str, data: Any) -> xr.Variable:
    xarray = import_xarray()
    stored = view.array_attributes(array)
    attrs, encoding = user_attributes(stored), stored.get(_ENCODING)
    meta = _meta(view, array)
    dtype, fill = parse_dtype(meta["dtype"]), view.array_fill_value(array)
    if fill is not None and (_EXPLICIT_FILL in stored or not _is_default_fill(dtype, fill)):
        attrs["_FillValue"] = fill_cell(dtype, fill)
    restored = _encoding_from(encoding) if encoding else {}
    return xarray.Variable(meta["dimension_names"], data, attrs, restored)


def _is_default_fill(dtype: DType, fill: Any) -> bool:
    return fill is None or fill != fill or fill in ("", b"") or (dtype.kind in "Mm" and fill == _NAT)


def _plain_attribute(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(_JSON):
        try:
            return json.loads(value[len(_JSON) :])
        except ValueError:
            return value  # set by hand, and no JSON
    return value


def open_as_many_xarray_dataset(
    store: Atlas, names: Sequence[str], concat_dim: str = "dataset", parallel: bool = True
) -> xr.Dataset:
    """Return many datasets stacked along a new dimension, eagerly.

    Parameters
    ----------
    store : Atlas
    names : sequence of str
    concat_dim : str
        The new dimension; its coordinate holds the names.
    parallel : bool
        Kept for scripts of the older package; reads are always parallel.

    Notes
    -----
    Coordinates that are the same in all datasets stay as they are; those that differ are stacked
    like variables. Attributes are the first dataset's.
    """
    xarray = import_xarray()
    names = list(names)
    if not names:
        raise InvalidArgument("names is empty")
    first = store.open_dataset(names[0])
    arrays = first.list_arrays()
    coords = coordinate_names(first)
    variables: dict[str, Any] = {}
    for array in arrays:
        stacked = store.read_array_across_stacked(array, names)
        if stacked.dtype.kind == "O":
            stacked = _restored_rows(store, array, names, stacked)
        same = array in coords and _all_equal(stacked)
        own = _variable(first, array, stacked[0])
        dims = own.dims if same else (concat_dim, *own.dims)
        variables[array] = xarray.Variable(dims, stacked[0] if same else stacked, own.attrs, own.encoding)
    index = {array: variables[array] for array in arrays if array in coords}
    # An index has one axis: a dimension whose coordinate differs keeps it as an ordinary variable.
    clashing = [array for array in index if array in index[array].dims and len(index[array].dims) > 1]
    renamed = {f"{array}_values" if array in clashing else array: variable for array, variable in index.items()}
    renamed[concat_dim] = xarray.Variable((concat_dim,), np.asarray(names))
    data = {array: variables[array] for array in arrays if array not in coords}
    return xarray.Dataset(data, renamed, user_attributes(first.attributes()))


def _restored_rows(store: Atlas, array: str, names: Sequence[str], rows: NDArray[Any]) -> NDArray[Any]:
    start = [0] * (rows.ndim - 1)
    # Indexed with an ellipsis, a row of a stack of scalars is still an array.
    restored = [_restored(store.open_dataset(name), array, rows[i, ...], start) for i, name in enumerate(names)]
    return np.stack([np.asarray(row) for row in restored])


def _all_equal(rows: NDArray[Any]) -> bool:
    if rows.dtype.kind in "fcMm":
        return bool(((rows == rows[:1]) | ((rows != rows) & (rows[:1] != rows[:1]))).all())
    return bool((rows == rows[:1]).all())
