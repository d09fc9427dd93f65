"""The datasets that satisfy conditions: found from statistics and attributes, confirmed by reading if asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from atlas.chunks import in_steps
from atlas.columns import Integers, group_members
from atlas.conditions import Condition, SomeCell
from atlas.facts import Facts, Mask, Truth
from atlas.forks import cached_property
from atlas.plan import Wanted
from atlas.reader import Snapshot

if TYPE_CHECKING:
    from atlas.many import Many

# Cells that are read at a time to confirm a condition.
_BATCH_BYTES = 64 << 20


def matching(snapshot: Snapshot, condition: Condition, confirm: bool) -> tuple[Integers, Mask]:
    """Return the ordinals of the datasets that could match, ascending, and which of them certainly do.

    Parameters
    ----------
    confirm : bool
        Read the cells of those that only could; then all that are returned certainly do.
    """
    facts = Facts(snapshot)
    live = snapshot.root.catalog.ordinals
    truth = condition.truth(facts)
    if confirm:
        open_ = live[(truth.true & ~truth.certain)[live]]
        for leaf in condition.leaves():
            if isinstance(leaf, SomeCell) and leaf not in facts.answers:
                facts.answers[leaf] = _answers(facts, leaf, open_)
        truth = condition.truth(facts)
    found = live[truth.true[live]]
    return found, truth.certain[found]


def _answers(facts: Facts, leaf: SomeCell, ordinals: Integers) -> tuple[Mask, Mask]:
    """Read the array of some datasets; return whose cells were read, and which hold one that matches."""
    slots = facts.snapshot.root.catalog.slots
    read, answers = np.zeros(slots, bool), np.zeros(slots, bool)
    before: Truth = leaf.truth(facts)
    wanted = ordinals[(before.true & before.false)[ordinals]]
    codes, schemas = facts.snapshot.root.catalog.layouts(leaf.array.name, wanted)
    for code, places in group_members(codes):
        schema, members = schemas[code], wanted[places]
        for rows in in_steps(len(members), schema.nbytes, _BATCH_BYTES):
            batch = members[rows]
            whole = [Wanted(schema, schema.box, np.arange(len(batch)), batch)]
            arrays = facts.snapshot.read_boxes(schema.name, schema.dtype, whole)
            for ordinal, cells in zip(batch.tolist(), arrays, strict=True):
                read[ordinal] = True
                answers[ordinal] = leaf.matches(facts, cells, schema)
    return read, answers


class Selection(Sequence[str]):
    """Names of datasets, in order of insertion, that a condition found; made by :meth:`Atlas.select`.

    A sequence of names, so it goes wherever names are asked for; a slice of one is a selection.

    Attributes
    ----------
    ordinals : (n,) int64
    certain : (n,) bool
        Which of them certainly match; the others could, as far as statistics tell.

    Examples
    --------
    >>> import atlas
    >>> store = atlas.Atlas.create("fleet")
    >>> store.create_datasets(["a", "b"], {"t": {"dims": ["x"], "data": [[1.0, 3.0], [5.0, 7.0]]}})
    >>> store.flush()
    >>> found = store.select(atlas.col("t") == 6)
    >>> found
    <Selection of 1 datasets, 0 for certain>
    >>> list(store.select(atlas.col("t") == 6, confirm=True))
    []
    """

    def __init__(self, store: Many, snapshot: Snapshot, ordinals: Integers, certain: Mask) -> None:
        self._store = store
        self._snapshot = snapshot
        self.ordinals = ordinals
        self.certain = certain

    @cached_property
    def names(self) -> list[str]:
        """The names, in order.

        Examples
        --------
        >>> import atlas
        >>> store = atlas.Atlas.create("fleet")
        >>> store.create_datasets(["hill", "mountain"], attributes={"height": [300, 4000]})
        >>> store.flush()
        >>> store.select(atlas.col.attr("height") > 1000).names
        ['mountain']
        """
        return self._snapshot.root.catalog.names_of(self.ordinals)

    def __len__(self) -> int:
        return len(self.ordinals)

    @overload
    def __getitem__(self, position: int) -> str: ...
    @overload
    def __getitem__(self, position: slice) -> Selection: ...
    def __getitem__(self, position: int | slice) -> str | Selection:
        if isinstance(position, slice):
            return Selection(self._store, self._snapshot, self.ordinals[position], self.certain[position])
        return self.names[position]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __repr__(self) -> str:
        return f"<Selection of {len(self)} datasets, {int(self.certain.sum())} for certain>"

    def stack(
        self,
        array: str,
        start: Sequence[int] | None = None,
        shape: Sequence[int] | None = None,
        *,
        out: NDArray[Any] | None = None,
        on_missing: Literal["raise", "fill"] = "raise",
    ) -> NDArray[Any]:
        """Read the same box of an array of all of them into one; see :meth:`Atlas.read_array_across_stacked`.

        Parameters
        ----------
        array, start, shape, out, on_missing : see :meth:`Atlas.read_array_across_stacked`

        Returns
        -------
        ndarray
            Of shape ``(len(selection), *box)``.

        Examples
        --------
        >>> import atlas
        >>> store = atlas.Atlas.create("fleet")
        >>> store.create_datasets(["a", "b"], {"t": {"dims": ["x"], "data": [[1.0, 3.0], [5.0, 7.0]]}})
        >>> store.flush()
        >>> store.select(atlas.col("t").min() > 2).stack("t")
        array([[5., 7.]])
        """
        return self._store.read_array_across_stacked(array, self.names, start, shape, out=out, on_missing=on_missing)

    def read(
        self, array: str, start: Sequence[int] | None = None, shape: Sequence[int] | None = None
    ) -> list[NDArray[Any] | None]:
        """Read the same box of an array of all of them into a list; see :meth:`Atlas.read_array_across`.

        Parameters
        ----------
        array, start, shape : see :meth:`Atlas.read_array_across`

        Returns
        -------
        list of ndarray or None

        Examples
        --------
        >>> import atlas
        >>> store = atlas.Atlas.create("fleet")
        >>> store.create_datasets(["a", "b"], {"t": {"dims": ["x"], "data": [[1.0, 3.0], [5.0, 7.0]]}})
        >>> store.flush()
        >>> store.select(atlas.col("t").max() < 4).read("t")
        [array([1., 3.])]
        """
        return self._store.read_array_across(array, self.names, start, shape)
