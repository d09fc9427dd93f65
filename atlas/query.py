"""What conditions are about: cells of arrays, statistics of them, and attributes; comparing these makes conditions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from numpy.typing import NDArray

from atlas.conditions import Compared, Condition, OtherCell, Paired, Present, SomeCell, all_of, any_of
from atlas.errors import InvalidArgument
from atlas.facts import Facts, Mask
from atlas.literals import as_literal
from atlas.pruning import Bounds


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
        return Paired(self, op, other) if isinstance(other, Value) else Compared(self, ((op, other),))

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
        """Return the condition that it equals one of some values.

        Parameters
        ----------
        values : iterable

        Returns
        -------
        Condition

        Examples
        --------
        >>> import atlas
        >>> from atlas import col
        >>> with atlas.Atlas.create("fleet") as store:
        ...     arrays = {"t": {"dims": ["x"], "data": [[1.0, 3.0], [5.0, 7.0]]}}
        ...     store.create_datasets(["a", "b"], arrays, {"cycle": [1, 2]})
        >>> list(store.select(col.attr("cycle").isin([2, 3])))
        ['b']
        """
        return any_of([self._compared("==", value) for value in values])

    def between(self, low: Any, high: Any) -> Condition:
        """Return the condition that it lies from `low` to `high`, both included.

        Parameters
        ----------
        low, high : scalar

        Returns
        -------
        Condition

        Examples
        --------
        >>> import atlas
        >>> from atlas import col
        >>> with atlas.Atlas.create("fleet") as store:
        ...     arrays = {"t": {"dims": ["x"], "data": [[1.0, 3.0], [5.0, 7.0]]}}
        ...     store.create_datasets(["a", "b"], arrays, {"cycle": [1, 2]})
        >>> list(store.select(col("t").min().between(0, 2)))
        ['a']
        """
        return Compared(self, ((">=", low), ("<=", high)))

    def exists(self) -> Condition:
        """Return the condition that the dataset has it.

        Returns
        -------
        Condition

        Examples
        --------
        >>> import atlas
        >>> from atlas import col
        >>> with atlas.Atlas.create("fleet") as store:
        ...     arrays = {"t": {"dims": ["x"], "data": [[1.0, 3.0], [5.0, 7.0]]}}
        ...     store.create_datasets(["a", "b"], arrays, {"cycle": [1, 2]})
        >>> list(store.select(col.attr("cycle").exists()))
        ['a', 'b']
        """
        return Present(self)


@dataclass(frozen=True, eq=False, repr=False)
class Statistic(Value):
    """``col(name).min()`` and its like.

    Examples
    --------
    >>> import atlas
    >>> from atlas import col
    >>> with atlas.Atlas.create("fleet") as store:
    ...     arrays = {"t": {"dims": ["x"], "data": [[1.0, 3.0], [5.0, 7.0]]}}
    ...     store.create_datasets(["a", "b"], arrays, {"cycle": [1, 2]})
    >>> list(store.select(col("t").max() > col("t").min()))
    ['a', 'b']
    """

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
    """``col.attr(key)`` of the dataset, or ``col(name).attr(key)`` of an array.

    Examples
    --------
    >>> import atlas
    >>> from atlas import col
    >>> with atlas.Atlas.create("fleet") as store:
    ...     arrays = {"t": {"dims": ["x"], "data": [[1.0, 3.0], [5.0, 7.0]]}}
    ...     store.create_datasets(["a", "b"], arrays, {"cycle": [1, 2]})
    >>> list(store.select(col.attr("cycle") >= 2))
    ['b']
    """

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
        """Return the smallest cell.

        Returns
        -------
        Statistic

        Examples
        --------
        >>> import atlas
        >>> from atlas import col
        >>> with atlas.Atlas.create("fleet") as store:
        ...     arrays = {"t": {"dims": ["x"], "data": [[1.0, 3.0], [5.0, 7.0]]}}
        ...     store.create_datasets(["a", "b"], arrays, {"cycle": [1, 2]})
        >>> list(store.select(col("t").min() < 2))
        ['a']
        """
        return Statistic(self.name, "min")

    def max(self) -> Statistic:
        """Return the largest cell.

        Returns
        -------
        Statistic

        Examples
        --------
        >>> import atlas
        >>> from atlas import col
        >>> with atlas.Atlas.create("fleet") as store:
        ...     arrays = {"t": {"dims": ["x"], "data": [[1.0, 3.0], [5.0, 7.0]]}}
        ...     store.create_datasets(["a", "b"], arrays, {"cycle": [1, 2]})
        >>> list(store.select(col("t").max() > 6))
        ['b']
        """
        return Statistic(self.name, "max")

    def row_count(self) -> Statistic:
        """Return the number of cells.

        Returns
        -------
        Statistic

        Examples
        --------
        >>> import atlas
        >>> from atlas import col
        >>> with atlas.Atlas.create("fleet") as store:
        ...     arrays = {"t": {"dims": ["x"], "data": [[1.0, 3.0], [5.0, 7.0]]}}
        ...     store.create_datasets(["a", "b"], arrays, {"cycle": [1, 2]})
        >>> list(store.select(col("t").row_count() == 2))
        ['a', 'b']
        """
        return Statistic(self.name, "row_count")

    def null_count(self) -> Statistic:
        """Return the number of cells that equal the declared fill value.

        Returns
        -------
        Statistic

        Examples
        --------
        >>> import atlas
        >>> from atlas import col
        >>> with atlas.Atlas.create("fleet") as store:
        ...     arrays = {"t": {"dims": ["x"], "data": [[1.0, 3.0], [5.0, 7.0]]}}
        ...     store.create_datasets(["a", "b"], arrays, {"cycle": [1, 2]})
        >>> list(store.select(col("t").null_count() > 0))
        []
        """
        return Statistic(self.name, "null_count")

    def attr(self, key: str) -> Attribute:
        """Return an attribute of the array.

        Parameters
        ----------
        key : str

        Returns
        -------
        Attribute

        Examples
        --------
        >>> from atlas import col
        >>> col("t").attr("units")
        col('t').attr('units')
        """
        return Attribute(self.name, key)

    def exists(self) -> Condition:
        """Return the condition that the dataset has the array.

        Returns
        -------
        Condition

        Examples
        --------
        >>> import atlas
        >>> from atlas import col
        >>> with atlas.Atlas.create("fleet") as store:
        ...     arrays = {"t": {"dims": ["x"], "data": [[1.0, 3.0], [5.0, 7.0]]}}
        ...     store.create_datasets(["a", "b"], arrays, {"cycle": [1, 2]})
        >>> list(store.select(col("t").exists()))
        ['a', 'b']
        """
        return Present(Statistic(self.name, "row_count"))

    def between(self, low: Any, high: Any) -> Condition:
        """Return the condition that some cell lies from `low` to `high`, both included.

        Parameters
        ----------
        low, high : scalar

        Returns
        -------
        Condition

        Examples
        --------
        >>> import atlas
        >>> from atlas import col
        >>> with atlas.Atlas.create("fleet") as store:
        ...     arrays = {"t": {"dims": ["x"], "data": [[1.0, 3.0], [5.0, 7.0]]}}
        ...     store.create_datasets(["a", "b"], arrays, {"cycle": [1, 2]})
        >>> list(store.select(col("t").between(2, 4)))
        ['a']
        """
        return SomeCell(self, low, high)

    def isin(self, values: Iterable[Any]) -> Condition:
        """Return the condition that some cell equals one of some values.

        Parameters
        ----------
        values : iterable

        Returns
        -------
        Condition

        Examples
        --------
        >>> import atlas
        >>> from atlas import col
        >>> with atlas.Atlas.create("fleet") as store:
        ...     arrays = {"t": {"dims": ["x"], "data": [[1.0, 3.0], [5.0, 7.0]]}}
        ...     store.create_datasets(["a", "b"], arrays, {"cycle": [1, 2]})
        >>> list(store.select(col("t").isin([5, 6])))
        ['b']
        """
        return any_of([SomeCell(self, value, value) for value in values])

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
        return OtherCell(self, other)

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
