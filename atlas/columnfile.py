"""Columns as bytes, and the directory that vouches for them: how data files and dataset tables end.

::

    columns … | directory | directory length, u64

The root vouches for the directory by its hash, the directory for every column.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Protocol

import msgpack
import numpy as np
import xxhash
from numpy.typing import NDArray

from atlas.checks import expect, is_count
from atlas.codecs import compress_zstd, decompress_zstd
from atlas.columns import Column, Texts
from atlas.errors import CorruptIndex, InvalidArgument
from atlas.storage import MOST_BYTES, DataWriter

# Columns above this size stay uncompressed: they are used where they were read to. Below the other one, compressing
# takes more time than all else that is done to them, and gains some bytes at most.
COMPRESS_BELOW = 4 << 20
COMPRESS_FROM = 256

_LEVEL = 3

# So few cells are looked at sooner one by one than by NumPy.
_SHORT = 64

# Rows that are believed of any file, though few bytes may stand for all of them. In files with more, the ordinals, if
# nothing else, take bytes for each: they are neither said to be a range, nor compressed.
FREE_ROWS = COMPRESS_BELOW // 4
# Bytes of one text repeated.
_MOST_REPEATED = 64 << 20


@dataclass(frozen=True)
class DataFile:
    """A data file or a dataset table as the root vouches for it.

    Attributes
    ----------
    key : str
        Its place in the store, ``directory/name``.
    length : int
        Committed bytes.
    index_offset, index_length : int
        Where its columns and their directory are.
    index_hash : str
        xxh3-64 of the directory, 16 hex digits.
    commit : str
        The commit that wrote it: its record holds a copy of the index. Empty where there is none.
    """

    key: str
    length: int
    index_offset: int
    index_length: int
    index_hash: str
    commit: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the entry as the root keeps it."""
        entry = {
            "file": self.key,
            "length": self.length,
            "index": [self.index_offset, self.index_length],
            "hash": self.index_hash,
        }
        return entry | ({"commit": self.commit} if self.commit else {})

    @staticmethod
    def from_json(value: Any, ending: str = ".af") -> DataFile:
        """Inverse of :meth:`to_json`, checking everything; raises :class:`InvalidArgument`."""
        expect(isinstance(value, dict), "a data file is not an object")
        key, length, index, digest = (value.get(k) for k in ("file", "length", "index", "hash"))
        parts = key.split("/") if isinstance(key, str) else []
        expect(len(parts) == 2 and all(p not in ("", ".", "..") and "\0" not in p for p in parts), "bad file name")
        expect(parts[1].endswith(ending) and "\\" not in key, f"bad file name {key!r}")
        expect(isinstance(index, list) and len(index) == 2, f"bad index place of {key!r}")
        expect(all(is_count(n) for n in (length, *index)), f"bad sizes of {key!r}")
        expect(index[0] + index[1] <= length, f"the index of {key!r} lies outside it")
        expect(isinstance(digest, str) and len(digest) == 16, f"bad hash of {key!r}")
        commit = value.get("commit", "")
        expect(isinstance(commit, str) and re.fullmatch(r"([0-9a-f]{32})?", commit), f"bad commit of {key!r}")
        return DataFile(key, length, index[0], index[1], digest, commit)


def finish_file(
    writer: DataWriter, key: str, head: dict[str, Any], columns: dict[str, Any]
) -> tuple[DataFile, bytes | bytearray]:
    """Write columns and their directory, the index that a file ends in; return the file, and the index once more.

    Parameters
    ----------
    writer : DataWriter
    key : str
        The file's place in the store.
    head : dict
        What the directory says besides ``columns``; its ``commit`` is the one that the file belongs to.
    columns : dict of str to array, Texts, Column or list of bytes
    """
    # NumPy copies a whole mapped column for one look-up in it when its numbers are not aligned.
    writer.write(bytes(-writer.position % 8))
    start = writer.position
    area = bytearray()
    directory = []
    for name, values in columns.items():
        entry, data = encode_column(name, values)
        area += bytes(-len(area) % 8)
        entry["offset"] = len(area)
        directory.append(entry)
        area += data
    packed = msgpack.packb(head | {"columns": directory})
    if len(packed) > MOST_BYTES:
        raise InvalidArgument(f"{key} would have too many columns: its directory would be of {len(packed)} bytes")
    area += packed + len(packed).to_bytes(8, "little")
    writer.write(area)
    digest = xxhash.xxh3_64_hexdigest(packed)
    return DataFile(key, writer.position, start, len(area), digest, head.get("commit", "")), area


def encode_column(name: str, values: Any) -> tuple[dict[str, Any], Any]:
    """Return a column's entry in the directory, and its bytes."""
    rows = values.rows if isinstance(values, Column) else len(values)
    cells = values.cells if isinstance(values, Column) else values
    if isinstance(cells, list):
        cells = Texts.of(cells)
    if isinstance(cells, Texts):
        dtype, encoding, data = "bytes", *_text_bytes(cells, rows)
    else:
        dtype, encoding, data = cells.dtype.str, *_number_bytes(cells, rows)
    if encoding == "raw" and COMPRESS_FROM <= len(data) <= COMPRESS_BELOW:
        packed = compress_zstd(data, _LEVEL)
        if len(packed) < len(data):
            encoding, data = "zstd", packed
    digest = xxhash.xxh3_64_intdigest(data)
    entry = {"name": name, "dtype": dtype, "count": rows, "encoding": encoding, "length": len(data), "hash": digest}
    return entry, data


def _text_bytes(cells: Texts, rows: int) -> tuple[str, bytes]:
    if len(cells) == 1 and rows > 1:
        return "constant", cells[0]
    return "raw", cells.lengths.astype("<u4").tobytes() + cells.data.tobytes()


def _number_bytes(cells: NDArray[Any], rows: int) -> tuple[str, bytes]:
    cells = np.ascontiguousarray(cells)
    if len(cells) and rows > 1 and _is_constant(cells):
        return "constant", cells[:1].tobytes()
    if 2 < rows <= FREE_ROWS and cells.dtype.kind == "u" and (step := _step(cells)) is not None:
        return "range", np.array([cells[0], step], "<i8").tobytes()
    return "raw", cells.tobytes()


def _is_constant(cells: NDArray[Any]) -> bool:
    """Whether all cells are the same bits."""
    if len(cells) <= _SHORT:
        data = cells.tobytes()
        return data == data[: cells.itemsize] * len(cells)
    bits = cells.view(f"V{cells.itemsize}")
    return bool((bits == bits[0]).all())


def _step(cells: NDArray[Any]) -> int | None:
    """Return by how much each unsigned number is above the one before it, if by the same and it can be said signed."""
    if len(cells) <= _SHORT:
        values = cells.tolist()
        step = values[1] - values[0]
        is_range = (
            step and max(values) < 1 << 63 and values == [*range(values[0], values[0] + step * len(values), step)]
        )
        return step if is_range else None
    if int(cells.max()) >= 1 << 63:
        return None
    steps = np.diff(cells.astype(np.int64))
    return int(steps[0]) if (steps == steps[0]).all() else None


class Area(Protocol):
    """The bytes of an index, in memory or read when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> NDArray[np.uint8]: ...


class ColumnFile:
    """Columns of one file; each is checked and decoded when asked for.

    Parameters
    ----------
    area : Area
        The bytes from the first column to the end, as the root locates them.
    file : DataFile

    Raises
    ------
    CorruptIndex
        If they are not what the root vouches for.
    """

    def __init__(self, area: Area, file: DataFile) -> None:
        self._area = area
        self._key = file.key
        self.expect(len(area) >= 8, "it is truncated")
        size = int.from_bytes(area[-8:].tobytes(), "little")
        self.expect(size <= len(area) - 8, "it is truncated")
        self.expect(size <= MOST_BYTES, "its directory is absurdly long")
        self._directory_length = size
        self.most_rows = max(len(area), FREE_ROWS)
        packed = area[len(area) - 8 - size : len(area) - 8].data
        self.expect(xxhash.xxh3_64_hexdigest(packed) == file.index_hash, "its hash is not the one the root vouches for")
        try:
            self.head: dict[str, Any] = msgpack.unpackb(packed)
            self._columns = {entry["name"]: entry for entry in self.head["columns"]}
        except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
            raise CorruptIndex(f"the index of {self._key} is not valid: {error}") from None

    def expect(self, condition: Any, message: str) -> None:
        """Raise :class:`CorruptIndex` with the file's name unless a condition holds."""
        if not condition:
            raise CorruptIndex(f"the index of {self._key} is damaged: {message}")

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    @property
    def names(self) -> list[str]:
        """The names of its columns."""
        return list(self._columns)

    @property
    def is_whole(self) -> bool:
        """Whether every column has its hash; whether it makes sense is seen when it is asked for."""
        try:
            return all(
                xxhash.xxh3_64_intdigest(self._area[entry["offset"] : entry["offset"] + entry["length"]].data)
                == entry["hash"]
                for entry in self._columns.values()
            )
        except (KeyError, TypeError):
            return False

    def expect_no_junk(self) -> None:
        """Refuse bytes between the columns that no hash covers and that are not zero, and columns that share some."""
        try:
            taken = sorted((int(entry["offset"]), int(entry["length"])) for entry in self._columns.values())
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CorruptIndex(f"the index of {self._key} is damaged: {error}") from None
        end = 0
        for offset, length in [*taken, (len(self._area) - 8 - self._directory_length, 0)]:
            self.expect(end <= offset, "its columns overlap")
            self.expect(not self._area[end:offset].any(), "there is something between its columns")
            end = offset + length

    def column(self, name: str, constant: bool = False) -> Any:
        """Return a column: an array, or :class:`Texts`.

        With `constant`, a column that was written as one value comes back as a single cell.
        """
        entry = self._columns.get(name)
        self.expect(entry is not None, f"column {name!r} is missing")
        assert entry is not None
        try:
            offset, length, count = (int(entry[k]) for k in ("offset", "length", "count"))
            self.expect(0 <= offset <= offset + length <= len(self._area), f"column {name!r} lies outside it")
            self.expect(0 <= count <= self.most_rows, f"column {name!r} has an absurd length")
            data = self._area[offset : offset + length].data
            self.expect(xxhash.xxh3_64_intdigest(data) == entry["hash"], f"column {name!r} does not match its hash")
            encoding = str(entry["encoding"])
            return _decode(str(entry["dtype"]), encoding, data, 1 if constant and encoding == "constant" else count)
        except (KeyError, TypeError, ValueError, OverflowError, MemoryError) as error:
            raise CorruptIndex(f"the index of {self._key} is damaged: column {name!r}: {error}") from None

    def integers(self, name: str) -> NDArray[Any]:
        """Return a column of unsigned integers."""
        values = self.column(name)
        fits = isinstance(values, np.ndarray) and values.dtype.kind == "u" and values.ndim == 1
        self.expect(fits, f"column {name!r} does not hold counts")
        return np.asarray(values)


def _decode(dtype: str, encoding: str, data: memoryview | bytes, count: int) -> Any:
    if encoding == "zstd":
        data = decompress_zstd(data, COMPRESS_BELOW)
    if dtype == "bytes":
        return _texts(np.frombuffer(data, np.uint8), encoding, count)
    if encoding == "constant":
        return np.broadcast_to(np.frombuffer(data, dtype, 1), (count,))
    if encoding == "range":
        # As a type of its own each row may take as much as it says.
        if np.dtype(dtype).kind not in "iu":
            raise ValueError(f"a range is of integers, not of {dtype!r}")
        first, step = np.frombuffer(data, "<i8", 2).tolist()
        return (np.arange(count, dtype=np.int64) * step + first).astype(dtype)
    return np.frombuffer(data, dtype, count)


def _texts(data: NDArray[np.uint8], encoding: str, count: int) -> Texts:
    if encoding == "constant":
        if count * len(data) > _MOST_REPEATED:
            raise ValueError("it repeats a text absurdly often")
        return Texts(np.tile(data, count), np.arange(1, count + 1) * len(data))
    ends = np.cumsum(np.frombuffer(data, "<u4", count), dtype=np.int64)
    if (int(ends[-1]) if count else 0) != len(data) - 4 * count:
        raise ValueError("its cells do not add up")
    return Texts(data[4 * count :], ends)
