"""The scripts in examples/, run as their users run them."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from objectstore import servers

from atlas import Atlas

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(script: str, *arguments: object, **environment: str) -> str:
    """Run an example, and return what it prints."""
    command = [sys.executable, str(EXAMPLES / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, env=os.environ | environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ── Argo ─────────────────────────────────────────────────────────────────────────────────────


def test_argo_profiles_become_pictures(shared_data, tmp_path):
    for number, path in enumerate(sorted((shared_data / "argo").rglob("*.nc"))):
        if number % 24 == 0:
            (tmp_path / "files" / path.parts[-4]).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / "files" / path.parts[-4])
    count = len(list((tmp_path / "files").rglob("*.nc")))
    pictures = tmp_path / "pictures"
    printed = run("argo_profiles.py", tmp_path / "files", tmp_path / "store", "--pictures", pictures).splitlines()
    store = Atlas.open(tmp_path / "store")
    assert printed[0] == f"{count} profiles added"
    cells = store.read_array_across("TEMP", store.list_datasets())
    assert printed[1].startswith(f"{sum(part.size for part in cells):,} temperatures, ")
    floats = ["13857", "1900857", "2901746", "6901929"]
    expected = ["ts.png", *(f"section_{number}.png" for number in floats)]
    assert [Path(line).name for line in printed[2:]] == expected
    for name in expected:
        pixels = matplotlib.image.imread(pictures / name)[::5, ::5, :3]
        assert len({*map(tuple, pixels.reshape(-1, 3).tolist())}) > 20, "more than a frame"


# ── a climatology ────────────────────────────────────────────────────────────────────────────


def test_processes_fill_one_store_and_a_cluster_computes_its_climatology(moto, monkeypatch):
    """On an object store; in a directory, on a cluster that is there already, in test_dask.py."""
    environment = {
        "AWS_ACCESS_KEY_ID": servers.KEY,
        "AWS_SECRET_ACCESS_KEY": servers.SECRET,
        "AWS_DEFAULT_REGION": servers.REGION,
        "AWS_ENDPOINT_URL": moto.options["endpoint_url"],
    }
    printed = run("climatology_on_a_cluster.py", moto.url, "--years", 3, **environment)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    check_climatology(printed, moto.url)


def check_climatology(printed: str, place: str | Path) -> None:
    assert printed.startswith("36 months written by 4 tasks\n")
    store = Atlas.open(place)
    months = [name for name in store.list_datasets() if name != "climatology"]
    assert sorted(months) == [f"{year}-{month:02d}" for year in (1991, 1992, 1993) for month in range(1, 13)]
    result = store.open_as_xarray_dataset("climatology")["t"]
    assert result.dims == ("month", "latitude", "longitude")
    assert result.attrs["units"] == "degC"
    julys = store.read_array_across_stacked("t", [f"{year}-07" for year in (1991, 1992, 1993)])
    np.testing.assert_allclose(result.sel(month=7), julys.mean(axis=0), rtol=1e-5)


# ── batches ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def batches(monkeypatch, tmp_path):
    """The example as a module that spawned processes can import, and a store of it with 300 fields."""
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(EXAMPLES), os.environ.get("PYTHONPATH", "")]))
    import loading_batches

    loading_batches.fill(str(tmp_path / "store"), 300)
    return loading_batches


METHODS = [method for method in ("fork", "spawn") if method in multiprocessing.get_all_start_methods()]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("source", ["batches_of_a_pool", "batches_of_pytorch"])
def test_workers_give_every_field_once_and_of_one_version(batches, tmp_path, source, method):
    if source == "batches_of_pytorch":
        pytest.importorskip("torch", reason="PyTorch is large: it is not in the test extra")
    fields = batches.Fields(str(tmp_path / "store"), "cells", "target")
    names = fields.names.tolist()
    # Read before anything is forked, with whatever threads and caches that leaves.
    expected = fields.store.read_array_across_stacked("cells", names)
    with Atlas.open(tmp_path / "store") as writer:
        writer.delete_dataset(names[0])
        writer.open_dataset(names[1]).write_array("cells", [0, 0], np.zeros(batches.SHAPE, "f4"))
    writer.compact()
    made = list(getattr(batches, source)(fields, 2, method))
    assert max(len(targets) for _, targets in made) == batches.BATCH
    cells, targets = (np.concatenate(parts) for parts in zip(*made, strict=True))
    order = np.argsort(cells[:, 0, 0])
    np.testing.assert_array_equal(cells[order], expected[np.argsort(expected[:, 0, 0])])
    np.testing.assert_allclose(targets, cells.mean(axis=(1, 2)), atol=1e-5)


def test_a_map_style_dataset_reads_a_batch_at_once(batches, tmp_path, monkeypatch):
    fields = batches.Fields(str(tmp_path / "store"), "cells", "target")
    assert len(fields) == 300
    reads = []
    read = Atlas.read_array_across_stacked
    monkeypatch.setattr(
        Atlas, "read_array_across_stacked", lambda self, *given: reads.append(len(given[1])) or read(self, *given)
    )
    samples = fields.__getitems__(range(40, 60))
    assert reads == [20]
    for index, (cells, target) in zip(range(40, 60), samples, strict=True):
        alone, its_target = fields[index]
        np.testing.assert_array_equal(cells, alone)
        assert (cells.shape, cells.dtype, target) == (batches.SHAPE, np.dtype("f4"), its_target)
        assert cells.flags.writeable, "PyTorch warns of arrays that are not"


def test_the_example_learns(tmp_path):
    printed = run("loading_batches.py", tmp_path / "store", "--fields", 1000, "--start", METHODS[0]).splitlines()
    source = "batches_of_pytorch" if importlib.util.find_spec("torch") else "batches_of_a_pool"
    assert [line.rpartition(" ")[0] for line in printed] == [
        f"epoch {epoch}: 16 batches of {source}, loss" for epoch in range(3)
    ]
    losses = [float(line.rpartition(" ")[2]) for line in printed]
    assert losses[2] < losses[0] / 100
