"""Quick form of the fleets: the same few each time."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torture import fleets


@settings(max_examples=8, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32))
def test_whatever_is_asked_of_a_fleet_is_answered_as_its_cells_would(seed: int) -> None:
    fleets.play(seed, steps=25, questions=10)


@pytest.mark.parametrize("seed", [4115])
def test_fleets_that_found_something(seed: int) -> None:
    fleets.play(seed, on_command_line=0)
