"""What many datasets declare: in groups that share a template, values by column."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from atlas.columns import Column, Integers, are_all, cell_value, group_members, integer_column, values_column
from atlas.errors import CorruptStore, InvalidArgument
from atlas.forks import cached_property
from atlas.schema import ArraySchema, DatasetRecord, Template, split_record


class LazyColumns(Sequence[Column]):
    """Columns that are decoded when first asked for."""

    def __init__(self, count: int, load: Callable[[int], Column]) -> None:
        self._load = load
        self._columns: list[Column | None] = [None] * count

    def __len__(self) -> int:
        return len(self._columns)

    @overload
    def __getitem__(self, position: int) -> Column: ...
    @overload
    def __getitem__(self, position: slice) -> list[Column]: ...
    def __getitem__(self, position: int | slice) -> Column | list[Column]:
        if isinstance(position, slice):
            return [self[i] for i in range(len(self))[position]]
        found = self._columns[position]
        if found is None:
            found = self._columns[position] = self._load(position)
        return found


@dataclass(frozen=True)
class Group:
    """The datasets of a layer that share a template.

    Attributes
    ----------
    written : dict
        The template as the format keeps it.
    rows : int
    sizes : sequence of Column
        One per dimension of the template.
    columns : sequence of Column
        One per attribute slot of the template.
    """

    written: dict[str, Any]
    rows: int
    sizes: Sequence[Column]
    columns: Sequence[Column]

    @cached_property
    def template(self) -> Template:
        """What the datasets declare; parsed when first asked for."""
        try:
            return Template.from_json(self.written)
        except (InvalidArgument, TypeError, ValueError) as error:
            raise CorruptStore(f"a schema of the dataset table is damaged: {error}") from None

    @cached_property
    def key(self) -> str:
        """What makes templates the same: their written form, where NaN equals NaN."""
        return json.dumps(self.written)

    def record(self, row: int) -> DatasetRecord:
        """Return the record in one row."""
        cells = zip(self.template.slots, self.columns, strict=True)
        values = [cell_value(tag, column.cell(row)) for (_, _, tag), column in cells]
        return self.template.record(self._sizes_of(row), values)

    def array(self, row: int, name: str) -> ArraySchema | None:
        """Return how one row declares an array; ``None`` where it does not."""
        return self.template.array(name, self._sizes_of(row))

    def _sizes_of(self, row: int) -> list[int]:
        return [int(column.cell(row)) for column in self.sizes]

    def take(self, rows: NDArray[Any]) -> Group:
        """Return the group with these rows only."""
        if are_all(rows, self.rows):
            return self
        sizes, columns = ([column.take(rows) for column in part] for part in (self.sizes, self.columns))
        return Group(self.written, len(rows), sizes, columns)

    @staticmethod
    def joined(parts: Sequence[Group]) -> Group:
        """Return groups of one template as one."""
        if len(parts) == 1:
            return parts[0]
        first = parts[0]
        sizes = [Column.joined([part.sizes[i] for part in parts]) for i in range(len(first.sizes))]
        columns = [Column.joined([part.columns[i] for part in parts]) for i in range(len(first.columns))]
        return Group(first.written, sum(part.rows for part in parts), sizes, columns)


@dataclass(frozen=True)
class Declared:
    """What each of some datasets declares.

    Attributes
    ----------
    groups : sequence of Group
    group, row : (n,) integers
        Which of `groups` each dataset belongs to, and its row there.
    """

    groups: Sequence[Group]
    group: NDArray[np.integer]
    row: NDArray[np.integer]

    @staticmethod
    def of_group(group: Group) -> Declared:
        """Return the datasets of one group."""
        zeros = np.broadcast_to(np.int64(0), (group.rows,))
        return Declared([group] if group.rows else [], zeros, np.arange(group.rows, dtype=np.uint32))

    @staticmethod
    def of_records(records: Iterable[DatasetRecord]) -> Declared:
        """Return single datasets by what they declare."""
        members: dict[str, list[tuple[tuple[int, ...], list[Any]]]] = {}
        templates: dict[str, Template] = {}
        codes: dict[str, int] = {}
        group, row = [], []
        for record in records:
            template, sizes, values = split_record(record)
            key = json.dumps(template.to_json())
            templates.setdefault(key, template)
            group.append(codes.setdefault(key, len(codes)))
            row.append(len(members.setdefault(key, [])))
            members[key].append((sizes, values))
        groups = [_group_of(templates[key], members[key]) for key in codes]
        return Declared(groups, np.array(group, np.int64), np.array(row, np.int64))

    @staticmethod
    def joined(parts: Sequence[Declared]) -> Declared:
        """Return the datasets of several behind each other."""
        codes: dict[str, int] = {}
        gathered: list[list[Group]] = []
        rows: list[int] = []
        group, row = [], []
        for part in parts:
            into, shift = np.zeros(len(part.groups), np.int64), np.zeros(len(part.groups), np.int64)
            for code, member in enumerate(part.groups):
                into[code] = own = codes.setdefault(member.key, len(codes))
                if own == len(gathered):
                    gathered.append([])
                    rows.append(0)
                shift[code] = rows[own]
                rows[own] += member.rows
                gathered[own].append(member)
            group.append(into[part.group])
            row.append(shift[part.group] + part.row)
        nothing = np.zeros(0, np.int64)
        return Declared(
            [Group.joined(members) for members in gathered],
            np.concatenate([nothing, *group]),
            np.concatenate([nothing, *row]),
        )

    def __len__(self) -> int:
        return len(self.group)

    def record(self, position: int) -> DatasetRecord:
        """Return what one dataset declares."""
        return self.groups[int(self.group[position])].record(int(self.row[position]))

    def array(self, position: int, name: str) -> ArraySchema | None:
        """Return how one dataset declares an array; ``None`` where it does not."""
        return self.groups[int(self.group[position])].array(int(self.row[position]), name)

    def take(self, positions: Integers) -> Declared:
        """Return some of the datasets, and only the groups that they have."""
        if are_all(positions, len(self)):
            return self
        group, row = np.zeros(len(positions), np.int64), np.zeros(len(positions), np.int64)
        groups: list[Group] = []
        for code, own in group_members(self.group[positions]):
            group[own], row[own] = len(groups), np.arange(len(own))
            groups.append(self.groups[code].take(self.row[positions[own]]))
        return Declared(groups, group, row)


def _group_of(template: Template, members: list[tuple[tuple[int, ...], list[Any]]]) -> Group:
    sizes = [integer_column([sizes[i] for sizes, _ in members]) for i in range(len(template.dims))]
    slots = enumerate(template.slots)
    columns = [values_column(tag, [values[i] for _, values in members]) for i, (_, _, tag) in slots]
    return Group(template.to_json(), len(members), sizes, columns)
