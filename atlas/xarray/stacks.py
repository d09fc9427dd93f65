"""One array of many datasets: as rows of a larger one, or one behind the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray import conventions

from atlas.across import read_parts, read_stacked
from atlas.chunks import Box, Integers
from atlas.columns import group_members
from atlas.dtypes import fill_cell, from_numpy, in_unit
from atlas.errors import ValueOutOfRange
from atlas.members import Members, Trait
from atlas.schema import ArraySchema
from atlas.session import version_token
from atlas.xarray import notes
from atlas.xarray.arrays import Key, LazyArray
from atlas.xarray.cells import restored, with_gaps

# About how many bytes of cells one task reads.
BLOCK_BYTES = 32 << 20


@dataclass(frozen=True)
class Rows:
    """How an array of many datasets is read: what of each dataset goes into a row, and as what.

    Attributes
    ----------
    members : Members
    array : str
    dims : tuple of str
    dtype : numpy.dtype
        Of the cells, as users see them.
    original : str, Trait or None
        The type that text and dates are given back in, or which one in each dataset.
    fill : object
        What stands where a dataset has no cells; 0 when each has all.
    is_alike : bool
        Whether all datasets have cells of one type and one shape.
    has_gaps : bool
        Whether text is missing somewhere.
    codings : Trait or None
        How each dataset's cells are encoded, where that differs; the values are attributes.
    """

    members: Members
    array: str
    dims: tuple[str, ...]
    dtype: np.dtype[Any]
    original: Trait | str | None = None
    fill: Any = 0
    is_alike: bool = True
    has_gaps: bool = False
    codings: Trait | None = field(default=None, repr=False)

    def take(self, positions: Integers) -> Rows:
        """Return the same of some of the datasets."""
        original = self.original.take(positions) if isinstance(self.original, Trait) else self.original
        codings = self.codings and self.codings.take(positions)
        return replace(self, members=self.members.take(positions), original=original, codings=codings)

    def stacked(self, start: Sequence[int], shape: Sequence[int]) -> NDArray[Any]:
        """Return the same box of every dataset as a row each."""
        session, names = self.members.session, self.members.names
        if self.is_alike:
            rows = read_stacked(session, self.array, names, start, shape, None, "raise")
            return self._finished(rows, start, self._gaps())
        result = np.full((len(names), *shape), self.fill, self.dtype)
        for positions, rows in self._alike(lambda schema: _cut(schema, start, shape), start):
            box: tuple[Any, ...] = tuple(map(slice, rows.shape[1:]))
            result[(positions, *box)] = self._in_unit(rows)
        return result

    def _in_unit(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return times in the unit that all datasets' get."""
        if rows.dtype.kind not in "mM":
            return rows
        found: NDArray[Any] | None = in_unit(rows, from_numpy(self.dtype))
        if found is None:
            raise ValueOutOfRange(
                f"array {self.array!r} holds {rows.dtype} beyond {self.dtype}, which other datasets have; "
                "store.drift_report(names) says which, and variables= leaves it out"
            )
        return found

    def flat(self, sizes: Integers) -> list[NDArray[Any]]:
        """Return all cells of every dataset along one axis; missing ones where it has not as many as it should."""
        found = [np.full(size, self.fill, self.dtype) for size in sizes.tolist()]
        whole = [0] * len(self.dims)
        for positions, rows in self._alike(lambda schema: Box(tuple(whole), schema.shape), whole):
            for position, row in zip(positions.tolist(), rows, strict=True):
                found[position] = self._in_unit(row.reshape(-1)).astype(self.dtype, copy=False)
        return found

    def _alike(
        self, box_of: Callable[[ArraySchema], Box], start: Sequence[int]
    ) -> Iterator[tuple[Integers, NDArray[Any]]]:
        """Read a box of every dataset at once; yield the rows of those that declare the array alike."""
        members = self.members
        parts = read_parts(members.session, self.array, members.names, lambda schema, _: box_of(schema))
        layout, gaps = members.layout(self.array), self._gaps()
        for code, positions in group_members(layout.codes):
            if code < 0:
                continue
            rows = np.stack([part for part in map(parts.__getitem__, positions.tolist()) if part is not None])
            own = gaps and (gaps[0].take(positions), gaps[1].take(positions))
            yield positions, self.take(positions)._finished(rows, start, own)

    def _gaps(self) -> tuple[Trait, Trait] | None:
        """Return where text is missing in each dataset, and how it declares the array; ``None`` if none is missing."""
        return (
            (self.members.attribute(self.array, notes.MISSING), self.members.layout(self.array))
            if self.has_gaps
            else None
        )

    def _finished(self, rows: NDArray[Any], start: Sequence[int], gaps: tuple[Trait, Trait] | None) -> NDArray[Any]:
        if gaps is not None:
            markers, layout = gaps
            for position in np.flatnonzero(markers.codes >= 0).tolist():
                schema, marker = layout.values[layout.codes[position]], markers.values[markers.codes[position]]
                # Indexed with an ellipsis, a row of a stack of scalars is still a view.
                with_gaps(rows[position, ...], marker, fill_cell(schema.dtype, schema.fill), start, schema.shape)
        if isinstance(self.original, Trait):
            for position, code in enumerate(self.original.codes.tolist()):
                original = None if code < 0 else self.original.values[code]
                rows[position, ...] = restored(rows[position, ...], original).astype(object)
        else:
            rows = restored(rows, self.original)
        if self.codings is None:
            return rows
        result = np.empty(rows.shape, self.dtype)
        for code, own in group_members(self.codings.codes):
            result[own] = decoded_cells(rows[own], self.codings.values[code])
        return result


def _cut(schema: ArraySchema, start: Sequence[int], shape: Sequence[int]) -> Box:
    """Return what an array has of a box that may be larger than it is."""
    there = tuple(max(min(f + n, size) - f, 0) for f, n, size in zip(start, shape, schema.shape, strict=True))
    return Box(tuple(min(f, size) for f, size in zip(start, schema.shape, strict=True)), there)


def decoded_cells(cells: NDArray[Any], attrs: dict[str, Any]) -> NDArray[Any]:
    """Return cells decoded as CF attributes say."""
    dims = [f"axis{i}" for i in range(cells.ndim)]
    return np.asarray(conventions.decode_cf_variable("cells", xr.Variable(dims, cells, dict(attrs))).values)


class StackedArray(LazyArray):
    """Arrays of many datasets, a row for each; datasets that a selection leaves out are not read."""

    def __init__(self, rows: Rows, shape: Sequence[int]) -> None:
        self.rows = rows
        self.shape = (len(rows.members), *shape)
        self.dtype = rows.dtype
        size = max(math.prod(shape) * rows.dtype.itemsize, 1)
        self.grid = (max(min(BLOCK_BYTES // size, len(rows.members)), 1), *(max(n, 1) for n in shape))

    @property
    def blocks(self) -> tuple[Any, ...]:
        """Chunks that are good to read at once."""
        return self.grid

    def _outer(self, key: tuple[Key, ...]) -> NDArray[Any]:
        wanted = np.arange(self.shape[0])[key[0]]
        chosen = StackedArray(self.rows.take(np.atleast_1d(wanted)), self.shape[1:])
        found = LazyArray._outer(chosen, (slice(None), *key[1:]))
        return found if np.ndim(wanted) else found[0, ...]

    def read_box(self, start: Sequence[int], shape: Sequence[int]) -> NDArray[Any]:
        """Return the same box of consecutive datasets, by one read."""
        if 0 in shape:
            return np.empty(tuple(shape), self.dtype)
        members = np.arange(start[0], start[0] + shape[0])
        rows = self.rows if len(members) == self.shape[0] else self.rows.take(members)
        return rows.stacked(start[1:], shape[1:])

    def __dask_tokenize__(self) -> Any:
        return _token(self.rows), self.shape


class RaggedArray(LazyArray):
    """Arrays of many datasets, of any shapes, their cells behind one another along one axis."""

    def __init__(self, rows: Rows, sizes: Integers) -> None:
        self.rows = rows
        self.sizes, self.ends = sizes, np.cumsum(sizes)
        self.shape = (int(self.ends[-1]),)
        self.dtype = rows.dtype
        self.grid = (max(int(sizes.mean()), 1),)

    @property
    def blocks(self) -> tuple[Any, ...]:
        """Chunks that are good to read at once: of whole datasets."""
        full = np.unique(self.ends * self.dtype.itemsize // BLOCK_BYTES, return_index=True)[1][1:]
        edges = np.unique(np.concatenate([[0], self.ends[full - 1], self.ends[-1:]]))
        return (tuple(np.diff(edges).tolist()) or (0,),)

    def read_box(self, start: Sequence[int], shape: Sequence[int]) -> NDArray[Any]:
        """Return some of the cells, by one read of the datasets that they are of."""
        if not shape[0]:
            return np.empty(0, self.dtype)
        first = int(np.searchsorted(self.ends, start[0], "right"))
        last = int(np.searchsorted(self.ends, start[0] + shape[0], "left"))
        cells = np.concatenate(self.rows.take(np.arange(first, last + 1)).flat(self.sizes[first : last + 1]))
        before = int(self.ends[first - 1]) if first else 0
        return cells[start[0] - before :][: shape[0]]

    def __dask_tokenize__(self) -> Any:
        return "ragged", _token(self.rows)


def _token(rows: Rows) -> Any:
    return version_token(rows.members.session), rows.array, rows.members.ordinals, str(rows.dtype), str(rows.fill)
