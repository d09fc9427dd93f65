from __future__ import annotations

import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from itertools import islice
from pathlib import Path

import h5py
import netCDF4
import numpy as np
import pytest
import xarray as xr
import zarr

import atlas
from atlas import Atlas
from atlas.cli import main
from atlas.errors import StorageError
from atlas.ingest import append, create, find_sources
from atlas.ingest.journal import Journal
from atlas.ingest.pool import as_many_as_pay


def command(*arguments: object, check: bool = True) -> subprocess.CompletedProcess:
    """Run the command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(), redirect_stdout(out), redirect_stderr(err):
        warnings.simplefilter("default")
        patch.setattr(sys, "argv", ["atlas", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    done = subprocess.CompletedProcess(arguments, ended.value.code, out.getvalue(), err.getvalue())
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture
def netcdf(tmp_path: Path) -> Path:
    directory = tmp_path / "nc"
    (directory / "sub").mkdir(parents=True)
    for i in range(5):
        ds = xr.Dataset({"t": ("x", np.arange(3.0) + i)}, {"x": [1, 2, 3]}, {"i": i})
        ds.to_netcdf(directory / ("sub" if i % 2 else ".") / f"f{i}.nc")
    return directory


def test_all_argo_files_go_in_and_come_back_equal(shared_data, place):
    files = sorted((shared_data / "argo").rglob("*.nc"))
    done = command("create", shared_data / "argo", place)
    assert f"{len(files)} datasets added, 0 files skipped" in done.stdout
    store = Atlas.open(place)
    assert len(store) == len(files) == 834
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in files[::8]:
            with xr.open_dataset(path) as source:
                back = store.open_as_xarray_dataset(path.stem)
                xr.testing.assert_identical(source.load(), back)
                assert list(back.variables) == [*source.coords, *source.data_vars]
                assert [v.dtype for v in back.variables.values()] == [source[n].dtype for n in back.variables]
    names = store.list_datasets()
    profiles = store.read_array_across("TEMP", names)
    assert sum(profile is not None for profile in profiles) > 800
    shapes = [None if profile is None else profile.shape for profile in profiles]
    common = max(set(shapes) - {None}, key=shapes.count)
    equal = [name for name, shape in zip(names, shapes, strict=True) if shape == common]
    stacked = store.read_array_across_stacked("TEMP", equal)
    assert stacked.shape == (len(equal), *common)
    for row, name in zip(stacked, equal, strict=True):
        np.testing.assert_array_equal(row, profiles[names.index(name)])


@pytest.mark.parametrize("name", ["eraint_uvz.nc", "basin_mask.nc"])
def test_the_grids_come_back_identical(shared_data, place, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", xr.SerializationWarning)  # a NaN fill for packed integers
        with xr.open_dataset(shared_data / name) as source:
            source.load()
    with Atlas.create(place) as store:
        store.add_xarray_dataset(source, "grid")
    xr.testing.assert_identical(Atlas.open(place).open_as_xarray_dataset("grid"), source)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_directory_becomes_a_store(netcdf, place, workers):
    seen = []
    report = create(netcdf, place, workers=workers, progress=lambda *args: seen.append(args))
    assert report.added == ["f0", "f2", "f4", "f1", "f3"]
    assert seen[-1] == (5, 5, "f3")
    assert Atlas.open(place).to_xarray("f3")["t"].values.tolist() == [3, 4, 5]


def test_files_that_cannot_be_read(netcdf, place):
    (netcdf / "broken.nc").write_bytes(b"not a netcdf file")
    with pytest.raises(atlas.AtlasError, match=r"broken\.nc"):
        create(netcdf, place)
    with pytest.raises(atlas.StoreNotFound):
        Atlas.open(place)
    report = create(netcdf, place, on_error="skip")
    assert len(report.added) == 5
    assert [Path(path).name for path in report.skipped] == ["broken.nc"]


def test_names_never_collide_silently(netcdf, place):
    (netcdf / "sub" / "f0.nc").write_bytes((netcdf / "f0.nc").read_bytes())
    with pytest.raises(atlas.DatasetAlreadyExists, match="f0"):
        create(netcdf, place)
    names = create(netcdf, place, name="path").added
    assert names == ["f0", "f2", "f4", "sub.f0", "sub.f1", "sub.f3"]
    assert create(netcdf, place, overwrite=True, name="{parent}-{stem}").added[-1] == "sub-f3"
    assert create(netcdf, place, overwrite=True, name=lambda path: f"{path.parent.name}{path.stem}").added[0] == "ncf0"
    with pytest.raises(atlas.InvalidArgument, match="name= made 1"):
        create(netcdf, place, overwrite=True, name=lambda path: 1)
    with pytest.raises(atlas.InvalidArgument, match="bad name"):
        create(netcdf, place, overwrite=True, name="{nonsense}")
    with pytest.raises(atlas.DatasetAlreadyExists):
        create(netcdf, place, overwrite=True, name="always")


def test_adding_to_a_store(netcdf, place):
    create(netcdf / "sub", place)
    with pytest.raises(atlas.DatasetAlreadyExists, match="f1"):
        append(netcdf, place)
    assert Atlas.open(place).list_datasets() == ["f1", "f3"]
    report = append(netcdf, place, existing="skip")
    assert (report.added, report.existing, report.skipped) == (["f0", "f2", "f4"], ["f1", "f3"], {})
    xr.Dataset({"t": ("x", [9.0])}, attrs={"new": 1}).to_netcdf(netcdf / "sub" / "f1.nc")
    (netcdf / "sub" / "f3.nc").write_bytes(b"broken")
    report = append(netcdf / "sub", place, existing="replace", on_error="skip")
    assert (report.added, report.replaced) == (["f1"], ["f1"])
    assert list(report.skipped) == [str(netcdf / "sub" / "f3.nc")]
    store = Atlas.open(place)
    assert store.list_datasets() == ["f3", "f0", "f2", "f4", "f1"]
    assert store.open_dataset("f1").attributes()["new"] == 1
    assert store.to_xarray("f1")["t"].values.tolist() == [9.0]
    assert store.to_xarray("f3")["t"].values.tolist() == [3, 4, 5], "what could not be read replaces nothing"


@pytest.mark.filterwarnings("ignore")  # Zarr has remarks about metadata of version 3
@pytest.mark.parametrize("version", [2, 3])
def test_zarr_groups_and_hdf5_files(tmp_path, place, version):
    ds = xr.Dataset({"t": (("y", "x"), np.arange(6.0).reshape(2, 3), {"units": "K"})}, {"x": [1, 2, 3]}, {"k": 1})
    ds["t"].encoding["chunks"] = (1, 3)
    ds.to_zarr(tmp_path / "in" / "a.zarr", zarr_format=version)
    ds.to_zarr(tmp_path / "in" / "tree.zarr", group="one/two", zarr_format=version)
    ds.to_netcdf(tmp_path / "in" / "b.h5")
    report = create(tmp_path / "in", place, name="path", chunks="stored")
    assert report.added == ["a", "b", "tree.one.two"]
    store = Atlas.open(place)
    for name in report.added:
        xr.testing.assert_identical(store.to_xarray(name).compute(), ds)
    assert store.open_dataset("a").array_meta("t")["chunk_shape"] == [1, 3]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("version", "consolidated"), [(2, True), (2, False), (3, True), (3, False)])
def test_text_and_times_of_zarr_groups(tmp_path, place, version, consolidated):
    ds = xr.Dataset(
        {
            "name": ("x", np.array(["a", "ü", ""], object)),
            "time": ("x", np.array(["2020-01-01", "NaT", "2021-01-01"], "M8[ns]")),
            "température": ("x", np.array([0.5, np.nan, 2], "f4"), {"units": "K"}),
        },
        {"x": [1, 2, 3]},
    )
    ds["température"].encoding = {"dtype": "i2", "scale_factor": 0.5, "_FillValue": -1}
    ds.to_zarr(tmp_path / "a.zarr", zarr_format=version, consolidated=consolidated)
    create(tmp_path / "a.zarr", place)
    with xr.open_dataset(tmp_path / "a.zarr", engine="zarr", consolidated=consolidated) as source:
        xr.testing.assert_identical(Atlas.open(place).to_xarray("a").compute(), source.load())
    with xr.open_dataset(place, engine="atlas") as found:
        xr.testing.assert_identical(found, source)
    for form in ("netcdf", "zarr"):
        written = atlas.export(place, tmp_path / form, format=form).written["a"]
        xr.testing.assert_identical(xr.load_dataset(written, engine=None if form == "netcdf" else form), source)


@pytest.mark.filterwarnings("ignore")
def test_groups_within_a_zarr_group_are_found_once(tmp_path, place):
    """Whatever they are called, and whatever pattern finds them: each group with arrays of its own is a dataset."""
    root = zarr.open_group(tmp_path / "in" / "all.zarr", mode="w")
    for group, name in ((root, "a"), (root.create_group("inner.zarr"), "b"), (root.create_group("plain"), "c")):
        array = group.create_array(name, shape=(8,), chunks=(2,), shards=(4,), dtype="f4", dimension_names=["x"])
        array[:] = np.arange(8)
    for pattern in (None, "*", ["*.zarr", "*"]):
        report = create(tmp_path / "in", place, pattern, overwrite=True, name="path", on_error="skip")
        assert report.added == ["all", "all.inner", "all.plain"]
        assert report.skipped == {}, "what a group consists of is no file"
    found = {name: Atlas.open(place).open_dataset(name).list_arrays() for name in report.added}
    assert found == {"all": ["a"], "all.inner": ["b"], "all.plain": ["c"]}


def test_groups_that_are_not_read_are_told(tmp_path, place):
    with netCDF4.Dataset(tmp_path / "f.nc", "w") as nc:
        nc.createDimension("x", 2)
        nc.createVariable("t", "f4", ("x",))[:] = 1
        nc.createGroup("inner").createVariable("deep", "f4", ("x",))[:] = 2
    assert "inner" in create(tmp_path, place).remarks[str(tmp_path / "f.nc")]
    report = append(tmp_path, place, existing="replace", reading={"group": "inner"})
    assert (report.remarks, Atlas.open(place).open_dataset("f").list_arrays()) == ({}, ["deep"])


def test_hdf5_files_that_no_netcdf_library_wrote(tmp_path, place):
    with h5py.File(tmp_path / "plain.h5", "w") as file:
        file["t"] = np.arange(6, dtype="i2").reshape(2, 3)
        file["t"].attrs["units"] = "K"
        file["label"] = "text"
    create(tmp_path, place)
    view = Atlas.open(place).open_dataset("plain")
    assert view.read_array("t").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert view.get_array_attribute("t", "units") == "K"
    assert view.read_array("label")[()] == "text"


def test_the_command_line(netcdf, place):
    assert "5 datasets added, 0 files skipped" in command("create", netcdf, place).stdout
    assert command("ls", place).stdout.split() == ["f0", "f2", "f4", "f1", "f3"]
    assert json.loads(command("ls", place, "f[12]", "--json").stdout) == ["f2", "f1"]
    assert json.loads(command("ls", place, "f1", "--long", "--json").stdout)[0]["arrays"] == 2
    shown = json.loads(command("show", place, "f1", "--json").stdout)
    assert shown["variables"]["t"]["statistics"] == {"row_count": 3, "null_count": 0, "min": 1.0, "max": 3.0}
    assert shown["attributes"]["i"] == 1
    text = command("show", place, "f1").stdout
    assert "double" not in text
    assert "float64 t(x) ;" in text
    assert "x = 3 ;" in text
    assert json.loads(command("info", place, "--json").stdout)["datasets"] == 5
    assert max(map(len, command("info", place).stdout.splitlines())) <= 80
    command("rm", place, "f0", "f1")
    assert command("ls", place).stdout.split() == ["f2", "f4", "f3"]
    command("compact", place)
    assert Atlas.open(place).row_slots() == 3
    assert command("--version").stdout.startswith("atlas ")


def test_honest_exit_codes(netcdf, place):
    missing = command("ls", place, check=False)
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr.startswith("atlas: there is no Atlas store at")
    assert len(missing.stderr.splitlines()) == 1
    assert command("ls", check=False).returncode == 2
    command("create", netcdf, place)
    assert command("create", netcdf, place, check=False).returncode == 1
    before = command("ls", place).stdout
    assert command("rm", place, "f2", "nope", check=False).returncode == 1
    assert command("ls", place).stdout == before, "rm is all or nothing"
    (netcdf / "broken.nc").write_bytes(b"x")
    skipped = command("create", netcdf, place, "--overwrite", "--on-error", "skip", check=False)
    assert skipped.returncode == 1
    assert "broken.nc" in skipped.stderr


def interrupted(*arguments: object) -> subprocess.CompletedProcess:
    """Run a command, and press Ctrl-C once it has read some files; it waits for its log to be read."""
    with tempfile.TemporaryDirectory() as directory:
        os.mkfifo(log := os.path.join(directory, "log"))
        process = subprocess.Popen(
            [sys.executable, "-m", "atlas", *map(str, arguments), "--log", log],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # Where the tests run in the background, the interrupt is ignored, and children would inherit that.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        with open(log) as lines:
            fcntl.fcntl(lines, fcntl.F_SETPIPE_SZ, 4096)
            assert sum("added" in line for line in islice(lines, 50)) > 40
            os.killpg(process.pid, signal.SIGINT)
            assert "failed" in lines.read()
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Files enough that reading them takes a while."""
    directory = tmp_path / "many"
    directory.mkdir()
    for i in range(300):
        with netCDF4.Dataset(directory / f"f{i:03d}.nc", "w", format="NETCDF3_CLASSIC") as nc:
            nc.createDimension("x", i % 5)
            nc.createVariable("t", "f8", ("x",))[:] = i
    return directory


def test_ctrl_c_leaves_no_store_and_the_next_run_goes_on(many, place):
    done = interrupted("create", many, place)
    assert (done.returncode, len(done.stderr.splitlines())) == (130, 1), done.stderr
    with pytest.raises(atlas.StoreNotFound):
        Atlas.open(place)
    assert not place.exists()
    report = create(many, place)
    assert 0 < len(report.resumed) < 300
    assert report.added == Atlas.open(place).list_datasets() == [path.stem for path in sorted(many.iterdir())]
    assert set(os.listdir(place.parent)) == {"many", "store"}, "no journal is left"


def test_ctrl_c_leaves_a_store_as_it_was(many, netcdf, place):
    create(netcdf / "sub", place)
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}

    done = interrupted("append", many, place)
    assert done.returncode == 130, done.stderr
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before
    assert append(many, place, workers=1).resumed
    assert len(Atlas.open(place)) == 302


KILLED = """
import os, sys, atlas
def killing(done, total, name):
    if done == 150:
        os.kill(os.getpid(), 9)
getattr(atlas, sys.argv[1])(sys.argv[2], sys.argv[3], progress=killing, workers=1 + (sys.argv[1] == "create"))
"""


@pytest.mark.parametrize("what", ["create", "append"])
def test_an_ingest_that_was_killed_goes_on_where_it_was(many, netcdf, place, what):
    if what == "append":
        create(netcdf, place)
    done = subprocess.run([sys.executable, "-c", KILLED, what, many, place])
    assert done.returncode == -signal.SIGKILL
    changed = many / "f003.nc"
    xr.Dataset({"t": ("x", np.arange(9.0))}).to_netcdf(changed)
    log = place.parent / "log"
    report = getattr(atlas, what)(many, place, log=log, workers=1)
    assert len(report.resumed) >= 149, "all but the one that changed"
    assert "f003" not in report.resumed
    store = Atlas.open(place)
    assert len(store) == 300 + 5 * (what == "append")
    assert store.read_array_across("t", ["f003"])[0].tolist() == list(range(9))
    assert store.read_array_across("t", ["f004", "f006"])[1].tolist() == [6.0]
    assert store.verify().ok
    assert log.read_text().count("\tadded\t") == 300


def test_a_journal_that_cannot_be_removed_is_no_failure(many, place, monkeypatch):
    """What was read is committed; and who comes next is not told that another ingest is at work."""

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(Path, "unlink", fail)
        added = atlas.create(many, place).added
    assert Atlas.open(place).list_datasets() == added
    assert atlas.append(many, place, existing="skip").added == []


def test_remarks_outlive_an_interruption(many, place):
    with netCDF4.Dataset(many / "f000.nc", "w") as nc:
        nc.createDimension("x", 2)
        nc.createVariable("t", "f8", ("x",))[:] = 1
        nc.createGroup("inner").createVariable("deep", "f4", ("x",))[:] = 2

    def stop(done: int, total: int, name: str) -> None:
        if done == 150:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        create(many, place, workers=1, progress=stop)
    report = create(many, place, workers=1)
    assert "f000" in report.resumed
    assert "inner" in report.remarks[str(many / "f000.nc")]


def test_as_many_processes_read_as_their_start_is_worth(many, tmp_path):
    few = find_sources(many)
    assert [as_many_as_pay(few, workers) for workers in (1, 2, 4)] == [1, 1, 1]
    assert [as_many_as_pay(few * 10, workers) for workers in (1, 2, 4, 8)] == [1, 2, 4, 4]
    with open(tmp_path / "large.nc", "wb") as file:
        file.truncate(130 << 20)
    assert as_many_as_pay(find_sources(tmp_path / "large.nc"), 8) == 3


def test_a_log_that_cannot_be_written_leaves_no_store(netcdf, place, tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        create(netcdf, place, log=tmp_path / "nowhere" / "log")
    assert not place.exists()
    create(netcdf, place)


def test_a_journal_of_other_choices_or_half_written_is_not_used(many, place):
    journal = place.parent / "store.ingest"

    def stop(done: int, total: int, name: str) -> None:
        if done == 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        create(many, place, progress=stop, workers=1)
    kept = journal.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        create(many, place, progress=stop, workers=1, chunks={"x": 2})
    assert create(many, place, workers=1, chunks={"x": 2}).resumed
    journal.write_bytes(kept)
    assert not create(many, place, workers=1, overwrite=True, chunks={"x": 2}).resumed
    journal.write_bytes(kept[:-10])
    assert 0 < len(create(many, place, workers=1, overwrite=True).resumed) < 100
    journal.write_bytes(kept[:3000] + bytes([kept[3000] ^ 1]) + kept[3001:])
    assert create(many, place, workers=1, overwrite=True).added == Atlas.open(place).list_datasets()
    assert Atlas.open(place).verify().ok


def test_two_ingests_do_not_share_a_journal(netcdf, place):
    first = Journal(place.parent / "store.ingest", "")
    with pytest.raises(StorageError, match="another ingest"):
        create(netcdf, place)
    first.leave()
    assert len(create(netcdf, place).added) == 5
    with pytest.raises(StorageError, match="no-resume"):
        append(netcdf, place, existing="skip", journal=place / "atlas.json" / "journal")


def test_output_that_cannot_be_written(netcdf, place):
    create(netcdf, place, workers=1)
    with Atlas.open(place) as store:
        store.create_dataset("ü" * 10).set_attribute("k", "ü")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "atlas", "ls", place], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    narrow = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-m", "atlas", "ls", place], capture_output=True, text=True, env=narrow)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "\\xfc" * 10)


def test_a_reader_of_the_output_that_stops_early(place):
    with Atlas.create(place) as store:
        for i in range(20_000):
            store.create_dataset(f"dataset_{i:06d}")
    listing = subprocess.Popen(
        [sys.executable, "-m", "atlas", "ls", place], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert listing.stdout.readline() == b"dataset_000000\n"
    listing.stdout.close()
    listing.stdout = None
    assert listing.communicate()[1] == b""


def test_show_hides_what_is_internal_and_names_coordinates(netcdf, place):
    create(netcdf, place, workers=1)
    text = command("show", place, "f0").stdout
    assert "int64 x(x) ; // coordinate" in text
    assert "_atlas" not in text
    assert json.loads(command("show", place, "f0", "--json").stdout)["coordinates"] == ["x"]


def test_warnings_are_one_line_each_and_not_repeated(tmp_path, place):
    for i, data in enumerate((np.zeros(2), np.array(["a", "b"]), np.array(["c", "d"]))):
        xr.Dataset({"v": ("x", data)}).to_netcdf(tmp_path / f"f{i}.nc")
    lines = command("create", tmp_path, place).stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("atlas: warning: type mismatch for array 'v'")


def test_a_file_that_is_no_journal_is_left_alone(netcdf, place):
    notes = place.parent / "notes.txt"
    notes.write_text("mine")
    with pytest.raises(StorageError, match="no journal of an ingest"):
        create(netcdf, place, journal=notes)
    assert notes.read_text() == "mine"
    assert not place.exists()


@pytest.mark.parametrize("left", [b"atlas ing", bytes(4096)], ids=["half a head", "zeros"])
def test_a_journal_that_a_power_cut_spoilt_is_begun_anew(netcdf, place, left):
    journal = place.parent / "store.ingest"
    journal.write_bytes(left)
    assert len(create(netcdf, place).added) == 5
    assert not journal.exists()


def test_no_length_in_a_journal_is_believed(tmp_path):
    """A flipped bit must not ask for more memory than there is."""
    journal = Journal(tmp_path / "journal", "")
    list(journal.batches())
    for length in (1 << 40, 1 << 62, (1 << 64) - 1):
        with open(tmp_path / "journal", "ab") as file:
            file.write(length.to_bytes(8, "little") + bytes(16))
        assert list(journal.batches()) == []
    journal.leave()
