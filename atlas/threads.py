"""Threads that help the calling one: started when first needed, and kept, as starting one takes as long as a chunk.

Ctrl-C may be heard between any two steps of the main thread. There it leaves a condition locked for ever, and with it
the standard library's pool and futures. Here the main thread does nothing that cannot be begun again.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from typing import Any

# Threads help several reads at once; no more start than are needed.
_MOST_THREADS = 64

# How long an end is waited for before it is looked for again: Ctrl-C may have swallowed the news of it.
_AGAIN_SECONDS = 0.05


class Turn:
    """What one helping thread is asked to do."""

    def __init__(self, action: Callable[[], Any]) -> None:
        self._action: Callable[[], Any] | None = action
        self._begun = self._over = False
        self._result: Any = None
        self._error: BaseException | None = None
        self._wake = threading.Lock()
        self._wake.acquire()

    def run(self) -> None:
        """Do it, in the helping thread, unless it is not wanted any more."""
        self._begun = True
        action = self._action
        try:
            if action is not None:
                self._result = action()
        except BaseException as error:
            self._error = error
        finally:
            self._over = True
            self._wake.release()

    def result(self) -> Any:
        """Wait for the end of a turn that was started; return what came of it, or raise that."""
        while not self._over:
            self._wake.acquire(timeout=_AGAIN_SECONDS)
        if self._error is not None:
            raise self._error
        return self._result

    def finish(self) -> None:
        """Give it up if it has not begun, or else wait for its end."""
        self._action = None
        while self._begun and not self._over:
            self._wake.acquire(timeout=_AGAIN_SECONDS)


class _Helpers:
    """The helping threads of this process."""

    def __init__(self) -> None:
        self.after_fork()

    def start(self, turn: Turn) -> None:
        """Have a turn run; raises :class:`RuntimeError` when there can be no more threads."""
        if self._started <= min(len(self._open), _MOST_THREADS - 1):
            threading.Thread(target=_serve, args=(self._queue, self._open), name="atlas", daemon=True).start()
            self._started += 1
        self._open.add(turn)
        self._queue.put(turn)

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


_helpers = _Helpers()
start = _helpers.start

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_helpers.after_fork)


def finish(turns: Iterable[Turn]) -> None:
    """Have no turn run any more."""
    for turn in turns:
        turn.finish()


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
