"""xarray out: one dataset of a store, as it was written."""

from __future__ import annotations

import json
from collections.abc import Container
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from atlas.attributes import decode_attributes
from atlas.errors import MissingDependency
from atlas.indexes import side_by_side
from atlas.xarray import notes

if TYPE_CHECKING:
    import xarray as xr

    from atlas.store import Atlas
    from atlas.view import DatasetView
    from atlas.xarray.arrays import StoredArray


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


def require_zarr() -> None:
    """Refuse to go on without zarr, which Atlas does not require.

    Raises
    ------
    MissingDependency
    """
    if find_spec("zarr") is None:
        raise MissingDependency("Zarr groups need zarr: pip install zarr")


def open_as_xarray_dataset(store: Atlas, name: str) -> xr.Dataset:
    """Return a dataset; arrays of more than one chunk come back lazily, as dask arrays of those chunks."""
    xarray = import_xarray()
    found = Stored(store.open_dataset(name))
    chunks = {array: lazy.encoding.pop("preferred_chunks", {}) for array, lazy in found.variables.items()}
    whole = {
        array: lazy
        for array, lazy in found.variables.items()
        if all(chunks[array][dim] >= size for dim, size in lazy.sizes.items())
    }
    side_by_side(found.session.storage, xarray.Variable.load, list(whole.values()))
    variables = {
        array: lazy if array in whole else lazy.chunk(chunks[array]) for array, lazy in found.variables.items()
    }
    ds = xarray.Dataset(
        {array: variable for array, variable in variables.items() if array not in found.coords},
        {array: variable for array, variable in variables.items() if array in found.coords},
        found.attrs,
    )
    ds.encoding = found.encoding
    return ds


class Stored:
    """One dataset as it is stored.

    Attributes
    ----------
    session : Session
    schemas : dict of str to ArraySchema
    arrays : dict of str to StoredArray
    variables : dict of str to xarray.Variable
        Every array as a variable that is read when it is used.
    coords : set of str
        Which of them are coordinates.
    attrs, encoding : dict
        Of the dataset as a whole.
    """

    def __init__(self, view: DatasetView, without: Container[str] = ()) -> None:
        from atlas.xarray.arrays import StoredArray, lazy_variable, settled

        view, record = settled(view)
        self.session = view._session
        self.schemas = {name: schema for name, schema in record.arrays.items() if name not in without}
        self.arrays: dict[str, StoredArray] = {}
        self.variables: dict[str, Any] = {}
        for name, schema in self.schemas.items():
            stored = decode_attributes(record.array_attributes.get(name, {}))
            array = self.arrays[name] = StoredArray(view, schema, stored)
            self.variables[name] = lazy_variable(schema.dims, array, *notes.variable_attributes(schema, stored))
        attributes = decode_attributes(record.attributes)
        dims = {name: schema.dims for name, schema in self.schemas.items()}
        self.coords = notes.coordinates_among(dims, attributes.get(notes.COORDS), view.name)
        self.attrs, text = notes.user_attributes(attributes), attributes.get(notes.ENCODING)
        self.encoding = {} if text is None else {key: set(value) for key, value in json.loads(text).items()}
