"""Which datasets two writers both changed.

A handle remembers, for every dataset that it changes, the committed state in which it first did. At the
flush that dataset must not have changed since. When the handle itself moves on to a newer state, by
``refresh`` or ``compact``, what it changed before is still compared with what it had seen then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from atlas.chunks import Integers
from atlas.errors import ConflictError
from atlas.root import Root


@dataclass
class Attempt:
    """A commit that was begun; it may have happened although it was reported as failed.

    Attributes
    ----------
    root : Root
    names : set of str
        The datasets that it changed.
    numbered : int
        How many datasets the name table had.
    happened : bool
        Whether it has been found among the commits: later ones may not tell any more.
    """

    root: Root
    names: set[str]
    numbered: int = 0
    happened: bool = False

    def led_to(self, current: Root) -> bool:
        """Whether a committed state is known to be that of this attempt, or one that came after it."""
        if current.came_after(self.root.commit):
            return True
        return self.happened and current.oldest_known > self.root.generation

    def is_ruled_out_by(self, current: Root) -> bool:
        """Whether a committed state shows that this attempt did not happen, nor will."""
        if self.led_to(current) or current.oldest_known > self.root.generation:
            return False
        # A put that nobody answered may still arrive, as long as the state is there which it is to replace.
        return current.version is None or current.generation >= self.root.generation


def check_conflicts(current: Root, seen: Mapping[str, Root]) -> None:
    """Raise :class:`ConflictError` if a dataset is not what it was in the state in which it was seen."""
    by_state: dict[str, tuple[Root, list[str]]] = {}
    for name, root in seen.items():
        by_state.setdefault(root.commit, (root, []))[1].append(name)
    clashes = sorted(name for root, names in by_state.values() for name in _changed(root, current, names))
    if clashes:
        shown = ", ".join(map(repr, clashes[:5])) + ("…" if len(clashes) > 5 else "")
        raise ConflictError(
            f"another writer committed changes to {len(clashes)} of the same datasets first: {shown}; "
            "open the store anew and apply your changes to what is there now",
            clashes,
        )


def _changed(before: Root, now: Root, names: list[str]) -> list[str]:
    was, is_now = _generations(before, names), _generations(now, names)
    differ = was != is_now
    if before.store != now.store or _parted(before, now):
        # Generations of another store, or history, say nothing: only what is in neither is the same.
        differ |= is_now != -1
    return [names[i] for i in np.flatnonzero(differ).tolist()]


def _parted(before: Root, now: Root) -> bool:
    """Whether two states of a store are known to have others between them and the one they both came from.

    An older root was put in place, then, and gone on from: generations were used twice.
    """
    is_known = now.oldest_known <= before.generation
    return is_known and not now.came_after(before.commit) and not before.came_after(now.commit)


def _generations(root: Root, names: list[str]) -> Integers:
    """Return the generation in which each dataset last changed, -1 where there is none."""
    found = root.catalog.find(names)
    there = found >= 0
    found[there] = root.catalog.changed(found[there])
    return found
