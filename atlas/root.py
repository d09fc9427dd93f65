"""The root object: the one object that is ever replaced, in six encodings.

A root document is a map whose first key is ``checksum``: the xxh3-64, in 16 hex digits, of the
document itself with those 16 digits written as zeros. So every byte of it is covered.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import msgpack
import xxhash

from atlas.catalog import MAX_SLOTS, Catalog
from atlas.checks import expect, is_count
from atlas.codecs import decompress_zstd
from atlas.columnfile import DataFile
from atlas.config import StoreConfig
from atlas.errors import CorruptRoot, InvalidArgument
from atlas.layer import Layer, runs_json
from atlas.schema import check_name
from atlas.storage import MOST_BYTES
from atlas.storage.names import is_key_of_a_file

FORMAT_VERSION = 1
_SUFFIXES = {"none": "", "zstd": ".zst", "lz4": ".lz4"}
_BLANK = "0" * 16
_PLAIN_KEY = "atlas.msgpack.zst"
_COMMIT = re.compile(r"[0-9a-f]{32}")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")

# A root is refused that claims to grow more than this: real ones shrink to a tenth.
_PLAIN_BYTES = 2 << 20
_PLAIN_RATIO = 100
_LZ4_PIECE = 1 << 20


@dataclass(frozen=True)
class ArrayFiles:
    """Where an array's chunks are: its directory and its data files, oldest first."""

    directory: str
    files: tuple[DataFile, ...]


@dataclass(frozen=True)
class Root:
    """One committed state of a store.

    Attributes
    ----------
    config : StoreConfig
    generation : int
        Commits so far.
    commit, parent : str
        Unique ids of this commit and of the one before.
    catalog : Catalog
    arrays : mapping of str to ArrayFiles
    retired : tuple of (key, generation, seconds)
        Files that were replaced and could not be removed yet.
    store : str
        Unique id of the store, the same in all of its files.
    recent : tuple of str
        The last commits before this one, newest last.
    copies : mapping of str to bytes
        Indexes of data files, by the file's key, as they are there: readers far away need not fetch these first.
    version : str or None
        What the next state is to replace: the object's version, nothing when it must not be there yet;
        ``None`` where a lock decides.
    """

    config: StoreConfig
    generation: int
    commit: str
    parent: str
    catalog: Catalog
    arrays: Mapping[str, ArrayFiles]
    retired: tuple[tuple[str, int, int], ...] = ()
    store: str = ""
    recent: tuple[str, ...] = ()
    copies: Mapping[str, bytes] = field(default_factory=dict)
    version: str | None = None

    @property
    def files(self) -> list[DataFile]:
        """Every file that the state refers to."""
        return [*(file for files in self.arrays.values() for file in files.files), *self.catalog.tables]

    @property
    def commits(self) -> set[str]:
        """The commits whose records are of use: those of its files, and its own."""
        return {file.commit for file in self.files if file.commit} | {self.commit}

    def came_after(self, commit: str) -> bool:
        """Whether a commit is known to be this one, or one of those before."""
        return commit in {*self.commits, self.parent, *self.recent}

    def follows(self, other: Root) -> bool:
        """Whether it is a later state of the same store."""
        return self.store == other.store and self.generation > other.generation

    def is_beside(self, other: Root) -> bool:
        """Whether it is another state of the same store and generation: of a copy that has gone another way."""
        return (self.store, self.generation) == (other.store, other.generation) and self.commit != other.commit

    @property
    def oldest_known(self) -> int:
        """The generation from which on the state names every commit that led to it: that of its parent, at least."""
        return self.generation - max(len(self.recent), 1)

    def successor(self, commit: str, **changes: Any) -> Root:
        """Return the next committed state."""
        return replace(self, generation=self.generation + 1, commit=commit, parent=self.commit, **changes)


def root_key(config: StoreConfig) -> str:
    """Return the root object's name for a format and compression."""
    return f"atlas.{config.meta_format}{_SUFFIXES[config.meta_compression]}"


LoadTable = Callable[[str, DataFile, int], Layer]

ROOT_KEYS: dict[str, tuple[str, str]] = {
    f"atlas.{fmt}{suffix}": (fmt, compression)
    for fmt in ("json", "msgpack")
    for compression, suffix in _SUFFIXES.items()
}


def root_document(root: Root, key: str) -> dict[str, Any]:
    """Return the document that the root object of that name holds, with a blank checksum."""
    catalog = root.catalog
    schemas, parts = catalog.top.written
    return {
        "checksum": _BLANK,
        "format": "atlas",
        "version": FORMAT_VERSION,
        "store": root.store,
        "generation": root.generation,
        "commit": root.commit,
        "parent": root.parent,
        **({"recent": list(root.recent)} if root.recent else {}),
        **({"next": root_key(root.config)} if key != root_key(root.config) else {}),
        "codec": root.config.codec,
        "level": root.config.level,
        **({} if root.config.packing else {"packing": False}),
        "arrays": {
            name: {"directory": files.directory, "files": [file.to_json() for file in files.files]}
            for name, files in root.arrays.items()
        },
        "retired": [list(entry) for entry in root.retired],
        "schemas": schemas,
        "datasets": {
            "slots": catalog.slots,
            "count": catalog.count,
            "tables": [file.to_json() for file in catalog.tables],
            "deleted": runs_json(catalog.top.deleted),
            "parts": parts,
        },
        **({"indexes": _copies_document(root, key)} if root.copies else {}),
    }


def _copies_document(root: Root, key: str) -> dict[str, Any]:
    is_text = ROOT_KEYS[key][0] == "json"
    return {name: base64.b64encode(copy).decode() if is_text else copy for name, copy in root.copies.items()}


def encode_root(root: Root, key: str = "") -> bytes:
    """Return the bytes of the root object; under another name than its configuration's, it says where the next is."""
    key = key or root_key(root.config)
    meta_format, compression = ROOT_KEYS[key]
    document = root_document(root, key)
    plain = _dump_json(document) if meta_format == "json" else msgpack.packb(document)
    start = plain.index(_BLANK.encode())
    digest = xxhash.xxh3_64_hexdigest(plain).encode()
    data = _compress(plain[:start] + digest + plain[start + 16 :], compression)
    if len(data) > MOST_BYTES:
        raise InvalidArgument(f"there are too many arrays: the root would be of {len(data)} bytes, which nobody reads")
    return data


@dataclass(frozen=True)
class PackedRoot:
    """A committed state in its shortest form, to be kept or sent elsewhere.

    Attributes
    ----------
    commit : str
    object : str
        The name of the root object.
    data : bytes
        What ``atlas.msgpack.zst`` would hold.
    """

    commit: str
    object: str
    data: bytes

    @staticmethod
    def of(root: Root) -> PackedRoot:
        """Pack a state."""
        meta_format, compression = ROOT_KEYS[_PLAIN_KEY]
        config = replace(root.config, meta_format=meta_format, meta_compression=compression)
        # Without the copies of indexes, which would be most of it.
        plain = replace(root, config=config, copies={})
        return PackedRoot(root.commit, root_key(root.config), encode_root(plain))

    def root(self, load_table: LoadTable) -> Root:
        """Return the state; raises :class:`CorruptRoot` when it makes no sense."""
        root = decode_root(self.data, _PLAIN_KEY, load_table)
        meta_format, compression = ROOT_KEYS[self.object]
        return replace(root, config=replace(root.config, meta_format=meta_format, meta_compression=compression))


def _dump_json(document: dict[str, Any]) -> bytes:
    # One line per key and per list item: a person can read it, and the C encoder still does the work.
    lines = []
    for key, value in document.items():
        if key in ("arrays", "schemas", "indexes") and value:
            items = value.items() if isinstance(value, dict) else ((None, item) for item in value)
            inner = ",\n  ".join((f"{json.dumps(k)}: " if k is not None else "") + json.dumps(v) for k, v in items)
            opening, closing = ("{", "}") if isinstance(value, dict) else ("[", "]")
            lines.append(f'"{key}": {opening}\n  {inner}\n {closing}')
        else:
            lines.append(f'"{key}": {json.dumps(value, ensure_ascii=False, allow_nan=False)}')
    return ("{" + ",\n ".join(lines) + "}\n").encode("utf-8")


def _compress(plain: bytes, compression: str) -> bytes:
    if compression == "zstd":
        import zstandard

        return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(plain)
    if compression == "lz4":
        import lz4.frame

        return bytes(lz4.frame.compress(plain, content_checksum=True))
    return plain


def decode_root(data: bytes, key: str, load_table: LoadTable) -> Root:
    """Return the state that the bytes of a root object describe.

    Parameters
    ----------
    data : bytes
    key : str
        The root object's name.
    load_table : callable
        Reads a table file, given the store's id, the file, and the number of ordinals in use.

    Raises
    ------
    CorruptRoot
        If they are damaged, of another format version, or make no sense.
    """
    if len(data) > MOST_BYTES:
        raise CorruptRoot(f"root object {key} is absurdly long")
    meta_format, compression = ROOT_KEYS[key]
    plain = _decompress(data, compression, key)
    _check_checksum(plain, meta_format, key)
    try:
        document = _parse_json(plain) if meta_format == "json" else _parse_msgpack(plain)
        return _root_of(document, meta_format, compression, load_table)
    except (
        ValueError,
        TypeError,
        KeyError,
        RecursionError,
        OverflowError,
        MemoryError,
        msgpack.UnpackException,
    ) as error:
        raise CorruptRoot(f"root object {key} is not valid: {error}") from None


def _decompress(data: bytes, compression: str, key: str) -> bytes:
    most = max(_PLAIN_BYTES, _PLAIN_RATIO * len(data))
    try:
        if compression == "zstd":
            return decompress_zstd(data, most)
        if compression == "lz4":
            return _decompress_lz4(data, most)
    except (ValueError, RuntimeError, EOFError) as error:
        raise CorruptRoot(f"root object {key} cannot be decompressed: {error}") from None
    return data


def _decompress_lz4(data: bytes, most: int) -> bytes:
    import lz4.frame

    decompressor = lz4.frame.LZ4FrameDecompressor()
    # A piece at a time: the decompressor makes room for as much as it is allowed to return.
    pieces = [decompressor.decompress(data, max_length=_LZ4_PIECE)]
    size = len(pieces[0])
    while pieces[-1] and not decompressor.eof:
        pieces.append(decompressor.decompress(b"", max_length=_LZ4_PIECE))
        size += len(pieces[-1])
        if size > most:
            raise ValueError(f"it grows beyond {most} bytes")
    if not decompressor.eof or decompressor.unused_data:
        raise ValueError("it is truncated or followed by junk")
    return b"".join(pieces)


def _check_checksum(plain: bytes, meta_format: str, key: str) -> None:
    # {"checksum": "…   in JSON; in MessagePack fixmap, or map 16 of more than 15 keys, fixstr 8 "checksum", fixstr 16.
    start = len('{"checksum": "') if meta_format == "json" else 13 if plain[:1] == b"\xde" else 11
    digest = plain[start : start + 16]
    blank = plain[:start] + _BLANK.encode() + plain[start + 16 :]
    if digest != xxhash.xxh3_64_hexdigest(blank).encode():
        hint = ""
        if b'"version": 3' in plain[:200]:
            hint = "; it looks like a store of the older atlas-python package, which this one does not read"
        raise CorruptRoot(f"root object {key} is damaged: its checksum does not match{hint}")


def _parse_json(plain: bytes) -> Any:
    def refuse(text: str) -> Any:
        raise ValueError(f"{text} is not JSON")

    document = json.loads(plain.decode("utf-8"), object_pairs_hook=_unique, parse_constant=refuse)
    if _SURROGATE.search(plain):
        # Half a pair has no UTF-8 form, and would keep the next root from being written.
        json.dumps(document, ensure_ascii=False).encode("utf-8")
    return document


def _parse_msgpack(plain: bytes) -> Any:
    return msgpack.unpackb(plain, object_pairs_hook=_unique, strict_map_key=True)


def _unique(pairs: Any) -> dict[str, Any]:
    pairs = list(pairs)
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key is there twice")
    return result


def _root_of(document: Any, meta_format: str, compression: str, load_table: LoadTable) -> Root:
    expect(isinstance(document, dict) and document.get("format") == "atlas", "it is not an Atlas root")
    version = document.get("version")
    expect(version == FORMAT_VERSION, f"format version {version!r} is not known here (this release reads 1)")
    expect(is_count(document.get("generation")), "bad generation")
    expect(all(isinstance(document.get(k), str) for k in ("store", "commit", "parent", "codec")), "bad commit ids")
    # The record of the commit is called after it.
    expect(_COMMIT.fullmatch(document["commit"]), "bad commit ids")
    arrays, retired, recent = document.get("arrays"), document.get("retired"), document.get("recent", [])
    expect(isinstance(recent, list) and all(isinstance(commit, str) for commit in recent), "bad commit ids")
    following = document.get("next")
    if following is not None:
        expect(following in ROOT_KEYS, "bad name of the next root")
        meta_format, compression = ROOT_KEYS[following]
    expect(isinstance(arrays, dict) and isinstance(retired, list), "bad array table")
    known = {check_name(name, "array"): _array_files(value) for name, value in arrays.items()}
    root = Root(
        StoreConfig(
            document["codec"], meta_format, compression, document.get("level", 1), document.get("packing", True)
        ),
        document["generation"],
        document["commit"],
        document["parent"],
        _catalog(document, load_table),
        known,
        tuple(_retired(entry) for entry in retired),
        document["store"],
        tuple(recent),
    )
    root = replace(root, copies=_copies(document.get("indexes", {}), root.files))
    files = [file.key for file in root.files]
    expect(len(set(files)) == len(files), "a file is there twice")
    # Whoever writes next removes what is retired.
    expect(not {key for key, _, _ in root.retired} & set(files), "a retired file is in use")
    return root


def _catalog(document: Any, load_table: LoadTable) -> Catalog:
    table, store = document.get("datasets"), document["store"]
    expect(isinstance(table, dict) and isinstance(table.get("tables"), list), "the dataset table is malformed")
    slots, count = table.get("slots"), table.get("count")
    expect(is_count(slots, MAX_SLOTS) and is_count(count, slots), "the dataset table is malformed")
    tables = tuple(DataFile.from_json(file, ".at") for file in table["tables"])
    top = Layer.from_json(document.get("schemas"), table.get("parts"), table.get("deleted"), slots)
    expect(tables or len(top) == count, "the dataset table is malformed")
    return Catalog(slots, count, tables, top, partial(load_table, store))


def _array_files(value: Any) -> ArrayFiles:
    expect(isinstance(value, dict) and isinstance(value.get("files"), list), "bad array entry")
    directory = value.get("directory")
    files = tuple(DataFile.from_json(file) for file in value["files"])
    expect(isinstance(directory, str), "bad directory")
    expect(all(file.key.startswith(f"{directory}/") for file in files), "a data file lies outside its directory")
    return ArrayFiles(directory, files)


def _copies(copies: Any, files: Sequence[DataFile]) -> dict[str, bytes]:
    """Return the copies of indexes, as long as these are; whether they are true is seen when they are used."""
    expect(isinstance(copies, dict), "bad copies of indexes")
    sizes = {file.key: file.index_length for file in files} if copies else {}
    found = {key: copy if isinstance(copy, bytes) else _from_text(copy) for key, copy in copies.items()}
    expect(all(len(copy) == sizes.get(key) for key, copy in found.items()), "a copy of an index is not as long as it")
    return found


def _from_text(copy: Any) -> bytes:
    expect(isinstance(copy, str), "bad copies of indexes")
    return base64.b64decode(copy, validate=True)


def _retired(entry: Any) -> tuple[str, int, int]:
    expect(isinstance(entry, list) and len(entry) == 3 and isinstance(entry[0], str), "bad retired file")
    expect(is_key_of_a_file(entry[0]), "bad retired file")
    expect(is_count(entry[1]) and is_count(entry[2]), "bad retired file")
    return entry[0], entry[1], entry[2]
