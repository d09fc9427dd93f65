"""Where datasets that should be alike are not: which ones disagree, and in what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from atlas.display import shortened
from atlas.members import Members, Trait
from atlas.schema import ArraySchema

# What is shown of a report as text.
_SHOWN_DRIFTS = 40
_SHOWN_GROUPS = 3


@dataclass(frozen=True, eq=False)
class Drift:
    """One thing that is not the same in all datasets.

    Attributes
    ----------
    array : str or None
        The array it concerns; ``None`` for the datasets as a whole.
    aspect : str
        ``"presence"``, ``"dtype"``, ``"dimensions"``, ``"shape"``, ``"fill value"``, or ``"attribute <key>"``.

    Examples
    --------
    >>> import atlas
    >>> store = atlas.Atlas.create("fleet")
    >>> for name, units in (("a", "K"), ("b", "K"), ("c", "degC")):
    ...     store.create_dataset(name).set_attribute("units", units)
    >>> print(store.drift_report()[0])
    attribute units: K in 2 (a, …); degC in 1 (c)
    """

    array: str | None
    aspect: str
    _members: Members = field(repr=False)
    _trait: Trait = field(repr=False)

    @property
    def groups(self) -> list[tuple[Any, list[str]]]:
        """Each value with the names of its datasets, the most common one first; ``None`` where there is none.

        Examples
        --------
        >>> import atlas
        >>> store = atlas.Atlas.create("fleet")
        >>> for name, units in (("a", "K"), ("b", "K"), ("c", "degC")):
        ...     store.create_dataset(name).set_attribute("units", units)
        >>> store.drift_report()[0].groups
        [('K', ['a', 'b']), ('degC', ['c'])]
        """
        order = self._order
        names: dict[int, list[str]] = {code: [] for code, _ in order}
        for name, code in zip(self._members.names, self._trait.codes.tolist(), strict=True):
            names[code].append(name)
        return [(value, names[code]) for code, value in order]

    @property
    def outliers(self) -> list[str]:
        """The names of the datasets that do not have the most common value.

        Examples
        --------
        >>> import atlas
        >>> store = atlas.Atlas.create("fleet")
        >>> for name, units in (("a", "K"), ("b", "K"), ("c", "degC")):
        ...     store.create_dataset(name).set_attribute("units", units)
        >>> store.drift_report()[0].outliers
        ['c']
        """
        return self._members.take(np.flatnonzero(self._trait.codes != self._order[0][0])).names

    @property
    def _order(self) -> list[tuple[int, Any]]:
        counts = np.bincount(self._trait.codes + 1)  # those that have none come first
        codes = (np.flatnonzero(counts) - 1).tolist()
        ranked = sorted(codes, key=lambda code: (-counts[code + 1], code < 0))
        return [(code, None if code < 0 else self._trait.values[code]) for code in ranked]

    def __str__(self) -> str:
        where = self.aspect if self.array is None else f"{self.array}: {self.aspect}"
        order = self._order
        told = []
        for code, value in order[:_SHOWN_GROUPS]:
            found = np.flatnonzero(self._trait.codes == code)
            shown = "none" if value is None else shortened(value, 40)
            first = self._members.take(found[:1]).names[0]
            told.append(f"{shown} in {len(found)} ({first}{', …' if len(found) > 1 else ''})")
        more = f"; {len(order) - _SHOWN_GROUPS} more" if len(order) > _SHOWN_GROUPS else ""
        return f"{where}: {'; '.join(told)}{more}"


class DriftReport(Sequence[Drift]):
    """Everything in which some datasets differ; made by ``Atlas.drift_report``. Empty when they are alike.

    Attributes
    ----------
    datasets : int
        How many were compared.

    Examples
    --------
    >>> import atlas
    >>> store = atlas.Atlas.create("fleet")
    >>> for name, units in (("a", "K"), ("b", "K"), ("c", "degC")):
    ...     store.create_dataset(name).set_attribute("units", units)
    >>> store.drift_report()
    <DriftReport of 3 datasets: 1 differences>
    """

    def __init__(self, members: Members, drifts: Sequence[Drift]) -> None:
        self.datasets = len(members)
        self._drifts = list(drifts)

    @property
    def ok(self) -> bool:
        """Whether there is no difference.

        Examples
        --------
        >>> import atlas
        >>> store = atlas.Atlas.create("fleet")
        >>> for name, units in (("a", "K"), ("b", "K"), ("c", "degC")):
        ...     store.create_dataset(name).set_attribute("units", units)
        >>> store.drift_report().ok, store.drift_report(["a", "b"]).ok
        (False, True)
        """
        return not self._drifts

    def __len__(self) -> int:
        return len(self._drifts)

    def __getitem__(self, position: Any) -> Any:
        return self._drifts[position]

    def __iter__(self) -> Iterator[Drift]:
        return iter(self._drifts)

    def of(self, array: str | None, aspect: str) -> Drift | None:
        """Return the difference in one aspect of an array, or of the datasets as a whole.

        Parameters
        ----------
        array : str or None
        aspect : str
            As :class:`Drift` has them.

        Returns
        -------
        Drift or None
            ``None`` if there is none.

        Examples
        --------
        >>> import atlas
        >>> store = atlas.Atlas.create("fleet")
        >>> for name, units in (("a", "K"), ("b", "K"), ("c", "degC")):
        ...     store.create_dataset(name).set_attribute("units", units)
        >>> store.drift_report().of(None, "attribute units").outliers
        ['c']
        >>> store.drift_report().of("t", "shape") is None
        True
        """
        return next((drift for drift in self._drifts if (drift.array, drift.aspect) == (array, aspect)), None)

    def __repr__(self) -> str:
        return f"<DriftReport of {self.datasets} datasets: {len(self)} differences>"

    def __str__(self) -> str:
        lines = [f"{self.datasets} datasets, {len(self)} differences"]
        lines += [f"  {drift}" for drift in self._drifts[:_SHOWN_DRIFTS]]
        if len(self) > _SHOWN_DRIFTS:
            lines.append(f"  … and {len(self) - _SHOWN_DRIFTS} more")
        return "\n".join(lines)


def drift_report(members: Members, arrays: Sequence[str] | None = None) -> DriftReport:
    """Compare what datasets declare: no cell is read."""
    found = []
    for array in members.arrays if arrays is None else arrays:
        layout = members.layout(array)
        for aspect, trait in _aspects(layout):
            if len(trait.values) > 1 or (aspect == "presence" and len(trait.absent)):
                found.append(Drift(array, aspect, members, trait))
        found += _attributes(members, array, layout)
    return DriftReport(members, found + (_attributes(members, None, None) if arrays is None else []))


def _aspects(layout: Trait) -> Iterator[tuple[str, Trait]]:
    yield "presence", Trait(np.where(layout.codes < 0, -1, 0), ["present"])
    for aspect, look in (
        ("dtype", lambda schema: schema.dtype.name),
        ("dimensions", lambda schema: list(schema.dims)),
        ("shape", lambda schema: list(schema.shape)),
        ("fill value", _fill),
    ):
        seen = [look(schema) for schema in layout.values]
        distinct = {repr(value): value for value in seen}
        numbers = {text: number for number, text in enumerate(distinct)}
        codes = np.array([*(numbers[repr(value)] for value in seen), -1], np.int64)
        yield aspect, Trait(codes[layout.codes], list(distinct.values()))


def _fill(schema: ArraySchema) -> Any:
    return "none" if schema.fill is None else schema.fill


def _attributes(members: Members, array: str | None, layout: Trait | None) -> list[Drift]:
    """Return the attributes that differ, among the datasets that have the array."""
    absent = 0 if layout is None else len(layout.absent)
    if absent:
        assert layout is not None
        members = members.take(np.flatnonzero(layout.codes >= 0))
    found = []
    for key in members.keys(array):
        trait = members.attribute(array, key)
        if not trait.is_common:
            found.append(Drift(array, f"attribute {key}", members, trait))
    return found
