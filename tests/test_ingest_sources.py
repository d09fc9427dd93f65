"""What an ingest cannot look at, cannot read, or reads in part: it is told of, never passed over."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr

import atlas
from atlas import Atlas, ingest
from atlas.ingest import create, find_sources


@pytest.fixture
def files(tmp_path: Path) -> Path:
    directory = tmp_path / "files"
    (directory / "sub").mkdir(parents=True)
    for name in ("f0", "f1", "sub/f2"):
        xr.Dataset({"t": ("x", np.arange(3.0))}).to_netcdf(directory / f"{name}.nc")
    return directory


@pytest.mark.parametrize("what", ["directory", "link", "group"])
def test_what_cannot_be_looked_at_is_told(files, place, tmp_path, monkeypatch, what):
    bad = files / {"directory": "sub", "link": "gone.nc", "group": "group.zarr"}[what]
    scandir = os.scandir

    def denied(path: Any = ".") -> Any:
        if Path(path) == bad:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    if what == "directory":
        monkeypatch.setattr(os, "scandir", denied)
    elif what == "link":
        bad.symlink_to("nowhere.nc")
    else:
        bad.mkdir()
        (bad / "zarr.json").write_text('{"node_type": ')
    with pytest.raises(atlas.AtlasError, match=f"{bad}.*on_error"):
        create(files, place)
    assert not place.exists()
    report = create(files, place, on_error="skip", log=tmp_path / "log")
    assert list(report.skipped) == [str(bad)]
    assert report.added == ["f0", "f1", *([] if what == "directory" else ["f2"])]
    assert f"skipped\t{bad.stem}\t{bad}\t" in (tmp_path / "log").read_text()


def test_a_file_that_goes_away_is_one_that_cannot_be_read(files, place, monkeypatch):
    gone = files / "f1.nc"

    def find(*arguments: Any) -> Any:
        found = find_sources(*arguments)
        gone.unlink()
        return found

    monkeypatch.setattr(ingest, "find_sources", find)
    report = create(files, place, on_error="skip")
    assert (report.added, list(report.skipped)) == (["f0", "f2"], [str(gone)])
    assert "No such file" in report.skipped[str(gone)]


def test_paths_that_are_no_text_can_be_told(tmp_path, place):
    files = tmp_path / "odd\udce9"
    for name in ("a", "c\udce9"):
        xr.Dataset({"t": ("x", [1.0, 2.0])}).to_zarr(files / f"{name}.zarr", consolidated=False)
    report = create(files, place, on_error="skip", log=tmp_path / "log")
    assert report.added == ["a"]
    assert list(report.skipped) == [str(files / "c\udce9.zarr")]
    assert (tmp_path / "log").read_text().count("odd\\udce9/") == 2


def test_variables_that_the_reader_leaves_out_are_told(tmp_path, place):
    for i in range(2):
        with h5py.File(tmp_path / f"f{i}.h5", "w") as file:
            file["odd"], file["plain"] = np.zeros(2, "V5"), [1, 2]
    report = create(tmp_path, place)
    assert [remark.partition(" is")[0] for remark in report.remarks.values()] == ["variable 'odd'"] * 2
    assert Atlas.open(place).to_xarray("f1")["plain"].values.tolist() == [1, 2]


def test_names_in_capitals_are_taken_unless_a_pattern_is_given(files, place):
    (files / "f0.nc").rename(files / "F0.NC")
    assert create(files, place).added == ["F0", "f1", "f2"]
    assert [source.name for source in find_sources(files, "*.nc")] == ["f1", "f2"]


def test_chunks_for_what_no_file_has_are_told(files, place):
    with pytest.warns(UserWarning, match="'tiem', and no file has such dimension"):
        create(files, place, chunks={"x": 2, "tiem": 5})
    with pytest.warns(UserWarning, match="'T', and no file has such array"):
        create(files, place, chunks={"T": [2]}, overwrite=True)
    assert Atlas.open(place).open_dataset("f1").array_meta("t")["chunk_shape"] == [3]


@pytest.mark.parametrize(("given", "kept"), [({"time": 24}, [24, 4]), ({"time": 1}, [1, 4]), (None, [3, 4])])
def test_chunks_along_what_is_empty_so_far_are_those_asked_for(tmp_path, place, given, kept):
    (tmp_path / "in").mkdir()
    empty = xr.Dataset({"t": (("time", "x"), np.zeros((0, 4), "f4"))})
    for i in range(3):
        empty.to_netcdf(tmp_path / "in" / f"f{i}.nc", unlimited_dims=["time"])
    create(tmp_path / "in", place, chunks=given)
    for name in ("f0", "f2"):
        view = Atlas.open(place).open_dataset(name)
        view.append("t", np.ones((3, 4), "f4"))
        assert view.array_meta("t")["chunk_shape"] == kept


@pytest.mark.parametrize("count", [1, 2])
def test_files_on_which_the_netcdf_library_crashes_are_read_by_another(tmp_path, place, count):
    for i in range(count):
        with h5py.File(tmp_path / f"f{i}.h5", "w") as file:
            file["half"] = np.arange(3, dtype="f2") + i
            file["plain"] = [1, 2]
    assert len(create(tmp_path, place).added) == count
    ds = Atlas.open(place).to_xarray("f0")
    assert (ds["half"].dtype, ds["half"].values.tolist()) == (np.float16, [0, 1, 2])
