"""What a handle has asked of an object store."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field

from atlas.forks import free_in_children


@dataclass(frozen=True)
class IOStats:
    """Requests to an object store, and bytes that went over the line; see :attr:`atlas.Atlas.io_stats`.

    Attributes
    ----------
    requests : dict of str to int
        By kind: ``get`` (whole objects), ``range``, ``put``, ``conditional_put``, ``part`` and
        ``multipart`` (the beginning and the end of an upload in parts), ``delete``, ``list``, ``head``.
        A request that is repeated counts each time.
    bytes_asked : int
        Bytes of objects that were asked for.
    bytes_used : int
        Of these, bytes that were wanted; the rest lies between ranges that were fetched as one.
    bytes_written : int

    Examples
    --------
    >>> IOStats({"get": 1, "range": 3}, 400, 390).total
    4
    """

    requests: dict[str, int] = field(default_factory=dict)
    bytes_asked: int = 0
    bytes_used: int = 0
    bytes_written: int = 0

    @property
    def total(self) -> int:
        """Requests of all kinds.

        Examples
        --------
        >>> IOStats({"get": 1, "put": 2}).total
        3
        """
        return sum(self.requests.values())

    def __sub__(self, before: IOStats) -> IOStats:
        """Return what came after an earlier look."""
        requests = Counter(self.requests)
        requests.subtract(before.requests)
        return IOStats(
            {kind: count for kind, count in requests.items() if count},
            self.bytes_asked - before.bytes_asked,
            self.bytes_used - before.bytes_used,
            self.bytes_written - before.bytes_written,
        )


class Counters:
    """Counts what several threads do."""

    def __init__(self) -> None:
        self._lock = free_in_children(threading.Lock())
        self._requests: Counter[str] = Counter()
        self._asked = self._used = self._written = 0

    def count(self, kind: str, asked: int = 0, used: int = 0, written: int = 0) -> None:
        """Count a request and its bytes; an empty `kind` is none."""
        with self._lock:
            if kind:
                self._requests[kind] += 1
            self._asked += asked
            self._used += used
            self._written += written

    def read(self) -> IOStats:
        """Return what was counted so far."""
        with self._lock:
            return IOStats(dict(self._requests), self._asked, self._used, self._written)
