"""Stands between this process and the operating system, for everything below one directory.

Every call that Python code can make on a file there becomes a *step*: it is counted, it can be
recorded, and one of them can be made to fail. File objects are covered too: they are made over a raw
file whose reads and writes are steps. Several threads may make steps at once.

How complete that is: an audit hook, which the interpreter calls for every open, rename, map and so
on whoever makes it, notes what did not come through here (``escaped``).
"""

from __future__ import annotations

import builtins
import errno
import fcntl
import io
import mmap
import os
import signal
import sys
import threading
import time
from _thread import interrupt_main
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

_PATH_CHANGES = ("mkdir", "rmdir", "unlink", "remove", "truncate", "chmod", "utime")
_PAIR_CHANGES = ("rename", "replace", "link", "symlink")
_FD_CHANGES = ("fsync", "fdatasync", "ftruncate", "posix_fallocate", "fchmod")
_FD_WRITES = ("write", "pwrite")
_UNUSED = ("writev", "pwritev", "sendfile", "copy_file_range", "readv", "preadv")
_PATH_READS = ("stat", "lstat", "listdir", "scandir", "access", "readlink", "statvfs")
_FD_READS = ("read", "pread", "fstat")
_AUDITED = ("open", "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate")

# Calls that need room on the disk; those that free it never fail for the lack of it.
_TAKES_ROOM = {
    "create",
    "create_nameless",
    "write",
    "pwrite",
    "fsync",
    "fdatasync",
    "mkdir",
    "rename",
    "replace",
    "link",
    "ftruncate",
}
_TAKES_ROOM |= {"posix_fallocate", "symlink", "truncate"}

_SYNCS = ("fsync", "fdatasync")

# As long as a sync takes at least while calls are recorded, so that other threads get their turn; those that help
# are slow, so that who does not wait for them is found out.
_SYNC_SECONDS, _SLOW_SYNC_SECONDS = 0.0005, 0.05

KINDS = ("kill", "torn", "EIO", "late EIO", "dead", "ENOSPC", "full", "Ctrl-C")


@dataclass(frozen=True)
class Step:
    """One call on a file or directory."""

    call: str
    path: str
    changes: bool
    target: str = ""
    data: bytes = b""
    offset: int = 0
    thread: int = field(default_factory=threading.get_ident)


@dataclass(frozen=True)
class Fault:
    """What happens at one step: the first from `number` on that it concerns.

    ``kill``: the process dies before it. ``torn``: half of a write is made, any other call wholly,
    then the process dies. ``EIO``, ``ENOSPC``: the call fails. ``late EIO``: it is made, and reported as failed.
    ``dead``: it and every later change fail. ``full``: half of it fits, and nothing later that needs room.
    ``Ctrl-C``: KeyboardInterrupt after it. ``lost sync``: a sync fails.
    """

    number: int
    kind: str

    def concerns(self, step: Step) -> bool:
        """Whether this kind of fault can happen at that call."""
        if self.kind == "lost sync":
            return step.call in _SYNCS
        if self.kind in ("ENOSPC", "full"):
            return step.changes and step.call in _TAKES_ROOM
        return step.changes or self.kind == "EIO"


class _Inside(threading.local):
    """How many steps a thread is in the middle of."""

    depth = 0


class Disk:
    """Steps of everything below `top`; `fault` happens at its step.

    With `record`, changes are noted as they become true, whichever thread makes them: those that the disk may show
    from then on as they begin, syncs, which make a promise, when they have ended.
    """

    def __init__(self, top: str, fault: Fault | None = None, record: bool = False) -> None:
        self.top = os.path.realpath(top)
        self.fault = fault
        self.steps: list[Step] = []
        self.recorded: list[Step] = []
        self.escaped: list[str] = []
        self.struck = False
        self._record = record
        self._paths: dict[int, str] = {}
        self._inside = _Inside()
        self._counting = threading.Lock()
        self._real: dict[str, Any] = {}

    def heal(self) -> None:
        """Let everything succeed from here on."""
        self.fault = None

    # ── one step ─────────────────────────────────────────────────────────────────────────────

    def _step(self, step: Step, perform: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        fault, strikes = self._count(step)
        self._inside.depth += 1
        try:
            if strikes:
                return self._strike(fault.kind, step, perform, half)
            if fault is not None and fault.kind == "dead":
                raise OSError(errno.EIO, os.strerror(errno.EIO), step.path)
            if fault is not None and fault.kind == "full":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), step.path)
            return self._recorded(step, perform) if self._record and step.changes else perform()
        finally:
            self._inside.depth -= 1

    def _count(self, step: Step) -> tuple[Any, bool]:
        """Return the fault, if it has to do with this step, and whether it happens now."""
        with self._counting:
            number = len(self.steps)
            self.steps.append(step)
            fault = self.fault
            if fault is None or number < fault.number or not fault.concerns(step):
                return None, False
            strikes, self.struck = not self.struck, True
            return fault, strikes

    def _recorded(self, step: Step, perform: Callable[[], Any]) -> Any:
        if step.call not in _SYNCS:
            self.recorded.append(step)
            return perform()
        helps = threading.current_thread() is not threading.main_thread()
        time.sleep(_SLOW_SYNC_SECONDS if helps else _SYNC_SECONDS)
        result = perform()
        self.recorded.append(step)
        return result

    def _strike(self, kind: str, step: Step, perform: Callable[[], Any], half: Callable[[], Any] | None) -> Any:
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "torn":
            (half or perform)()
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "Ctrl-C":
            result = perform()
            if threading.current_thread() is not threading.main_thread():
                interrupt_main()  # nobody else hears it
                return result
            raise KeyboardInterrupt
        if kind == "late EIO":
            perform()
        if kind == "full" and half is not None:
            return half()
        if kind == "lost sync":
            self.recorded.append(replace(step, call="lost_sync"))
        code = errno.ENOSPC if kind in ("ENOSPC", "full") else errno.EIO
        raise OSError(code, os.strerror(code), step.path)

    def _below(self, path: Any) -> str | None:
        if isinstance(path, int) or path is None:
            return self._paths.get(path)  # type: ignore[arg-type]
        full = os.path.abspath(os.fsdecode(os.fspath(path)))
        return full if full == self.top or full.startswith(self.top + "/") else None

    # ── the calls ────────────────────────────────────────────────────────────────────────────

    def _open(self, path: Any, flags: int, mode: int = 0o777, **kwargs: Any) -> int:
        place = self._below(path)
        if place is None:
            return int(self._real["open"](path, flags, mode, **kwargs))
        new = bool(flags & os.O_CREAT) and not self._lexists(place)
        changes = new or bool(flags & os.O_TRUNC)
        call = "create" if new else "truncate" if changes else "open"
        if flags & getattr(os, "O_TMPFILE", -1) == getattr(os, "O_TMPFILE", 0):
            # A file of that directory that has no name there; here it has one that no file has.
            place, call, changes = f"{place}/#{len(self.steps)}", "create_nameless", True

        def perform() -> int:
            descriptor = int(self._real["open"](path, flags, mode, **kwargs))
            self._paths[descriptor] = place
            return descriptor

        return int(self._step(Step(call, place, changes), perform))

    def _lexists(self, place: str) -> bool:
        try:
            self._real["lstat"](place)
        except OSError:
            return False
        return True

    def _close(self, descriptor: int) -> None:
        self._paths.pop(descriptor, None)
        self._real["close"](descriptor)

    def _dup(self, descriptor: int) -> int:
        copy = int(self._real["dup"](descriptor))
        if descriptor in self._paths:
            self._paths[copy] = self._paths[descriptor]
        return copy

    def _write(self, call: str, descriptor: int, data: Any, offset: int | None) -> int:
        place = self._paths.get(descriptor)
        real = self._real[call]
        at = () if offset is None else (offset,)
        if place is None:
            return int(real(descriptor, data, *at))
        view = memoryview(data).cast("B")
        step = Step(call, place, True)
        if self._record:
            position = os.lseek(descriptor, 0, os.SEEK_CUR) if offset is None else offset
            step = Step("write", place, True, "", bytes(view), position)
        return int(
            self._step(
                step, lambda: real(descriptor, view, *at), lambda: real(descriptor, view[: (len(view) + 1) // 2], *at)
            )
        )

    def _path_call(self, call: str, changes: bool) -> Callable[..., Any]:
        real = self._real[call]

        def made(path: Any = ".", *args: Any, **kwargs: Any) -> Any:
            place = self._below(path)
            if place is None or self._inside.depth:
                return real(path, *args, **kwargs)

            return self._step(Step(call, place, changes), lambda: real(path, *args, **kwargs))

        return made

    def _linked(self, source: Any) -> str | None:
        """Return the place of an open file that is meant by its descriptor."""
        folder, number = os.path.split(os.fsdecode(source))
        return self._paths.get(int(number)) if folder == "/proc/self/fd" else None

    def _pair_call(self, call: str) -> Callable[..., Any]:
        real = self._real[call]

        def made(source: Any, target: Any, *args: Any, **kwargs: Any) -> Any:
            first, second = self._linked(source) or self._below(source), self._below(target)
            if second is None:
                return real(source, target, *args, **kwargs)
            step = Step(call, first or os.fsdecode(source), True, second)
            return self._step(step, lambda: real(source, target, *args, **kwargs))

        return made

    def _fd_call(self, call: str, changes: bool) -> Callable[..., Any]:
        real = self._real[call]

        def made(descriptor: int, *args: Any) -> Any:
            place = self._paths.get(descriptor)
            if place is None:
                return real(descriptor, *args)
            step = Step(call, place, changes, offset=args[0] if args else 0)
            return self._step(step, lambda: real(descriptor, *args))

        return made

    def _refused(self, call: str) -> Callable[..., Any]:
        real = self._real[call]

        def made(descriptor: int, *args: Any, **kwargs: Any) -> Any:
            if descriptor in self._paths:
                self.escaped.append(f"{call} is not modelled")
            return real(descriptor, *args, **kwargs)

        return made

    def _file(self, file: Any, mode: str = "r", buffering: int = -1, *args: Any, **kwargs: Any) -> Any:
        place = self._below(file)
        if place is None:
            return self._real["io.open"](file, mode, buffering, *args, **kwargs)
        opener = kwargs.get("opener") or (lambda path, flags: os.open(path, flags, 0o666))
        raw = _RawFile(self, place, file, mode.replace("t", ""), kwargs.get("closefd", True), opener)
        size = io.DEFAULT_BUFFER_SIZE if buffering < 0 else buffering
        if buffering == 0:
            return raw
        if raw.readable() and raw.writable():
            binary: Any = io.BufferedRandom(raw, size)
        else:
            binary = io.BufferedWriter(raw, size) if raw.writable() else io.BufferedReader(raw, size)
        return binary if "b" in mode else io.TextIOWrapper(binary, *args)

    def _map(self, real: Any) -> Any:
        disk = self

        class Map(real):  # type: ignore[misc]
            def __new__(cls, descriptor: int, *args: Any, **kwargs: Any) -> Any:
                place = disk._paths.get(descriptor)
                if place is None:
                    return real.__new__(real, descriptor, *args, **kwargs)
                return disk._step(Step("mmap", place, False), lambda: real.__new__(real, descriptor, *args, **kwargs))

        return Map

    # ── being there ──────────────────────────────────────────────────────────────────────────

    @contextmanager
    def installed(self) -> Iterator[Disk]:
        """Context in which the process's calls come through here."""
        names = (*_PATH_CHANGES, *_PAIR_CHANGES, *_FD_CHANGES, *_FD_WRITES, *_UNUSED, *_PATH_READS, *_FD_READS)
        self._real = {name: getattr(os, name) for name in (*names, "open", "close", "dup") if hasattr(os, name)}
        self._real |= {"io.open": io.open, "fcntl": fcntl.fcntl, "flock": fcntl.flock}
        real_map = mmap.mmap
        made: dict[str, Any] = {"open": self._open, "close": self._close, "dup": self._dup}
        made |= {name: self._path_call(name, True) for name in _PATH_CHANGES}
        made |= {name: self._path_call(name, False) for name in _PATH_READS}
        made |= {name: self._pair_call(name) for name in _PAIR_CHANGES}
        made |= {name: self._fd_call(name, True) for name in _FD_CHANGES if hasattr(os, name)}
        made |= {name: self._fd_call(name, False) for name in _FD_READS}
        made |= {name: self._refused(name) for name in _UNUSED if hasattr(os, name)}
        made["write"] = lambda descriptor, data: self._write("write", descriptor, data, None)
        made["pwrite"] = lambda descriptor, data, offset: self._write("pwrite", descriptor, data, offset)
        _listen(self)
        try:
            for name, call in made.items():
                setattr(os, name, call)
            io.open = builtins.open = self._file  # type: ignore[assignment]
            fcntl.fcntl, fcntl.flock = self._fd_call("fcntl", False), self._fd_call("flock", False)
            mmap.mmap = self._map(real_map)  # type: ignore[misc]
            yield self
        finally:
            for name in made:
                setattr(os, name, self._real[name])
            io.open = builtins.open = self._real["io.open"]
            fcntl.fcntl, fcntl.flock = self._real["fcntl"], self._real["flock"]
            mmap.mmap = real_map  # type: ignore[misc]
            _listen(None)

    def audit(self, event: str, args: tuple[Any, ...]) -> None:
        """Note a call that did not come through here."""
        if not self._inside.depth and isinstance(args[0], (str, bytes, os.PathLike)) and self._below(args[0]):
            self.escaped.append(f"{event} {args}")


class _RawFile(io.FileIO):
    """An unbuffered file whose reads and writes are steps."""

    def __init__(self, disk: Disk, place: str, file: Any, mode: str, closefd: bool, opener: Any) -> None:
        self._disk, self._place = disk, place
        if isinstance(file, int):
            super().__init__(file, mode, closefd)
            return
        # The open is a step of its own; the interpreter announces it to the audit hook a second time.
        disk._inside.depth += 1
        try:
            super().__init__(file, mode, closefd, self._opener(opener))
        finally:
            disk._inside.depth -= 1

    def _opener(self, opener: Any) -> Any:
        return lambda path, flags: opener(path, flags)

    def write(self, data: Any) -> int:
        return self._disk._write("write", self.fileno(), data, None)

    def readinto(self, buffer: Any) -> int:
        return int(self._disk._step(Step("read", self._place, False), lambda: super(_RawFile, self).readinto(buffer)))

    def readall(self) -> bytes:
        return bytes(self._disk._step(Step("read", self._place, False), lambda: super(_RawFile, self).readall()))

    def close(self) -> None:
        if not self.closed:
            self._disk._paths.pop(self.fileno(), None)
        super().close()


_listener: Disk | None = None
_hooked = False


def _listen(disk: Disk | None) -> None:
    # An audit hook stays for ever; it is there once, and silent while no disk is installed.
    global _listener, _hooked
    _listener = disk
    if not _hooked:
        _hooked = True
        sys.addaudithook(_hook)


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _listener is not None and event in _AUDITED:
        _listener.audit(event, args)
