"""Arrays of a store as xarray's backends have them: known by shape and type, read when they are indexed."""

from __future__ import annotations

import asyncio
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from atlas.dtypes import fill_cell
from atlas.errors import SelectionError
from atlas.schema import ArraySchema, DatasetRecord
from atlas.session import version_token
from atlas.view import DatasetView
from atlas.xarray import notes
from atlas.xarray.cells import is_date_type, restored, restored_dtype, with_gaps
from atlas.xarray.shelf import Shelf

# What selects cells along an axis, as xarray's outer indexers have it.
Key = int | slice | NDArray[Any]

# About what a cell of text takes, of which NumPy only knows where it is.
_TEXT_BYTES = 32


class LazyArray(BackendArray, ABC):  # type: ignore[misc]
    """An array that is read box by box; ``read_box(start, shape)`` is a subclass's part.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype
    grid : tuple of int
        Cells per chunk along each axis: boxes that touch other chunks are read apart.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    grid: tuple[int, ...]

    @abstractmethod
    def read_box(self, start: Sequence[int], shape: Sequence[int]) -> NDArray[Any]:
        """Return the cells of a box."""

    def __getitem__(self, key: Any) -> Any:
        _check_places(key, self.shape)
        # xarray stumbles over slices that are empty and go backwards.
        key = type(key)(tuple(_forward_if_empty(part, size) for part, size in zip(key.tuple, self.shape, strict=True)))
        read = self._points if isinstance(key, indexing.VectorizedIndexer) else self._outer
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.VECTORIZED, read)

    async def async_getitem(self, key: Any) -> Any:
        """Read in a thread, so that the loop goes on."""
        return await asyncio.to_thread(self.__getitem__, key)

    def _outer(self, key: tuple[Key, ...]) -> NDArray[Any]:
        """Return the cells along which every axis' key has, reading no chunk that holds none of them."""
        axes = [_runs(k, size, chunk) for k, size, chunk in zip(key, self.shape, self.grid, strict=True)]
        extents = [sum(len(np.atleast_1d(places)) for _, _, places, _ in runs) for runs in axes]
        if all(len(runs) == 1 for runs in axes):
            found = self._piece([runs[0] for runs in axes])
        else:
            found = np.empty(extents, self.dtype)
            if found.size:
                for runs in itertools.product(*axes):
                    found[np.ix_(*(places for _, _, places, _ in runs))] = self._piece(runs)
        # With an ellipsis a single cell is still an array: text would lose its type.
        return found[(*(0 if isinstance(k, (int, np.integer)) else slice(None) for k in key), ...)]

    def _points(self, key: tuple[Any, ...]) -> NDArray[Any]:
        """Return cells by index arrays that go together, axes of slices behind them; each chunk is read once."""
        axes = [axis for axis, k in enumerate(key) if not isinstance(k, slice)]
        arrays = np.broadcast_arrays(*(np.asarray(key[axis], np.int64) % max(self.shape[axis], 1) for axis in axes))
        places = [array.reshape(-1) for array in arrays]
        extents = [len(range(*k.indices(n))) for k, n in zip(key, self.shape, strict=True) if isinstance(k, slice)]
        result = np.empty((places[0].size, *extents), self.dtype)
        chunks = np.stack([p // max(self.grid[axis], 1) for axis, p in zip(axes, places, strict=True)])
        _, owners = np.unique(chunks, axis=1, return_inverse=True)
        for points in _groups(owners.reshape(-1)):
            wanted: list[Any] = list(key)
            within: list[Any] = [slice(None)] * len(key)
            for axis, place in zip(axes, places, strict=True):
                wanted[axis], within[axis] = np.unique(place[points], return_inverse=True)
            result[points] = np.moveaxis(self._outer(tuple(wanted)), axes, range(len(axes)))[
                tuple(within[axis].reshape(-1) for axis in axes)
            ]
        return result.reshape(*arrays[0].shape, *extents)

    def _piece(self, runs: Sequence[tuple[int, int, Any, Any]]) -> NDArray[Any]:
        cells = self.read_box([first for first, _, _, _ in runs], [size for _, size, _, _ in runs])
        for axis, (_, _, _, within) in enumerate(runs):
            if within is not None:
                cells = cells[(slice(None),) * axis + (within,)]
        return cells


def _check_places(key: indexing.ExplicitIndexer, shape: Sequence[int]) -> None:
    """Refuse what lies outside: xarray counts from the end where it has to, and leaves the rest to the array.

    Raises
    ------
    SelectionError
    """
    is_counted = not isinstance(key, indexing.VectorizedIndexer)
    for axis, (part, size) in enumerate(zip(key.tuple, shape, strict=True)):
        places = np.zeros(0, np.int64) if isinstance(part, slice) else np.asarray(part)
        outside = places[(places >= size) | (places < (0 if is_counted else -size))]
        if outside.size:
            place = int(outside.flat[0])
            asked = place - size if is_counted and place < 0 else place
            raise SelectionError(f"index {asked} is out of bounds for axis {axis} with size {size}")


def _forward_if_empty(key: Any, size: int) -> Any:
    return slice(0, 0) if isinstance(key, slice) and not len(range(*key.indices(size))) else key


def _groups(owners: NDArray[Any]) -> list[NDArray[Any]]:
    """Return the places of every owner."""
    if not len(owners):
        return []
    order = np.argsort(owners, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(owners[order])) + 1)


def _runs(key: Key, size: int, chunk: int) -> list[tuple[int, int, Any, Any]]:
    """Divide what an axis' key selects where it leaves chunks out.

    Returns
    -------
    list of (first, extent, places, within)
        A run of cells to read, where its cells belong in the result, and which of them (``None``: all).
    """
    if isinstance(key, (int, np.integer)):
        return [(int(key) % max(size, 1), 1, np.zeros(1, np.int64), None)]
    if isinstance(key, slice):
        first, stop, step = key.indices(size)
        count = len(range(first, stop, step))
        if count == 0 or step == 1:
            return [(min(first, size), count, np.arange(count), None)]
        if 0 < step <= chunk:
            return [(first, (count - 1) * step + 1, np.arange(count), slice(None, None, step))]
        key = np.arange(first, stop, step)
    cells = np.asarray(key, np.int64)
    cells = np.where(cells < 0, cells + size, cells)
    if not len(cells):
        return [(0, 0, np.zeros(0, np.int64), None)]
    order = np.argsort(cells, kind="stable")
    chunks = cells[order] // max(chunk, 1)
    runs = []
    for places in np.split(order, np.flatnonzero(np.diff(chunks) > 1) + 1):
        first = int(cells[places[0]])
        runs.append((first, int(cells[places[-1]]) - first + 1, places, cells[places] - first))
    if len(runs) == 1:
        # In the order asked for: then the piece is the result.
        first, extent, _, _ = runs[0]
        return [(first, extent, np.arange(len(cells)), cells - first)]
    return runs


class StoredArray(LazyArray):
    """An array of one dataset."""

    def __init__(self, view: DatasetView, schema: ArraySchema, attributes: Mapping[str, Any]) -> None:
        self._view, self._array = view, schema.name
        self.shape, self.grid = tuple(schema.shape), tuple(max(n, 1) for n in schema.chunk_shape)
        self._original, self._marker = attributes.get(notes.DTYPE), attributes.get(notes.MISSING)
        self.dtype = restored_dtype(schema.dtype.numpy, self._original)
        self._fill = fill_cell(schema.dtype, schema.fill)
        self._shelf: Shelf | None = None

    def __getstate__(self) -> dict[str, Any]:
        # The others stay here.
        return self.__dict__ | {"_shelf": None}

    def read_with(self, shelf: Shelf) -> None:
        """Have the array read together with the others of a shelf."""
        if shelf.add(self._view.name, self._array, math.prod(self.shape) * max(self.dtype.itemsize, _TEXT_BYTES)):
            self._shelf = shelf

    @property
    def holds_dates(self) -> bool:
        """Whether the cells are dates of some other calendar."""
        return is_date_type(self._original)

    def read_box(self, start: Sequence[int], shape: Sequence[int]) -> NDArray[Any]:
        """Return the cells of a box, text and dates as they came in."""
        whole = self._shelf is not None and tuple(shape) == self.shape
        cells = self._shelf.take(self._view.name, self._array) if self._shelf is not None and whole else None
        if cells is None:
            cells = self._view.read_array(self._array, start, shape)
        assert cells is not None
        if self._marker is not None:
            cells = with_gaps(cells, self._marker, self._fill, start, self.shape)
        return restored(cells, self._original)

    def __dask_tokenize__(self) -> Any:
        return version_token(self._view._session), self._view.name, self._array


def settled(view: DatasetView) -> tuple[DatasetView, DatasetRecord]:
    """Return what a dataset declares, and a view that nothing changes any more, unless there are pending changes."""
    session = view._session
    with session.lock:
        if view.name in session.pending.records or session.pending.number(view.name) >= 0:
            return view, session.record(view.name).copy()
        frozen = session.frozen()
        return DatasetView(frozen, view.name), frozen.record(view.name)


class Variable(xr.Variable):  # type: ignore[misc]
    """A variable whose dask arrays are named after the state of the store, which xarray looks for in a file's mtime."""

    __slots__ = ()

    def chunk(self, *args: Any, from_array_kwargs: Mapping[str, Any] | None = None, **kwargs: Any) -> Any:
        """Return the variable as a dask array; see :meth:`xarray.Variable.chunk`."""
        options = dict(from_array_kwargs or {})
        source = _source(self._data)
        if source is not None and options.get("name"):
            from dask.base import tokenize

            options["name"] += f"-{tokenize(source)}"
        return super().chunk(*args, from_array_kwargs=options, **kwargs)

    @staticmethod
    def of(variable: xr.Variable) -> Variable:
        """Return a variable that xarray's decoding has made as one of these."""
        return Variable(variable.dims, variable._data, variable.attrs, variable.encoding, fastpath=True)


def _source(data: Any) -> LazyArray | None:
    """Return the array of a store that xarray's wrappers are around."""
    while data is not None and not isinstance(data, LazyArray):
        data = getattr(data, "array", None)
    return data


def lazy_variable(dims: Sequence[str], array: LazyArray, attrs: Mapping[str, Any], encoding: Mapping[str, Any]) -> Any:
    """Return a variable that reads an array of the store when it is used."""
    preferred = {"preferred_chunks": dict(zip(dims, array.grid, strict=True))} if dims else {}
    data = indexing.LazilyIndexedArray(array)
    return Variable(dims, data, dict(attrs), {**encoding, **preferred}, fastpath=True)
