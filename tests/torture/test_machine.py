"""Quick form of the model test: the same few hundred sequences each time."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from torture.machine import StoreMachine
from torture.scenes import warm_up


def test_any_order_of_operations_matches_plain_dictionaries() -> None:
    warm_up()
    quick = settings(
        max_examples=60,
        stateful_step_count=40,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(StoreMachine, settings=quick)
