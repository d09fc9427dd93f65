"""Conditions over statistics and attributes, and what they can tell without reading a chunk.

A condition is, for each dataset, certainly true, certainly false, without a value (like SQL's
null: the dataset lacks what is asked about), or open between some of these. Conditions keep the
three possibilities apart, so "could match" and "certainly matches" are both exact.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas.errors import DataTypeError, InvalidArgument
from atlas.facts import Facts, Mask, Truth, compare, compare_one
from atlas.literals import as_literal, check_comparable
from atlas.pruning import Bounds
from atlas.schema import ArraySchema
from atlas.statistics import counted_cells

# ── conditions ───────────────────────────────────────────────────────────────────────────────────


class Condition(ABC):
    """Something that is true of some datasets; combined with ``&``, ``|`` and ``~``."""

    @abstractmethod
    def truth(self, facts: Facts) -> Truth:
        """Return what is known of it for every ordinal."""

    def leaves(self) -> Iterable[Condition]:
        """Return the conditions that this one is made of."""
        return [self]

    def __and__(self, other: Condition) -> Condition:
        return _Both(self, _condition(other))

    def __or__(self, other: Condition) -> Condition:
        return ~(~self & ~_condition(other))

    def __invert__(self) -> Condition:
        return _Not(self)

    def __bool__(self) -> bool:
        raise DataTypeError("a condition has no truth of its own; combine conditions with &, | and ~, not and, or, not")


def _condition(value: Any) -> Condition:
    if not isinstance(value, Condition):
        raise DataTypeError(f"a condition was expected, not {value!r}; compare col(...) or attr(...) with something")
    return value


@dataclass(frozen=True, eq=False)
class _Both(Condition):
    first: Condition
    second: Condition

    def truth(self, facts: Facts) -> Truth:
        a, b = self.first.truth(facts), self.second.truth(facts)
        null = (a.null & (b.null | b.true)) | (a.true & b.null)
        return Truth(a.true & b.true, a.false | b.false, null)

    def leaves(self) -> Iterable[Condition]:
        return [*self.first.leaves(), *self.second.leaves()]


@dataclass(frozen=True, eq=False)
class _Not(Condition):
    inner: Condition

    def truth(self, facts: Facts) -> Truth:
        inner = self.inner.truth(facts)
        return Truth(inner.false, inner.true, inner.null)

    def leaves(self) -> Iterable[Condition]:
        return self.inner.leaves()

    def __invert__(self) -> Condition:
        return self.inner


@dataclass(frozen=True, eq=False)
class Compared(Condition):
    """One value of each dataset against literals: every test must hold of it, or of one and the same item of a list."""

    value: Value
    tests: tuple[tuple[str, Any], ...]

    def truth(self, facts: Facts) -> Truth:
        """Return what the values tell."""
        cells, there = self.value.cells(facts)
        types = self.value.types(facts)
        tests = [(op, as_literal(other, types, str(self.value))) for op, other in self.tests]
        result = there.copy()
        for op, literal in tests:
            result &= compare(cells, op, literal, there)
        for ordinal, items in self.value.lists(facts).items():
            result[ordinal] = any(all(compare_one(item, op, literal) for op, literal in tests) for item in items)
        return Truth.known(result, there)


@dataclass(frozen=True, eq=False)
class _Paired(Condition):
    """One value of each dataset against another one."""

    value: Value
    op: str
    other: Value

    def truth(self, facts: Facts) -> Truth:
        check_comparable((str(self.value), self.value.types(facts)), (str(self.other), self.other.types(facts)))
        (cells, there), (others, also) = self.value.cells(facts), self.other.cells(facts)
        there = there & also
        result = compare(cells, self.op, others, there)
        first, second = self.value.lists(facts), self.other.lists(facts)
        for ordinal in (ordinal for ordinal in first.keys() | second.keys() if there[ordinal]):
            pairs = product(
                first.get(ordinal, cells[ordinal : ordinal + 1].tolist()),
                second.get(ordinal, others[ordinal : ordinal + 1].tolist()),
            )
            result[ordinal] = any(compare_one(item, self.op, other) for item, other in pairs)
        return Truth.known(result, there)


@dataclass(frozen=True, eq=False)
class _Present(Condition):
    value: Value

    def truth(self, facts: Facts) -> Truth:
        present = self.value.bounds(facts).present
        return Truth.known(present, np.ones(len(present), bool))


@dataclass(frozen=True, eq=False)
class SomeCell(Condition):
    """Whether some cell of an array lies from `low` to `high`, both included; ``None`` is no limit."""

    array: Cells
    low: Any
    high: Any
    above: bool = False
    below: bool = False

    def truth(self, facts: Facts) -> Truth:
        """Return what the statistics tell, or what reading told."""
        bounds = facts.array(self.array.name)
        could, surely = self.within(facts, bounds.minimum, bounds.maximum, bounds.valid)
        truth = Truth(could, bounds.present & ~surely, ~bounds.present)
        read, answers = facts.answers.get(self, (None, None))
        if read is not None and answers is not None:
            truth.true[read], truth.false[read] = answers[read], ~answers[read]
        return truth

    def within(self, facts: Facts, minimum: Any, maximum: Any, valid: Mask) -> tuple[Mask, Mask]:
        """Return where a cell could lie within, and where the smallest or the largest surely does."""
        could, low_in, high_in = valid.copy(), valid.copy(), valid.copy()
        low, high = (None if limit is None else self.array.literal(facts, limit) for limit in (self.low, self.high))
        if (
            low is not None
            and high is not None
            and not compare_one(low, "<" if self.above or self.below else "<=", high)
        ):
            return np.zeros(len(could), bool), np.zeros(len(could), bool)
        for literal, op in ((low, ">" if self.above else ">="), (high, "<" if self.below else "<=")):
            if literal is None:
                continue
            inner, outer = compare(minimum, op, literal, valid), compare(maximum, op, literal, valid)
            low_in &= inner
            high_in &= outer
            could &= outer if op[0] == ">" else inner
        return could, (low_in | high_in) & could

    def matches(self, facts: Facts, cells: NDArray[Any], schema: ArraySchema) -> bool:
        """Return whether one of these cells counts and lies within."""
        values, counted = counted_cells(schema.dtype, schema.fill, cells)
        return bool(self.within(facts, values, values, counted)[1].any())


@dataclass(frozen=True, eq=False)
class _OtherCell(Condition):
    """Whether some cell of an array differs from a value."""

    array: Cells
    value: Any

    def truth(self, facts: Facts) -> Truth:
        bounds = facts.array(self.array.name)
        literal = self.array.literal(facts, self.value)
        same = [compare(cells, "==", literal, bounds.valid) for cells in (bounds.minimum, bounds.maximum)]
        return Truth.known(bounds.valid & ~(same[0] & same[1]), bounds.present)


# ── what conditions are about ────────────────────────────────────────────────────────────────────


class Value(ABC):
    """Something that each dataset has one of: a statistic or an attribute. Comparing it makes a condition."""

    @abstractmethod
    def bounds(self, facts: Facts) -> Bounds:
        """Return the column that it comes from."""

    @abstractmethod
    def cells(self, facts: Facts) -> tuple[NDArray[Any], Mask]:
        """Return its value for every ordinal, and where there is one."""

    @abstractmethod
    def types(self, facts: Facts) -> set[str]:
        """Return the types that the datasets have it in."""

    def lists(self, facts: Facts) -> Mapping[int, list[Any]]:
        """Return the items, by ordinal, where it is a list."""
        return {}

    def _compared(self, op: str, other: Any) -> Condition:
        return _Paired(self, op, other) if isinstance(other, Value) else Compared(self, ((op, other),))

    def __gt__(self, other: Any) -> Condition:
        return self._compared(">", other)

    def __ge__(self, other: Any) -> Condition:
        return self._compared(">=", other)

    def __lt__(self, other: Any) -> Condition:
        return self._compared("<", other)

    def __le__(self, other: Any) -> Condition:
        return self._compared("<=", other)

    def __eq__(self, other: Any) -> Condition:  # type: ignore[override]
        return self._compared("==", other)

    def __ne__(self, other: Any) -> Condition:  # type: ignore[override]
        return self._compared("!=", other)

    __hash__ = None  # type: ignore[assignment]

    def isin(self, values: Iterable[Any]) -> Condition:
        """Return the condition that it equals one of some values."""
        return _any_of([self._compared("==", value) for value in values])

    def between(self, low: Any, high: Any) -> Condition:
        """Return the condition that it lies from `low` to `high`, both included."""
        return Compared(self, ((">=", low), ("<=", high)))

    def exists(self) -> Condition:
        """Return the condition that the dataset has it."""
        return _Present(self)


def _any_of(conditions: Sequence[Condition]) -> Condition:
    if not conditions:
        raise InvalidArgument("isin needs at least one value")
    result = conditions[0]
    for condition in conditions[1:]:
        result = result | condition
    return result


@dataclass(frozen=True, eq=False, repr=False)
class Statistic(Value):
    """``col(name).min()`` and its like."""

    array: str
    name: str

    def __repr__(self) -> str:
        return f"col({self.array!r}).{self.name}()"

    def bounds(self, facts: Facts) -> Bounds:
        """Return the array's statistics."""
        return facts.array(self.array)

    def cells(self, facts: Facts) -> tuple[NDArray[Any], Mask]:
        """Return the statistic of every dataset."""
        bounds = facts.array(self.array)
        if self.name in ("min", "max"):
            return (bounds.minimum if self.name == "min" else bounds.maximum), bounds.valid
        return (bounds.rows if self.name == "row_count" else bounds.nulls), bounds.present

    def types(self, facts: Facts) -> set[str]:
        """Return the types of the array, or that of a count."""
        declared = facts.types(self.array)
        return declared if self.name in ("min", "max") else {"int64"}


@dataclass(frozen=True, eq=False, repr=False)
class Attribute(Value):
    """``col.attr(key)`` of the dataset, or ``col(name).attr(key)`` of an array."""

    array: str | None
    key: str

    def __repr__(self) -> str:
        return f"col{'' if self.array is None else f'({self.array!r})'}.attr({self.key!r})"

    def bounds(self, facts: Facts) -> Bounds:
        """Return the attribute's values."""
        return facts.attribute(self.array, self.key)

    def cells(self, facts: Facts) -> tuple[NDArray[Any], Mask]:
        """Return the attribute of every dataset."""
        bounds = facts.attribute(self.array, self.key)
        return bounds.minimum, bounds.valid

    def types(self, facts: Facts) -> set[str]:
        """Return the types that it was set with, those of items for lists."""
        return facts.attribute_types(self.array, self.key)

    def lists(self, facts: Facts) -> Mapping[int, list[Any]]:
        """Return the items of those that are lists."""
        return facts.lists(self.array, self.key)


@dataclass(frozen=True, eq=False, repr=False)
class Cells:
    """The cells of an array, ``col(name)``. A comparison asks whether *some* cell satisfies it.

    Cells that are NaN or equal the declared fill value do not count.
    """

    name: str

    def __repr__(self) -> str:
        return f"col({self.name!r})"

    def literal(self, facts: Facts, value: Any) -> Any:
        """Return a value to compare with as the statistics hold it."""
        return as_literal(value, facts.types(self.name), str(self))

    def min(self) -> Statistic:
        """Return the smallest cell."""
        return Statistic(self.name, "min")

    def max(self) -> Statistic:
        """Return the largest cell."""
        return Statistic(self.name, "max")

    def row_count(self) -> Statistic:
        """Return the number of cells."""
        return Statistic(self.name, "row_count")

    def null_count(self) -> Statistic:
        """Return the number of cells that equal the declared fill value."""
        return Statistic(self.name, "null_count")

    def attr(self, key: str) -> Attribute:
        """Return an attribute of the array."""
        return Attribute(self.name, key)

    def exists(self) -> Condition:
        """Return the condition that the dataset has the array."""
        return _Present(Statistic(self.name, "row_count"))

    def between(self, low: Any, high: Any) -> Condition:
        """Return the condition that some cell lies from `low` to `high`, both included."""
        return SomeCell(self, low, high)

    def isin(self, values: Iterable[Any]) -> Condition:
        """Return the condition that some cell equals one of some values."""
        return _any_of([SomeCell(self, value, value) for value in values])

    def __gt__(self, other: Any) -> Condition:
        return SomeCell(self, other, None, above=True)

    def __ge__(self, other: Any) -> Condition:
        return SomeCell(self, other, None)

    def __lt__(self, other: Any) -> Condition:
        return SomeCell(self, None, other, below=True)

    def __le__(self, other: Any) -> Condition:
        return SomeCell(self, None, other)

    def __eq__(self, other: Any) -> Condition:  # type: ignore[override]
        return SomeCell(self, other, other)

    def __ne__(self, other: Any) -> Condition:  # type: ignore[override]
        return _OtherCell(self, other)

    __hash__ = None  # type: ignore[assignment]


class _Col:
    """``col(name)`` for the cells of an array, ``col.attr(key)`` for an attribute of the dataset.

    Comparing what they give makes conditions for :meth:`Atlas.select`, which ``&``, ``|`` and ``~`` combine.

    Parameters
    ----------
    array : str
        Name of an array.

    Examples
    --------
    >>> import atlas
    >>> from atlas import col
    >>> store = atlas.Atlas.create("fleet")
    >>> arrays = {"t": {"dims": ["x"], "data": [[1.0, 3.0], [5.0, 7.0]]}}
    >>> store.create_datasets(["a", "b"], arrays, {"platform": ["buoy", "float"]})
    >>> store.flush()
    >>> list(store.select((col("t").max() > 6) | (col.attr("platform") == "buoy")))
    ['a', 'b']
    >>> list(store.select(col("t") > 6, ~(col.attr("platform") == "buoy")))
    ['b']
    """

    def __call__(self, array: str) -> Cells:
        """Return the cells of an array, to be compared."""
        return Cells(array)

    def attr(self, key: str) -> Attribute:
        """Return an attribute of the dataset, to be compared."""
        return Attribute(None, key)


col = _Col()


def box(**ranges: tuple[Any, Any]) -> Condition:
    """Return the condition that each named coordinate has a cell within its range, both ends included.

    Parameters
    ----------
    **ranges : (low, high)
        By array name; ``None`` for no limit. A range of numbers whose `low` is above its `high` goes around, as
        longitudes do: ``lon=(170, -170)`` are those from 170 on and those up to -170.

    Returns
    -------
    Condition

    Raises
    ------
    InvalidArgument
        If no range is given.

    Examples
    --------
    >>> import atlas
    >>> store = atlas.Atlas.create("fleet")
    >>> arrays = {"lat": {"dims": [], "data": [45.0, 62.0]}, "lon": {"dims": [], "data": [-5.0, 4.0]}}
    >>> store.create_datasets(["biscay", "bergen"], arrays)
    >>> store.flush()
    >>> list(store.select(atlas.box(lat=(40, 50), lon=(-10, None))))
    ['biscay']
    """
    if not ranges:
        raise InvalidArgument("a box needs at least one range, such as lat=(40, 50)")
    return all_of([_within(Cells(name), low, high) for name, (low, high) in ranges.items()])


def _within(array: Cells, low: Any, high: Any) -> Condition:
    if isinstance(low, Real) and isinstance(high, Real) and low > high:
        return SomeCell(array, low, None) | SomeCell(array, None, high)
    return SomeCell(array, low, high)


def all_of(conditions: Sequence[Condition]) -> Condition:
    """Return the condition that all of some are true."""
    result = conditions[0]
    for condition in conditions[1:]:
        result = result & condition
    return result
