"""Records (``.ar``): what a commit leaves so that neither the root nor an index is the only copy of anything.

::

    magic "ATLASRC1" | xxh3-64 of the rest, u64 | length of the head, u64 | head | index | index | …

The head is a MessagePack map: the root object's name, the root as ``atlas.msgpack.zst`` would hold it, and
which file's index each of those that follow is.

On object stores, where an object more is a request more, the record of a commit has no indexes and lies behind the
index of the last file that the commit writes::

    … index | record | length of the record, u64 | magic "ATLASRT1"
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgpack
import numpy as np
import xxhash
from numpy.typing import NDArray

from atlas.checks import is_count
from atlas.columnfile import Area
from atlas.errors import CorruptIndex
from atlas.root import ROOT_KEYS, LoadTable, PackedRoot, Root
from atlas.storage import MOST_BYTES, DataWriter, Range, Storage
from atlas.storage.names import CATALOG, is_file_of_a_commit, is_record

MAGIC = b"ATLASRC1"
_HEAD_AT = len(MAGIC) + 16
MAGIC_BEHIND = b"ATLASRT1"
_BEHIND = 8 + len(MAGIC_BEHIND)

# A record is checked in pieces of this size: copies of the indexes of a large commit may be more than there is memory.
_PIECE_BYTES = 8 << 20


def write_record(writer: DataWriter, root: Root, indexes: Mapping[str, bytes | bytearray]) -> None:
    """Write the record of a commit.

    Parameters
    ----------
    writer : DataWriter
    root : Root
        The state that the commit makes.
    indexes : mapping of str to bytes
        The index of each of the commit's files, by the file's key.
    """
    packed = PackedRoot.of(root)
    head = msgpack.packb(
        {
            "object": packed.object,
            "root": packed.data,
            "indexes": [[key, len(index)] for key, index in indexes.items()],
        }
    )
    pieces = [len(head).to_bytes(8, "little"), head, *indexes.values()]
    digest = xxhash.xxh3_64()
    for piece in pieces:
        digest.update(piece)
    for piece in (MAGIC, digest.intdigest().to_bytes(8, "little"), *pieces):
        writer.write(piece)


def append_record(writer: DataWriter, root: Root) -> None:
    """Write the record of a commit behind the last of its files; `root` names that one as if it ended before."""
    begin = writer.position
    write_record(writer, root, {})
    writer.write((writer.position - begin).to_bytes(8, "little") + MAGIC_BEHIND)


@dataclass(frozen=True)
class Record:
    """The record of one commit, whole and undamaged.

    Attributes
    ----------
    key : str
    head : dict
    indexes : dict of str to Area
        Copies of the indexes of the commit's files.
    """

    key: str
    head: dict[str, Any]
    indexes: dict[str, Area]

    @property
    def object(self) -> str:
        """The name that the root object had."""
        return str(self.head["object"])

    def root(self, load_table: LoadTable) -> Root:
        """Return the state that the commit made; raises :class:`CorruptRoot` when it makes no sense."""
        # Of which commit it is, the root says itself.
        return PackedRoot("", self.object, self.head["root"]).root(load_table)


def read_record(storage: Storage, key: str) -> Record:
    """Read a record.

    Raises
    ------
    CorruptIndex
        If it is damaged.
    FileNotFoundError
        If there is none.
    """
    return _parsed(_Part(partial(storage.read_range, key), 0, storage.size(key)), key)


class _Part:
    """Bytes of a record; they are read when they are asked for."""

    def __init__(self, read: Callable[[int, int], bytes | memoryview], begin: int, length: int) -> None:
        self._read, self._begin, self._length = read, begin, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, part: slice) -> NDArray[np.uint8]:
        first, end, _ = part.indices(self._length)
        return np.frombuffer(self._read(self._begin + first, max(end - first, 0)), np.uint8)

    def part(self, first: int, length: int) -> _Part:
        """Return some of them."""
        return _Part(self._read, self._begin + first, length)


def _in_memory(data: bytes) -> _Part:
    view = memoryview(data)
    return _Part(lambda begin, length: view[begin : begin + length], 0, len(data))


def record_behind(storage: Storage, key: str, length: int, size: int) -> Record:
    """Read the record behind a file of a length, which is all that may be there; raises :class:`CorruptIndex`."""
    _expect(size > length + _BEHIND, key, "it is cut short, or no record")
    end = Range(key, size - _BEHIND, size)
    place = _place(end, storage.read_range(key, end.start, _BEHIND))
    _expect(place is not None, key, "it is cut short, or no record")
    _expect(place == Range(key, length, end.start), key, "its length does not match")
    return _parsed(_in_memory(storage.read_range(key, length, end.start - length)), key)


def records_behind(storage: Storage, sizes: Mapping[str, int]) -> Iterator[tuple[str, Record]]:
    """Yield the records that lie behind files, whatever is left of these."""
    ends = [Range(key, size - _BEHIND, size) for key, size in sizes.items() if size > _BEHIND]
    places = [place for item in zip(ends, storage.read_ranges(ends), strict=True) if (place := _place(*item))]
    for number, data in storage.fetch(places, [place.end - place.start for place in places]):
        key = places[number].key
        with suppress(CorruptIndex):
            yield key, _parsed(_in_memory(data), key)


def has_record(storage: Storage) -> bool:
    """Return whether any commit has left a record: as a file, or, in copies from object stores, behind another."""
    if any(map(is_record, storage.list_dir(CATALOG))):
        return True
    # What else is in a directory, which may be no store at all, is only listed.
    keys = (f"{directory}/{name}" for directory in storage.list_dir("") for name in storage.list_dir(directory))
    sizes = {key: storage.size(key) for key in keys if is_file_of_a_commit(key)}
    return any(True for _ in records_behind(storage, sizes))


def _place(end: Range, said: bytes) -> Range | None:
    """Return where the record is whose end is there, if it is one, and says so."""
    size = int.from_bytes(said[:8], "little")
    return Range(end.key, end.start - size, end.start) if said[8:] == MAGIC_BEHIND and size < end.start else None


def _parsed(data: _Part, key: str) -> Record:
    start = data[:_HEAD_AT].tobytes()
    _expect(start[: len(MAGIC)] == MAGIC, key, "it is no record")
    digest, size = (int.from_bytes(start[at : at + 8], "little") for at in (len(MAGIC), len(MAGIC) + 8))
    _expect(size <= min(len(data) - _HEAD_AT, MOST_BYTES), key, "its parts do not add up")
    try:
        head = msgpack.unpackb(data[_HEAD_AT : _HEAD_AT + size])
        named = [(name, length) for name, length in head["indexes"]]
        plausible = head["object"] in ROOT_KEYS and isinstance(head["root"], bytes)
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        raise CorruptIndex(f"record {key} is damaged: {error}") from None
    _expect(plausible and all(isinstance(name, str) and is_count(n) for name, n in named), key, "its head is malformed")
    indexes, at = dict[str, Area](), _HEAD_AT + size
    for name, length in named:
        indexes[name] = data.part(at, length)
        at += length
    # Before all of it is read: it is so long that this would take for ever, if it is so only by its length.
    _expect(at == len(data), key, "its parts do not add up")
    hashed = xxhash.xxh3_64()
    for at in range(len(MAGIC) + 8, len(data), _PIECE_BYTES):
        hashed.update(data[at : at + _PIECE_BYTES].data)
    _expect(hashed.intdigest() == digest, key, "its hash does not match")
    return Record(key, head, indexes)


def _expect(condition: Any, key: str, message: str) -> None:
    if not condition:
        raise CorruptIndex(f"record {key} is damaged: {message}")
