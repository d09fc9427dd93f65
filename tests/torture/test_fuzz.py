"""Quick form of the fuzzing: some hundred mutations of every kind of stored bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from torture import fuzz


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> fuzz.Seeds:
    return fuzz.Seeds(Path(tmp_path_factory.mktemp("fuzz")))


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_only_errors_of_ours_come_out(name: str, seeds: fuzz.Seeds) -> None:
    ends = fuzz.run(name, seeds, 300)
    assert ends["refused"] > 50
    assert ends["read"] > 5 or name == "compressed root"
