"""``atlas mv``."""

from __future__ import annotations

from typing import Annotated

import typer

from atlas.cli import terminal
from atlas.cli.arguments import Dataset, Json, Store

EXAMPLES = (("atlas mv store/ R13857_001 first", "no data moves"),)


def run(
    store: Store,
    old: Dataset,
    new: Annotated[str, typer.Argument(metavar="NEW", help="The name it gets; none that is taken.")],
    as_json: Json = False,
) -> None:
    """Rename a dataset; no data moves."""
    from atlas.store import Atlas

    source = Atlas.open(store)
    source.rename_dataset(old, new)
    source.flush()
    print(terminal.as_json({"old": old, "new": new}) if as_json else f"{old} is {new} now")
