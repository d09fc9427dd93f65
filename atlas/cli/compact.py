"""``atlas compact``."""

from __future__ import annotations

from atlas.cli import terminal
from atlas.cli.arguments import Json, Store

EXAMPLES = (("atlas compact store/", "after rm, or after many small commits"),)


def run(store: Store, as_json: Json = False) -> None:
    """Reclaim the space of what was deleted or replaced.

    Every array is rewritten into one data file. Readers keep what they opened.
    """
    from atlas.store import Atlas

    source = Atlas.open(store)
    before = source.info()["bytes"]
    source.compact()
    after = source.info()["bytes"]
    found = {"bytes_before": before, "bytes_after": after}
    print(terminal.as_json(found) if as_json else f"{before:,} bytes before, {after:,} after")
