"""``atlas show``."""

from __future__ import annotations

import json
import textwrap
from typing import Any

from atlas.cli import terminal
from atlas.cli.arguments import Dataset, Json, Store

EXAMPLES = (
    ("atlas show store/ R13857_001", "what ncdump -h shows of a file, and statistics"),
    ("atlas show store/ R13857_001 --json", "the same for programs"),
)

_LONGEST_TEXT = 60


def run(store: Store, dataset: Dataset, as_json: Json = False) -> None:
    """Show the variables, attributes and statistics of a dataset.

    Attributes of more than 60 characters are cut short; --json has them whole.
    """
    from atlas.store import Atlas

    description = _describe(Atlas.open(store, mode="r").open_dataset(dataset))
    print(terminal.as_json(description) if as_json else _dump(description))


def _describe(view: Any) -> dict[str, Any]:
    from atlas.xarray import coordinate_names, user_attributes

    variables: dict[str, Any] = {}
    dimensions: dict[str, int] = {}
    for array in view.list_arrays():
        meta = dict(view.array_meta(array))
        dimensions.update(zip(meta["dimension_names"], meta["shape"], strict=True))
        found = view.array_stats(array)
        variables[array] = meta | {
            "fill_value": terminal.of_type(view.array_fill_value(array), meta["dtype"]),
            "attributes": user_attributes(view.array_attributes(array)),
            "statistics": found and terminal.bounds(found, meta["dtype"]),
        }
    return {
        "name": view.name,
        "dimensions": dimensions,
        "coordinates": sorted(coordinate_names(view)),
        "variables": variables,
        "attributes": user_attributes(view.attributes()),
    }


def _dump(description: dict[str, Any]) -> str:
    lines = [f"dataset {description['name']} {{", "dimensions:"]
    lines += [f"  {name} = {size} ;" for name, size in description["dimensions"].items()]
    lines.append("variables:")
    for name, variable in description["variables"].items():
        dims = ", ".join(variable["dimension_names"])
        notes = ["coordinate"] if name in description["coordinates"] else []
        if variable["chunk_shape"] != [max(n, 1) for n in variable["shape"]]:
            notes.append(f"chunks {variable['chunk_shape']}")
        lines.append(f"  {variable['dtype']} {name}({dims}) ;" + (f" // {', '.join(notes)}" if notes else ""))
        if variable["fill_value"] is not None:
            lines += _entry("    ", f"{name}:_FillValue", variable["fill_value"])
        for key, value in variable["attributes"].items():
            lines += _entry("    ", f"{name}:{key}", value)
        if variable["statistics"] is not None:
            text = ", ".join(
                f"{key} {_shown(item)}" for key, item in variable["statistics"].items() if item is not None
            )
            lines += _wrapped(text, "    // ", "    //   ")
    if description["attributes"]:
        lines += ["", "// global attributes:"]
        for key, value in description["attributes"].items():
            lines += _entry("  ", f":{key}", value)
    return "\n".join([*lines, "}"])


def _entry(margin: str, key: str, value: Any) -> list[str]:
    return _wrapped(f"{key} = {_shown(value)} ;", margin, margin + "  ")


def _wrapped(text: str, first: str, others: str) -> list[str]:
    """Return text in lines of at most 80 columns, where its words allow it."""
    return textwrap.wrap(
        text, 80, initial_indent=first, subsequent_indent=others, break_long_words=False, break_on_hyphens=False
    )


def _shown(value: Any) -> str:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)
        return text if len(text) <= _LONGEST_TEXT else f'{text[: _LONGEST_TEXT - 4]}…"'
    if isinstance(value, dict):
        return _shown(json.dumps(value, ensure_ascii=False))
    return ", ".join(map(_shown, value)) if hasattr(value, "__len__") else str(value)
