"""Requests under way: so many at once, and no more bytes than memory was set aside for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import partial
from queue import SimpleQueue
from typing import Any, NamedTuple


class Job(NamedTuple):
    """Something to fetch, and the bytes that it will take."""

    size: int
    fetch: Callable[[], Coroutine[Any, Any, Any]]


class _Flight:
    """The jobs of one read. Everything but the queue is only touched by the event loop's thread."""

    def __init__(self, jobs: Sequence[Job], at_once: int, budget: int) -> None:
        self._jobs = jobs
        self._at_once = at_once
        self._budget = budget
        self._next = self._held = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self.done: SimpleQueue[tuple[int, asyncio.Task[Any]]] = SimpleQueue()

    def start(self) -> None:
        while self._next < len(self._jobs) and len(self._tasks) < self._at_once:
            job = self._jobs[self._next]
            # One that is larger than all memory that was set aside goes alone.
            if self._held and self._held + job.size > self._budget:
                return
            self._held += job.size
            task = asyncio.ensure_future(job.fetch())
            self._tasks.add(task)
            task.add_done_callback(partial(self._landed, self._next))
            self._next += 1

    def _landed(self, number: int, task: asyncio.Task[Any]) -> None:
        if not task.cancelled():
            task.exception()  # seen: when several fail, only the first one is raised
        if task in self._tasks:
            self._tasks.discard(task)
            self.done.put((number, task))
            self.start()

    def used(self, size: int) -> None:
        self._held -= size
        self.start()

    def stop(self) -> None:
        self._next = len(self._jobs)
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()


def in_flight(loop: Any, jobs: Sequence[Job], at_once: int, budget: int) -> Iterator[tuple[int, Any]]:
    """Yield the number and the result of every job, as they come in; the first error is raised.

    Parameters
    ----------
    loop : asyncio.AbstractEventLoop
        Runs in another thread.
    jobs : sequence of Job
    at_once : int
        Requests that are made at the same time.
    budget : int
        Bytes of results that are on their way, or not yet asked for by the caller.
    """
    flight = _Flight(jobs, at_once, budget)
    loop.call_soon_threadsafe(flight.start)
    try:
        for _ in jobs:
            number, task = flight.done.get()
            yield number, task.result()
            del task
            loop.call_soon_threadsafe(flight.used, jobs[number].size)
    finally:
        loop.call_soon_threadsafe(flight.stop)
