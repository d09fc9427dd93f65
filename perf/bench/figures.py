"""Numbers out of records: medians, spreads, and ratios pair by pair."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Record = dict[str, Any]

OURS = ("atlas", "zstd")  # what a user gets who chooses nothing


# Sweep: what is along the axis, how it is called, whether it is logarithmic.
AXES: dict[str, tuple[Callable[[Record], float], str, bool]] = {
    "datasets": (lambda r: r["datasets"], "datasets", True),
    "fraction": (lambda r: 100 * r["fraction"], "% of every axis", False),
    "chunks": (lambda r: r["chunk"], "cells in a chunk", True),
    "workers": (lambda r: r["workers"], "workers", False),
}


def select(records: Iterable[Record], **facts: Any) -> list[Record]:
    """Return the records that have all of these facts."""
    return [record for record in records if all(record.get(key) == value for key, value in facts.items())]


def median(record: Record | None, what: str) -> float | None:
    """Return the median of a record's series, or ``None`` if there is none."""
    return statistics.median(record[what]) if record and record.get(what) else None


def quartiles(series: Sequence[float]) -> tuple[float, float]:
    """Return the first and the third quartile."""
    if len(series) < 2:
        return series[0], series[0]
    low, _, high = statistics.quantiles(series, n=4, method="inclusive")
    return low, high


def ratio(theirs: Record | None, ours: Record | None, what: str) -> float | None:
    """Return how many times longer theirs took: the median over the rounds that both took part in."""
    if not theirs or not ours or not theirs.get(what) or not ours.get(what):
        return None
    return statistics.median(a / b for a, b in zip(theirs[what], ours[what], strict=False))


def shown(ratio: float) -> str:
    """Return a ratio as it is shown."""
    return f"{ratio:,.0f}" if ratio >= 1000 else f"{ratio:.3g}"


def ours(records: Iterable[Record], codec: str = OURS[1]) -> Record | None:
    """Return the record of this package among records of one operation."""
    found = select(records, system=OURS[0], codec=codec)
    return found[0] if found else None


def sweeps(records: Sequence[Record]) -> list[tuple[str, str]]:
    """Return the sweeps that were made, each with its workload, in order."""
    return list(dict.fromkeys((r["sweep"], r["workload"]) for r in records if r["sweep"]))
