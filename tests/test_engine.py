"""xr.open_dataset(…, engine="atlas"): what users of xarray expect of an engine."""

from __future__ import annotations

import pickle
import subprocess
import sys
from importlib.metadata import entry_points

import cftime
import dask
import fsspec
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from xarray.testing import assert_identical

import atlas
from atlas import Atlas, reader, roots
from atlas.xarray import shelf
from atlas.xarray.engine import AtlasBackendEntrypoint


def sample(offset: float = 0.0) -> xr.Dataset:
    """A dataset with something of everything."""
    ds = xr.Dataset(
        {
            "t": (("lat", "lon"), np.arange(600.0).reshape(20, 30) + offset, {"units": "K", "flags": ["a", "b"]}),
            "packed": ("lat", np.where(np.arange(20) % 3, np.arange(20) * 0.5, np.nan)),
            "label": ("lat", np.array([f"ü{i}" for i in range(20)], object)),
            "wide": ("lat", np.array(["a", "bcd"] * 10)),
            "raw": ("lat", np.array([b"a", b"\xff"] * 10)),
            "flag": ("lat", np.arange(20) % 2 == 0),
            "lag": ("lat", np.arange(20).astype("m8[s]")),
            "scalar": ((), np.int16(3), {"list": [1, 2], "nested": {"a": [1]}, "array": np.array([1.5], "f4")}),
            "nothing": (("none", "lon"), np.zeros((0, 30), "f4")),
            "wave": ("lon", np.arange(30) * 1j),
            "duration": ("lat", np.arange(20.0), {"units": "hours"}),
            "letters": (("lat", "letter"), np.array([list("ab")] * 20, "S1")),
        },
        {
            "lat": np.linspace(-90, 90, 20),
            "time": ("lat", pd.date_range("2020", periods=20, unit="ns")),
            "noleap": ("lat", [cftime.DatetimeNoLeap(2000, 2, 28, 12) + pd.Timedelta(days=i) for i in range(20)]),
            "place": ((), "here"),
        },
        {"title": "sample", "year": 2020, "ratio": np.float32(0.5), "yes": True},
    )
    ds["packed"].encoding = {
        "dtype": np.dtype("i2"),
        "scale_factor": 0.5,
        "add_offset": 1.0,
        "_FillValue": np.int16(-9),
    }
    ds["time"].encoding = {"units": "hours since 2019-01-01", "calendar": "standard", "dtype": np.dtype("i4")}
    ds.encoding = {"unlimited_dims": {"lat"}}
    return ds


@pytest.fixture
def stored(place):
    with Atlas.create(place) as store:
        sample().atlas.write(store, "a", chunks={"t": [6, 7]})
        sample(1000).atlas.write(store, "b", chunks={"t": [6, 7]})
    return place


@pytest.fixture
def decoded(monkeypatch):
    """Count the chunks that are decoded."""
    counts = []
    plan, direct = reader.plan_reads, reader.Snapshot._read_in_chunk

    def planned(*args):
        found = plan(*args)
        counts.append(found.tasks)
        return found

    def read(*args):
        found = direct(*args)
        counts.append(int(found is not None))
        return found

    monkeypatch.setattr(reader, "plan_reads", planned)
    monkeypatch.setattr(reader.Snapshot, "_read_in_chunk", read)
    return counts


def test_the_engine_is_an_entry_point():
    (found,) = (point for point in entry_points(group="xarray.backends") if point.name == "atlas")
    assert found.load() is AtlasBackendEntrypoint


def test_what_was_written_is_identical_lazy_and_complete(stored):
    with xr.open_dataset(stored, engine="atlas", group="a") as ds:
        assert not ds["t"].variable._in_memory
        assert_identical(ds, sample())
        for name, variable in sample().variables.items():
            assert ds[name].dtype == variable.dtype, name
            kept = {key: ds[name].encoding[key] for key in variable.encoding}
            assert kept == variable.encoding
        assert type(ds["noleap"].values[0]) is cftime.DatetimeNoLeap
        assert ds.encoding["unlimited_dims"] == {"lat"}
        assert ds["t"].encoding["preferred_chunks"] == {"lat": 6, "lon": 7}
    assert_identical(xr.open_dataset(Atlas.open(stored), engine="atlas", group="/b").load(), sample(1000))


def test_nothing_is_read_before_it_is_used(stored, decoded):
    ds = xr.open_dataset(stored, engine="atlas", group="a", create_default_indexes=False)
    lazy = ds["t"][10:12].transpose()
    assert decoded == []
    assert lazy.shape == (30, 2)
    np.testing.assert_array_equal(lazy, sample()["t"][10:12].T)
    assert sum(decoded) == 5 * 1


@pytest.mark.parametrize(
    ("selection", "chunks"),
    [
        ({"lat": 7, "lon": 7}, 1),
        ({"lat": slice(6, 12), "lon": slice(0, 7)}, 1),
        ({"lat": slice(None, None, -1), "lon": slice(3, None, -2)}, 4),
        ({"lat": [0, 19], "lon": [29, 0]}, 4),
        ({"lat": slice(0, 20, 19), "lon": 0}, 2),
        ({"lat": [], "lon": slice(None)}, 0),
        ({"lat": slice(5, 5)}, 0),
        ({"lat": xr.DataArray([0, 5, 0], dims="p"), "lon": xr.DataArray([0, 6, 3], dims="p")}, 1),
        ({"lat": xr.DataArray([19, 0, 7], dims="p"), "lon": xr.DataArray([29, 0, 8], dims="p")}, 3),
        ({"lon": xr.DataArray([[29, 0], [0, -30]], dims=("p", "q")), "lat": slice(5, 0, -2)}, 2),
        ({"lat": xr.DataArray(np.zeros(0, int), dims="p"), "lon": xr.DataArray(np.zeros(0, int), dims="p")}, 0),
    ],
    ids=str,
)
def test_selections_decode_only_the_chunks_they_touch(stored, decoded, selection, chunks):
    ds = xr.open_dataset(stored, engine="atlas", group="a", create_default_indexes=False)
    found, expected = ds["t"].isel(selection), sample()["t"].isel(selection)
    assert found.dims == expected.dims
    np.testing.assert_array_equal(found.values, expected.values)
    assert sum(decoded) == chunks


axes = st.one_of(
    st.integers(-7, 6),
    st.slices(7),
    st.lists(st.integers(-7, 6), max_size=9).map(lambda places: np.array(places, int)),
)


@settings(max_examples=120)
@given(first=st.tuples(axes, axes), then=st.tuples(st.slices(5), st.slices(5)), pointwise=st.booleans())
def test_any_selection_of_a_selection_is_numpys(tmp_path_factory, first, then, pointwise):
    cells = np.arange(49).reshape(7, 7)
    place = tmp_path_factory.getbasetemp() / "selections"
    if not place.exists():
        with Atlas.create(place) as store:
            xr.Dataset({"v": (("y", "x"), cells)}).atlas.write(store, "d", chunks={"v": [2, 3]})
    lazy = xr.open_dataset(place, engine="atlas")["v"].variable
    whole = xr.Variable(("y", "x"), cells)
    if pointwise:
        places = [
            xr.Variable("p", np.resize(np.atleast_1d(np.r_[k]) if not isinstance(k, slice) else 3, 4)) for k in first
        ]
        first = tuple(places)
    found, expected = lazy[first], whole[first]
    inner = then[: expected.ndim]
    np.testing.assert_array_equal(found[inner].values, expected[inner].values)


def test_chunks_come_as_they_are_stored(stored):
    ds = xr.open_dataset(stored, engine="atlas", group="a", chunks={})
    assert ds["t"].chunks == ((6, 6, 6, 2), (7, 7, 7, 7, 2))
    assert_identical(ds.compute(), sample())
    objects = ["label", "raw"]  # whose size dask cannot guess
    auto = xr.open_dataset(stored, engine="atlas", group="a", chunks="auto", drop_variables=objects)
    assert auto["t"].chunks == ((20,), (30,))
    with dask.config.set(scheduler="processes", num_workers=2):
        assert float(ds["t"].sum()) == float(sample()["t"].sum())


def test_coders_of_times_hold_for_times_that_are_stored_decoded(place):
    ds = xr.Dataset({"gap": ("t", np.array([1, 2], "m8[s]"))}, {"t": np.array(["2000-01-01", "2000-01-02"], "M8[us]")})
    with Atlas.create(place) as store:
        ds.atlas.write(store, "d")
    whole, old = xr.coders.CFDatetimeCoder(time_unit="s"), xr.coders.CFDatetimeCoder(use_cftime=True)
    found = xr.open_dataset(place, engine="atlas", decode_times=whole)
    assert (found["t"].dtype, found["gap"].dtype) == ("M8[s]", "m8[s]")
    assert (found["t"] == ds["t"]).all()
    assert isinstance(xr.open_dataset(place, engine="atlas", decode_times={"t": old})["t"].values[0], cftime.datetime)
    finer = xr.coders.CFTimedeltaCoder(time_unit="ms")
    found = xr.open_dataset(place, engine="atlas", decode_timedelta=finer)
    assert (found["gap"].dtype, found["t"].dtype) == ("m8[ms]", "M8[us]")


@pytest.mark.parametrize("where", ["path", "url", "handle"])
def test_task_names_are_the_same_until_the_store_changes(place, where):
    source = {"path": str(place), "url": f"memory://names-{place.parent.name}"}.get(where, str(place))
    with Atlas.create(source) as store:
        xr.Dataset({"v": ("x", np.arange(10))}).atlas.write(store, "d", chunks={"v": [5]})

    def opened() -> xr.Dataset:
        found = Atlas.open(source) if where == "handle" else source
        return xr.open_dataset(found, engine="atlas", chunks={})

    first, again = opened(), opened()
    assert first["v"].data.name == again["v"].data.name
    store.open_dataset("d").write_array("v", [0], np.array([7]))
    store.flush()
    later = opened()
    assert first["v"].data.name != later["v"].data.name
    both = dask.compute(first["v"].data[0], later["v"].data[0])
    assert both == (0, 7), "one sees the state it opened, the other the new one"


def test_parts_of_one_array_have_names_of_their_own(stored):
    ds = xr.open_dataset(stored, engine="atlas", group="a")
    for whole in (ds["t"], ds["t"].variable):
        halves = [whole[:10].chunk(), whole[10:].chunk()]
        assert halves[0].data.name != halves[1].data.name
        np.testing.assert_array_equal(np.concatenate(dask.compute(*(half.data for half in halves))), sample()["t"])
    again = xr.open_dataset(stored, engine="atlas", group="a")
    assert ds["t"][:10].chunk().data.name == again["t"][:10].chunk().data.name


def test_parts_can_be_left_encoded(stored):
    raw = xr.open_dataset(stored, engine="atlas", group="a", decode_cf=False)
    assert raw["packed"].dtype == np.int16
    kept = {"scale_factor": 0.5, "add_offset": 1.0, "_FillValue": -9}
    assert {key: raw["packed"].attrs[key] for key in kept} == kept
    assert raw["packed"].values[:3].tolist() == [-9, -1, 0]
    assert raw["time"].attrs["units"] == "hours since 2019-01-01"
    assert raw["time"].values[1] - raw["time"].values[0] == 24
    assert raw["noleap"].attrs["calendar"] == "noleap"
    assert set(raw.coords) == {"lat"}
    assert "place" in raw["t"].attrs["coordinates"]
    assert_identical(
        xr.decode_cf(raw.load(), concat_characters=False),
        sample().assign_coords(lag=sample()["lag"]).reset_coords("lag"),
    )
    times = xr.open_dataset(stored, engine="atlas", group="a", decode_times=False)
    assert times["packed"].dtype == np.float64
    assert times["time"].dtype.kind == "i"
    some = xr.open_dataset(stored, engine="atlas", group="a", decode_times={"time": False})
    assert (some["time"].dtype.kind, some["lag"].dtype.kind) == ("i", "m")
    assert "scale_factor" in xr.open_dataset(stored, engine="atlas", group="a", mask_and_scale=False)["packed"].attrs


def test_what_was_stored_undecoded_is_decoded(place):
    with Atlas.create(place) as store:
        view = store.create_dataset("d")
        view.define_array("t", "int16", ["time"], [3], fill_value=-1)
        view.write_array("t", [0], np.array([10, -1, 30], "i2"))
        view.set_array_attribute("t", "scale_factor", 0.1)
        view.define_array("time", "int32", ["time"], [3])
        view.write_array("time", [0], np.array([0, 1, 2], "i4"))
        view.set_array_attribute("time", "units", "days since 2000-01-01")
        view.define_array("flag", "int8", ["time"], [3])
        view.write_array("flag", [0], np.array([1, 0, 1], "i1"))
        view.set_array_attribute("flag", "dtype", "bool")
    ds = xr.open_dataset(place, engine="atlas")
    np.testing.assert_allclose(ds["t"], [1.0, np.nan, 3.0])
    assert ds["time"].values[2] == np.datetime64("2000-01-03")
    assert ds["t"].encoding["scale_factor"] == 0.1
    assert ds["flag"].values.tolist() == [True, False, True]
    assert xr.open_dataset(place, engine="atlas", mask_and_scale=False)["t"].dtype == np.int16


def test_variables_can_be_dropped(stored):
    ds = xr.open_dataset(stored, engine="atlas", group="a", drop_variables=["t", "place"])
    assert_identical(ds, sample().drop_vars(["t", "place"]))
    assert "lat" not in xr.open_dataset(stored, engine="atlas", group="a", drop_variables="lat").variables


def test_which_dataset_is_said_by_group(stored, place, tmp_path):
    with pytest.raises(ValueError, match=r"which of the 2 datasets.*'a', 'b'"):
        xr.open_dataset(stored, engine="atlas")
    with pytest.raises(KeyError, match="nope"):
        xr.open_dataset(stored, engine="atlas", group="nope")
    with pytest.raises(ValueError, match="group must be a string"):
        xr.open_dataset(stored, engine="atlas", group=3)
    with pytest.raises(FileNotFoundError, match="no Atlas store"):
        xr.open_dataset(tmp_path / "absent", engine="atlas")


def test_stores_are_known_without_saying_so_and_nothing_else_is(stored, tmp_path):
    assert_identical(xr.open_dataset(stored, group="a").load(), sample())
    guess = AtlasBackendEntrypoint().guess_can_open
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.nc").write_bytes(b"atlas")
    for other in (
        tmp_path / "empty",
        tmp_path / "file.nc",
        tmp_path / "absent",
        b"atlas.json",
        "s3://bucket/x",
        None,
        3,
    ):
        assert not guess(other)
    assert guess(stored)
    assert guess(str(stored))


def test_all_datasets_are_a_tree(stored):
    tree = xr.open_datatree(stored, engine="atlas", chunks={})
    assert list(tree.children) == ["a", "b"]
    assert tree["b/t"].chunks == ((6, 6, 6, 2), (7, 7, 7, 7, 2))
    assert_identical(tree["b"].to_dataset().compute(), sample(1000))
    groups = xr.open_groups(stored, engine="atlas")
    assert list(groups) == ["/", "/a", "/b"]
    assert_identical(groups["/a"].load(), sample())
    assert list(xr.open_groups(stored, engine="atlas", group="b")) == ["/"]


def stations(place, count: int) -> dict[str, xr.Dataset]:
    """Datasets whose coordinates differ, the last of them in length."""
    found = {}
    with Atlas.create(place) as store:
        for i in range(count):
            size = 5 if i == count - 1 else 4
            times = pd.date_range(f"{2000 + i}-01-01", periods=size, unit="ns")
            names = np.array([f"p{i}-{k}" for k in range(size)], object)
            found[f"d{i}"] = xr.Dataset(
                {"v": ("time", np.arange(size) + i)}, {"time": times, "place": ("place", names)}
            )
            found[f"d{i}"].atlas.write(store, f"d{i}")
    return found


def test_coordinates_of_a_tree_are_read_together(place, monkeypatch):
    expected = stations(place, 30)
    reads = []
    read = shelf.read_list
    monkeypatch.setattr(shelf, "read_list", lambda *asked: reads.append(asked[1:3]) or read(*asked))
    tree = xr.open_datatree(place, engine="atlas")
    assert sorted((array, len(names)) for array, names in reads) == [("place", 30), ("time", 30)]
    for name, ds in expected.items():
        assert_identical(tree[name].to_dataset().load(), ds)
        assert tree[name].indexes["time"].equals(ds.indexes["time"])
    lazy = xr.open_datatree(place, engine="atlas", create_default_indexes=False)
    assert len(reads) == 2, "nothing is read before it is used"
    assert lazy["d7/time"].values.tolist() == expected["d7"]["time"].values.tolist()
    assert lazy["d7/time"][1:3].values.tolist() == expected["d7"]["time"][1:3].values.tolist()
    travelled = pickle.loads(pickle.dumps(lazy["d8"].to_dataset()))
    assert_identical(travelled.load(), expected["d8"].drop_indexes(["time", "place"]))


def test_coordinates_that_are_damaged_are_named_by_whom_they_belong_to(place):
    expected = stations(place, 3)
    (file,) = (place / "time").glob("*.af")
    found = Atlas.open(place).open_dataset("d1")
    assert found.read_array("time") is not None
    index = Atlas.open(place)._session.snapshot.index("time")
    data = bytearray(file.read_bytes())
    data[int(index.columns["offset"][index.locate_one(1, 0)])] ^= 0xFF
    file.write_bytes(data)
    tree = xr.open_datatree(place, engine="atlas", create_default_indexes=False)
    assert tree["d0/time"].values.tolist() == expected["d0"]["time"].values.tolist()
    with pytest.raises(atlas.CorruptStore, match="'d1'"):
        tree["d1/time"].load()


def test_a_store_that_is_open_is_not_decoded_again(place, monkeypatch):
    stations(place, 3)
    decodings = []
    decode = roots.decode_root
    monkeypatch.setattr(roots, "decode_root", lambda *of: decodings.append(of[1]) or decode(*of))
    for name in ("d0", "d1", "d2"):
        ds = xr.open_dataset(place, engine="atlas", group=name)
    assert len(decodings) == 1
    with Atlas.open(place) as store:
        store.open_dataset("d2").set_attribute("changed", True)
    assert "changed" not in ds.attrs
    assert xr.open_dataset(place, engine="atlas", group="d2").attrs["changed"], "what changed is"


def test_many_stores_are_opened_as_one(tmp_path):
    ds = xr.Dataset({"v": ("x", np.arange(10.0))}, {"x": np.arange(10)})
    places = [tmp_path / f"part{i}" for i in range(2)]
    for part, place in enumerate(places):
        with Atlas.create(place) as store:
            ds.isel(x=slice(5 * part, 5 * part + 5)).atlas.write(store, "d")
    with xr.open_mfdataset(places, engine="atlas", group="d") as many:
        assert many["v"].chunks == ((5, 5),)
        assert_identical(many.compute(), ds)


def elsewhere(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)


def test_lazy_datasets_pickle_as_place_and_version(stored):
    ds = xr.open_dataset(stored, engine="atlas", group="a")
    pickled = pickle.dumps(ds)
    store = Atlas.open(stored)
    store.open_dataset("a").write_array("t", [0, 0], np.full((20, 30), -1.0))
    store.flush()
    store.compact()
    assert_identical(ds, sample())
    done = elsewhere(f"import pickle; print(pickle.loads({pickled!r})['t'].values.sum())")
    assert float(done.stdout) == float(sample()["t"].sum()), done.stderr
    assert_identical(pickle.loads(pickled), sample())


def test_a_version_that_is_gone_is_an_error(stored):
    pickled = pickle.dumps(xr.open_dataset(stored, engine="atlas", group="a", create_default_indexes=False))
    store = Atlas.open(stored)
    store.open_dataset("a").write_array("t", [0, 0], np.full((20, 30), -1.0))
    store.flush()
    store.compact()
    store.compact()
    done = elsewhere(f"import pickle; pickle.loads({pickled!r})['t'].load()")
    assert "SnapshotExpired" in done.stderr, "other data is never read instead"


def test_stores_pickle_at_their_version(stored):
    first, other = Atlas.open(stored), Atlas.open(stored)
    pickled = pickle.dumps(first)
    other.create_dataset("new")
    other.flush()
    again = pickle.loads(pickled)
    assert again.list_datasets() == ["a", "b"]
    again.refresh()
    assert again.list_datasets() == ["a", "b", "new"]
    assert len(pickled) < 4000


def test_options_reach_the_storage(tmp_path):
    fs = fsspec.filesystem("memory")
    with Atlas.create(fs, prefix="engine-options/base/store") as store:
        xr.Dataset({"v": 1}).atlas.write(store, "d")
    # The place cannot be found without them.
    options = {"fs": fs, "path": "/engine-options/base"}
    assert int(xr.open_dataset("dir://store", engine="atlas", storage_options=options)["v"]) == 1


def test_an_engine_dataset_goes_to_netcdf_and_back(stored, tmp_path):
    ds = xr.open_dataset(stored, engine="atlas", group="a").drop_vars(["wave", "raw", "nothing"])
    ds["scalar"].attrs = ds.attrs = {}  # what files cannot hold
    ds.to_netcdf(tmp_path / "a.nc")
    with xr.open_dataset(tmp_path / "a.nc", decode_cf=False) as raw:
        assert raw["packed"].dtype == np.int16
        assert raw["time"].attrs["units"] == "hours since 2019-01-01"


def test_encoding_is_taken_as_to_netcdf_takes_it(place):
    with Atlas.create(place) as store:
        ds = xr.Dataset({"v": (("y", "x"), np.zeros((4, 6)))})
        ds.atlas.write(store, "d", encoding={"v": {"dtype": "i2", "scale_factor": 0.5, "chunksizes": (2, 3)}})
        with pytest.raises(ValueError, match=r"unexpected encoding.*zlib"):
            ds.atlas.write(store, "e", encoding={"v": {"zlib": True}})
        with pytest.raises(KeyError, match="w"):
            ds.atlas.write(store, "e", encoding={"w": {}})
    assert Atlas.open(place).list_datasets() == ["d"]
    found = xr.open_dataset(place, engine="atlas")["v"]
    assert found.encoding["dtype"] == np.int16
    assert found.encoding["preferred_chunks"] == {"y": 2, "x": 3}


def test_dask_arrays_stream_through_bounded_memory(place):
    code = f"""
import resource, dask.array as da, xarray as xr, atlas
from atlas import kernels
kernels.load()  # compiling them takes memory of its own
ramp = da.arange(48 << 20, chunks=1 << 20).reshape(48, 1 << 20)
ds = xr.Dataset({{"a": (("t", "x"), ramp), "b": (("t", "x"), ramp + 1)}})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with atlas.Atlas.create({str(place)!r}, pending_bytes=64 << 20) as store:
    ds.atlas.write(store, "d")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert int(done.stdout) < 400, done.stderr  # MiB, of 768
    ds = xr.open_dataset(place, engine="atlas", chunks={})
    assert (ds["b"] - ds["a"]).isel(t=[0, 47], x=[0, -1]).values.tolist() == [[1, 1], [1, 1]]


def test_words_say_what_cannot_be_written(place):
    store = Atlas.create(place)
    levels = xr.Dataset(coords={"y": ("x", [1, 2]), "z": ("x", ["a", "b"])}).set_index(x=["y", "z"])
    with pytest.raises(NotImplementedError, match=r"MultiIndex.*reset_index"):
        levels.atlas.write(store, "d")
    mixed = np.array([cftime.DatetimeNoLeap(2000, 1, 1), "x"], object)
    with pytest.raises(atlas.UnsupportedDataType, match="one calendar"):
        xr.Dataset({"v": ("x", mixed)}).atlas.write(store, "d")
    assert store.list_datasets() == []
