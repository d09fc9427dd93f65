"""The pages of documentation, and their Python blocks, run one after the other as a reader would."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def pages() -> list[str]:
    """Return every page of the project that is written in Markdown."""
    return ["README.md", "CHANGELOG.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]


def run_blocks(page: str) -> dict[str, Any]:
    """Run the blocks of a page of the project in one scope, and return that."""
    scope: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert blocks, page
    for block in blocks:
        exec(compile(block, page, "exec"), scope)
    return scope
