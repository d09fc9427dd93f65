"""A layer of the dataset table: rows that were added or changed together, and rows of older layers that are gone.

What a commit does to the table is a layer; so is what a table file holds. Newer layers hide what
older ones say of the same ordinals.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas.checks import expect, is_count
from atlas.chunks import MAX_CELLS
from atlas.columnfile import FREE_ROWS
from atlas.columns import (
    Column,
    Integers,
    cell_value,
    column_values,
    distinct,
    group_members,
    integer_column,
    positions,
    runs,
    values_column,
)
from atlas.forks import cached_property
from atlas.groups import Declared, Group
from atlas.names import Names
from atlas.schema import DatasetRecord, Template


def _nothing() -> Integers:
    return np.zeros(0, np.int64)


def _all_changed(generation: int, rows: int) -> Column:
    return Column(rows, np.full(min(rows, 1), generation, np.int64))


@dataclass(frozen=True)
class Layer:
    """Rows of the dataset table, in ascending order of ordinal.

    Attributes
    ----------
    ordinals : (n,) int64
    names : Names
    changed : Column
        Generation in which each dataset last changed.
    group, row : (n,) integers
        Which of `groups` each dataset belongs to, and its row there.
    groups : sequence of Group
    deleted : (k,) int64
        Ordinals of older layers that are gone, ascending.
    """

    ordinals: Integers
    names: Names
    changed: Column
    group: NDArray[np.integer]
    row: NDArray[np.integer]
    groups: Sequence[Group]
    deleted: Integers = field(default_factory=_nothing)

    @staticmethod
    def empty() -> Layer:
        """Return a layer without rows."""
        return Layer(_nothing(), Names.of([]), integer_column([]), _nothing(), _nothing(), [])

    @staticmethod
    def of(names: Names, declared: Declared, ordinals: Integers, generation: int) -> Layer:
        """Return a layer of datasets, with ascending ordinals, that all changed in one generation."""
        changed = _all_changed(generation, len(ordinals))
        return Layer(ordinals, names, changed, declared.group, declared.row, declared.groups)

    @staticmethod
    def of_records(rows: Iterable[tuple[int, str, DatasetRecord]], generation: int) -> Layer:
        """Return a layer of single datasets."""
        ordered = sorted(rows, key=lambda item: item[0])
        declared = Declared.of_records(record for _, _, record in ordered)
        names = Names.of([name for _, name, _ in ordered])
        return Layer.of(names, declared, np.array([ordinal for ordinal, _, _ in ordered], np.int64), generation)

    def __len__(self) -> int:
        return len(self.ordinals)

    @cached_property
    def weight(self) -> int:
        """About the bytes that the layer takes as text, and one for each deleted ordinal: readers make room for it."""
        columns = [column for group in self.groups for part in (group.sizes, group.columns) for column in part]
        cells = sum(len(column.cells) for column in (*columns, self.changed))
        texts = sum(len(c.cells.data) for c in columns if not isinstance(c.cells, np.ndarray))
        spans = len(runs(self.ordinals)[0]) + len(runs(self.deleted)[0])
        written = sum(len(group.key) for group in self.groups)
        return len(self.names.texts.data) + 3 * len(self) + 8 * cells + texts + 12 * spans + len(self.deleted) + written

    @cached_property
    def firsts(self) -> Integers:
        """The first row of every group."""
        firsts = np.zeros(len(self.groups), np.int64)
        # Of repeated positions the last assignment counts.
        firsts[self.group[::-1]] = np.arange(len(self))[::-1]
        return firsts

    @cached_property
    def holders(self) -> dict[str, list[int]]:
        """The groups that have each array."""
        found: dict[str, list[int]] = {}
        for code, group in enumerate(self.groups):
            for array in group.template.positions:
                found.setdefault(array, []).append(code)
        return found

    def rows_of(self, ordinals: Integers) -> Integers:
        """Return the row of every ordinal, -1 where this layer says nothing of it."""
        return positions(self.ordinals, ordinals)

    def deletes(self, ordinals: Integers) -> NDArray[np.bool_]:
        """Return which ordinals of older layers this one takes away."""
        return positions(self.deleted, ordinals) >= 0

    def hidden(self, newer: Layer) -> Integers:
        """Return the rows that a newer layer replaces or takes away."""
        rows = self.rows_of(np.concatenate([newer.ordinals, newer.deleted]))
        return distinct(rows[rows >= 0])

    def members(self, rows: Integers) -> list[tuple[int, Integers]]:
        """Return the groups that rows belong to, each with the positions of its rows."""
        return group_members(self.group[rows])

    @property
    def declared(self) -> Declared:
        """What the datasets declare."""
        return Declared(self.groups, self.group, self.row)

    def take(self, rows: Integers) -> Layer:
        """Return some rows, in ascending order; nothing is deleted by the result."""
        if len(rows) == len(self):
            return self if not len(self.deleted) else replace(self, deleted=_nothing())
        names = self.names.keep(rows) if 2 * len(rows) > len(self) else self.names.take(rows)
        declared = self.declared.take(rows)
        return Layer(self.ordinals[rows], names, self.changed.take(rows), declared.group, declared.row, declared.groups)

    def renumbered(self, ordinals: Integers) -> Layer:
        """Return the layer with other ordinals, as ascending as its own."""
        return replace(self, ordinals=ordinals)

    def changed_in(self, generation: int) -> Layer:
        """Return the layer as if all its rows had changed in one generation."""
        return replace(self, changed=_all_changed(generation, len(self)))

    def deleting(self, deleted: Integers) -> Layer:
        """Return the layer that takes these ordinals of older ones away."""
        return replace(self, deleted=distinct(deleted))

    # ── as text ──────────────────────────────────────────────────────────────────────────────

    @cached_property
    def written(self) -> tuple[list[Any], list[Any]]:
        """The schemas and the parts of the dataset table that the root object holds."""
        names = self.names.tolist()
        schemas: list[Any] = []
        parts: list[Any] = []
        for code, rows in self.members(np.arange(len(self))):
            group = self.groups[code].take(self.row[rows])
            slots = zip(group.template.slots, group.columns, strict=True)
            parts.append(
                {
                    "schema": len(schemas),
                    "ordinals": runs_json(self.ordinals[rows]),
                    "names": [names[i] for i in rows.tolist()],
                    "changed": _column_json("int64", self.changed.take(rows)),
                    "sizes": [_column_json("int64", column) for column in group.sizes],
                    "attributes": [_column_json(tag, column) for (_, _, tag), column in slots],
                }
            )
            schemas.append(group.written)
        return schemas, parts

    @staticmethod
    def from_json(schemas: Any, parts: Any, deleted: Any, slots: int) -> Layer:
        """Inverse of :attr:`written`, checking everything; raises :class:`InvalidArgument`."""
        expect(isinstance(schemas, list) and isinstance(parts, list), "the dataset table is malformed")
        expect(len(parts) <= len(schemas), "a schema has several parts")
        layer = stacked([_part_layer(schemas, part, slots) for part in parts])
        expect((np.diff(layer.ordinals) > 0).all(), "an ordinal is used twice")
        expect(len(set(layer.names.tolist())) == len(layer), "two datasets have the same name")
        return layer.deleting(runs_from_json(deleted, slots, FREE_ROWS))


def joined(layers: Sequence[Layer], bottom: bool = True) -> Layer:
    """Return adjacent layers, oldest first, as one.

    Parameters
    ----------
    bottom : bool
        Whether there is no older layer, so that nothing is left to delete.
    """
    pieces = []
    for depth, layer in enumerate(layers):
        hidden = [layer.hidden(newer) for newer in layers[depth + 1 :]]
        keep = np.ones(len(layer), bool)
        for rows in hidden:
            keep[rows] = False
        pieces.append(layer.take(np.flatnonzero(keep)))
    merged = stacked([piece for piece in pieces if len(piece)])
    if bottom:
        return merged
    deleted = distinct(np.concatenate([layer.deleted for layer in layers]))
    return merged.deleting(deleted[merged.rows_of(deleted) < 0])


def stacked(layers: Sequence[Layer]) -> Layer:
    """Return layers of different ordinals as one."""
    if len(layers) < 2:
        return layers[0] if layers else Layer.empty()
    ordinals = np.concatenate([layer.ordinals for layer in layers])
    declared = Declared.joined([layer.declared for layer in layers])
    result = Layer(
        ordinals,
        Names.joined([layer.names for layer in layers]),
        Column.joined([layer.changed for layer in layers]),
        declared.group,
        declared.row,
        declared.groups,
    )
    order = np.argsort(ordinals, kind="stable")
    return result if (np.diff(ordinals) > 0).all() else _reordered(result, order)


def _reordered(layer: Layer, order: Integers) -> Layer:
    names, changed = layer.names.take(order), layer.changed.take(order)
    return Layer(layer.ordinals[order], names, changed, layer.group[order], layer.row[order], layer.groups)


# ── the text form, checked ───────────────────────────────────────────────────────────────────────


def _part_layer(schemas: list[Any], part: Any, slots: int) -> Layer:
    expect(isinstance(part, dict) and is_count(part.get("schema"), len(schemas) - 1), "bad schema number")
    written = schemas[part["schema"]]
    template = Template.from_json(written)
    names = part.get("names")
    expect(isinstance(names, list), "names are malformed")
    ordinals = runs_from_json(part.get("ordinals"), slots, len(names))
    rows = len(ordinals)
    expect((np.diff(ordinals) > 0).all(), "ordinals are not ascending")
    expect(len(names) == rows, "names do not match their ordinals")
    sizes = [_integers(column, rows) for column in _listed(part.get("sizes"), len(template.dims))]
    values = zip(template.slots, _listed(part.get("attributes"), len(template.slots)), strict=True)
    columns = [_column(tag, column, rows) for (_, _, tag), column in values]
    group = Group(written, rows, sizes, columns)
    zeros = np.broadcast_to(np.int64(0), (rows,))
    return Layer(
        ordinals, Names.of(names), _integers(part.get("changed"), rows), zeros, np.arange(rows), [group] if rows else []
    )


def _column_json(tag: str, column: Column) -> dict[str, Any]:
    if column.constant:
        return {"all": cell_value(tag, column.cells[0])}
    return {"each": column_values(tag, column)}


def _listed(value: Any, count: int) -> list[Any]:
    expect(isinstance(value, list) and len(value) == count, "a dataset table has the wrong number of columns")
    return list(value)


def _column(tag: str, value: Any, rows: int) -> Column:
    expect(isinstance(value, dict) and len(value) == 1, "a column is malformed")
    if "all" in value:
        return Column(rows, values_column(tag, [value["all"]]).cells)
    each = value.get("each")
    expect(isinstance(each, list) and len(each) == rows, "a column has the wrong length")
    return values_column(tag, each)


def _integers(value: Any, rows: int) -> Column:
    column = _column("int64", value, rows)
    check_extents(column)
    return column


def check_extents(column: Column) -> None:
    """Refuse sizes and generations that no store has."""
    cells = np.asarray(column.cells)
    expect(bool(((cells >= 0) & (cells <= MAX_CELLS)).all()), "an integer is out of range")


def runs_json(ordinals: Integers) -> list[list[int]]:
    """Return ascending ordinals as runs ``[first, count]``."""
    firsts, counts = runs(ordinals)
    return np.stack([firsts, counts], axis=1).tolist() if len(firsts) else []


def runs_from_json(value: Any, slots: int, limit: int) -> Integers:
    """Inverse of :func:`runs_json`, checked against the number of ordinals, and of those that there may be here."""
    expect(isinstance(value, list), "ordinals are malformed")
    total = 0
    for run in value:
        expect(isinstance(run, list) and len(run) == 2 and all(is_count(n, slots) for n in run), "bad ordinals")
        total += run[1]
        expect(run[0] + run[1] <= slots and total <= limit, "an ordinal is out of range")
    pieces = [np.arange(first, first + count, dtype=np.int64) for first, count in value]
    return np.concatenate(pieces) if pieces else np.zeros(0, np.int64)
