"""Seconds and memory of one process."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager


def memory() -> float:
    """Return the resident memory of this process in MiB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def peak() -> float:
    """Return the largest resident memory so far in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def timed(costs: dict[str, float], name: str, unit: float = 1) -> Iterator[None]:
    """Note how long something takes, in seconds, or in as many to a second."""
    began = time.perf_counter()
    yield
    costs[name] = unit * (time.perf_counter() - began)
