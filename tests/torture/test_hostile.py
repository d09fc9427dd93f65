"""Quick form of the hostile corpus: all the forgeries, and a sample of the roots with one value exchanged."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from torture import hostile
from torture.corpus import FORGERIES
from torture.scenes import warm_up


@pytest.fixture(scope="module", autouse=True)
def loaded() -> None:
    warm_up()


def test_roots_with_one_value_exchanged_are_refused_or_read_rightly(tmp_path: Path) -> None:
    place, forged = hostile.corpus(tmp_path)
    assert len(forged) > 2_000
    ends = [hostile.survive(place, *case) for case in random.Random(5).sample(forged, 90)]
    assert ends.count("refused") > 70


@pytest.mark.parametrize("name", FORGERIES)
def test_forgeries_are_refused(name: str, tmp_path: Path) -> None:
    assert hostile.judge(name, tmp_path / "case") == "refused"
