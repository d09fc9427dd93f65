"""Quick form of the real power cuts, where a file system can be mounted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from atlas import Atlas
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


def test_what_nobody_needs_goes_when_the_disk_is_full(tmp_path: Path) -> None:
    with cuts.FileSystem(tmp_path / "full").mounted() as top:
        with Atlas.create(top / "s") as store:
            store.create_dataset("a").define_array("t", "float64", ["x"], [100_000])
        reader = Atlas.open(top / "s", mode="r")
        for number in range(3):
            with Atlas.open(top / "s") as store:
                store.open_dataset("a").write_array("t", [0], np.random.default_rng(number).random(100_000))
                store.flush()
                store.compact()
        fill(top / "rest")
        del reader, store
        report = Atlas.open(top / "s").gc()
        assert report.bytes > 1_000_000
        assert not (top / "s" / "_retired").exists()


def fill(path: Path) -> None:
    """Take all the room there is."""
    with open(path, "wb", buffering=0) as file:
        size = 1 << 20
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2
