"""Result memory that worker processes write into, and that is reused while it is still warm.

A fresh gibibyte costs a second or more to touch here, one that was touched before 0.05 s. So results
live in anonymous shared segments (memfd) that come back to a free list when the last view of a
result dies. Segments have no name: nothing can be left behind, whatever ends the process.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import threading
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas.config import settings

Bytes = NDArray[np.uint8]

_PAGE = mmap.PAGESIZE
_MADV_POPULATE_READ = 22  # Linux 5.14; Python has no name for it

# A free segment serves a request of at least this fraction of its size: a gibibyte is not for a mebibyte.
_SMALLEST_USE = 0.5


def shares_memory() -> bool:
    """Return whether this platform can lend memory to other processes without naming it."""
    return hasattr(os, "memfd_create") and hasattr(os, "posix_fallocate") and os.path.isdir("/proc/self/fd")


@dataclass(frozen=True)
class SegmentHandle:
    """How another process finds a segment: a descriptor of the process that owns it."""

    pid: int
    descriptor: int
    size: int
    serial: int


@dataclass(frozen=True)
class Lease:
    """Memory handed out.

    Attributes
    ----------
    array : (n,) uint8
        Writable. The memory comes back when this and every view of it is gone.
    handle : SegmentHandle or None
        For other processes; ``None`` where memory cannot be shared.
    """

    array: Bytes
    handle: SegmentHandle | None


class _Segment:
    """One memfd with its mapping."""

    def __init__(self, size: int, serial: int) -> None:
        self.size = size
        self.serial = serial
        self.descriptor = os.memfd_create("atlas", os.MFD_CLOEXEC)
        try:
            # Reserve now: running out of memory is then an error here and not a SIGBUS later.
            os.posix_fallocate(self.descriptor, 0, size)
            self.map = mmap.mmap(self.descriptor, size)
        except OSError as error:
            os.close(self.descriptor)
            if error.errno in (errno.ENOMEM, errno.ENOSPC):
                raise MemoryError(f"cannot allocate {size} bytes of result memory: {error.strerror}") from None
            raise

    def close(self) -> None:
        """Give the memory back to the system."""
        os.close(self.descriptor)
        self.map.close()


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
        # Re-entrant: a finalizer may run inside any allocation, on the same thread.
        self._lock = threading.RLock()
        self._free: list[_Segment] = []
        self._leased: dict[int, SegmentHandle] = {}
        self._serial = count()
        self._pid = os.getpid()

    def allocate(self, size: int) -> Lease:
        """Return `size` bytes, aligned to a page; what they hold is undefined.

        Raises
        ------
        MemoryError
            If there is not so much.
        """
        if not self._shared or size == 0:
            return Lease(np.empty(size, np.uint8), None)
        with self._lock:
            if os.getpid() != self._pid:
                self._forget()
            segment = self._reuse(size)
            if segment is None:
                segment = self._fresh(-(-size // _PAGE) * _PAGE)
            return self._lease(segment, size)

    def _fresh(self, size: int) -> _Segment:
        try:
            return _Segment(size, next(self._serial))
        except MemoryError:
            # What is kept for reuse must not be what is missing.
            self._trim(0)
            return _Segment(size, next(self._serial))

    def _reuse(self, size: int) -> _Segment | None:
        fitting = [s for s in self._free if s.size >= size >= s.size * _SMALLEST_USE]
        if not fitting:
            return None
        best = min(fitting, key=lambda segment: segment.size)
        self._free.remove(best)
        return best

    def _lease(self, segment: _Segment, size: int) -> Lease:
        # NumPy lets views skip intermediate arrays but never their exporter: the lease hangs on that.
        exporter = (ctypes.c_ubyte * size).from_buffer(segment.map)
        array: Bytes = np.frombuffer(memoryview(exporter), np.uint8)
        handle = SegmentHandle(self._pid, segment.descriptor, segment.size, segment.serial)
        address = ctypes.addressof(exporter)
        self._leased[address] = handle
        finalizer = weakref.finalize(exporter, self._give_back, segment, address)
        # At exit the system takes everything back; results may still be alive then.
        finalizer.atexit = False
        return Lease(array, handle)

    def _give_back(self, segment: _Segment, address: int) -> None:
        if os.getpid() != self._pid or segment.serial != getattr(self._leased.get(address), "serial", None):
            return
        with self._lock:
            del self._leased[address]
            self._free.append(segment)
            self._trim(self._cap)

    def _trim(self, cap: int) -> None:
        free = sum(segment.size for segment in self._free)
        while self._free and free > cap:
            oldest = self._free.pop(0)
            free -= oldest.size
            try:
                oldest.close()
            except BufferError:
                # Its finalizer runs while the exporter still exists; the mapping goes with it.
                continue

    def _forget(self) -> None:
        # In a forked child: the segments are the parent's, and so is their reuse.
        self._free = []
        self._leased = {}
        self._pid = os.getpid()

    def handle_of(self, array: NDArray[Any]) -> SegmentHandle | None:
        """Return the handle of the lease that begins where `array` does, if there is one."""
        with self._lock:
            return self._leased.get(array.ctypes.data) if os.getpid() == self._pid else None

    @property
    def free_bytes(self) -> int:
        """Bytes that are kept for reuse."""
        with self._lock:
            return sum(segment.size for segment in self._free)


_arena: Arena | None = None
_arena_lock = threading.Lock()


def shared_arena() -> Arena:
    """Return the arena of this process."""
    global _arena
    with _arena_lock:
        if _arena is None:
            _arena = Arena(settings().arena_bytes, shares_memory())
        return _arena


def _renew_lock() -> None:
    global _arena_lock, _attached_lock
    _arena_lock = threading.Lock()
    _attached_lock = threading.Lock()
    if _arena is not None:
        _arena._lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


# Mappings of other processes' segments, kept because attaching costs page-table work every time.
_attached: OrderedDict[SegmentHandle, Bytes] = OrderedDict()
_attached_lock = threading.Lock()
_ATTACHED_LIMIT = 8


def attach(handle: SegmentHandle) -> Bytes:
    """Return a segment of another process, mapped into this one.

    Raises
    ------
    MemoryError
        If the owner, or the segment, is gone.
    """
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
        raise MemoryError(f"result memory of process {handle.pid} is gone: {error.strerror}") from None
    try:
        if os.fstat(descriptor).st_size != handle.size:
            raise MemoryError(f"result memory of process {handle.pid} is not what it was")
        mapping = mmap.mmap(descriptor, handle.size)
    finally:
        os.close(descriptor)
    return np.frombuffer(mapping, np.uint8)
