"""What ``atlas create`` and ``atlas append`` have in common: files, how they are read, and what is said of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from atlas.cli import terminal

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="Directory of files, or a single file or Zarr group.")]
Pattern = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOB", help="Files to take; may be repeated. By default *.nc, *.nc4, *.cdf, *.h5, *.zarr and the like."
    ),
]
Recursive = Annotated[bool, typer.Option(help="Look into subdirectories.")]
Name = Annotated[
    str,
    typer.Option(
        metavar="NAMING",
        help="Names of datasets: 'stem', 'path', or a text with {stem}, {path}, {parent} or {suffix} in it.",
    ),
]
Chunk = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=SIZES",
        help="Chunks: time=100 along a dimension, t=50,24 of an array, or 'stored' as in the files; may be repeated. "
        "By default arrays are whole.",
    ),
]
OnError = Annotated[
    Literal["raise", "skip"], typer.Option(help="Whether a file that cannot be taken ends it all, or is reported.")
]
Reading = Annotated[bool, typer.Option("--decode-times/--no-decode-times", help="Turn numbers with units into times.")]
Group = Annotated[
    str | None, typer.Option(metavar="GROUP", help="Read this group of NetCDF and HDF5 files, not their top level.")
]
Log = Annotated[Path | None, typer.Option(metavar="FILE", help="Add a line for every file to this file.")]
Resume = Annotated[bool, typer.Option(help="Keep a journal until all is committed, and go on with one that is there.")]
Journal = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Where the journal is; STORE.ingest beside a local store.")
]


@contextmanager
def reported(as_json: bool, store: str) -> Iterator[tuple[terminal.Advance, Callable[[Any], None]]]:
    """Give what shows the progress of an ingest, and what takes its report; print that at the end."""
    found: list[Any] = []
    with terminal.progress("reading files") as advance:
        yield advance, found.append
    report = found[0]
    if as_json:
        print(terminal.as_json(asdict(report)))
    else:
        for path, reason in report.skipped.items():
            print(f"skipped {path}: {reason}", file=sys.stderr)
        for path, remark in report.remarks.items():
            print(f"remark on {path}: {remark}", file=sys.stderr)
        added, skipped = terminal.counted(len(report.added), "dataset"), terminal.counted(len(report.skipped), "file")
        print(f"{added} added, {skipped} skipped, {report.seconds:.1f} s: {store}")
        for what, names in (("replaced", report.replaced), ("read earlier", report.resumed)):
            if names:
                print(f"  {len(names)} of them {what}")
        if report.existing:
            print(f"  {len(report.existing)} were there already")
    if report.skipped:
        raise typer.Exit(1)


def chunks_of(given: list[str] | None) -> Any:
    """Return what --chunk says."""
    if given == ["stored"]:
        return "stored"
    found: dict[str, Any] = {}
    for text in given or ():
        name, _, sizes = text.partition("=")
        try:
            parts = [int(size) for size in sizes.removesuffix(",").split(",")]
        except ValueError:
            raise typer.BadParameter(f"{text!r} is not NAME=SIZES, nor 'stored' alone", param_hint="--chunk") from None
        # One size is a dimension's; of an array of one axis it is '100,'.
        found[name] = parts if "," in sizes else parts[0]
    return found or None


def reading_of(decode_times: bool, group: str | None) -> dict[str, Any]:
    """Return the arguments of :func:`xarray.open_dataset` that options ask for."""
    return ({} if decode_times else {"decode_times": False}) | ({} if group is None else {"group": group})
