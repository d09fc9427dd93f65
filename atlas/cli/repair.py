"""``atlas repair``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from atlas.cli import terminal
from atlas.cli.arguments import Json, Store

EXAMPLES = (
    ("atlas repair store/ --dry-run", "what it would do"),
    ("atlas repair store/", "bring back all that is intact, also the root"),
)


def run(
    store: Store,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    drop_lost: Annotated[bool, typer.Option("--drop-lost", help="Delete arrays that lost chunks.")] = False,
    as_json: Json = False,
) -> None:
    """Bring a damaged store back, and list what is lost.

    Exit status 1 if any chunk is. What is replaced is kept in _damaged/ within the store. A store without damage is not
    changed.
    """
    from atlas.store import Atlas

    report = Atlas.repair(store, dry_run=dry_run, drop_lost=drop_lost)
    if as_json:
        print(terminal.as_json(asdict(report)))
    else:
        print("\n".join([*report.actions, *map(str, report.lost)]) or "no damage found")
        for dataset, array in report.dropped:
            print(f"array {array!r} deleted from dataset {dataset!r}")
        if report.kept:
            print(f"what was replaced is kept in {report.kept}")
    if not report.ok:
        raise typer.Exit(1)
