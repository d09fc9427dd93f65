"""Threads that help the calling one: started when first needed, and kept, as starting one takes as long as a chunk.

Ctrl-C may be heard between any two steps of the main thread. There it leaves a condition locked for ever, and with it
the standard library's pool and futures. Here the main thread does nothing that cannot be begun again.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from queue import SimpleQueue
from typing import Any

# Threads help several reads at once; no more start than are needed.
_MOST_THREADS = 64

# How long an end is waited for before it is looked for again: Ctrl-C may have swallowed the news of it.
_AGAIN_SECONDS = 0.05

_log = logging.getLogger("atlas")


class Turn:
    """What one helping thread is asked to do; the main thread only sets what may be set twice."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._action: Callable[[], None] | None = action
        self._begun = self._over = False
        self._wake = threading.Lock()
        self._wake.acquire()

    def run(self) -> None:
        """Do it, in the helping thread, unless it is not wanted any more."""
        self._begun = True
        action = self._action
        try:
            if action is not None:
                action()
        finally:
            self._over = True
            self._wake.release()

    def finish(self) -> None:
        """Give it up if it has not begun, or else wait for its end; may be interrupted, and called again."""
        self._action = None
        while self._begun and not self._over:
            self._wake.acquire(timeout=_AGAIN_SECONDS)


def finish(turns: Sequence[Turn]) -> None:
    """Have none of the turns run any more; may be interrupted, and called again."""
    for turn in turns:
        turn.finish()


class _Threads:
    """The helping threads of this process."""

    def __init__(self) -> None:
        self.after_fork()

    def help(self, action: Callable[[], None], count: int, turns: list[Turn]) -> None:
        """Have `action` run in up to `count` threads besides the calling one, and add their turns to `turns`."""
        try:
            for _ in range(count):
                if self._started <= min(len(self._open), _MOST_THREADS - 1):
                    thread = threading.Thread(target=_serve, args=(self._queue, self._open), name="atlas", daemon=True)
                    thread.start()
                    self._started += 1
                turns.append(Turn(action))
                self._open.add(turns[-1])
                self._queue.put(turns[-1])
        except RuntimeError as error:
            _log.debug("no more threads here (%s); the calling one does the rest", error)

    def after_fork(self) -> None:
        """Make the child begin without threads: it inherits none."""
        self._started = 0
        self._open: set[Turn] = set()
        self._queue: SimpleQueue[Turn] = SimpleQueue()


def _serve(queue: SimpleQueue[Turn], open_turns: set[Turn]) -> None:
    while True:
        turn = queue.get()
        turn.run()
        open_turns.discard(turn)
        del turn  # and with it the results that it has seen, while there is nothing to do


def insist(action: Callable[[], object]) -> None:
    """Complete `action` however often Ctrl-C is pressed meanwhile, and only then let that be heard."""
    interrupted: KeyboardInterrupt | None = None
    while True:
        try:
            action()
            break
        except KeyboardInterrupt as error:
            interrupted = error
    if interrupted is not None:
        raise interrupted


def take_in(lock: Any, waiting: deque[Any], action: Callable[[], object]) -> None:
    """Do something with all that waits, under a reentrant lock, unless somebody holds it: whoever does looks once more.

    For finalizers. They may run inside any statement, also of the thread that holds the lock, which would wait for
    itself.
    """
    # There is no public word for it; `threading.Condition` asks in the same way.
    while waiting and not lock._is_owned():
        try:
            if not lock.acquire(blocking=False):
                return
            action()
        finally:
            # An interrupt may come just when the lock has been taken; one of another thread is not released by this.
            try:  # noqa: SIM105 - a call before the release is a moment for an interrupt
                lock.release()
            except RuntimeError:
                pass


_threads = _Threads()
help_with = _threads.help

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.after_fork)


def take_turns(action: Callable[[Any], object], items: Sequence[Any], helpers: int) -> None:
    """Do something with every item: in the calling thread and in helping ones, each taking the next in turn.

    When it is left, also by an interrupt, nothing is done any more. After an error no further item is begun.
    """
    left = list(enumerate(items))[::-1]
    errors: dict[int, BaseException] = {}

    def work() -> None:
        while left:
            try:
                number, item = left.pop()
            except IndexError:
                return
            try:
                action(item)
            except BaseException as error:
                errors[number] = error
                left.clear()

    helping: list[Turn] = []
    try:
        help_with(work, helpers, helping)
        work()
    finally:
        left.clear()
        insist(partial(finish, helping))
    for error in errors.values():
        if not isinstance(error, Exception):
            raise error
    if errors:
        # Items are begun in order, so all those before the first that failed have been done.
        raise errors[min(errors)]


class _Ahead:
    """A result that a helping thread works out, or the calling one when it is wanted first."""

    def __init__(self, task: Callable[..., Any], job: tuple[Any, ...]) -> None:
        self._task, self._job = task, job
        self.turns: list[Turn] = []
        self._value: Any = None
        self._error: BaseException | None = None
        self._is_known = False
        help_with(self._run, 1, self.turns)

    def _run(self) -> None:
        try:
            self._value = self._task(*self._job)
        except BaseException as error:
            self._error = error
        self._is_known = True

    def get(self) -> Any:
        """Return the result, or raise what the task raised."""
        finish(self.turns)
        if not self._is_known:
            self._run()
        if self._error is not None:
            raise self._error
        return self._value


def map_ahead(task: Callable[..., Any], jobs: Iterable[tuple[Any, ...]], workers: int) -> Iterator[Any]:
    """Yield ``task(*job)`` for every job in order, a few ahead in threads; when it is left, none runs any more."""
    if workers == 1:
        yield from (task(*job) for job in jobs)
        return
    ahead: deque[_Ahead] = deque()
    try:
        for job in jobs:
            ahead.append(_Ahead(task, job))
            if len(ahead) > workers:
                yield ahead[0].get()
                ahead.popleft()
        while ahead:
            yield ahead[0].get()
            ahead.popleft()
    finally:
        insist(lambda: finish([turn for result in ahead for turn in result.turns]))
