"""What happens to files in a worker process: they are read, decoded and encoded."""

from __future__ import annotations

import faulthandler
import struct
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from atlas.config import StoreConfig
from atlas.display import in_one_line, reason_of
from atlas.errors import AtlasError, MissingDependency
from atlas.ingest.alike import Decoder, RawFile, passed_over, read_raw
from atlas.ingest.chunking import Chunking
from atlas.ingest.hdf5 import OTHER_READER, crashes_netcdf
from atlas.prepared import Draft, Lot, Prepared
from atlas.xarray import import_xarray, require_zarr
from atlas.xarray.writing import keep_fill, write_dataset

# What reading a damaged or odd file can fail with: the readers below xarray let all of these out.
_FILE_ERRORS = (
    *(OSError, RuntimeError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError),
    *(AssertionError, EOFError, MemoryError, ImportError, struct.error),
)


# What is said of them by an ingest that they end.
LEFT_OUT = "on_error='skip' (--on-error skip) leaves such files out"


class Source(NamedTuple):
    """A file, or a directory that is one, and the dataset that it becomes."""

    name: str
    path: Path


@dataclass(frozen=True)
class Options:
    """How files are read and stored.

    Attributes
    ----------
    config : StoreConfig
    chunking : Chunking
    reading : dict of str to Any
        Further arguments of :func:`xarray.open_dataset`.
    """

    config: StoreConfig
    chunking: Chunking = field(default_factory=Chunking)
    reading: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Finished:
    """What became of a batch of files.

    Attributes
    ----------
    names : list of str
        Of the datasets that are prepared.
    prepared : bytes
        :meth:`Prepared.to_bytes`.
    failed : dict of str to str
        Why the others are not, by name.
    remarks : dict of str to str
        What was left out of those that are, by name.
    """

    names: list[str]
    prepared: bytes
    failed: dict[str, str]
    remarks: dict[str, str] = field(default_factory=dict)


# The decoder of this process: what it has seen of one batch serves the next.
_decoders: dict[str, Decoder] = {}


def prepare(files: Sequence[Source], options: Options) -> Finished:
    """Read, decode and encode a batch of files."""
    lots = _together(files, options)
    known = {name for names, _ in lots for name in names}
    drafts: dict[str, Draft] = {}
    failed: dict[str, str] = {}
    remarks: dict[str, str] = {}
    for source in files:
        if source.name not in known:
            result = _alone(source, options)
            if isinstance(result, Draft):
                drafts[source.name] = result
                remarks |= _remarks(source, options)
            else:
                failed[source.name] = result
    lots.append((list(drafts), Lot.of_drafts(list(drafts.values()))))
    names = [source.name for source in files if source.name in known or source.name in drafts]
    places = {name: place for place, name in enumerate(names)}
    prepared = Prepared.of([([places[name] for name in own], lot) for own, lot in lots], options.config)
    return Finished(names, prepared.to_bytes(), failed, remarks)


def prepare_in_worker(files: Sequence[Source], options: Options) -> Finished:
    """Do so in a worker process; should a reader crash there, the parent names the file."""
    # A dump of the crash would hide what the parent says.
    faulthandler.disable()
    return prepare(files, options)


def _together(files: Sequence[Source], options: Options) -> list[tuple[list[str], Lot]]:
    """Return those files that can be decoded together with others, by layout; with the names of their datasets."""
    if options.reading or options.chunking.as_stored or len(files) < 2:
        return []
    try:
        import netCDF4  # noqa: F401
    except ImportError:
        return []
    groups: dict[Hashable, list[tuple[str, RawFile]]] = {}
    for source in files:
        try:
            raw = read_raw(source.path)
        except _FILE_ERRORS:
            # xarray will say what is wrong with it, or find another way.
            continue
        if raw is not None:
            groups.setdefault(raw.layout, []).append((source.name, raw))
    decoder = _decoders.setdefault(repr(options), Decoder(options.config, options.chunking))
    found = []
    for group in groups.values():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                lot = decoder.decode([raw for _, raw in group])
        except _FILE_ERRORS:
            continue
        if lot is not None:
            found.append(([name for name, _ in group], lot))
    return found


def _alone(source: Source, options: Options) -> Draft | str:
    """Return the draft of a file as xarray reads it, or why there is none."""
    xarray = import_xarray()
    draft = Draft(options.config)
    try:
        with warnings.catch_warnings():
            # Of all that can be said about a file, users hear what concerns the store. Missing text
            # is kept and given back; the readers' own remarks came with the file.
            warnings.simplefilter("ignore")
            # Not cached: what is encoded is not needed again.
            reader = {} if "engine" in options.reading else _reader(source.path)
            with xarray.open_dataset(source.path, cache=False, **reader, **options.reading) as ds:
                for variable in ds.variables.values():
                    keep_fill(variable)
                write_dataset(draft, ds, options.chunking.of_dataset(ds))
    except MissingDependency:
        raise
    except AtlasError as error:
        return in_one_line(str(error))
    except _FILE_ERRORS as error:
        return reason_of(error)
    return draft


def _reader(path: Path) -> dict[str, str]:
    """Return the reader that a file or group needs, if xarray would not choose it."""
    if path.is_dir():
        require_zarr()
        return {"engine": "zarr"}
    return OTHER_READER if crashes_netcdf(path) else {}


def _remarks(source: Source, options: Options) -> dict[str, str]:
    """Return what of a file is not read."""
    try:
        import netCDF4

        if not source.path.is_file() or crashes_netcdf(source.path):
            return {}
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            with netCDF4.Dataset(source.path) as file:
                groups = [] if "group" in options.reading else list(file.groups)
    except (ImportError, OSError):
        # Other readers of other files know no groups.
        return {}
    remarks = []
    if groups:
        remarks.append(f"its groups are not read: {', '.join(groups)}; reading={{'group': …}} (--group) reads one")
    if options.reading.get("engine", "netcdf4") == "netcdf4":
        remarks += [f"{name} is not read, being of a type that its reader does not know" for name in passed_over(told)]
    return {source.name: in_one_line("; ".join(remarks))} if remarks else {}
