"""``atlas export``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from atlas.cli import terminal
from atlas.cli.arguments import Confirm, Glob, Json, Store, Where, Workers, chosen, none_matches

EXAMPLES = (
    ("atlas export store/ files/", "a NetCDF file for each dataset"),
    ("atlas export store/ groups/ 'R13857_*' --format zarr", "Zarr groups, of some"),
)


def run(
    store: Store,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where the files go; made if need be.")],
    glob: Glob = "*",
    where: Where = None,
    confirm: Confirm = False,
    format: Annotated[Literal["netcdf", "zarr"], typer.Option(help="What is written.")] = "netcdf",
    on_error: Annotated[
        Literal["raise", "skip"],
        typer.Option(help="Whether a dataset that cannot be written ends it all, or is reported."),
    ] = "raise",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Write datasets as NetCDF files or Zarr groups.

    Read back, they are what the store holds. Files are called like their datasets.
    """
    from atlas.exporting import export
    from atlas.store import Atlas

    source = Atlas.open(store, mode="r")
    names = chosen(source, glob, where, confirm)
    if not names and len(source):
        raise none_matches(glob, where, store)
    with terminal.progress("writing files") as advance:
        report = export(source, directory, names, format, on_error, overwrite, workers, advance)
    if as_json:
        print(terminal.as_json(asdict(report)))
    else:
        for name, reason in report.skipped.items():
            print(f"skipped {name}: {reason}", file=sys.stderr)
        counts = f"{terminal.counted(len(report.written), 'dataset')} written, {len(report.skipped)} skipped"
        print(f"{counts}, {report.seconds:.1f} s: {directory}")
    if report.skipped:
        raise typer.Exit(1)
