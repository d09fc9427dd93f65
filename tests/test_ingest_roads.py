"""Files that look alike are decoded together: the store must be the one that file after file would make."""

from __future__ import annotations

import struct
import warnings
from contextlib import suppress
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import atlas
from atlas import Atlas
from atlas.config import StoreConfig
from atlas.ingest import alike, create, work
from atlas.ingest.work import Options, Source, prepare
from atlas.prepared import Prepared, add_prepared

pytestmark = pytest.mark.filterwarnings("ignore")  # xarray has remarks about some of these files


def together(paths: list[Path], place: Path) -> tuple[Atlas, int]:
    """Make a store of files that are decoded together; return how many were."""
    options = Options(StoreConfig())
    sources = [Source(path.stem, path) for path in paths]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        taken = sum(len(names) for names, _ in work._together(sources, options))
        result = prepare(sources, options)
    store = Atlas.create(place)
    assert add_prepared(store._session, result.names, Prepared.from_bytes(result.prepared)) == {}
    store.flush()
    return store, taken


def one_by_one(paths: list[Path], place: Path) -> Atlas:
    store = Atlas.create(place)
    for path in paths:
        # What xarray cannot decode is in neither store.
        with suppress(ValueError, atlas.AtlasError), xr.open_dataset(path) as ds:
            store.add_xarray_dataset(ds, path.stem)
    store.flush()
    return store


def same(found: Atlas, expected: Atlas) -> None:
    """Compare everything that a store says of its datasets."""
    assert found.list_datasets() == expected.list_datasets()
    assert found.merged_schema() == expected.merged_schema()
    for name in expected.list_datasets():
        one, other = found.open_dataset(name), expected.open_dataset(name)
        assert one.list_arrays() == other.list_arrays()
        assert repr(one.attributes()) == repr(other.attributes())
        assert list(one.attributes()) == list(other.attributes())
        for array in other.list_arrays():
            assert one.array_meta(array) == other.array_meta(array), array
            assert repr(one.array_fill_value(array)) == repr(other.array_fill_value(array))
            assert repr(one.array_attributes(array)) == repr(other.array_attributes(array)), array
            assert repr(one.array_stats(array)) == repr(other.array_stats(array)), array
            cells, wanted = one.read_array(array), other.read_array(array)
            assert cells.dtype == wanted.dtype
            assert cells.tolist() == wanted.tolist() if cells.dtype == object else cells.tobytes() == wanted.tobytes()
    assert payload_bytes(found) == payload_bytes(expected)


def payload_bytes(store: Atlas) -> dict[str, int]:
    """Return what the chunks of every array take; in which order they lie is not said, and the index knows it."""
    arrays = store._session.snapshot.root.arrays
    return {name: sum(file.index_offset for file in own.files) for name, own in arrays.items()}


def test_all_argo_files_are_decoded_together_and_come_out_the_same(shared_data, tmp_path):
    paths = sorted((shared_data / "argo").rglob("*.nc"))[::24]
    found, taken = together(paths, tmp_path / "a")
    assert taken == len(paths)
    same(found, one_by_one(paths, tmp_path / "b"))


TEXT = st.binary(min_size=3, max_size=3).map(lambda text: np.frombuffer(text, "S1"))


@st.composite
def profiles(draw: st.DrawFn) -> dict:
    """Return the cells of one file of a collection: of any length, with gaps, odd text and odd numbers."""
    levels = draw(st.integers(0, 4))

    def cells(kind: str, values: st.SearchStrategy) -> np.ndarray:
        return np.array(draw(st.lists(values, min_size=levels, max_size=levels)), kind)

    return {
        "levels": levels,
        "temp": cells("f4", st.sampled_from([99999.0, np.nan, -0.0, 12.5, np.inf])),
        "packed": cells("i2", st.sampled_from([-1, 0, 7, 32767])),
        "when": cells("i4", st.sampled_from([-1, 0, 24873])),
        "flag": cells("S1", st.sampled_from([b" ", b"1", b"", b"\xff", b"\xc3"])),
        "time": np.float64(draw(st.sampled_from([0.0, 24873.5401, 999999.0, 1e6, 1e9, np.nan]))),
        "name": draw(st.sampled_from([b"abc", b"   ", b"a\xffb", b"\0\0\0", b"a\0 "])),
        "note": draw(st.sampled_from(["", "ü", "NA", "text"])),
        "history": draw(st.sampled_from(["made", "made twice", "ü"])),
    }


def written(cells: dict, path: Path, form: str) -> None:
    with netCDF4.Dataset(path, "w", format=form) as nc:
        nc.createDimension("level", cells["levels"])
        nc.createDimension("letters", 3)
        nc.setncatts({"history": cells["history"], "number": np.int16(3)})
        nc.createVariable("temp", "f4", ("level",), fill_value=99999.0).units = "degree"
        packed = nc.createVariable("packed", "i2", ("level",), fill_value=-1)
        packed.setncatts({"scale_factor": 0.1, "add_offset": 2.0, "coordinates": "time name"})
        nc.createVariable("flag", "S1", ("level",), fill_value=b" ").flag_values = "1, 2"
        nc.createVariable("time", "f8", (), fill_value=999999.0).units = "days since 1950-01-01 00:00:00 UTC"
        nc.createVariable("when", "i4", ("level",), fill_value=-1).units = "days since 1950-01-01"
        nc.createVariable("name", "S1", ("letters",), fill_value=b" ")
        nc.createVariable("plain", "S1", ("letters",))
        nc.set_auto_maskandscale(False)
        nc.set_auto_chartostring(False)
        for name in ("temp", "packed", "when", "flag"):
            nc[name][:] = cells[name]
        nc["time"][...] = cells["time"]
        for name in ("name", "plain"):
            nc[name][:] = np.frombuffer(cells["name"], "S1")
        if form == "NETCDF4":
            note = nc.createVariable("note", str, ())
            note[...] = cells["note"]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(profiles(), min_size=2, max_size=3), st.sampled_from(["NETCDF3_CLASSIC", "NETCDF4"]))
def test_whatever_files_hold_they_come_out_the_same(tmp_path_factory, collection, form):
    place = tmp_path_factory.mktemp("files")
    paths = [place / f"f{i}.nc" for i in range(len(collection))]
    for cells, path in zip(collection, paths, strict=True):
        written(cells, path, form)
    found, _ = together(paths, place / "a")
    same(found, one_by_one(paths, place / "b"))


def test_layouts_are_told_apart_by_everything_that_decoding_looks_at(tmp_path):
    variants = [{"units": "days since 2000-01-01"}, {"units": "days since 2001-01-01"}, {"scale_factor": 2.0}, {}]
    paths = []
    for i, attributes in enumerate(variants * 2):
        paths.append(tmp_path / f"f{i}.nc")
        xr.Dataset({"v": ("x", np.arange(i + 1.0), attributes)}).to_netcdf(paths[-1])
    found, taken = together(paths, tmp_path / "a")
    assert taken == len(paths)
    same(found, one_by_one(paths, tmp_path / "b"))


def test_a_single_cell_of_bytes_comes_back_as_it_was(tmp_path):
    with Atlas.create(tmp_path) as store:
        store.add_xarray_dataset(xr.Dataset({"v": ((), np.array(b"a  ", object))}), "d")
    back = store.open_as_xarray_dataset("d")["v"]
    assert (back.dtype, back.values[()]) == (np.dtype(object), b"a  ")


def test_large_arrays_and_chosen_chunks(tmp_path):
    paths = [tmp_path / f"f{i}.nc" for i in range(3)]
    for i, path in enumerate(paths):
        xr.Dataset({"v": (("y", "x"), np.random.default_rng(i).normal(size=(60, 700 + i)))}).to_netcdf(path)
    create(paths, tmp_path / "store", chunks={"x": 100})
    store = Atlas.open(tmp_path / "store")
    for path in paths:
        view = store.open_dataset(path.stem)
        assert view.array_meta("v")["chunk_shape"] == [60, 100]
        np.testing.assert_array_equal(view.read_array("v"), xr.open_dataset(path)["v"].values)


# ── the classic format ───────────────────────────────────────────────────────────────────────

CLASSIC = {
    "NETCDF3_CLASSIC": ("i1", "i2", "i4", "f4", "f8", "S1"),
    "NETCDF3_64BIT_OFFSET": ("i1", "i2", "i4", "f4", "f8", "S1"),
    "NETCDF3_64BIT_DATA": ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8", "S1"),
}


@st.composite
def declarations(draw: st.DrawFn) -> tuple:
    """Return a form, the records, and variables with types, dimensions and numbers of attributes."""
    form = draw(st.sampled_from(sorted(CLASSIC)))
    dims = st.sampled_from([(), ("x",), ("t",), ("t", "x"), ("x", "y"), ("t", "y", "x")])
    kinds = st.sampled_from(CLASSIC[form])
    return form, draw(st.integers(0, 3)), draw(st.lists(st.tuples(kinds, dims, st.integers(0, 3)), max_size=5))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(declarations(), st.integers(0, 2**32))
def test_classic_files_are_read_as_the_library_reads_them(tmp_path, declared, seed):
    form, records, variables = declared
    random = np.random.default_rng(seed)
    path = tmp_path / "file.nc"
    with netCDF4.Dataset(path, "w", format=form) as nc:
        nc.set_fill_on() if seed % 2 else nc.set_fill_off()
        for name, size in (("x", 3), ("y", 2), ("t", None)):
            nc.createDimension(name, size)
        nc.setncatts({"title": "ü" * int(random.integers(5)), "one": np.int16(3), "many": random.normal(size=3)})
        for i, (kind, dims, attributes) in enumerate(variables):
            variable = nc.createVariable(f"température_{i}", kind, dims)
            for number in range(attributes):
                variable.setncattr(
                    f"a{number}", ["text" * number, np.float32(1.5), np.arange(number + 2, dtype="i4")][number]
                )
        nc.set_auto_maskandscale(False)
        for variable in nc.variables.values():
            shape = tuple(records if dim == "t" else len(nc.dimensions[dim]) for dim in variable.dimensions)
            count = int(np.prod(shape))
            cells = np.frombuffer(random.bytes(count * variable.dtype.itemsize), variable.dtype).reshape(shape)
            variable[...] = cells
    known, found = alike._read_with_library(path), alike.read_raw(path)
    assert list(found.cells) == list(known.cells)
    for name, cells in known.cells.items():
        assert (found.cells[name].dtype, found.cells[name].shape) == (cells.dtype, cells.shape)
        assert found.cells[name].tobytes() == cells.tobytes()
    assert repr(found.attributes) == repr(known.attributes)


def test_damaged_classic_files_are_left_to_the_library(tmp_path):
    path = tmp_path / "file.nc"
    with netCDF4.Dataset(path, "w", format="NETCDF3_CLASSIC") as nc:
        nc.createDimension("x", 4)
        nc.createVariable("v", "f8", ("x",))[:] = 1
    whole = path.read_bytes()
    for length in range(4, len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises((ValueError, LookupError, TypeError, struct.error)):
            alike.read_raw(path)
    for place in range(4, len(whole) - 32):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x11]) + whole[place + 1 :])
        with suppress(ValueError, LookupError, TypeError, struct.error):
            alike.read_raw(path)


def test_what_is_prepared_is_added_by_column_and_in_order(tmp_path):
    paths = [tmp_path / f"f{i}.nc" for i in range(6)]
    for i, path in enumerate(paths):
        # Two layouts, files of unequal length, one of them without cells.
        name = "v" if i % 2 else "w"
        xr.Dataset({name: ("x", np.arange(i % 5) + i), "text": ("x", np.full(i % 5, "a"))}, attrs={"i": i}).to_netcdf(
            path
        )
    (tmp_path / "_f.nc").write_bytes(paths[3].read_bytes())
    sources = [Source(path.stem, path) for path in [*paths, tmp_path / "_f.nc"]]
    result = prepare(sources, Options(StoreConfig()))
    prepared = Prepared.from_bytes(result.prepared)

    with Atlas.create(tmp_path / "store") as store:
        store.create_dataset("f1")
        failed = add_prepared(store._session, ["f0", "f1", None, *result.names[3:]], prepared)
        assert {name: type(error) for name, error in failed.items()} == {
            "f1": atlas.DatasetAlreadyExists,
            "_f": atlas.InvalidName,
        }
        assert list(store._session.pending.records) == ["f1"], "no dataset that was prepared has a record of its own"
        assert store.read_array_across("v", ["f3", "f5"])[0].tolist() == [3, 4, 5]
    assert store.list_datasets() == ["f1", "f0", "f3", "f4", "f5"]
    assert store.open_dataset("f1").list_arrays() == []
    with store:
        assert add_prepared(store._session, result.names[:2] + [None] * 5, prepared, replace=True) == {}
        assert store.list_datasets() == ["f3", "f4", "f5", "f0", "f1"]
    same(Atlas.open(tmp_path / "store"), store)
    assert store.read_array_across("v", ["f1", "f5"])[0].tolist() == [1]
    assert store.verify().ok
