"""``atlas append``."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from atlas.cli import ingesting
from atlas.cli.arguments import Json, Store, Workers
from atlas.cli.ingesting import (
    Chunk,
    Directory,
    Group,
    Journal,
    Log,
    Name,
    OnError,
    Pattern,
    Reading,
    Recursive,
    Resume,
)

EXAMPLES = (
    ("atlas append more/ store/", "files whose datasets are not there yet"),
    ("atlas append more/ store/ --existing skip", "only those that are new"),
    ("atlas append profiles/ store/ --existing replace", "read again, and replace"),
)


def run(
    directory: Directory,
    store: Store,
    pattern: Pattern = None,
    recursive: Recursive = True,
    name: Name = "stem",
    chunk: Chunk = None,
    on_error: OnError = "raise",
    existing: Annotated[
        Literal["raise", "skip", "replace"],
        typer.Option(help="Whether files whose datasets are there are an error, left out unread, or replace them."),
    ] = "raise",
    decode: Reading = True,
    group: Group = None,
    log: Log = None,
    resume: Resume = True,
    journal: Journal = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Add files to a store, one dataset each, in one commit.

    As create does: the store changes when all files are in it, and an interrupted run is gone on with by the same
    command.
    """
    from atlas.ingest import append

    with ingesting.reported(as_json, store) as (progress, report):
        report(
            append(
                directory,
                store,
                pattern,
                recursive,
                on_error,
                ingesting.chunks_of(chunk),
                workers,
                progress,
                existing,
                name=name,
                reading=ingesting.reading_of(decode, group),
                log=log,
                resume=resume,
                journal=journal,
            )
        )
