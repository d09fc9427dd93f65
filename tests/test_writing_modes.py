"""``ds.atlas.write(store, name, mode=…)``: new, in the place of what is there, or added to it."""

from __future__ import annotations

import dask
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from xarray.testing import assert_identical

import atlas
from atlas import Atlas


def day(i: int, hours: int = 24) -> xr.Dataset:
    times = pd.date_range(f"2024-01-{i + 1:02d}", periods=hours, freq="h")
    return xr.Dataset(
        {
            "t": (("time", "x"), np.arange(hours * 3, dtype="f4").reshape(hours, 3) + i, {"units": "K"}),
            "label": ("time", np.array([f"{i}" * (k % 3) for k in range(hours)], object)),
            "depth": ("x", np.array([1.0, 2.0, 4.0])),
        },
        {"time": times, "x": [10, 20, 30]},
        {"title": "days"},
    )


@pytest.fixture(params=["committed", "pending"])
def store(request, place):
    store = Atlas.create(place)
    day(0).atlas.write(store, "d", chunks={"t": [10, 3], "label": [10], "time": [10]})
    if request.param == "committed":
        store.flush()
    return store


def read(store: Atlas, name: str = "d") -> xr.Dataset:
    """The dataset as this handle has it, and, which must be the same, as others do once it is flushed."""
    here = store.open_as_xarray_dataset(name).load()
    store.flush()
    assert_identical(Atlas.open(store._session.storage.local_path).open_as_xarray_dataset(name).load(), here)
    assert store.verify().ok
    assert store.list_datasets() == [name]
    return here


def test_a_dataset_that_is_there_is_an_error_unless_it_may_be_replaced(store):
    for mode in (None, "w-"):
        with pytest.raises(atlas.DatasetAlreadyExists, match="'d'"):
            day(1).atlas.write(store, "d", mode=mode)
    assert_identical(store.open_as_xarray_dataset("d").load(), day(0))
    new = xr.Dataset({"other": ("y", np.arange(5))})
    new.atlas.write(store, "d", mode="w")
    assert_identical(read(store), new)


@pytest.mark.parametrize("mode", ["w-", "w", "a"])
def test_every_mode_creates_what_is_not_there(place, mode):
    store = Atlas.create(place)
    day(0).atlas.write(store, "d", mode=mode)
    assert_identical(read(store), day(0))


@pytest.mark.parametrize("mode", ["w", "a"])
def test_a_dataset_is_replaced_by_what_is_computed_from_it(store, mode):
    doubled = store.open_as_xarray_dataset("d")
    assert dask.is_dask_collection(doubled["t"].data)
    doubled["t"] = doubled["t"] * 2
    expected = doubled.compute()
    doubled.atlas.write(store, "d", mode=mode)
    assert_identical(read(store), expected)


def test_variables_and_attributes_are_added_and_replaced(store):
    changes = xr.Dataset(
        {"salt": (("time", "x"), np.ones((24, 3))), "depth": ("x", [1, 2, 3], {"units": "m"})},
        {"x": [1.0, 2.0, 3.0], "station": "A"},
        {"author": "me"},
    )
    changes.atlas.write(store, "d", mode="a")
    expected = day(0).assign_coords(changes.coords).assign(changes.data_vars).assign_attrs(author="me")
    assert_identical(read(store), expected)


def test_datasets_grow_along_a_dimension(store):
    for i in (1, 2):
        day(i).atlas.write(store, "d", append_dim="time")
    expected = xr.concat([day(i) for i in range(3)], "time", data_vars="minimal")
    assert_identical(read(store), expected)
    lazy = day(3, 7).chunk(time=4)
    lazy.atlas.write(store, "d", append_dim="time", mode="a")
    expected = xr.concat([expected, day(3, 7)], "time", data_vars="minimal")
    assert_identical(read(store), expected)
    assert store.open_dataset("d").array_meta("t")["chunk_shape"] == [10, 3]


@pytest.mark.parametrize(
    ("given", "lazy", "chunks"), [({"t": [1, 3]}, False, [1, 3]), (None, False, [24, 3]), (None, True, [24, 3])]
)
def test_what_is_empty_at_first_keeps_the_chunks_that_it_was_given(place, given, lazy, chunks):
    store, empty = Atlas.create(place), day(0)[["t"]].isel(time=slice(0))
    (empty.chunk() if lazy else empty).atlas.write(store, "d", chunks=given)
    store.flush()
    store = Atlas.open(place)
    day(0)[["t"]].atlas.write(store, "d", append_dim="time")
    assert store.open_dataset("d").array_meta("t")["chunk_shape"] == chunks
    assert_identical(read(store), day(0)[["t"]])


def test_growing_writes_only_what_is_new(place):
    store = Atlas.create(place)
    ds = xr.Dataset({"t": ("time", np.random.default_rng(0).normal(size=100_000))})
    ds.atlas.write(store, "d", chunks={"t": [10_000]})
    store.flush()
    before = sum(path.stat().st_size for path in place.rglob("*.af"))
    ds.isel(time=slice(100)).atlas.write(store, "d", append_dim="time")
    store.flush()
    assert sum(path.stat().st_size for path in place.rglob("*.af")) < before * 1.05
    assert store.open_dataset("d").array_meta("t")["shape"] == [100_100]


def grown(place, *parts) -> xr.DataArray:
    with Atlas.create(place) as store:
        for part in parts:
            xr.Dataset({"v": ("x", part)}).atlas.write(store, "d", append_dim="x")
    return Atlas.open(place).open_as_xarray_dataset("d")["v"]


def test_wider_text_is_not_cut(place):
    found = grown(place, np.array(["a", "bb"]), np.array(["cccc"]))
    assert found.dtype == "<U4"
    assert found.values.tolist() == ["a", "bb", "cccc"]
    found = grown(place.with_name("bytes"), np.array([b"a"]), np.array([b"cccc"]))
    assert found.values.tolist() == [b"a", b"cccc"]
    found = grown(place.with_name("objects"), np.array(["a"]), np.array(["cccc"], object))
    assert found.values.tolist() == ["a", "cccc"]


@pytest.mark.filterwarnings("ignore:.*replaced .* missing string cell")
@pytest.mark.parametrize(
    "parts",
    [
        (["a", None, ""], ["b", "", None]),
        ([None, "x"], ["", "y"]),
        (["", "x"], [None]),
        ([np.nan], [None, ""], [None, np.nan, "z"]),
    ],
)
def test_missing_text_stays_missing_and_empty_text_empty(place, parts):
    parts = [xr.Variable("x", np.array(part, object)) for part in parts]
    found = grown(place, *(part.values for part in parts))
    assert list(map(repr, found.values)) == [repr(cell) for part in parts for cell in part.values]


def test_times_take_the_unit_of_the_array_or_are_refused(place):
    whole, half = np.array(["2024-01-01"], "M8[s]"), np.array(["2024-01-01T00:00:00.5"], "M8[ms]")
    assert grown(place, half, whole).values.tolist() == [half[0].tolist(), whole.astype("M8[ms]")[0].tolist()]
    with pytest.raises(TypeError, match=r"'v' of 'd'.*datetime64\[ms\]"):
        grown(place.with_name("other"), whole, half)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda ds: ds.assign(t=ds["t"].astype("f8")), TypeError, "'t' of 'd' holds float32.*float64"),
        (lambda ds: ds.drop_vars("t"), ValueError, "'time' of 'd' would have"),
        (lambda ds: ds.assign(more=ds["t"] * 1), ValueError, "'time' of 'd' would have"),
        (lambda ds: ds.isel(x=slice(2)), ValueError, "'x' of 'd' would have"),
        (lambda ds: ds.transpose("x", "time"), ValueError, "has the dimensions"),
        (lambda ds: ds.assign(label=ds["time"]), TypeError, "'label' of 'd' holds string"),
        (lambda ds: ds.assign(depth=("x", np.ones(3), {"k": object()})), TypeError, "cannot be stored"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_changed(store, change, error, message):
    with pytest.raises(error, match=message):
        change(day(1)).atlas.write(store, "d", append_dim="time")
    assert_identical(read(store), day(0))


def test_a_block_that_fails_leaves_the_dataset_as_it_was(store):
    def fail(block):
        raise RuntimeError("no weather today")

    broken = day(1).chunk(time=12)
    broken["t"] = broken["t"].copy(data=broken["t"].data.map_blocks(fail, dtype="f4", meta=np.zeros((0, 0), "f4")))
    for options in ({"mode": "w"}, {"mode": "a"}, {"append_dim": "time"}):
        with pytest.raises(RuntimeError, match="no weather"):
            broken.atlas.write(store, "d", **options)
    assert_identical(read(store), day(0))


def test_unknown_modes_and_dimensions_are_refused(store):
    with pytest.raises(ValueError, match=r"unknown mode: 'r\+'; use one of 'w-', 'w', 'a'"):
        day(1).atlas.write(store, "d", mode="r+")
    with pytest.raises(ValueError, match="mode='a', not 'w'"):
        day(1).atlas.write(store, "d", mode="w", append_dim="time")
    with pytest.raises(ValueError, match="'tyme' is no dimension"):
        day(1).atlas.write(store, "d", append_dim="tyme")


def test_another_writer_of_the_same_dataset_is_a_conflict(place):
    with Atlas.create(place) as store:
        day(0).atlas.write(store, "d")
    one, other = Atlas.open(place), Atlas.open(place)
    day(1).atlas.write(one, "d", append_dim="time")
    day(1).atlas.write(other, "d", mode="w")
    one.flush()
    with pytest.raises(atlas.ConflictError, match="'d'"):
        other.flush()


def test_what_grows_keeps_its_chunks_and_encoding(place):
    store, given = (
        Atlas.create(place),
        {"encoding": {"t": {"dtype": "i2", "scale_factor": 0.5}}, "chunks": {"t": [10, 3]}},
    )
    for i in range(2):
        day(i).atlas.write(store, "d", append_dim="time", **given)
    for other, says in (
        ({"chunks": {"t": [5, 3]}}, r"chunks \[10, 3\], not \[5, 3\]"),
        ({"encoding": {"t": {"scale_factor": 0.1}}}, "scale_factor 0.5, not 0.1"),
        ({"encoding": {"t": {"add_offset": 1.0}}}, "add_offset None, not 1.0"),
    ):
        with pytest.raises(ValueError, match=says):
            day(2).atlas.write(store, "d", append_dim="time", **other)
    assert_identical(read(store), xr.concat([day(0), day(1)], "time", data_vars="minimal"))
