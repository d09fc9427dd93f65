"""Quick form of the process campaign."""

from __future__ import annotations

from pathlib import Path

import pytest

from torture import processes
from torture.scenes import warm_up


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    warm_up()
    return processes.big_store(tmp_path_factory.mktemp("big") / "s")


def test_killed_workers_cost_time_not_results(place: Path) -> None:
    processes.check_killed_workers(place, 6)


def test_a_full_dev_shm_is_no_obstacle(place: Path) -> None:
    assert processes.check_full_shared_memory(place)


def test_too_little_memory_is_an_error_and_no_more(place: Path) -> None:
    processes.check_little_memory(place)


def test_many_handles_need_few_descriptors(place: Path) -> None:
    processes.check_few_descriptors(place, 200)


def test_a_flush_of_more_arrays_than_files_may_be_open(tmp_path: Path) -> None:
    processes.check_many_arrays(tmp_path / "s", 300)


# Python drops an interrupt that it hears in a finalizer, and says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_at_any_moment(place: Path) -> None:
    assert processes.check_interrupts(place, 30) > 0


def test_tiny_writes_take_no_memory(tmp_path: Path) -> None:
    processes.check_tiny_writes(tmp_path / "s", 20_000)
