"""xarray in: a dataset's variables become arrays of the same name, coordinates first."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from atlas.chunks import whole_chunk
from atlas.dtypes import DType
from atlas.errors import ArrayNotFound, InvalidArgument, UnsupportedDataType
from atlas.xarray import notes
from atlas.xarray.cells import Gaps, is_date_type, storage_type, stored_cells

if TYPE_CHECKING:
    import xarray as xr

    from atlas.prepared import Draft
    from atlas.view import DatasetView

# Blocks of dask arrays that are computed together; what several of them come from is then computed once.
_TOGETHER_BYTES = 128 << 20

CHUNK_ENCODING = ("chunks", "chunksizes")


def encodings_of(ds: xr.Dataset, given: Mapping[str, Mapping[str, Any]]) -> dict[Any, dict[str, Any]]:
    """Return the encoding of every variable, with what is given over its own."""
    for name, changes in given.items():
        if name not in ds.variables:
            raise ArrayNotFound(f"encoding is given for {name!r}, which is no variable of the dataset")
        if not isinstance(changes, Mapping):
            raise InvalidArgument(f"the encoding of {name!r} must be castable to dict, not {changes!r}")
        unknown = sorted(set(changes) - {*notes.KEPT_ENCODING, *CHUNK_ENCODING})
        if unknown:
            raise InvalidArgument(
                f"unexpected encoding parameters {unknown} of {name!r}; Atlas keeps {', '.join(notes.KEPT_ENCODING)}"
            )
    return {name: _typed({**variable.encoding, **given.get(name, {})}) for name, variable in ds.variables.items()}


def unlimited_of(ds: xr.Dataset, given: str | Iterable[str] | None) -> list[str]:
    """Return the dimensions that files are to have as unlimited ones: those that are given, or the encoding's."""
    dims = ds.encoding.get("unlimited_dims") if given is None else given
    names = [dims] if isinstance(dims, str) else sorted(map(str, dims or ()))
    unknown = [name for name in names if name not in ds.dims]
    where = "dataset.encoding" if given is None else "unlimited_dims-kwarg"
    message = f"Unlimited dimension(s) {unknown} declared in {where!r}, but not part of the dataset"
    if unknown and given is not None:
        raise InvalidArgument(message)
    if unknown:
        warnings.warn(message, UserWarning, stacklevel=6)
    return [name for name in names if name not in unknown]


def _typed(encoding: dict[str, Any]) -> dict[str, Any]:
    dtype = encoding.get("dtype")
    return encoding if dtype is None or dtype is str else {**encoding, "dtype": np.dtype(dtype)}


def _refuse_multi_index(ds: xr.Dataset) -> None:
    for name, variable in ds.variables.items():
        index = variable.to_index_variable().to_index() if name in ds.xindexes and variable.ndim == 1 else None
        if getattr(index, "nlevels", 1) > 1:
            raise UnsupportedDataType(
                f"variable {name!r} is a MultiIndex; use reset_index to make plain variables of it"
            )


class Target:
    """One array of the dataset that is written, block by block."""

    def __init__(
        self, view: DatasetView | Draft, name: str, variable: xr.Variable, shape: Sequence[int] | None
    ) -> None:
        self.view, self.name = view, name
        self.data: Any = variable.data if is_dask(variable.data) else np.asarray(variable.values)
        if hasattr(self.data.dtype, "na_object"):
            self.data = self.data.astype(object)  # as which its gaps are known
        self.dtype, self.original = storage_type(name, _sample(self.data), variable.encoding.get("calendar"))
        self.chunk_shape = shape
        if shape is None and is_dask(self.data):
            blocks = tuple(max(int(sizes[0]), 1) for sizes in self.data.chunks)
            self.chunk_shape = None if blocks == whole_chunk(self.data.shape) else blocks

    def define(self, dims: Sequence[str], fill: Any) -> None:
        """Declare the array."""
        text_fill = fill if isinstance(fill, (str, bytes)) else ""
        self.text_fill, self.gaps = text_fill, Gaps(self.data.shape, text_fill)
        self.view.define_array(self.name, self.dtype.name, dims, self.data.shape, self.chunk_shape, fill)

    def write(self, start: list[int], block: NDArray[Any]) -> None:
        """Write one block."""
        if self.dtype.is_text:
            self.gaps.note(start, block)
        cells = stored_cells(self.name, block, self.dtype, self.original, self.text_fill)
        self.view.write_array(self.name, start=start, data=cells)

    def finish(self) -> None:
        """Note which cells were missing."""
        self.note_gaps(self.gaps.count)

    def note_gaps(self, count: int) -> None:
        """Have the missing cells come back, and tell of those that are new."""
        if self.gaps.count:
            self.view.set_array_attribute(self.name, notes.MISSING, self.gaps.marker())
        if count:
            warnings.warn(
                f"{self.name!r}: replaced {count} missing string cell(s) (None or NaN) by the fill value "
                f"{self.text_fill!r}; text has no null. open_as_xarray_dataset gives them back as they were",
                UserWarning,
                stacklevel=7,
            )


def keep_fill(variable: xr.Variable) -> None:
    """Note of floats that had no fill value that they are to have none in files."""
    dtype = variable.encoding.get("dtype", variable.dtype)
    is_told = "_FillValue" in variable.encoding or "_FillValue" in variable.attrs
    if not is_told and dtype is not str and np.dtype(dtype).kind in "fc":
        variable.encoding["_FillValue"] = None


def write_dataset(
    view: DatasetView | Draft,
    ds: xr.Dataset,
    chunks: Mapping[str, Sequence[int]],
    fill_value: Any = None,
    encodings: Mapping[Any, Mapping[str, Any]] | None = None,
    unlimited: Sequence[str] | None = None,
) -> None:
    """Write a dataset into an empty view, or into a draft.

    Encodings, and unlimited dimensions, are its own if none are given.
    """
    _refuse_multi_index(ds)
    encodings = encodings_of(ds, {}) if encodings is None else encodings
    targets = []
    for key in [*ds.coords, *ds.data_vars]:
        variable, encoding = ds.variables[key], encodings[key]
        target = Target(view, _text_name(key, "variable"), variable, chunks.get(key))
        targets.append(target)
        _define(target, variable, fill_value, encoding)
        if not is_dask(target.data):
            target.write([0] * target.data.ndim, target.data)
    stream([target for target in targets if is_dask(target.data)])
    for target in targets:
        target.finish()
    write_attributes(view, ds.attrs, list(ds.coords), unlimited_of(ds, None) if unlimited is None else unlimited)


def write_variable(
    view: DatasetView | Draft, name: str, variable: xr.Variable, chunk_shape: Sequence[int] | None = None
) -> None:
    """Write one variable, of data in memory, into a view or a draft."""
    target = Target(view, name, variable, chunk_shape)
    _define(target, variable, None, _typed(variable.encoding))
    target.write([0] * target.data.ndim, target.data)
    target.finish()


def write_attributes(
    view: DatasetView | Draft, attributes: Mapping[Any, Any], coords: Sequence[Any], unlimited: Sequence[str]
) -> None:
    """Write the attributes of a dataset, and what it says of its coordinates and dimensions."""
    for key, value in attributes.items():
        view.set_attribute(notes.attribute_key(key), notes.stored_attribute(value, f"attribute {key!r}"))
    if unlimited:
        view.set_attribute(notes.ENCODING, json.dumps({"unlimited_dims": unlimited}))
    view.set_attribute(notes.COORDS, json.dumps([_text_name(key, "coordinate") for key in coords]))


def _text_name(key: Any, what: str) -> str:
    if not isinstance(key, str):
        raise InvalidArgument(f"{what} names must be strings, not {key!r}; rename it first")
    return key


def _define(target: Target, variable: xr.Variable, fill_value: Any, encoding: Mapping[str, Any]) -> None:
    view, name, dtype = target.view, target.name, target.dtype
    attrs = dict(variable.attrs)
    explicit = attrs.pop("_FillValue", None)
    target.define(
        [_text_name(dim, "dimension") for dim in variable.dims],
        _resolve_fill(name, dtype, explicit, fill_value, notes.default_fill(dtype)),
    )
    for key, value in attrs.items():
        stored = notes.stored_attribute(value, f"attribute {key!r} of array {name!r}")
        view.set_array_attribute(name, notes.attribute_key(key), stored)
    if explicit is not None and notes.is_default_fill(dtype, view.array_fill_value(name)):
        view.set_array_attribute(name, notes.EXPLICIT_FILL, True)
    if target.original is not None:
        view.set_array_attribute(name, notes.DTYPE, target.original)
    kept = notes.encoding_json({**_implied(target, encoding), **encoding})
    if kept:
        view.set_array_attribute(name, notes.ENCODING, kept)


def _implied(target: Target, encoding: Mapping[str, Any]) -> dict[str, Any]:
    """Return what xarray would add to an encoding when it writes a file, where later readers need to be told."""
    if is_date_type(target.original) and not is_dask(target.data) and target.data.size:
        from xarray.coding.times import infer_datetime_units

        return {"units": infer_datetime_units(target.data), "calendar": target.data.flat[0].calendar}
    if encoding.get("dtype") != "S1":
        return {}
    implied: dict[str, Any] = {}
    is_fixed = target.data.dtype.kind == "S"
    if target.dtype.kind == "U" and not is_fixed and target.original != "bytes":
        implied["_Encoding"] = "utf-8"
    # How long text may be; of bytes of a fixed width, their type says that.
    shape = encoding.get("original_shape", ())
    if "char_dim_name" in encoding and len(shape) == target.data.ndim + 1 and not is_fixed:
        implied["char_dim_size"] = int(shape[-1])
    return implied


def _resolve_fill(name: str, dtype: DType, attribute: Any, argument: Any, default: Any) -> Any:
    """Return the fill value: the argument, else the ``_FillValue`` attribute, else the type's own."""
    if isinstance(argument, dict):
        if name in argument:
            return _as_fill(dtype, argument[name])
    elif argument is not None and dtype.kind in "iuf":
        return _as_fill(dtype, argument)
    return default if attribute is None else _as_fill(dtype, attribute)


def _as_fill(dtype: DType, value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if dtype.kind == "U" and isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return value


# ── dask ─────────────────────────────────────────────────────────────────────────────────────


def is_dask(data: Any) -> bool:
    """Return whether cells are still to be computed."""
    return type(data).__module__.startswith("dask.")


def _sample(data: Any) -> NDArray[Any]:
    """Return cells that tell the type: of dask arrays of objects the first block, of others none."""
    if not is_dask(data):
        return data  # type: ignore[no-any-return]
    if data.dtype.kind in "OS" and data.size:
        return np.asarray(next(_blocks(data))[1].compute())
    return np.empty(0, data.dtype)


def stream(targets: Sequence[Target]) -> None:
    """Compute and write dask arrays; no more of them is in memory than a few blocks."""
    if not targets:
        return
    import dask

    # One block of every array in turn: those that come from the same source are computed together.
    turns = itertools.zip_longest(*(_blocks(target.data) for target in targets))
    batch: list[tuple[Target, list[int], Any]] = []
    held = 0
    for blocks in turns:
        for target, found in zip(targets, blocks, strict=True):
            if found is None:
                continue
            if batch and held + found[1].nbytes > _TOGETHER_BYTES:
                _compute(dask, batch)
                batch, held = [], 0
            batch.append((target, *found))
            held += found[1].nbytes
    _compute(dask, batch)


def _compute(dask: Any, batch: Sequence[tuple[Target, list[int], Any]]) -> None:
    for (target, start, _), block in zip(batch, dask.compute(*(block for _, _, block in batch)), strict=True):
        target.write(start, np.asarray(block))


def _blocks(data: Any) -> Iterator[tuple[list[int], Any]]:
    """Yield every block of a dask array with its first index."""
    if not data.ndim:
        # A single cell is a block already; asked for blocks of it, dask may answer with the name of a task.
        yield [], data
        return
    starts = [[0, *itertools.accumulate(sizes)][:-1] for sizes in data.chunks]
    for position in np.ndindex(*data.numblocks):
        yield [axis[i] for axis, i in zip(starts, position, strict=True)], data.blocks[position]
