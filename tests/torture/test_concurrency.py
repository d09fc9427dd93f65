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
    assert concurrency.check_readers(tmp_path / "s", 2, 150) >= concurrency.COMMITS


def test_two_writers_lose_nothing(tmp_path: Path) -> None:
    concurrency.check_writers(tmp_path / "s", 40)


@pytest.mark.parametrize("rivals", [1, 3])
def test_nobody_who_waits_for_the_lock_is_passed_over(rivals: int, tmp_path: Path) -> None:
    """Others take it again and again; each has a few turns, at most, before one who waits has his."""
    waits = concurrency.check_turns(tmp_path, rivals, 30, concurrency.in_process)
    assert waits[len(waits) // 2] <= 2 * rivals
    # Whom a busy machine stops before he has begun to wait may miss any number of turns: that is seldom.
    assert waits[-4] <= 20 * rivals


def test_forks_while_threads_flush(tmp_path: Path) -> None:
    concurrency.check_forks(tmp_path / "s", 8)


def test_a_killed_writer_is_not_waited_for(tmp_path: Path) -> None:
    concurrency.check_stale_locks(tmp_path / "s", 8)


def test_a_store_on_read_only_media(tmp_path: Path) -> None:
    concurrency.check_read_only(tmp_path / "s")
