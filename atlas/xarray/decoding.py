"""The CF conventions for the engine: what is stored undecoded is decoded, what is stored decoded can be had encoded.

Datasets that came from xarray are stored as their values are in memory, with the encoding beside them. An option that
switches a part of decoding off asks for the other form: what a NetCDF file of the dataset would hold.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray import conventions
from xarray.coding.common import VariableCoder
from xarray.coding.times import TIME_UNITS

from atlas.xarray import notes
from atlas.xarray.arrays import LazyArray, StoredArray, Variable, lazy_variable

# Attributes by which a variable says that its cells are encoded, beside units of time.
_PACKING = ("scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned")
MARKS = {*_PACKING, "calendar"}


@dataclass(frozen=True)
class Decoding:
    """The options of :func:`xarray.open_dataset` that say what to decode."""

    mask_and_scale: Any = True
    decode_times: Any = True
    decode_coords: Any = True
    use_cftime: Any = None
    decode_timedelta: Any = None

    def of(self, name: str) -> dict[str, Any]:
        """Return the options as they are for one variable: some may be given by variable."""
        values = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        return {
            key: value.get(name, default) if isinstance(value, Mapping) else value
            for key, (value, default) in values.items()
        }


def decoded(
    variables: Mapping[str, Any], attrs: Mapping[str, Any], coords: set[str], options: Decoding
) -> tuple[dict[str, Any], dict[str, Any], set[str]]:
    """Return variables, attributes and names of coordinates in the form that is asked for."""
    cells = {name: _as_asked(name, variable, options.of(name)) for name, variable in variables.items()}
    if not options.decode_coords:
        cells, others = _coordinates_as_attributes(cells, attrs, coords)
        return _referring(cells), others, {c for c in coords if cells[c].dims == (c,)}
    if options.decode_coords == "all":
        cells = _referring(cells)
    elif not any("coordinates" in told for told in (attrs, *(variable.attrs for variable in cells.values()))):
        return cells, dict(attrs), coords
    # What attributes say of coordinates is told with stand-ins: text would be looked into, for the sake of dates.
    told, others, found = conventions.decode_cf_variables(
        {name: xr.Variable((), 0, variable.attrs, variable.encoding) for name, variable in cells.items()},
        attrs,
        concat_characters=False,
        mask_and_scale=False,
        decode_times=False,
        decode_coords=options.decode_coords,
        decode_timedelta=False,
    )
    for name, variable in cells.items():
        variable.attrs = told[name].attrs
        variable.encoding |= {key: value for key, value in told[name].encoding.items() if key != "dtype"}
    return cells, dict(others), coords | (found & set(cells))


def _as_asked(name: str, variable: Any, options: Mapping[str, Any]) -> Any:
    if _is_time(variable):
        wanted = options["decode_timedelta"] if variable.dtype.kind == "m" else options["decode_times"]
        wanted = options["decode_times"] if wanted is None else wanted
        # How times are decoded is said by a coder, or by the older option: that holds for decoded ones, too.
        is_told = variable.dtype.kind != "m" and options["use_cftime"] is not None
        if is_told or wanted is False or isinstance(wanted, VariableCoder):
            return _decode(name, _encoded_times(name, variable), options)
        return variable
    if options["mask_and_scale"] is False and any(variable.encoding.get(key) is not None for key in _PACKING):
        variable = _packed(variable)
    elif not _is_marked(variable):
        return variable
    return _decode(name, variable, options)


def _referring(variables: dict[str, Any]) -> dict[str, Any]:
    """Say in attributes, as files do, which other variables a variable refers to."""
    for variable in variables.values():
        for key in notes.RELATED:
            if key in variable.encoding and key not in variable.attrs:
                variable.attrs[key] = variable.encoding.pop(key)
    return variables


def _is_time(variable: Any) -> bool:
    return variable.dtype.kind in "Mm" or (variable.dtype == object and _holds_dates(variable))


def _holds_dates(variable: Any) -> bool:
    array = variable._data.array
    return isinstance(array, StoredArray) and array.holds_dates


def _is_marked(variable: Any) -> bool:
    units = variable.attrs.get("units")
    is_of_time = isinstance(units, str) and (units in TIME_UNITS or "since" in units)
    is_truth = variable.dtype.kind in "iu" and variable.attrs.get("dtype") == "bool"  # as files say it
    return is_truth or not MARKS.isdisjoint(variable.attrs) or (is_of_time and variable.dtype.kind in "iuf")


def _decode(name: str, variable: Any, options: Mapping[str, Any]) -> Any:
    given = {**variable.encoding}
    clashing = {key for key in variable.attrs if key in given}
    bare = variable.copy(deep=False)
    bare.encoding = {key: value for key, value in given.items() if key not in clashing}
    found = conventions.decode_cf_variable(
        name,
        bare,
        concat_characters=False,
        mask_and_scale=options["mask_and_scale"] is not False,
        decode_times=options["decode_times"],
        decode_timedelta=options["decode_timedelta"],
        use_cftime=options["use_cftime"],
    )
    return Variable.of(found)


# ── the encoded form ─────────────────────────────────────────────────────────────────────────


def _encoded_times(name: str, variable: Any) -> Any:
    # The units of times depend on all of them, unless they were kept.
    encoding = {key: value for key, value in variable.encoding.items() if key != "preferred_chunks"}
    if "_FillValue" not in variable.attrs:
        encoding.setdefault("_FillValue", None)  # or xarray tells of one that there is not
    loaded = xr.Variable(variable.dims, variable.values, variable.attrs, encoding)
    return _counted(loaded) if counts_months(loaded) else conventions.encode_cf_variable(loaded, name=name)


def _packed(variable: Any) -> Any:
    array = PackedArray(variable._data.array, variable.encoding)
    encoding = {"preferred_chunks": variable.encoding.get("preferred_chunks", {})}
    return lazy_variable(variable.dims, array, {**variable.attrs, **array.attrs}, encoding)


def encoded(variable: xr.Variable) -> xr.Variable:
    """Return a variable as a file holds it."""
    if has_odd_missing(variable.encoding):
        told = variable.encoding["missing_value"]
        encoding = {key: value for key, value in variable.encoding.items() if key != "missing_value"}
        if encoding.get("_FillValue") is None:
            encoding["missing_value"] = np.atleast_1d(told)[0]
        found = encoded(xr.Variable(variable.dims, variable.data, variable.attrs, encoding))
        found.attrs["missing_value"] = told
        return found
    if counts_months(variable):
        return _counted(variable)
    if not forgets_sign(variable.encoding):
        return conventions.encode_cf_variable(variable)
    dtype, encoding = np.dtype(variable.encoding["dtype"]), dict(variable.encoding)
    sign = encoding.pop("_Unsigned")
    encoding["dtype"] = np.dtype(f"{'u' if dtype.kind == 'i' else 'i'}{dtype.itemsize}")
    found = conventions.encode_cf_variable(xr.Variable(variable.dims, variable.data, variable.attrs, encoding))
    return xr.Variable(found.dims, found.data.view(dtype), {**found.attrs, "_Unsigned": sign}, found.encoding)


def counts_months(variable: xr.Variable) -> bool:
    """Return whether dates are months since another one: xarray reads these, and cannot write them."""
    units = variable.encoding.get("units")
    return variable.dtype == object and isinstance(units, str) and units.split(" ")[0] in ("month", "months")


def _counted(dates: xr.Variable) -> xr.Variable:
    import cftime

    told = {key: dates.encoding[key] for key in ("units", "calendar")}
    numbers = np.asarray(cftime.date2num(dates.values, **told), dates.encoding.get("dtype"))
    return xr.Variable(dates.dims, numbers, {**dates.attrs, **told})


def has_odd_missing(encoding: Mapping[Any, Any]) -> bool:
    """Return whether there are missing values besides the fill value: xarray refuses to write these."""
    fill, missing = encoding.get("_FillValue"), encoding.get("missing_value")
    if missing is None:
        return False
    values = np.atleast_1d(missing)
    return len(values) > 1 or not (fill is None or fill == values[0] or (fill != fill and values[0] != values[0]))


def forgets_sign(encoding: Mapping[Any, Any]) -> bool:
    """Return whether cells are stored as integers of the other sign, and xarray would not say so in a file.

    It does so only where there is a fill value.
    """
    other = {"true": "i", "false": "u"}.get(encoding.get("_Unsigned", ""))
    has_fill = any(encoding.get(key) is not None for key in ("_FillValue", "missing_value"))
    return not has_fill and encoding.get("dtype") not in (None, str) and np.dtype(encoding["dtype"]).kind == other


class PackedArray(LazyArray):
    """An array as its encoding would have it in a file."""

    def __init__(self, array: LazyArray, encoding: Mapping[str, Any]) -> None:
        self._array = array
        self._encoding = {"_FillValue": None} | {key: encoding[key] for key in (*_PACKING, "dtype") if key in encoding}
        self.shape, self.grid = array.shape, array.grid
        empty = self._encode(np.empty((0,) * len(self.shape), array.dtype))
        self.dtype, self.attrs = empty.dtype, dict(empty.attrs)

    def _encode(self, cells: NDArray[Any]) -> Any:
        dims = [f"axis{i}" for i in range(cells.ndim)]
        with warnings.catch_warnings():
            # Said once, of the whole array, when it was written.
            warnings.simplefilter("ignore", xr.SerializationWarning)
            return encoded(xr.Variable(dims, cells, {}, self._encoding))

    def read_box(self, start: Sequence[int], shape: Sequence[int]) -> NDArray[Any]:
        """Return the cells of a box, encoded."""
        return np.asarray(self._encode(self._array.read_box(start, shape)).values)

    def __dask_tokenize__(self) -> Any:
        return "packed", self._array.__dask_tokenize__()


def _coordinates_as_attributes(
    variables: dict[str, Any], attrs: Mapping[str, Any], coords: set[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what says in a file which variables are coordinates."""
    index = xr.Coordinates({name: variables[name] for name in variables if name in coords}, indexes={})
    data = {name: variable for name, variable in variables.items() if name not in coords}
    encoded, others = conventions.encode_dataset_coordinates(xr.Dataset(data, index, attrs))
    return {name: Variable.of(encoded[name]) for name in variables}, dict(others)
