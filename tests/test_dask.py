"""Under dask: threads, processes and a real cluster of processes; one thread where there are many already."""

from __future__ import annotations

import pickle
import threading
import time

import dask
import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster
from test_examples import check_climatology, run

from atlas import Atlas, executor

pytestmark = [
    # A cluster's own threads and sockets are its business.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def cluster():
    # Without a dashboard there is a server of one still; it warns, which is an error here, where its port is taken.
    any_port = {"dashboard_address": "127.0.0.1:0"}
    with LocalCluster(
        n_workers=2, threads_per_worker=2, dashboard_address=None, host="127.0.0.1", scheduler_kwargs=any_port
    ) as found:
        yield found


@pytest.fixture
def client(cluster):
    with Client(cluster) as found:
        yield found


@pytest.fixture
def fleet(place):
    with Atlas.create(place) as store:
        for i in range(8):
            cells = np.arange(2000.0).reshape(40, 50) + i
            xr.Dataset({"t": (("y", "x"), cells)}, {"y": np.arange(40)}).atlas.write(
                store, f"d{i}", chunks={"t": [16, 16]}
            )
    return place


def everything(place) -> tuple[xr.DataArray, float]:
    store = Atlas.open(place)
    many = store.open_as_many_xarray_dataset(store.list_datasets(), chunks={"dataset": 3})
    return many["t"], float(sum((np.arange(2000.0) + i).sum() for i in range(8)))


@pytest.mark.parametrize("scheduler", ["sync", "threads", "processes"])
def test_sums_are_right_under_every_scheduler(fleet, scheduler):
    lazy, expected = everything(fleet)
    one = xr.open_dataset(fleet, engine="atlas", group="d3", chunks={})["t"]
    with dask.config.set(scheduler=scheduler, num_workers=2):
        assert dask.compute(lazy.sum(), one.sum()) == (expected, (np.arange(2000.0) + 3).sum())


def test_sums_are_right_on_a_cluster(fleet, client):
    lazy, expected = everything(fleet)
    tree = xr.open_datatree(fleet, engine="atlas", chunks={})
    assert float(lazy.sum()) == expected
    assert float(tree["d7/t"].sum()) == float((np.arange(2000.0) + 7).sum())
    np.testing.assert_array_equal(lazy[2:7, 5, ::7].compute(), everything(fleet)[0].values[2:7, 5, ::7])


def test_workers_see_the_version_that_they_were_sent(fleet, client):
    lazy, expected = everything(fleet)
    with Atlas.open(fleet) as store:
        store.open_dataset("d0").write_array("t", [0, 0], np.zeros((40, 50)))
    assert float(lazy.sum()) == expected
    assert float(everything(fleet)[0].sum()) == expected - np.arange(2000.0).sum()


def inside(place: str) -> tuple[bool, int, float]:
    """In a worker: whether it knows that it is one, how many threads help there, and what it reads."""
    store = Atlas.open(place, executor="threads")
    found = store.read_array_across_stacked("t", store.list_datasets()).sum()
    helping = sum(thread.name == "atlas" for thread in threading.enumerate())
    return executor.is_nested(), helping, float(found)


def test_a_worker_reads_with_one_thread(fleet, client):
    assert client.run(lambda: executor._pool.is_warm) == dict.fromkeys(client.scheduler_info()["workers"], False)
    for nested, helping, found in client.gather(client.map(inside, [str(fleet)] * 4, pure=False)):
        assert (nested, helping) == (True, 0)
        assert found == everything(fleet)[1]


def add(store: Atlas, first: int) -> None:
    for i in range(first, first + 5):
        xr.Dataset({"t": ("x", np.full(3, i))}).atlas.write(store, f"new{i:02d}")
    store.flush()


def test_writers_in_several_processes_fill_one_store(fleet, client):
    store = Atlas.open(fleet)
    client.gather(client.map(add, [store] * 4, range(0, 20, 5)))
    store.refresh()
    names = sorted(name for name in store.list_datasets() if name.startswith("new"))
    assert names == [f"new{i:02d}" for i in range(20)]
    assert store.read_array_across_stacked("t", names)[:, 0].tolist() == list(range(20))
    assert store.verify().ok


def test_a_dataset_is_written_from_arrays_of_the_cluster(place, client):
    lazy = xr.Dataset({"v": (("t", "x"), dask.array.arange(4000, chunks=500).reshape(40, 100))})
    with Atlas.create(place) as store:
        lazy.atlas.write(store, "d")
    np.testing.assert_array_equal(Atlas.open(place).open_dataset("d").read_array("v").ravel(), np.arange(4000))


def test_the_example_runs_on_a_cluster_that_is_there(cluster, place):
    printed = run("climatology_on_a_cluster.py", place, "--years", 3, "--scheduler", cluster.scheduler_address)
    check_climatology(printed, place)


def test_what_travels_is_small(place):
    with Atlas.create(place) as store:
        names = [f"sensor-{i:05d}" for i in range(20_000)]
        store.create_datasets(names, {"t": {"dims": ["x"], "data": np.zeros((20_000, 4), "f4")}})
    lazy = Atlas.open(place).open_as_many_xarray_dataset(names, chunks={"dataset": 1000})["t"]
    (array,) = (value for key, value in dict(lazy.data.dask).items() if str(key).startswith("original"))
    assert len(pickle.dumps(array)) < 200_000, "ordinals, not names"


def test_threads_of_another_pool_share_the_cores():
    running, most, lock, together = 0, 0, threading.Lock(), threading.Barrier(1)

    def task(job, low, high):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait(60)
        time.sleep(0.02)
        with lock:
            running -= 1

    def read():
        executor.run(task, None, [(i, i + 1) for i in range(12)], "threads", 4)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
        time.sleep(0.005)
    for thread in threads:
        thread.join()
    assert most <= 4 + 3, "four that read, and the helpers of the first"
    most, together = 0, threading.Barrier(4)
    read()
    assert most == 4, "alone, a read has all of them again"
