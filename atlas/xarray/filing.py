"""Datasets on their way into files: what xarray would write otherwise than the file had it that they came from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from atlas.xarray.decoding import counts_months, encoded, forgets_sign, has_odd_missing
from atlas.xarray.writing import keep_fill

if TYPE_CHECKING:
    import xarray as xr


def as_filed(ds: xr.Dataset, has_characters: bool) -> xr.Dataset:
    """Return a dataset as it is to be written, into a file that may have text as arrays of characters."""
    ds = ds.copy(deep=False)
    padded = {name: _padded(variable) for name, variable in ds.variables.items()} if has_characters else {}
    texts = {name: cells for name, cells in padded.items() if cells is not None}
    odd = {
        name for name, variable in ds.variables.items() if forgets_sign(variable.encoding) or counts_months(variable)
    }
    ds = ds.drop_indexes([name for name in ds.xindexes if name in odd or name in texts])
    for name, variable in ds.variables.items():
        if name in odd:
            stored = encoded(variable.to_base_variable())
            variable.data, variable.attrs, variable.encoding = stored.data, stored.attrs, {}
        keep_fill(variable)
        _keep_missing(variable)
        if not has_characters and variable.dtype.kind in "OSUT":
            variable.encoding.pop("_FillValue", None)  # xarray cannot read the groups that it writes with one
        if name in texts:
            variable.data = texts[name]
            if "_Encoding" in variable.encoding:
                variable.attrs["_Encoding"] = variable.encoding.pop("_Encoding")
    return ds


def _keep_missing(variable: xr.Variable) -> None:
    """Have missing values that are not the fill value told of as they were; xarray refuses to write several."""
    if has_odd_missing(variable.encoding):
        variable.attrs["missing_value"] = missing = variable.encoding.pop("missing_value")
        if variable.encoding.get("_FillValue") is None:
            variable.encoding["_FillValue"] = np.atleast_1d(missing)[0]


def _padded(variable: xr.Variable) -> NDArray[np.bytes_] | None:
    """Return text in as many characters as the file had for it; ``None`` where that is not known, or too few."""
    size, dtype = variable.encoding.get("char_dim_size"), variable.encoding.get("dtype")
    if size is None or dtype is str or dtype != np.dtype("S1") or variable.dtype.kind not in "OUT":
        return None
    charset = variable.encoding.get("_Encoding", "utf-8")
    cells = [_as_bytes(cell, charset) for cell in variable.values.reshape(-1).tolist()]
    if not all(isinstance(cell, bytes) and len(cell) <= size for cell in cells):
        return None
    return np.array(cells, f"S{size}").reshape(variable.shape)


def _as_bytes(cell: Any, charset: str) -> Any:
    return cell.encode(charset) if isinstance(cell, str) else cell
