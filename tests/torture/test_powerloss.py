"""Quick form of the power-loss campaign; and proof, by mutants, that it would see a missing sync or a wrong order."""

from __future__ import annotations

from pathlib import Path

import pytest

from torture import mutants, powerloss
from torture.scenes import Share, in_child, warm_up


@pytest.fixture(scope="module", autouse=True)
def loaded() -> None:
    warm_up()


def test_no_cut_loses_or_mixes_anything(tmp_path: Path) -> None:
    states, opened = in_child(lambda: powerloss.check_scenario(tmp_path, 1, 4))
    assert states > 10_000
    assert opened > 20


@pytest.mark.parametrize("case", ["flush of one array", "create where another was killed"])
def test_no_cut_hurts_what_follows_a_killed_writer(case: str, tmp_path: Path) -> None:
    states, _ = in_child(lambda: powerloss.check_kills(tmp_path, 1, 4, [case]))
    assert states > 1_000


def test_no_repair_after_a_cut_loses_anything(tmp_path: Path) -> None:
    """Whoever finds his machine off may repair the store first, where it has to be or not."""
    acts, see = powerloss.FEW_ACTS, powerloss.repaired
    states, opened = in_child(lambda: powerloss.check_scenario(tmp_path, 1, 2, acts, see=see))
    assert states > 1_000
    assert opened > 100


def test_no_repair_after_a_cut_hurts_what_follows_a_killed_writer(tmp_path: Path) -> None:
    cases, share, see = ["flush of one array"], Share(1, 8), powerloss.repaired
    states, _ = in_child(lambda: powerloss.check_kills(tmp_path, 1, 2, cases, share, see))
    assert states > 1_000


def test_a_sync_that_fails_is_not_relied_on(tmp_path: Path) -> None:
    assert in_child(lambda: powerloss.check_lost_syncs(tmp_path, 1, 2, ["create", "flush"])) > 1_000


def test_threads_sync_side_by_side_in_the_model(tmp_path: Path) -> None:
    recording = in_child(lambda: powerloss.record([powerloss._create, powerloss._side_by_side], tmp_path))
    threads = {step.thread for step in recording.calls if step.call == "fsync" and "/w" in step.path}
    assert len(threads) > 1


def test_the_mutants_of_the_campaign_are_of_this_source() -> None:
    known = mutants.POWER + mutants.REPAIRING + mutants.SYNCING + mutants.RECORDING
    assert [mutant.what for mutant in known if not mutant.is_possible()] == []


@pytest.mark.parametrize("mutant", mutants.POWER[:6], ids=lambda mutant: mutant.what)
def test_a_missing_sync_is_seen(mutant: mutants.Mutant, tmp_path: Path) -> None:
    assert mutants.survivors([mutant], lambda: powerloss.check_scenario(tmp_path, 1, 4)) == []


@pytest.mark.parametrize("mutant", mutants.SYNCING, ids=lambda mutant: mutant.what)
def test_a_sync_that_failed_or_was_not_waited_for_is_seen(mutant: mutants.Mutant, tmp_path: Path) -> None:
    assert mutants.survivors([mutant], lambda: mutants.hunt_syncing(tmp_path)) == []
