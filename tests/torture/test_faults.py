"""Quick form of the fault campaign: every operation, a sample of its steps, every kind of fault."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest

from torture import faults
from torture.disk import Disk
from torture.scenes import OPERATIONS, build, state_of, warm_up


@pytest.fixture(scope="module", autouse=True)
def loaded() -> None:
    warm_up()


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_old_state_or_the_new_one(name: str, tmp_path: Path) -> None:
    subject = faults.subject(name, tmp_path)
    assert subject.before != subject.after or name.startswith(("compact", "collect"))
    for fault in random.Random(name).sample(list(faults.faults(subject.steps)), 4):
        faults.inject(subject, fault, tmp_path / "case")


def test_a_second_fault_while_recovering(tmp_path: Path) -> None:
    subject = faults.subject("flush", tmp_path)
    rng = random.Random(3)
    torn = [fault for fault in faults.faults(subject.steps) if fault.kind == "torn"]
    firsts = rng.sample(torn, 4)
    ended = [faults.inject_again(subject, first, tmp_path, lambda found: rng.sample(found, 5)) for first in firsts]
    # A call that fails by itself, such as unlinking what is not there, kills nobody.
    assert [len(again) for again in ended].count(5) >= 2


def test_the_disk_sees_every_call(tmp_path: Path) -> None:
    """What the interpreter announces of a file that is opened behind the disk's back is noted."""
    build(tmp_path / "s")
    disk = Disk(str(tmp_path), record=True)
    with disk.installed():
        state_of(tmp_path / "s")
        assert disk.escaped == []
        io.FileIO(tmp_path / "behind", "w").close()
    assert disk.escaped
