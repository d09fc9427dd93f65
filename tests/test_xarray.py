from __future__ import annotations

import json
import pickle
import subprocess
import sys
import warnings

import cftime
import dask
import dask.array
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import atlas
from atlas import Atlas
from atlas.xarray.cells import filled_text


def sample() -> xr.Dataset:
    return xr.Dataset(
        {
            "temperature": (("lat", "lon"), np.arange(128, dtype="f4").reshape(8, 16), {"units": "celsius"}),
            "flag": ("lat", np.arange(8) % 2 == 0),
            "label": ("lat", np.array(list("abcdefgh"), dtype=object)),
            "fixed": ("lat", np.array(["a", "bb"] * 4)),
            "strings": ("lat", np.array(["", "µ", "long" * 9, "d"] * 2, np.dtypes.StringDType())),
            "raw": ("lat", np.array([b"a", b"\xff"] * 4)),
            "lag": ("lat", np.arange(8).astype("m8[ns]")),
            "coarse": ("lat", np.arange(8).astype("M8[s]")),
            "half": ("lat", np.arange(8, dtype="f2")),
            "wave": ("lat", np.arange(8) * (1 + 2j)),
            "scalar": ((), np.int16(3)),
            "empty": (("none", "lat"), np.zeros((0, 8))),
        },
        {
            "lat": ("lat", np.arange(8, dtype="f4"), {"axis": "Y"}),
            "time": ("lat", pd.date_range("2020", periods=8).values),
            "place": ((), "here"),
        },
        {
            "month": 1,
            "ratio": np.float32(0.5),
            "range": np.array([1, 2], "i2"),
            "tags": ["a", "b"],
            "nested": {"a": [1, {"b": None}]},
            "station": "KNMI",
        },
    )


def test_what_goes_in_comes_out(place):
    ds = sample()
    with Atlas.create(place) as store:
        store.add_xarray_dataset(ds, "one")
        ds.atlas.write(store, "two")
        store.add_xr_dataset(ds, "three")
    store = Atlas.open(place)
    for back in (store.open_as_xarray_dataset("one"), store.to_xarray("two"), store.to_xarray("three")):
        xr.testing.assert_identical(ds, back)
        assert list(back.coords) == list(ds.coords)
        for name in ds.variables:
            assert back[name].dtype == ds[name].dtype, name
            assert type(back[name].values.reshape(-1).tolist()) is list
        assert type(back.attrs["ratio"]) is np.float32
        assert back.attrs["range"].dtype == np.int16
        assert set(back.attrs) == set(ds.attrs)


def test_missing_text_is_filled_with_a_warning_and_given_back(place):
    mixed = np.array(["a", None, "", np.nan], dtype=object)
    plain = np.array(["a", np.nan], dtype=object)
    ds = xr.Dataset({"mixed": ("x", mixed), "plain": ("y", plain)})
    with Atlas.create(place) as store, pytest.warns(UserWarning, match="missing string") as caught:
        store.add_xarray_dataset(ds, "d")
    assert ["2 missing" in str(each.message) for each in caught] == [True, False]
    view = Atlas.open(place).open_dataset("d")
    assert view.read_array("mixed").tolist() == ["a", "", "", ""]
    assert view.array_fill_value("mixed") == ""
    back = Atlas.open(place).open_as_xarray_dataset("d")
    xr.testing.assert_identical(back, ds)
    assert [type(cell) for cell in back["mixed"].values] == [type(cell) for cell in ds["mixed"].values]


def test_dask_blocks_stream_in_and_chunks_come_back_lazily(place, monkeypatch):
    from atlas._atlas import DatasetView

    writes, reads = [], []
    write, read = DatasetView.write_array, DatasetView.read_array

    def counting_write(self, name, start, data):
        writes.append((name, list(start), tuple(data.shape)))
        return write(self, name, start, data)

    def counting_read(self, name, start=None, shape=None):
        reads.append((name, list(start or []), list(shape or [])))
        return read(self, name, start, shape)

    monkeypatch.setattr(DatasetView, "write_array", counting_write)
    monkeypatch.setattr(DatasetView, "read_array", counting_read)
    ds = xr.Dataset({"v": ("x", dask.array.arange(10, chunks=4, dtype="i4")), "w": ("x", np.arange(10))})
    ds["cell"], ds["text"] = (((), dask.array.from_array(np.array(cell))) for cell in (3.5, "only"))
    with Atlas.create(place) as store:
        store.add_xarray_dataset(ds, "d")
    assert [w for w in writes if w[0] == "v"] == [("v", [0], (4,)), ("v", [4], (4,)), ("v", [8], (2,))]
    back = Atlas.open(place).open_as_xarray_dataset("d")
    assert back["v"].data.chunks == ((4, 4, 2),)
    assert isinstance(back["w"].data, np.ndarray)
    assert [r for r in reads if r[0] == "v"] == []
    assert back["v"][0:4].compute().values.tolist() == [0, 1, 2, 3]
    assert [r for r in reads if r[0] == "v"] == [("v", [0], [4])]
    xr.testing.assert_identical(back.compute(), ds.compute())


@pytest.mark.parametrize("scheduler", ["threads", "sync"])
def test_lazy_arrays_compute_under_threads_and_without(place, scheduler):
    ds = xr.Dataset({"v": (("y", "x"), np.arange(600.0).reshape(20, 30))})
    with Atlas.create(place) as store:
        store.add_xarray_dataset(ds, "d", chunks={"v": [7, 8]})
    lazy = Atlas.open(place).open_as_xarray_dataset("d")
    with dask.config.set(scheduler=scheduler):
        np.testing.assert_array_equal(lazy["v"].values, ds["v"].values)
    again = Atlas.open(place).open_as_xarray_dataset("d")
    assert again["v"].data.name == lazy["v"].data.name
    assert pickle.loads(pickle.dumps(lazy))["v"].sum().compute() == ds["v"].sum()


@pytest.mark.parametrize("fill", [None, "zz"])
@pytest.mark.parametrize("cells", [["a", "", None], [b"a", b"", None], ["a", "zz", float("nan")], [b"a", b"zz", None]])
def test_empty_and_fill_cells_beside_missing_ones_come_back(place, cells, fill):
    ds = xr.Dataset({"v": ("x", np.array(cells, object))})
    with Atlas.create(place) as store, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        ds.atlas.write(store, "d", fill_value={"v": fill})
    store = Atlas.open(place)
    for back in (store.open_as_xarray_dataset("d")["v"], store.open_as_many_xarray_dataset(["d"])["v"][0]):
        assert repr(back.values.tolist()) == repr(ds["v"].values.tolist())


def test_fill_values_are_resolved_in_order(place):
    store = Atlas.create(place)
    ds = xr.Dataset({"a": ("x", np.zeros(2, "f4")), "i": ("x", np.zeros(2, "i4"), {"_FillValue": np.int32(-9)})})
    store.add_xarray_dataset(ds, "defaults")
    store.add_xarray_dataset(ds, "scalar", fill_value=5)
    store.add_xarray_dataset(ds, "dict", fill_value={"a": None, "i": 3})
    fills = {n: [store.open_dataset(n).array_fill_value(v) for v in "ai"] for n in store.list_datasets()}
    assert np.isnan(fills["defaults"][0])
    assert fills["defaults"][1] == -9
    assert fills["scalar"] == [5, 5]
    assert fills["dict"] == [None, 3]
    assert ds["i"].attrs == {"_FillValue": np.int32(-9)}, "the source is not changed"
    assert "_FillValue" not in store.open_dataset("defaults").array_attributes("i")
    assert store.to_xarray("defaults")["i"].attrs == {"_FillValue": -9}
    assert store.to_xarray("defaults")["a"].attrs == {}
    with pytest.raises(TypeError):
        store.add_xarray_dataset(xr.Dataset({"v": ("x", np.zeros(2, "i4"), {"_FillValue": 1.5})}), "bad")
    assert "bad" not in store


def test_encoding_survives_to_netcdf(place, tmp_path):
    ds = xr.Dataset({"v": ("time", np.array([1.5, np.nan, 2.5]))}, {"time": pd.date_range("2020", periods=3)})
    ds["v"].encoding = {"dtype": np.dtype("i2"), "scale_factor": 0.5, "add_offset": 1.0, "_FillValue": np.int16(-1)}
    ds["time"].encoding = {"units": "days since 2019-01-01", "calendar": "proleptic_gregorian"}
    ds.to_netcdf(tmp_path / "a.nc")
    with xr.open_dataset(tmp_path / "a.nc") as source, Atlas.create(place) as store:
        store.add_xarray_dataset(source.load(), "d")
    back = Atlas.open(place).open_as_xarray_dataset("d")
    xr.testing.assert_identical(back, ds)
    back.to_netcdf(tmp_path / "b.nc")
    with (
        xr.open_dataset(tmp_path / "a.nc", decode_cf=False) as a,
        xr.open_dataset(tmp_path / "b.nc", decode_cf=False) as b,
    ):
        xr.testing.assert_identical(a, b)
        assert a["v"].dtype == b["v"].dtype == np.int16


def test_what_cannot_be_stored_is_refused_and_leaves_nothing(place):
    store = Atlas.create(place)
    good = ("x", np.zeros(2))
    for bad, advice in (
        (np.array([object(), 1], object), "convert"),
        (np.array([cftime.DatetimeNoLeap(2000, 1, 1), cftime.Datetime360Day(2000, 1, 1)], object), "one calendar"),
        (np.zeros(2, "g"), "cannot be stored"),
    ):
        with pytest.raises(atlas.UnsupportedDataType, match=advice):
            store.add_xarray_dataset(xr.Dataset({"good": good, "bad": ("x", bad)}), "d")
        assert store.list_datasets() == []
    with pytest.raises(atlas.InvalidName):
        store.add_xarray_dataset(xr.Dataset({"a/b": good}), "d")
    with pytest.raises(ValueError, match="rename"):
        store.add_xarray_dataset(xr.Dataset({1: good}), "d")
    assert store.list_datasets() == []


def test_attributes_of_numpys_within_lists_come_back(place):
    attrs = {"flags": [np.int8(1), np.int8(2)], "parts": {"a": np.array([0.5, 1.5]), "b": [np.float32(0.1)]}}
    with Atlas.create(place) as store:
        xr.Dataset(attrs=attrs).atlas.write(store, "d")
        with pytest.raises(TypeError, match="keys of dictionaries are text"):
            xr.Dataset(attrs={"levels": [{1: "a"}]}).atlas.write(store, "e")
    assert store.to_xarray("d").attrs == {"flags": [1, 2], "parts": {"a": [0.5, 1.5], "b": [float(np.float32(0.1))]}}


def test_smuggled_bytes_in_attributes_become_text(place):
    ds = xr.Dataset({"v": ("x", np.zeros(2, "f4"), {"units": "\udcc2\udcb5mol"})})
    with Atlas.create(place) as store:
        store.add_xarray_dataset(ds, "d")
    assert Atlas.open(place).to_xarray("d")["v"].attrs["units"] == "µmol"


def test_coordinates_without_a_marker_are_guessed(place):
    with Atlas.create(place) as store:
        view = store.create_dataset("d")
        view.define_array("lat", "float32", ["lat"], [4])
        view.define_array("temp", "float32", ["lat", "lon"], [4, 2])
    back = Atlas.open(place).to_xarray("d")
    assert (list(back.coords), list(back.data_vars)) == (["lat"], ["temp"])


def test_many_as_one(place):
    with Atlas.create(place) as store:
        for i in range(5):
            ds = sample().assign(temperature=sample()["temperature"] + i).assign_coords(time=("lat", np.arange(8) + i))
            store.add_xarray_dataset(ds, f"d{i}")
    many = Atlas.open(place).open_as_many_xarray_dataset(["d3", "d1"], concat_dim="station")
    assert many["temperature"].dims == ("station", "lat", "lon")
    np.testing.assert_array_equal(many["temperature"].values[0], sample()["temperature"].values + 3)
    assert many["station"].values.tolist() == ["d3", "d1"]
    assert many["lat"].dims == ("lat",)
    assert many["time"].dims == ("station", "lat"), "coordinates that differ are not taken from the first"
    assert many["raw"].dtype == sample()["raw"].dtype
    with pytest.raises(ValueError):
        Atlas.open(place).to_xarray_many([])


@pytest.mark.parametrize("order", ["import atlas, xarray", "import xarray, atlas", "import xarray.testing, atlas"])
def test_the_accessor_is_there_in_any_import_order(order):
    code = f"{order}; import xarray; print(xarray.Dataset.atlas.__name__)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.stdout == "AtlasAccessor\n", done.stderr


def test_a_place_is_no_store(place):
    with pytest.raises(ValueError, match=r"atlas\.Atlas\.open\(place\)"):
        sample().atlas.write(str(place), "d")


def test_block_helper_for_missing_cells():
    block = np.array([["a", None], [float("nan"), pd.NA]], dtype=object)
    filled = filled_text(block, "-")
    assert filled.tolist() == [["a", "-"], ["-", "-"]]
    fixed = np.array(["a"])
    assert filled_text(fixed, "") is fixed


def test_the_coordinate_marker_is_the_older_packages(place):
    store = Atlas.create(place)
    store.add_xarray_dataset(sample(), "d")
    assert json.loads(store.open_dataset("d").get_attribute("_pyatlas_coords")) == list(sample().coords)


@pytest.mark.parametrize(
    "selection",
    [
        {"lat": 8},
        {"lat": -9},
        {"lat": [0, 8]},
        {"lat": [-9]},
        {"lat": xr.DataArray([0, 8], dims="p"), "lon": xr.DataArray([0, 1], dims="p")},
        {"lat": xr.DataArray([0, -9], dims="p"), "lon": xr.DataArray([0, 1], dims="p")},
    ],
    ids=str,
)
def test_what_lies_outside_is_an_error(place, selection):
    with Atlas.create(place) as store:
        sample().atlas.write(store, "d")
    ds = xr.open_dataset(place, engine="atlas", create_default_indexes=False)
    with pytest.raises(IndexError, match=r"out of bounds|too large"):
        ds["temperature"].isel(selection).load()


def test_encodings_come_back_as_they_were(place):
    kinds = np.dtype("u1", metadata={"enum": {"clear": 0, "cloudy": 1}, "enum_name": "kinds"})
    given = {
        "several": {"missing_value": [-9, -99]},
        "single": {"missing_value": np.array(-9, "i2")},
        "array": {"missing_value": np.array([-9, -99], "i2")},
        "kind": {"dtype": kinds},
    }
    ds = xr.Dataset({name: ("x", np.arange(3.0)) for name in given})
    with Atlas.create(place) as store:
        ds.atlas.write(store, "d", encoding=given)
    found = {name: variable.encoding for name, variable in Atlas.open(place).to_xarray("d").variables.items()}
    assert found["several"] == {"missing_value": [-9, -99]}
    assert repr(found["single"]["missing_value"]) == "np.int16(-9)"
    assert repr(found["array"]["missing_value"]) == "array([ -9, -99], dtype=int16)"
    assert (found["kind"]["dtype"], found["kind"]["dtype"].metadata) == (kinds, kinds.metadata)


def test_dates_of_which_there_are_none_are_of_the_type_of_dates(place):
    ds = xr.Dataset(coords={"t": [cftime.DatetimeNoLeap(2000, 1, day) for day in (1, 2)]})
    ds["t"].encoding = {"units": "days since 2000-01-01", "calendar": "noleap"}
    with Atlas.create(place) as store:
        ds.isel(t=slice(0)).atlas.write(store, "none")
        ds.atlas.write(store, "some")
    found = xr.open_dataset(place, engine="atlas", group="none")
    xr.testing.assert_identical(found, ds.isel(t=slice(0)))
    many = Atlas.open(place).open_as_many_xarray_dataset(["none", "some"], on_shape="ragged")
    assert many["t"].values.tolist() == ds["t"].values.tolist()
