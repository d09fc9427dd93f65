"""Scripts in the style of the older package's 0.9–0.14 releases: every call it documented, unchanged.

Where these differ from what that package did, the API page says why; see CHANGELOG.md.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from pathlib import Path

import dask.array
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import atlas

NAN = float("nan")


def grid(offset: float = 0.0) -> xr.Dataset:
    return xr.Dataset(
        data_vars={
            "temperature": (
                ["lat", "lon"],
                np.arange(128, dtype=np.float32).reshape(8, 16) + np.float32(offset),
                {"units": "C", "long_name": "surface temperature"},
            ),
            "pressure": (["lat", "lon"], np.full((8, 16), 1013.25), {"units": "hPa"}),
        },
        coords={"lat": np.arange(8, dtype=np.float32), "lon": np.arange(16, dtype=np.float32)},
        attrs={"month": 1, "station": "KNMI"},
    )


def test_the_first_script_of_its_readme(tmp_path):
    place = str(tmp_path / "my_store")
    with atlas.Atlas.create(place, codec="zstd") as store:
        ds = store.create_dataset("jan_2024")
        ds.define_array(
            "temperature",
            dtype="float32",
            dims=["lat", "lon"],
            shape=[8, 16],
            chunk_shape=[4, 8],
            fill_value=NAN,
        )
        ds.write_array("temperature", start=[0, 0], data=np.full((8, 16), 20.0, dtype=np.float32))
        ds.set_attribute("month", 1)
        ds.set_attribute("station", "KNMI")
    store = atlas.Atlas.open(place)
    ds = store.open_dataset("jan_2024")
    assert (ds.read_array("temperature") == 20).all()
    assert ds.read_array("temperature", [0, 0], [4, 8]).shape == (4, 8)
    assert ds.array_stats("temperature") == {"row_count": 128, "null_count": 0, "min": 20.0, "max": 20.0}
    assert ds.get_attribute("month") == 1
    assert (ds.get_attribute("zz"), ds.read_array("zz"), ds.array_meta("zz"), ds.array_stats("zz")) == (None,) * 4


def test_what_a_store_answers(tmp_path):
    store = atlas.Atlas.create(tmp_path, "lz4", "msgpack", "zstd", "warn")
    for name in ("a", "b"):
        view = store.create_dataset(name)
        view.define_array("x", "f32", ["i"], [4], None, None)
        view.set_attribute("k", 1)
    store.open_dataset("b").define_array("only_b", "i16", ["i"], [4])
    assert store.list_datasets() == ["a", "b"]
    assert store.list_arrays() == ["only_b", "x"]
    assert store.dataset_exists("a")
    assert not store.dataset_exists("zz")
    assert store.merged_schema() == {
        "arrays": {
            "x": {"dtype": "float32", "dimension_names": ["i"], "attributes": {}},
            "only_b": {"dtype": "int16", "dimension_names": ["i"], "attributes": {}},
        },
        "global_attributes": {"k": "int64"},
    }
    assert (store.dataset_row("b"), store.dataset_row("zz"), store.row_slots()) == (1, None, 2)
    store.flush()
    store.delete_dataset("a")
    store.flush()
    assert (store.dataset_row("b"), store.row_slots()) == (1, 2)
    store.compact()
    assert (store.dataset_row("b"), store.row_slots()) == (0, 1)
    assert "atlas" in repr(store).lower()
    assert repr(store.open_dataset("b")) == '<DatasetView name="b" arrays=2>'
    store.close()
    reopened = atlas.Atlas.open(tmp_path, on_type_mismatch="error")
    with pytest.raises(ValueError):
        reopened.create_dataset("c").define_array("x", "string", ["i"], [4])


def test_every_type_and_alias(tmp_path):
    spelled = {
        **{f"i{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
        **{f"u{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
        **{"f32": "float32", "f64": "float64", "Float32": "float32", "str": "string"},
        **dict.fromkeys(["timestamp_nanoseconds", "timestamp_ns", "datetime64[ns]"], "timestamp_nanoseconds"),
    }
    view = atlas.Atlas.create(tmp_path).create_dataset("d")
    for number, (alias, name) in enumerate(spelled.items()):
        view.define_array(f"v{number}", alias, ["x"], [2])
        assert view.array_meta(f"v{number}")["dtype"] == name


def test_scalars_and_times(tmp_path):
    now = 1_700_000_000_000_000_000
    with atlas.Atlas.create(tmp_path) as store:
        ds = store.create_dataset("d")
        for name, dtype, value in (
            ("count", "int32", np.array(7, np.int32)),
            ("label", "string", np.array("alpha", dtype=object)),
            ("when", "timestamp_ns", np.array(now, np.int64)),
        ):
            ds.define_array(name, dtype=dtype, dims=[], shape=[])
            ds.write_array(name, start=[], data=value)
        ds.define_array("times", "timestamp_ns", ["t"], [2])
        ds.write_array("times", start=[0], data=np.array([now, now + 1], np.int64))
    ds = atlas.Atlas.open(tmp_path).open_dataset("d")
    assert ds.read_array("count").item() == 7
    assert ds.read_array("label").item() == "alpha"
    assert ds.read_array("when").dtype == "M8[ns]"
    assert ds.read_array("when").view(np.int64).item() == now
    assert ds.read_array("times").view(np.int64).tolist() == [now, now + 1]
    assert ds.array_stats("times")["max"] == now + 1


def test_attributes_of_datasets_and_arrays(tmp_path):
    with atlas.Atlas.create(tmp_path) as store:
        ds = store.create_dataset("d")
        ds.define_array("t", "f32", ["x"], [2])
        for key, value, dtype in (
            ("flag", True, None),
            ("count", 42, None),
            ("ratio", 0.5, None),
            ("name", "alpha", None),
            ("raw", b"\xde\xad", None),
            ("small", 7, "int8"),
            ("narrow", 1.25, "float32"),
            ("created", 1_700_000_000_000_000_001, "timestamp_nanoseconds"),
            ("updated", 1_700_000_000_000_000_002, "datetime64[ns]"),
        ):
            ds.set_attribute(key, value, dtype=dtype)
            ds.set_array_attribute("t", key, value, dtype)
        ds.set_attribute("count", 43)
    ds = atlas.Atlas.open(tmp_path).open_dataset("d")
    assert ds.attributes() == ds.array_attributes("t") | {"count": 43}
    assert ds.get_attribute("flag") is True
    assert ds.get_array_attribute("t", "created") == 1_700_000_000_000_000_001
    assert (ds.get_array_attribute("t", "zz"), ds.get_array_attribute("zz", "k")) == (None, None)
    assert ds.array_attributes("zz") == {}


def test_the_errors_that_scripts_caught(tmp_path):
    store = atlas.Atlas.create(tmp_path)
    ds = store.create_dataset("d")
    ds.define_array("x", "int32", ["i"], [4])
    for error, call in (
        (KeyError, lambda: store.open_dataset("zz")),
        (KeyError, lambda: store.delete_dataset("zz")),
        (KeyError, lambda: ds.delete_array("zz")),
        (KeyError, lambda: ds.write_array("zz", [0], np.zeros(2))),
        (KeyError, lambda: ds.set_array_attribute("zz", "k", 1)),
        (KeyError, lambda: store.read_array_across_stacked("zz", ["d"])),
        (FileExistsError, lambda: store.create_dataset("d")),
        (FileExistsError, lambda: ds.define_array("x", "int32", ["i"], [4])),
        (ValueError, lambda: store.create_dataset("a/b")),
        (ValueError, lambda: ds.define_array("_x", "int32", ["i"], [4])),
        (ValueError, lambda: ds.define_array("y", "float33", ["i"], [4])),
        (ValueError, lambda: atlas.Atlas.create(tmp_path / "n", codec="brotli")),
        (ValueError, lambda: store.read_array_across("x", [])),
        (ValueError, lambda: store.open_as_many_xarray_dataset([])),
        (ValueError, lambda: ds.set_attribute("k", {})),
        (TypeError, lambda: ds.write_array("x", [0], np.zeros(4))),
        (TypeError, lambda: ds.define_array("y", "int32", ["i"], [4], fill_value=1.5)),
        (OverflowError, lambda: ds.define_array("y", "uint8", ["i"], [4], fill_value=256)),
        (OverflowError, lambda: ds.set_attribute("k", 70_000, dtype="int8")),
    ):
        with pytest.raises(error):
            call()


def test_bulk_reads(tmp_path):
    with atlas.Atlas.create(tmp_path) as store:
        for i in range(3):
            ds = store.create_dataset(f"s{i}")
            ds.define_array("t", "float32", ["hour"], [24], [6])
            ds.write_array("t", [0], np.full(24, i, np.float32))
        store.create_dataset("without")
    store = atlas.Atlas.open(tmp_path)
    parts = store.read_array_across("t", ["s2", "without", "s0"], start=[3], shape=[5])
    assert [None if part is None else part.tolist() for part in parts] == [[2.0] * 5, None, [0.0] * 5]
    stacked = store.read_array_across_stacked("t", ["s0", "s1", "s2"], [0], [24])
    assert stacked.shape == (3, 24)
    with pytest.raises(KeyError):
        store.read_array_across_stacked("t", ["s0", "without"])
    both = store.open_dataset("s1").read_arrays(["t", "zz"], start=[0], shape=[2])
    assert (both["t"].tolist(), both["zz"]) == ([1.0, 1.0], None)


def test_arrays_share_a_directory_and_can_go(tmp_path):
    with atlas.Atlas.create(tmp_path) as store:
        for i in range(5):
            ds = store.create_dataset(f"station_{i}")
            for array in ("temperature", "pressure"):
                ds.define_array(array, dtype="float32", dims=["hour"], shape=[24], chunk_shape=[24])
                ds.write_array(array, start=[0], data=np.full(24, i, dtype=np.float32))
        ds.delete_array("pressure")
    assert sorted(p.name for p in Path(tmp_path).iterdir() if p.is_dir() and p.name[0] != "_") == [
        "pressure",
        "temperature",
    ]
    assert atlas.Atlas.open(str(tmp_path)).open_dataset("station_4").list_arrays() == ["temperature"]


def test_xarray_in_and_out(tmp_path):
    with atlas.Atlas.create(tmp_path) as store:
        store.add_xarray_dataset(grid(), "jan")
        store.add_xr_dataset(grid(1), name="feb")
        grid(2).atlas.write(store, "mar")
    store = atlas.Atlas.open(tmp_path)
    xr.testing.assert_identical(store.open_as_xarray_dataset("jan"), grid())
    xr.testing.assert_identical(store.to_xarray("mar"), grid(2))
    view = store.open_dataset("jan")
    assert view.list_arrays() == ["lat", "lon", "temperature", "pressure"]
    assert view.array_attributes("pressure") == {"units": "hPa"}
    assert view.get_attribute("_pyatlas_coords") == '["lat", "lon"]'
    many = store.open_as_many_xarray_dataset(["mar", "jan"], concat_dim="month", parallel=False)
    assert many["temperature"].dims == ("month", "lat", "lon")
    assert many["month"].values.tolist() == ["mar", "jan"]
    np.testing.assert_array_equal(many["temperature"][0], grid(2)["temperature"])
    xr.testing.assert_identical(many, store.to_xarray_many(["mar", "jan"], "month"))


def test_attributes_that_are_no_scalars_are_json(tmp_path):
    attrs = {"valid_range": [0, 100], "tags": ["draft", "v1"], "nested": {"a": 1, "b": [2, 3]}, "pair": (1, 2)}
    ds = xr.Dataset({"v": ("x", np.zeros(4, np.int32), attrs)}, attrs={"version_history": [1, 2, 3]})
    store = atlas.Atlas.create(tmp_path)
    store.add_xarray_dataset(ds, "ds")
    view = store.open_dataset("ds")
    assert view.get_attribute("version_history") == "json:[1, 2, 3]"
    assert view.get_array_attribute("v", "tags").startswith("json:")
    back = store.open_as_xarray_dataset("ds")
    assert back["v"].attrs == attrs | {"pair": [1, 2]}
    assert back.attrs == {"version_history": [1, 2, 3]}


def test_dask_blocks_in_and_lazy_blocks_out(tmp_path):
    data = dask.array.arange(10, dtype=np.int32, chunks=4)
    ds = xr.Dataset({"lazy": ("x", data), "eager": ("x", np.arange(10))})
    with atlas.Atlas.create(tmp_path) as store:
        store.add_xarray_dataset(ds, "big")
        store.add_xarray_dataset(ds, "other", chunks={"lazy": [5], "eager": [5]})
    store = atlas.Atlas.open(tmp_path)
    assert store.open_dataset("big").array_meta("lazy")["chunk_shape"] == [4]
    assert store.open_dataset("other").array_meta("eager")["chunk_shape"] == [5]
    back = store.open_as_xarray_dataset("big")
    assert back["lazy"].data.chunks == ((4, 4, 2),)
    assert isinstance(back["eager"].data, np.ndarray)
    xr.testing.assert_identical(back.compute(), ds.compute())


def test_missing_data(tmp_path):
    ds = xr.Dataset(
        {
            "temperature": ("x", np.array([1.0, np.nan, 3.0])),
            "observed": ("x", pd.to_datetime(["2024-01-01", None, "2024-01-03"]).values.astype("M8[ns]")),
            "label": ("x", np.array(["north", None, np.nan], dtype=object)),
            "counts": ("x", np.array([1, 2, 3], np.int32)),
            "flagged": ("x", np.array([1, -1, 3], np.int32), {"_FillValue": np.int32(-1)}),
        }
    )
    store = atlas.Atlas.create(tmp_path)
    with pytest.warns(UserWarning, match="2 missing string"):
        store.add_xarray_dataset(ds, "defaults")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fills = {"counts": -999, "label": "unknown", "temperature": None}
        store.add_xarray_dataset(ds, "explicit", fill_value=fills)
        store.add_xarray_dataset(ds[["temperature", "counts", "label"]], "scalar", fill_value=-1)
    store.flush()
    view = store.open_dataset("defaults")
    nulls = {array: view.array_stats(array)["null_count"] for array in view.list_arrays()}
    assert nulls == {"temperature": 1, "observed": 1, "label": 2, "counts": 0, "flagged": 1}
    assert view.array_fill_value("observed") == np.iinfo(np.int64).min
    assert view.read_array("label").tolist() == ["north", "", ""]
    assert store.open_as_xarray_dataset("defaults")["flagged"].attrs == {"_FillValue": -1}
    explicit = store.open_dataset("explicit")
    assert [explicit.array_fill_value(a) for a in ("counts", "label", "temperature")] == [-999, "unknown", None]
    scalar = store.open_dataset("scalar")
    assert [scalar.array_fill_value(a) for a in ("counts", "label", "temperature")] == [-1, "", -1.0]


def test_a_failed_dataset_leaves_no_trace(tmp_path):
    ds = xr.Dataset({"ok": ("x", np.zeros(2)), "bad": ("x", np.array([object(), 1], dtype=object))})
    store = atlas.Atlas.create(tmp_path)
    with pytest.raises(NotImplementedError):
        store.add_xarray_dataset(ds, "broken")
    assert store.list_datasets() == []


def test_modules_and_logging(capsys, monkeypatch):
    for name in ("atlas._atlas", "atlas.store", "atlas.xarray"):
        assert importlib.import_module(name)
    assert isinstance(atlas.__version__, str)
    monkeypatch.setattr(logging.getLogger("atlas"), "handlers", [])
    monkeypatch.setattr(logging.getLogger("atlas"), "level", logging.WARNING)
    atlas.init_tracing()
    atlas.init_tracing("atlas=debug")
    logging.getLogger("atlas").debug("seen")
    assert "seen" in capsys.readouterr().err
    with pytest.raises(ValueError, match="log level"):
        atlas.init_tracing("atlas=loud")


class LocalStore:
    """Stands in for the handle of that name, which scripts gave in place of a path."""

    def __init__(self, prefix: Path | None) -> None:
        self.prefix = prefix


def test_object_store_handles(tmp_path, monkeypatch):
    monkeypatch.setattr(LocalStore, "__module__", "obstore.store")
    handle = LocalStore(tmp_path)
    with atlas.Atlas.create(handle) as store:
        store.create_dataset("d")
    assert atlas.Atlas.open(handle).list_datasets() == atlas.Atlas.open(str(tmp_path)).list_datasets() == ["d"]
    with pytest.raises(ValueError, match="URL"):
        atlas.Atlas.open(LocalStore(None))
