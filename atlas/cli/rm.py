"""``atlas rm``."""

from __future__ import annotations

from typing import Annotated

import typer

from atlas.cli import terminal
from atlas.cli.arguments import Json, Store, chosen, dataset_names, none_matches

EXAMPLES = (
    ("atlas rm store/ R13857_001 R13857_002", "these two, or neither"),
    ("atlas rm store/ --glob 'R13857_*'", "all that match"),
)


def run(
    store: Store,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="DATASET", help="Datasets to delete.", autocompletion=dataset_names)
    ] = None,
    glob: Annotated[str | None, typer.Option(metavar="GLOB", help="Delete those that match, like 'station_*'.")] = None,
    as_json: Json = False,
) -> None:
    """Delete datasets, all or none of them.

    Their space is reclaimed by atlas compact.
    """
    from atlas.store import Atlas

    if not names and glob is None:
        raise typer.BadParameter("names of datasets, or --glob, say what to delete", param_hint="DATASET")
    source = Atlas.open(store)
    matching = [] if glob is None else chosen(source, glob)
    if glob is not None and not matching:
        raise none_matches(glob, None, store)
    listed = list(dict.fromkeys([*(names or ()), *matching]))
    source.delete_datasets(listed)
    source.flush()
    print(terminal.as_json({"deleted": listed}) if as_json else f"{terminal.counted(len(listed), 'dataset')} deleted")
