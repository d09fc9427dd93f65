"""Kill, torn write, EIO and ENOSPC at every file-system call: afterwards the old state or the new one, whole."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import atlas
from torture.disk import KINDS, Disk, Fault, Step
from torture.scenes import (
    DAMAGED,
    OPERATIONS,
    Operation,
    Share,
    fill_dataset,
    in_child,
    leftovers,
    seen_at,
    state_of,
)


@dataclass(frozen=True)
class Subject:
    """An operation, the store it starts from, and the states before and after it."""

    name: str
    operation: Operation
    template: Path
    before: Any
    after: Any
    steps: list[Step]


def subject(name: str, work: Path) -> Subject:
    """Prepare an operation, and count its steps."""
    operation = OPERATIONS[name]
    template = work / f"{name} template"
    in_child(lambda: operation.start(template / "store") and None)
    template.mkdir(exist_ok=True)
    before = in_child(lambda: seen_at(template / "store"))
    trial = work / f"{name} trial"
    shutil.copytree(template, trial)
    steps, escaped = in_child(lambda: _counted(operation, trial))
    assert not escaped, f"{name}: not every call came through the disk: {escaped}"
    after = in_child(lambda: state_of(trial / "store"))
    assert in_child(lambda: leftovers(trial / "store")) == []
    shutil.rmtree(trial)
    return Subject(name, operation, template, before, after, steps)


def _counted(operation: Operation, top: Path) -> tuple[list[Step], list[str]]:
    prepared = operation.prepare(top / "store")
    disk = Disk(str(top))
    with disk.installed():
        operation.act(prepared)
    operation.check(prepared)
    return disk.steps, disk.escaped


def faults(steps: list[Step]) -> Iterator[Fault]:
    """Yield every fault that can happen in a run of these steps."""
    for number, step in enumerate(steps):
        for kind in KINDS:
            fault = Fault(number, kind)
            if fault.concerns(step):
                yield fault


def inject(subject: Subject, fault: Fault, place: Path) -> str:
    """Let one fault happen; return how it ended. Anything else than the old or new state is an AssertionError."""
    shutil.copytree(subject.template, place)
    try:
        return _inject(subject, fault, place)
    except AssertionError as error:
        step = subject.steps[fault.number]
        raise AssertionError(f"{subject.name}, {fault.kind} at step {fault.number} {step}: {error}") from None
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _inject(subject: Subject, fault: Fault, top: Path) -> str:
    ended = in_child(lambda: _act(subject.operation, fault, top))
    in_child(lambda: judge(subject, ended, top / "store"))
    return str(ended)


def judge(subject: Subject, ended: str, place: Path) -> None:
    """Look at what a fault has left; anything else than the old or the new state is an AssertionError."""
    seen = seen_at(place)
    assert seen in (subject.before, subject.after), f"neither the old nor the new state ({ended}): {seen}"
    if ended in ("done", "failed, then done"):
        assert seen == subject.after, f"{ended}, but the new state is not there"
    if seen in (None, DAMAGED):
        subject.operation.act(subject.operation.prepare(place))
        assert state_of(place) == subject.after, "what was done again after the fault is not there"
    # Whoever comes next is not hindered by what is left, and takes it away.
    with atlas.Atlas.open(place, workers=1) as store:
        fill_dataset(store, "afterwards", 5)
    assert state_of(place)[-1][0] == "afterwards", "what was flushed after the fault is not there"
    if any(".spill-" in left for left in leftovers(place)):
        # Killed before its file of pending changes lost its name: that is no writer's mark, and waits for a compaction.
        atlas.Atlas.open(place, workers=1).compact()
    assert leftovers(place) == [], f"left behind ({ended})"


def _act(operation: Operation, fault: Fault, top: Path) -> str:
    prepared = operation.prepare(top / "store")
    disk = Disk(str(top), fault)
    with disk.installed():
        try:
            operation.act(prepared)
            ended = "done"
        except (atlas.AtlasError, KeyboardInterrupt):
            ended = "failed"
        except (FileNotFoundError, FileExistsError, OSError) as error:
            raise AssertionError(f"not an error of ours: {error!r}") from error
        assert disk.struck, "the step was not reached"
        disk.heal()
        if ended == "failed" and prepared != top / "store":
            operation.act(prepared)
            ended = "failed, then done"
    operation.check(prepared)
    return ended


def inject_again(
    subject: Subject, first: Fault, work: Path, choose: Callable[[list[Fault]], list[Fault]] = list
) -> list[str]:
    """Let a first fault kill the process, and a second one hit the recovery from it; return how those ended."""
    hurt, trial = work / "hurt", work / "trial"
    shutil.copytree(subject.template, hurt)
    try:
        if in_child(lambda: _act(subject.operation, first, hurt)) != "killed":
            return []
        before = in_child(lambda: seen_at(hurt / "store"))
        recovery = Operation(lambda place: None, _with_more, atlas.Atlas.flush)
        if before in (None, DAMAGED):
            # Nothing can be opened: what was done is done again.
            recovery = subject.operation
        shutil.copytree(hurt, trial)
        steps, _ = in_child(lambda: _counted(recovery, trial))
        after = in_child(lambda: state_of(trial / "store"))
        again = Subject(f"recovery from {subject.name}, {first}", recovery, hurt, before, after, steps)
        return [inject(again, fault, work / "second") for fault in choose(list(faults(steps)))]
    finally:
        shutil.rmtree(hurt)
        shutil.rmtree(trial, ignore_errors=True)


def _with_more(place: Path) -> atlas.Atlas:
    store = atlas.Atlas.open(place, workers=1)
    fill_dataset(store, "recovering", 3)
    return store


def _some(first: Fault, found: list[Fault]) -> list[Fault]:
    """Return every 48th second fault, after each first one others."""
    return [fault for fault in found if fault.kind in ("torn", "EIO")][first.number % 48 :: 48]


def campaign(work: Path, share: Share, report: Callable[[str], None] = print) -> int:
    """Make every injection there is, or a share of them; return how many."""
    total = 0
    for name in OPERATIONS:
        one = subject(name, work)
        ends = Counter(inject(one, fault, work / "case") for fault in share.of(faults(one.steps)))
        total += ends.total()
        report(f"{name}: {len(one.steps)} steps, {ends.total()} injections: {dict(ends)}")
        ends = Counter()
        for fault in share.of(fault for fault in faults(one.steps) if fault.kind == "torn"):
            ends.update(inject_again(one, fault, work, partial(_some, fault)))
        total += ends.total()
        report(f"{name}: {ends.total()} second faults during recovery: {dict(ends)}")
    return total
