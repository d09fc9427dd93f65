"""``atlas info``."""

from __future__ import annotations

from atlas.cli import terminal
from atlas.cli.arguments import Json, Store

EXAMPLES = (("atlas info store/", "how many datasets, which arrays, of what size"),)


def run(store: Store, as_json: Json = False) -> None:
    """Describe a store: its datasets, arrays, format and size."""
    from atlas.store import Atlas

    description = Atlas.open(store, mode="r").info()
    if as_json:
        print(terminal.as_json(description))
        return
    arrays = description.pop("arrays")
    terminal.table(("", ""), list(description.items()))
    print()
    rows = [
        (name, entry["dtype"], ", ".join(entry["dimension_names"]), entry["files"], entry["bytes"])
        for name, entry in arrays.items()
    ]
    terminal.table(("array", "type", "dims", "files", "bytes"), rows, right=("files", "bytes"))
