from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import atlas
from atlas import Atlas
from atlas.ingest import create


def command(*arguments: object, check: bool = True) -> subprocess.CompletedProcess:
    done = subprocess.run([sys.executable, "-m", "atlas", *map(str, arguments)], capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
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


def test_ctrl_c_leaves_no_store(shared_data, place):
    process = subprocess.Popen(
        [sys.executable, "-m", "atlas", "create", str(shared_data / "argo"), str(place)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    time.sleep(3)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    with pytest.raises(atlas.StoreNotFound):
        Atlas.open(place)


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
