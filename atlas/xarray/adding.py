"""Datasets of xarray become new ones of a store, take the place of others, or are added to them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from atlas.config import choice
from atlas.dtypes import fill_cell, in_unit, parse_dtype
from atlas.errors import DataTypeError, InvalidArgument, ShapeMismatch
from atlas.resizing import whole_or_not
from atlas.xarray import notes
from atlas.xarray.cells import Gaps, with_gaps
from atlas.xarray.writing import CHUNK_ENCODING, Target, encodings_of, is_dask, stream, unlimited_of, write_dataset

if TYPE_CHECKING:
    import xarray as xr

    from atlas.store import Atlas
    from atlas.view import DatasetView

MODES = ("w-", "w", "a")


def add_xarray_dataset(
    store: Atlas,
    ds: xr.Dataset,
    name: str,
    chunks: Mapping[str, Sequence[int]] | None = None,
    fill_value: Any = None,
    encoding: Mapping[str, Mapping[str, Any]] | None = None,
    mode: str | None = None,
    append_dim: str | None = None,
    unlimited_dims: str | Iterable[str] | None = None,
) -> None:
    """Add a dataset to the store; see :meth:`atlas.Atlas.add_xarray_dataset`."""
    mode = choice(mode or ("w-" if append_dim is None else "a"), MODES, "mode")
    if append_dim is not None and mode != "a":
        raise InvalidArgument(f"append_dim={append_dim!r} adds to a dataset: that is mode='a', not {mode!r}")
    encodings, unlimited = encodings_of(ds, encoding or {}), unlimited_of(ds, unlimited_dims)
    shapes = {key: given[part] for key, given in (encoding or {}).items() for part in CHUNK_ENCODING if part in given}

    def create(new: str, whole: xr.Dataset) -> None:
        view = store.create_dataset(new)
        try:
            write_dataset(view, whole, {**shapes, **(chunks or {})}, fill_value, encodings, unlimited)
        except BaseException:
            store.delete_dataset(new)
            raise

    if mode == "w-" or not store.dataset_exists(name):
        create(name, ds)
        return
    view, session, beside = store.open_dataset(name), store._session, uuid4().hex
    grown = [] if append_dim is None else _along(view, ds, append_dim)
    asked = {key: {part: encodings[key][part] for part in given} for key, given in (encoding or {}).items()}
    _check_kept(view, grown, {**shapes, **(chunks or {})}, asked)
    if mode == "a":
        _check_sizes(view, ds, grown, append_dim)
    # Beside the old one: that stays when something fails, and what is written may be computed from it.
    create(beside, ds.drop_vars(grown))
    try:
        if mode == "w":
            with session.lock, session.pending.whole():
                session.delete(name)
                session.rename(beside, name)
        else:
            with whole_or_not(session, name):
                _grow([_Growing(view, array, ds.variables[array], str(append_dim)) for array in grown])
                _adopt(view, store.open_dataset(beside), ds)
    except BaseException:
        store.delete_dataset(beside)
        raise


def _adopt(view: DatasetView, beside: DatasetView, ds: xr.Dataset) -> None:
    """Give a dataset all that one beside it has, which goes."""
    coords = (notes.coordinate_names(view) - set(ds.variables)) | set(ds.coords)
    session, name = view._session, view.name
    with session.lock:
        record, new = session.change(name), session.record(beside.name)
        record.arrays |= new.arrays
        record.attributes |= new.attributes
        for array in new.arrays:
            record.array_attributes[array] = new.array_attributes.get(array, {})
        session.pending.arrays.setdefault(name, {}).update(session.pending.arrays.get(beside.name, {}))
        view.set_attribute(notes.COORDS, json.dumps(sorted(coords)))
        session.delete(beside.name)


# ── along a dimension ────────────────────────────────────────────────────────────────────────


def _along(view: DatasetView, ds: xr.Dataset, dim: str) -> list[str]:
    """Return the arrays that are there and grow along a dimension."""
    if dim not in ds.dims:
        raise InvalidArgument(f"append_dim={dim!r} is no dimension of what is written, which has {list(ds.dims)}")
    arrays = set(view.list_arrays())
    found = [str(name) for name, variable in ds.variables.items() if dim in variable.dims and name in arrays]
    for name in found:
        dims, given = notes.array_meta(view, name)["dimension_names"], list(ds[name].dims)
        if dims != given:
            raise ShapeMismatch(f"array {name!r} of {view.name!r} has the dimensions {dims}, what is appended {given}")
    return found


def _check_kept(
    view: DatasetView,
    grown: Sequence[str],
    shapes: Mapping[str, Sequence[int]],
    encodings: Mapping[Any, Mapping[str, Any]],
) -> None:
    """Refuse what is asked for and is not so, of arrays that grow: they keep their chunks and encodings."""
    for name in grown:
        has = notes.array_meta(view, name)["chunk_shape"]
        if list(shapes.get(name, has)) != has:
            raise InvalidArgument(f"array {name!r} of {view.name!r} keeps its chunks {has}, not {list(shapes[name])}")
        note = view.get_array_attribute(name, notes.ENCODING)
        kept = {} if note is None else notes.encoding_from(note)
        for key in encodings.get(name, {}).keys() & set(notes.KEPT_ENCODING):
            had, asked = kept.get(key), encodings[name][key]
            if notes.encoding_json({key: asked}) != notes.encoding_json({key: had}):
                raise InvalidArgument(f"array {name!r} of {view.name!r} keeps its {key} {had!r}, not {asked!r}")


def _check_sizes(view: DatasetView, ds: xr.Dataset, grown: Sequence[str], append_dim: str | None) -> None:
    """Refuse what would leave a dimension with two sizes."""
    shapes = {"what is written": {dim: size for dim, size in ds.sizes.items() if dim != append_dim}}
    shapes |= {str(name): dict(variable.sizes) for name, variable in ds.variables.items()}
    for array in view.list_arrays():
        meta = notes.array_meta(view, array)
        had = dict(zip(meta["dimension_names"], meta["shape"], strict=True))
        if array in grown:
            had[append_dim] += ds.sizes[append_dim]
        if array in grown or array not in shapes:
            shapes[array] = had
    sizes: dict[Any, tuple[int, str]] = {}
    for array, own in shapes.items():
        for dim, size in own.items():
            other, first = sizes.setdefault(dim, (size, array))
            if other != size and dim in ds.dims:
                raise ShapeMismatch(
                    f"dimension {dim!r} of {view.name!r} would have {other} cells in {first!r} and {size} in "
                    f"{array!r}; append_dim= adds along one, mode='w' replaces the whole dataset"
                )


def _grow(arrays: Sequence[_Growing]) -> None:
    for array in arrays:
        array.grow()
        if not is_dask(array.data):
            array.write([0] * array.data.ndim, array.data)
    stream([array for array in arrays if is_dask(array.data)])
    for array in arrays:
        array.finish()


class _Growing(Target):
    """An array of a dataset that is there, to the end of which cells are written block by block."""

    view: DatasetView

    def __init__(self, view: DatasetView, name: str, variable: xr.Variable, dim: str) -> None:
        super().__init__(view, name, variable, None)
        meta = notes.array_meta(view, name)
        self.axis, self.had = list(variable.dims).index(dim), list(meta["shape"])
        self.shape = list(self.had)
        self.shape[self.axis] += variable.shape[self.axis]
        given, self.dtype = self.dtype, parse_dtype(meta["dtype"])
        if given != self.dtype and not given.kind == self.dtype.kind in "mM":
            raise DataTypeError(
                f"array {name!r} of {view.name!r} holds {self.dtype.name}, what is appended {given.name}; convert that"
            )
        self.original = _common_original(name, view.get_array_attribute(name, notes.DTYPE), self.original)
        self.text_fill = fill_cell(self.dtype, view.array_fill_value(name)) if self.dtype.is_text else ""
        self.gaps = Gaps(tuple(self.shape), self.text_fill)

    def grow(self) -> None:
        """Make room for the cells."""
        self.view.resize(self.name, self.shape)
        note = self.view.get_array_attribute(self.name, notes.DTYPE)
        if self.original is not None:
            self.view.set_array_attribute(self.name, notes.DTYPE, self.original)
        elif note is not None:
            with self.view._session.lock:
                del self.view._session.change(self.view.name).array_attributes[self.name][notes.DTYPE]

    def write(self, start: list[int], block: NDArray[Any]) -> None:
        """Write one block, behind what was there."""
        if block.dtype.kind in "mM":
            block = self._in_unit(block)
        start = list(start)
        start[self.axis] += self.had[self.axis]
        super().write(start, block)

    def _in_unit(self, times: NDArray[Any]) -> NDArray[Any]:
        """Return times in the unit of the array."""
        found: NDArray[Any] | None = in_unit(times, self.dtype)
        if found is None:
            raise DataTypeError(
                f"array {self.name!r} of {self.view.name!r} holds {self.dtype.name}, which cannot hold every time of "
                f"the {times.dtype.name} that are appended"
            )
        return found

    def finish(self) -> None:
        """Note which cells are missing, those that were before among them."""
        marker, count = self.view.get_array_attribute(self.name, notes.MISSING), self.gaps.count
        if marker is not None or count:
            first = [0] * len(self.had)
            cells = self.view.read_array(self.name, first, self.had)
            assert cells is not None
            self.gaps.note(first, with_gaps(cells, marker, self.text_fill, first, self.had))
        self.note_gaps(count)


def _common_original(name: str, old: str | None, new: str | None) -> str | None:
    """Return the type to give text and dates back in, of an array that was of one and gets cells of another."""
    kinds = [None if original is None else original.lstrip("<|>")[0] for original in (old, new)]
    if old == new:
        return old
    if kinds[0] == kinds[1] and kinds[0] in ("U", "S"):
        return np.result_type(np.dtype(old), np.dtype(new)).str
    if set(kinds) <= {None, "U", "T"}:
        return None
    if set(kinds) == {"b", "S"}:
        return "bytes"
    raise DataTypeError(f"array {name!r} holds {old or 'text or numbers'}, what is appended {new or 'none of these'}")
