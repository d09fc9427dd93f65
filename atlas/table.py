"""Table files (``.at``): a layer of the dataset table by column, for stores too large for their root to hold it.

::

    magic "ATLASAT1" | file id, 16 bytes | columns … | directory | directory length, u64
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np

from atlas.columnfile import ColumnFile, DataFile, finish_file
from atlas.columns import Column, Texts, cell_type
from atlas.errors import CorruptIndex, InvalidArgument
from atlas.groups import Group, LazyColumns
from atlas.layer import Layer, check_extents
from atlas.names import Names
from atlas.storage import DataWriter

MAGIC = b"ATLASAT1"


def write_table(
    writer: DataWriter, key: str, file_id: bytes, layer: Layer, head: dict[str, Any]
) -> tuple[DataFile, bytes | bytearray]:
    """Write a layer as a table file, which is not yet durable; return the file, and a copy of its index.

    Parameters
    ----------
    head : dict
        What the file says of itself: the store, the commit and so on.
    """
    writer.write(MAGIC + file_id)
    return finish_file(writer, key, head | layer_head(layer), layer_columns(layer))


def layer_head(layer: Layer) -> dict[str, Any]:
    """Return what the directory of a file with a layer says besides its columns."""
    return {"schemas": [group.written for group in layer.groups], "rows": [group.rows for group in layer.groups]}


def layer_columns(layer: Layer) -> dict[str, Any]:
    """Return a layer as columns of a file."""
    hashes, order = layer.names.index
    columns: dict[str, Any] = {
        "ordinal": layer.ordinals.astype("<u4"),
        "name": layer.names.texts,
        "hash": hashes.astype("<u8"),
        "order": order.astype("<u4"),
        "changed": layer.changed,
        "group": layer.group.astype("<u4"),
        "row": layer.row.astype("<u4"),
        "deleted": layer.deleted.astype("<u4"),
    }
    for code, group in enumerate(layer.groups):
        columns |= {f"{code}.size.{i}": column for i, column in enumerate(group.sizes)}
        columns |= {f"{code}.attribute.{i}": column for i, column in enumerate(group.columns)}
    return columns


def read_layer(file: ColumnFile, slots: int) -> Layer:
    """Return the layer that a file holds; attributes and sizes are decoded when first asked for.

    Raises
    ------
    CorruptIndex
        If it makes no sense.
    """
    ordinals = file.integers("ordinal").astype(np.int64)
    deleted = file.integers("deleted").astype(np.int64)
    size = len(ordinals)
    for values in (ordinals, deleted):
        within = not len(values) or 0 <= values[0] <= values[-1] < slots
        file.expect(within and (np.diff(values) > 0).all(), "its ordinals are wrong")
    # No two datasets have the same name.
    texts = file.column("name", constant=True)
    hashes, order = file.integers("hash"), file.integers("order")
    group, row = file.integers("group"), file.integers("row")
    lengths = {len(texts), len(hashes), len(order), len(group), len(row)}
    file.expect(lengths == {size}, "its columns differ in length")
    file.expect(isinstance(texts, Texts) and (order < size).all() and (texts.lengths > 1).all(), "its names are wrong")
    groups = _groups(file)
    held = np.array([entry.rows for entry in groups], np.int64)
    file.expect(not size or (int(group.max()) < len(groups) and (row < held[group]).all()), "its groups are wrong")
    # As they are written: NumPy neither counts unsigned ones of 64 bits, nor adds signed ones to them.
    order, group, row = (column.astype("<u4", copy=False) for column in (order, group, row))
    return Layer(
        ordinals, Names(texts, hashes, order), _column(file, "changed", size, "int64"), group, row, groups, deleted
    )


def _groups(file: ColumnFile) -> list[Group]:
    schemas, rows = file.head.get("schemas"), file.head.get("rows")
    valid = isinstance(schemas, list) and isinstance(rows, list) and len(schemas) == len(rows)
    valid = valid and all(isinstance(n, int) and 0 <= n <= file.most_rows for n in rows or [])
    file.expect(valid, "its schemas are wrong")
    return [
        _group(file, code, written, n) for code, (written, n) in enumerate(zip(schemas or [], rows or [], strict=True))
    ]


def _group(file: ColumnFile, code: int, written: Any, rows: int) -> Group:
    dims, slots = _counts(written)
    sizes = LazyColumns(dims, lambda i: _column(file, f"{code}.size.{i}", rows, "int64"))
    values = LazyColumns(slots, lambda i: _column(file, f"{code}.attribute.{i}", rows, group.template.slots[i][2]))
    group = Group(written, rows, sizes, values)
    return group


def _counts(written: Any) -> tuple[int, int]:
    with suppress(TypeError, KeyError, AttributeError):
        attributes = len(written["attributes"]) + sum(len(array.get("attributes", ())) for array in written["arrays"])
        return len(written["dims"]), attributes
    raise CorruptIndex("the dataset table is damaged: a schema is malformed")


def _column(file: ColumnFile, name: str, rows: int, tag: str) -> Column:
    cells = file.column(name, constant=True)
    kind = cell_type(tag)
    is_text = isinstance(cells, Texts)
    fits = is_text if kind in ("text", "packed") else not is_text and cells.dtype == kind
    file.expect(
        fits and (len(cells) == rows or (rows and len(cells) == 1)), f"column {name!r} is not what its schema says"
    )
    column = Column(rows, cells)
    if tag == "int64" and ".size." in name:
        _check_sizes(column)
    return column


def _check_sizes(column: Column) -> None:
    try:
        check_extents(column)
    except InvalidArgument as error:
        raise CorruptIndex(f"the dataset table is damaged: {error}") from None
