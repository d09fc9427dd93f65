"""Faults from outside: each system call of an operation is made to fail, or kills the process, by strace.

`faults` does the same from within, at every call that Python code makes. Here the kernel says what there is, whoever
asks it: the interpreter, NumPy, a library in C.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import atlas
from torture.faults import Subject, judge, subject
from torture.scenes import OPERATIONS, Operation, Share, in_child

# What can fail with each of the errors; any call can be the last one.
_FAULTS = {"kill": "signal=KILL", "EIO": "error=EIO", "ENOSPC": "error=ENOSPC"}
_TAKES_ROOM = re.compile(r"write|openat.*O_CREAT|openat.*O_TMPFILE|mkdir|rename|link|fsync|truncate|fallocate")

_CALL = re.compile(r"(\d+) +(\w+)\((.*)")
# Seconds in which a process is traced, and those in which the tracer leaves it alone.
_PATIENCE = 20
_LAST_PATIENCE = 3


@dataclass(frozen=True)
class Call:
    """A system call: the `number`-th of its name, and what strace shows of it."""

    name: str
    number: int
    shown: str


def is_possible() -> bool:
    """Return whether processes can be traced here."""
    command = ["strace", "-o", os.devnull, "-e", "inject=getppid:error=EIO", "true"]
    return bool(shutil.which("strace")) and subprocess.run(command, capture_output=True).returncode == 0


class _Acting:
    """A forked process that prepares an operation, waits to be traced, acts, and waits not to be before it goes on."""

    def __init__(self, operation: Operation, place: Path) -> None:
        answers, self._answer = os.pipe()
        gate, self._gate = os.pipe()
        self.process = os.fork()
        if not self.process:
            try:
                os.close(self._gate)
                _act(operation, place, gate, self._answer)
            finally:
                os._exit(1)
        os.close(gate)
        os.close(self._answer)
        # How it is spoken to is none of its operation's calls.
        self.own = {str(gate), str(self._answer)}
        self._answers = os.fdopen(answers, "rb", buffering=0)
        self.says()

    def says(self) -> str:
        """Wait for what it says next; when it has been killed, that is "killed"."""
        return self._answers.readline().decode().strip() or "killed"

    def go_on(self) -> None:
        """Let it do what it waits to do."""
        os.write(self._gate, b"x")

    def end(self) -> None:
        """Wait for its end."""
        self._answers.close()
        os.close(self._gate)
        os.waitpid(self.process, 0)


def _insist(call: Callable[[], object]) -> None:
    while True:
        with suppress(OSError):
            call()
            return


def _act(operation: Operation, place: Path, gate: int, answer: int) -> None:
    def say(text: str) -> None:
        # Which call a fault hits may be off by one where the first is the one that waited to be traced.
        _insist(partial(os.write, answer, text.replace("\n", " ").encode() + b"\n"))
        _insist(partial(os.read, gate, 1))

    try:
        prepared = operation.prepare(place)
        say("ready")
        try:
            operation.act(prepared)
            ended = "done"
        except atlas.AtlasError:
            ended = "failed"
        say(ended)
        if ended == "failed" and prepared != place:
            operation.act(prepared)
            ended = "failed, then done"
        operation.check(prepared)
        say(ended)
    except BaseException as error:
        say(f"not an error of ours: {error!r}")


@contextmanager
def _traced(process: int, log: Path, *options: str) -> Iterator[None]:
    """Have a process traced that waits."""
    command = ["strace", "-f", "-qq", "-p", str(process), "-o", str(log), "-e", "trace=%file,%desc", *options]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE)
    patience = time.monotonic() + _PATIENCE
    while "TracerPid:\t0\n" in Path(f"/proc/{process}/status").read_text():
        assert tracer.poll() is None, tracer.communicate()[1]
        assert time.monotonic() < patience, "it is not traced"
        time.sleep(0.001)
    try:
        yield
    finally:
        tracer.terminate()
        try:
            tracer.communicate(timeout=_LAST_PATIENCE)
        except subprocess.TimeoutExpired:
            # At times it waits for a thread of a process that was killed, and keeps that from ending.
            tracer.kill()
            tracer.communicate()


def calls(one: Subject, work: Path) -> list[Call]:
    """Return the system calls on files that an operation makes in its main thread."""
    trial, log = work / "trial", work / "log"
    shutil.copytree(one.template, trial)
    acting = _Acting(one.operation, trial / "store")
    with _traced(acting.process, log):
        acting.go_on()
        assert acting.says() == "done"
    acting.go_on()
    assert acting.says() == "done"
    acting.end()
    shutil.rmtree(trial)
    seen: Counter[str] = Counter()
    found = []
    for process, name, shown in _CALL.findall(log.read_text()):
        if int(process) == acting.process:
            seen[name] += 1
            found.append(Call(name, seen[name], shown))
    return [call for call in found if call.shown.split(",")[0] not in acting.own]


def faults(found: list[Call]) -> Iterator[tuple[Call, str]]:
    """Yield every fault that can happen in a run of these calls."""
    for call in found:
        # What takes memory only has nothing to do with the disk.
        kinds = ["kill"] if "MAP_ANONYMOUS" in call.shown else list(_FAULTS)
        for kind in kinds:
            if kind != "ENOSPC" or _TAKES_ROOM.match(f"{call.name}({call.shown}"):
                yield call, kind


def inject(one: Subject, call: Call, kind: str, work: Path) -> str:
    """Let one fault happen; return how it ended. Anything else than the old or new state is an AssertionError."""
    top, log = work / "case", work / "log"
    shutil.copytree(one.template, top)
    acting = _Acting(one.operation, top / "store")
    try:
        with _traced(acting.process, log, "-e", f"inject={call.name}:{_FAULTS[kind]}:when={call.number}"):
            acting.go_on()
            ended = acting.says()
        assert ended in ("killed", "failed", "done"), ended
        if ended != "killed":
            acting.go_on()
            ended = acting.says()
            assert ended in ("failed", "failed, then done", "done"), ended
        in_child(lambda: judge(one, ended, top / "store"))
        return ended if ended == "killed" or "INJECTED" in log.read_text() else "not reached"
    except AssertionError as error:
        raise AssertionError(f"{one.name}, {kind} at {call}: {error}") from None
    finally:
        acting.end()
        shutil.rmtree(top)


def campaign(work: Path, share: Share, report: Callable[[str], None] = print) -> int:
    """Make every injection there is, or a share of them; return how many were struck."""
    total = 0
    for name in OPERATIONS:
        one = subject(name, work)
        found = calls(one, work)
        ends = Counter(inject(one, call, kind, work) for call, kind in share.of(faults(found)))
        total += ends.total() - ends["not reached"]
        report(f"{name}: {len(found)} system calls, {ends.total()} injections: {dict(ends)}")
    return total
