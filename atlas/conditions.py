"""Conditions over statistics and attributes, and what they can tell without reading a chunk.

A condition is, for each dataset, certainly true, certainly false, without a value (like SQL's
null: the dataset lacks what is asked about), or open between some of these. Conditions keep the
three possibilities apart, so "could match" and "certainly matches" are both exact.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from atlas.errors import DataTypeError, InvalidArgument
from atlas.facts import Facts, Mask, Truth, compare, compare_one
from atlas.literals import as_literal, check_comparable
from atlas.schema import ArraySchema
from atlas.statistics import counted_cells

if TYPE_CHECKING:
    from atlas.query import Cells, Value


class Condition(ABC):
    """Something that is true of some datasets; combined with ``&``, ``|`` and ``~``.

    Examples
    --------
    >>> import atlas
    >>> from atlas import col
    >>> with atlas.Atlas.create("fleet") as store:
    ...     arrays = {"t": {"dims": ["x"], "data": [[1.0, 3.0], [5.0, 7.0]]}}
    ...     store.create_datasets(["a", "b"], arrays, {"cycle": [1, 2]})
    >>> list(store.select((col("t").max() > 6) & ~(col.attr("cycle") == 1)))
    ['b']
    """

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
class Paired(Condition):
    """One value of each dataset against another one."""

    value: Value
    op: str
    other: Value

    def truth(self, facts: Facts) -> Truth:
        """Return what the values tell."""
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
class Present(Condition):
    """Whether each dataset has a value."""

    value: Value

    def truth(self, facts: Facts) -> Truth:
        """Return whether it does, which is always known."""
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
class OtherCell(Condition):
    """Whether some cell of an array differs from a value."""

    array: Cells
    value: Any

    def truth(self, facts: Facts) -> Truth:
        """Return what the statistics tell."""
        bounds = facts.array(self.array.name)
        literal = self.array.literal(facts, self.value)
        same = [compare(cells, "==", literal, bounds.valid) for cells in (bounds.minimum, bounds.maximum)]
        return Truth.known(bounds.valid & ~(same[0] & same[1]), bounds.present)


def any_of(conditions: Sequence[Condition]) -> Condition:
    """Return the condition that one of some is true."""
    if not conditions:
        raise InvalidArgument("isin needs at least one value")
    result = conditions[0]
    for condition in conditions[1:]:
        result = result | condition
    return result


def all_of(conditions: Sequence[Condition]) -> Condition:
    """Return the condition that all of some are true."""
    result = conditions[0]
    for condition in conditions[1:]:
        result = result & condition
    return result
