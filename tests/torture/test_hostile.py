"""Quick form of the hostile corpus: all the bombs, and a sample of the forged roots."""

from __future__ import annotations

import random
from pathlib import Path

from torture import hostile
from torture.scenes import warm_up


def test_forged_roots_are_refused_or_read_rightly(tmp_path: Path) -> None:
    warm_up()
    place, forged = hostile.corpus(tmp_path)
    assert len(forged) > 2_000
    bombs, rest = forged[-13:], forged[:-13]
    ends = [hostile.survive(place, *case) for case in (*bombs, *random.Random(5).sample(rest, 120))]
    assert ends[:13] == ["refused"] * 13
    assert ends.count("refused") > 100
