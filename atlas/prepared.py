"""Datasets made ready in other processes: described and encoded there, only added by the one that writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgpack
import numpy as np
from numpy.typing import NDArray

from atlas.attributes import check_key, encode_attribute
from atlas.bulk import merge_schema
from atlas.chunks import resolve_selection
from atlas.config import StoreConfig
from atlas.dtypes import as_elements
from atlas.encoding import EncodedRows, encode_rows
from atlas.errors import ArrayAlreadyExists, AtlasError, DatasetAlreadyExists, TypeMismatch
from atlas.schema import ArraySchema, Attributes, DatasetRecord, Template, check_name, make_array_schema, split_record
from atlas.segment import StatisticsColumns
from atlas.session import Session
from atlas.writer import Held, HeldRows, PendingArray, filled, in_batches

# Numbers of this many bytes are encoded as they come: a large file is never in memory twice.
_ENCODE_ABOVE = 256 << 10


class Place(NamedTuple):
    """Where a chunk belongs."""

    dataset: int
    array: str
    chunk: int


class Draft:
    """A dataset of no store yet; takes what a :class:`~atlas.view.DatasetView` takes.

    Attributes
    ----------
    record : DatasetRecord
    cells : dict of str to ndarray
        Whole arrays that are not encoded yet.
    encoded : list of (EncodedRows, list of (array, chunk number))
    """

    def __init__(self, config: StoreConfig) -> None:
        self._config = config
        self.record = DatasetRecord()
        self.cells: dict[str, NDArray[Any]] = {}
        self.encoded: list[tuple[EncodedRows, list[tuple[str, int]]]] = []

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
        first = (0,) * len(schema.shape) if start is None else start
        box = resolve_selection(schema.shape, first, cells.shape, f"array {name!r}")
        if box.shape == schema.shape:
            self.take(schema, cells)
            return
        whole = self.cells.setdefault(name, filled(schema, schema.shape))
        whole[tuple(map(slice, box.start, np.add(box.start, box.shape)))] = cells

    def take(self, schema: ArraySchema, cells: NDArray[Any]) -> None:
        """Take all cells of an array, in the type that it is stored in."""
        self.record.arrays[schema.name] = schema
        if cells.nbytes < _ENCODE_ABOVE or schema.dtype.is_text:
            self.cells[schema.name] = cells
            return
        items = ((schema, (schema.name, number), chunk) for number, chunk in _chunks(schema, cells))
        self.encoded += [(encode_rows(own, rows, self._config), keys) for own, keys, rows in in_batches(items)]

    def part(self, name: str) -> DatasetRecord:
        """Return what is declared of one array."""
        attributes = {array: own for array, own in self.record.array_attributes.items() if array == name}
        return DatasetRecord({name: self.record.arrays[name]}, {}, attributes)

    def array_fill_value(self, name: str) -> Any:
        """Return the declared fill value."""
        return self.record.arrays[name].fill

    def set_attribute(self, key: str, value: Any, dtype: str | None = None) -> None:
        """Set an attribute of the dataset."""
        self.record.attributes[key] = encode_attribute(value, dtype, f"attribute {check_key(key)!r}")

    def set_array_attribute(self, array: str, key: str, value: Any, dtype: str | None = None) -> None:
        """Set an attribute of one array."""
        encoded = encode_attribute(value, dtype, f"attribute {check_key(key)!r} of array {array!r}")
        self.record.array_attributes.setdefault(array, {})[key] = encoded


def _chunks(schema: ArraySchema, cells: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    if schema.grid.count == 1:
        yield 0, cells
        return
    for number in range(schema.grid.count):
        box = schema.grid.extent(number)
        yield number, cells[tuple(map(slice, box.start, np.add(box.start, box.shape)))]


@dataclass(frozen=True)
class Prepared:
    """Datasets that only need to be added.

    Attributes
    ----------
    templates : list of Template
    rows : list of (template number, dimension sizes, attribute values)
        What each dataset declares.
    chunks : list of (EncodedRows, list of Place)
    """

    templates: list[Template]
    rows: Sequence[tuple[int, Sequence[int], list[Any]]]
    chunks: list[tuple[EncodedRows, list[Place]]]

    @staticmethod
    def of(drafts: Sequence[Draft], config: StoreConfig) -> Prepared:
        """Encode what is not encoded yet, chunks that look alike together."""
        templates: dict[Template, int] = {}
        rows = []
        for draft in drafts:
            template, sizes, values = split_record(draft.record)
            rows.append((templates.setdefault(template, len(templates)), sizes, values))
        chunks = [
            (encoded, [Place(number, *key) for key in keys])
            for number, draft in enumerate(drafts)
            for encoded, keys in draft.encoded
        ]
        items = (
            (draft.record.arrays[array], Place(number, array, chunk), part)
            for number, draft in enumerate(drafts)
            for array, cells in draft.cells.items()
            for chunk, part in _chunks(draft.record.arrays[array], cells)
        )
        chunks += [(encode_rows(schema, cells, config), keys) for schema, keys, cells in in_batches(items)]
        return Prepared(list(templates), rows, chunks)

    def to_bytes(self) -> bytes:
        """Return it as it travels between processes, and waits in files."""
        templates = [template.to_json() for template in self.templates]
        chunks = [[places, *map(_plain, _columns(encoded))] for encoded, places in self.chunks]
        packed: bytes = msgpack.packb([templates, self.rows, chunks])
        return packed

    @staticmethod
    def from_bytes(data: bytes) -> Prepared:
        """Inverse of :meth:`to_bytes`.

        Raises
        ------
        ValueError, TypeError, LookupError, AtlasError
            If these are other bytes.
        """
        templates, rows, chunks = msgpack.unpackb(data)
        found = []
        for places, *columns in chunks:
            payloads, length, raw_length, pipeline, checksum, *statistics = map(_array, columns)
            encoded = EncodedRows(payloads, length, raw_length, pipeline, checksum, StatisticsColumns(*statistics))
            found.append((encoded, [Place(*place) for place in places]))
        return Prepared([Template.from_json(template) for template in templates], [tuple(row) for row in rows], found)


def _columns(encoded: EncodedRows) -> list[NDArray[Any]]:
    return [*encoded[:-1], *encoded.statistics]


def _plain(column: NDArray[Any]) -> Any:
    return column.tolist() if column.dtype == object else [column.dtype.str, column.tobytes()]


def _array(plain: Any) -> NDArray[Any]:
    if len(plain) == 2 and isinstance(plain[0], str):
        return np.frombuffer(plain[1], plain[0])
    cells = np.empty(len(plain), object)
    cells[:] = plain
    return cells


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
    failed: dict[str, AtlasError] = {}
    with session.lock:
        session.writable()
        chunks = _held(session, prepared, names)
        clashes: dict[int, AtlasError | None] = {}
        for name, (kind, sizes, values), own in zip(names, prepared.rows, chunks, strict=True):
            if name is None:
                continue
            record = prepared.templates[kind].record(sizes, values)
            if kind not in clashes:
                clashes[kind] = _clash(session, record)
            try:
                _add(session, name, record, own, clashes[kind], replace)
            except AtlasError as error:
                failed[name] = error
    return failed


def _held(session: Session, prepared: Prepared, names: Sequence[str | None]) -> list[dict[str, dict[int, Any]]]:
    """Put the payloads into the heap; return each dataset's chunks by array and number."""
    found: list[dict[str, dict[int, Any]]] = [{} for _ in prepared.rows]
    for encoded, places in prepared.chunks:
        if any(names[place.dataset] is not None for place in places):
            rows = HeldRows.put(session.pending.heap, encoded)
            for row, (dataset, array, chunk) in enumerate(places):
                found[dataset].setdefault(array, {})[chunk] = Held(rows, row)
    return found


def _clash(session: Session, record: DatasetRecord) -> AtlasError | None:
    """Widen the collection's types; return what the policy for types that cannot merge says of it."""
    owners: list[tuple[str | None, Attributes]] = [(None, record.attributes), *record.array_attributes.items()]
    tags = {owner: {key: tag for key, (tag, _) in attributes.items()} for owner, attributes in owners}
    try:
        merge_schema(session, record.arrays.values(), tags)
    except TypeMismatch as error:
        return error
    return None


def _add(
    session: Session,
    name: str,
    record: DatasetRecord,
    chunks: dict[str, dict[int, Any]],
    clash: AtlasError | None,
    replace: bool,
) -> None:
    name = check_name(name, "dataset")
    if session.exists(name) and not replace:
        raise DatasetAlreadyExists(f"dataset already exists: {name!r}")
    if clash is not None:
        raise clash
    if session.exists(name):
        # The merged schema is left as it is: wider than it need be is all that it can be.
        session.pending.delete(name, session.snapshot.root)
    session.create(name)
    session.pending.records[name] = record
    session.pending.arrays[name] = {
        array: PendingArray(schema, True, chunks.get(array, {})) for array, schema in record.arrays.items()
    }
