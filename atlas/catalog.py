"""The dataset table of one committed state: layers from table files, and one that the root itself holds.

A store of a million datasets opens without a Python object for any of them: table files are read
when a name, a schema or an attribute is first asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas.chunks import Shape
from atlas.columnfile import DataFile
from atlas.columns import Column, Integers, distinct, group_members
from atlas.errors import InvalidArgument
from atlas.forks import cached_property
from atlas.groups import Group
from atlas.layer import Layer, joined, stacked
from atlas.names import Sought, seek
from atlas.schema import ArraySchema, ArrayTemplate, DatasetRecord, Template

MAX_SLOTS = 1 << 31

# With more ordinals of deleted datasets, and more of them to each that is left, columns over all are not made.
_MOST_DELETED = 16 << 20
_DELETED_PER_DATASET = 64

# Ordinals and records of single datasets that are remembered.
_REMEMBERED = 1 << 14

# Names of whole reads that are remembered, in how many reads, and arrays of each.
_REMEMBERED_NAMES = 1 << 18
_REMEMBERED_READS = 512
_REMEMBERED_ARRAYS = 8

# Datasets that declare an array alike: its schema, their positions among those asked for, their ordinals.
Alike = tuple[ArraySchema, Integers, Integers]


def _no_tables(file: DataFile, slots: int) -> Layer:
    raise AssertionError("a table without table files reads none")


@dataclass(frozen=True)
class Listed:
    """The datasets of a read, none of which is to be changed.

    Attributes
    ----------
    ordinals : (n,) int64
        -1 where there is no such dataset.
    arranged : dict
        By array, what is known of how they declare it.
    """

    ordinals: Integers
    arranged: dict[str, list[Alike]] = field(default_factory=dict)


@dataclass(frozen=True)
class Catalog:
    """One committed state of the dataset table; never changed in place.

    Attributes
    ----------
    slots : int
        Ordinals in use, those of deleted datasets included.
    count : int
        Datasets.
    tables : tuple of DataFile
        Table files, oldest first.
    top : Layer
        The newest layer, which the root holds.
    load : callable
        Reads a table file, given the number of ordinals in use.
    loaded : dict of DataFile to Layer
        Those that were read; the states that follow, which have most of them too, take them over.
    """

    slots: int = 0
    count: int = 0
    tables: tuple[DataFile, ...] = ()
    top: Layer = field(default_factory=Layer.empty)
    load: Callable[[DataFile, int], Layer] = _no_tables
    loaded: dict[DataFile, Layer] = field(default_factory=dict, repr=False, compare=False)
    _ordinals: dict[str, int] = field(default_factory=dict, init=False, repr=False)
    _records: dict[int, DatasetRecord] = field(default_factory=dict, init=False, repr=False)
    _lists: dict[tuple[str, ...], Listed] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """All layers, oldest first."""
        for file in self.tables:
            if file not in self.loaded:
                self.loaded[file] = self.load(file, self.slots)
        return (*(self.loaded[file] for file in self.tables), self.top)

    # ── look-ups ─────────────────────────────────────────────────────────────────────────────

    def find(self, names: Sequence[object]) -> Integers:
        """Return the ordinal of every name, -1 where there is no such dataset."""
        return self.find_sought(seek(names))

    def find_sought(self, sought: Sought) -> Integers:
        """Do the same for names that are hashed already."""
        found = np.full(len(sought.hashes), -1, np.int64)
        if not len(found):
            return found  # no table file is read to look nothing up
        for depth in range(len(self.layers) - 1, -1, -1):
            layer = self.layers[depth]
            rows = layer.names.find(sought)
            hits = np.flatnonzero((rows >= 0) & (found < 0))
            ordinals = layer.ordinals[rows[hits]]
            for newer in self.layers[depth + 1 :]:
                seen = (newer.rows_of(ordinals) < 0) & ~newer.deletes(ordinals)
                hits, ordinals = hits[seen], ordinals[seen]
            found[hits] = ordinals
        return found

    def listed(self, names: Sequence[str]) -> Listed:
        """Look the names of a read up; remembered, as more is mostly read of the same datasets next."""
        key = tuple(names)
        known = self._lists.get(key)
        if known is None:
            known = Listed(self.find(key))
            known.ordinals.flags.writeable = False
            # Of few reads: adding up how many names all have would soon take longer than looking some up.
            many = len(self._lists) >= _REMEMBERED_READS
            if many or sum(map(len, list(self._lists))) + len(key) > _REMEMBERED_NAMES:
                self._lists.clear()
            if len(key) <= _REMEMBERED_NAMES:
                self._lists[key] = known
        return known

    def ordinal(self, name: str) -> int:
        """Return the ordinal of one dataset, -1 when there is none; remembered."""
        known = self._ordinals.get(name)
        if known is None:
            known = int(self.find([name])[0])
            if len(self._ordinals) >= _REMEMBERED:
                self._ordinals.clear()
            self._ordinals[name] = known
        return known

    def learn(self, names: Sequence[str]) -> None:
        """Look names up at once that are soon asked for one by one; as many as are remembered."""
        wanted = names[:_REMEMBERED]
        if len(self._ordinals) + len(wanted) > _REMEMBERED:
            self._ordinals.clear()
        self._ordinals.update(zip(wanted, self.find(wanted).tolist(), strict=True))

    def __contains__(self, name: str) -> bool:
        return self.ordinal(name) >= 0

    def record(self, ordinal: int) -> DatasetRecord:
        """Return what a dataset declares; remembered, so not to be changed."""
        known = self._records.get(ordinal)
        if known is None:
            layer, _, rows = next(self.places(np.array([ordinal])))
            known = layer.declared.record(int(rows[0]))
            if len(self._records) >= _REMEMBERED:
                self._records.clear()
            self._records[ordinal] = known
        return known

    def places(self, ordinals: Integers) -> Iterator[tuple[Layer, Integers, Integers]]:
        """Yield the layers that hold datasets, each with positions in `ordinals` and the rows there."""
        left = np.arange(len(ordinals))
        for layer in reversed(self.layers):
            rows = layer.rows_of(ordinals[left])
            held = rows >= 0
            if held.any():
                yield layer, left[held], rows[held]
            left = left[~held & ~layer.deletes(ordinals[left])]
            if not len(left):
                return

    def live(self) -> Iterator[tuple[Layer, Integers]]:
        """Yield every layer, oldest first, with its rows that no newer one hides."""
        for depth, layer in enumerate(self.layers):
            keep = np.ones(len(layer), bool)
            keep[self._hidden(depth)] = False
            yield layer, np.flatnonzero(keep)

    def _hidden(self, depth: int) -> Integers:
        layer = self.layers[depth]
        newer = [layer.hidden(above) for above in self.layers[depth + 1 :]]
        return distinct(np.concatenate(newer)) if newer else np.zeros(0, np.int64)

    @cached_property
    def ordinals(self) -> Integers:
        """The ordinal of every dataset, ascending."""
        pieces = [layer.ordinals[rows] for layer, rows in self.live()]
        return np.sort(np.concatenate(pieces), kind="stable")

    def names(self) -> list[str]:
        """Return the name of every dataset, by ascending ordinal."""
        return list(self._names)

    @cached_property
    def _names(self) -> list[str]:
        names: list[str] = []
        ordinals = []
        for layer, rows in self.live():
            names += layer.names.take(rows).tolist()
            ordinals.append(layer.ordinals[rows])
        order = np.concatenate(ordinals)
        if (np.diff(order) > 0).all():
            return names
        return [names[i] for i in np.argsort(order, kind="stable").tolist()]

    def names_of(self, ordinals: Integers) -> list[str]:
        """Return the names of datasets."""
        found: list[tuple[Integers, list[str]]] = [
            (positions, layer.names.take(rows).tolist()) for layer, positions, rows in self.places(ordinals)
        ]
        if len(found) == 1:
            return found[0][1]
        cells = np.empty(len(ordinals), object)
        for positions, names in found:
            cells[positions] = names
        return list(cells)

    def changed(self, ordinals: Integers) -> Integers:
        """Return the generation in which each dataset last changed."""
        result = np.zeros(len(ordinals), np.int64)
        for layer, positions, rows in self.places(ordinals):
            result[positions] = np.asarray(layer.changed.take(rows).spread())
        return result

    # ── schemas ──────────────────────────────────────────────────────────────────────────────

    def live_templates(self) -> Iterator[Template]:
        """Yield every template that a dataset has, by the first ordinal that had it."""
        found: list[tuple[int, Template]] = []
        for depth, layer in enumerate(self.layers):
            held = np.array([group.rows for group in layer.groups], np.int64)
            held -= np.bincount(layer.group[self._hidden(depth)], minlength=len(held))
            firsts = layer.ordinals[layer.firsts]
            found += [(int(firsts[code]), layer.groups[code].template) for code in np.flatnonzero(held > 0).tolist()]
        for _, template in sorted(found, key=lambda item: item[0]):
            yield template

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
        known: dict[Any, int] = {}
        for layer, positions, rows in self.places(ordinals):
            for code, members in layer.members(rows):
                definition = layer.groups[code].template.definition(array)
                if definition is None:
                    continue
                shapes, inverse = _distinct_shapes(layer.groups[code], definition, layer.row[rows[members]])
                # By the fill's text: -0.0 equals 0.0, yet is another fill value, and NaN does not equal itself.
                kind = definition.dtype.name, definition.dims, repr(definition.fill)
                numbers = np.zeros(len(shapes), np.int64)
                for i, shape in enumerate(shapes):
                    chunks = definition.chunks_of(shape)
                    number = numbers[i] = known.setdefault((kind, shape, chunks), len(schemas))
                    if number == len(schemas):
                        schemas.append(definition.with_extents(shape, chunks))
                codes[positions[members]] = numbers[inverse]
        return codes, schemas

    def arranged(self, array: str, listed: Listed) -> list[Alike]:
        """Return the datasets of a read that have an array, by schema."""
        known = listed.arranged.get(array)
        if known is None:
            present = np.flatnonzero(listed.ordinals >= 0)
            codes, schemas = self.layouts(array, listed.ordinals[present])
            known = [
                (schemas[code], present[members], listed.ordinals[present[members]])
                for code, members in group_members(codes)
                if code >= 0
            ]
            if len(listed.arranged) >= _REMEMBERED_ARRAYS:
                listed.arranged.clear()
            listed.arranged[array] = known
        return known

    def having(self, array: str, ordinals: Integers) -> NDArray[np.bool_]:
        """Return which of some ordinals have a dataset that has an array."""
        result = np.zeros(len(ordinals), bool)
        for layer, places, rows in self.places(ordinals):
            has = np.zeros(len(layer.groups), bool)
            has[layer.holders.get(array, [])] = True
            result[places] = has[layer.group[rows]]
        return result

    @property
    def columns_length(self) -> int:
        """The ordinals in use, for columns that have a row for each.

        Raises
        ------
        InvalidArgument
            If almost all of so many are of deleted datasets that such columns would be absurd.
        """
        left = len(self.ordinals)
        if self.slots > _MOST_DELETED + _DELETED_PER_DATASET * left:
            raise InvalidArgument(f"of {self.slots} ordinals, {left} have a dataset; compact the store first")
        return self.slots

    def attribute(self, array: str | None, key: str) -> Iterator[tuple[str, Integers, Column]]:
        """Yield the values of an attribute (of an array): type tag, ordinals, and a column beside them."""
        for layer, rows in self.live():
            for code, members in layer.members(rows):
                group = layer.groups[code]
                slot = group.template.slot_numbers.get((array, key))
                if slot is not None:
                    own = rows[members]
                    yield group.template.slots[slot][2], layer.ordinals[own], group.columns[slot].take(layer.row[own])

    # ── changes ──────────────────────────────────────────────────────────────────────────────

    def with_layer(self, layer: Layer) -> Catalog:
        """Return the table after a layer of changes."""
        fresh = int(np.count_nonzero(layer.ordinals >= self.slots))
        if self.slots + fresh > MAX_SLOTS:
            raise InvalidArgument(
                f"a store has room for {MAX_SLOTS} datasets, those counted that were deleted; compact it first"
            )
        top = joined([self.top, layer], bottom=not self.tables)
        return replace(self, slots=self.slots + fresh, count=self.count + fresh - len(layer.deleted), top=top)

    def excerpt(self, ordinals: Integers) -> Layer:
        """Return some datasets, by ascending ordinal, as a layer."""
        return stacked([layer.take(rows) for layer, _, rows in self.places(ordinals)])

    def with_top(self, tables: tuple[DataFile, ...], top: Layer) -> Catalog:
        """Return the same table, otherwise divided."""
        return replace(self, tables=tables, top=top, loaded={f: self.loaded[f] for f in tables if f in self.loaded})

    def compacted(self) -> tuple[Catalog, Integers]:
        """Return the table without deleted slots, and what the ordinal of each of its datasets was before."""
        merged = joined(self.layers)
        layer = merged.renumbered(np.arange(len(merged)))
        return Catalog(len(merged), len(merged), (), layer, self.load), merged.ordinals


def _distinct_shapes(group: Group, definition: ArrayTemplate, rows: NDArray[Any]) -> tuple[list[Shape], Integers]:
    """Return the shapes that an array has in some datasets of a group, and which of them each has."""
    alike = np.zeros(len(rows), np.int64)
    if definition.shape is not None:
        return [definition.shape], alike
    columns = [group.sizes[group.template.dims.index(dim)] for dim in definition.dims]
    if all(column.constant for column in columns):
        return [tuple(int(column.cells[0]) for column in columns)], alike
    shapes = np.stack([np.asarray(column.take(rows).spread()) for column in columns], axis=1)
    if (shapes == shapes[0]).all():
        return [tuple(shapes[0].tolist())], alike
    kinds, inverse = np.unique(shapes, axis=0, return_inverse=True)
    return list(map(tuple, kinds.tolist())), inverse.reshape(-1)
