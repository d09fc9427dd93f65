"""NetCDF files as people really write them: they come back as xarray gives them, or are refused in one line."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import xarray as xr

import atlas
from atlas import Atlas
from atlas.ingest import create, pool
from atlas.ingest.work import Finished, Options, Source, prepare

pytestmark = pytest.mark.filterwarnings("ignore")  # xarray has remarks about most of these files


def packed(nc: netCDF4.Dataset) -> None:
    nc.createDimension("x", 4)
    for name, fill, attributes in (
        ("scaled", -32767, {"scale_factor": 0.01, "add_offset": 273.15}),
        ("missing", None, {"missing_value": np.int16(2)}),
        ("both", -1, {"missing_value": np.int16(2)}),
        ("several", None, {"missing_value": np.array([1, 2], "i2")}),
        ("unsigned", -1, {"_Unsigned": "true"}),
        ("plain", False, {"valid_range": np.array([0, 10], "i2"), "flag_values": np.array([1], "i1")}),
    ):
        variable = nc.createVariable(name, "i2", ("x",), fill_value=fill)
        variable.setncatts(attributes)
        variable.set_auto_maskandscale(False)
        variable[:] = np.array([-1, 1, 2, -32767], "i2")


def integers(nc: netCDF4.Dataset) -> None:
    nc.createDimension("x", 2)
    for name in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"):
        nc.createVariable(name, name, ("x",), fill_value=False)[:] = [np.iinfo(name).min, np.iinfo(name).max]
        nc.setncattr(f"largest_{name}", np.array(np.iinfo(name).max, name)[()])


def floats(nc: netCDF4.Dataset) -> None:
    nc.createDimension("x", 6)
    nc.createVariable("v", "f4", ("x",))[:] = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45, 3e38], "f4")
    nc.createVariable("w", ">f8", ("x",), endian="big", fill_value=np.nan)[:] = np.arange(6)
    nc.setncattr("odd", np.array([np.nan, np.inf, -0.0]))


def characters(nc: netCDF4.Dataset) -> None:
    nc.createDimension("x", 3)
    nc.createDimension("length", 4)
    nc.createVariable("c", "S1", ("x", "length"))[:] = netCDF4.stringtochar(np.array(["ab", "", "abcd"], "S4"))
    nc.createVariable("raw", "S1", ("x",))[:] = np.array([b"a", b"\xff", b""], "S1")
    nc.createVariable("one", "S1", ())[...] = b"q"
    nc.createVariable("gaps", "S1", ("x", "length"), fill_value=b" ")[0] = np.array([b"a", b"b", b" ", b" "])
    nc.createVariable("s", str, ("x",))[:] = np.array(["", "ü🌊", "x" * 10_000], object)
    nc.createVariable("filled", str, ("x",), fill_value="NA")[0] = "q"
    nc.createVariable("scalar", str, ())[...] = "text"
    nc.setncattr_string("several", ["a", "ü"])
    nc.setncatts({"looks_like": "json:not json", "really": 'json:{"a": 1}', "none": ""})


def times(nc: netCDF4.Dataset) -> None:
    nc.createDimension("t", 3)
    for name, kind, units in (
        ("seconds", "i4", "seconds since 1970-01-01"),
        ("days", "f8", "days since 1950-01-01 00:00:00 UTC"),
        ("duration", "f8", "hours"),
        ("unknown", "f8", "fortnights"),
    ):
        variable = nc.createVariable(name, kind, ("t",), fill_value=-999)
        variable.units = units
        variable[:] = np.ma.masked_array([1, 2, 3], [False, True, False])


def gaps(nc: netCDF4.Dataset) -> None:
    nc.createDimension("x", 4)
    for name, kind, fill, missing in (
        ("several", "i4", None, [-9, -8]),
        ("fill_among", "i4", -9, [-9, -8]),
        ("floats", "f4", None, [-9, -8]),
        ("single", "f8", None, -9),
    ):
        variable = nc.createVariable(name, kind, ("x",), fill_value=fill)
        variable.missing_value = np.array(missing, kind)
        variable.set_auto_maskandscale(False)
        variable[:] = [0, -9, 2, 3]
    time = nc.createVariable("time", "i4", ("x",), fill_value=-9)
    time.setncatts({"units": "days since 2000-01-01", "calendar": "proleptic_gregorian"})
    time.set_auto_maskandscale(False)
    time[:] = [0, -9, 2, 3]
    bare = nc.createVariable("bare", "f8", ("x",))
    bare.setncatts({"units": "days since 2000-01-01", "calendar": "proleptic_gregorian"})
    bare[:] = [0, 1, 2, 3.5]


def noleap(nc: netCDF4.Dataset) -> None:
    nc.createDimension("t", 2)
    days = nc.createVariable("t", "f8", ("t",))
    days.setncatts({"units": "days since 2000-01-01", "calendar": "noleap"})
    days[:] = [0.5, 59]


def empty_axes(nc: netCDF4.Dataset) -> None:
    nc.createDimension("z", 0)
    nc.createDimension("x", 3)
    nc.createDimension("record", None)
    nc.createDimension("unused", 7)
    for name, kind, dims in (("v", "f4", ("x", "z")), ("s", str, ("z",)), ("c", "S1", ("z", "x")), ("z", "f8", ("z",))):
        nc.createVariable(name, kind, dims)
    nc.createVariable("r", "i4", ("record", "x"))[0:2] = np.arange(6).reshape(2, 3)


def names(nc: netCDF4.Dataset) -> None:
    nc.createDimension("dim with space", 2)
    for name in ("var with space", "température", "温度", "a.b", "a-b+c@d", "Con", "con", "long" * 60):
        nc.createVariable(name, "f4", ("dim with space",))[:] = len(name)


def structure(nc: netCDF4.Dataset) -> None:
    nc.createDimension("y", 2)
    nc.createDimension("x", 2)
    for name in ("lat", "lon", "v"):
        nc.createVariable(name, "f4", ("y", "x"))[:] = 1
    nc["v"].coordinates = "lat lon height"
    nc.createVariable("height", "f4", ())[...] = 2
    nc.createVariable("covariance", "f4", ("x", "x"))[:] = [[1, 2], [3, 4]]
    kinds = nc.createEnumType(np.uint8, "kinds", {"clear": 0, "cloudy": 1})
    nc.createVariable("kind", kinds, ("x",))[:] = [0, 1]
    nc.createGroup("inner").createVariable("v", "f4", ("x",))[:] = 1


def nothing(nc: netCDF4.Dataset) -> None:
    nc.title = "no variables"


KEPT = [packed, integers, floats, characters, times, noleap, empty_axes, names, structure, nothing]


def identical(found: xr.Dataset, source: xr.Dataset) -> None:
    xr.testing.assert_identical(found, source)
    assert list(found.variables) == list(source.variables)
    for name, variable in source.variables.items():
        assert found.variables[name].dtype == variable.dtype, name
        if variable.dtype == object:
            kinds = [[type(cell) for cell in each.values.reshape(-1)] for each in (found.variables[name], variable)]
            assert kinds[0] == kinds[1], name
        else:
            assert found.variables[name].values.tobytes() == variable.values.tobytes(), name
        for key, value in variable.attrs.items():
            assert np.asarray(found.variables[name].attrs[key]).dtype == np.asarray(value).dtype, (name, key)


@pytest.mark.parametrize("write", KEPT, ids=lambda write: write.__name__)
def test_they_come_back_as_xarray_gives_them(tmp_path, write):
    path = tmp_path / "file.nc"
    with netCDF4.Dataset(path, "w") as nc:
        write(nc)
    create([path], tmp_path / "store")
    with xr.open_dataset(path) as source:
        found = Atlas.open(tmp_path / "store").open_as_xarray_dataset("file")
        identical(found, source.load())
    # What xarray itself cannot write again, it cannot write from a store either.
    found.drop_vars(["covariance", "both", "several"], errors="ignore").to_netcdf(tmp_path / "again.nc")


@pytest.mark.parametrize("options", [{"decode_cf": False}, {"mask_and_scale": False}, {"decode_times": False}], ids=str)
def test_undecoded_they_are_as_xarray_gives_them(tmp_path, options):
    path = tmp_path / "file.nc"
    with netCDF4.Dataset(path, "w") as nc:
        gaps(nc)
    create([path], tmp_path / "store")
    with xr.open_dataset(path, **options) as source:
        if options == {"mask_and_scale": False}:
            source = source.drop_vars("time")  # of which missing ones are times then
        found = xr.open_dataset(tmp_path / "store", engine="atlas", **options)
        identical(found[list(source.variables)].load(), source.load())


def test_fill_values_are_told_as_files_tell_them(tmp_path):
    paths = [tmp_path / f"{name}.nc" for name in ("a", "b", "c")]  # the last one is of another kind
    for path in paths:
        with netCDF4.Dataset(path, "w") as nc:
            nc.createDimension("x", 2)
            for name, fill in (("none", None), ("nan", np.nan), ("large", 1e20), ("also", path.stem == "c")):
                nc.createVariable(name, "f4", ("x",), fill_value=fill)[:] = [1, 2]
    create(paths, tmp_path / "store")
    for path in paths:
        with xr.open_dataset(path) as source:
            found = xr.open_dataset(tmp_path / "store", engine="atlas", group=path.stem)
            told = [{name: v.encoding.get("_FillValue", "none") for name, v in ds.items()} for ds in (found, source)]
            assert repr(told[0]) == repr(told[1])


@pytest.mark.parametrize("form", ["NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA", "NETCDF4_CLASSIC"])
def test_every_file_format(tmp_path, form):
    path = tmp_path / "file.nc"
    with netCDF4.Dataset(path, "w", format=form) as nc:
        nc.createDimension("t", None)
        nc.createDimension("x", 3)
        for kind in ("i1", "i2", "i4", "f4", "f8", "S1"):
            nc.createVariable(kind, kind, ("t", "x"))[0:2] = np.arange(6).reshape(2, 3).astype(kind)
    create([path], tmp_path / "store")
    with xr.open_dataset(path) as source:
        identical(Atlas.open(tmp_path / "store").open_as_xarray_dataset("file"), source.load())


def no_time(nc: netCDF4.Dataset) -> None:
    nc.createDimension("t", 2)
    nc.createVariable("t", "f8", ("t",)).units = "days since nonsense"


def ragged(nc: netCDF4.Dataset) -> None:
    nc.createDimension("x", 1)
    nc.createVariable("v", nc.createVLType(np.int32, "ragged"), ("x",))[0] = np.array([1, 2], "i4")


def compound(nc: netCDF4.Dataset) -> None:
    nc.createDimension("x", 2)
    kind = np.dtype([("a", "f4"), ("b", "i4")])
    nc.createVariable("v", nc.createCompoundType(kind, "pair"), ("x",))[:] = np.zeros(2, kind)


def hidden(nc: netCDF4.Dataset) -> None:
    nc.createDimension("x", 2)
    nc.createVariable("_hidden", "f4", ("x",))


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (no_time, "variable 't'.*days since nonsense"),
        (ragged, "numpy.ndarray"),
        (compound, "cannot be stored"),
        (hidden, "'_hidden'"),
    ],
)
def test_what_cannot_be_kept_is_refused_in_one_line(tmp_path, write, says):
    path = tmp_path / "file.nc"
    with netCDF4.Dataset(path, "w") as nc:
        write(nc)
    with pytest.raises(atlas.AtlasError, match=says) as caught:
        create([path], tmp_path / "store")
    assert len(str(caught.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == [path]  # no journal either: there is nothing in it
    report = create([path], tmp_path / "store", on_error="skip")
    assert list(report.skipped) == [str(path)]
    assert Atlas.open(tmp_path / "store").list_datasets() == []
    leaving = {"drop_variables": ["v", "t", "_hidden"]}
    assert create([path], tmp_path / "store", overwrite=True, reading=leaving).added == ["file"]


@pytest.mark.parametrize("damage", [b"", b"text", b"\x89HDF\r\n\x1a\n" + bytes(500), "half"])
def test_damaged_files_are_refused_in_one_line(tmp_path, damage):
    path = tmp_path / "file.nc"
    if damage == "half":
        xr.Dataset({"v": ("x", np.arange(10_000.0))}).to_netcdf(path)
        damage = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes(damage)
    reason = create([path], tmp_path / "store", on_error="skip").skipped[str(path)]
    assert len(reason.splitlines()) == 1


def test_a_reader_that_crashes_costs_its_file_only(tmp_path, monkeypatch):
    def crashing(files: list[Source], options: Options) -> Finished:
        if any(source.name == "f3" for source in files):
            os.abort()
        return prepare(files, options)

    monkeypatch.setattr(pool, "prepare_in_worker", crashing)
    monkeypatch.setattr(pool, "_MOST_FILES", 2)
    monkeypatch.setattr(pool, "_FILES_ALONE", 0)
    paths = [tmp_path / f"f{i}.nc" for i in range(7)]
    for path in paths:
        xr.Dataset({"v": ("x", np.arange(3))}).to_netcdf(path)
    report = create(paths, tmp_path / "store", on_error="skip", workers=2)
    assert {Path(path).name: "died" in reason for path, reason in report.skipped.items()} == {"f3.nc": True}
    assert report.added == Atlas.open(tmp_path / "store").list_datasets()
    assert report.added == [path.stem for path in paths if path.stem != "f3"]


@pytest.mark.parametrize("options", [{}, {"codec": "lz4", "meta_format": "msgpack"}])
def test_a_failed_replacement_leaves_the_old_store(tmp_path, options):
    good, bad, place = tmp_path / "good.nc", tmp_path / "bad.nc", tmp_path / "store"
    xr.Dataset({"v": ("x", [1, 2])}).to_netcdf(good)
    bad.write_bytes(b"")
    with Atlas.create(place) as store:
        store.create_dataset("old").set_attribute("k", 1)
    with pytest.raises(atlas.AtlasError):
        create([good, bad], place, overwrite=True, **options)
    assert Atlas.open(place).open_dataset("old").get_attribute("k") == 1
    create([good], place, overwrite=True, **options)
    store = Atlas.open(place)
    assert store.list_datasets() == ["good"]
    assert store.info()["codec"] == options.get("codec", "zstd")
    assert len(list(place.glob("atlas.*"))) == 1


def test_a_fill_attribute_stays_one(tmp_path):
    ds = xr.Dataset({"v": ("x", np.zeros(2, "f4"), {"_FillValue": np.float32("nan")}), "w": ("x", np.zeros(2, "f4"))})
    store = Atlas.create(tmp_path)
    store.add_xarray_dataset(ds, "d")
    back = store.open_as_xarray_dataset("d")
    assert [list(back[name].attrs) for name in ("v", "w")] == [["_FillValue"], []]
    assert type(back["v"].attrs["_FillValue"]) is np.float32


def test_names_that_would_be_lost_are_refused(tmp_path):
    store = Atlas.create(tmp_path)
    for ds in (
        xr.Dataset({"v": ([1], np.zeros(2))}),
        xr.Dataset({"v": ("x", np.zeros(2), {"_atlas_dtype": "mine"})}),
        xr.Dataset(attrs={"_pyatlas_coords": "mine"}),
        xr.Dataset(attrs={1: "a"}),
        xr.Dataset({"v": ("x", np.zeros(2), {("a",): 1})}),
    ):
        with pytest.raises(ValueError, match="rename it"):
            store.add_xarray_dataset(ds, "d")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.create_dataset("d").set_attribute("k", "json:not json")
    assert store.open_as_xarray_dataset("d").attrs == {"k": "json:not json"}
