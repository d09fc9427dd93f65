"""Quick form of the concurrency campaign."""

from __future__ import annotations

from pathlib import Path

import pytest

from torture import concurrency
from torture.scenes import warm_up


@pytest.fixture(scope="module", autouse=True)
def loaded() -> None:
    warm_up()


def test_every_read_is_of_one_generation(tmp_path: Path) -> None:
    assert concurrency.check_readers(tmp_path / "s", 2, 150) > 5


def test_two_writers_lose_nothing(tmp_path: Path) -> None:
    concurrency.check_writers(tmp_path / "s", 40)


def test_forks_while_threads_flush(tmp_path: Path) -> None:
    concurrency.check_forks(tmp_path / "s", 8)


def test_a_killed_writer_is_not_waited_for(tmp_path: Path) -> None:
    assert concurrency.check_stale_locks(tmp_path / "s", 8) < 5


def test_a_store_on_read_only_media(tmp_path: Path) -> None:
    concurrency.check_read_only(tmp_path / "s")
