"""xarray out: one dataset of a store, as it was written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from atlas.errors import MissingDependency
from atlas.xarray import notes

if TYPE_CHECKING:
    import xarray as xr

    from atlas.store import Atlas
    from atlas.view import DatasetView


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


def open_as_xarray_dataset(store: Atlas, name: str) -> xr.Dataset:
    """Return a dataset; arrays of more than one chunk come back lazily, as dask arrays of those chunks."""
    xarray = import_xarray()
    view = store.open_dataset(name)
    coords = notes.coordinate_names(view)
    variables = {array: _variable(variable) for array, variable in lazy_variables(view).items()}
    ds = xarray.Dataset(
        {array: variable for array, variable in variables.items() if array not in coords},
        {array: variable for array, variable in variables.items() if array in coords},
        notes.user_attributes(view.attributes()),
    )
    ds.encoding = dataset_encoding(view)
    return ds


def _variable(lazy: Any) -> Any:
    chunks = lazy.encoding.pop("preferred_chunks", {})
    if all(chunks[dim] >= size for dim, size in lazy.sizes.items()):
        return lazy.load()
    return lazy.chunk(chunks)


def lazy_variables(view: DatasetView) -> dict[str, Any]:
    """Return every array of a dataset as a variable that is read when it is used."""
    from atlas.xarray.arrays import StoredArray, lazy_variable, settled

    view = settled(view)
    return {
        array: lazy_variable(
            notes.array_meta(view, array)["dimension_names"],
            StoredArray(view, array),
            *notes.variable_attributes(view, array),
        )
        for array in view.list_arrays()
    }


def dataset_encoding(view: DatasetView) -> dict[str, Any]:
    """Return what xarray noted of the dataset as a whole."""
    text = view.get_attribute(notes.ENCODING)
    return {} if text is None else {key: set(value) for key, value in json.loads(text).items()}
