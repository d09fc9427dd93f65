"""Locks between processes: the writer's lock, and the readers' pins.

Both are held on open file descriptions of one lock file and freed by the kernel when a process
dies, so nothing stale ever blocks.
"""

from __future__ import annotations

import os
import struct
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from atlas.errors import ConflictError, ReadOnlyStore

try:
    import fcntl
except ImportError:  # a platform without POSIX locks
    fcntl = None  # type: ignore[assignment]

LOCK_NAME = ".atlas.lock"

# Pins are locks on single bytes of the lock file, one per generation, far behind its content.
_PIN_BASE = 1 << 40

has_flock = hasattr(fcntl, "flock")
has_ofd_locks = hasattr(fcntl, "F_OFD_SETLK")

_threads: dict[str, threading.Lock] = {}
_threads_guard = threading.Lock()


def _thread_lock(path: str) -> threading.Lock:
    # A flock is not exclusive between the handles of one process; this is.
    with _threads_guard:
        return _threads.setdefault(os.path.realpath(path), threading.Lock())


@contextmanager
def thread_lock(path: str, timeout: float) -> Iterator[bool]:
    """Exclude the other threads of this process; yields that nothing was left unfinished."""
    lock = _thread_lock(path)
    if not lock.acquire(timeout=timeout):
        raise ConflictError(f"another thread has been writing to {path} for more than {timeout:g} s")
    try:
        yield False
    finally:
        lock.release()


@contextmanager
def writer_lock(directory: str, timeout: float) -> Iterator[bool]:
    """Exclude every other writer of the store in `directory`.

    Yields whether the writer before may have left something unfinished: the lock file holds a byte
    from when a writer begins until it ends well.
    """
    path = os.path.join(directory, LOCK_NAME)
    with thread_lock(path, timeout):
        if not has_flock:
            yield True
            return
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except PermissionError as error:
            raise ReadOnlyStore(f"{directory} cannot be written: {error.strerror}") from None
        _inherited.add(descriptor)
        try:
            _acquire(descriptor, path, timeout)
            interrupted = os.fstat(descriptor).st_size > 0
            os.pwrite(descriptor, b"w", 0)
            yield interrupted
            os.ftruncate(descriptor, 0)
        finally:
            _inherited.discard(descriptor)
            os.close(descriptor)


def _acquire(descriptor: int, path: str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    pause = 0.001
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise ConflictError(
                    f"another process has been writing to {os.path.dirname(path)} for more than {timeout:g} s"
                ) from None
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


# A forked child shares the open file description and would keep the lock alive: it closes its copy.
_inherited: set[int] = set()


def _after_fork() -> None:
    global _threads_guard
    _threads_guard = threading.Lock()
    _threads.clear()
    for descriptor in _inherited:
        os.close(descriptor)
    _inherited.clear()
    _boards.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class PinBoard:
    """The pins of this process on one store; one descriptor however many handles there are."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._held: Counter[int] = Counter()
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)

    def hold(self, generation: int) -> None:
        """Take a pin."""
        with self._lock:
            self._held[generation] += 1
            if self._held[generation] == 1:
                self._set(fcntl.F_RDLCK, generation)

    def drop(self, generation: int) -> None:
        """Give a pin up."""
        with self._lock:
            self._held[generation] -= 1
            if self._held[generation] <= 0:
                del self._held[generation]
                self._set(fcntl.F_UNLCK, generation)

    def _set(self, kind: int, generation: int) -> None:
        fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, _flock(kind, _PIN_BASE + generation, 1))


def _flock(kind: int, start: int, length: int) -> bytes:
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0)


_boards: dict[str, PinBoard] = {}


class ReaderPin:
    """One handle's pin; released with it."""

    def __init__(self, board: PinBoard, generation: int) -> None:
        board.hold(generation)
        self._finalizer = weakref.finalize(self, _release, board, generation, os.getpid())

    def release(self) -> None:
        """Give the pin up."""
        self._finalizer()


def _release(board: PinBoard, generation: int, owner: int) -> None:
    # In a forked child the pin still belongs to the parent.
    if os.getpid() == owner:
        board.drop(generation)


class NoPin:
    """A pin where there is nothing to hold on to."""

    def release(self) -> None:
        """Do nothing."""


def pin(directory: str, generation: int) -> ReaderPin | NoPin:
    """Pin a generation of the store in `directory`, if that is possible there."""
    path = os.path.join(os.path.realpath(directory), LOCK_NAME)
    if not has_ofd_locks:
        return NoPin()
    with _threads_guard:
        board = _boards.get(path)
        if board is None:
            try:
                board = _boards[path] = PinBoard(path)
            except OSError:
                # No lock file, or not readable: a read-only copy that nobody compacts.
                return NoPin()
    return ReaderPin(board, generation)


def pinned_below(directory: str, generation: int) -> bool:
    """Return whether a reader may hold a generation below this one."""
    if not has_ofd_locks:
        return True
    with open(os.path.join(directory, LOCK_NAME), "rb") as file:
        # Through its own open file description, so that pins of this process count too.
        probe: Any = fcntl.fcntl(file, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK, _PIN_BASE, generation))
    return bool(struct.unpack("hhqqi4x", probe)[0] != fcntl.F_UNLCK)
