"""Datasets made ready in other processes: described and encoded there, only added by the one that writes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

import msgpack
import numpy as np
from numpy.typing import NDArray

from atlas.attributes import encode_named
from atlas.bulk import are_known
from atlas.chunks import ChunkGrid, Integers, resolve_box
from atlas.columns import Column, Texts, distinct
from atlas.config import StoreConfig
from atlas.dtypes import as_elements, objects
from atlas.encoding import EncodedRows, encode_rows
from atlas.errors import ArrayAlreadyExists, AtlasError, DatasetAlreadyExists, InvalidName, TypeMismatch
from atlas.groups import Declared, Group
from atlas.heap import Heap
from atlas.names import Names
from atlas.pending import Block
from atlas.schema import ArraySchema, DatasetRecord, Template, check_name, make_array_schema
from atlas.segment import StatisticsColumns, joined_cells
from atlas.session import Session
from atlas.writer import HeldRows, Item, filled, in_batches

# Numbers of this many bytes are encoded as they come: a large file is never in memory twice.
_ENCODE_ABOVE = 256 << 10


class Place(NamedTuple):
    """Where a chunk belongs: to which of some datasets."""

    array: str
    dataset: int
    chunk: int


class Draft:
    """A dataset of no store yet; takes what a :class:`~atlas.view.DatasetView` takes.

    Attributes
    ----------
    record : DatasetRecord
    cells : dict of str to ndarray
        Whole arrays that are not encoded yet.
    encoded : list of (EncodedRows, list of Place)
    """

    def __init__(self, config: StoreConfig) -> None:
        self._config = config
        self.record = DatasetRecord()
        self.cells: dict[str, NDArray[Any]] = {}
        self.encoded: list[tuple[EncodedRows, list[Place]]] = []

    def define_array(
        self,
        name: str,
        dtype: Any,
        dims: Sequence[str],
        shape: Sequence[int],
        chunk_shape: Sequence[int] | None = None,
        fill_value: Any = None,
    ) -> None:
        """Declare an array."""
        schema = make_array_schema(name, dtype, dims, shape, chunk_shape, fill_value)
        if name in self.record.arrays:
            raise ArrayAlreadyExists(f"array already exists: {name!r}")
        self.record.arrays[name] = schema

    def write_array(self, name: str, start: Sequence[int] | None, data: Any) -> None:
        """Take a box of cells."""
        schema = self.record.arrays[name]
        cells = as_elements(schema.dtype, data, f"array {name!r}")
        box = resolve_box(schema.shape, start, cells.shape, f"array {name!r}")
        if box.shape != schema.shape:
            whole = self.cells.setdefault(name, filled(schema, schema.shape))
            whole[tuple(map(slice, box.start, np.add(box.start, box.shape)))] = cells
        elif cells.nbytes < _ENCODE_ABOVE or schema.dtype.is_text:
            self.cells[name] = cells
        else:
            items = chunk_items(schema, 0, cells, schema.chunk_shape)
            self.encoded += [(encode_rows(own, rows, self._config), keys) for own, keys, rows in in_batches(items)]

    def part(self, name: str) -> DatasetRecord:
        """Return what is declared of one array."""
        attributes = self.record.array_attributes
        own = {name: attributes[name]} if name in attributes else {}
        return DatasetRecord({name: self.record.arrays[name]}, {}, own)

    def array_fill_value(self, name: str) -> Any:
        """Return the declared fill value."""
        return self.record.arrays[name].fill

    def set_attribute(self, key: str, value: Any, dtype: str | None = None) -> None:
        """Set an attribute of the dataset."""
        self.record.attributes[key] = encode_named(key, value, dtype)

    def set_array_attribute(self, array: str, key: str, value: Any, dtype: str | None = None) -> None:
        """Set an attribute of one array."""
        encoded = encode_named(key, value, dtype, array)
        self.record.array_attributes.setdefault(array, {})[key] = encoded


def chunk_items(
    schema: ArraySchema, dataset: int, cells: NDArray[Any], chunk_shape: Sequence[int] | None
) -> Iterator[Item]:
    """Yield the chunks of one dataset's array.

    Parameters
    ----------
    schema : ArraySchema
        Tells the type and the fill value; the shape is that of `cells`.
    chunk_shape : sequence of int, optional
        The whole array is one chunk without it.
    """
    grid = None if chunk_shape is None else ChunkGrid(cells.shape, tuple(chunk_shape))
    if grid is None or grid.count < 2:
        if cells.size:
            yield schema, Place(schema.name, dataset, 0), cells
        return
    for number in range(grid.count):
        box = grid.extent(number)
        part = cells[tuple(map(slice, box.start, np.add(box.start, box.shape)))]
        yield schema, Place(schema.name, dataset, number), part


class Lot(NamedTuple):
    """Datasets that are ready but for the chunks that are not encoded yet.

    Attributes
    ----------
    declared : Declared
    items : iterable of (ArraySchema, Place, ndarray)
        Chunks; datasets are numbered within the lot.
    encoded : list of (EncodedRows, list of Place)
    """

    declared: Declared
    items: Iterable[Item]
    encoded: list[tuple[EncodedRows, list[Place]]]

    @staticmethod
    def of_drafts(drafts: Sequence[Draft]) -> Lot:
        """Return single datasets as a lot."""
        encoded = [
            (rows, [place._replace(dataset=number) for place in places])
            for number, draft in enumerate(drafts)
            for rows, places in draft.encoded
        ]
        items = (
            item
            for number, draft in enumerate(drafts)
            for name, cells in draft.cells.items()
            for schema in [draft.record.arrays[name]]
            for item in chunk_items(schema, number, cells, schema.chunk_shape)
        )
        return Lot(Declared.of_records(draft.record for draft in drafts), items, encoded)


@dataclass(frozen=True)
class Chunks:
    """The same chunks of an array of some datasets.

    Attributes
    ----------
    array : str
    datasets : (n,) int64
        Ascending.
    numbers : (k,) int64
    columns : dict of str to (n · k,) array
        What a data file says of them, with ``offset`` in the payloads, and their statistics.
    """

    array: str
    datasets: Integers
    numbers: Integers
    columns: dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Prepared:
    """Datasets that only need to be added.

    Attributes
    ----------
    declared : Declared
    chunks : list of Chunks
    payloads : bytes
        Those of all chunks.
    """

    declared: Declared = field(default_factory=lambda: Declared.joined([]))
    chunks: list[Chunks] = field(default_factory=list)
    payloads: bytes = b""

    @staticmethod
    def of(lots: Sequence[tuple[Sequence[int], Lot]], config: StoreConfig) -> Prepared:
        """Encode what is not encoded yet, chunks that look alike together.

        Parameters
        ----------
        lots : sequence of (positions, Lot)
            Where the datasets of each lot are among all.
        """
        positions = [place for own, _ in lots for place in own]
        declared = Declared.joined([lot.declared for _, lot in lots]).take(np.argsort(positions, kind="stable"))
        encoded = []
        for own, lot in lots:
            fresh = ((encode_rows(schema, cells, config), keys) for schema, keys, cells in in_batches(lot.items))
            for rows, places in (*lot.encoded, *fresh):
                encoded.append((rows, [place._replace(dataset=own[place.dataset]) for place in places]))
        return Prepared(declared, *_by_array(encoded)) if encoded else Prepared(declared)

    def to_bytes(self) -> bytes:
        """Return it as it travels between processes, and waits in files."""
        groups = [
            [
                group.written,
                group.rows,
                [[_plain(column.cells) for column in part] for part in (group.sizes, group.columns)],
            ]
            for group in self.declared.groups
        ]
        chunks = [
            [own.array, _plain(own.datasets), _plain(own.numbers), {name: _plain(c) for name, c in own.columns.items()}]
            for own in self.chunks
        ]
        rows = [_plain(np.asarray(column, np.int64)) for column in (self.declared.group, self.declared.row)]
        packed: bytes = msgpack.packb([groups, rows, chunks, self.payloads])
        return packed

    @staticmethod
    def from_bytes(data: bytes) -> Prepared:
        """Inverse of :meth:`to_bytes`.

        Raises
        ------
        ValueError, TypeError, LookupError, AtlasError
            If these are other bytes.
        """
        written, rows, chunks, payloads = msgpack.unpackb(data)
        groups = [
            Group(template, count, *([Column(count, _cells(plain)) for plain in part] for part in columns))
            for template, count, columns in written
        ]
        found = [
            Chunks(array, _cells(datasets), _cells(numbers), {name: _cells(plain) for name, plain in columns.items()})
            for array, datasets, numbers, columns in chunks
        ]
        return Prepared(Declared(groups, *map(_cells, rows)), found, payloads)


_CHUNK_COLUMNS = ("length", "raw_length", "pipeline", "checksum")


def _by_array(encoded: Sequence[tuple[EncodedRows, list[Place]]]) -> tuple[list[Chunks], bytes]:
    """Return chunks, encoded in whatever order, by array, and the payloads in the order of arrays and datasets."""
    places = [place for _, keys in encoded for place in keys]
    parts = [rows for rows, _ in encoded]
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _CHUNK_COLUMNS}
    for name in StatisticsColumns._fields:
        columns[name] = joined_cells([getattr(part.statistics, name) for part in parts])
    # Types of bounds differ between arrays, and are put right for each.
    kinds = [part.statistics.minimum.dtype for part in parts]
    kind = np.repeat(np.arange(len(parts)), [len(part.length) for part in parts])
    names = [place.array for place in places]
    codes = {name: code for code, name in enumerate(dict.fromkeys(names))}
    array = np.array([codes[name] for name in names])
    dataset = np.array([place.dataset for place in places], np.int64)
    number = np.array([place.chunk for place in places], np.int64)
    order = np.lexsort((number, dataset, array))
    rooms = [np.diff(np.append(part.offset, len(part.payloads))) for part in parts]
    payloads = Texts(np.concatenate([part.payloads for part in parts]), np.cumsum(np.concatenate(rooms))).take(order)
    columns["offset"] = np.empty_like(payloads.ends)
    columns["offset"][order] = payloads.ends - payloads.lengths
    edges = np.flatnonzero(np.diff(array[order])) + 1
    found: list[Chunks] = []
    for name, rows in zip(codes, np.split(order, edges), strict=True):
        own = {column: cells[rows] for column, cells in columns.items()}
        types = {kinds[i] for i in distinct(kind[rows]).tolist()}
        if len(types) == 1:
            wanted = types.pop()
            own |= {bound: own[bound].astype(wanted) for bound in ("minimum", "maximum")}
        found += _alike(name, dataset[rows], number[rows], own)
    return found, payloads.data.tobytes()


def _alike(array: str, dataset: Integers, number: Integers, columns: dict[str, NDArray[Any]]) -> Iterator[Chunks]:
    """Yield the chunks of one array; all of a dataset's are there, so those with as many have the same."""
    firsts = np.flatnonzero(np.diff(dataset, prepend=-1))
    counts = np.diff(np.append(firsts, len(dataset)))
    for count in distinct(counts).tolist():
        rows = np.flatnonzero(np.repeat(counts == count, counts))
        yield Chunks(array, dataset[rows[::count]], number[rows[:count]], {n: c[rows] for n, c in columns.items()})


def _plain(cells: NDArray[Any] | Texts) -> Any:
    if isinstance(cells, Texts):
        return [cells.data.tobytes(), cells.ends.tobytes()]
    return {"": cells.tolist()} if cells.dtype == object else [cells.dtype.str, cells.tobytes()]


def _cells(plain: Any) -> Any:
    if isinstance(plain, dict):
        return objects(plain[""])
    first, data = plain
    if isinstance(first, bytes):
        return Texts(np.frombuffer(first, np.uint8), np.frombuffer(data, np.int64))
    return np.frombuffer(data, first)


def add_prepared(
    session: Session, names: Sequence[str | None], prepared: Prepared, replace: bool = False
) -> dict[str, AtlasError]:
    """Add datasets, to be committed by the next flush; return why some could not be.

    Parameters
    ----------
    names : sequence of str or None
        One for each of the prepared datasets; those without one are left out.
    replace : bool
        Whether a dataset that is there already makes room.
    """
    with session.lock:
        session.writable()
        failed: dict[str, AtlasError] = {}
        kept = _acceptable(session, names, prepared.declared, replace, failed)
        if kept:
            _add(session, [(position, str(names[position])) for position in kept], prepared, replace)
    return failed


def _acceptable(
    session: Session,
    names: Sequence[str | None],
    declared: Declared,
    replace: bool,
    failed: dict[str, AtlasError],
) -> list[int]:
    """Return which datasets can be added; note why the others cannot."""
    named = []
    for position, name in enumerate(names):
        try:
            named += [] if name is None else [(position, check_name(name, "dataset"))]
        except InvalidName as error:
            failed[str(name)] = error
    listed = [name for _, name in named]
    taken = set() if replace else {listed[i] for i in np.flatnonzero(are_known(session, Names.of(listed))).tolist()}
    clashes: dict[int, TypeMismatch | None] = {}
    kept = []
    for position, name in named:
        code = int(declared.group[position])
        if code not in clashes:
            clashes[code] = _clash(session, declared.groups[code].template)
        clash = clashes[code]
        if name in taken:
            failed[name] = DatasetAlreadyExists(f"dataset already exists: {name!r}")
        elif clash is not None:
            failed[name] = clash
        else:
            kept.append(position)
            taken.add(name)
    return kept


def _clash(session: Session, template: Template) -> TypeMismatch | None:
    """Widen the collection's types; return what the policy for types that cannot merge says of it."""
    try:
        session.merge_template(template)
    except TypeMismatch as error:
        return error
    return None


def _add(session: Session, named: Sequence[tuple[int, str]], prepared: Prepared, replace: bool) -> None:
    moved = _put_payloads(session.pending.heap, prepared)
    with session.pending.whole():
        _add_whole(session, named, prepared, replace, moved)


def _add_whole(
    session: Session, named: Sequence[tuple[int, str]], prepared: Prepared, replace: bool, moved: Mapping[str, int]
) -> None:
    pending, root = session.pending, session.snapshot.root
    listed = [name for _, name in named]
    names = Names.of(listed)
    if replace:
        # The merged schema is left as it is where datasets make room: wider than it need be is all that it can be.
        for i in np.flatnonzero(are_known(session, names)).tolist():
            pending.delete(listed[i], root)
    positions = np.array([position for position, _ in named])
    ids = np.full(len(prepared.declared), -1, np.int64)
    ids[positions] = pending.create_batch(names, prepared.declared.take(positions), root)
    for chunks in prepared.chunks:
        own = ids[chunks.datasets]
        columns = chunks.columns | {"offset": chunks.columns["offset"] + moved[chunks.array]}
        held = HeldRows(pending.heap, len(columns["offset"]), columns)
        if (own < 0).any():
            rows = np.flatnonzero(np.repeat(own >= 0, len(chunks.numbers)))
            own, held = own[own >= 0], held.take(rows)
        if len(own):
            pending.add_block(Block(chunks.array, own, chunks.numbers, held))


def _put_payloads(heap: Heap, prepared: Prepared) -> dict[str, int]:
    """Put the payloads of each array, which are together, into the heap; return by how much their offsets change."""
    moved, payloads, before = {}, memoryview(prepared.payloads), heap.size
    try:
        for array, chunks in groupby(prepared.chunks, key=attrgetter("array")):
            columns = [own.columns for own in chunks]
            begin = min(int(own["offset"].min()) for own in columns)
            end = max(int((own["offset"] + own["length"]).max()) for own in columns)
            moved[array] = heap.append(payloads[begin:end], array) - begin
    except BaseException:
        heap.rewind(before)
        raise
    return moved
