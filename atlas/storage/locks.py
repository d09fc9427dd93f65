"""Locks between processes: the writer's lock, and the readers' pins.

Both are held on open file descriptions of one lock file and freed by the kernel when a process
dies, so nothing stale ever blocks.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from io import FileIO

from atlas.errors import ConflictError, StoreAlreadyExists
from atlas.threads import take_in

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
_PIN_BASE = 1 << 40

# The writer holds one byte before these, and whoever waits for it next another, so that the one before cannot take
# the lock twice in turn; and how often waiting ones look.
_WRITER, _NEXT_IN_TURN = _PIN_BASE - 2, _PIN_BASE - 1
_LOOK_SECONDS = 0.002

# What a lock says that another has, and what is said where there are none of a kind.
_TAKEN = (errno.EAGAIN, errno.EACCES)
_UNKNOWN = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)

# Why there may be no pins in a place that can be read all the same: no lock file, or none that may be opened (a pipe's
# or a link's place is no file's), or no locks.
_NO_PINS = (
    *(errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP, errno.ENXIO),
    *(errno.ENOLCK, *_UNKNOWN),
)

has_flock = hasattr(fcntl, "flock")
has_ofd_locks = hasattr(fcntl, "F_OFD_SETLK")


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
            if error.errno not in _UNKNOWN:
                raise
    _warn_of_no_locks(place)
    return True


def _lock_byte(descriptor: int) -> None:
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK, _WRITER, 1))


def _lock_file(descriptor: int) -> None:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


@cache
def _warn_of_no_locks(place: str) -> None:
    _log.warning("%s: this file system has no locks, so nothing keeps two writers apart: let only one write", place)


def _be_next(descriptor: int, wanted: bool) -> bool:
    """Become the next in turn, or let others; where there are no such locks, the quickest is the next."""
    if not has_ofd_locks:
        return True
    kind = fcntl.F_WRLCK if wanted else fcntl.F_UNLCK
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _flock(kind, _NEXT_IN_TURN, 1))
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
    for board in list(_boards.values()):
        board.leave_to_parent()
    _boards.clear()
    _fork_guard.release()
    for pin in list(_pins):
        pin.hold_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_fork_guard.acquire, after_in_parent=_fork_guard.release, after_in_child=_after_fork_in_child
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
            self._set(fcntl.F_RDLCK, generation)
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
                self._set(fcntl.F_UNLCK, generation)
            del self._held[generation]

    def _set(self, kind: int, generation: int) -> None:
        fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, _flock(kind, _PIN_BASE + generation, 1))


def _flock(kind: int, start: int, length: int) -> bytes:
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0)


# A pipe in the lock file's place must not keep anybody waiting.
_READING = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)

# By the lock file's identity, not its path, where another store may be by now. A board lives as long as what it holds.
_boards: weakref.WeakValueDictionary[tuple[int, int], PinBoard] = weakref.WeakValueDictionary()


def _board(path: str) -> PinBoard:
    board = PinBoard(os.open(path, _READING))
    with _threads_guard:
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


class NoPin:
    """A pin where there is nothing to hold on to."""

    def release(self) -> None:
        """Do nothing."""


def pin(directory: str, generation: int) -> ReaderPin | NoPin:
    """Pin a generation of the store in `directory`, if that is possible there."""
    if not has_ofd_locks:
        return NoPin()
    try:
        return ReaderPin(os.path.join(directory, LOCK_NAME), generation)
    except OSError as error:
        # There the probe below fails as well, and retired files are kept for a grace period. Any other failure is the
        # reader's alone, whose files a writer would take away.
        if error.errno not in _NO_PINS:
            raise
        return NoPin()


def pinned_below(directory: str, generation: int) -> bool | None:
    """Return whether a reader holds a generation below this one; ``None`` where nobody can tell."""
    if not has_ofd_locks:
        return None
    if generation <= 0:
        return False  # a length of 0 would mean "to the end"
    try:
        with os.fdopen(os.open(os.path.join(directory, LOCK_NAME), _READING), "rb") as file:
            # Through its own open file description, so that pins of this process count too.
            probe = fcntl.fcntl(file.fileno(), fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK, _PIN_BASE, generation))
    except OSError:
        return None
    return bool(struct.unpack("hhqqi4x", probe)[0] != fcntl.F_UNLCK)
