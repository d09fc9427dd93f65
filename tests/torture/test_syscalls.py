"""Quick form of the campaign of faults at system calls."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from torture import syscalls
from torture.faults import subject
from torture.scenes import warm_up

pytestmark = pytest.mark.skipif(not syscalls.is_possible(), reason="processes cannot be traced here")


@pytest.fixture(scope="module", autouse=True)
def loaded() -> None:
    warm_up()


@pytest.mark.parametrize("name", ["create", "flush", "compact", "repair"])
def test_the_old_state_or_the_new_one_whatever_the_kernel_says(name: str, tmp_path: Path) -> None:
    one = subject(name, tmp_path)
    found = syscalls.calls(one, tmp_path)
    assert any(call.name == "fsync" for call in found)
    chosen = random.Random(name).sample(list(syscalls.faults(found)), 5)
    ends = {syscalls.inject(one, call, kind, tmp_path) for call, kind in chosen}
    assert ends & {"killed", "failed", "failed, then done"}
