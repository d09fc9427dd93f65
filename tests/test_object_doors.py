"""The command and the xarray engine on ``s3://`` URLs, as on a disk."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import dask
import numpy as np
import pytest
import s3fs
import xarray as xr
from objectstore import servers
from objectstore.place import kinds

import atlas
from atlas import commitfiles, config
from atlas.cli import main
from atlas.storage import conditions


@pytest.fixture
def environment(s3, monkeypatch) -> None:
    """What the command needs to be told, and no secret among its arguments."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", servers.KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", servers.SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", servers.REGION)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.options["endpoint_url"])
    if not s3.honours_conditions:
        monkeypatch.setenv("ATLAS_SINGLE_WRITER", "1")
    config.settings.cache_clear()
    monkeypatch.setattr(conditions, "_honours", {})  # which server is meant, the environment says too
    # File systems are kept by what they were made with, which the environment is not part of.
    s3fs.S3FileSystem.clear_instance_cache()
    yield
    s3fs.S3FileSystem.clear_instance_cache()
    config.settings.cache_clear()


@pytest.fixture
def run(environment, monkeypatch, capsys):
    """The command in this process: what it prints."""

    def run(*arguments: object, status: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["atlas", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, errors = capsys.readouterr()
        assert ended.value.code == status, errors
        return out

    return run


def station(i: int) -> xr.Dataset:
    time = np.datetime64("2020-01-01", "ns") + np.arange(24) * np.timedelta64(1, "h")
    return xr.Dataset(
        {"t": (("depth", "time"), np.arange(48.0).reshape(2, 24) + i, {"units": "K"})},
        {"time": time, "depth": [0.5, 10.0]},
        {"platform": "buoy", "number": i},
    )


def names(text: str) -> list[str]:
    return text.split()


def test_every_command(s3, run, tmp_path):
    for i in range(4):
        directory = tmp_path / ("more" if i == 3 else "files")
        directory.mkdir(exist_ok=True)
        station(i).to_netcdf(directory / f"s{i}.nc")
    url = s3.url
    run("create", tmp_path / "files", url)
    assert names(run("ls", url)) == ["s0", "s1", "s2"]
    run("append", tmp_path / "more", url)
    assert names(run("ls", url, "--where", "max(t) > 48")) == ["s2", "s3"]
    assert "s3" in run("show", url, "s3")
    assert json.loads(run("info", url, "--json"))["datasets"] == 4
    assert json.loads(run("stats", url, "t", "--json"))
    assert run("read", url, "s3", "t").count("\n") >= 2
    run("cp", url, "s0", "copy")
    run("mv", url, "copy", "moved")
    run("rm", url, "s1")
    run("compact", url)
    assert names(run("ls", url)) == ["s0", "s2", "s3", "moved"]
    assert "no damage found" in run("verify", url)
    assert json.loads(run("gc", url, "--grace", 0, "--json"))["waiting"] == []
    run("export", url, tmp_path / "out")
    with xr.open_dataset(tmp_path / "out" / "moved.nc") as ds:
        np.testing.assert_array_equal(ds["t"], station(0)["t"])
    s3.filesystem().rm_file(f"bucket/{s3.prefix}/atlas.json")
    assert run("ls", url, status=1) == ""
    assert "bring the state" in run("repair", url)
    assert names(run("ls", url)) == ["s0", "s2", "s3", "moved"]


def test_the_engine_and_the_accessor(s3, environment):
    with s3.create() as store:
        for i in range(3):
            station(i).atlas.write(store, f"s{i}")
    with s3.recording() as made:
        ds = xr.open_dataset(s3.url, engine="atlas", group="s1")
    assert kinds(made) == {"GET": 3}  # the root, which has copies of the indexes; of each coordinate its cells
    xr.testing.assert_identical(ds.load(), station(1))
    with s3.recording() as made:
        tree = xr.open_datatree(s3.url, engine="atlas")
    assert kinds(made) == {"GET": 3}, "coordinates of all datasets are read together"
    xr.testing.assert_identical(tree["s2"].to_dataset().load(), station(2))
    lazy = xr.open_dataset(s3.url, engine="atlas", group="s2", chunks={})
    assert dask.is_dask_collection(lazy["t"].data)
    np.testing.assert_array_equal(lazy["t"].sum("time"), station(2)["t"].sum("time"))
    stack = s3.open().open_as_many_xarray_dataset(["s0", "s2"])
    np.testing.assert_array_equal(stack["t"], [station(0)["t"], station(2)["t"]])


def test_coordinates_do_not_wait_for_one_another(moto, monkeypatch):
    """Each is two requests, its index and its cells: eight of each are under way at once."""
    monkeypatch.setattr(commitfiles, "COPIED_BYTES", 0)
    wide = xr.Dataset(coords={f"x{i}": np.arange(3.0) + i for i in range(8)})
    with moto.create() as store:
        wide.atlas.write(store, "wide")
    fresh = moto.open()
    with moto.proxy.gathering(8):
        ds = xr.open_dataset(fresh, engine="atlas", group="wide")
    fresh = moto.open()
    with moto.proxy.gathering(8):
        whole = fresh.open_as_xarray_dataset("wide")
    xr.testing.assert_identical(ds, wide)
    xr.testing.assert_identical(whole, wide)


def test_arrays_do_not_wait_for_one_another(moto, monkeypatch):
    """The indexes of eight are under way at once, and then their cells."""
    monkeypatch.setattr(commitfiles, "COPIED_BYTES", 0)
    with moto.create() as store:
        view = store.create_dataset("wide")
        for number in range(8):
            view.define_array(f"t{number}", "int32", ["x"], [3])
            view.write_array(f"t{number}", [0], np.full(3, number, "int32"))
    names = [f"t{number}" for number in range(8)]
    view = moto.open().open_dataset("wide")
    with moto.proxy.gathering(8):
        found = view.read_arrays(names)
    assert {name: cells.tolist() for name, cells in found.items()} == {f"t{n}": [n] * 3 for n in range(8)}
    for ask in (atlas.Atlas.column_summaries, atlas.Atlas.pruning_index, atlas.Atlas.table):
        store = moto.open()
        with moto.proxy.gathering(8):
            ask(store)


def test_a_lazy_dataset_travels(s3, environment):
    """It is read in another process, with what the environment says there: no secret goes along."""
    with s3.create() as store:
        station(1).atlas.write(store, "s1")
    lazy = xr.open_dataset(s3.url, engine="atlas", group="s1", chunks={})
    sent = pickle.dumps(lazy["t"].data)
    assert servers.SECRET.encode() not in sent
    code = "import pickle, sys; print(float(pickle.load(sys.stdin.buffer).sum().compute(scheduler='threads')))"
    done = subprocess.run([sys.executable, "-c", code], input=sent, capture_output=True, check=True)
    assert float(done.stdout) == float(station(1)["t"].sum())
