"""Putting the arrays of many datasets together, and what is said of them: attributes, encodings, coordinates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.core.dtypes import maybe_promote

from atlas.dtypes import fill_cell
from atlas.errors import InvalidArgument, ShapeMismatch
from atlas.members import Members, Trait, spread
from atlas.xarray import notes
from atlas.xarray.arrays import lazy_variable
from atlas.xarray.cells import is_date_type, restored_dtype
from atlas.xarray.decoding import MARKS
from atlas.xarray.many import Wish
from atlas.xarray.stacks import RaggedArray, Rows, StackedArray, decoded_cells


def joined(members: Members, arrays: Sequence[str], coords: set[str], wish: Wish) -> xr.Dataset:
    """Return the arrays of many datasets as one dataset."""
    layouts = {array: members.layout(array) for array in arrays}
    for array, layout in layouts.items():
        if array == wish.concat_dim or any(wish.concat_dim in schema.dims for schema in layout.values):
            raise InvalidArgument(f"the datasets have a {wish.concat_dim!r} of their own; choose another concat_dim")
    result = _Joined(members, layouts, coords, wish)
    for array in arrays:
        result.add(array)
    ds = result.dataset()
    for dim in wish.chunks if isinstance(wish.chunks, Mapping) else ():
        if dim not in ds.dims:
            raise InvalidArgument(f"chunks= names {dim!r}, which is none of the dimensions {list(ds.dims)}")
    return ds


class _Joined:
    """The dataset that many become, array by array."""

    def __init__(self, members: Members, layouts: Mapping[str, Trait], coords: set[str], wish: Wish) -> None:
        self._members, self._layouts, self._wish = members, layouts, wish
        self._is_coordinate = coords
        self._data: dict[str, Any] = {}
        self._coords: dict[str, Any] = {}
        self._sizes = _sizes(layouts)
        # One dimension of samples for each way of being uneven; there is seldom more than one.
        uneven = dict.fromkeys(layout.values[0].dims for layout in layouts.values() if self._is_uneven(layout))
        self._samples = {dims: "obs" if len(uneven) == 1 else "_".join(["obs", *dims]) for dims in uneven}
        self._extents = {dims: self._extent(dims) for dims in uneven} if wish.on_shape == "ragged" else {}
        self._counted = self._counts()
        for name in self._counted.keys() & layouts.keys():
            raise InvalidArgument(
                f"the datasets have an array {name!r} of their own, as on_shape='ragged' calls the numbers of cells; "
                "leave it out with variables=, or use on_shape='pad'"
            )

    def _is_uneven(self, layout: Trait) -> bool:
        return any(len(self._sizes[dim]) > 1 for dim in layout.values[0].dims)

    def _extent(self, dims: tuple[str, ...]) -> NDArray[Any]:
        """Return the shape that arrays along some dimensions have in every dataset."""
        result = np.zeros((len(self._members), len(dims)), np.int64)
        for array, layout in self._layouts.items():
            if layout.values[0].dims != dims:
                continue
            own = np.array([schema.shape for schema in layout.values], np.int64)[layout.codes]
            present = layout.codes >= 0
            differs = present & (result > 0).any(axis=1) & (own != result).any(axis=1)
            if differs.any():
                place = int(np.argmax(differs))
                raise ShapeMismatch(
                    f"arrays along {list(dims)} are of several shapes in dataset {self._members.names[place]!r}: "
                    f"{array!r} is {own[place].tolist()}, another one {result[place].tolist()}"
                )
            result[present] = own[present]
        return result

    def add(self, array: str) -> None:
        """Add an array of the datasets."""
        layout = self._layouts[array]
        rows, attrs, encoding = self._rows(array, layout)
        variable = self._variable(layout, rows, attrs, encoding)
        if array not in self._is_coordinate:
            self._data[array] = variable
            return
        # An index has one axis: what a dimension is called in every dataset for itself is no index of all.
        clashes = array in variable.dims and variable.ndim > 1
        self._coords[f"{array}_values" if clashes else array] = variable

    # ── one array ────────────────────────────────────────────────────────────────────────────

    def _variable(self, layout: Trait, rows: Rows, attrs: dict[str, Any], encoding: dict[str, Any]) -> Any:
        if rows.dims in self._extents:
            flat = RaggedArray(rows, self._extents[rows.dims].prod(axis=1))
            return self._chunked(flat, [self._samples[rows.dims]], attrs, encoding)
        whole = [max(self._sizes[dim]) for dim in rows.dims]
        lazy, dims = StackedArray(rows, whole), [self._wish.concat_dim, *rows.dims]
        has_holes = len(layout.absent) or self._is_uneven(layout)
        if rows.array not in self._is_coordinate or has_holes or rows.has_gaps:
            return self._chunked(lazy, dims, attrs, encoding)
        if not self._are_the_same(rows, layout):
            variable = self._chunked(lazy, dims, attrs, encoding)
            if self._wish.chunks is not None or not _all_equal(variable.values):
                return variable
        first = StackedArray(rows.take(np.zeros(1, np.int64)), whole)
        return xr.Variable(rows.dims, first.read_box([0] * lazy.ndim, first.shape)[0], attrs, encoding)

    def _are_the_same(self, rows: Rows, layout: Trait) -> bool:
        """Return whether an array has the same chunks in all datasets, which checksums tell without reading any."""
        members = self._members
        if not members.is_settled or rows.codings is not None or len(layout.values) > 1:
            return False
        index = members.session.snapshot.index(rows.array)
        found = index.locate_all(members.ordinals, np.arange(layout.values[0].grid.count))
        if (found < 0).any():
            return bool((found < 0).all())
        columns = (index.columns[name][found] for name in ("checksum", "length", "raw_length", "pipeline"))
        return all(bool((column == column[:1]).all()) for column in columns)

    def _chunked(self, lazy: Any, dims: Sequence[str], attrs: Mapping[str, Any], encoding: Mapping[str, Any]) -> Any:
        variable = lazy_variable(dims, lazy, attrs, encoding)
        del variable.encoding["preferred_chunks"]
        if self._wish.chunks is None:
            return variable.load()
        sizes = dict(zip(dims, _chunks(self._wish.chunks, dims, lazy), strict=True))
        return variable.chunk(sizes, from_array_kwargs={"name": f"atlas-{lazy.rows.array}"})

    # ── what is said of an array ─────────────────────────────────────────────────────────────

    def _rows(self, array: str, layout: Trait) -> tuple[Rows, dict[str, Any], dict[str, Any]]:
        members = self._members
        first = layout.values[0]
        if any(schema.dims != first.dims for schema in layout.values):
            raise _differing(members, array, layout)
        uneven = self._is_uneven(layout)
        if uneven and self._wish.on_shape == "raise":
            raise _differing(members, array, layout)
        is_alike = not len(layout.absent) and not uneven and len({schema.dtype for schema in layout.values}) == 1
        original = self._originals(array, layout)
        common = _common_type(members, array, layout)
        stored = common if isinstance(original, Trait) else restored_dtype(common, original)
        traits = {key: members.attribute(array, key) for key in members.keys(array)}
        codings = _codings(layout, traits)
        dtype = stored if codings is None else _decoded_type(array, members, codings, stored)
        has_holes = bool(len(layout.absent)) or (uneven and self._wish.on_shape == "pad")
        fill, dtype = _absent_value(dtype, first.fill) if has_holes else (0, dtype)
        rows = Rows(members, array, first.dims, dtype, original, fill, is_alike, notes.MISSING in traits, codings)
        coded = set() if codings is None else set().union(*codings.values)
        plain = {key: trait for key, trait in traits.items() if key not in coded}
        attrs = self._agreed(array, plain, len(layout.absent))
        if codings is not None:
            return rows, attrs, {}
        if not notes.is_default_fill(first.dtype, first.fill):
            attrs["_FillValue"] = fill_cell(first.dtype, first.fill)
        return rows, attrs, _agreed_encoding(traits.get(notes.ENCODING), len(layout.absent))

    def _originals(self, array: str, layout: Trait) -> Trait | str | None:
        """Return the type to give cells back in; where datasets differ in that, the type for each."""
        found = self._members.attribute(array, notes.DTYPE)
        if not found.values:
            return None
        some_without = len(found.absent) > len(layout.absent)
        if len(found.values) == 1 and not some_without:
            return str(found.values[0])
        if any(map(is_date_type, found.values)):
            raise InvalidArgument(f"array {array!r} cannot be stacked: its dates are of several calendars, or no dates")
        if {value.lstrip("<|>")[0] for value in found.values} == {"U"}:
            return None if some_without else np.result_type(*map(np.dtype, found.values)).str
        return found

    def _agreed(self, array: str | None, traits: Mapping[str, Trait], absent: int = 0) -> dict[str, Any]:
        """Return the attributes that are the same in all datasets; others become variables."""
        attrs = {}
        for key, trait in traits.items():
            if key in notes.INTERNAL:
                continue
            if len(trait.values) == 1 and len(trait.absent) <= absent:
                attrs[key] = notes.plain_attribute(trait.values[0])
                continue
            plain = Trait(trait.codes, [notes.plain_attribute(value) for value in trait.values])
            name = key if array is None else f"{array}:{key}"
            self._coords[self._free(name)] = xr.Variable((self._wish.concat_dim,), spread(plain))
        return attrs

    def _free(self, name: str) -> str:
        taken = {*self._members.arrays, *self._counted, *self._coords, *self._sizes, self._wish.concat_dim}
        return f"{name}_attribute" if name in taken else name

    # ── all together ─────────────────────────────────────────────────────────────────────────

    def dataset(self) -> xr.Dataset:
        """Return all arrays as one dataset."""
        members, dim = self._members, self._wish.concat_dim
        attrs = self._agreed(None, {key: members.attribute(None, key) for key in members.keys(None)})
        names = xr.Variable((dim,), np.asarray(members.names))
        return xr.Dataset(self._data, {**self._coords, **self._counted, dim: names}, attrs)

    def _counts(self) -> dict[str, Any]:
        """Return how many cells each dataset has, as CF's contiguous ragged arrays say it, and of what shape."""
        dim, found = (self._wish.concat_dim,), {}
        for dims, extents in self._extents.items():
            samples = self._samples[dims]
            attrs = {"sample_dimension": samples, "long_name": "number of cells of each dataset"}
            found[samples.replace("obs", "rowsize", 1)] = xr.Variable(dim, extents.prod(axis=1), attrs)
            if len(dims) > 1:
                found |= {f"{name}_size": xr.Variable(dim, extents[:, axis]) for axis, name in enumerate(dims)}
        return found


def _sizes(layouts: Mapping[str, Trait]) -> dict[str, set[int]]:
    """Return the sizes that every dimension has."""
    found: dict[str, set[int]] = {}
    for layout in layouts.values():
        for schema in layout.values:
            for dim, size in zip(schema.dims, schema.shape, strict=True):
                found.setdefault(dim, set()).add(size)
    return found


def _differing(members: Members, array: str, layout: Trait) -> ShapeMismatch:
    """Return the error that names two datasets that do not go together."""
    forms = [(schema.dtype.name, list(schema.dims), list(schema.shape)) for schema in layout.values]
    other = next((code for code, form in enumerate(forms) if form != forms[0]), None)
    if other is None:
        return ShapeMismatch(
            f"array {array!r} cannot be stacked: others have its dimensions {forms[0][1]} in other sizes"
        )
    a, b = (members.names[int(np.argmax(layout.codes == code))] for code in (0, other))
    told = ["{} {} {}".format(*forms[code]) for code in (0, other)]
    policy = "on_shape='pad' or 'ragged' puts up with other shapes, " if forms[0][:2] == forms[other][:2] else ""
    return ShapeMismatch(
        f"array {array!r} cannot be stacked: dataset {a!r} has {told[0]}, dataset {b!r} has {told[1]}; "
        f"{policy}store.drift_report(names) says all that differs"
    )


def _common_type(members: Members, array: str, layout: Trait) -> np.dtype[Any]:
    """Return the type that holds the cells of all datasets without changing any."""
    types = {schema.dtype for schema in layout.values}
    if len(types) == 1 or all(dtype.is_text for dtype in types):
        return layout.values[0].dtype.numpy  # type: ignore[no-any-return]
    if {dtype.kind for dtype in types} in ({"M"}, {"m"}):
        return np.result_type(*(dtype.numpy for dtype in types))  # the finest unit; what it cannot hold is told of
    common = np.result_type(*(dtype.numpy for dtype in types)) if all(t.kind in "iuf" for t in types) else None
    exact = common is not None and all(
        np.can_cast(t.numpy, common) and not (t.kind in "iu" and t.itemsize == 8 and common.kind == "f") for t in types
    )
    if common is None or not exact:
        raise _differing(members, array, layout)
    return common


def _codings(layout: Trait, traits: Mapping[str, Trait]) -> Trait | None:
    """Return how each dataset's cells are encoded by their attributes, if that differs; ``None`` if it does not."""
    if any(schema.dtype.kind not in "iuf" for schema in layout.values):
        return None
    marks = {key: trait for key, trait in traits.items() if key in MARKS or (key == "units" and _are_times(trait))}
    present = layout.codes >= 0
    fills = [None if notes.is_default_fill(s.dtype, s.fill) else fill_cell(s.dtype, s.fill) for s in layout.values]
    if len(set(map(repr, fills))) == 1 and all(len(np.unique(trait.codes[present])) == 1 for trait in marks.values()):
        return None
    columns = np.stack([layout.codes, *(trait.codes for trait in marks.values())], axis=1)
    kinds, codes = np.unique(columns, axis=0, return_inverse=True)
    values = []
    for kind in kinds.tolist():
        attrs = {key: t.values[code] for (key, t), code in zip(marks.items(), kind[1:], strict=True) if code >= 0}
        fill = fills[kind[0]] if kind[0] >= 0 else None
        values.append(attrs if fill is None else {**attrs, "_FillValue": fill})
    return Trait(codes.reshape(-1), values)


def _are_times(units: Trait) -> bool:
    return any(isinstance(value, str) and " since " in value for value in units.values)


def _decoded_type(array: str, members: Members, codings: Trait, stored: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type of decoded cells; refuse to mix what decodes to other kinds of things."""
    types = [decoded_cells(np.zeros(0, stored), attrs).dtype for attrs in codings.values]
    kinds = ["f" if dtype.kind in "iuf" else dtype.kind for dtype in types]
    other = next((code for code, kind in enumerate(kinds) if kind != kinds[0]), None)
    if other is not None:
        a, b = (members.names[int(np.argmax(codings.codes == code))] for code in (0, other))
        raise InvalidArgument(
            f"array {array!r} is encoded in ways that do not mix: as {codings.values[0]} in dataset {a!r}, "
            f"as {codings.values[other]} in {b!r}"
        )
    return np.result_type(*types)


def _absent_value(dtype: np.dtype[Any], declared: Any) -> tuple[Any, np.dtype[Any]]:
    """Return what stands where there is no cell, and the type that has room for it."""
    if dtype.kind in "iu" and declared is not None:
        return declared, dtype
    promoted, fill = maybe_promote(dtype)
    return fill, np.dtype(promoted)


def _agreed_encoding(trait: Trait | None, absent: int) -> dict[str, Any]:
    """Return what of the encodings is the same in all datasets."""
    if trait is None or len(trait.absent) > absent:
        return {}
    encodings = [notes.encoding_from(text) for text in trait.values]
    first = encodings[0]
    return {key: v for key, v in first.items() if all(key in e and repr(e[key]) == repr(v) for e in encodings)}


def _chunks(chunks: Any, dims: Sequence[str], lazy: Any) -> tuple[Any, ...]:
    """Return the chunks that are asked for; where nothing is said, those that are good to read at once."""
    blocks: tuple[Any, ...] = lazy.blocks
    if chunks == "auto" and lazy.dtype != object:
        from dask.array.core import normalize_chunks

        # Whole datasets: the rest of an axis would be decoded again and again.
        wanted = ("auto", *(-1 for _ in blocks[1:]))
        return tuple(normalize_chunks(wanted, lazy.shape, dtype=lazy.dtype))
    if isinstance(chunks, Mapping):
        return tuple(chunks.get(dim, block) for dim, block in zip(dims, blocks, strict=True))
    return blocks if isinstance(chunks, str) else (chunks,) * len(blocks)


def _all_equal(rows: NDArray[Any]) -> bool:
    if rows.dtype.kind in "fcMm":
        return bool(((rows == rows[:1]) | ((rows != rows) & (rows[:1] != rows[:1]))).all())
    return bool((rows == rows[:1]).all())
