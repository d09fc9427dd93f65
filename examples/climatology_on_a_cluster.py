"""A fleet written by several processes, and its climatology computed on a dask cluster.

    python examples/climatology_on_a_cluster.py STORE [--stations N] [--workers N] [--scheduler ADDRESS]

Every worker opens the store by its place, so STORE must be one that all of them reach: a directory of a shared file
system, or a URL. Without ``--scheduler`` a cluster of processes is started on this machine.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
import xarray as xr
from distributed import Client, LocalCluster

import atlas

DAYS = pd.date_range("2020-01-01", "2021-12-31")


def station(number: int) -> xr.Dataset:
    """Return the temperatures of one station: a yearly wave, colder the further north."""
    latitude = -60 + 120 * (number * 0.618034 % 1)
    wave = 10 * np.sin(2 * np.pi * (DAYS.day_of_year.values - 80) / 365.25)
    cells = (30 - abs(latitude) / 3 + np.sign(latitude) * wave).astype("float32")
    return xr.Dataset({"t": ("time", cells.round(2), {"units": "degC"})}, {"time": DAYS}, {"latitude": latitude})


def fill(place: str, numbers: range) -> int:
    """Write some of the stations; runs in a worker. Others write theirs at the same time: commits merge."""
    with atlas.Atlas.open(place) as store:
        for number in numbers:
            station(number).atlas.write(store, f"station_{number:05d}")
    return len(numbers)


def climatology(place: str, stations_per_task: int) -> xr.Dataset:
    """Return the mean of every month in bands of latitude, lazily."""
    store = atlas.Atlas.open(place, mode="r")
    fleet = store.open_as_many_xarray_dataset(
        store.list_datasets(), concat_dim="station", variables=["t"], chunks={"station": stations_per_task}
    )
    bands = fleet["t"].groupby(latitude=xr.groupers.BinGrouper(np.arange(-60, 61, 30), right=False)).mean()
    return bands.groupby("time.month").mean().to_dataset(name="t")


def main() -> None:
    """Fill the store, compute, and keep the result beside the stations."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("store")
    options.add_argument("--stations", type=int, default=200)
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--scheduler")
    given = options.parse_args()
    atlas.Atlas.create(given.store).close()
    cluster = given.scheduler or LocalCluster(
        n_workers=given.workers, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
    )
    with Client(cluster) as client:
        shares = [range(first, given.stations, 4) for first in range(4)]
        print(sum(client.gather(client.map(fill, [given.store] * 4, shares))), "stations written by 4 tasks")
        result = climatology(given.store, stations_per_task=max(given.stations // 4, 1)).compute()
    print(result["t"].round(1).values)
    with atlas.Atlas.open(given.store) as store:
        result.drop_vars("latitude_bins").atlas.write(store, "climatology")
    if given.scheduler is None:
        cluster.close()


if __name__ == "__main__":
    main()
