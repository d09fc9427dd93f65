"""NetCDF files of the classic format (NetCDF-3), read as bytes.

The format is a header and arrays behind it, unchanged since 1989. The NetCDF library takes a tenth of a millisecond
for each variable: of an Argo profile 15 ms, which was most of what an ingest cost, where this takes 1.5. Whatever
is not as it should be is refused, and left to the library.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_INTEGER, _LONG = struct.Struct(">I"), struct.Struct(">Q")

_DIMENSIONS, _VARIABLES, _ATTRIBUTES = 10, 11, 12

# By the number of the type; characters are the second.
_TYPES = {
    number: np.dtype(kind)
    for number, kind in enumerate((">i1", "S1", ">i2", ">i4", ">f4", ">f8", ">u1", ">u2", ">u4", ">i8", ">u8"), 1)
}


class _Declared(NamedTuple):
    """The variables of a file, but for where their cells are.

    Attributes
    ----------
    size : int
        Of the integers in the file.
    parts : tuple of bytes
        Name, dimensions, attributes and type of each, as the file says it.
    variables : tuple of (name, dimension numbers, type)
    """

    size: int
    parts: tuple[bytes, ...]
    variables: tuple[tuple[str, tuple[int, ...], np.dtype[Any]], ...]


# Those that were seen last: files of a collection declare their variables in the same words.
_REMEMBERED = 16
_seen: list[_Declared] = []


@dataclass(frozen=True)
class Header:
    """What a file declares.

    Attributes
    ----------
    records : int
        The length of the unlimited dimension.
    dims : list of (name, length)
        The unlimited one has the length 0.
    attributes : dict of str to Any
        The global ones, as the NetCDF library gives them.
    variables : list of (name, dimension numbers, type, offset)
    layout : Hashable
        The variables with their attributes, as bytes.
    """

    records: int
    dims: list[tuple[str, int]]
    attributes: dict[str, Any]
    variables: list[tuple[str, tuple[int, ...], np.dtype[Any], int]]
    layout: Hashable


class _Reader:
    """Takes a header apart, front to back."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._version = data[3]
        self.place = 4
        self._size = 8 if self._version == 5 else 4

    def header(self) -> Header:
        records = self._integer(self._size)
        if records == (1 << 8 * self._size) - 1:
            raise ValueError("the number of records is not known")
        dims = [(self._name(), self._integer(self._size)) for _ in range(self._count(_DIMENSIONS))]
        attributes = dict(self._attribute() for _ in range(self._count(_ATTRIBUTES)))
        declared, offsets = self._known_variables() or self._variables()
        variables = [(*own, offset) for own, offset in zip(declared.variables, offsets, strict=True)]
        unlimited = tuple(length == 0 for _, length in dims)
        layout = (self._version, tuple(name for name, _ in dims), unlimited, declared.parts)
        return Header(records, dims, attributes, variables, layout)

    def _variables(self) -> tuple[_Declared, list[int]]:
        """Return the variables, and the offset of each."""
        variables, parts, offsets = [], [], []
        for _ in range(self._count(_VARIABLES)):
            begin = self.place
            name = self._name()
            numbers = tuple(self._integer(self._size) for _ in range(self._integer(self._size)))
            for _ in range(self._count(_ATTRIBUTES)):
                self._skip_attribute()
            variables.append((name, numbers, _TYPES[self._integer(4)]))
            parts.append(self._data[begin : self.place])
            offsets.append(self._offset())
        declared = _Declared(self._size, tuple(parts), tuple(variables))
        _seen.insert(0, declared)
        del _seen[_REMEMBERED:]
        return declared, offsets

    def _known_variables(self) -> tuple[_Declared, list[int]] | None:
        """Do the same where they are declared as in a file before."""
        begin = self.place
        count = self._count(_VARIABLES)
        for declared in _seen:
            first, offsets = self.place, []
            for part in declared.parts:
                if not self._data.startswith(part, self.place):
                    break
                self.place += len(part)
                offsets.append(self._offset())
            if (count, self._size) == (len(offsets), declared.size) and count == len(declared.parts):
                return declared, offsets
            self.place = first
        self.place = begin
        return None

    def _offset(self) -> int:
        """Take in where a variable's cells are; their size, which may be too large for its field, is not needed."""
        self.place += self._size
        return self._integer(4 if self._version == 1 else 8)

    def _integer(self, size: int) -> int:
        (value,) = (_INTEGER if size == 4 else _LONG).unpack_from(self._data, self.place)
        self.place += size
        return int(value)

    def _count(self, tag: int) -> int:
        found, count = self._integer(4), self._integer(self._size)
        if found != tag and (found or count):
            raise ValueError("a list has a wrong tag")
        return count

    def _bytes(self, length: int) -> bytes:
        found = self._data[self.place : self.place + length]
        if len(found) != length:
            raise ValueError("the file is too short")
        self.place += length + -length % 4
        return found

    def _name(self) -> str:
        return self._bytes(self._integer(self._size)).decode("utf-8")

    def _attribute(self) -> tuple[str, Any]:
        name, kind, count = self._name(), _TYPES[self._integer(4)], self._integer(self._size)
        data = self._bytes(count * kind.itemsize)
        if kind.kind == "S":
            return name, data.decode("utf-8").replace("\0", "")
        values = np.frombuffer(data, kind).astype(kind.newbyteorder("="))
        return name, values[0] if count == 1 else values

    def _skip_attribute(self) -> None:
        self._bytes(self._integer(self._size))
        kind, count = _TYPES[self._integer(4)], self._integer(self._size)
        length = count * kind.itemsize
        self.place += length + -length % 4


def read_header(data: bytes) -> Header:
    """Return what a file declares.

    Raises
    ------
    ValueError, LookupError, struct.error
        If it is not understood.
    """
    return _Reader(data).header()


def read_cells(data: bytes, header: Header) -> dict[str, NDArray[Any]]:
    """Return the cells of every variable, of a native type.

    Raises
    ------
    ValueError, TypeError, LookupError
        If they do not fit the file.
    """
    lengths = [length for _, length in header.dims]
    shapes = [tuple(lengths[number] for number in numbers) for _, numbers, _, _ in header.variables]
    # Arrays along the unlimited dimension, which is their first, are stored record by record.
    by_record = [bool(shape) and shape[0] == 0 for shape in shapes]
    sizes = [
        math.prod(shape[1:]) * kind.itemsize
        for shape, (_, _, kind, _), own in zip(shapes, header.variables, by_record, strict=True)
        if own
    ]
    record = sizes[0] if len(sizes) == 1 else sum(size + -size % 4 for size in sizes)
    found = {}
    for (name, _, kind, offset), shape, own in zip(header.variables, shapes, by_record, strict=True):
        if 0 in shape[1:] and not own:
            raise ValueError("a dimension that is not the first is unlimited")
        if own:
            shape = (header.records, *shape[1:])
        if 0 in shape:
            cells = np.zeros(shape, kind)
        elif own:
            inner = np.empty(shape[1:], kind).strides
            cells = np.ndarray(shape, kind, data, offset, (record, *inner))
        else:
            cells = np.ndarray(shape, kind, data, offset)
        found[name] = cells.astype(kind.newbyteorder("="))
    return found
