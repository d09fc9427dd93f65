"""NetCDF files in and out again: cell by cell and attribute by attribute what they were."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import xarray as xr

import atlas
from atlas import Atlas


def characters(nc: netCDF4.Dataset) -> None:
    nc.createDimension("n", 3)
    nc.createDimension("STRING8", 8)
    for name, charset in (("u", "utf-8"), ("l", "latin-1"), ("plain", None)):
        variable = nc.createVariable(name, "S1", ("n", "STRING8"))
        variable.set_auto_chartostring(False)
        if charset:
            variable._Encoding = charset
        cells = [cell.encode(charset or "ascii") for cell in ("ab", "x" if charset is None else "é", "")]
        variable[:] = np.array(cells, "S8").view("S1").reshape(3, 8)


def coordinates(nc: netCDF4.Dataset) -> None:
    nc.createDimension("name", 2)
    nc.createDimension("length", 5)
    variable = nc.createVariable("name", "S1", ("name", "length"))
    variable.set_auto_chartostring(False)
    variable._Encoding = "utf-8"
    variable[:] = np.array(["ü".encode(), b"b"], "S5").view("S1").reshape(2, 5)


def unsigned(nc: netCDF4.Dataset) -> None:
    nc.createDimension("x", 3)
    for name, kind, told, fill in (
        ("scaled", "i2", "true", None),
        ("other", "u1", "false", None),
        ("filled", "i1", "true", -1),
    ):
        variable = nc.createVariable(name, kind, ("x",), fill_value=fill)
        variable.set_auto_maskandscale(False)
        variable.setncatts({"_Unsigned": told} | ({"scale_factor": 0.5} if name == "scaled" else {}))
        variable[:] = np.array([0, 200, 127], "u1").astype(kind) if name != "scaled" else np.array([1, -1, -128], "i2")


def floats(nc: netCDF4.Dataset) -> None:
    nc.createDimension("x", 3)
    nc.createVariable("bare", "f4", ("x",), fill_value=False)[:] = [1, np.nan, 3]
    nc.createVariable("nan", "f8", ("x",), fill_value=np.nan)[:] = [1, np.nan, 3]
    variable = nc.createVariable("both", "f4", ("x",), fill_value=1e20)
    variable.missing_value = np.float32(-9)
    variable[:] = np.array([1, 1e20, 3], "f4")
    several = nc.createVariable("several", "i4", ("x",), fill_value=-9)
    several.missing_value = np.array([-9, -99], "i4")
    several[:] = [1, -9, 3]


def enumerations(nc: netCDF4.Dataset) -> None:
    nc.createDimension("x", 3)
    kinds = nc.createEnumType(np.uint8, "kinds", {"clear": 0, "cloudy": 1, "none": 255})
    nc.createVariable("kind", kinds, ("x",))[:] = [0, 1, 1]
    nc.createVariable("gaps", kinds, ("x",), fill_value=255)[:] = [0, 255, 1]


def months(nc: netCDF4.Dataset) -> None:
    nc.createDimension("t", 3)
    for name, kind in (("t", "i4"), ("other", "f8")):
        variable = nc.createVariable(name, kind, ("t",))
        variable.setncatts({"units": "months since 2000-01-01", "calendar": "360_day"})
        variable[:] = [0, 1, 14]


def raw(path: str | Path) -> dict[str, Any]:
    with netCDF4.Dataset(path) as nc:
        nc.set_auto_maskandscale(False)
        nc.set_auto_chartostring(False)
        found: dict[str, Any] = {
            name: (
                variable.dimensions,
                variable.dtype,
                getattr(variable.datatype, "enum_dict", None),
                np.asarray(variable[...]).tobytes(),
                {key: repr(value) for key, value in variable.__dict__.items()},
            )
            for name, variable in nc.variables.items()
        }
        return found | {"dimensions": {name: len(dimension) for name, dimension in nc.dimensions.items()}}


@pytest.mark.filterwarnings("ignore::xarray.SerializationWarning")  # of files as they come
@pytest.mark.parametrize(
    "write", [characters, coordinates, unsigned, floats, enumerations, months], ids=lambda write: write.__name__
)
def test_files_come_out_as_they_went_in(tmp_path, place, write):
    paths = [tmp_path / f"f{i}.nc" for i in range(2)]  # two are decoded together
    for path in paths:
        with netCDF4.Dataset(path, "w") as nc:
            write(nc)
    atlas.create(paths, place)
    written = atlas.export(place, tmp_path / "out").written
    for path in paths:
        assert raw(written[path.stem]) == raw(path)
        with xr.open_dataset(path, decode_times=False) as source:
            found = xr.open_dataset(place, engine="atlas", group=path.stem, decode_times=False)
            xr.testing.assert_identical(found.load(), source.load())


@pytest.mark.parametrize("form", ["netcdf", "zarr"])
def test_integers_of_the_other_sign_keep_their_values(tmp_path, place, form):
    ds = xr.Dataset({"v": ("x", [1.5, 32767.5])}, {"x": np.array([0, 255], "u1")})
    encoding: Any = {"v": {"dtype": "i2", "_Unsigned": "true", "scale_factor": 0.5}, "x": {"dtype": "i1"}}
    encoding["x"]["_Unsigned"] = "true"
    with Atlas.create(place) as store:
        ds.atlas.write(store, "d", encoding=encoding)
    reading: Any = {"engine": "zarr", "consolidated": False} if form == "zarr" else {}
    xr.testing.assert_identical(xr.load_dataset(atlas.export(place, tmp_path, format=form).written["d"], **reading), ds)
    stored = xr.open_dataset(place, engine="atlas", decode_cf=False)
    assert (stored["v"].dtype, stored["x"].values.tolist()) == (np.int16, [0, -1])
    xr.testing.assert_identical(xr.decode_cf(stored).load(), ds)


def test_without_zarr_it_is_asked_for(tmp_path, place, monkeypatch):
    xr.Dataset({"t": ("x", [1.0])}).to_zarr(tmp_path / "a.zarr", consolidated=False)
    atlas.create(tmp_path / "a.zarr", place)
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(atlas.MissingDependency, match="pip install zarr"):
        atlas.export(place, tmp_path / "out", format="zarr")
    with pytest.raises(atlas.MissingDependency, match="pip install zarr"):
        atlas.create(tmp_path / "a.zarr", place, overwrite=True)
    assert Atlas.open(place).list_datasets() == ["a"]


def test_files_are_called_like_their_datasets(tmp_path, place):
    with Atlas.create(place) as store:
        for name in ("größe", "a:b 1", ".x", "100 %", "x" * 300):
            store.create_dataset(name).set_attribute("k", 1)
    report = atlas.export(place, tmp_path / "out", on_error="skip")
    names = {name: Path(path).name for name, path in report.written.items()}
    assert names == {"größe": "größe.nc", "a:b 1": "a%3Ab 1.nc", ".x": "%2Ex.nc", "100 %": "100 %25.nc"}
    assert list(report.skipped) == ["x" * 300]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names.values())


def test_zarr_groups_of_text_with_fill_values_can_be_read(tmp_path, place):
    with netCDF4.Dataset(tmp_path / "f.nc", "w") as nc:
        nc.createDimension("x", 2)
        nc.createVariable("s", str, ("x",), fill_value="zz")[:] = np.array(["a", "ü"], object)
    atlas.create(tmp_path / "f.nc", place)
    written = atlas.export(place, tmp_path / "out", format="zarr").written["f"]
    found = xr.open_dataset(written, engine="zarr", consolidated=False)
    assert found["s"].values.tolist() == ["a", "ü"]
