"""The engine: ``xarray.open_dataset(store, engine="atlas", group=name)``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import xarray as xr
from xarray.backends import BackendEntrypoint

from atlas.errors import InvalidArgument
from atlas.root import ROOT_KEYS
from atlas.session import FrozenSession
from atlas.store import Atlas
from atlas.view import DatasetView
from atlas.xarray.decoding import Decoding, decoded
from atlas.xarray.reading import Stored
from atlas.xarray.shelf import Shelf

# Datasets that are looked up at once.
_BATCH = 4096


class AtlasBackendEntrypoint(BackendEntrypoint):  # type: ignore[misc]
    """Opens datasets of Atlas stores lazily: ``xarray.open_dataset(place, engine="atlas", group=name)``.

    What is opened is the state that the store was in then: whatever is written later, arrays that are read later are of
    that state.

    Examples
    --------
    >>> import atlas, xarray as xr
    >>> with atlas.Atlas.create("fleet") as store:
    ...     xr.Dataset({"t": ("x", [1.5, 2.5])}).atlas.write(store, "jan")
    >>> xr.open_dataset("fleet", engine="atlas", group="jan")["t"].values
    array([1.5, 2.5])
    """

    description = "Open the datasets of Atlas stores"
    supports_groups = True

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Return whether this is the directory of a store, or a handle of one; nothing is asked of a network."""
        if isinstance(filename_or_obj, Atlas):
            return True
        if not isinstance(filename_or_obj, (str, os.PathLike)):
            return False
        return any(os.path.isfile(os.path.join(filename_or_obj, key)) for key in ROOT_KEYS)

    def open_dataset(
        self,
        filename_or_obj: Any,
        *,
        mask_and_scale: Any = True,
        decode_times: Any = True,
        concat_characters: Any = True,
        decode_coords: Any = True,
        drop_variables: str | Iterable[str] | None = None,
        use_cftime: Any = None,
        decode_timedelta: Any = None,
        group: str | None = None,
        storage_options: dict[str, Any] | None = None,
    ) -> xr.Dataset:
        """Open one dataset; see :func:`xarray.open_dataset` for the options that are not described here.

        Parameters
        ----------
        filename_or_obj : path, URL or Atlas
        group : str, optional
            The dataset's name; not needed where the store has only one.
        storage_options : dict, optional
            For fsspec, with a URL.
        concat_characters : bool
            Makes no difference: text is stored as text.
        """
        options = Decoding(mask_and_scale, decode_times, decode_coords, use_cftime, decode_timedelta)
        store = _store(filename_or_obj, storage_options)
        return _Opening(options, drop_variables).dataset(store.open_dataset(_named(group) or _only(store)))

    def open_groups_as_dict(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        concat_characters: Any = True,
        group: str | None = None,
        storage_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> dict[str, xr.Dataset]:
        """Open all datasets, or one, as the groups below an empty root; see :meth:`open_dataset`."""
        store, opening = _store(filename_or_obj, storage_options), _Opening(Decoding(**options), drop_variables)
        name = _named(group)
        if name:
            return {"/": opening.dataset(store.open_dataset(name))}
        return {"/": xr.Dataset(), **{f"/{view.name}": opening.dataset(view) for view in _views(store)}}

    def open_datatree(self, filename_or_obj: Any, **options: Any) -> xr.DataTree:
        """Open all datasets as the children of an empty root; see :meth:`open_groups_as_dict`."""
        return xr.DataTree.from_dict(self.open_groups_as_dict(filename_or_obj, **options))


def _store(source: Any, storage_options: dict[str, Any] | None) -> Atlas:
    return source if isinstance(source, Atlas) else Atlas.open(source, mode="r", storage_options=storage_options)


def _named(group: str | None) -> str | None:
    """Return the name of the dataset that is meant; nothing where the root is."""
    if group is not None and not isinstance(group, str):
        raise InvalidArgument(f"group must be a string, the name of a dataset, not {group!r}")
    return group and group.strip("/")


def _views(store: Atlas) -> Iterator[DatasetView]:
    """Yield a view of every dataset."""
    names, catalog = store.list_datasets(), store._session.snapshot.root.catalog
    for first in range(0, len(names), _BATCH):
        catalog.learn(names[first : first + _BATCH])
        yield from map(store.open_dataset, names[first : first + _BATCH])


def _only(store: Atlas) -> str:
    names = store.list_datasets()
    if len(names) != 1:
        shown = ", ".join(map(repr, names[:5])) + (", …" if len(names) > 5 else "")
        raise InvalidArgument(f"say which of the {len(names)} datasets to open, by group=: {shown}")
    return names[0]


class _Opening:
    """Opens datasets, one or many, with the same options."""

    def __init__(self, decoding: Decoding, drop_variables: str | Iterable[str] | None) -> None:
        self._decoding = decoding
        self._dropped = {drop_variables} if isinstance(drop_variables, str) else set(drop_variables or ())
        self._shelf: Shelf | None = None

    def dataset(self, view: DatasetView) -> xr.Dataset:
        """Return a dataset without indexes: xarray makes them, if they are wanted, and reads coordinates for that."""
        found = Stored(view, self._dropped)
        self._read_together(found)
        variables, attrs, coords = decoded(found.variables, found.attrs, found.coords, self._decoding)
        for name, variable in variables.items():
            _tell_fill(variable, found.schemas[name].fill)
        index = {name: variable for name, variable in variables.items() if name in coords}
        data = {name: variable for name, variable in variables.items() if name not in coords}
        ds = xr.Dataset(data, xr.Coordinates(index, indexes={}), attrs)
        ds.encoding = found.encoding
        ds.set_close(_nothing_to_close)
        return ds

    def _read_together(self, found: Stored) -> None:
        if not isinstance(found.session, FrozenSession):
            return  # pending changes are seen when they are read
        if self._shelf is None or self._shelf.session is not found.session:
            self._shelf = Shelf(found.session)
        for name in found.coords:
            if found.schemas[name].dims == (name,):
                found.arrays[name].read_with(self._shelf)


def _nothing_to_close() -> None:
    """Do what is left to do when a dataset is closed: no file is open between reads."""


def _tell_fill(variable: Any, fill: Any) -> None:
    """Say of the fill value what readers of files would hear: NaN is one, and that there is none is not said."""
    if variable.encoding.get("_FillValue", "unknown") is None:
        del variable.encoding["_FillValue"]
    elif "_FillValue" not in variable.encoding and "_FillValue" not in variable.attrs:
        dtype = np.dtype(variable.encoding.get("dtype", variable.dtype))
        if isinstance(fill, float) and fill != fill and dtype.kind == variable.dtype.kind == "f":
            variable.encoding["_FillValue"] = variable.dtype.type(fill)
