"""NetCDF files that look alike are decoded together: by xarray, which is asked once for all of them.

Most of what xarray spends on a small file it spends on each variable, whatever its size. So of files with
the same variables, dimensions, types and attributes the first is opened by xarray as usual. From the others
only cells are read; those of one variable are put end to end and decoded as one. What the dataset
declares is the first one's, but for sizes, cells, global attributes, and what depends on cells.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from atlas.config import StoreConfig
from atlas.ingest.chunking import Chunking
from atlas.ingest.classic import read_cells, read_header
from atlas.ingest.declaring import declare
from atlas.ingest.hdf5 import MAGIC, crashes_netcdf
from atlas.ingest.texts import TextColumn
from atlas.prepared import Draft, Lot, chunk_items
from atlas.schema import Attributes, DatasetRecord
from atlas.writer import Item
from atlas.xarray import import_xarray
from atlas.xarray.writing import keep_fill, unlimited_of, write_attributes, write_dataset, write_variable

if TYPE_CHECKING:
    import xarray as xr

# Bytes of cells; larger files cost what their cells cost.
_LARGEST = 4 << 20

_CLASSIC = (b"CDF\x01", b"CDF\x02", b"CDF\x05")

_PASSED_OVER = re.compile(r"WARNING: (variable '.*') has unsupported .*datatype, skipping")

_FINEST = np.dtype("datetime64[ns]")

# Layouts that a process remembers; a collection has a handful.
_REMEMBERED = 64


@dataclass(frozen=True)
class RawFile:
    """A file as it is stored.

    Attributes
    ----------
    path : Path
    cells : dict of str to ndarray
    attributes : dict of str to Any
        The global ones.
    layout : Hashable
        All that decoding depends on, but for the cells.
    """

    path: Path
    cells: dict[str, NDArray[Any]]
    attributes: dict[str, Any]
    layout: Hashable


@dataclass(frozen=True)
class Example:
    """The first file of a layout, as xarray reads it.

    Attributes
    ----------
    raw, decoded : xarray.Dataset
        Without and with decoding; `raw` holds attributes and encodings, its cells are not looked at.
    draft : Draft
    times : set of str
        Variables of times that are decoded cell by cell, as long as all of them are within range.
    variants : dict of str to dict of Hashable to DatasetRecord
        How arrays were declared, by name; those of text by :meth:`TextColumn.variants`.
    """

    raw: xr.Dataset
    decoded: xr.Dataset
    draft: Draft
    times: set[str]
    variants: dict[str, dict[Hashable, DatasetRecord]] = field(default_factory=dict)

    def part(self, name: str) -> DatasetRecord:
        """Return what is declared of one array."""
        return self.variants.setdefault(name, {}).setdefault(None, self.draft.part(name))

    def is_joined(self, name: str) -> bool:
        """Return whether the last axis of a variable became the characters of text."""
        return bool(self.decoded.variables[name].ndim < self.raw.variables[name].ndim)


class Cells:
    """Cells of one variable of many files, end to end.

    Parameters
    ----------
    cells : (n,) array
    shapes : list of tuple of int
        Of each file.
    """

    def __init__(self, cells: NDArray[Any], shapes: list[tuple[int, ...]]) -> None:
        self.cells = cells
        self.shapes = shapes
        ends = np.cumsum([math.prod(shape) for shape in shapes]).tolist()
        self.bounds = list(zip([0, *ends[:-1]], ends, strict=True))

    def split(self, cells: NDArray[Any]) -> list[NDArray[Any]]:
        """Return such cells file by file."""
        pairs = zip(self.bounds, self.shapes, strict=True)
        return [cells[begin:end].reshape(shape) for (begin, end), shape in pairs]


def read_raw(path: Path) -> RawFile | None:
    """Return a file as it is stored; ``None`` if it is not of the plain kind that is decoded here."""
    with open(path, "rb") as file:
        magic = file.read(4)
        if magic in _CLASSIC:
            return _read_classic(path, magic + file.read(_LARGEST + 1))
    return _read_with_library(path) if magic == MAGIC and not crashes_netcdf(path) else None


def _read_classic(path: Path, data: bytes) -> RawFile | None:
    if len(data) > _LARGEST:
        return None
    header = read_header(data)
    if "coordinates" in header.attributes:
        return None
    return RawFile(path, read_cells(data, header), header.attributes, header.layout)


def _read_with_library(path: Path) -> RawFile | None:
    import netCDF4

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        source = netCDF4.Dataset(path)
    with source:
        source.set_auto_maskandscale(False)
        source.set_auto_chartostring(False)
        attributes = dict(source.__dict__)
        size = sum(variable.size * getattr(variable.dtype, "itemsize", 1) for variable in source.variables.values())
        if "coordinates" in attributes or source.groups or size > _LARGEST or passed_over(told):
            return None
        unlimited = tuple(name for name, dimension in source.dimensions.items() if dimension.isunlimited())
        cells: dict[str, NDArray[Any]] = {}
        layout: list[Hashable] = [unlimited]
        for name, variable in source.variables.items():
            if not _is_plain(variable):
                return None
            own = np.asarray(variable[...], object if variable.dtype is str else None)
            cells[name] = own
            layout.append((name, variable.dimensions, own.dtype.str, *map(_hashable, variable.__dict__.items())))
    return RawFile(path, cells, attributes, tuple(layout))


def passed_over(told: Sequence[warnings.WarningMessage]) -> list[str]:
    """Return which variables netCDF4 warned that it leaves out."""
    found = (_PASSED_OVER.match(str(each.message)) for each in told)
    return [match[1] for match in found if match]


def _is_plain(variable: Any) -> bool:
    # An enumeration or a compound has a type that says more than NumPy's.
    kind = variable.dtype
    return kind is str or (isinstance(variable.datatype, np.dtype) and (kind.kind in "iuf" or kind == np.dtype("S1")))


def _hashable(item: tuple[str, Any]) -> Hashable:
    key, value = item
    return (
        (key, value.dtype.str, value.tobytes()) if isinstance(value, (np.ndarray, np.generic)) else (key, repr(value))
    )


class Decoder:
    """Decodes files that look alike; remembers one of each kind.

    Parameters
    ----------
    config : StoreConfig
    chunking : Chunking
    """

    def __init__(self, config: StoreConfig, chunking: Chunking) -> None:
        self._config = config
        self._chunking = chunking
        self._examples: dict[Hashable, Example] = {}

    def decode(self, files: Sequence[RawFile]) -> Lot | None:
        """Return files of one layout as datasets; ``None`` if they cannot be decoded together."""
        example = self._example(files[0])
        columns = _decoded_together(files, example)
        if columns is None:
            return None
        # What is declared of each array, file by file: mostly the same object for all of them.
        parts: list[list[DatasetRecord]] = []
        items: list[Item] = []
        for name, column in columns.items():
            if column.cells.dtype.kind in "OSU":
                known, cells = self._texts(name, column, example)
            else:
                known, cells = [example.part(name)] * len(files), column.split(column.cells)
            parts.append(known)
            for number, (part, own) in enumerate(zip(known, cells, strict=True)):
                schema = part.arrays[name]
                items += chunk_items(schema, number, own, self._chunking.of_variable(name, schema.dims, own.shape))
        attributes = [self._attributes(file, example) for file in files]
        shapes = {name: column.shapes for name, column in columns.items()}
        return Lot(declare(attributes, list(zip(*parts, strict=True)), shapes, self._chunking), items, [])

    def _attributes(self, file: RawFile, example: Example) -> Attributes:
        draft = Draft(self._config)
        write_attributes(draft, file.attributes, list(example.decoded.coords), unlimited_of(example.decoded, None))
        return draft.record.attributes

    def _example(self, file: RawFile) -> Example:
        found = self._examples.get(file.layout)
        if found is None:
            xarray = import_xarray()
            with xarray.open_dataset(file.path, engine="netcdf4", decode_cf=False, cache=False) as raw:
                pass
            with xarray.open_dataset(file.path, engine="netcdf4") as decoded:
                decoded.load()
            for variable in decoded.variables.values():
                keep_fill(variable)
            draft = Draft(self._config)
            write_dataset(draft, decoded, self._chunking.of_dataset(decoded))
            if len(self._examples) == _REMEMBERED:
                del self._examples[next(iter(self._examples))]
            found = self._examples[file.layout] = Example(raw, decoded, draft, _times(raw, decoded))
        return found

    def _texts(self, name: str, column: Cells, example: Example) -> tuple[list[DatasetRecord], list[NDArray[Any]]]:
        """Return what is declared of text, and its cells: of what they are depends how they are stored."""
        like, known = example.decoded.variables[name], example.variants.setdefault(name, {})
        texts = TextColumn(column.cells)
        stored: dict[str, list[NDArray[Any]]] = {}
        parts, found = [], []
        for number, variant in enumerate(texts.variants(column.bounds)):
            if variant not in known:
                begin, end = column.bounds[number]
                own = _variable(column.cells[begin:end].reshape(column.shapes[number]), like)
                draft = Draft(self._config)
                write_variable(draft, name, own)
                if variant is None:
                    parts.append(draft.part(name))
                    found.append(draft.cells[name])
                    continue
                known[variant] = draft.part(name)
            parts.append(known[variant])
            fill = known[variant].arrays[name].fill
            if fill not in stored:
                stored[fill] = column.split(texts.stored(fill))
            found.append(stored[fill][number])
        return parts, found


def _decoded_together(files: Sequence[RawFile], example: Example) -> dict[str, Cells] | None:
    """Return the decoded cells of every variable, in the order of the example; ``None`` if they do not fit it."""
    shapes: dict[str, list[tuple[int, ...]]] = {}
    joined: dict[str, xr.Variable] = {}
    others: dict[str, xr.Variable] = {}
    times = set()
    for name, like in example.raw.variables.items():
        own = [file.cells[name] for file in files]
        tail = like.shape[-1:] if example.is_joined(name) else ()
        if any(cells.dtype != like.dtype for cells in own) or (tail and any(cells.shape[-1:] != tail for cells in own)):
            return None
        shapes[name] = [cells.shape[: cells.ndim - len(tail)] for cells in own]
        decoded = example.decoded.variables[name].dtype
        if decoded.kind in "Mm" and name not in example.times:
            times.add(name)
        elif decoded.kind == "O" and like.dtype.kind in "iuf":
            return None
        else:
            flat = np.concatenate([cells.reshape(-1, *tail) for cells in own])
            dims = (f"cells of {name}", *([f"characters of {name}"] if tail else []))
            (joined if tail else others)[name] = import_xarray().Variable(dims, flat, like.attrs, like.encoding)
    times |= _beyond_range({name: others[name] for name in example.times})
    cells = _decoded(joined, True) | _decoded({name: others[name] for name in others.keys() - times}, False)
    if times:
        raw = example.raw.variables
        each = [_decoded({name: _variable(file.cells[name], raw[name]) for name in times}, False) for file in files]
        if any(own[name].dtype != each[0][name].dtype for own in each for name in times):
            return None
        cells |= {name: np.concatenate([own[name].reshape(-1) for own in each]) for name in times}
    if any(cells[name].dtype != like.dtype for name, like in example.decoded.variables.items()):
        return None
    return {name: Cells(cells[name], shapes[name]) for name in example.draft.record.arrays}


def _times(raw: xr.Dataset, decoded: xr.Dataset) -> set[str]:
    """Return the variables of times that are decoded cell by cell, as long as all of them are within range.

    Whether numbers can be times, and which type they get, xarray decides by some of the cells. Where their units are
    such that even no cells at all become the finest type there is, nothing is left to decide but the range.
    """
    found = set()
    for name, like in raw.variables.items():
        if decoded.variables[name].dtype == _FINEST:
            nothing = import_xarray().Variable("nothing", np.zeros(0, like.dtype), like.attrs, like.encoding)
            with suppress(ValueError):
                if _decoded({name: nothing}, False)[name].dtype == _FINEST:
                    found.add(str(name))
    return found


def _beyond_range(times: dict[str, xr.Variable]) -> set[str]:
    """Return the variables of times of which the first or the last is beyond what their type can hold."""
    spans = {}
    for name, numbers in _decoded(times, False, decode_times=False).items():
        # Looked for here: where there are gaps, xarray does not look.
        there = np.flatnonzero(numbers == numbers)
        edges = [numbers[there].argmin(), numbers[there].argmax()] if len(there) else []
        spans[name] = times[name][there[edges]]
    return {name for name, cells in _decoded(spans, False).items() if cells.dtype != _FINEST}


def _variable(cells: NDArray[Any], like: Any) -> xr.Variable:
    return import_xarray().Variable(like.dims, cells, like.attrs, like.encoding)


def _decoded(variables: dict[str, xr.Variable], characters: bool, decode_times: bool = True) -> dict[str, NDArray[Any]]:
    from xarray.conventions import decode_cf_variables

    # It takes fill values out of the attributes that it is given, and some variables are decoded twice.
    copies = {name: variable.copy(deep=False) for name, variable in variables.items()}
    found, _, _ = decode_cf_variables(
        copies, {}, concat_characters=characters, decode_coords=False, decode_times=decode_times
    )
    return {name: variable.values for name, variable in found.items()}
