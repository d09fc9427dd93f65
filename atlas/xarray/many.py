"""Many datasets as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from atlas.errors import InvalidArgument
from atlas.xarray import notes
from atlas.xarray.cells import restored, with_gaps
from atlas.xarray.reading import import_xarray

if TYPE_CHECKING:
    import xarray as xr

    from atlas.store import Atlas
    from atlas.view import DatasetView


def _variable(view: DatasetView, array: str, data: Any) -> Any:
    return import_xarray().Variable(
        notes.array_meta(view, array)["dimension_names"], data, *notes.variable_attributes(view, array)
    )


def _restored(view: DatasetView, array: str, cells: Any, start: Sequence[int]) -> Any:
    marker, original = (view.get_array_attribute(array, key) for key in (notes.MISSING, notes.DTYPE))
    return restored(
        with_gaps(cells, marker, view.array_fill_value(array), start, notes.array_meta(view, array)["shape"]), original
    )


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
    coords = notes.coordinate_names(first)
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
    return xarray.Dataset(data, renamed, notes.user_attributes(first.attributes()))


def _restored_rows(store: Atlas, array: str, names: Sequence[str], rows: NDArray[Any]) -> NDArray[Any]:
    start = [0] * (rows.ndim - 1)
    # Indexed with an ellipsis, a row of a stack of scalars is still an array.
    restored = [_restored(store.open_dataset(name), array, rows[i, ...], start) for i, name in enumerate(names)]
    return np.stack([np.asarray(row) for row in restored])


def _all_equal(rows: NDArray[Any]) -> bool:
    if rows.dtype.kind in "fcMm":
        return bool(((rows == rows[:1]) | ((rows != rows) & (rows[:1] != rows[:1]))).all())
    return bool((rows == rows[:1]).all())
