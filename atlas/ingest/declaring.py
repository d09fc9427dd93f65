"""What files of one layout declare, as datasets: by column, where they differ in sizes and global attributes only."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from atlas.chunks import whole_chunk
from atlas.columns import Column, integer_column, values_column
from atlas.groups import Declared, Group
from atlas.ingest.chunking import Chunking
from atlas.schema import Attributes, DatasetRecord, Template, split_record

# Of every array, its shape in each file.
Shapes = Mapping[str, Sequence[tuple[int, ...]]]


def declare(
    attributes: Sequence[Attributes],
    parts: Sequence[tuple[DatasetRecord, ...]],
    shapes: Shapes,
    chunking: Chunking,
) -> Declared:
    """Return what files declare.

    Parameters
    ----------
    attributes : sequence of Attributes
        The global ones of each file.
    parts : sequence of tuple of DatasetRecord
        What each file declares of its arrays, but for their shapes; where that is the same, it is the same object.
    shapes : mapping of str to sequence of tuple of int
        In the order of the arrays.
    chunking : Chunking
    """
    alike: dict[Hashable, list[int]] = {}
    for number, (own, arrays) in enumerate(zip(attributes, parts, strict=True)):
        tags = tuple((key, tag) for key, (tag, _) in own.items())
        alike.setdefault((tags, *map(id, arrays)), []).append(number)
    found = []
    for members in alike.values():
        records = (_record(attributes[i], parts[i], shapes, chunking, i) for i in members)
        first = next(records)
        template, _, _ = split_record(first)
        if chunking.is_whole and all(array.shape is None for array in template.arrays):
            group = _group(template, first, [attributes[i] for i in members], members, shapes)
            found.append(Declared.of_group(group))
        else:
            # How chunks divide an array, and a dimension that has several lengths, are the template's own.
            found.append(Declared.of_records([first, *records]))
    order = np.argsort([number for members in alike.values() for number in members], kind="stable")
    return Declared.joined(found).take(order)


def _record(
    attributes: Attributes, parts: Sequence[DatasetRecord], shapes: Shapes, chunking: Chunking, number: int
) -> DatasetRecord:
    """Return all that one file declares."""
    record = DatasetRecord(attributes=attributes)
    for name, part in zip(shapes, parts, strict=True):
        shape, schema = shapes[name][number], part.arrays[name]
        chunks = chunking.of_variable(name, schema.dims, shape)
        is_chunked = chunks is not None and 0 in shape
        chunks = whole_chunk(shape) if chunks is None else chunks
        record.arrays[name] = replace(schema, shape=shape, chunk_shape=chunks, is_chunked=is_chunked)
        record.array_attributes |= part.array_attributes
    return record


def _group(
    template: Template, first: DatasetRecord, attributes: Sequence[Attributes], members: Sequence[int], shapes: Shapes
) -> Group:
    """Return files of one template: all but sizes and global attributes is as in the first of them."""
    places = {dim: (name, axis) for name, own in first.arrays.items() for axis, dim in enumerate(own.dims)}
    sizes = [
        integer_column([shapes[name][member][axis] for member in members])
        for name, axis in (places[dim] for dim in template.dims)
    ]
    columns = []
    for array, key, tag in template.slots:
        if array is None:
            columns.append(values_column(tag, [own[key][1] for own in attributes]))
        else:
            columns.append(Column(len(members), values_column(tag, [first.array_attributes[array][key][1]]).cells))
    return Group(template.to_json(), len(members), sizes, columns)
