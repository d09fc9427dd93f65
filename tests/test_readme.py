"""The README: where it begins."""

from __future__ import annotations

from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_readme_opens_with_the_two_commands():
    start = README.read_text()[:900]
    assert "\nmake demo " in start
    assert "\nmake test " in start
