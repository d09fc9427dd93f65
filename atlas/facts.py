"""What is known of every dataset without reading a chunk, and comparisons over it, element by element."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atlas.attributes import element_type
from atlas.errors import ArrayNotFound, InvalidArgument
from atlas.literals import as_float_bound, as_integer_bound
from atlas.pruning import Bounds, array_bounds, attribute_bounds, attribute_items
from atlas.reader import Snapshot

Mask = NDArray[np.bool_]

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}


class Truth(NamedTuple):
    """What a condition may be, for each dataset."""

    true: Mask
    false: Mask
    null: Mask

    @property
    def certain(self) -> Mask:
        """Where it is true whatever the cells are."""
        return self.true & ~self.false & ~self.null

    @staticmethod
    def known(result: Mask, there: Mask) -> Truth:
        """Return the truth where everything is known: `result`, or null where nothing is there."""
        return Truth(result & there, ~result & there, ~there)


class Facts:
    """What is known of the datasets of one committed state; columns are fetched once each.

    Parameters
    ----------
    snapshot : Snapshot
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._arrays: dict[str, Bounds] = {}
        self._attributes: dict[tuple[str | None, str], Bounds] = {}
        self._lists: dict[tuple[str | None, str], dict[int, list[Any]]] = {}
        # Answers to conditions over cells that were found by reading, by ordinal.
        self.answers: dict[object, tuple[Mask, Mask]] = {}

    def array(self, name: str) -> Bounds:
        """Return the statistics of an array."""
        if name not in self._arrays:
            self.types(name)
            self._arrays[name] = array_bounds(self.snapshot, name)
        return self._arrays[name]

    def attribute(self, array: str | None, key: str) -> Bounds:
        """Return the values of an attribute."""
        if (array, key) not in self._attributes:
            self.attribute_types(array, key)
            self._attributes[array, key] = attribute_bounds(self.snapshot.root.catalog, array, key)
        return self._attributes[array, key]

    def lists(self, array: str | None, key: str) -> dict[int, list[Any]]:
        """Return the items of an attribute, by ordinal, where it is a list."""
        if (array, key) not in self._lists:
            self._lists[array, key] = attribute_items(self.snapshot.root.catalog, array, key)
        return self._lists[array, key]

    def types(self, array: str) -> set[str]:
        """Return the names of the types that datasets declare an array with.

        Raises
        ------
        ArrayNotFound
            If there are none: a condition on it would never be true.
        """
        templates = [t for t in self.snapshot.root.catalog.live_templates() if array in t.positions]
        found = {template.arrays[template.positions[array]].dtype.name for template in templates}
        if not found:
            raise ArrayNotFound(f"array not found: no dataset of {self.snapshot.storage.describe()} has {array!r}")
        return found

    def attribute_types(self, array: str | None, key: str) -> set[str]:
        """Return the types that an attribute has; raises :class:`InvalidArgument` if there are none."""
        slots = (slot for template in self.snapshot.root.catalog.live_templates() for slot in template.slots)
        found = {element_type(tag) for owner, name, tag in slots if (owner, name) == (array, key)}
        if not found:
            of = f" of array {array!r}" if array else ""
            raise InvalidArgument(f"no dataset of {self.snapshot.storage.describe()} has an attribute {key!r}{of}")
        return found


def compare(cells: NDArray[Any], op: str, other: Any, there: Mask) -> Mask:
    """Compare element by element where something is there; False elsewhere."""
    result = np.zeros(len(cells), bool)
    if not there.any():
        return result  # a column without values has no type of its own to compare by
    if _one_by_one(cells, other):
        values, others = cells.tolist(), other.tolist() if isinstance(other, np.ndarray) else [other] * len(cells)
        for i in np.flatnonzero(there).tolist():
            result[i] = compare_one(values[i], op, others[i])
        return result
    if _is_text(cells) != _is_text(other):
        return there & (op == "!=")
    if isinstance(other, float) and cells.dtype.kind in "iu":
        op, other = as_integer_bound(op, other)
    if isinstance(other, int) and cells.dtype.kind == "f":
        op, other = as_float_bound(op, other)
    picked = cells if there.all() else cells[there]
    against = other[there] if isinstance(other, np.ndarray) else other
    result[there] = _OPERATORS[op](picked, against)
    return result


def _one_by_one(cells: NDArray[Any], other: Any) -> bool:
    """Return whether NumPy cannot compare a column with something as Python does."""
    if isinstance(other, np.ndarray):
        return "O" in (cells.dtype.kind, other.dtype.kind) or _would_be_rounded(cells, other)
    return cells.dtype.kind == "O" or (isinstance(other, bytes) and other.endswith(b"\0"))


def _would_be_rounded(cells: NDArray[Any], others: NDArray[Any]) -> bool:
    if {cells.dtype.kind, others.dtype.kind} not in ({"i", "f"}, {"u", "f"}):
        return False
    integers = cells if cells.dtype.kind != "f" else others
    return bool(((integers > 2**53) | (integers < -(2**53))).any())


def _is_text(value: Any) -> bool:
    return value.dtype.kind == "S" if isinstance(value, np.ndarray) else isinstance(value, bytes)


def compare_one(cell: Any, op: str, other: Any) -> bool:
    """Compare two numbers or texts; a number and a text differ, and have no order."""
    if isinstance(cell, bytes) != isinstance(other, bytes):
        return op == "!="
    return bool(_OPERATORS[op](cell, other))
