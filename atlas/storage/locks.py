"""The writer's lock, between threads and processes.

It is held on an open file description of the lock file and freed by the kernel when a process dies, so nothing stale
ever blocks. So are the readers' pins, on other bytes of it (:mod:`atlas.storage.pins`).
"""

from __future__ import annotations

import errno
import logging
import os
import struct
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from io import FileIO

from atlas.errors import ConflictError, StoreAlreadyExists

try:
    import fcntl
except ImportError:  # a platform without POSIX locks
    fcntl = None  # type: ignore[assignment]

_log = logging.getLogger("atlas")

LOCK_NAME = ".atlas.lock"

# What the lock file holds from when a writer begins until it ends well, so that the next one knows what may be
# unfinished: any commit, or only that of a repair, which can be told from others.
WRITING, REPAIRING = b"w", b"r"
# And when it has ended well. Not nothing: a disk that is full has no room for a first byte, which who frees some needs.
_IDLE = b"-"

# Pins are locks on single bytes of the lock file, one per generation, far behind its content.
PIN_BASE = 1 << 40

# The writer holds one byte before these, and whoever waits for it next another, so that the one before cannot take
# the lock twice in turn; and how often waiting ones look.
_WRITER, _NEXT_IN_TURN = PIN_BASE - 2, PIN_BASE - 1
_LOOK_SECONDS = 0.002

# What a lock says that another has, and what is said where there are none of a kind.
_TAKEN = (errno.EAGAIN, errno.EACCES)
UNKNOWN = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)

has_flock = hasattr(fcntl, "flock")
has_ofd_locks = hasattr(fcntl, "F_OFD_SETLK")

# Kinds of locks on bytes, and how they are told to the system.
SHARED, EXCLUSIVE, UNLOCKED = (fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK) if has_ofd_locks else (0, 1, 2)
_FLOCK = "hhqqi4x"


class _Turns:
    """A lock that no thread takes twice while another waits for it."""

    def __init__(self) -> None:
        # An interrupt may come just when a lock has been taken: of these, only what a thread holds is released.
        self._held, self._next = threading.RLock(), threading.RLock()
        self._owner = 0

    @property
    def is_mine(self) -> bool:
        """Whether this thread has the lock, and would wait for itself."""
        return self._owner == threading.get_ident()

    def acquire(self, timeout: float) -> bool:
        """Take the lock; returns whether that was possible in time."""
        deadline = time.monotonic() + timeout
        try:
            if self._next.acquire(timeout=timeout) and self._held.acquire(timeout=max(deadline - time.monotonic(), 0)):
                self._owner = threading.get_ident()
            return self.is_mine
        finally:
            with suppress(RuntimeError):
                self._next.release()

    def release(self) -> None:
        """Give the lock up, if this thread has it; may be interrupted, and called again."""
        if self.is_mine:
            self._owner = 0
        for lock in (self._held, self._next):
            with suppress(RuntimeError):
                lock.release()


_threads: dict[str, _Turns] = {}
# Reentrant, as is the other one below: a signal handler may write in the middle of any statement.
_threads_guard = threading.RLock()


@contextmanager
def thread_lock(place: str, timeout: float) -> Iterator[bytes]:
    """Exclude the other threads of this process; yields that nothing was left unfinished."""
    with _threads_guard:
        turns = _threads.setdefault(place, _Turns())
    if turns.is_mine:
        raise ConflictError(f"this thread is writing to {place} already")
    try:
        try:
            if not turns.acquire(timeout):
                raise ConflictError(f"another thread has been writing to {place} for more than {timeout:g} s")
            yield b""
        finally:
            turns.release()
    finally:
        # An interrupt may have come before that had begun.
        turns.release()


@contextmanager
def writer_lock(directory: str, timeout: float, mark: bytes = WRITING) -> Iterator[bytes]:
    """Exclude every other writer of the store in `directory`.

    Yields the mark of a writer before that may have left something unfinished, or nothing. With no `mark` what says so
    stays as it is: for who only looks. What another writer left stays unfinished while a repair is at work.
    """
    # A flock is not exclusive between the threads that share a descriptor; the thread lock is.
    with thread_lock(os.path.realpath(directory), timeout):
        if not has_flock:
            yield WRITING
            return
        file = _acquire(os.path.join(directory, LOCK_NAME), timeout)
        try:
            try:
                yield from _marked(file, mark)
            finally:
                _close(file)
        finally:
            # Twice, as with the threads' lock: an interrupt may have come before the first had begun.
            _close(file)


def is_in_place(directory: str) -> bool:
    """Return whether the lock file of a directory is one that this process has opened to lock it.

    Of a directory no two threads have one open, as each waits for the others first.
    """
    if not has_flock:
        return True
    try:
        there = os.stat(os.path.join(directory, LOCK_NAME))
    except FileNotFoundError:
        return False
    with _fork_guard:
        return any(os.path.samestat(os.fstat(file.fileno()), there) for file in _inherited if not file.closed)


def _marked(file: FileIO, mark: bytes) -> Iterator[bytes]:
    """Yield what the lock file says of writers before, while it says that there is one."""
    left = unfinished(os.pread(file.fileno(), len(WRITING), 0))
    if mark and left != WRITING:
        os.pwrite(file.fileno(), mark, 0)
    try:
        yield left
    except (ConflictError, StoreAlreadyExists):
        # Refused before anything was begun: what there is to clear up was there before.
        if mark:
            _leave(file, left)
        raise
    if mark:
        _leave(file, b"")


def _leave(file: FileIO, mark: bytes) -> None:
    # Should this fail, the next writer looks for leftovers in vain; what was written stands. A forked child, whose file
    # is closed, leaves it to its parent.
    with suppress(OSError, ValueError):
        os.pwrite(file.fileno(), mark or _IDLE, 0)


def unfinished(content: bytes) -> bytes:
    """Return the mark of a writer that has not ended, if what the lock file holds is one."""
    return b"" if content == _IDLE else content


def _acquire(path: str, timeout: float) -> FileIO:
    """Return an open file that holds the lock of the file that is at `path` now."""
    deadline = time.monotonic() + timeout
    while True:
        file = _open_inherited(path)
        try:
            took = _take_turn(file.fileno(), os.path.dirname(path), deadline)
            # The store may have been removed and made anew: a lock on the old file excludes nobody.
            if took and os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        except FileNotFoundError:
            pass
        except BaseException:
            _close(file)
            raise
        _close(file)
        if time.monotonic() >= deadline:
            raise ConflictError(
                f"another process has been writing to {os.path.dirname(path)} for more than {timeout:g} s"
            )


def _take_turn(descriptor: int, place: str, deadline: float) -> bool:
    """Wait to be the next in turn, then for the lock; returns whether it was got in time."""
    return (
        _looking(partial(_be_next, descriptor, True), deadline)
        and _looking(partial(_lock_now, descriptor, place), deadline)
        and _be_next(descriptor, False)
    )


def _looking(take: Callable[[], bool], deadline: float) -> bool:
    while not take():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_LOOK_SECONDS)
    return True


def _lock_now(descriptor: int, place: str) -> bool:
    """Take the lock unless another has it; where there are none of any kind, who asks is believed to be alone."""
    # The whole file only where single bytes cannot be locked: network file systems (NFS) make of that a lock on all of
    # its bytes, readers' pins among them.
    for take in (_lock_byte, _lock_file) if has_ofd_locks else (_lock_file,):
        try:
            take(descriptor)
            return True
        except OSError as error:
            if error.errno in _TAKEN:
                return False
            if error.errno not in UNKNOWN:
                raise
    _warn_of_no_locks(place)
    return True


def _lock_byte(descriptor: int) -> None:
    set_lock(descriptor, EXCLUSIVE, _WRITER)


def _lock_file(descriptor: int) -> None:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def set_lock(descriptor: int, kind: int, at: int) -> None:
    """Lock a byte of a file, or unlock it; an :class:`OSError` where another has a lock that does not go with it."""
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _flock(kind, at, 1))


def is_locked(descriptor: int, at: int, length: int) -> bool:
    """Return whether any of some bytes is locked through another open file description."""
    found = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _flock(EXCLUSIVE, at, length))
    return bool(struct.unpack(_FLOCK, found)[0] != UNLOCKED)


def _flock(kind: int, start: int, length: int) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, start, length, 0)


@cache
def _warn_of_no_locks(place: str) -> None:
    _log.warning("%s: this file system has no locks, so nothing keeps two writers apart: let only one write", place)


def _be_next(descriptor: int, wanted: bool) -> bool:
    """Become the next in turn, or let others; where there are no such locks, the quickest is the next."""
    if not has_ofd_locks:
        return True
    try:
        set_lock(descriptor, EXCLUSIVE if wanted else UNLOCKED, _NEXT_IN_TURN)
    except OSError as error:
        return error.errno not in _TAKEN
    return True


def _open_inherited(path: str) -> FileIO:
    # Links are not followed: the file's content is changed, and a store from elsewhere could aim it at any file.
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    with _fork_guard:
        file = open(os.open(path, flags, 0o666), "r+b", buffering=0)  # noqa: SIM115
        _inherited.add(file)
    return file


def _close(file: FileIO) -> None:
    # What is closed may be closed again, also by a child that was forked while the lock was held.
    # With an error it is closed all the same, and the lock is free.
    with _fork_guard, suppress(OSError):
        file.close()


# A forked child shares the open file description and would keep the lock alive: it closes its copy.
_inherited: weakref.WeakSet[FileIO] = weakref.WeakSet()
# Held across every fork, so that no child inherits a file that is not in the set.
_fork_guard = threading.RLock()


def _after_fork_in_child() -> None:
    global _threads_guard
    _threads_guard = threading.RLock()
    _threads.clear()
    for file in _inherited:
        file.close()
    _fork_guard.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_fork_guard.acquire, after_in_parent=_fork_guard.release, after_in_child=_after_fork_in_child
    )
