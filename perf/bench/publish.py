"""A run's results as files: JSON, Markdown, plots, and what the documentation quotes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from perf.bench.plots import draw
from perf.bench.report import brief, highlights, report, setups
from perf.bench.results import write_whole
from perf.bench.systems import REPOSITORY

DOCUMENT = REPOSITORY / "docs" / "benchmarks.md"
README = REPOSITORY / "README.md"
QUOTED = REPOSITORY / "perf" / "results" / "full"


def publish(results: dict[str, Any], folder: Path) -> None:
    """Write the report of `results` to `folder`; the full run also goes into the documentation."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "results.json", json.dumps(results, indent=1) + "\n")
    images = "\n\n".join(f"![{path.stem}]({path.name})" for path in draw(results["records"], folder))
    write_whole(folder / "report.md", f"{report(results)}\n## Plots\n\n{images}\n\n## Systems\n\n{setups(results)}\n")
    if folder.resolve() == QUOTED:
        text = insert(DOCUMENT.read_text(), "results", highlights(results))
        write_whole(DOCUMENT, insert(text, "systems", setups(results)))
        write_whole(README, insert(README.read_text(), "speed", brief(results)))


def insert(text: str, name: str, block: str) -> str:
    """Return `text` with what is between the markers of `name` replaced.

    Raises
    ------
    ValueError
        If the markers are not there.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"no markers {begin} and {end}")
    return f"{before}{begin}\n{block}\n{end}{after}"
