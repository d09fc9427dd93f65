"""Arguments that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from atlas.errors import AtlasError

# More names than anybody looks through.
_MOST_COMPLETIONS = 200


def dataset_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return names of datasets for the shell to complete with."""
    return _beginning(incomplete, ctx, lambda store: store.list_datasets())[:_MOST_COMPLETIONS]


def array_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return names of arrays for the shell to complete with."""
    return _beginning(incomplete, ctx, lambda store: store.list_arrays())


def _beginning(typed: str, ctx: typer.Context, listed: Callable[[Any], list[str]]) -> list[str]:
    """Return those names of a store that begin with what is typed; none where it cannot be opened."""
    from atlas.errors import AtlasError
    from atlas.store import Atlas

    try:
        names = listed(Atlas.open(ctx.params["store"], mode="r"))
    except (AtlasError, KeyError):
        return []
    return [name for name in names if name.startswith(typed)]


Store = Annotated[str, typer.Argument(metavar="STORE", help="Directory or URL of the store.")]
Dataset = Annotated[str, typer.Argument(metavar="DATASET", help="Name of a dataset.", autocompletion=dataset_names)]
Glob = Annotated[
    str, typer.Argument(metavar="GLOB", help="Only names that match, like 'station_*'.", autocompletion=dataset_names)
]
Array = Annotated[str, typer.Argument(metavar="ARRAY", help="Name of an array.", autocompletion=array_names)]
Where = Annotated[
    str | None,
    typer.Option(metavar="CONDITION", help="Only what could match: 'max(t) > 25 and attr(k) == 1'."),
]
Confirm = Annotated[bool, typer.Option("--confirm", help="Read cells to be certain of --where.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Workers = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Processes that work, at most; as many as cores by default.")
]


def chosen(store: Any, glob: str, where: str | None = None, confirm: bool = False) -> list[str]:
    """Return the names of the datasets that a glob and a condition leave."""
    import fnmatch

    found = store.list_datasets() if where is None else store.select(where, confirm=confirm)
    # A name may look like a pattern: then it is the name.
    return [glob] if glob in found else [name for name in found if fnmatch.fnmatchcase(name, glob)]


def none_matches(glob: str, where: str | None, store: str) -> AtlasError:
    """Return the error that no dataset is left by a glob and a condition."""
    from atlas.errors import DatasetNotFound

    condition = "" if where is None else f" and could satisfy {where!r}"
    return DatasetNotFound(f"no dataset matches {glob!r}{condition} in {store}")


def numbers(text: str | None, option: str) -> list[int] | None:
    """Return what a list of integers such as ``0,10`` says."""
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no list of integers such as 0,10", param_hint=option) from None
