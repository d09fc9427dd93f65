"""``atlas bench``."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from typing import Annotated, Any

import typer

from atlas.cli import terminal
from atlas.cli.arguments import Glob, Json, Store, array_names, chosen

EXAMPLES = (
    ("atlas bench store/", "every array, of all datasets"),
    ("atlas bench store/ TEMP --rounds 10", "one of them, more often"),
)


def run(
    store: Store,
    array: Annotated[
        str | None, typer.Argument(metavar="ARRAY", help="All arrays by default.", autocompletion=array_names)
    ] = None,
    glob: Glob = "*",
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="Reads, of which the median counts.")] = 5,
    as_json: Json = False,
) -> None:
    """Measure how fast this store is read, on this machine.

    Of each array: the datasets that have its most common shape, read stacked, as one array; the first time in this
    process, and the median of further times; then one by one. Bytes are those of the cells.
    """
    from atlas.errors import ArrayNotFound
    from atlas.store import Atlas

    began = time.perf_counter()
    source = Atlas.open(store, mode="r")
    opened = time.perf_counter() - began
    names = chosen(source, glob)
    if array is not None and array not in source.list_arrays():
        raise ArrayNotFound(f"array not found: no dataset of {store} has {array!r}")
    rows = [_measure(source, each, names, rounds) for each in ([array] if array else source.list_arrays())]
    if as_json:
        print(terminal.as_json({"opening": opened, "arrays": rows}))
        return
    heads = ("array", "datasets", "MB", "first ms", "stacked ms", "MB/s", "one by one ms")
    print(f"opened in {opened * 1e3:.1f} ms, {len(source):,} datasets")
    terminal.table(heads, [_shown(row) for row in rows], right=heads[1:])


def _measure(store: Any, array: str, names: list[str], rounds: int) -> dict[str, Any]:
    shapes: dict[str, tuple[Any, ...]] = {}
    for name in names:
        meta = store.open_dataset(name).array_meta(array)
        if meta is not None:
            shapes[name] = (meta["dtype"], *meta["shape"])
    if not shapes:
        return {"array": array, "datasets": 0}
    common = Counter(shapes.values()).most_common(1)[0][0]
    alike = [name for name, shape in shapes.items() if shape == common]
    times = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        cells = store.read_array_across_stacked(array, alike)
        times.append(time.perf_counter() - began)
    began = time.perf_counter()
    for name in alike:
        store.open_dataset(name).read_array(array)
    single = time.perf_counter() - began
    warm = statistics.median(times[1:])
    return {
        "array": array,
        "datasets": len(alike),
        "bytes": cells.nbytes,
        "first_seconds": times[0],
        "stacked_seconds": warm,
        "one_by_one_seconds": single,
    }


def _shown(row: dict[str, Any]) -> list[str]:
    if not row["datasets"]:
        return [row["array"], "0", "", "", "", "", ""]
    seconds = row["stacked_seconds"]
    return [
        row["array"],
        f"{row['datasets']:,}",
        f"{row['bytes'] / 1e6:,.1f}",
        f"{row['first_seconds'] * 1e3:,.1f}",
        f"{seconds * 1e3:,.2f}",
        f"{row['bytes'] / 1e6 / seconds:,.0f}",
        f"{row['one_by_one_seconds'] * 1e3:,.1f}",
    ]
