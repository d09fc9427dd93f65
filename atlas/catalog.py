"""The dataset table: which datasets there are and what each declares, kept by column.

Datasets that share a template form a *group*; a group keeps dimension sizes and attribute values
as columns, so that a million datasets cost no Python object each.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atlas.chunks import MAX_CELLS
from atlas.errors import InvalidArgument
from atlas.schema import ArraySchema, DatasetRecord, Template, check_name, split_record

Integers = NDArray[np.int64]
MAX_SLOTS = 1 << 31


class Constant(NamedTuple):
    """A column that holds one value in every row."""

    value: Any


Column = Constant | list[Any]


def _cell(column: Column, row: int) -> Any:
    return column.value if isinstance(column, Constant) else column[row]


def _same(first: Any, second: Any) -> bool:
    # -0.0 equals 0.0 and True equals 1, yet they are different values to keep.
    return type(first) is type(second) and first == second and (first != 0 or repr(first) == repr(second))


def _extended(column: Column, rows: int, values: Sequence[Any]) -> Column:
    if isinstance(column, Constant):
        if all(_same(column.value, value) for value in values):
            return column
        column = [column.value] * rows
    return [*column, *values]


@dataclass(frozen=True)
class Group:
    """The datasets of one template.

    Attributes
    ----------
    template : Template
    sizes : (rows, dims) int64
    columns : list of Column
        One per attribute slot of the template.
    """

    template: Template
    sizes: Integers
    columns: list[Column]

    @cached_property
    def key(self) -> str:
        """What makes templates the same: their written form, where NaN equals NaN."""
        return template_key(self.template)

    def record(self, row: int) -> DatasetRecord:
        """Return the record in one row."""
        return self.template.record(self.sizes[row], [_cell(column, row) for column in self.columns])

    def extended(self, sizes: Sequence[Sequence[int]], values: Sequence[Sequence[Any]]) -> Group:
        """Return the group with rows added behind."""
        rows = len(self.sizes)
        added = np.array(sizes, np.int64).reshape(len(sizes), len(self.template.dims))
        columns = [
            _extended(column, rows, [row[slot] for row in values]) if rows else _fresh([row[slot] for row in values])
            for slot, column in enumerate(self.columns)
        ]
        return Group(self.template, np.concatenate([self.sizes, added]), columns)

    def taken(self, rows: Integers) -> Group:
        """Return the group with these rows only."""
        picks = rows.tolist()
        columns = [c if isinstance(c, Constant) else _fresh([c[i] for i in picks]) for c in self.columns]
        return Group(self.template, self.sizes[rows], columns)


def _fresh(values: list[Any]) -> Column:
    return Constant(values[0]) if values and all(_same(values[0], value) for value in values) else values


def template_key(template: Template) -> str:
    """Return the written form of a template."""
    return json.dumps(template.to_json())


def _empty_group(template: Template) -> Group:
    return Group(template, np.zeros((0, len(template.dims)), np.int64), [[] for _ in template.slots])


@dataclass(frozen=True)
class Catalog:
    """One committed state of the dataset table; never changed in place.

    Attributes
    ----------
    names : list of str or None
        By ordinal; ``None`` for a deleted slot.
    group : (slots,) int64
        Position of each dataset's group in `groups`; -1 for a deleted slot.
    row : (slots,) int64
        Row of each dataset in its group.
    changed : (slots,) int64
        The generation in which each dataset last changed.
    groups : list of Group
    """

    names: list[str | None]
    group: Integers
    row: Integers
    changed: Integers
    groups: list[Group]

    @staticmethod
    def empty() -> Catalog:
        """Return a table without datasets."""
        nothing = np.zeros(0, np.int64)
        return Catalog([], nothing, nothing, nothing, [])

    @property
    def slots(self) -> int:
        """Rows in all, deleted ones included."""
        return len(self.names)

    @cached_property
    def ordinals(self) -> dict[str, int]:
        """Ordinal of every live dataset, by name; built on first use."""
        return {name: i for i, name in enumerate(self.names) if name is not None}

    def record(self, ordinal: int) -> DatasetRecord:
        """Return what a dataset declares."""
        return self.groups[int(self.group[ordinal])].record(int(self.row[ordinal]))

    def live_templates(self) -> Iterator[Template]:
        """Yield every template that a live dataset has, in order of first use."""
        used = self.group[self.group >= 0]
        codes, first = np.unique(used, return_index=True)
        for code in codes[np.argsort(first)]:
            yield self.groups[code].template

    def layouts(self, array: str, ordinals: Integers) -> tuple[Integers, list[ArraySchema]]:
        """Return the distinct schemas of an array over datasets, and which one each dataset has.

        Returns
        -------
        codes : (n,) int64
            Position in `schemas`, or -1 where the dataset lacks the array.
        schemas : list of ArraySchema
        """
        codes = np.full(len(ordinals), -1, np.int64)
        schemas: list[ArraySchema] = []
        groups = self.group[ordinals]
        for code in np.unique(groups[groups >= 0]):
            template = self.groups[code].template
            position = template.positions.get(array)
            if position is None:
                continue
            here = np.flatnonzero(groups == code)
            sizes, inverse = self._distinct_sizes(code, position, self.row[ordinals[here]])
            codes[here] = inverse + len(schemas)
            definition = template.arrays[position]
            wanted = [d for d in template.dims if d in definition.dims]
            schemas += [definition.resolve(dict(zip(wanted, row, strict=True))) for row in sizes.tolist()]
        return codes, schemas

    def _distinct_sizes(self, code: int, position: int, rows: Integers) -> tuple[Integers, Integers]:
        group = self.groups[code]
        definition = group.template.arrays[position]
        columns = [i for i, dim in enumerate(group.template.dims) if dim in definition.dims]
        sizes: Integers = group.sizes[rows][:, columns]
        if len(sizes) and (sizes == sizes[0]).all():
            return sizes[:1], np.zeros(len(rows), np.int64)
        distinct, inverse = np.unique(sizes, axis=0, return_inverse=True)
        return distinct, inverse.reshape(-1)

    def with_changes(
        self, upserts: Mapping[int, tuple[str, DatasetRecord]], deleted: Iterable[int], generation: int
    ) -> Catalog:
        """Return the table after datasets were added, replaced (same ordinal) or deleted."""
        slots = max([self.slots, *(ordinal + 1 for ordinal in upserts)])
        grow = slots - self.slots
        names = [*self.names, *[None] * grow]
        group = np.concatenate([self.group, np.full(grow, -1, np.int64)])
        row = np.concatenate([self.row, np.zeros(grow, np.int64)])
        changed = np.concatenate([self.changed, np.zeros(grow, np.int64)])
        groups = list(self.groups)
        known = {entry.key: i for i, entry in enumerate(groups)}
        added: dict[int, list[tuple[int, tuple[int, ...], list[Any]]]] = {}
        for ordinal, (name, record) in upserts.items():
            template, sizes, values = split_record(record)
            key = template_key(template)
            if key not in known:
                known[key] = len(groups)
                groups.append(_empty_group(template))
            added.setdefault(known[key], []).append((ordinal, sizes, values))
            names[ordinal], changed[ordinal] = name, generation
        for code, rows in added.items():
            first = len(groups[code].sizes)
            for i, (ordinal, _, _) in enumerate(rows):
                group[ordinal], row[ordinal] = code, first + i
            groups[code] = groups[code].extended([r[1] for r in rows], [r[2] for r in rows])
        for ordinal in deleted:
            names[ordinal], group[ordinal], changed[ordinal] = None, -1, generation
        return Catalog(names, group, row, changed, groups)

    def compacted(self) -> tuple[Catalog, Integers]:
        """Return the table without deleted slots, and the new ordinal of every old one (-1: deleted)."""
        keep = np.flatnonzero(self.group >= 0)
        moved = np.full(self.slots, -1, np.int64)
        moved[keep] = np.arange(len(keep))
        names = [self.names[i] for i in keep.tolist()]
        return Catalog(names, self.group[keep], self.row[keep], self.changed[keep], self.groups), moved

    def to_json(self) -> tuple[list[Any], dict[str, Any]]:
        """Return the schemas and the dataset table as the root object keeps them."""
        schemas: list[Any] = []
        parts: list[Any] = []
        for code, group in enumerate(self.groups):
            ordinals = np.flatnonzero(self.group == code)
            if not len(ordinals):
                continue
            live = group.taken(self.row[ordinals])
            parts.append(
                {
                    "schema": len(schemas),
                    "ordinals": _to_runs(ordinals),
                    "names": [self.names[i] for i in ordinals.tolist()],
                    "changed": _column_json(_fresh(self.changed[ordinals].tolist())),
                    "sizes": [_column_json(_fresh(column.tolist())) for column in live.sizes.T],
                    "attributes": [_column_json(column) for column in live.columns],
                }
            )
            schemas.append(live.template.to_json())
        return schemas, {"slots": self.slots, "parts": parts}

    @staticmethod
    def from_json(schemas: Any, table: Any) -> Catalog:
        """Inverse of :meth:`to_json`, checking everything; raises :class:`InvalidArgument`."""
        _expect(isinstance(schemas, list) and isinstance(table, dict), "the dataset table is malformed")
        templates = [Template.from_json(schema) for schema in schemas]
        slots, parts = table.get("slots"), table.get("parts")
        _expect(_is_count(slots, MAX_SLOTS) and isinstance(parts, list), "the dataset table is malformed")
        names: list[str | None] = [None] * slots
        group = np.full(slots, -1, np.int64)
        row, changed = np.zeros(slots, np.int64), np.zeros(slots, np.int64)
        groups = []
        for code, part in enumerate(parts):
            _expect(isinstance(part, dict) and _is_count(part.get("schema"), len(templates) - 1), "bad schema number")
            template = templates[part["schema"]]
            ordinals = _from_runs(part.get("ordinals"), slots)
            rows = len(ordinals)
            _expect((group[ordinals] == -1).all() and len(np.unique(ordinals)) == rows, "an ordinal is used twice")
            group[ordinals], row[ordinals] = code, np.arange(rows)
            changed[ordinals] = _integers(part.get("changed"), rows)
            _take_names(names, ordinals, part.get("names"))
            sizes = _columns(part.get("sizes"), len(template.dims))
            values = _columns(part.get("attributes"), len(template.slots))
            table_sizes = [_integers(column, rows) for column in sizes]
            matrix = np.stack(table_sizes, axis=1) if table_sizes else np.zeros((rows, 0), np.int64)
            groups.append(Group(template, matrix, [_column_of(column, rows) for column in values]))
        catalog = Catalog(names, group, row, changed, groups)
        _expect(len(catalog.ordinals) == int((group >= 0).sum()), "two datasets have the same name")
        return catalog


def _expect(condition: Any, message: str) -> None:
    if not condition:
        raise InvalidArgument(message)


def _is_count(value: Any, limit: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= limit


def _take_names(names: list[str | None], ordinals: Integers, given: Any) -> None:
    _expect(isinstance(given, list) and len(given) == len(ordinals), "names do not match their ordinals")
    for ordinal, name in zip(ordinals.tolist(), given, strict=True):
        names[ordinal] = check_name(name, "dataset")


def _column_json(column: Column) -> dict[str, Any]:
    return {"all": column.value} if isinstance(column, Constant) else {"each": column}


def _columns(value: Any, count: int) -> list[Any]:
    _expect(isinstance(value, list) and len(value) == count, "a dataset table has the wrong number of columns")
    return list(value)


def _column_of(value: Any, rows: int) -> Column:
    _expect(isinstance(value, dict) and len(value) == 1, "a column is malformed")
    if "all" in value:
        return Constant(value["all"])
    each = value.get("each")
    _expect(isinstance(each, list) and len(each) == rows, "a column has the wrong length")
    return list(each)


def _integers(value: Any, rows: int) -> Integers:
    column = _column_of(value, rows)
    cells = [column.value] if isinstance(column, Constant) else column
    _expect(set(map(type, cells)) <= {int}, "a column of integers holds something else")
    _expect(all(0 <= cell <= MAX_CELLS for cell in cells), "an integer is out of range")
    return np.full(rows, cells[0], np.int64) if isinstance(column, Constant) else np.array(cells, np.int64)


def _to_runs(ordinals: Integers) -> list[list[int]]:
    breaks = np.flatnonzero(np.diff(ordinals) != 1) + 1
    return [[int(run[0]), len(run)] for run in np.split(ordinals, breaks)]


def _from_runs(value: Any, slots: int) -> Integers:
    _expect(isinstance(value, list), "ordinals are malformed")
    total = 0
    for run in value:
        _expect(isinstance(run, list) and len(run) == 2 and all(_is_count(n, slots) for n in run), "bad ordinals")
        total += run[1]
        _expect(run[0] + run[1] <= slots and total <= slots, "an ordinal is out of range")
    pieces = [np.arange(first, first + count, dtype=np.int64) for first, count in value]
    return np.concatenate(pieces) if pieces else np.zeros(0, np.int64)
