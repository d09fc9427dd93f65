"""Argo floats from their files to pictures: a T–S diagram of all profiles, and a section along each float's way.

    python examples/argo_profiles.py FILES STORE [--pictures DIRECTORY]

FILES is a directory of Argo profile files (``R13857_001.nc``, one profile or two each), at any depth. STORE is made
from them, or gets those that it does not have yet. The pictures are ``ts.png`` and ``section_<float>.png``.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # a picture needs no screen

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

import atlas

GOOD = ("1", "2")  # flags of Argo's reference table 2: good, and probably good
STEP = 10  # dbar between the levels of a section


def stored(files: Path, place: Path) -> atlas.Atlas:
    """Return the store, with every file in it; what is in it already is not read again."""
    report = atlas.append(files, place, existing="skip") if place.exists() else atlas.create(files, place)
    print(len(report.added), "profiles added")
    return atlas.Atlas.open(place, mode="r")


def measured(store: atlas.Atlas, names: list[str]) -> xr.Dataset:
    """Return pressure, temperature and salinity of many profiles as (profile, level); what is not good is NaN."""
    wanted = ["PRES", "TEMP", "PSAL"]
    many = store.open_as_many_xarray_dataset(
        names,
        concat_dim="profile",
        variables=[*wanted, *(f"{name}_QC" for name in wanted), "JULD", "PLATFORM_NUMBER"],
        on_shape="pad",
        on_missing="fill",  # the oldest floats measured no salinity
        chunks={},
    )
    # A file's second profile is of the same cycle, sampled otherwise: the first will do.
    many = many.isel(N_PROF=0).load()
    good = {name: many[name].where(text(many[f"{name}_QC"]).isin(GOOD)) for name in wanted}
    places = {"time": many["JULD"], "platform": text(many["PLATFORM_NUMBER"])}
    return many[wanted].assign(good).reset_coords(drop=True).assign_coords(places)


def text(cells: xr.DataArray) -> xr.DataArray:
    """Return cells of characters as text: files have them as bytes, filled up with spaces."""
    plain = [cell.decode().strip() if isinstance(cell, bytes) else "" for cell in cells.values.ravel()]
    return cells.copy(data=np.array(plain).reshape(cells.shape))


def density(salinity: np.ndarray, temperature: np.ndarray) -> np.ndarray:
    """Return what sea water weighs at the surface more than 1000 kg/m³ (UNESCO 1983, EOS-80)."""
    fresh = [6.536332e-9, -1.120083e-6, 1.001685e-4, -9.095290e-3, 6.793952e-2, 999.842594]
    linear = [5.3875e-9, -8.2467e-7, 7.6438e-5, -4.0899e-3, 8.24493e-1]
    rooted = [-1.6546e-6, 1.0227e-4, -5.72466e-3]
    salt = np.polyval(linear, temperature) + np.polyval(rooted, temperature) * salinity**0.5 + 4.8314e-4 * salinity
    return np.polyval(fresh, temperature) + salinity * salt - 1000


def ts_diagram(profiles: xr.Dataset) -> plt.Figure:
    """Return temperature over salinity, coloured by pressure, with lines of equal density."""
    cells = profiles.stack(cell=("profile", "N_LEVELS")).dropna("cell", subset=["TEMP", "PSAL", "PRES"])
    cells = cells.sortby("PRES")  # deep water is drawn last: it lies in the narrowest part of the diagram
    figure, axes = plt.subplots(figsize=(7, 6), layout="constrained")
    points = axes.scatter(cells["PSAL"], cells["TEMP"], 4, cells["PRES"], cmap="viridis_r", edgecolors="none")
    figure.colorbar(points, label="pressure [dbar]").ax.invert_yaxis()
    salinity, temperature = np.linspace(*axes.get_xlim(), 100), np.linspace(*axes.get_ylim(), 100)
    sigma = density(*np.meshgrid(salinity, temperature))
    whole = np.arange(np.floor(sigma.min()), np.ceil(sigma.max()))
    lines = axes.contour(salinity, temperature, sigma, whole, colors="0.5", linewidths=0.7)
    axes.clabel(lines, fontsize=8, fmt="%g")
    count, floats = (len(np.unique(cells[name].astype(str))) for name in ("profile", "platform"))
    axes.set(
        xlabel="practical salinity",
        ylabel="temperature [°C]",
        title=f"{count} profiles of {floats} float{'s' * (floats > 1)}; lines: density less 1000 kg/m³",
    )
    return figure


def section(profiles: xr.Dataset) -> xr.DataArray:
    """Return the temperatures of one float on common levels of pressure, one column for each profile, by time."""
    along = profiles.dropna("profile", subset=["time"]).sortby("time")
    levels = np.arange(STEP, float(along["PRES"].max()), STEP)

    def onto_levels(pressure: np.ndarray, temperature: np.ndarray) -> np.ndarray:
        known = np.isfinite(pressure) & np.isfinite(temperature)
        if known.sum() < 2:
            return np.full(levels.shape, np.nan)
        order = np.argsort(pressure[known])
        return np.interp(levels, pressure[known][order], temperature[known][order], left=np.nan, right=np.nan)

    cells = xr.apply_ufunc(
        onto_levels,
        along["PRES"],
        along["TEMP"],
        input_core_dims=[["N_LEVELS"]] * 2,
        output_core_dims=[["pressure"]],
        vectorize=True,
    )
    cells = cells.assign_coords(pressure=("pressure", levels, {"long_name": "pressure", "units": "dbar"}))
    cells.attrs = {"long_name": "temperature", "units": "°C"}
    return cells.swap_dims(profile="time").dropna("time", how="all").drop_duplicates("time")


def section_picture(cells: xr.DataArray, platform: str) -> plt.Figure:
    """Return temperature by time and pressure, the surface on top."""
    figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
    look = {"levels": 20, "robust": True, "center": False, "cmap": "turbo", "yincrease": False}
    cells.plot.contourf(x="time", y="pressure", ax=axes, **look)
    top = np.full(cells.sizes["time"], cells["pressure"][0])
    axes.plot(cells["time"], top, "|", color="0.3", clip_on=False, markersize=7, markeredgewidth=0.6)
    axes.set(title=f"float {platform}, {len(top)} profiles (ticks on top)", xlabel="")
    return figure


def main() -> None:
    """Fill the store and draw."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("files", type=Path)
    options.add_argument("store", type=Path)
    options.add_argument("--pictures", type=Path, default=Path("."))
    given = options.parse_args()
    store = stored(given.files, given.store)

    # All temperatures of all profiles are one call.
    names = store.list_datasets()
    all_of_them = store.open_as_many_xarray_dataset(names, variables=["TEMP"], on_shape="ragged")
    print(f"{all_of_them.sizes['obs']:,} temperatures, {float(all_of_them['TEMP'].mean()):.2f} °C in the mean")

    profiles = measured(store, names)
    pictures = {"ts": ts_diagram(profiles)}
    for platform, own in profiles.groupby("platform"):
        pictures[f"section_{platform}"] = section_picture(section(own), platform)
    os.makedirs(given.pictures, exist_ok=True)
    for name, figure in pictures.items():
        figure.savefig(given.pictures / f"{name}.png", dpi=120)
        print(given.pictures / f"{name}.png")


if __name__ == "__main__":
    main()
