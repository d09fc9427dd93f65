"""Directories of NetCDF files into a store: one file, one dataset."""

from __future__ import annotations

import faulthandler
import os
import textwrap
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from atlas.config import choice, settings
from atlas.errors import AtlasError, DatasetAlreadyExists, InvalidArgument
from atlas.executor import is_nested, new_pool
from atlas.store import Atlas
from atlas.xarray import add_xarray_dataset, import_xarray

if TYPE_CHECKING:
    import xarray as xr

# Files that one task opens: enough to hide the round trip, few enough to spread.
_FILES_PER_TASK = 8

# What reading a damaged or odd file can fail with: the readers below xarray let all of these out.
_FILE_ERRORS = (
    *(OSError, RuntimeError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError),
    *(AssertionError, EOFError, MemoryError, ImportError),
)

_LONGEST_REASON = 400

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class IngestReport:
    """What an ingest did.

    Attributes
    ----------
    added : list of str
        Datasets, in order.
    skipped : dict of str to str
        Files that were left out, and why.
    seconds : float
    """

    added: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def find_files(source: Any, pattern: str = "*.nc", recursive: bool = True) -> list[Path]:
    """Return the files of a directory that match, sorted; a sequence of paths is taken as it is."""
    if not isinstance(source, (str, os.PathLike)):
        return [Path(path) for path in source]
    root = Path(source)
    if not root.is_dir():
        raise InvalidArgument(f"{root} is not a directory")
    return sorted(path for path in (root.rglob(pattern) if recursive else root.glob(pattern)) if path.is_file())


def name_files(files: Sequence[Path]) -> dict[str, Path]:
    """Return each file by its dataset's name, the file name without its suffix.

    Raises
    ------
    DatasetAlreadyExists
        If two files claim one name.
    """
    names: dict[str, Path] = {}
    for path in files:
        if path.stem in names:
            raise DatasetAlreadyExists(f"{names[path.stem]} and {path} would both become dataset {path.stem!r}")
        names[path.stem] = path
    return names


def create(
    source: Any,
    store: Any,
    pattern: str = "*.nc",
    recursive: bool = True,
    on_error: Literal["raise", "skip"] = "raise",
    chunks: Mapping[str, Sequence[int]] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
    **options: Any,
) -> IngestReport:
    """Make a store from a directory of NetCDF files, in one commit.

    Parameters
    ----------
    source : path or sequence of paths
    store : path, URL or fsspec filesystem
        Where the store is made.
    pattern : str
        Which files of the directory to take.
    recursive : bool
        Whether to look into subdirectories.
    on_error : {"raise", "skip"}
        Whether a file that cannot be read or stored ends the ingest, or is reported.
    chunks : mapping of str to sequence of int, optional
        Chunk shape by variable.
    workers : int, optional
        Processes that open files; the NetCDF library allows one thread each.
    progress : callable, optional
        Called with (done, total, name) after every file.
    **options
        For :meth:`atlas.Atlas.create`. With ``overwrite``, the old store is there until the new one
        is complete.

    Returns
    -------
    IngestReport
    """
    choice(on_error, ("raise", "skip"), "on_error")
    import_xarray()
    began = time.monotonic()
    files = name_files(find_files(source, pattern, recursive))
    if not files:
        raise InvalidArgument(f"no file in {source} matches {pattern!r}")
    target = Atlas.create(store, **options, overwrite="at flush" if overwrite else False)
    try:
        report = _ingest(target, files, on_error, chunks, workers or settings().workers, progress)
        target.flush()
    except BaseException:
        # Nothing was committed: a store that was not there before must not be there afterwards.
        target.discard_if_new()
        raise
    return IngestReport(report.added, report.skipped, time.monotonic() - began)


def _ingest(
    target: Atlas,
    files: Mapping[str, Path],
    on_error: str,
    chunks: Mapping[str, Sequence[int]] | None,
    workers: int,
    progress: Progress | None,
) -> IngestReport:
    report = IngestReport()
    for done, (name, ds, error) in enumerate(_opened(files, workers), 1):
        failure = error or _add(target, ds, name, chunks)
        if failure is None:
            report.added.append(name)
        elif on_error == "raise":
            raise AtlasError(f"{files[name]}: {failure}; on_error='skip' (--on-error skip) leaves such files out")
        else:
            report.skipped[str(files[name])] = failure
        if progress is not None:
            progress(done, len(files), name)
    return report


def _add(store: Atlas, ds: Any, name: str, chunks: Mapping[str, Sequence[int]] | None) -> str | None:
    try:
        with warnings.catch_warnings():
            # Of all that can be said about a file, users hear what concerns the store. Missing text
            # is kept and given back; the readers' own remarks came with the file.
            warnings.simplefilter("ignore")
            warnings.filterwarnings("always", "type mismatch", UserWarning)
            add_xarray_dataset(store, ds, name, chunks)
    except AtlasError as error:
        return _in_one_line(str(error))
    return None


def _in_one_line(text: str) -> str:
    return textwrap.shorten(text, _LONGEST_REASON, placeholder=" …")


Opened = tuple[str, Any, str | None]
Batch = list[tuple[str, Path]]


def _opened(files: Mapping[str, Path], workers: int) -> Iterator[Opened]:
    """Yield (name, dataset, error) in order, opened in other processes when there are many."""
    items = iter(files.items())
    tasks = deque(iter(lambda: list(islice(items, _FILES_PER_TASK)), []))
    if workers == 1 or len(tasks) == 1 or is_nested():
        for task in tasks:
            yield from map(_open_file, task)
        return
    while tasks:
        try:
            yield from _pooled(tasks, workers)
        except BrokenProcessPool:
            # A file made its reader crash. Which one of those under way, one process for each tells.
            yield from _isolated(tasks.popleft())


def _pooled(tasks: deque[Batch], workers: int) -> Iterator[Opened]:
    """Open batches a few ahead; a batch leaves `tasks` when it has been opened."""
    pool = new_pool(workers)
    try:
        waiting = iter(list(tasks))
        ahead = deque(pool.submit(_open_files, task) for task in islice(waiting, 2 * workers))
        while ahead:
            opened = ahead.popleft().result()
            tasks.popleft()
            yield from opened
            ahead.extend(pool.submit(_open_files, task) for task in islice(waiting, 1))
    finally:
        pool.shutdown(wait=True, kill_workers=True)


def _isolated(task: Batch) -> Iterator[Opened]:
    for name, path in task:
        try:
            yield from _pooled(deque([[(name, path)]]), 1)
        except BrokenProcessPool:
            yield name, None, "the process that read it died: its reader crashed, or memory ran out"


def _open_files(files: Batch) -> list[Opened]:
    # Runs in a worker. Should a reader crash there, the parent names the file; a dump would hide that.
    faulthandler.disable()
    return [_open_file(item) for item in files]


def _open_file(item: tuple[str, Path]) -> Opened:
    xarray = import_xarray()
    name, path = item
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ds: xr.Dataset
            with xarray.open_dataset(path) as ds:
                return name, ds.load(), None
    except _FILE_ERRORS as error:
        return name, None, _in_one_line(f"{type(error).__name__}: {error}")
