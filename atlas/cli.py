"""The ``atlas`` command."""

from __future__ import annotations

import fnmatch
import io
import json
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from atlas import __version__
from atlas.config import CODECS, META_COMPRESSIONS, META_FORMATS
from atlas.errors import AtlasError
from atlas.ingest import create as ingest
from atlas.store import Atlas
from atlas.view import DatasetView
from atlas.xarray import coordinate_names, user_attributes

app = typer.Typer(no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False)

StoreArgument = Annotated[str, typer.Argument(metavar="STORE", help="Directory or URL of the store.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"atlas {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Stores of thousands to millions of similar N-dimensional datasets."""


@contextmanager
def _progress(what: str) -> Iterator[Any]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=None, rate="")

        def advance(done: int, total: int, name: str) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, completed=done, total=total, rate=f"{speed:.0f}/s" if speed else "")

        yield advance


@app.command()
def create(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory of NetCDF files.")],
    store: StoreArgument,
    pattern: Annotated[str, typer.Option(help="Which files to take.")] = "*.nc",
    recursive: Annotated[bool, typer.Option(help="Look into subdirectories.")] = True,
    on_error: Annotated[str, typer.Option(help="'raise' or 'skip' files that cannot be read.")] = "raise",
    codec: Annotated[str, typer.Option(help=" | ".join(CODECS))] = "zstd",
    meta_format: Annotated[str, typer.Option(help=" | ".join(META_FORMATS))] = "json",
    meta_compression: Annotated[str, typer.Option(help=" | ".join(META_COMPRESSIONS))] = "none",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the store that is there.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that open files.")] = None,
) -> None:
    """Make a store from a directory of NetCDF files, one dataset a file."""
    with _progress("reading files") as advance:
        report = ingest(
            directory,
            store,
            pattern,
            recursive,
            on_error,  # type: ignore[arg-type]
            workers=workers,
            progress=advance,
            codec=codec,
            meta_format=meta_format,
            meta_compression=meta_compression,
            overwrite=overwrite,
        )
    for path, reason in report.skipped.items():
        print(f"skipped {path}: {reason}", file=sys.stderr)
    print(f"{len(report.added)} datasets added, {len(report.skipped)} files skipped, {report.seconds:.1f} s: {store}")
    if report.skipped:
        raise typer.Exit(1)


@app.command("ls")
def list_(
    store: StoreArgument,
    glob: Annotated[str, typer.Argument(metavar="[GLOB]", help="Only names that match.")] = "*",
    where: Annotated[
        str | None,
        typer.Option(metavar="CONDITION", help="Only what could match: 'max(t) > 25 and attr(k) == 1'."),
    ] = None,
    confirm: Annotated[bool, typer.Option("--confirm", help="Read cells to be certain of --where.")] = False,
    long: Annotated[bool, typer.Option("--long", "-l", help="Arrays, attributes and cells of each.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the datasets of a store."""
    source = Atlas.open(store, mode="r")
    found = source.list_datasets() if where is None else source.select(where, confirm=confirm)
    names = [name for name in found if fnmatch.fnmatchcase(name, glob)]
    if not long:
        print(_json(names) if as_json else "\n".join(names)) if names or as_json else None
        return
    rows = [_summary(source.open_dataset(name)) for name in names]
    if as_json:
        print(_json(rows))
        return
    table = Table("dataset", box=None, pad_edge=False)
    for column in ("arrays", "attributes", "cells"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(row["name"], str(row["arrays"]), str(row["attributes"]), f"{row['cells']:,}")
    Console().print(table)


def _summary(view: DatasetView) -> dict[str, Any]:
    metas = [view.array_meta(array) or {} for array in view.list_arrays()]
    cells = sum(math.prod(meta["shape"]) for meta in metas)
    return {"name": view.name, "arrays": len(metas), "attributes": len(view.attributes()), "cells": cells}


@app.command()
def show(
    store: StoreArgument,
    dataset: Annotated[str, typer.Argument(metavar="DATASET")],
    as_json: JsonOption = False,
) -> None:
    """Show a dataset like ncdump -h: dimensions, variables, attributes; and statistics."""
    view = Atlas.open(store, mode="r").open_dataset(dataset)
    description = _describe(view)
    print(_json(description) if as_json else _dump(description))


def _describe(view: DatasetView) -> dict[str, Any]:
    variables: dict[str, Any] = {}
    dimensions: dict[str, int] = {}
    for array in view.list_arrays():
        meta = dict(view.array_meta(array) or {})
        dimensions.update(zip(meta["dimension_names"], meta["shape"], strict=True))
        variables[array] = meta | {
            "fill_value": view.array_fill_value(array),
            "attributes": user_attributes(view.array_attributes(array)),
            "statistics": view.array_stats(array),
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
    lines += [f"\t{name} = {size} ;" for name, size in description["dimensions"].items()]
    lines.append("variables:")
    for name, variable in description["variables"].items():
        dims = ", ".join(variable["dimension_names"])
        notes = ["coordinate"] if name in description["coordinates"] else []
        if variable["chunk_shape"] != [max(n, 1) for n in variable["shape"]]:
            notes.append(f"chunks {variable['chunk_shape']}")
        lines.append(f"\t{variable['dtype']} {name}({dims}) ;" + (f" // {', '.join(notes)}" if notes else ""))
        if variable["fill_value"] is not None:
            lines.append(f"\t\t{name}:_FillValue = {_shown(variable['fill_value'])} ;")
        lines += [f"\t\t{name}:{key} = {_shown(v)} ;" for key, v in variable["attributes"].items()]
        stats = variable["statistics"]
        if stats is not None:
            text = ", ".join(f"{key} {_shown(value)}" for key, value in stats.items())
            lines.append(f"\t\t// {text}")
    if description["attributes"]:
        lines += ["", "// global attributes:"]
        lines += [f"\t\t:{key} = {_shown(value)} ;" for key, value in description["attributes"].items()]
    return "\n".join([*lines, "}"])


def _shown(value: Any) -> str:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)
        return text if len(text) <= 60 else f'{text[:56]}…"'
    return ", ".join(map(_shown, value)) if isinstance(value, (list, np.ndarray)) else str(value)


@app.command()
def info(store: StoreArgument, as_json: JsonOption = False) -> None:
    """Describe a store: datasets, arrays, format, size."""
    source = Atlas.open(store, mode="r")
    description = source.info()
    if as_json:
        print(_json(description))
        return
    arrays = description.pop("arrays")
    table = Table(box=None, show_header=False, pad_edge=False)
    for key, value in description.items():
        table.add_row(key, f"{value:,}" if isinstance(value, int) else str(value))
    Console().print(table)
    details = Table("array", "type", "dims", box=None, pad_edge=False)
    for column in ("files", "bytes"):
        details.add_column(column, justify="right")
    for name, entry in arrays.items():
        dims = ", ".join(entry["dimension_names"])
        details.add_row(name, entry["dtype"], dims, str(entry["files"]), f"{entry['bytes']:,}")
    Console().print(details)


@app.command()
def rm(
    store: StoreArgument,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Datasets to delete.")],
) -> None:
    """Delete datasets, all or none of them; compact reclaims the space."""
    source = Atlas.open(store)
    for name in names:
        source.delete_dataset(name)
    source.flush()
    print(f"{len(names)} datasets deleted")


@app.command()
def mv(
    store: StoreArgument,
    old: Annotated[str, typer.Argument(metavar="OLD")],
    new: Annotated[str, typer.Argument(metavar="NEW")],
) -> None:
    """Rename a dataset; no data moves."""
    source = Atlas.open(store)
    source.rename_dataset(old, new)
    source.flush()
    print(f"{old} is {new} now")


@app.command()
def cp(
    store: StoreArgument,
    name: Annotated[str, typer.Argument(metavar="DATASET")],
    target: Annotated[str, typer.Argument(metavar="TARGET")],
) -> None:
    """Copy a dataset within the store."""
    source = Atlas.open(store)
    source.copy_dataset(name, target)
    source.flush()
    print(f"{name} copied to {target}")


@app.command()
def compact(store: StoreArgument) -> None:
    """Rewrite every array into one data file, without what was deleted or replaced."""
    source = Atlas.open(store)
    before = source.info()["bytes"]
    with _progress("compacting"):
        source.compact()
    print(f"{before:,} bytes before, {source.info()['bytes']:,} after")


@app.command()
def gc(
    store: StoreArgument,
    grace: Annotated[float | None, typer.Option(min=0, help="Seconds that replaced files are kept; 900.")] = None,
    unfinished: Annotated[float | None, typer.Option(min=0, help="Seconds that other leftovers are; a day.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and do nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove files that no state of a store needs; on object stores nothing else does."""
    report = Atlas.open(store).gc(grace=grace, unfinished=unfinished, dry_run=dry_run)
    if as_json:
        print(_json(asdict(report)))
        return
    verb = "would be removed" if dry_run else "removed"
    print(f"{len(report.removed)} files of {report.bytes:,} bytes and {report.uploads} unfinished uploads {verb}")
    print(f"{len(report.waiting)} files wait until they are old enough")


@app.command()
def verify(store: StoreArgument, as_json: JsonOption = False) -> None:
    """Read everything in a store and list what is damaged; exit status 1 if anything is."""
    source = Atlas.open(store, mode="r")
    with _progress("verifying") as advance:
        report = source.verify(advance)
    if as_json:
        print(_json(asdict(report)))
    else:
        print("\n".join([*map(str, report.problems), f"{report.datasets} datasets, {report.chunks} chunks read"]))
        print(f"{len(report.problems)} problems" if report.problems else "no damage found")
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def repair(
    store: StoreArgument,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    drop_lost: Annotated[bool, typer.Option("--drop-lost", help="Delete arrays that lost chunks.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring a damaged store back, and list the chunks that are lost; exit status 1 if any are."""
    report = Atlas.repair(store, dry_run=dry_run, drop_lost=drop_lost)
    if as_json:
        print(_json(asdict(report)))
    else:
        print("\n".join([*report.actions, *map(str, report.lost)]) or "no damage found")
        for dataset, array in report.dropped:
            print(f"array {array!r} deleted from dataset {dataset!r}")
        if report.kept:
            print(f"what was replaced is kept in {report.kept}")
    if not report.ok:
        raise typer.Exit(1)


def _json(value: Any) -> str:
    return json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    """Return a value as JSON takes it; NaN and the infinities become null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(str(value) if value.dtype.kind in "Mm" else value.item())
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, complex):
        return [_plain(value.real), _plain(value.imag)]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _warn_in_one_line() -> Callable[..., None]:
    seen = set()

    def show(message: Warning | str, *details: Any) -> None:
        if str(message) not in seen:
            seen.add(str(message))
            print(f"atlas: warning: {message}", file=sys.stderr)

    return show


def main() -> None:
    """Run the command; errors are one line on stderr and exit status 1."""
    warnings.showwarning = _warn_in_one_line()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app(standalone_mode=True)
    except AtlasError as error:
        print(f"atlas: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:  # storage errors are ours: what is left is the terminal, file or pipe
        print(f"atlas: cannot write the output: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("atlas: interrupted; the store is as it was", file=sys.stderr)
        sys.exit(130)
