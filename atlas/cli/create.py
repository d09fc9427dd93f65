"""``atlas create``."""

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
    ("atlas create profiles/ store/", "every NetCDF, HDF5 and Zarr file below profiles/"),
    (
        "atlas create profiles/ other/ --name path --on-error skip --log log.txt",
        "names with directories; report, go on",
    ),
    ("atlas create profiles/ store/ --overwrite --chunk N_LEVELS=50", "in place of the store that is there"),
)


def run(
    directory: Directory,
    store: Store,
    pattern: Pattern = None,
    recursive: Recursive = True,
    name: Name = "stem",
    chunk: Chunk = None,
    on_error: OnError = "raise",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the store that is there, once the new one is complete.")
    ] = False,
    codec: Annotated[Literal["zstd", "lz4", "none"], typer.Option(help="General-purpose codec of chunks.")] = "zstd",
    meta_format: Annotated[Literal["json", "msgpack"], typer.Option(help="Form of the root object.")] = "json",
    meta_compression: Annotated[
        Literal["none", "zstd", "lz4"], typer.Option(help="Compression of the root object.")
    ] = "none",
    decode: Reading = True,
    group: Group = None,
    log: Log = None,
    resume: Resume = True,
    journal: Journal = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Make a store from NetCDF, HDF5 or Zarr, one dataset a file.

    All datasets are there at the end, and none before. A run that fails or is interrupted leaves no new
    store, one that is killed an empty one at most. However it ended, the same command goes on: a journal beside
    the store (STORE.ingest) holds what was read. Two files whose datasets would have one name are an error.
    """
    from atlas.ingest import create

    with ingesting.reported(as_json, store) as (progress, report):
        report(
            create(
                directory,
                store,
                pattern,
                recursive,
                on_error,
                ingesting.chunks_of(chunk),
                workers,
                progress,
                overwrite,
                name=name,
                reading=ingesting.reading_of(decode, group),
                log=log,
                resume=resume,
                journal=journal,
                codec=codec,
                meta_format=meta_format,
                meta_compression=meta_compression,
            )
        )
