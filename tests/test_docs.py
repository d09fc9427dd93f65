"""The pages of documentation, run as they stand."""

from __future__ import annotations

from pathlib import Path

import pytest
from documents import run_blocks

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("page", ["xarray.md"])
def test_every_block_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_blocks(f"docs/{page}")
