"""Many datasets as one xarray dataset: stacked, padded, ragged, eager and lazy; what differs is said."""

from __future__ import annotations

import pickle
import time

import dask
import numpy as np
import pytest
import xarray as xr
from xarray.testing import assert_equal, assert_identical

import atlas
from atlas import Atlas, ingest, reader


def station(i: int, size: int = 6) -> xr.Dataset:
    return xr.Dataset(
        {
            "t": (("z", "x"), np.arange(size * 4, dtype="f4").reshape(size, 4) + 100 * i, {"units": "K", "serial": i}),
            "label": ("z", np.array([f"{i}-{k}" for k in range(size)], object)),
        },
        {"x": np.arange(4.0), "depth": ("z", np.arange(size) + i), "platform": ((), f"p{i}")},
        {"cruise": "A1", "number": i},
    )


@pytest.fixture
def fleet(place):
    with Atlas.create(place) as store:
        for i in range(12):
            station(i).atlas.write(store, f"s{i:02d}")
    return Atlas.open(place)


@pytest.fixture
def uneven(place):
    with Atlas.create(place) as store:
        for i, size in enumerate((3, 5, 0, 4)):
            station(i, size).atlas.write(store, f"s{i}")
        xr.Dataset({"other": 1}).atlas.write(store, "odd")
    return Atlas.open(place)


@pytest.fixture
def reads(monkeypatch):
    """Note how many chunks each read decodes."""
    counts = []
    plan = reader.plan_reads

    def planned(*args):
        found = plan(*args)
        counts.append(found.tasks)
        return found

    monkeypatch.setattr(reader, "plan_reads", planned)
    # A few small chunks would be read without a plan.
    monkeypatch.setattr("atlas.across._FEW_TINY", 0)
    return counts


def test_what_differs_becomes_a_variable_and_nothing_is_dropped(fleet):
    names = ["s03", "s01", "s03"]
    many = fleet.open_as_many_xarray_dataset(names, concat_dim="station")
    assert many["t"].dims == ("station", "z", "x")
    for row, i in enumerate((3, 1, 3)):
        np.testing.assert_array_equal(many["t"][row], station(i)["t"])
        assert many["label"][row].values.tolist() == station(i)["label"].values.tolist()
    assert many["station"].values.tolist() == names
    assert many["x"].dims == ("x",)
    assert many["depth"].dims == ("station", "z")
    assert many["platform"].values.tolist() == ["p3", "p1", "p3"]
    assert many.attrs == {"cruise": "A1"}
    assert many["number"].values.tolist() == [3, 1, 3]
    assert many["t"].attrs == {"units": "K"}
    assert many["t:serial"].values.tolist() == [3, 1, 3]
    assert {"number", "t:serial", "depth", "platform"} <= set(many.coords)


def test_lazy_is_the_same(fleet):
    names = fleet.list_datasets()
    eager = fleet.open_as_many_xarray_dataset(names)
    lazy = fleet.open_as_many_xarray_dataset(names, chunks={})
    assert dask.is_dask_collection(lazy["t"].data)
    assert_identical(lazy.compute(), eager)
    assert_identical(pickle.loads(pickle.dumps(lazy)).compute(), eager)


def test_a_task_is_one_read_of_a_block_of_datasets(fleet, reads):
    lazy = fleet.open_as_many_xarray_dataset(fleet.list_datasets(), chunks={"dataset": 5})
    assert lazy["t"].chunks == ((5, 5, 2), (6,), (4,))
    reads.clear()
    with dask.config.set(scheduler="sync"):
        lazy["t"].sum().compute()
    assert sorted(reads) == [2, 5, 5]


def test_selections_are_pushed_into_the_reads(fleet, reads):
    lazy = fleet.open_as_many_xarray_dataset(fleet.list_datasets(), chunks={"dataset": 6})
    assert reads == [] or max(reads) == 1  # the coordinates that all share
    reads.clear()
    with dask.config.set(scheduler="sync"):
        np.testing.assert_array_equal(lazy["t"][7:9, 2, ::2].values, [station(i)["t"][2, ::2] for i in (7, 8)])
        assert reads == [2]
        reads.clear()
        np.testing.assert_array_equal(lazy["t"].sel(dataset="s11")[0].values, station(11)["t"][0])
        assert reads == [1]


def test_a_cell_of_its_own_from_each_dataset_is_one_read(fleet, reads):
    lazy = xr.Variable(
        ("dataset", "z", "x"), fleet.open_as_many_xarray_dataset(fleet.list_datasets(), chunks={})["t"].data
    )
    rows, depths = np.arange(11, 0, -2), np.array([5, 0, 3, 3, 1, 2])
    reads.clear()
    with dask.config.set(scheduler="sync"):
        found = lazy[xr.Variable("p", rows), xr.Variable("p", depths)].values
    np.testing.assert_array_equal(found, [station(i)["t"].values[z] for i, z in zip(rows, depths, strict=True)])
    assert len(reads) == 1


def test_names_of_tasks_follow_the_commit(fleet, place):
    def name() -> str:
        return Atlas.open(place).open_as_many_xarray_dataset(["s00", "s01"], chunks={})["t"].data.name

    first = name()
    assert name() == first
    fleet.open_dataset("s05").set_attribute("k", 1)
    fleet.flush()
    assert name() != first


def test_a_graph_over_a_hundred_thousand_datasets_takes_less_than_a_second(place):
    count = 100_000
    names = [f"sensor-{i:06d}" for i in range(count)]
    with Atlas.create(place) as store:
        cells, hours = np.arange(count * 8, dtype="f4").reshape(count, 8), np.tile(np.arange(8), (count, 1))
        store.create_datasets(
            names,
            {
                "t": {"dims": ["hour"], "data": cells},
                "hour": {"dims": ["hour"], "data": hours},
            },
            {"lat": np.arange(count) / 1000, "kind": "buoy"},
        )
    store = Atlas.open(place)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        lazy = store.open_as_many_xarray_dataset(names, chunks={"dataset": 10_000})
        times.append(time.perf_counter() - began)
    assert min(times) < 1
    assert len(lazy["t"].data.dask) < 40
    assert lazy["hour"].dims == ("hour",)
    assert float(lazy["lat"][-1]) == 99.999
    assert lazy.attrs == {"kind": "buoy"}
    assert float(lazy["t"][::9999, 3].sum()) == float(cells[::9999, 3].sum())


def test_missing_arrays_are_an_error_or_left_out_or_filled(uneven):
    names = uneven.list_datasets()
    with pytest.raises(KeyError, match=r"'odd' has no array 't' \(1 of 5 lack it\).*on_missing"):
        uneven.open_as_many_xarray_dataset(names, variables=["t"], on_shape="pad")
    skipped = uneven.open_as_many_xarray_dataset(names, variables=["t"], on_shape="pad", on_missing="skip")
    assert skipped["dataset"].values.tolist() == names[:4]
    filled = uneven.open_as_many_xarray_dataset(names, variables=["t"], on_shape="pad", on_missing="fill")
    assert np.isnan(filled["t"][4]).all()
    assert_equal(filled.isel(dataset=slice(4))["t"].variable, skipped["t"].variable)
    with pytest.raises(KeyError, match="none of the 5 datasets has 'nope'"):
        uneven.open_as_many_xarray_dataset(names, variables=["nope"])
    with pytest.raises(KeyError, match="nobody"):
        uneven.open_as_many_xarray_dataset(["nobody"])
    with pytest.raises(ValueError, match="on_missing"):
        uneven.open_as_many_xarray_dataset(names, on_missing="ignore")


@pytest.mark.parametrize("chunks", [None, {}], ids=["eager", "lazy"])
def test_unequal_shapes_are_an_error_or_padded_or_ragged(uneven, chunks):
    names = uneven.list_datasets()[:4]
    with pytest.raises(atlas.ShapeMismatch, match=r"'s0'.*\[3, 4\].*'s1'.*\[5, 4\].*pad.*ragged"):
        uneven.open_as_many_xarray_dataset(names, variables="t", chunks=chunks)
    padded = uneven.open_as_many_xarray_dataset(names, on_shape="pad", chunks=chunks).compute()
    assert padded["t"].shape == (4, 5, 4)
    np.testing.assert_array_equal(padded["t"][3, :4], station(3, 4)["t"])
    assert np.isnan(padded["t"][3, 4:]).all()
    assert padded["depth"].dtype.kind == "f", "integers have no missing value of their own"
    assert padded["label"][0].values.tolist()[:3] == ["0-0", "0-1", "0-2"]
    ragged = uneven.open_as_many_xarray_dataset(names, on_shape="ragged", chunks=chunks).compute()
    assert ragged["rowsize_z"].values.tolist() == [3, 5, 0, 4]
    assert ragged["rowsize_z"].attrs["sample_dimension"] == ragged["label"].dims[0] == "obs_z"
    assert ragged["rowsize_z_x"].values.tolist() == [12, 20, 0, 16]
    parts = np.split(ragged["t"].values, np.cumsum(ragged["rowsize_z_x"].values)[:-1])
    for i, (part, size) in enumerate(zip(parts, (3, 5, 0, 4), strict=True)):
        np.testing.assert_array_equal(part.reshape(size, 4), station(i, size)["t"])
    assert ragged["z_size"].values.tolist() == [3, 5, 0, 4]
    assert ragged["x"].dims == ("x",)


def test_one_ragged_array_has_the_names_that_cf_uses(uneven, reads):
    ragged = uneven.open_as_many_xarray_dataset(["s0", "s1", "s3"], variables="label", on_shape="ragged", chunks={})
    assert ragged["label"].dims == ("obs",)
    assert ragged["rowsize"].values.tolist() == [3, 5, 4]
    assert ragged["label"][3:9].values.tolist() == ["1-0", "1-1", "1-2", "1-3", "1-4", "3-0"]


def test_arrays_that_are_called_like_the_counts_are_told_apart(place):
    with Atlas.create(place) as store:
        for i, size in enumerate((2, 3)):
            xr.Dataset({"t": ("z", np.arange(size)), "rowsize": ("z", np.arange(size))}).atlas.write(store, f"s{i}")
    with pytest.raises(ValueError, match=r"'rowsize' of their own.*variables="):
        store.open_as_many_xarray_dataset(["s0", "s1"], on_shape="ragged")
    alone = store.open_as_many_xarray_dataset(["s0", "s1"], on_shape="ragged", variables=["t"])
    assert alone["rowsize"].values.tolist() == [2, 3]


def test_all_temperatures_of_all_argo_profiles_are_one_call(shared_data, tmp_path):
    files = sorted((shared_data / "argo").rglob("*.nc"))[::40]
    ingest.create(files, tmp_path / "argo")
    store = Atlas.open(tmp_path / "argo")
    ragged = store.open_as_many_xarray_dataset(store.list_datasets(), variables=["TEMP"], on_shape="ragged")
    assert ragged["rowsize"].sum() == ragged.sizes["obs"]
    ends = np.cumsum(ragged["rowsize"].values)
    for path in files[::5]:
        row = store.list_datasets().index(path.stem)
        with xr.open_dataset(path) as source:
            np.testing.assert_array_equal(
                ragged["TEMP"][ends[row] - source["TEMP"].size : ends[row]], source["TEMP"].values.ravel()
            )
    everything = store.open_as_many_xarray_dataset(
        store.list_datasets(), on_shape="pad", on_missing="fill", chunks={}, concat_dim="profile"
    )
    assert everything["PRES"].dims == ("profile", "N_PROF", "N_LEVELS")
    assert float(everything["TEMP"].mean()) == pytest.approx(float(ragged["TEMP"].mean()), rel=1e-5)


def raw(store, name, cells, dtype="int16", fill=None, **attrs):
    view = store.create_dataset(name)
    view.define_array("v", dtype, ["x"], [len(cells)], fill_value=fill)
    view.write_array("v", [0], np.array(cells, dtype))
    for key, value in attrs.items():
        view.set_array_attribute("v", key, value)


def test_rows_of_different_encodings_are_decoded_row_by_row(place):
    with Atlas.create(place) as store:
        raw(store, "a", [1, 2, -9], fill=-9, scale_factor=0.1, long_name="v")
        raw(store, "b", [1, 2, -9], fill=-9, scale_factor=10.0, long_name="v")
        raw(store, "c", [1, -1, -9], fill=-1, long_name="v")
    store = Atlas.open(place)
    for chunks in (None, {}):
        many = store.open_as_many_xarray_dataset(["a", "b", "c"], chunks=chunks)
        np.testing.assert_allclose(many["v"], [[0.1, 0.2, np.nan], [10, 20, np.nan], [1, np.nan, -9]])
        assert many["v"].attrs == {"long_name": "v"}
    alike = store.open_as_many_xarray_dataset(["a", "a"])
    assert alike["v"].dtype == np.int16
    assert alike["v"].attrs == {"scale_factor": 0.1, "long_name": "v", "_FillValue": -9}


def test_times_of_different_units_are_decoded_and_other_things_refused(place):
    with Atlas.create(place) as store:
        raw(store, "a", [0, 1], units="days since 2000-01-01")
        raw(store, "b", [0, 1], units="hours since 2001-01-01")
        raw(store, "c", [0, 1], units="m")
    store = Atlas.open(place)
    many = store.open_as_many_xarray_dataset(["a", "b"])
    assert many["v"].values.astype("M8[h]").astype(str).tolist() == [
        ["2000-01-01T00", "2000-01-02T00"],
        ["2001-01-01T00", "2001-01-01T01"],
    ]
    with pytest.raises(ValueError, match=r"do not mix.*'a'.*'c'"):
        store.open_as_many_xarray_dataset(["a", "b", "c"])


def test_encodings_keep_what_all_have_in_common(place):
    with Atlas.create(place) as store:
        for i, name in enumerate("ab"):
            ds = xr.Dataset({"v": ("x", np.array([1.0, np.nan]))})
            ds["v"].encoding = {"dtype": np.dtype("i2"), "scale_factor": 0.5 + i, "_FillValue": np.int16(-1)}
            ds.atlas.write(store, name)
    many = Atlas.open(place).open_as_many_xarray_dataset(["a", "b"])
    assert many["v"].encoding == {"dtype": np.dtype("i2"), "_FillValue": -1}


def test_types_that_hold_each_other_widen_and_others_are_refused(place):
    with Atlas.create(place) as store:
        for name, dtype in (("a", "int16"), ("b", "float32"), ("c", "int64"), ("d", "uint8")):
            raw(store, name, [1, 2], dtype)
    store = Atlas.open(place)
    assert store.open_as_many_xarray_dataset(["a", "b"])["v"].dtype == np.float32
    assert store.open_as_many_xarray_dataset(["a", "d", "c"])["v"].dtype == np.int64
    with pytest.raises(atlas.ShapeMismatch, match="int64"):
        store.open_as_many_xarray_dataset(["b", "c"])


@pytest.mark.parametrize("policy", [{}, {"on_shape": "ragged"}, {"chunks": {}}], ids=str)
def test_times_of_different_units_get_the_finest(place, policy):
    days = np.array(["2000-01-01", "2000-01-02"])
    with Atlas.create(place) as store:
        for unit in ("s", "ns", "us"):
            times = days.astype(f"M8[{unit}]")
            ds = xr.Dataset({"seen": ("x", times), "lag": ("x", times - times[0])}, {"time": ("x", times)})
            (ds.isel(x=slice(1)) if policy == {"on_shape": "ragged"} and unit == "us" else ds).atlas.write(store, unit)
        xr.Dataset({"seen": ("x", np.array(["0001-01-01"] * 2, "M8[s]"))}).atlas.write(store, "early")
    store = Atlas.open(place)
    many = store.open_as_many_xarray_dataset(["s", "ns", "us"], **policy).compute()
    assert (many["seen"].dtype, many["lag"].dtype) == ("M8[ns]", "m8[ns]")
    expected = [*days, *days, *days][: many["seen"].size]
    assert many["seen"].values.reshape(-1).tolist() == np.array(expected, "M8[ns]").tolist()
    if not policy:
        assert many["time"].dims == ("x",), "which is the same in all"
    with pytest.raises(atlas.ValueOutOfRange, match="'seen'"):
        store.open_as_many_xarray_dataset(["ns", "early"], variables=["seen"], on_missing="fill", **policy).compute()


def test_pending_datasets_are_seen(fleet):
    station(20).atlas.write(fleet, "new")
    many = fleet.open_as_many_xarray_dataset(["s01", "new"])
    np.testing.assert_array_equal(many["t"][1], station(20)["t"])
    assert many["x"].dims == ("x",)
    assert many["number"].values.tolist() == [1, 20]
    fleet.rename_dataset("s01", "moved")
    assert fleet.open_as_many_xarray_dataset(["moved", "s02"])["platform"].values.tolist() == ["p1", "p2"]
    with pytest.raises(KeyError, match="s01"):
        fleet.open_as_many_xarray_dataset(["s01"])


def test_integers_that_no_float_holds_stay_integers_where_some_lack_them(place):
    with Atlas.create(place) as store:
        for name, attributes in (("a", {"small": 3, "large": 2**60 + 1}), ("b", {})):
            xr.Dataset(attrs=attributes).atlas.write(store, name)
    many = Atlas.open(place).open_as_many_xarray_dataset(["a", "b"])
    assert many["small"].dtype == float
    assert many["large"].values.tolist() == [2**60 + 1, None]


def test_a_new_dimension_needs_a_name_of_its_own(fleet):
    with pytest.raises(ValueError, match="concat_dim"):
        fleet.open_as_many_xarray_dataset(["s00", "s01"], concat_dim="z")
    for name in ("", None):
        with pytest.raises(ValueError, match="concat_dim must be the name"):
            fleet.open_as_many_xarray_dataset(["s00", "s01"], concat_dim=name)
    with pytest.raises(ValueError, match="chunks= names 'statoin'"):
        fleet.open_as_many_xarray_dataset(["s00", "s01"], concat_dim="station", chunks={"statoin": 1})


def test_a_report_says_which_datasets_disagree_and_in_what(uneven):
    report = uneven.drift_report(["s0", "s1", "s2", "s3"])
    shape = report.of("t", "shape")
    assert shape.groups[0] == ([3, 4], ["s0"])
    assert report.of("t", "attribute serial").outliers == ["s1", "s2", "s3"]
    assert report.of("t", "attribute units") is None
    assert report.of(None, "attribute cruise") is None
    assert not report.ok
    odd = uneven.drift_report(arrays=["t"]).of("t", "presence")
    assert odd.groups == [("present", ["s0", "s1", "s2", "s3"]), (None, ["odd"])]
    assert odd.outliers == ["odd"]
    text = str(uneven.drift_report())
    assert "5 datasets" in text
    assert "t: presence: present in 4 (s0, …); none in 1 (odd)" in text
    assert uneven.drift_report(["s0"]).ok
    assert len(str(uneven.drift_report())) < 6000


def test_a_report_on_what_nobody_has_says_so(fleet):
    report = fleet.drift_report(["s00", "s01"], arrays=["nope"])
    assert report[0].groups == [(None, ["s00", "s01"])]
    assert str(report).splitlines() == ["2 datasets, 1 differences", "  nope: presence: none in 2 (s00, …)"]


def test_a_store_without_datasets_has_no_drift(place):
    report = Atlas.create(place).drift_report()
    assert report.ok
    assert str(report) == "0 datasets, 0 differences"
