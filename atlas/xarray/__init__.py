"""xarray in and out.

Variables become arrays of the same name, coordinates first. What Atlas has no field for travels in
internal attributes that reads take out again: which variables are coordinates, the original NumPy
type of text, and the CF encoding.
"""

from atlas.xarray.adding import add_xarray_dataset
from atlas.xarray.many import open_as_many_xarray_dataset
from atlas.xarray.notes import coordinate_names, user_attributes
from atlas.xarray.reading import import_xarray, open_as_xarray_dataset, require_zarr

__all__ = [
    "add_xarray_dataset",
    "coordinate_names",
    "import_xarray",
    "open_as_many_xarray_dataset",
    "open_as_xarray_dataset",
    "require_zarr",
    "user_attributes",
]
