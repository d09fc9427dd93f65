"""Datasets out of a store: a NetCDF file or a Zarr group each, through xarray."""

from __future__ import annotations

import os
import re
import shutil
import time
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from atlas.config import choice, settings
from atlas.display import reason_of
from atlas.errors import AtlasError, InvalidArgument
from atlas.executor import in_order, is_nested
from atlas.store import Atlas
from atlas.xarray import import_xarray, require_zarr

_SUFFIXES = {"netcdf": ".nc", "zarr": ".zarr"}

# What some file system does not take in a name, or takes as a sign.
_ODD = re.compile(r'^\.|[\x00-\x1f\x7f%/\\:*?"<>|]')

# Datasets that one task writes; fewer than this many in all are written here.
_PER_TASK = 16

# What the writers below xarray let out when a dataset is more than their format can say.
_WRITE_ERRORS = (OSError, RuntimeError, ValueError, TypeError, AttributeError, LookupError)

Progress = Callable[[int, int, str], None]


@dataclass
class ExportReport:
    """What an export did.

    Attributes
    ----------
    written : dict of str to str
        Files or Zarr groups, by dataset.
    skipped : dict of str to str
        Datasets that were left out, and why.
    seconds : float

    Examples
    --------
    >>> import atlas, xarray as xr
    >>> with atlas.Atlas.create("fleet") as store:
    ...     xr.Dataset({"t": ("x", [1.5, 2.5])}).atlas.write(store, "jan")
    >>> report = atlas.export("fleet", "files")
    >>> report.written, report.skipped
    ({'jan': 'files/jan.nc'}, {})
    """

    written: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class _Task:
    store: Atlas
    target: Path
    format: str
    scratch: Path


def export(
    store: Any,
    target: Any,
    names: Sequence[str] | None = None,
    format: Literal["netcdf", "zarr"] = "netcdf",
    on_error: Literal["raise", "skip"] = "raise",
    overwrite: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Write datasets as NetCDF files or Zarr groups into a directory.

    Parameters
    ----------
    store : Atlas, path or URL
    target : path
        The directory; made when it is not there. Files are called like their datasets; what file systems do not take
        in a name is percent-encoded.
    names : sequence of str, optional
        All datasets by default.
    format : {"netcdf", "zarr"}
    on_error : {"raise", "skip"}
        Whether a dataset that the format cannot hold ends the export, or is reported.
    overwrite : bool
        Replace files that are there.
    workers : int, optional
        Processes that write.
    progress : callable, optional
        Called with (done, total, name) after every dataset.

    Returns
    -------
    ExportReport

    Raises
    ------
    InvalidArgument
        If a file is there already and `overwrite` is false; nothing was written then.
    DatasetNotFound
        If there is no such dataset, and `on_error` is ``"raise"``; nothing was written then.
    AtlasError
        If a dataset cannot be written, and `on_error` is ``"raise"``. Files are complete or not there.

    Examples
    --------
    >>> import atlas, tempfile
    >>> with atlas.Atlas.create(tempfile.mkdtemp()) as store:
    ...     store.create_dataset("jan").set_attribute("month", 1)
    >>> report = atlas.export(store, tempfile.mkdtemp())
    >>> list(report.written)
    ['jan']
    """
    choice(format, tuple(_SUFFIXES), "format")
    choice(on_error, ("raise", "skip"), "on_error")
    import_xarray()
    if format == "zarr":
        require_zarr()
    began = time.monotonic()
    source = store if isinstance(store, Atlas) else Atlas.open(store, mode="r")
    listed = source.list_datasets() if names is None else _listed(source, names, on_error)
    place = partial(_place, Path(target), _SUFFIXES[format])
    there = [] if overwrite else [path for path in map(place, listed) if os.path.exists(path)]
    if there:
        raise InvalidArgument(
            f"{there[0]} is there already, as are {len(there)} of {len(listed)} files; overwrite=True (--overwrite) "
            "replaces them"
        )
    Path(target).mkdir(parents=True, exist_ok=True)
    report = ExportReport()
    with (
        # Also what a worker that was killed had half written goes with it.
        TemporaryDirectory(prefix=".export-", dir=target) as scratch,
        closing(
            _written(_Task(source, Path(target), format, Path(scratch)), listed, workers or settings().workers)
        ) as results,
    ):
        for done, (name, error) in enumerate(results, 1):
            if error is None:
                report.written[name] = str(place(name))
            elif on_error == "skip":
                report.skipped[name] = error
            else:
                raise AtlasError(
                    f"dataset {name!r}: {error}; on_error='skip' (--on-error skip) leaves such datasets out"
                )
            if progress is not None:
                progress(done, len(listed), name)
    report.seconds = time.monotonic() - began
    return report


def _listed(store: Atlas, names: Sequence[str], on_error: str) -> list[str]:
    if isinstance(names, str):
        raise InvalidArgument(f"names must be a sequence of names, not the single name {names!r}")
    listed = list(dict.fromkeys(names))
    if on_error == "raise":
        for name in listed:
            store.open_dataset(name)
    return listed


def _place(target: Path, suffix: str, name: str) -> Path:
    return target / f"{_ODD.sub(lambda found: f'%{ord(found[0]):02X}', name)}{suffix}"


Written = tuple[str, str | None]


def _written(task: _Task, names: list[str], workers: int) -> Generator[Written, None, None]:
    """Write datasets, in other processes when there are many; yield each with what went wrong."""
    items = iter(names)
    batches = iter(lambda: list(islice(items, _PER_TASK)), [])
    # Pending changes are shown by this handle only.
    if workers == 1 or len(names) <= _PER_TASK or is_nested() or task.store._session.pending:
        for batch in batches:
            yield from _write_all(task, batch)
        return
    for written in in_order(partial(_write_all, task), batches, workers):
        yield from written


def _write_all(task: _Task, names: Sequence[str]) -> list[Written]:
    return [_write(task, name) for name in names]


def _write(task: _Task, name: str) -> Written:
    """Write one dataset beside its place, and put it there when it is complete."""
    from atlas.xarray.filing import as_filed

    place = _place(task.target, _SUFFIXES[task.format], name)
    beside = task.scratch / place.name
    try:
        ds = task.store.open_as_xarray_dataset(name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if task.format == "netcdf":
                as_filed(ds, has_characters=True).to_netcdf(beside)
            else:
                as_filed(ds, has_characters=False).to_zarr(beside, consolidated=False)
        if place.is_dir():
            shutil.rmtree(place)
        os.replace(beside, place)
    except _WRITE_ERRORS as error:
        return name, reason_of(error)
    finally:
        # What cannot be removed goes with the directory that it is in.
        with suppress(OSError):
            (shutil.rmtree if beside.is_dir() else os.unlink)(beside)
    return name, None
