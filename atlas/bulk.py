"""Many datasets at once: created from one schema, written from one array; no Python object for any of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas.across import name_list, read_stacked
from atlas.ahead import Sender
from atlas.attributes import check_key, encode_attribute
from atlas.chunks import Box, Integers, in_steps, resolve_box
from atlas.columns import Column, integer_column, values_column
from atlas.dtypes import as_array, as_elements, from_numpy, is_masked_array
from atlas.encoding import BATCH_BYTES, encode_batches
from atlas.errors import ArrayNotFound, DatasetAlreadyExists, DatasetNotFound, InvalidArgument, ShapeMismatch
from atlas.groups import Declared, Group
from atlas.lookup import resolve
from atlas.names import Names, seek
from atlas.pending import Block
from atlas.schema import ArraySchema, Attributes, DatasetRecord, make_array_schema, split_record
from atlas.segment import joined_cells
from atlas.session import Session
from atlas.storage import array_directory
from atlas.view import DatasetView
from atlas.writer import HeldRows

# Cells of partly written chunks that are read and encoded at a time.
_READ_BYTES = 64 << 20

_ARRAY_KEYS = {"dtype", "dims", "shape", "chunk_shape", "fill_value", "attributes", "data"}


@dataclass(frozen=True)
class _Values:
    """An attribute of many datasets: its type, and a value for each or one for all."""

    tag: str
    column: Column


def create_datasets(
    session: Session, names: Iterable[str], arrays: Mapping[str, Any] | None, attributes: Mapping[str, Any] | None
) -> None:
    """Create datasets of one schema; everything is checked before anything is recorded."""
    listed = name_list(names)
    count = len(listed)
    specs = {name: _array_spec(name, spec) for name, spec in _mapping(arrays, "arrays").items()}
    schemas = {name: _schema(name, spec, count) for name, spec in specs.items()}
    values: dict[str | None, dict[str, _Values]] = {None: _attribute_values(attributes, count, "the datasets")}
    for name, spec in specs.items():
        values[name] = _attribute_values(spec.get("attributes"), count, f"array {name!r}")
    data = {
        name: _rows(schemas[name], spec["data"], count) for name, spec in specs.items() if spec.get("data") is not None
    }
    group = _group(schemas, values, count)
    with session.lock:
        session.writable()
        checked = Names.of(listed)
        _refuse_known(session, listed, checked)
        session.merge_template(group.template)
        encoded = [_encode(session, schemas[name], schemas[name].box, rows) for name, rows in data.items()]
        with session.pending.whole():
            ids = session.pending.create_batch(checked, Declared.of_group(group), session.snapshot.root)
            for schema, numbers, held in encoded:
                session.pending.add_block(Block(schema.name, ids, numbers, held))


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidArgument(f"{what} must be a mapping by name, not {type(value).__name__}")
    return dict(value)


def _array_spec(name: str, described: Any) -> Mapping[str, Any]:
    spec = _mapping(described, f"the description of array {name!r}")
    unknown = set(spec) - _ARRAY_KEYS
    if unknown or "dims" not in spec:
        wrong = f"it has {sorted(unknown)}" if unknown else "it lacks 'dims'"
        raise InvalidArgument(f"array {name!r} is described by {', '.join(sorted(_ARRAY_KEYS))}; {wrong}")
    if spec.get("data") is None and not {"dtype", "shape"} <= set(spec):
        raise InvalidArgument(f"array {name!r} needs 'data', or 'dtype' and 'shape'")
    return spec


def _schema(name: str, spec: Mapping[str, Any], count: int) -> ArraySchema:
    dtype, shape = spec.get("dtype"), spec.get("shape")
    if spec.get("data") is not None:
        data = as_array(spec["data"], f"array {name!r}")
        if data.ndim == 0 or len(data) != count:
            raise ShapeMismatch(f"the data of array {name!r} must have {count} rows, one per name, not {data.shape}")
        dtype = ("string" if data.dtype.kind in "OUT" else from_numpy(data.dtype).name) if dtype is None else dtype
        shape = data.shape[1:] if shape is None else shape
    return make_array_schema(name, dtype, spec["dims"], shape, spec.get("chunk_shape"), spec.get("fill_value"))


def _rows(schema: ArraySchema, data: Any, count: int) -> NDArray[Any]:
    cells = as_elements(schema.dtype, data, f"array {schema.name!r}")
    if cells.shape != (count, *schema.shape):
        raise ShapeMismatch(
            f"the data of array {schema.name!r} must have shape {[count, *schema.shape]}, not {list(cells.shape)}"
        )
    return cells


def _attribute_values(attributes: Any, count: int, what: str) -> dict[str, _Values]:
    found = {}
    for key, value in _mapping(attributes, f"attributes of {what}").items():
        found[check_key(key)] = _values(value, count, f"attribute {key!r} of {what}")
    return found


def _values(value: Any, count: int, what: str) -> _Values:
    """Return what is given for all datasets, or for each in a list, an array or a pandas column."""
    if isinstance(value, (str, bytes)) or not hasattr(value, "__len__") or getattr(value, "ndim", 1) == 0:
        tag, one = encode_attribute(value, None, what)
        return _Values(tag, Column(count, values_column(tag, [one]).cells))
    if len(value) != count:
        raise ShapeMismatch(f"{what} has {len(value)} values for {count} datasets; a list holds one value per name")
    if not isinstance(value, (list, tuple)):
        value = np.asarray(value)
        value = value.tolist() if value.dtype.kind in "OUST" else value
    if (isinstance(value, np.ndarray) and value.ndim > 1) or (isinstance(value, (list, tuple)) and _is_nested(value)):
        pairs = [encode_attribute(item, None, what) for item in value]
        if len({tag for tag, _ in pairs}) != 1:
            raise InvalidArgument(f"{what} has values of different types: {', '.join(sorted({t for t, _ in pairs}))}")
        return _Values(pairs[0][0], values_column(pairs[0][0], [encoded for _, encoded in pairs]))
    tag, values = encode_attribute(value, None, what)
    return _Values(tag.removesuffix("[]"), values_column(tag.removesuffix("[]"), values))


def _is_nested(values: Sequence[Any]) -> bool:
    return any(isinstance(item, (list, tuple, np.ndarray)) for item in values)


def _group(schemas: Mapping[str, ArraySchema], values: Mapping[str | None, Mapping[str, _Values]], count: int) -> Group:
    def layout(owner: str | None) -> Attributes:
        return {key: (found.tag, None) for key, found in values[owner].items()}

    record = DatasetRecord(dict(schemas), layout(None), {name: layout(name) for name in schemas})
    template, sizes, _ = split_record(record)
    columns = [values[owner][key].column for owner, key, _ in template.slots]
    extents = [Column(count, integer_column([size]).cells) for size in sizes]
    return Group(template.to_json(), count, extents, columns)


def _refuse_known(session: Session, names: Sequence[str], checked: Names) -> None:
    hashes, order = checked.index
    twins = np.flatnonzero(hashes[1:] == hashes[:-1])
    if len(twins) and len(set(names)) != len(names):
        doubles = {names[int(order[place])] for place in twins.tolist()}
        raise DatasetAlreadyExists(f"a name is given twice: {min(doubles)!r}")
    known = are_known(session, checked)
    if known.any():
        first = names[int(np.argmax(known))]
        raise DatasetAlreadyExists(f"dataset already exists: {first!r} ({int(known.sum())} of {len(names)} do)")


def are_known(session: Session, names: Names) -> NDArray[np.bool_]:
    """Return which names datasets have, pending ones included."""
    pending, sought = session.pending, names.sought
    known = (session.snapshot.root.catalog.find_sought(sought) >= 0) | (pending.table.find(sought) >= 0)
    hidden = session.hidden()
    if hidden:
        listed = names.tolist()
        known |= np.fromiter((name in pending.records for name in listed), bool, len(names))
        gone = np.fromiter((name in hidden and not session.exists(name) for name in listed), bool, len(names))
        known &= ~gone
    return known


def delete_datasets(session: Session, names: Iterable[str]) -> None:
    """Delete datasets; all of them, or none when one is not there."""
    listed = list(dict.fromkeys(name_list(names)))
    with session.lock:
        session.writable()
        pending, sought = session.pending, seek(listed)
        committed = session.snapshot.root.catalog.find_sought(sought) >= 0
        numbers, hidden = pending.table.find(sought), session.hidden()
        for i in range(len(listed)):
            gone = not committed[i] or listed[i] in hidden
            if listed[i] not in pending.records and numbers[i] < 0 and gone:
                raise DatasetNotFound(f"dataset not found: {listed[i]!r} in {session.storage.describe()}")
        with pending.whole():
            for name in listed:
                pending.delete(name, session.snapshot.root)
            session.forget_schema()


# ── writing ──────────────────────────────────────────────────────────────────────────────────────


def write_stacked(session: Session, array: str, names: Iterable[str], data: Any, start: Sequence[int] | None) -> None:
    """Write a row of `data` to the same box of every dataset, as a loop of single writes would."""
    listed = name_list(names)
    # Of a masked array, rows that others of the same name replace do not count.
    cells = np.asanyarray(data) if is_masked_array(data) else as_array(data, f"array {array!r}")
    if cells.ndim == 0 or len(cells) != len(listed):
        raise ShapeMismatch(f"data must have {len(listed)} rows, one per name, not shape {list(cells.shape)}")
    with session.lock:
        session.writable()
        parts = _by_schema(session, array, listed)
        checked = []
        for schema, positions in parts:
            own = cells if len(positions) == len(listed) else cells[positions]
            rows = as_elements(schema.dtype, own, f"array {array!r}")
            what = f"array {array!r} of {listed[positions[0]]!r}"
            checked.append((schema, positions, resolve_box(schema.shape, start, rows.shape[1:], what), rows))
        before = session.pending.heap.size
        together, single = [], []
        try:
            for schema, positions, box, rows in checked:
                numbers, loose = _split(session, listed, positions)
                single += [(listed[positions[i]], box, rows[i, ...]) for i in loose.tolist()]
                if len(numbers):
                    own = [listed[i] for i in positions[numbers].tolist()]
                    picked = rows if len(numbers) == len(rows) else rows[numbers]
                    together.append((own, _encode(session, schema, box, picked, own)))
        except BaseException:
            session.pending.heap.rewind(before)
            raise
        for name, box, row in single:
            DatasetView(session, name).write_array(array, box.start, row)
        with session.pending.whole():
            for own, (schema, numbers, held) in together:
                if len(numbers):
                    _add_block(session, own, schema, numbers, held)


def _by_schema(session: Session, array: str, names: list[str]) -> list[tuple[ArraySchema, Integers]]:
    """Return the positions of the datasets that declare the array alike; of a repeated name, the last one counts."""
    _, layout, overlays = resolve(session, array, names)
    parts = [(schema, positions) for schema, positions, _ in layout]
    groups: dict[tuple[ArraySchema, str], list[int]] = {}
    for position, overlay in overlays.items():
        groups.setdefault((overlay.schema, repr(overlay.schema.fill)), []).append(position)
    parts += [(schema, np.sort(positions)) for (schema, _), positions in groups.items()]
    if sum(len(positions) for _, positions in parts) < len(names):
        present = np.zeros(len(names), bool)
        for _, positions in parts:
            present[positions] = True
        raise ArrayNotFound(f"array not found: {array!r} in dataset {names[int(np.argmin(present))]!r}")
    last = {name: position for position, name in enumerate(names)}
    if len(last) == len(names):
        return parts
    kept = np.zeros(len(names), bool)
    kept[list(last.values())] = True
    parts = [(schema, positions[kept[positions]]) for schema, positions in parts]
    return [part for part in parts if len(part[1])]


def _split(session: Session, names: list[str], positions: Integers) -> tuple[Integers, Integers]:
    """Return which of the datasets are written together, and which are loose."""
    records = session.pending.records
    loose = np.fromiter((names[i] in records for i in positions.tolist()), bool, len(positions))
    return np.flatnonzero(~loose), np.flatnonzero(loose)


Encoded = tuple[ArraySchema, Integers, HeldRows]


def _encode(
    session: Session, schema: ArraySchema, box: Box, rows: NDArray[Any], names: list[str] | None = None
) -> Encoded:
    """Put every chunk that a box touches, for every row, into the heap."""
    overlap = schema.grid.overlap(box)
    config, workers, heap = session.snapshot.root.config, session.snapshot.workers, session.pending.heap
    if not len(overlap.numbers):
        encoded = encode_batches([(schema, rows[:0])], config, 1)
        return schema, overlap.numbers, HeldRows.put(heap, next(encoded), schema.name)
    before = heap.size
    held: list[list[HeldRows]] = []
    is_whole = names is None or bool((overlap.block_extent == overlap.chunk_extent).all())
    sender = _sender(session, schema.name, len(rows), len(overlap.numbers)) if is_whole else None
    # What leaves as it is encoded leaves in the order that files on object stores have.
    steps = [slice(0, len(rows))] if sender is not None else in_steps(len(rows), schema.nbytes, _READ_BYTES)
    try:
        for step in steps:
            chunks = (
                (schema, _chunk_rows(session, schema, overlap, i, rows[step], names and names[step]))
                for i in range(len(overlap.numbers))
            )
            own: list[HeldRows] = []
            for done in encode_batches(_pieces(chunks), config, workers):
                own.append(HeldRows.put(heap, done, schema.name))
                if sender is not None:
                    sender.take(own[-1].columns["offset"], own[-1].columns["length"])
            held.append(own)
    except BaseException:
        heap.rewind(before)
        raise
    return schema, overlap.numbers, _in_order(held, len(overlap.numbers))


def _sender(session: Session, array: str, count: int, chunks: int) -> Sender | None:
    """Return what sends chunks ahead of the flush, where that saves time."""
    known = session.snapshot.root.arrays
    taken = {files.directory.casefold() for files in known.values()}
    directory = known[array].directory if array in known else array_directory(array, taken)
    return session.pending.starts.sender(array, directory, count, chunks)


def _chunk_rows(
    session: Session, schema: ArraySchema, overlap: Any, i: int, rows: NDArray[Any], names: list[str] | None
) -> NDArray[Any]:
    """Return one chunk of every row; where the box covers a part of it, over what is there."""
    target, block = overlap.target_start[i], overlap.block_extent[i]
    cells = rows[(slice(None), *map(slice, target, target + block))]
    if names is None or (block == overlap.chunk_extent[i]).all():
        return cells
    extent = schema.grid.extent(int(overlap.numbers[i]))
    there = read_stacked(session, schema.name, names, extent.start, extent.shape, None, "raise")
    there[(slice(None), *map(slice, overlap.block_start[i], overlap.block_start[i] + block))] = cells
    return there


def _pieces(chunks: Iterable[tuple[ArraySchema, NDArray[Any]]]) -> Iterator[tuple[ArraySchema, NDArray[Any]]]:
    """Yield rows of chunks in order: parts of many, and few of one shape together, as a task for each costs more."""
    for _, parts in groupby(_in_parts(chunks), key=lambda part: part[1].shape[1:]):
        waiting: list[NDArray[Any]] = []
        size = 0
        for schema, rows in parts:
            if waiting and size + rows.nbytes > BATCH_BYTES:
                yield schema, _joined(waiting)
                waiting, size = [], 0
            waiting.append(rows)
            size += rows.nbytes
        yield schema, _joined(waiting)


def _in_parts(chunks: Iterable[tuple[ArraySchema, NDArray[Any]]]) -> Iterator[tuple[ArraySchema, NDArray[Any]]]:
    for schema, rows in chunks:
        for step in in_steps(len(rows), rows.nbytes // max(1, len(rows)), BATCH_BYTES):
            yield schema, rows[step]


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _in_order(steps: list[list[HeldRows]], chunks: int) -> HeldRows:
    """Join what was encoded chunk by chunk into the order of the datasets."""
    parts = [held for step in steps for held in step]
    columns = {n: joined_cells([part.columns[n] for part in parts]) for n in parts[0].columns}
    joined = HeldRows(parts[0].heap, sum(part.count for part in parts), columns)
    if chunks == 1:
        return joined.shelved()
    orders, begin = [], 0
    for step in steps:
        rows = sum(held.count for held in step)
        orders.append(begin + np.arange(rows).reshape(chunks, -1).T.reshape(-1))
        begin += rows
    return joined.take(np.concatenate(orders)).shelved()


def _add_block(session: Session, names: list[str], schema: ArraySchema, numbers: Integers, held: HeldRows) -> None:
    pending = session.pending
    checked = Names.of(names)
    ids = pending.table.find(checked.sought)
    unknown = np.flatnonzero(ids < 0)
    ids[unknown] = pending.table.add(checked.take(unknown), session.snapshot.root) if len(unknown) else ids[unknown]
    order = np.argsort(ids, kind="stable")
    if (np.diff(ids) > 0).all():
        pending.add_block(Block(schema.name, ids, numbers, held, schema))
        return
    rows = (order[:, None] * len(numbers) + np.arange(len(numbers))).reshape(-1)
    pending.add_block(Block(schema.name, ids[order], numbers, held.take(rows).shelved(), schema))
