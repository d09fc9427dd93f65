"""``atlas verify``."""

from __future__ import annotations

from dataclasses import asdict

import typer

from atlas.cli import terminal
from atlas.cli.arguments import Json, Store

EXAMPLES = (("atlas verify store/ && echo fine", "exit status 1 if anything is damaged"),)


def run(store: Store, as_json: Json = False) -> None:
    """Read everything in a store and list what is damaged.

    Exit status 1 if anything is.
    """
    from atlas.store import Atlas

    with terminal.progress("verifying") as advance:
        report = Atlas.open(store, mode="r").verify(advance)
    if as_json:
        print(terminal.as_json(asdict(report)))
    else:
        read = f"{terminal.counted(report.datasets, 'dataset')}, {terminal.counted(report.chunks, 'chunk')} read"
        print("\n".join([*map(str, report.problems), read]))
        print(terminal.counted(len(report.problems), "problem") if report.problems else "no damage found")
    if not report.ok:
        raise typer.Exit(1)
