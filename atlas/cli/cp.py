"""``atlas cp``."""

from __future__ import annotations

from typing import Annotated

import typer

from atlas.cli import terminal
from atlas.cli.arguments import Dataset, Json, Store

EXAMPLES = (("atlas cp store/ R13857_001 copy", "chunks are copied as they are"),)


def run(
    store: Store,
    name: Dataset,
    target: Annotated[str, typer.Argument(metavar="NEW", help="Name of the copy; none that is taken.")],
    as_json: Json = False,
) -> None:
    """Copy a dataset within the store."""
    from atlas.store import Atlas

    source = Atlas.open(store)
    source.copy_dataset(name, target)
    source.flush()
    print(terminal.as_json({"source": name, "copy": target}) if as_json else f"{name} copied to {target}")
