"""Quick form of the real power cuts, where a file system can be mounted."""

from __future__ import annotations

from pathlib import Path

import pytest

from torture import cuts
from torture.scenes import warm_up


@pytest.fixture(autouse=True)
def possible(tmp_path: Path) -> None:
    warm_up()
    if not cuts.is_possible(tmp_path):
        pytest.skip("mounting a file system needs mkfs.ext4, a loop device and the rights of root")


def test_no_acknowledged_flush_is_lost(tmp_path: Path) -> None:
    assert cuts.check_cuts(tmp_path, 6) > 3


def test_the_cuts_are_real(tmp_path: Path) -> None:
    """Without syncing, what was acknowledged is lost, or the store does not open any more."""
    with pytest.raises(AssertionError, match=r"acknowledged|in the child"):
        cuts.check_cuts(tmp_path, 6, synced=False)
