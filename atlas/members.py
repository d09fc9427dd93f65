"""A choice of datasets looked at by column: what they declare, where they agree, and in what they differ."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas.across import name_list
from atlas.columns import Column, Integers, Texts, values_column
from atlas.dtypes import objects
from atlas.forks import cached_property
from atlas.frames import attribute_cells
from atlas.names import seek
from atlas.pruning import attribute_values
from atlas.schema import ArraySchema, DatasetRecord
from atlas.session import Session


@dataclass(frozen=True)
class Trait:
    """Something that each of some datasets may have, in one of a few values.

    Attributes
    ----------
    codes : (n,) int64
        Which of the values each dataset has; -1 where it has none.
    values : list
        The distinct values, in order of first appearance.
    """

    codes: Integers
    values: list[Any]

    @property
    def is_common(self) -> bool:
        """Whether all datasets have it, with the same value."""
        return len(self.values) == 1 and bool((self.codes == 0).all())

    @property
    def absent(self) -> Integers:
        """The positions of the datasets that have none."""
        return np.flatnonzero(self.codes < 0)

    def take(self, positions: Integers) -> Trait:
        """Return the same of some of the datasets."""
        return Trait(self.codes[positions], self.values)


class Members:
    """Some datasets of a store, in an order of their own.

    Committed ones are known by ordinal in a state that nothing changes any more, so they travel to other processes
    as few bytes. If some have pending changes, all are known by name as well, and those are looked at one by one.

    Attributes
    ----------
    session : Session
    ordinals : (n,) int64
        -1 for those with pending changes.
    """

    def __init__(self, session: Session, ordinals: Integers, names: list[str] | None = None) -> None:
        self.session = session
        self.ordinals = ordinals
        self._names = names

    @staticmethod
    def of(session: Session, names: Iterable[str]) -> Members:
        """Return the datasets of these names.

        Raises
        ------
        DatasetNotFound
        InvalidArgument
            If there are no names.
        """
        listed = name_list(names)
        with session.lock:
            ordinals = session.snapshot.root.catalog.find(listed)
            if session.pending:
                hidden = session.hidden()
                ordinals[np.fromiter((name in hidden for name in listed), bool, len(listed))] = -1
                ordinals[session.pending.table.find(seek(listed)) >= 0] = -1
            loose = np.flatnonzero(ordinals < 0).tolist()
            for position in loose:
                session.require(listed[position])
            return Members(session, ordinals, listed) if loose else Members(session.frozen(), ordinals)

    @staticmethod
    def all(session: Session) -> Members:
        """Return all datasets that there are; unlike others, a store may have none."""
        with session.lock:
            names = session.names()
            return Members.of(session, names) if names else Members(session.frozen(), np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.ordinals)

    def __getstate__(self) -> tuple[Session, Integers, list[str] | None]:
        return self.session, self.ordinals, self._names

    def __setstate__(self, state: tuple[Session, Integers, list[str] | None]) -> None:
        self.session, self.ordinals, self._names = state

    @property
    def is_settled(self) -> bool:
        """Whether nothing changes any of the datasets any more."""
        return self._names is None

    def take(self, positions: Integers) -> Members:
        """Return some of the datasets."""
        names = None if self._names is None else [self._names[position] for position in positions.tolist()]
        return Members(self.session, self.ordinals[positions], names)

    @cached_property
    def names(self) -> list[str]:
        """Their names."""
        return self._names or self.session.snapshot.root.catalog.names_of(self.ordinals)

    def _records(self) -> dict[int, DatasetRecord]:
        loose = np.flatnonzero(self.ordinals < 0).tolist()
        return {position: self.session.record(self.names[position]) for position in loose}

    def _groups(self) -> Iterator[tuple[Any, Integers, Integers]]:
        """Yield groups of datasets of one template: the group, their positions, and their rows in it."""
        known = np.flatnonzero(self.ordinals >= 0)
        if not len(known):
            return
        for layer, positions, rows in self.session.snapshot.root.catalog.places(self.ordinals[known]):
            for code, members in layer.members(rows):
                yield layer.groups[code], known[positions[members]], layer.row[rows[members]].astype(np.int64)

    # ── arrays ───────────────────────────────────────────────────────────────────────────────

    @cached_property
    def arrays(self) -> list[str]:
        """Every array that one of them has, those of the first dataset first."""
        found = [(int(positions.min()), group.template.positions) for group, positions, _ in self._groups()]
        found += [(position, record.arrays) for position, record in self._records().items()]
        return list(dict.fromkeys(array for _, arrays in sorted(found, key=lambda item: item[0]) for array in arrays))

    def layout(self, array: str) -> Trait:
        """Return how an array is declared; the values are schemas."""
        codes = np.full(len(self), -1, np.int64)
        known = np.flatnonzero(self.ordinals >= 0)
        schemas: list[ArraySchema] = []
        if len(known):
            codes[known], schemas = self.session.snapshot.root.catalog.layouts(array, self.ordinals[known])
        for position, record in self._records().items():
            schema = record.arrays.get(array)
            if schema is not None:
                same = (
                    i for i, other in enumerate(schemas) if (other, repr(other.fill)) == (schema, repr(schema.fill))
                )
                codes[position] = next(same, len(schemas))
                if codes[position] == len(schemas):
                    schemas.append(schema)
        return _in_order(codes, schemas)

    # ── attributes ───────────────────────────────────────────────────────────────────────────

    def keys(self, array: str | None) -> list[str]:
        """Return the keys of the attributes that one of them has (of an array)."""
        found = [
            (int(positions.min()), [key for owner, key, _ in group.template.slots if owner == array])
            for group, positions, _ in self._groups()
        ]
        for position, record in self._records().items():
            found.append((position, list(_attributes(record, array))))
        return list(dict.fromkeys(key for _, keys in sorted(found, key=lambda item: item[0]) for key in keys))

    def attribute(self, array: str | None, key: str) -> Trait:
        """Return the values of an attribute (of an array) as users see them."""
        codes = np.full(len(self), -1, np.int64)
        numbers: dict[tuple[str, Any], int] = {}
        values: list[Any] = []
        for tag, positions, column in self._columns(array, key):
            keys, own_values, own = _distinct(tag, column)
            moved = np.array([numbers.setdefault((tag, each), len(numbers)) for each in keys], np.int64)
            values += [value for value, number in zip(own_values, moved.tolist(), strict=True) if number >= len(values)]
            codes[positions] = moved[own]
        return _in_order(codes, values)

    def _columns(self, array: str | None, key: str) -> Iterator[tuple[str, Integers, Column]]:
        for group, positions, rows in self._groups():
            slot = group.template.slot_numbers.get((array, key))
            if slot is not None:
                yield group.template.slots[slot][2], positions, group.columns[slot].take(rows)
        for position, record in self._records().items():
            if key in _attributes(record, array):
                tag, value = _attributes(record, array)[key]
                yield tag, np.array([position]), values_column(tag, [value])


def _attributes(record: DatasetRecord, array: str | None) -> dict[str, Any]:
    return record.attributes if array is None else record.array_attributes.get(array, {})


def _distinct(tag: str, column: Column) -> tuple[list[Any], list[Any], Integers]:
    """Return what tells the distinct values of a column apart, the values, and which of them each row has."""
    if column.constant:
        column, own = Column(1, column.cells), np.zeros(column.rows, np.int64)
    elif isinstance(column.cells, Texts):
        known: dict[bytes, int] = {}
        cells = column.cells.tolist()
        own = np.fromiter((known.setdefault(cell, len(known)) for cell in cells), np.int64, len(cells))
        column = Column(len(known), Texts.of(list(known)))
    else:
        # By their bits, so that NaN equals NaN.
        bits = column.cells.view(f"u{column.cells.itemsize}")
        _, firsts, own = np.unique(bits, return_index=True, return_inverse=True)
        column, own = Column(len(firsts), column.cells[firsts]), own.reshape(-1)
    if isinstance(column.cells, Texts):
        keys: list[Any] = column.cells.tolist()
        return keys, [cell.decode() for cell in keys] if tag == "string" else attribute_values(tag, column), own
    bits = column.cells.view(f"u{column.cells.itemsize}").tolist()
    return bits, list(attribute_cells(tag, column)) if tag.startswith("np.") else column.cells.tolist(), own


def _in_order(codes: Integers, values: list[Any]) -> Trait:
    """Number values in the order in which the datasets first have them."""
    present = codes[codes >= 0]
    used, firsts = np.unique(present, return_index=True)
    order = used[np.argsort(firsts)]
    moved = np.full(len(values) + 1, -1, np.int64)
    moved[order] = np.arange(len(order))
    return Trait(moved[codes], [values[i] for i in order.tolist()])


def spread(trait: Trait) -> NDArray[Any]:
    """Return the value of every dataset in an array: of the values' type where there is one, else of objects."""
    kinds = set(map(type, trait.values))
    if len(kinds) == 1 and issubclass(kinds.pop(), (str, bool, int, float, np.generic)):
        values = np.asarray(trait.values)
        if not len(trait.absent):
            return values[trait.codes]
        is_exact = values.dtype.kind == "f" or (values.dtype.kind in "iu" and all(float(v) == int(v) for v in values))
        if is_exact:
            return np.where(trait.codes < 0, np.nan, values[trait.codes])
    return objects([*trait.values, None])[trait.codes]
