"""``atlas ls``."""

from __future__ import annotations

import math
from typing import Annotated, Any

import typer

from atlas.cli import terminal
from atlas.cli.arguments import Confirm, Glob, Json, Store, Where, chosen

EXAMPLES = (
    ("atlas ls store/", "all names, in the order in which they were added"),
    ("atlas ls store/ 'R13857_*' --long", "with arrays, attributes and cells"),
    ("atlas ls store/ --where 'max(TEMP) > 28'", "by statistics, without reading a cell"),
)


def run(
    store: Store,
    glob: Glob = "*",
    where: Where = None,
    confirm: Confirm = False,
    long: Annotated[bool, typer.Option("--long", "-l", help="Arrays, attributes and cells of each.")] = False,
    as_json: Json = False,
) -> None:
    """List the datasets of a store.

    Conditions are answered from statistics and attributes: what could match is listed, with --confirm only what does.
    """
    from atlas.store import Atlas

    source = Atlas.open(store, mode="r")
    names = chosen(source, glob, where, confirm)
    if long:
        rows = [_summary(source, name) for name in names]
        if as_json:
            print(terminal.as_json(rows))
        else:
            heads = ("dataset", "arrays", "attributes", "cells")
            terminal.table(heads, [tuple(row.values()) for row in rows], right=heads[1:])
    elif as_json or names:
        print(terminal.as_json(names) if as_json else "\n".join(names))


def _summary(store: Any, name: str) -> dict[str, Any]:
    view = store.open_dataset(name)
    metas = [view.array_meta(array) for array in view.list_arrays()]
    cells = sum(math.prod(meta["shape"]) for meta in metas)
    return {"name": name, "arrays": len(metas), "attributes": len(view.attributes()), "cells": cells}
