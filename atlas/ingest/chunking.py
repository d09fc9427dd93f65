"""Chunk shapes of what is ingested: by variable, or by dimension."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from atlas.config import choice
from atlas.errors import InvalidArgument

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Chunking:
    """Which chunk shape a variable gets.

    Attributes
    ----------
    variables : dict of str to tuple of int
    dims : dict of str to int
        Cells along a dimension, for the variables that are not named.
    as_stored : bool
        Whether variables keep the chunks that their files have.
    """

    variables: dict[str, tuple[int, ...]] = field(default_factory=dict)
    dims: dict[str, int] = field(default_factory=dict)
    as_stored: bool = False

    @staticmethod
    def of(chunks: Mapping[str, Sequence[int] | int] | str | None) -> Chunking:
        """Tell apart shapes, which are for variables, and sizes, which are for dimensions."""
        if isinstance(chunks, str):
            return Chunking(as_stored=choice(chunks, ("stored",), "chunks") == "stored")
        variables, dims = {}, {}
        for name, value in (chunks or {}).items():
            sizes = [value] if isinstance(value, int) else list(value)
            if not all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in sizes):
                raise InvalidArgument(f"chunks of {name!r} must be positive integers, not {value!r}")
            if isinstance(value, int):
                dims[name] = value
            else:
                variables[name] = tuple(sizes)
        return Chunking(variables, dims)

    @property
    def is_whole(self) -> bool:
        """Whether every variable is one chunk."""
        return not (self.variables or self.dims or self.as_stored)

    def of_variable(self, name: str, dims: Sequence[Any], shape: Sequence[int]) -> tuple[int, ...] | None:
        """Return the chunk shape of a variable; ``None`` where it is whole."""
        if name in self.variables:
            return self.variables[name]
        if not any(dim in self.dims for dim in dims):
            return None
        # Along an axis that is empty so far, all that is asked for.
        pairs = [(size, self.dims.get(dim, size)) for dim, size in zip(dims, shape, strict=True)]
        return tuple(max(1, min(size or most, most)) for size, most in pairs)

    def of_dataset(self, ds: xr.Dataset) -> dict[str, tuple[int, ...]]:
        """Return the chunk shapes of all variables that are not whole."""
        found: dict[str, tuple[int, ...]] = {}
        for name, variable in ds.variables.items():
            stored = variable.encoding.get("chunksizes") or variable.encoding.get("chunks")
            if self.as_stored and stored is not None and len(stored) == variable.ndim:
                chosen: tuple[int, ...] | None = tuple(stored)
            else:
                chosen = self.of_variable(str(name), variable.dims, variable.shape)
            if chosen is not None:
                found[str(name)] = chosen
        return found
