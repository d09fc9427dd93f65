"""Fields of many months written by several processes, and their climatology computed on a dask cluster.

    python examples/climatology_on_a_cluster.py STORE [--years N] [--workers N] [--scheduler ADDRESS]

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

LATITUDES = np.arange(-88.0, 90, 4)
LONGITUDES = np.arange(0.0, 360, 4)


def field(month: pd.Timestamp) -> xr.Dataset:
    """Return the temperatures of a month: a yearly wave, opposite on the hemispheres, and weather."""
    wave = -15 * np.cos(2 * np.pi * (month.month - 1) / 12) * np.sin(np.radians(LATITUDES))
    zonal = 30 * np.cos(np.radians(LATITUDES)) - 5 + wave
    weather = np.random.default_rng(month.toordinal()).normal(size=(LATITUDES.size, LONGITUDES.size))
    cells = (zonal[:, None] + weather).round(2).astype("float32")
    return xr.Dataset(
        {"t": (("latitude", "longitude"), cells, {"units": "degC", "long_name": "air temperature"})},
        {"latitude": LATITUDES, "longitude": LONGITUDES, "time": month},
    )


def fill(place: str, months: list[pd.Timestamp]) -> int:
    """Write some of the months; runs in a worker. Others write theirs at the same time: commits merge."""
    with atlas.Atlas.open(place) as store:
        for month in months:
            field(month).atlas.write(store, f"{month:%Y-%m}")
    return len(months)


def climatology(place: str, months_per_task: int) -> xr.Dataset:
    """Return the mean of every month of the year, in each cell of the grid, lazily."""
    store = atlas.Atlas.open(place, mode="r")
    fields = store.open_as_many_xarray_dataset(
        store.list_datasets(), concat_dim="field", variables=["t", "time"], chunks={"field": months_per_task}
    )
    fields["time"] = fields["time"].compute()  # what to group by must be known
    return fields[["t"]].groupby("time.month").mean(keep_attrs=True)


def main() -> None:
    """Fill the store, compute, and keep the result beside the months."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("store")
    options.add_argument("--years", type=int, default=30)
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--scheduler")
    given = options.parse_args()
    months = list(pd.date_range("1991-01-01", periods=12 * given.years, freq="MS"))
    atlas.Atlas.create(given.store).close()
    cluster = given.scheduler or LocalCluster(
        n_workers=given.workers, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
    )
    with Client(cluster) as client:
        written = client.map(fill, [given.store] * 4, [months[share::4] for share in range(4)])
        print(sum(client.gather(written)), "months written by 4 tasks")
        result = climatology(given.store, months_per_task=max(len(months) // 4, 1)).compute()
    print(result["t"].mean("longitude").sel(latitude=[-60, 0, 60]).to_pandas().astype(float).round(1))
    with atlas.Atlas.open(given.store) as store:
        result.atlas.write(store, "climatology")
    if given.scheduler is None:
        cluster.close()


if __name__ == "__main__":
    main()
