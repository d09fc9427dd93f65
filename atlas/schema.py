"""What a dataset declares: its arrays, its attributes, and the interned templates they share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from atlas.attributes import element_type
from atlas.checks import expect
from atlas.chunks import MAX_CELLS, Box, ChunkGrid, Shape, as_extents, is_too_large, whole_chunk
from atlas.dtypes import DType, decode_fill, encode_fill, normalize_fill, parse_dtype, require_utf8, widen
from atlas.errors import CorruptRoot, DataTypeError, InvalidArgument, InvalidName
from atlas.forks import cached_property

MAX_NAME_BYTES = 4096
MAX_DIMENSIONS = 32

# An attribute as it is kept: its type tag and its JSON-able value.
Attributes = dict[str, tuple[str, Any]]


def check_name(name: Any, what: str) -> str:
    """Return a dataset or array name that the store accepts.

    Raises
    ------
    InvalidName
        If the name is empty, too long, contains ``/`` or NUL, begins with ``_``, or is ``.`` or ``..``.
    """
    if not isinstance(name, str):
        raise InvalidName(f"{what} name must be a str, not {type(name).__name__}")
    if not name or name in (".", "..") or name.startswith("_") or "/" in name or "\0" in name:
        raise InvalidName(
            f"invalid {what} name {name!r}: it must not be empty, '.' or '..', begin with '_', or contain '/' or NUL"
        )
    try:
        plain = require_utf8(name, f"invalid {what} name")
    except DataTypeError as error:
        raise InvalidName(str(error)) from None
    if len(plain.encode("utf-8")) > MAX_NAME_BYTES:
        raise InvalidName(f"invalid {what} name {name[:40]!r}…: longer than {MAX_NAME_BYTES} bytes")
    return plain


@dataclass(frozen=True)
class ArraySchema:
    """One array of one dataset, as declared.

    Attributes
    ----------
    name : str
    dtype : DType
    dims : tuple of str
        One name per axis.
    shape, chunk_shape : tuple of int
    fill : scalar or None
        The declared fill value; ``None`` when there is none.
    is_chunked : bool
        Whether an array without cells was declared with a chunk shape, which it keeps when it grows; of those that have
        cells, nobody need know.
    """

    name: str
    dtype: DType
    dims: tuple[str, ...]
    shape: Shape
    chunk_shape: Shape
    fill: Any = None
    is_chunked: bool = False

    @cached_property
    def grid(self) -> ChunkGrid:
        """The chunk grid of the array."""
        return ChunkGrid(self.shape, self.chunk_shape)

    @property
    def box(self) -> Box:
        """All of its cells."""
        return Box.whole(self.shape)

    @property
    def cells(self) -> int:
        """Number of cells."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all cells; of text, which may be of any length, one for each."""
        return self.cells * self.dtype.itemsize

    @property
    def is_whole(self) -> bool:
        """Whether it is one chunk, whatever its shape."""
        return self.chunk_shape == whole_chunk(self.shape) and not self.is_chunked

    def meta(self) -> dict[str, Any]:
        """Return the description that users see."""
        return {
            "dtype": self.dtype.name,
            "shape": list(self.shape),
            "chunk_shape": list(self.chunk_shape),
            "dimension_names": list(self.dims),
        }


def make_array_schema(name: Any, dtype: Any, dims: Any, shape: Any, chunk_shape: Any, fill: Any) -> ArraySchema:
    """Check the arguments of ``define_array`` and return the schema they describe."""
    name = check_name(name, "array")
    kind = parse_dtype(dtype)
    extents = as_extents(shape, f"shape of {name!r}")
    if isinstance(dims, (str, bytes)) or not isinstance(dims, Iterable):
        raise InvalidArgument(f"dims of {name!r} must be a sequence of names, not {dims!r}")
    labels = tuple(dims)
    if not all(isinstance(label, str) and label for label in labels):
        raise InvalidArgument(f"dims of {name!r} must be non-empty strings, not {labels!r}")
    labels = tuple(require_utf8(label, f"dims of {name!r}") for label in labels)
    if len(labels) != len(extents):
        raise InvalidArgument(f"{name!r} has {len(labels)} dims {list(labels)} but {len(extents)} axes {list(extents)}")
    if len(extents) > MAX_DIMENSIONS or is_too_large(extents):
        raise InvalidArgument(f"shape of {name!r} is too large: {list(extents)}")
    chunks = _check_chunks(name, extents, chunk_shape)
    value = None if fill is None else normalize_fill(kind, fill, f"array {name!r}")
    return ArraySchema(name, kind, labels, extents, chunks, value, chunk_shape is not None and 0 in extents)


def _check_chunks(name: str, shape: Shape, chunk_shape: Any) -> Shape:
    if chunk_shape is None:
        return whole_chunk(shape)
    chunks = as_extents(chunk_shape, f"chunk_shape of {name!r}", minimum=1)
    if len(chunks) != len(shape):
        raise InvalidArgument(f"{name!r} has {len(shape)} axes but chunk_shape {list(chunks)} has {len(chunks)}")
    if max(chunks, default=1) > MAX_CELLS:
        raise InvalidArgument(f"chunk_shape of {name!r} is too large: {list(chunks)}")
    return chunks


@dataclass
class DatasetRecord:
    """Everything the root knows about one dataset.

    Attributes
    ----------
    arrays : dict of str to ArraySchema
        In the order of definition.
    attributes : dict
        Global attributes.
    array_attributes : dict of str to dict
        Attributes of each array that has any.
    """

    arrays: dict[str, ArraySchema] = field(default_factory=dict)
    attributes: Attributes = field(default_factory=dict)
    array_attributes: dict[str, Attributes] = field(default_factory=dict)

    def copy(self) -> DatasetRecord:
        """Return a copy whose dictionaries can be changed alone."""
        nested = {name: dict(values) for name, values in self.array_attributes.items()}
        return DatasetRecord(dict(self.arrays), dict(self.attributes), nested)


@dataclass(frozen=True)
class ArrayTemplate:
    """An array as many datasets declare it: sizes left to each dataset's dimensions.

    `shape` and `chunk_shape` are ``None`` where they follow from the dimension sizes: the shape
    is the sizes of its dims, the chunk shape is the whole array.
    """

    name: str
    dtype: DType
    dims: tuple[str, ...]
    fill: Any
    shape: Shape | None
    chunk_shape: Shape | None
    attributes: tuple[tuple[str, str], ...]

    def resolve(self, sizes: Mapping[str, int]) -> ArraySchema:
        """Return the schema for a dataset whose dimensions have these sizes."""
        shape = tuple(sizes[d] for d in self.dims) if self.shape is None else self.shape
        return self.with_extents(shape, self.chunks_of(shape))

    def chunks_of(self, shape: Shape) -> Shape:
        """Return the chunk shape in a dataset where the array has this shape."""
        return whole_chunk(shape) if self.chunk_shape is None else self.chunk_shape

    def with_extents(self, shape: Shape, chunk_shape: Shape) -> ArraySchema:
        """Return the schema of this shape and chunk shape."""
        if is_too_large(shape):
            raise CorruptRoot(f"array {self.name!r} cannot have the shape {list(shape)}")
        is_chunked = self.chunk_shape is not None and 0 in shape
        return ArraySchema(self.name, self.dtype, self.dims, shape, chunk_shape, self.fill, is_chunked)

    def to_json(self) -> dict[str, Any]:
        """Return the template as the root object keeps it."""
        out: dict[str, Any] = {"name": self.name, "dtype": self.dtype.name, "dims": list(self.dims)}
        if self.shape is not None:
            out["shape"] = list(self.shape)
        if self.chunk_shape is not None:
            out["chunk_shape"] = list(self.chunk_shape)
        if self.fill is not None:
            out["fill_value"] = encode_fill(self.dtype, self.fill)
        if self.attributes:
            out["attributes"] = [list(pair) for pair in self.attributes]
        return out

    @staticmethod
    def from_json(value: Any) -> ArrayTemplate:
        """Inverse of :meth:`to_json`, checking everything."""
        expect(isinstance(value, dict), "an array is not an object")
        name, dims = check_name(value.get("name"), "array"), value.get("dims")
        expect(isinstance(dims, list), f"dims of {name!r} are not a list")
        dtype = parse_dtype(value.get("dtype"))
        literal = value.get("shape", [0] * len(dims))
        checked = make_array_schema(name, dtype, dims, literal, value.get("chunk_shape"), None)
        return ArrayTemplate(
            name,
            dtype,
            checked.dims,
            decode_fill(dtype, value["fill_value"], name) if "fill_value" in value else None,
            checked.shape if "shape" in value else None,
            checked.chunk_shape if "chunk_shape" in value else None,
            _attribute_layout(value.get("attributes", []), name),
        )


@dataclass(frozen=True)
class Template:
    """The interned schema that many datasets share.

    Attributes
    ----------
    arrays : tuple of ArrayTemplate
    attributes : tuple of (key, type tag)
        The global attributes, in order. Values belong to each dataset.
    dims : tuple of str
        The dimensions whose sizes belong to each dataset.
    """

    arrays: tuple[ArrayTemplate, ...]
    attributes: tuple[tuple[str, str], ...]
    dims: tuple[str, ...]

    @cached_property
    def positions(self) -> dict[str, int]:
        """Position of every array."""
        return {array.name: i for i, array in enumerate(self.arrays)}

    @cached_property
    def slots(self) -> list[tuple[str | None, str, str]]:
        """Every attribute value of a dataset, in order: (array or ``None``, key, type tag)."""
        layout: list[tuple[str | None, str, str]] = [(None, key, tag) for key, tag in self.attributes]
        for array in self.arrays:
            layout += [(array.name, key, tag) for key, tag in array.attributes]
        return layout

    @cached_property
    def slot_numbers(self) -> dict[tuple[str | None, str], int]:
        """Position of every attribute, by array (or ``None``) and key."""
        return {(array, key): number for number, (array, key, _) in enumerate(self.slots)}

    def definition(self, name: str) -> ArrayTemplate | None:
        """Return how the datasets declare an array; ``None`` if they have no such array."""
        place = self.positions.get(name)
        return None if place is None else self.arrays[place]

    def array(self, name: str, sizes: Iterable[int]) -> ArraySchema | None:
        """Return the schema of one array of a dataset with these dimension sizes; ``None`` if it has no such array."""
        found = self.definition(name)
        return None if found is None else found.resolve(dict(zip(self.dims, sizes, strict=True)))

    def record(self, sizes: Iterable[int], values: Iterable[Any]) -> DatasetRecord:
        """Return the record of a dataset with these dimension sizes and attribute values."""
        by_dim = dict(zip(self.dims, (int(size) for size in sizes), strict=True))
        record = DatasetRecord({array.name: array.resolve(by_dim) for array in self.arrays})
        for (array, key, tag), value in zip(self.slots, values, strict=True):
            target = record.attributes if array is None else record.array_attributes.setdefault(array, {})
            target[key] = (tag, value)
        return record

    def to_json(self) -> dict[str, Any]:
        """Return the template as the root object keeps it."""
        return {
            "dims": list(self.dims),
            "attributes": [list(pair) for pair in self.attributes],
            "arrays": [array.to_json() for array in self.arrays],
        }

    @staticmethod
    def from_json(value: Any) -> Template:
        """Inverse of :meth:`to_json`, checking everything."""
        expect(isinstance(value, dict), "a schema is not an object")
        arrays, dims = value.get("arrays"), value.get("dims")
        expect(isinstance(arrays, list) and isinstance(dims, list), "a schema lacks its arrays or dims")
        templates = tuple(ArrayTemplate.from_json(array) for array in arrays)
        expect(all(isinstance(dim, str) for dim in dims), "a dimension is not a string")
        needed = {dim for array in templates if array.shape is None for dim in array.dims}
        expect(len(set(dims)) == len(dims) and needed <= set(dims), "a schema's dims do not match its arrays")
        expect(len({array.name for array in templates}) == len(templates), "an array is declared twice")
        return Template(templates, _attribute_layout(value.get("attributes", []), "dataset"), tuple(dims))


def _attribute_layout(value: Any, what: str) -> tuple[tuple[str, str], ...]:
    expect(isinstance(value, list), f"attributes of {what!r} are not a list")
    for pair in value:
        expect(
            isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair),
            f"an attribute of {what!r} is not [key, type]",
        )
    layout = tuple((key, tag) for key, tag in value)
    for _, tag in layout:
        parse_dtype(element_type(tag))
    expect(len({key for key, _ in layout}) == len(layout), f"an attribute of {what!r} is declared twice")
    return layout


def split_record(record: DatasetRecord) -> tuple[Template, tuple[int, ...], list[Any]]:
    """Split a record into the template it shares, its dimension sizes and its attribute values."""
    sizes: dict[str, int] = {}
    arrays = []
    for array in record.arrays.values():
        merged = sizes | dict(zip(array.dims, array.shape, strict=True))
        shares = all(merged[d] == n and sizes.get(d, n) == n for d, n in zip(array.dims, array.shape, strict=True))
        if shares:
            sizes = merged
        attributes = record.array_attributes.get(array.name, {})
        arrays.append(
            ArrayTemplate(
                array.name,
                array.dtype,
                array.dims,
                array.fill,
                None if shares else array.shape,
                None if array.is_whole else array.chunk_shape,
                tuple((key, tag) for key, (tag, _) in attributes.items()),
            )
        )
    layout = tuple((key, tag) for key, (tag, _) in record.attributes.items())
    template = Template(tuple(arrays), layout, tuple(sizes))
    values = [value for _, value in record.attributes.values()]
    for array in record.arrays.values():
        values += [value for _, value in record.array_attributes.get(array.name, {}).values()]
    return template, tuple(sizes.values()), values


@dataclass
class MergedSchema:
    """Every array and attribute name of a collection, each type widened over all datasets.

    Where two types cannot merge, the first seen stays.
    """

    arrays: dict[str, tuple[DType, tuple[str, ...]]] = field(default_factory=dict)
    array_attributes: dict[str, dict[str, str]] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)

    def add_template(self, template: Template) -> None:
        """Merge a template in."""
        for key, tag in template.attributes:
            self.add_attribute(None, key, tag)
        for array in template.arrays:
            self.add_array(array.name, array.dtype, array.dims)
            for key, tag in array.attributes:
                self.add_attribute(array.name, key, tag)

    def add_array(self, name: str, dtype: DType, dims: tuple[str, ...]) -> DType | None:
        """Merge an array in; return the type it could not merge with, if so."""
        known = self.arrays.get(name)
        merged = dtype if known is None else widen(known[0], dtype)
        if merged is None:
            return known[0] if known else None
        self.arrays[name] = (merged, known[1] if known else dims)
        return None

    def add_attribute(self, array: str | None, key: str, tag: str) -> str | None:
        """Merge an attribute in; return the type it could not merge with, if so."""
        target = self.attributes if array is None else self.array_attributes.setdefault(array, {})
        plain = tag.removeprefix("np.")
        known = target.get(key)
        merged = plain if known is None or known == plain else _widen_tags(known, plain)
        if merged is None:
            return known
        target[key] = merged
        return None

    def pairs(self) -> list[tuple[str, str]]:
        """Return every array attribute as (array, key)."""
        return [(array, key) for array, keys in self.array_attributes.items() for key in keys]

    def to_dict(self) -> dict[str, Any]:
        """Return the form that users see."""
        arrays = {
            name: {
                "dtype": dtype.name,
                "dimension_names": list(dims),
                "attributes": dict(self.array_attributes.get(name, {})),
            }
            for name, (dtype, dims) in self.arrays.items()
        }
        return {"arrays": arrays, "global_attributes": dict(self.attributes)}


def _widen_tags(first: str, second: str) -> str | None:
    if first.endswith("[]") != second.endswith("[]"):
        return None
    merged = widen(parse_dtype(first.removesuffix("[]")), parse_dtype(second.removesuffix("[]")))
    return None if merged is None else merged.name + ("[]" if first.endswith("[]") else "")
