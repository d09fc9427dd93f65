"""Result memory that worker processes write into, and that is reused while it is still warm.

A fresh gibibyte of shared memory costs more than a second to touch here, a private one a third less,
either 0.05 s when it was touched before. So results that worker processes write live in anonymous shared
segments (memfd), others in private ones, and both come back to a free list when the last view of a
result dies. Segments have no name: nothing can be left behind, whatever ends the process.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import threading
import weakref
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas.config import settings
from atlas.threads import take_in

Bytes = NDArray[np.uint8]

_PAGE = mmap.PAGESIZE
_MADV_POPULATE_READ = 22  # Linux 5.14; Python has no name for it

# A free segment serves a request of at least this fraction of its size: a gibibyte is not for a mebibyte.
_SMALLEST_USE = 0.5

# Every segment holds two descriptors (mmap keeps its own), of which a process often has 1,024.
_MOST_SEGMENTS = 128


class SegmentGone(MemoryError):
    """A segment of another process cannot be mapped: its owner has ended, or /proc is closed to us."""


def shares_memory() -> bool:
    """Return whether this platform can lend memory to other processes without naming it."""
    return hasattr(os, "memfd_create") and hasattr(os, "posix_fallocate") and os.path.isdir("/proc/self/fd")


class _Private:
    """Memory of this process alone.

    Not in huge pages: a virtual machine gives free ones back to its host, and then waits for it at every one.
    """

    shared = False

    def __init__(self, size: int) -> None:
        self.size = size
        self.pid = os.getpid()
        self.recyclable = True
        try:
            self.map = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            if error.errno == errno.ENOMEM:
                raise MemoryError(f"cannot allocate {size} bytes of result memory: {error.strerror}") from None
            raise
        self.address = ctypes.addressof(ctypes.c_ubyte.from_buffer(self.map))

    def drop(self) -> None:
        """Give the memory back; it goes with the mapping."""


class _Segment:
    """One memfd with its mapping."""

    shared = True

    def __init__(self, size: int, serial: int) -> None:
        self.size = size
        self.serial = serial
        self.pid = os.getpid()
        self.recyclable = True
        self._populated = False
        self.descriptor = os.memfd_create(_name(serial), os.MFD_CLOEXEC)
        self._close = weakref.finalize(self, os.close, self.descriptor)
        self._close.atexit = False
        try:
            # Reserve now: running out of memory is then an error here and not a SIGBUS later.
            os.posix_fallocate(self.descriptor, 0, size)
            self.map = mmap.mmap(self.descriptor, size)
        except OSError as error:
            if error.errno in (errno.ENOMEM, errno.ENOSPC):
                raise MemoryError(f"cannot allocate {size} bytes of result memory: {error.strerror}") from None
            raise
        self.address = ctypes.addressof(ctypes.c_ubyte.from_buffer(self.map))

    def populate(self) -> None:
        """Fill the page tables at once when this process writes here itself."""
        if not self._populated:
            self._populated = True
            _populate(self.map)

    def drop(self) -> None:
        """Give the memory back to the system, also where workers still have it mapped."""
        if self.recyclable and hasattr(mmap, "MADV_REMOVE"):
            self.map.madvise(mmap.MADV_REMOVE)
        self._close()


def _name(serial: int) -> str:
    return f"atlas-{serial}"


def _populate(mapping: mmap.mmap) -> None:
    # Filling 256 MiB through a new mapping: 0.32 s page fault by page fault, 0.11 s with this.
    try:
        mapping.madvise(_MADV_POPULATE_READ)
    except OSError:
        return  # an older kernel: the faults come one by one


class _Loan:
    """Exports a segment to NumPy.

    NumPy lets views skip intermediate arrays but never the object that exports their memory, so the
    life of a lease hangs on this.
    """

    def __init__(self, segment: _Segment | _Private, size: int) -> None:
        self.segment = segment
        self.__array_interface__ = {"version": 3, "typestr": "|u1", "shape": (size,), "data": (segment.address, False)}


@dataclass(frozen=True)
class SegmentHandle:
    """How another process finds a segment: a descriptor of the process that owns it.

    In the owner it also keeps the segment leased; that part does not travel.
    """

    pid: int
    descriptor: int
    size: int
    serial: int
    loan: Any = field(default=None, compare=False, repr=False)

    def __reduce__(self) -> tuple[type[SegmentHandle], tuple[int, int, int, int]]:
        return SegmentHandle, (self.pid, self.descriptor, self.size, self.serial)


def _handle(loan: _Loan) -> SegmentHandle | None:
    segment = loan.segment
    if isinstance(segment, _Private):
        return None
    return SegmentHandle(segment.pid, segment.descriptor, segment.size, segment.serial, loan)


@dataclass(frozen=True)
class Lease:
    """Memory handed out.

    Attributes
    ----------
    array : (n,) uint8
        Writable. The memory comes back when this, every view of it and the handle are gone.
    handle : SegmentHandle or None
        For other processes; ``None`` where memory cannot be shared.
    """

    array: Bytes
    handle: SegmentHandle | None


class Arena:
    """Hands out shared memory and takes it back.

    Parameters
    ----------
    cap : int
        Free bytes that are kept for reuse.
    shared : bool
        Whether memory is shared between processes; plain memory otherwise.
    """

    def __init__(self, cap: int, shared: bool = True) -> None:
        self._cap = cap
        self._shared = shared
        self._lock = threading.RLock()
        self._free: list[_Segment | _Private] = []
        # A finalizer may run inside any statement, on a thread that holds the lock: it only appends here.
        self._returned: deque[_Segment | _Private] = deque()
        self._leased: dict[int, weakref.ref[_Loan]] = {}
        self._serial = count()
        _arenas.add(self)

    def allocate(self, size: int, share: bool = True) -> Lease:
        """Return `size` bytes, aligned to a page; what they hold is undefined.

        Parameters
        ----------
        size : int
        share : bool
            Whether other processes are to write there.

        Raises
        ------
        MemoryError
            If there is not so much.
        """
        segment = self._segment(size, share) if self._shared and size else None
        if segment is None:
            return Lease(np.empty(size, np.uint8), None)
        loan = _Loan(segment, size)
        finalizer = weakref.finalize(loan, self._give_back, segment)
        # At exit the system takes everything back; results may still be alive then.
        finalizer.atexit = False
        with self._lock:
            self._leased[segment.address] = weakref.ref(loan)
        self._take_in()
        return Lease(np.asarray(loan), _handle(loan))

    def _segment(self, size: int, share: bool) -> _Segment | _Private | None:
        """Return a segment for `size` bytes, or nothing where only plain memory is left to use."""
        with self._lock:
            self._sort_returned()
            segment = self._reuse(size, share)
            if segment is not None:
                return segment
            if len(self._leased) + len(self._free) >= _MOST_SEGMENTS:
                self._trim(0)
            if len(self._leased) >= _MOST_SEGMENTS:
                return None
        rounded = -(-size // _PAGE) * _PAGE
        try:
            return self._fresh(rounded, share)
        except OSError:
            return None  # too many open files, or memfd is not allowed here

    def _fresh(self, size: int, share: bool) -> _Segment | _Private:
        try:
            return self._new(size, share)
        except MemoryError:
            # What is kept for reuse must not be what is missing.
            with self._lock:
                self._trim(0)
            return self._new(size, share)

    def _new(self, size: int, share: bool) -> _Segment | _Private:
        return _Segment(size, next(self._serial)) if share else _Private(size)

    def _reuse(self, size: int, share: bool) -> _Segment | _Private | None:
        fitting = [s for s in self._free if s.size >= size >= s.size * _SMALLEST_USE and s.shared >= share]
        if not fitting:
            return None
        best = min(fitting, key=lambda segment: segment.size)
        self._free.remove(best)
        return best

    def _give_back(self, segment: _Segment | _Private) -> None:
        if segment.pid != os.getpid():
            return  # a forked child: the segment is its parent's, and so is its reuse
        self._leased.pop(segment.address, None)
        self._returned.append(segment)
        self._take_in()

    def _take_in(self) -> None:
        """Sort what has come back, unless somebody who holds the lock is about to."""
        take_in(self._lock, self._returned, self._sort_returned)

    def _sort_returned(self) -> None:
        while self._returned:
            segment = self._returned.popleft()
            if segment.recyclable and segment.size <= self._cap:
                self._free.append(segment)
            else:
                segment.drop()
        self._trim(self._cap)

    def _trim(self, cap: int) -> None:
        free = sum(segment.size for segment in self._free)
        while self._free and free > cap:
            oldest = self._free.pop(0)
            free -= oldest.size
            oldest.drop()

    def handle_of(self, array: NDArray[Any]) -> SegmentHandle | None:
        """Return the handle of the lease that begins where `array` does, if there is one."""
        reference = self._leased.get(array.ctypes.data)
        loan = None if reference is None else reference()
        return None if loan is None or loan.segment.pid != os.getpid() else _handle(loan)

    @property
    def free_bytes(self) -> int:
        """Bytes that are kept for reuse."""
        self._take_in()
        with self._lock:
            return sum(segment.size for segment in self._free)

    def before_fork(self) -> None:
        """Keep the child's view of what is leased now: the parent may write elsewhere only."""
        self._lock.acquire()
        for reference in list(self._leased.values()):
            loan = reference()
            if loan is not None:
                loan.segment.recyclable = False

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._lock.release()
        self._take_in()

    def after_fork_in_child(self) -> None:
        """Forget the parent's segments, whose reuse is the parent's; their descriptors close."""
        self._lock = threading.RLock()
        self._free, self._returned, self._leased = [], deque(), {}


_arenas: weakref.WeakSet[Arena] = weakref.WeakSet()
_arena: Arena | None = None
_arena_lock = threading.Lock()


def shared_arena() -> Arena:
    """Return the arena of this process."""
    global _arena
    with _arena_lock:
        if _arena is None:
            _arena = Arena(settings().arena_bytes, shares_memory())
        return _arena


# Mappings of other processes' segments, kept because attaching costs page-table work every time.
_attached: OrderedDict[SegmentHandle, Bytes] = OrderedDict()
_attached_lock = threading.Lock()
_ATTACHED_LIMIT = 8


def attach(handle: SegmentHandle) -> Bytes:
    """Return a segment's bytes, mapped into this process when it is another's.

    Raises
    ------
    SegmentGone
        If the owner, or the segment, is gone.
    """
    if handle.loan is not None:
        handle.loan.segment.populate()
        return np.asarray(handle.loan)
    with _attached_lock:
        found = _attached.get(handle)
        if found is None:
            while len(_attached) >= _ATTACHED_LIMIT:
                _attached.popitem(last=False)
            found = _attached[handle] = _map(handle)
        _attached.move_to_end(handle)
        return found


def _map(handle: SegmentHandle) -> Bytes:
    try:
        descriptor = os.open(f"/proc/{handle.pid}/fd/{handle.descriptor}", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise SegmentGone(f"result memory of process {handle.pid} is gone: {error.strerror}") from None
    try:
        # A descriptor's number is soon another file's, so ask what was opened, by name too.
        found = os.readlink(f"/proc/self/fd/{descriptor}").partition(" ")[0]
        if found != f"/memfd:{_name(handle.serial)}" or os.fstat(descriptor).st_size != handle.size:
            raise SegmentGone(f"result memory of process {handle.pid} is not what it was")
        mapping = mmap.mmap(descriptor, handle.size)
    finally:
        os.close(descriptor)
    _populate(mapping)
    return np.frombuffer(mapping, np.uint8)


_forking: list[Arena] = []


def _before_fork() -> None:
    _forking[:] = _arenas
    for arena in _forking:
        arena.before_fork()


def _after_fork_in_parent() -> None:
    while _forking:
        _forking.pop().after_fork_in_parent()


def _after_fork_in_child() -> None:
    global _arena_lock, _attached_lock
    _arena_lock, _attached_lock = threading.Lock(), threading.Lock()
    while _forking:
        _forking.pop().after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
