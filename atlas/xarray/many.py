"""Many datasets as one: their arrays stacked along a new dimension, padded, or one behind the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from atlas.config import choice
from atlas.errors import ArrayNotFound, InvalidArgument
from atlas.members import Members
from atlas.xarray import notes
from atlas.xarray.reading import import_xarray

if TYPE_CHECKING:
    import xarray as xr

    from atlas.store import Atlas

ON_MISSING = ("raise", "skip", "fill")
ON_SHAPE = ("raise", "pad", "ragged")

Chunks = int | Literal["auto"] | Mapping[str, Any]


@dataclass(frozen=True)
class Wish:
    """How the datasets are to be put together."""

    concat_dim: str
    on_shape: str
    chunks: Chunks | None


def open_as_many_xarray_dataset(
    store: Atlas,
    names: Iterable[str],
    concat_dim: str = "dataset",
    parallel: bool = True,
    *,
    variables: Iterable[str] | None = None,
    chunks: Chunks | None = None,
    on_missing: str = "raise",
    on_shape: str = "raise",
) -> xr.Dataset:
    """Return many datasets as one; see :meth:`atlas.Atlas.open_as_many_xarray_dataset`."""
    import_xarray()
    from atlas.xarray.joining import joined

    if not isinstance(concat_dim, str) or not concat_dim:
        raise InvalidArgument(f"concat_dim must be the name of the new dimension, not {concat_dim!r}")
    choice(on_missing, ON_MISSING, "on_missing")
    choice(on_shape, ON_SHAPE, "on_shape")
    members = Members.of(store._session, names)
    arrays, coords = _arrays(members, variables)
    members = _complete(members, arrays, on_missing)
    return joined(members, arrays, coords, Wish(concat_dim, on_shape, chunks))


def _arrays(members: Members, variables: Iterable[str] | None) -> tuple[list[str], set[str]]:
    """Return the arrays to read, coordinates among them, and which are coordinates."""
    coords = _coordinates(members)
    if variables is None:
        return members.arrays, coords
    wanted = [variables] if isinstance(variables, str) else list(dict.fromkeys(variables))
    absent = [name for name in wanted if name not in members.arrays]
    if absent:
        raise ArrayNotFound(f"array not found: none of the {len(members)} datasets has {absent[0]!r}")
    dims = {dim for name in wanted for schema in members.layout(name).values for dim in schema.dims}
    beside = [c for c in members.arrays if c in coords and c not in wanted and _lies_along(members, c, dims)]
    return wanted + beside, coords


def _lies_along(members: Members, array: str, dims: set[str]) -> bool:
    return all(dims.issuperset(schema.dims) for schema in members.layout(array).values)


def _coordinates(members: Members) -> set[str]:
    """Return what is a coordinate in one of the datasets."""
    marked = members.attribute(None, notes.COORDS)
    found = {name for marker in marked.values for name in notes.marked_coordinates(marker, "a dataset")}
    if len(marked.absent):
        found |= {name for name in members.arrays if all(s.dims == (name,) for s in members.layout(name).values)}
    return found


def _complete(members: Members, arrays: list[str], on_missing: str) -> Members:
    """Return the datasets that are kept: with "skip", those that have all of the arrays."""
    kept = np.ones(len(members), bool)
    for array in arrays:
        absent = members.layout(array).absent
        if len(absent) and on_missing == "raise":
            raise ArrayNotFound(
                f"dataset {members.names[int(absent[0])]!r} has no array {array!r} ({len(absent)} of {len(members)} "
                "lack it); on_missing='fill' or 'skip' puts up with that, variables= chooses others"
            )
        kept[absent] = False
    if on_missing != "skip" or kept.all():
        return members
    if not kept.any():
        raise ArrayNotFound(
            f"none of the {len(members)} datasets has all of the {len(arrays)} arrays; variables= chooses some"
        )
    return members.take(np.flatnonzero(kept))
