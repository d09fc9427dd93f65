"""The readers' pins: while a generation of a store is pinned, no writer takes its files away.

Pins are locks on single bytes of the lock file, one per generation, held on an open file description and freed by the
kernel when a process dies.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import weakref
from collections import deque
from contextlib import suppress

from atlas.storage import locks
from atlas.threads import take_in

_log = logging.getLogger("atlas")

# Why there may be no pins in a place that can be read all the same: no lock file, or none that may be opened (a pipe's
# or a link's place is no file's), or no locks.
_NO_PINS = (
    *(errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP, errno.ENXIO),
    *(errno.ENOLCK, *locks.UNKNOWN),
)


class _Held:
    """That a generation is locked, for as long as anybody refers to this."""

    def __init__(self, board: PinBoard, generation: int) -> None:
        self._board = board
        # Not at exit, when handles may still be in use: the system gives everything up.
        weakref.finalize(self, _give_up, weakref.ref(board), generation).atexit = False


def _give_up(reference: weakref.ref[PinBoard], generation: int) -> None:
    board = reference()
    if board is not None:
        board.give_up(generation)


class PinBoard:
    """The pins of this process on one store; one descriptor however many handles there are.

    What is to be unlocked is found out anew each time. So what Ctrl-C has kept from being unlocked is so with the next
    pin that is taken or given up; and with the last goes the descriptor, and every lock there is on it.
    """

    def __init__(self, descriptor: int) -> None:
        # Not at exit, as above.
        weakref.finalize(self, os.close, descriptor).atexit = False
        self._descriptor = descriptor
        self._lock = threading.RLock()
        self._held: dict[int, weakref.ref[_Held]] = {}
        self._dropped: deque[int] = deque()

    @property
    def file(self) -> tuple[int, int]:
        """Which file it is."""
        status = os.fstat(self._descriptor)
        return status.st_dev, status.st_ino

    @property
    def is_cut_into(self) -> bool:
        """Whether this very thread is in the middle of something here."""
        # There is no public word for it; `threading.Condition` asks in the same way.
        return bool(self._lock._is_owned())  # type: ignore[attr-defined]

    def hold(self, generation: int) -> _Held:
        """Lock a generation."""
        with self._lock:
            self._unlock()
            known = self._held.get(generation)
            held = (None if known is None else known()) or _Held(self, generation)
            # Noted first, and locked again if it is: an interrupt may have come between the two.
            self._held[generation] = weakref.ref(held)
            self._set(locks.SHARED, generation)
        self._settle()
        return held

    def give_up(self, generation: int) -> None:
        """Unlock a generation that nobody holds any more."""
        self._dropped.append(generation)
        self._settle()

    def leave_to_parent(self) -> None:
        """Unlock nothing any more: in a forked child the locks are the parent's."""
        self._held.clear()

    def _settle(self) -> None:
        # The garbage collector may drop a pin in the middle of hold(), in the same thread.
        take_in(self._lock, self._dropped, self._unlock)

    def _unlock(self) -> None:
        self._dropped.clear()
        for generation in [generation for generation, held in self._held.items() if held() is None]:
            # Where nothing can be locked, nothing is.
            with suppress(OSError):
                self._set(locks.UNLOCKED, generation)
            del self._held[generation]

    def _set(self, kind: int, generation: int) -> None:
        locks.set_lock(self._descriptor, kind, locks.PIN_BASE + generation)


# A pipe in the lock file's place must not keep anybody waiting.
_READING = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)

# By the lock file's identity, not its path, where another store may be by now. A board lives as long as what it holds.
_boards: weakref.WeakValueDictionary[tuple[int, int], PinBoard] = weakref.WeakValueDictionary()
# Reentrant: a signal handler may open a store in the middle of any statement.
_guard = threading.RLock()


def _board(path: str) -> PinBoard:
    board = PinBoard(os.open(path, _READING))
    with _guard:
        known = _boards.setdefault(board.file, board)
    # One of the two goes, and with it its descriptor. A signal handler does not go on with what it has cut into.
    return board if known.is_cut_into else known


class ReaderPin:
    """One handle's pin; released with it."""

    def __init__(self, path: str, generation: int) -> None:
        self._path = path
        self._generation = generation
        self._hold()
        _pins.add(self)

    def _hold(self) -> None:
        self._held: _Held | None = _board(self._path).hold(self._generation)

    def release(self) -> None:
        """Give the pin up."""
        self._held = None

    def hold_in_child(self) -> None:
        """Take the pin again in a forked child: the one that is there is the parent's, who may give it up."""
        if self._held is not None:
            try:
                self._hold()
            except OSError as error:
                _log.warning("a forked child reads for as long only as its parent does: %s", error)


# Those that a forked child takes for itself.
_pins: weakref.WeakSet[ReaderPin] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    global _guard
    _guard = threading.RLock()
    for board in list(_boards.values()):
        board.leave_to_parent()
    _boards.clear()
    for pin in list(_pins):
        pin.hold_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


class NoPin:
    """A pin where there is nothing to hold on to."""

    def release(self) -> None:
        """Do nothing."""


def pin(directory: str, generation: int) -> ReaderPin | NoPin:
    """Pin a generation of the store in `directory`, if that is possible there."""
    if not locks.has_ofd_locks:
        return NoPin()
    try:
        return ReaderPin(os.path.join(directory, locks.LOCK_NAME), generation)
    except OSError as error:
        # There the probe below fails as well, and retired files are kept for a grace period. Any other failure is the
        # reader's alone, whose files a writer would take away.
        if error.errno not in _NO_PINS:
            raise
        return NoPin()


def pinned_below(directory: str, generation: int) -> bool | None:
    """Return whether a reader holds a generation below this one; ``None`` where nobody can tell."""
    if not locks.has_ofd_locks:
        return None
    if generation <= 0:
        return False  # a length of 0 would mean "to the end"
    try:
        with os.fdopen(os.open(os.path.join(directory, locks.LOCK_NAME), _READING), "rb") as file:
            # Through its own open file description, so that pins of this process count too.
            return locks.is_locked(file.fileno(), locks.PIN_BASE, generation)
    except OSError:
        return None
