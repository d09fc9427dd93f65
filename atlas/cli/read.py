"""``atlas read``."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from atlas.cli import terminal
from atlas.cli.arguments import Array, Confirm, Json, Store, Where, chosen, dataset_names, none_matches, numbers

EXAMPLES = (
    ("atlas read store/ R13857_001 TEMP", "as CSV, a line for each cell"),
    ("atlas read store/ R13857_001 TEMP --start 0,0 --shape 1,5 --json", "a box of it"),
    ("atlas read store/ R13857_001 TEMP -o temp.npy", "for NumPy; .csv works too"),
    ("atlas read store/ 'R13857_00*' TEMP -o all.csv", "of all datasets that match and have it"),
)


def run(
    store: Store,
    dataset: Annotated[
        str,
        typer.Argument(metavar="DATASET", help="Its name, or a glob like 'station_*'.", autocompletion=dataset_names),
    ],
    array: Array,
    start: Annotated[
        str | None, typer.Option(metavar="I,J", help="First cell along each axis, like 0,10; 0 by default.")
    ] = None,
    shape: Annotated[
        str | None, typer.Option(metavar="N,M", help="Cells along each axis, like 1,5; all by default.")
    ] = None,
    where: Where = None,
    confirm: Confirm = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="File to write, .npy or .csv; CSV on stdout without one."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Read an array, of one dataset or of many.

    CSV has a column for each dimension, with the position along it, and one for the value; of many datasets, one with
    their names before these. In a .npy file many datasets are stacked along a first axis, and must have one shape.
    """
    from atlas.store import Atlas

    if output is not None and output.suffix not in (".npy", ".csv"):
        raise typer.BadParameter(f"{output} ends neither in .npy nor in .csv", param_hint="--output")
    if output is not None and as_json:
        raise typer.BadParameter("it prints, and --output writes a file: one of them", param_hint="--json")
    source = Atlas.open(store, mode="r")
    single = source.dataset_exists(dataset) and where is None
    names = [dataset] if single else chosen(source, dataset, where, confirm)
    if not names:
        raise none_matches(dataset, where, store)
    begin, extent = numbers(start, "--start"), numbers(shape, "--shape")
    if output is not None and output.suffix == ".npy":
        _save(source, array, names, begin, extent, output, single)
        return
    parts = source.read_array_across(array, names, begin, extent)
    found = {name: part for name, part in zip(names, parts, strict=True) if part is not None}
    _refuse_absent(array, names, len(found))
    if as_json:
        print(terminal.as_json(found[dataset] if single else found))
        return
    view: Any = source.open_dataset(next(iter(found)))
    dims = view.array_meta(array)["dimension_names"]
    if output is None:
        _write(sys.stdout, array, dims, found, begin, single)
        return
    with open(output, "w", newline="", encoding="utf-8") as file, _whole_or_not(output):
        _write(file, array, dims, found, begin, single)


def _refuse_absent(array: str, names: Sequence[str], count: int) -> None:
    from atlas.errors import ArrayNotFound

    if not count:
        of = f"dataset {names[0]!r}" if len(names) == 1 else f"any of {len(names)} datasets"
        raise ArrayNotFound(f"array not found: {array!r} in {of}")


def _save(store: Any, array: str, names: list[str], start: Any, shape: Any, output: Path, single: bool) -> None:
    import numpy as np

    from atlas.errors import InvalidArgument

    cells = store.read_array_across_stacked(array, names, start, shape)
    if cells.dtype.kind == "O":
        if any(cell[-1:] in ("\0", b"\0") for cell in cells.flat):
            raise InvalidArgument(f"cells of {array!r} end in NUL, which a .npy file does not keep; .csv and --json do")
        # Text of a fixed width needs no pickle, which nobody should load.
        cells = cells.astype(str) if not any(isinstance(cell, bytes) for cell in cells.flat) else cells.astype(bytes)
    with open(output, "wb") as file, _whole_or_not(output):
        np.save(file, cells[0] if single else cells, allow_pickle=False)


@contextmanager
def _whole_or_not(output: Path) -> Iterator[None]:
    """Leave no half of a file, which would look like all of it."""
    try:
        yield
    except BaseException:
        output.unlink(missing_ok=True)
        raise


def _write(
    file: TextIO, array: str, dims: Sequence[str], parts: dict[str, Any], start: Sequence[int] | None, single: bool
) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*(() if single else ("dataset",)), *dims, array])
    for name, cells in parts.items():
        writer.writerows(_lines(cells, start, () if single else (name,)))


def _lines(cells: Any, start: Sequence[int] | None, before: tuple[str, ...]) -> Iterator[list[Any]]:
    import numpy as np

    first = [0] * cells.ndim if start is None else start
    as_text = cells.dtype.kind in "Mm" or cells.dtype.name in terminal.SHORT_FLOATS
    values = cells.astype(str) if as_text else cells
    for position, value in zip(np.ndindex(cells.shape), values.reshape(-1).tolist(), strict=True):
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        yield [*before, *(at + offset for at, offset in zip(position, first, strict=True)), text]
