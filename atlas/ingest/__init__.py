"""Files into a store, one dataset each: NetCDF-3, NetCDF-4, HDF5 and Zarr groups, through xarray."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from atlas import __version__
from atlas.config import choice, settings
from atlas.display import in_one_line
from atlas.errors import AtlasError, DatasetAlreadyExists, StoreAlreadyExists
from atlas.ingest.chunking import Chunking
from atlas.ingest.journal import Journal, stamp
from atlas.ingest.pool import batches, finished
from atlas.ingest.report import IngestReport, Log
from atlas.ingest.sources import PATTERNS, Naming, find_sources
from atlas.ingest.work import LEFT_OUT, Finished, Options, Source
from atlas.prepared import Prepared, add_prepared
from atlas.storage.locks import LOCK_NAME
from atlas.store import Atlas
from atlas.xarray import import_xarray

__all__ = ["PATTERNS", "IngestReport", "append", "create", "find_sources"]

Progress = Callable[[int, int, str], None]


def create(
    source: Any,
    store: Any,
    pattern: str | Sequence[str] | None = None,
    recursive: bool = True,
    on_error: Literal["raise", "skip"] = "raise",
    chunks: Mapping[str, Sequence[int] | int] | Literal["stored"] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
    *,
    name: Naming = "stem",
    reading: Mapping[str, Any] | None = None,
    log: Any = None,
    resume: bool = True,
    journal: Any = None,
    **options: Any,
) -> IngestReport:
    """Make a store from files, one dataset each, in one commit.

    Parameters
    ----------
    source : path or sequence of paths
        A directory, a file or Zarr group, or several of them.
    store : path, URL or fsspec filesystem
        Where the store is made.
    pattern : str or sequence of str, optional
        Which files of a directory to take; those whose names end like NetCDF, HDF5 or Zarr by default.
    recursive : bool
        Whether to look into subdirectories.
    on_error : {"raise", "skip"}
        Whether a file that cannot be read or stored ends the ingest, or is reported.
    chunks : dict or "stored", optional
        Chunk shape by variable, or cells along a dimension by its name; the chunks that the files have with
        ``"stored"``; every array whole otherwise.
    workers : int, optional
        Processes that read files, at most; the cores this process may use by default. Few small files are read by one.
    progress : callable, optional
        Called with (done, total, name) after every file.
    overwrite : bool
        Replace the store that is there; it stays until the new one is complete.
    name : {"stem", "path"}, str or callable
        What a file's dataset is called: the file name without its suffix; the same after the directories below
        `source`, with points between; a text with ``{stem}``, ``{path}``, ``{parent}`` or ``{suffix}`` in it; or what a
        function of the path returns. Two files of one name are an error.
    reading : dict, optional
        Arguments of :func:`xarray.open_dataset`, such as ``{"decode_times": False}`` or ``{"group": "inner"}``.
    log : path, optional
        A file to which a line is added for every file.
    resume : bool
        Whether to keep a journal beside a local store until it is complete. The same call after an
        interruption, however hard, then does not read again what was read already.
    journal : path, optional
        Where the journal is kept; needed to resume an ingest into a store that is not local.
    **options
        For :meth:`atlas.Atlas.create`.

    Returns
    -------
    IngestReport

    Raises
    ------
    DatasetAlreadyExists
        If two files would have one name.
    StoreAlreadyExists
        If there is a store and `overwrite` is false.
    AtlasError
        If a file cannot be taken, and `on_error` is ``"raise"``; there is no new store then.

    Examples
    --------
    >>> import atlas, pathlib, tempfile, xarray as xr
    >>> place = pathlib.Path(tempfile.mkdtemp())
    >>> xr.Dataset({"t": ("x", [1.0, 2.0])}).to_netcdf(place / "jan.nc")
    >>> atlas.create(place, place / "store").added
    ['jan']
    """
    run = _Run(store, on_error, "raise", workers, progress, log)
    sources = find_sources(source, pattern, recursive, name, run.unreadable)
    notes = run.notes(journal, resume)
    how, made = _how(chunks, reading), run.missing()
    target = _begun(store, options, overwrite, notes is not None and notes.exists())
    return run.into(target, sources, Options(target._session.snapshot.root.config, *how), notes, made)


def append(
    source: Any,
    store: Any,
    pattern: str | Sequence[str] | None = None,
    recursive: bool = True,
    on_error: Literal["raise", "skip"] = "raise",
    chunks: Mapping[str, Sequence[int] | int] | Literal["stored"] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    existing: Literal["raise", "skip", "replace"] = "raise",
    *,
    name: Naming = "stem",
    reading: Mapping[str, Any] | None = None,
    log: Any = None,
    resume: bool = True,
    journal: Any = None,
    **options: Any,
) -> IngestReport:
    """Add files to a store, one dataset each, in one commit.

    Parameters
    ----------
    source : see :func:`create`
    store : path, URL or fsspec filesystem
        The store.
    pattern, recursive, on_error, chunks, workers, progress : see :func:`create`
    existing : {"raise", "skip", "replace"}
        What is done with a file whose dataset is there already: it is an error, before anything is read; it is
        left out, unread; or the dataset is replaced.
    name, reading, log, resume, journal : see :func:`create`
    **options
        For :meth:`atlas.Atlas.open`.

    Returns
    -------
    IngestReport

    Raises
    ------
    DatasetAlreadyExists
        If two files would have one name, or one is there already.
    AtlasError
        If a file cannot be taken, and `on_error` is ``"raise"``; the store is as it was then.

    Examples
    --------
    >>> import atlas, pathlib, tempfile, xarray as xr
    >>> place = pathlib.Path(tempfile.mkdtemp())
    >>> with atlas.Atlas.create(place / "store") as store:
    ...     store.create_dataset("jan").set_attribute("month", 1)
    >>> for month in ("jan", "feb"):
    ...     xr.Dataset({"t": ("x", [1.0, 2.0])}).to_netcdf(place / f"{month}.nc")
    >>> atlas.append(place, place / "store", existing="skip").added
    ['feb']
    """
    run = _Run(store, on_error, existing, workers, progress, log)
    sources = find_sources(source, pattern, recursive, name, run.unreadable)
    how = _how(chunks, reading)
    target = Atlas.open(store, **options)
    config = target._session.snapshot.root.config
    return run.into(target, sources, Options(config, *how), run.notes(journal, resume))


def _how(chunks: Any, reading: Mapping[str, Any] | None) -> tuple[Chunking, dict[str, Any]]:
    if find_spec("xarray") is None:
        # Only looked for: it takes a second to load, and the workers use it.
        import_xarray()
    return Chunking.of(chunks), dict(reading or {})


def _begun(store: Any, options: Mapping[str, Any], overwrite: bool, interrupted: bool) -> Atlas:
    """Return a new store; one that an interrupted ingest has only begun is begun again."""
    try:
        return Atlas.create(store, **options, overwrite="at flush" if overwrite else False)
    except StoreAlreadyExists:
        names = ("on_type_mismatch", "prefix", "storage_options", "workers", "executor", "pending_bytes")
        there = Atlas.open(store, **{key: value for key, value in options.items() if key in names}, mode="r")
        if not interrupted or there._session.snapshot.root.generation:
            raise
    return Atlas.create(store, **options, overwrite=True)


class _Run:
    """One ingest."""

    def __init__(
        self, store: Any, on_error: str, existing: str, workers: int | None, progress: Progress | None, log: Any
    ) -> None:
        self._store = store
        self._skips = choice(on_error, ("raise", "skip"), "on_error") == "skip"
        self._existing = choice(existing, ("raise", "skip", "replace"), "existing")
        self._workers = workers or settings().workers
        self._progress = progress
        self._log_path = log
        self._began = time.monotonic()
        self._report = IngestReport()
        self._arrays: set[str] = set()
        self._dims: set[str] = set()

    @property
    def unreadable(self) -> dict[str, str] | None:
        """Where what cannot be looked at is told; ``None`` if it ends the ingest."""
        return self._report.skipped if self._skips else None

    def notes(self, journal: Any, resume: bool) -> Path | None:
        """Return where the journal is; ``None`` if none is kept."""
        if journal is not None or not resume:
            return None if journal is None else Path(journal)
        # Beside the store, which an interrupted ingest must leave as it was.
        return Path(f"{os.path.abspath(self._store)}.ingest") if self._is_local() else None

    def _is_local(self) -> bool:
        return isinstance(self._store, (str, os.PathLike)) and "://" not in os.fspath(self._store)

    def missing(self) -> list[Path]:
        """Return the directories that a new store would make, the innermost first."""
        if not self._is_local():
            return []
        place = Path(os.path.abspath(self._store))
        return [path for path in (place, *place.parents) if not path.exists()]

    @staticmethod
    def _remove(directories: Sequence[Path]) -> None:
        with suppress(OSError):
            for path in directories:
                (path / LOCK_NAME).unlink(missing_ok=True)
                path.rmdir()

    def into(
        self,
        target: Atlas,
        sources: list[Source],
        options: Options,
        notes: Path | None,
        made: Sequence[Path] = (),
    ) -> IngestReport:
        """Add the files to a store and commit them; directories that were made for it go should that fail."""
        journal = None
        with ExitStack() as stack:
            try:
                self._log = log = stack.enter_context(Log(self._log_path))
                log.write("begun", len(sources), "files", target._session.storage.describe())
                for path, reason in self._report.skipped.items():
                    log.write("skipped", Path(path).stem, path, reason)
                journal = None if notes is None else Journal(notes, f"{__version__} {options}")
                self._add_all(target, self._wanted(target, sources), options, journal)
                self._tell_of_unknown(options.chunking)
                target.flush()
            except BaseException:
                # Nothing was committed: a store that was not there before must not be there afterwards.
                try:
                    target.discard_if_new()
                    self._remove(made)
                finally:
                    if journal is not None:
                        journal.leave()
                raise
            if journal is not None:
                journal.remove()
            self._report.seconds = time.monotonic() - self._began
            log.write("committed", len(self._report.added), "datasets", f"{self._report.seconds:.1f} s")
        return self._report

    def _tell_of_unknown(self, chunking: Chunking) -> None:
        """Warn of chunks for what no file has: a name that is misspelt would divide nothing."""
        unknown = {name: "array" for name in chunking.variables if name not in self._arrays}
        unknown |= {name: "dimension" for name in chunking.dims if name not in self._dims}
        for name, what in unknown.items() if self._report.added else ():
            warnings.warn(f"chunks= (--chunk) names {name!r}, and no file has such {what}", UserWarning, stacklevel=4)

    def _wanted(self, target: Atlas, sources: list[Source]) -> list[Source]:
        self._total, self._done = len(sources), 0
        self._old = {source.name for source in sources if target.dataset_exists(source.name)}
        if self._existing == "replace":
            return sources
        wanted = []
        for source in sources:
            if source.name not in self._old:
                wanted.append(source)
            elif self._existing == "skip":
                self._report.existing.append(source.name)
                self._tell("exists", source)
            else:
                raise DatasetAlreadyExists(
                    f"dataset already exists: {source.name!r}, which {source.path} would become; "
                    "existing='skip' (--existing skip) leaves such files out, 'replace' replaces the dataset"
                )
        return wanted

    def _add_all(self, target: Atlas, sources: list[Source], options: Options, journal: Journal | None) -> None:
        left = {source.name: source for source in sources}
        if journal is not None:
            known = {source.name: stamp(source) for source in sources}
            for stamps, result in journal.batches():
                # A file may be in it twice, or have changed since.
                pairs = zip(result.names, stamps, strict=True)
                names = [name if of and name in left and known[name] == of else None for name, of in pairs]
                self._add(target, [left.pop(name) for name in names if name is not None], names, result)
                self._report.resumed += [name for name in names if name is not None]
        for batch, result in finished(batches(list(left.values()), self._workers), options, self._workers):
            if journal is not None and result.names:
                journal.add([known[name] for name in result.names], result)
            self._add(target, batch, list(result.names), result)

    def _add(self, target: Atlas, batch: list[Source], names: list[str | None], result: Finished) -> None:
        """Add what a batch of files became, in one go; report on each of the files."""
        prepared = Prepared.from_bytes(result.prepared)
        declared = [array for group in prepared.declared.groups for array in group.template.arrays]
        self._arrays.update(array.name for array in declared)
        self._dims.update(dim for array in declared for dim in array.dims)
        with warnings.catch_warnings():
            warnings.filterwarnings("always", "type mismatch", UserWarning)
            failed = add_prepared(target._session, names, prepared, self._existing == "replace")
        for source in batch:
            error = failed.get(source.name)
            reason = result.failed.get(source.name) if error is None else in_one_line(str(error))
            if reason is None:
                self._report.added.append(source.name)
                if source.name in result.remarks:
                    self._report.remarks[str(source.path)] = result.remarks[source.name]
                    self._log.write("remark", source.name, source.path, result.remarks[source.name])
                if source.name in self._old:
                    self._report.replaced.append(source.name)
                self._tell("replaced" if source.name in self._old else "added", source)
            elif self._skips:
                self._report.skipped[str(source.path)] = reason
                self._tell("skipped", source, reason)
            else:
                raise AtlasError(f"{source.path}: {reason}; {LEFT_OUT}")

    def _tell(self, what: str, source: Source, *details: str) -> None:
        self._done += 1
        self._log.write(what, source.name, source.path, *details)
        if self._progress is not None:
            self._progress(self._done, self._total, source.name)
