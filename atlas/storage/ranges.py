"""From the bytes that are wanted of an object to the requests that fetch them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


class Range(NamedTuple):
    """Part of an object: bytes `start` to `end`."""

    key: str
    start: int
    end: int


@dataclass(frozen=True)
class Requests:
    """Requests for one object, by ascending offset.

    Attributes
    ----------
    starts, ends : (R,) int64
        The bytes of each request.
    order : (n,) int64
        The wanted ranges, in the order of their offsets.
    firsts : (R + 1,) int64
        Where the ranges of each request begin in `order`.
    """

    starts: Integers
    ends: Integers
    order: Integers
    firsts: Integers

    @property
    def owners(self) -> Integers:
        """The request of each wanted range, in the order in which those were given."""
        owners = np.empty(len(self.order), np.int64)
        owners[self.order] = np.repeat(np.arange(len(self.starts)), np.diff(self.firsts))
        return owners


def coalesce(offsets: Integers, lengths: Integers, gap: int, limit: int) -> Requests:
    """Return the fewest requests for ranges of an object.

    Parameters
    ----------
    offsets, lengths : (n,) int64
    gap : int
        Ranges that are no further apart than this are fetched together,
    limit : int
        as long as the request is no larger; a single range may be.

    Examples
    --------
    >>> found = coalesce(np.array([0, 1000, 15]), np.array([10, 10, 10]), gap=100, limit=1000)
    >>> found.starts.tolist(), found.ends.tolist()
    ([0, 1000], [25, 1010])
    """
    order = np.argsort(offsets, kind="stable")
    starts, ends = offsets[order], (offsets + lengths)[order]
    reach = np.maximum.accumulate(ends) if len(ends) else ends
    far = np.flatnonzero(starts[1:] - reach[:-1] > gap) + 1
    edges = np.concatenate([[0], far, [len(order)]]) if len(order) else np.zeros(1, np.int64)
    firsts: list[int] = []
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        while low < high:
            firsts.append(low)
            fits = low + int(np.searchsorted(reach[low:high], starts[low] + limit, side="right"))
            low = max(fits, low + 1)
    bounds = np.array([*firsts, len(order)], np.int64)
    if not firsts:
        nothing = np.zeros(0, np.int64)
        return Requests(nothing, nothing, order, bounds)
    return Requests(starts[bounds[:-1]], np.maximum.reduceat(ends, bounds[:-1]), order, bounds)
