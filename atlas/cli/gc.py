"""``atlas gc``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from atlas.cli import terminal
from atlas.cli.arguments import Json, Store

EXAMPLES = (
    ("atlas gc store/ --dry-run", "what it would remove"),
    ("atlas gc s3://bucket/store", "on object stores nothing else removes files"),
)


def run(
    store: Store,
    grace: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="How long replaced files are kept; 900 by default.")
    ] = None,
    unfinished: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="How long other leftovers are; by default a day.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and do nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Remove files that no state of a store needs.

    On object stores nothing else does.
    """
    from atlas.store import Atlas

    report = Atlas.open(store).gc(grace=grace, unfinished=unfinished, dry_run=dry_run)
    if as_json:
        print(terminal.as_json(asdict(report)))
        return
    verb = "would be removed" if dry_run else "removed"
    removed, waiting = (terminal.counted(len(keys), "file") for keys in (report.removed, report.waiting))
    uploads = terminal.counted(report.uploads, "unfinished upload")
    print(f"{removed} of {report.bytes:,} bytes and {uploads} {verb}")
    print(f"{waiting} wait{'s' if len(report.waiting) == 1 else ''} until old enough")
