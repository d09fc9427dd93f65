"""Quick form of the model test: the same sequences each time."""

from __future__ import annotations

from torture import machine
from torture.scenes import warm_up


def test_any_order_of_operations_matches_plain_dictionaries() -> None:
    warm_up()
    machine.run(sequences=25, steps=30)
