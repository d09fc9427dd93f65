"""``atlas stats``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from atlas.cli import terminal
from atlas.cli.arguments import Confirm, Glob, Json, Store, Where, array_names, chosen

EXAMPLES = (
    ("atlas stats store/", "the bounds of every array over all datasets"),
    ("atlas stats store/ TEMP 'R13857_*'", "TEMP of each of these datasets"),
)


def run(
    store: Store,
    array: Annotated[
        str | None, typer.Argument(metavar="ARRAY", help="Of each dataset.", autocompletion=array_names)
    ] = None,
    glob: Glob = "*",
    where: Where = None,
    confirm: Confirm = False,
    as_json: Json = False,
) -> None:
    """Show smallest and largest values; no cell is read.

    Without an array: of all arrays and attributes, over all datasets. Missing cells are those that hold the fill
    value; they and NaN do not count as smallest or largest.
    """
    if array is None and (where or confirm):
        raise typer.BadParameter("it goes with an ARRAY", param_hint="--where" if where else "--confirm")
    from atlas.store import Atlas

    source = Atlas.open(store, mode="r")
    rows = _of_all(source) if array is None else _of_each(source, array, chosen(source, glob, where, confirm))
    if as_json:
        print(terminal.as_json(rows))
        return
    heads = list(rows[0]) if rows else ["array" if array is None else "dataset"]
    shown = [[_shown(value) for value in row.values()] for row in rows]
    terminal.table(heads, shown, right=("datasets", "cells", "missing"))


def _of_all(store: Any) -> list[dict[str, Any]]:
    schema = store.merged_schema()
    types = dict(schema["global_attributes"])
    for array, entry in schema["arrays"].items():
        types |= {f"{array}:{key}": dtype for key, dtype in entry["attributes"].items()} | {array: entry["dtype"]}
    return [
        {"name": name, "datasets": found["present_count"], **_bounds(found, types.get(name))}
        for name, found in store.column_summaries().items()
        if not name.rpartition(":")[2].startswith("_")
    ]


def _bounds(found: dict[str, Any], dtype: str | None) -> dict[str, Any]:
    """Return the bounds of a column; those of lists and dictionaries, which are kept as text, without its marker."""
    said = terminal.bounds(found, dtype)
    return {key: v.removeprefix(b"json:") if isinstance(v := said[key], bytes) else v for key in ("min", "max")}


def _of_each(store: Any, array: str, names: list[str]) -> list[dict[str, Any]]:
    from atlas.errors import ArrayNotFound

    if array not in store.list_arrays():
        raise ArrayNotFound(f"array not found: {array!r}; atlas info lists those that there are")
    rows = []
    for name in names:
        view = store.open_dataset(name)
        found = view.array_stats(array)
        if found is not None:
            found = terminal.bounds(found, view.array_meta(array)["dtype"])
            row = {"dataset": name, "cells": found["row_count"], "missing": found["null_count"]}
            rows.append(row | {"min": found["min"], "max": found["max"]})
    return rows


def _shown(value: Any) -> Any:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return text if not isinstance(text, str) or len(text) <= 40 else f"{text[:39]}…"
