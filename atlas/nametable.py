"""Names of datasets that are changed together: each has a number, as long as it is not changed by itself."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from atlas.chunks import Integers
from atlas.names import Names, Sought
from atlas.root import Root


class NameTable:
    """Names of datasets, each with a number; those that became loose have one no more."""

    def __init__(self) -> None:
        self.pieces: list[tuple[int, Names]] = []
        self._roots: list[tuple[int, Root]] = []
        self.alive: NDArray[np.bool_] = np.zeros(0, bool)

    def add(self, names: Names, root: Root) -> Integers:
        """Number more names, first changed in a committed state; return the numbers."""
        first = len(self.alive)
        if not self._roots or self._roots[-1][1] is not root:
            self._roots.append((first, root))
        self.alive = np.concatenate([self.alive, np.ones(len(names), bool)])
        self.pieces.append((first, names))
        # Few pieces, each name copied a few times for all that come after it.
        while len(self.pieces) > 1 and len(self.pieces[-2][1]) < 2 * len(self.pieces[-1][1]):
            (start, before), (_, after) = self.pieces[-2:]
            if (before.find(after.sought) >= 0).any():
                # One that was deleted and is there again: within one piece only the first would be found.
                break
            self.pieces[-2:] = [(start, Names.joined([before, after]))]
        return np.arange(first, len(self.alive))

    def find(self, sought: Sought) -> Integers:
        """Return the number of every name, -1 for those without one."""
        found = np.full(len(sought.hashes), -1, np.int64)
        for first, names in self.pieces:
            rows = names.find(sought)
            hits = np.flatnonzero(rows >= 0)
            hits = hits[self.alive[rows[hits] + first]]
            found[hits] = rows[hits] + first
        return found

    def root_of(self, number: int) -> Root:
        """Return the committed state in which a dataset was first changed."""
        return self._roots[bisect_right(self._roots, number, key=lambda item: item[0]) - 1][1]

    def by_root(self) -> Iterator[tuple[Root, Integers]]:
        """Yield these states, each with the numbers of its datasets."""
        ends = [*(first for first, _ in self._roots), len(self.alive)][1:]
        for (first, root), end in zip(self._roots, ends, strict=True):
            yield root, first + np.flatnonzero(self.alive[first:end])

    def seen_in(self, root: Root, end: int) -> None:
        """Take a committed state as that of all numbers below `end`."""
        if end:
            following = self.root_of(end) if end < len(self.alive) else root
            self._roots = [(0, root), (end, following), *(item for item in self._roots if item[0] > end)]

    def names(self, ids: Integers) -> Names:
        """Return the names of ascending numbers."""
        parts = []
        for first, names in self.pieces:
            own = ids[(ids >= first) & (ids < first + len(names))] - first
            if len(own):
                parts.append(names.take(own))
        return Names.joined(parts) if parts else Names.of([])
