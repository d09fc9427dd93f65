"""The corpus of forged stores: each is one lie, sealed with the right checksums."""

from __future__ import annotations

import base64
import os
import pickle
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import lz4.block
import lz4.frame
import msgpack
import numpy as np
import xxhash
import zstandard

import atlas
from atlas import commitfiles
from torture.forging import Forgery, raw, seal, with_head
from torture.scenes import fill_dataset

Forge = Callable[[Forgery], None]
FORGERIES: dict[str, Forge] = {}


def forged(name: str) -> Callable[[Forge], Forge]:
    """Add a forgery to the corpus."""

    def add(forge: Forge) -> Forge:
        FORGERIES[name] = forge
        return forge

    return add


@cache
def bomb() -> bytes:
    """Return few bytes that become a quarter of a gigabyte."""
    return zstandard.compress(bytes(1 << 28), 19)


def original(place: Path, tables: bool = False, **options: Any) -> None:
    """Make the store that is forged: one flush, with a table file on request."""
    inline = commitfiles.INLINE_BYTES
    commitfiles.INLINE_BYTES = 0 if tables else inline
    try:
        with atlas.Atlas.create(place, workers=1, **options) as store:
            for i in range(3):
                fill_dataset(store, f"d{i}", i + 1)
            view = store.create_dataset("large")
            view.define_array("p", "float64", ["x"], [4000])
            view.write_array("p", [0], np.round(np.sin(np.arange(4000)), 2))
    finally:
        commitfiles.INLINE_BYTES = inline


def make(name: str, work: Path) -> Path:
    """Make one forged store; beside it is a file that it must not touch."""
    work.mkdir()
    (work / "secret").mkdir()
    (work / "secret" / "data-0.af").write_bytes(b"secret")
    place = work / "store"
    original(place, tables=name.startswith("table:"))
    FORGERIES[name](Forgery(place))
    return place


# ── the root ──────────────────────────────────────────────────────────────────────────────────


def _insert(text: bytes) -> Forge:
    return lambda f: f.text(lambda plain: plain.replace(b'"format"', text + b'"format"', 1))


def _compressed(text: bytes) -> Forge:
    def forge(f: Forgery) -> None:
        plain = (f.place / "atlas.json").read_bytes().replace(b'"format"', text + b'"format"', 1)
        f.replace_root("atlas.json.zst", zstandard.compress(seal(plain)))

    return forge


def _set(*path: Any, value: Any) -> Forge:
    def forge(f: Forgery) -> None:
        target = f.document
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = value
        f.save()

    return forge


_PART = ("datasets", "parts", 0)
_FILE = ("arrays", "t", "files", 0)
_ARRAY = ("schemas", 0, "arrays", 0)
FORGERIES |= {
    "root: a zstd bomb": lambda f: f.replace_root("atlas.json.zst", bomb()),
    "root: an lz4 bomb": lambda f: f.replace_root("atlas.json.lz4", lz4.frame.compress(bytes(1 << 28))),
    "root: a frame in a frame": lambda f: f.replace_root(
        "atlas.json.zst", zstandard.compress(zstandard.compress(b"{}"))
    ),
    "root: an empty frame": lambda f: f.replace_root("atlas.json.zst", zstandard.compress(b"")),
    "root: nothing": lambda f: f.replace_root("atlas.json.lz4", b""),
    "root: a pickle": lambda f: f.replace_root("atlas.msgpack", pickle.dumps({"checksum": os.getcwd})),
    "root: a map of four billion": lambda f: f.replace_root("atlas.msgpack", b"\x81\xa8checksum\xdf\xff\xff\xff\xff"),
    "root: nested MessagePack": lambda f: f.replace_root("atlas.msgpack", b"\x91" * 100_000),
    "root: an extension": lambda f: f.replace_root("atlas.msgpack", msgpack.packb(msgpack.ExtType(5, b"x" * 100))),
    "root: deep lists": _insert(b'"x": ' + b"[" * 200_000),
    "root: deep maps": _insert(b'"x": ' + b'{"a":' * 200_000),
    "root: four million lists in a kilobyte": _compressed(b'"x": [' + b"[], " * (4 << 20) + b"[]], "),
    "root: a key twice": _insert(b'"format": "atlas", '),
    "root: a key twice, below": lambda f: f.text(lambda p: p.replace(b'"slots": ', b'"slots": 1, "slots": ', 1)),
    "root: NaN": _insert(b'"x": NaN, '),
    "root: infinity": _insert(b'"x": -Infinity, '),
    "root: a number of 100,000 digits": _insert(b'"x": ' + b"9" * 100_000 + b", "),
    "root: not UTF-8": _insert(b'"\xff": 1, '),
    "root: a later version": _set("version", value=2),
    "root: a negative generation": _set("generation", value=-1),
    "root: a commit id that is a path": _set(*_FILE, "commit", value="../../../secret/data-0"),
    "root: its own commit id is none": _set("commit", value="x"),
    "root: a store id without a UTF-8 form": _set("store", value="\ud800"),
    "root: an attribute without a UTF-8 form": _set("schemas", 0, "attributes", 0, 0, value="\ud800"),
    "root: a codec that is not known": _set("codec", value="os.system"),
    "root: a file outside": _set(*_FILE, "file", value="../../secret/data-0.af"),
    "root: a file outside, absolute": _set(*_FILE, "file", value="/etc/passwd"),
    "root: a file name with a NUL": _set(*_FILE, "file", value="t/data-\0.af"),
    "root: a file name with a backslash": _set(*_FILE, "file", value="t/..\\data.af"),
    "root: a file of a megabyte's name": _set(*_FILE, "file", value=f"t/{'x' * (1 << 20)}.af"),
    "root: a directory outside": _set("arrays", "t", "directory", value=".."),
    "root: a file longer than it is": _set(*_FILE, "length", value=1 << 60),
    "root: an index behind its file": _set(*_FILE, "index", value=[1 << 60, 1 << 60]),
    "root: an index of negative length": _set(*_FILE, "index", value=[0, -8]),
    "root: an index of everything": _set(*_FILE, "index", value=[0, 8]),
    "root: a file ten thousand times": lambda f: _set("arrays", "t", "files", value=[f.file()] * 10_000)(f),
    "root: the file of another array": lambda f: _set(*_FILE, value=f.file("n"))(f),
    "root: a retired file outside": _set("retired", value=[["../../secret/data-0.af", 0, 0]]),
    "root: a retired file that is the root": _set("retired", value=[["atlas.json", 0, 0]]),
    "root: a retired file that is in use": lambda f: _set("retired", value=[[f.file()["file"], 0, 0]])(f),
    "root: ordinals without end": _set(*_PART, "ordinals", value=[[0, 1 << 40]]),
    "root: an ordinal twice": _set(*_PART, "ordinals", value=[[0, 2], [1, 1]]),
    "root: two billion slots and datasets": lambda f: (
        f.document["datasets"].update(slots=1 << 31, count=1 << 31),
        _set(*_PART, "ordinals", value=[[0, 1 << 31]])(f),
    ),
    "root: two billion slots, almost all of datasets that were deleted": _set("datasets", "slots", value=1 << 31),
    "root: deleted without end": _set("datasets", "deleted", value=[[0, 1 << 31]] * 100),
    "root: a dataset twice": _set(*_PART, "names", value=["d0", "d0", "d2"]),
    "root: a dataset with a path for a name": _set(*_PART, "names", value=["d0", "../d1", "d2"]),
    "root: a dataset with a megabyte's name": _set(*_PART, "names", value=["d0", "x" * (1 << 20), "d2"]),
    "root: a dataset that is a lone surrogate": _set(*_PART, "names", value=["d0", "\ud800", "d2"]),
    "root: an array with a path for a name": _set(*_ARRAY, "name", value="../t"),
    "root: an array twice": lambda f: f.document["schemas"][0]["arrays"].append(f.document["schemas"][0]["arrays"][0])
    or f.save(),
    "root: sizes that overflow": _set(*_PART, "sizes", value=[{"all": 1 << 40}, {"all": 1 << 40}]),
    "root: a negative size": _set(*_PART, "sizes", value=[{"all": -6}, {"all": 8}]),
    "root: an axis without cells, of an array with chunks": _set(*_PART, "sizes", value=[{"all": 0}, {"all": 8}]),
    "root: a thousand axes": _set(*_ARRAY, "dims", value=["y"] * 1000),
    "root: chunks of nothing": _set(*_ARRAY, "chunk_shape", value=[0, 4]),
    "root: a shape of other rank": _set(*_ARRAY, "chunk_shape", value=[3]),
    "root: a type that is not known": _set(*_ARRAY, "dtype", value="object"),
    "root: a fill value of another type": _set(*_ARRAY, "fill_value", value={"a": 1}),
    "root: an attribute of no type": _set("schemas", 0, "attributes", value=[["seed", "object"]]),
    "root: an attribute deeper than any": _set(*_PART, "attributes", value=[{"all": [[[[1]]]]}, {"all": "K"}]),
    "root: fewer columns than a schema": _set(*_PART, "attributes", value=[]),
    "root: a schema that is not there": _set(*_PART, "schema", value=7),
}  # fmt: skip


# ── files that are no files ───────────────────────────────────────────────────────────────────


def _replaced(f: Forgery, path: Path, make: Callable[[Path], None]) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    make(path)


def _outside(f: Forgery) -> Path:
    return f.place.parent / "secret"


FORGERIES |= {
    "place: the root is a link": lambda f: (
        shutil.move(f.place / "atlas.json", _outside(f) / "atlas.json"),
        (f.place / "atlas.json").symlink_to(_outside(f) / "atlas.json"),
    ),
    "place: a data file is a link": lambda f: _replaced(
        f, f.place / f.file()["file"], lambda p: p.symlink_to(_outside(f) / "data-0.af")
    ),
    "place: a directory is a link": lambda f: (
        shutil.move(f.place / "t", _outside(f) / "t"), (f.place / "t").symlink_to(_outside(f) / "t")
    ),
    "place: a link to itself": lambda f: _replaced(f, f.place / f.file()["file"], lambda p: p.symlink_to(p)),
    "place: the records are behind a link": lambda f: (
        shutil.move(f.place / "_catalog", _outside(f) / "c"), (f.place / "_catalog").symlink_to(_outside(f) / "c")
    ),
    "place: the root is a directory": lambda f: _replaced(f, f.place / "atlas.json", Path.mkdir),
    "place: a data file is a directory": lambda f: _replaced(f, f.place / f.file()["file"], Path.mkdir),
    "place: the root is a pipe": lambda f: _replaced(f, f.place / "atlas.json", os.mkfifo),
    "place: a data file is a pipe": lambda f: _replaced(f, f.place / f.file()["file"], os.mkfifo),
    "place: the lock file is a pipe": lambda f: _replaced(f, f.place / ".atlas.lock", os.mkfifo),
    "place: a record is a pipe": lambda f: _replaced(f, next((f.place / "_catalog").iterdir()), os.mkfifo),
}  # fmt: skip

# ── files that are almost all hole ────────────────────────────────────────────────────────────

_HOLE = 20 << 30


def _of_a_directory(array: str) -> Forge:
    """Give a file an index that is all directory."""

    def forge(f: Forgery) -> None:
        entry = f.file(array)
        with open(f.place / entry["file"], "r+b") as file:
            file.truncate(_HOLE)
            file.seek(_HOLE - 8)
            file.write((_HOLE - 40).to_bytes(8, "little"))
        entry.update(length=_HOLE, index=[24, _HOLE - 24])
        f.save()

    return forge


FORGERIES |= {
    "root: twenty gigabytes": lambda f: os.truncate(f.place / "atlas.json", _HOLE),
    "root: twenty gigabytes, compressed": lambda f: (
        f.replace_root("atlas.msgpack.zst", b""), os.truncate(f.place / "atlas.msgpack.zst", _HOLE)
    ),
    "place: a record of twenty gigabytes": lambda f: os.truncate(next((f.place / "_catalog").iterdir()), _HOLE),
    "index: a directory of twenty gigabytes": _of_a_directory("t"),
    "table: a directory of twenty gigabytes": _of_a_directory("table"),
}  # fmt: skip

# ── copies of indexes in the root ─────────────────────────────────────────────────────────────


def _text(copy: bytes) -> str:
    return base64.b64encode(copy).decode()


def _copy(change: Callable[[str, bytes], Any]) -> Forge:
    """Give the root a copy of an index, as those on object stores have, and change it."""

    def forge(f: Forgery) -> None:
        key, (first, length) = f.file()["file"], f.file()["index"]
        f.document["indexes"] = change(key, (f.place / key).read_bytes()[first : first + length])
        f.save()

    return forge


def _copy_of_another(f: Forgery) -> None:
    first, length = f.file("n")["index"]
    other = (f.place / f.file("n")["file"]).read_bytes()[first : first + length]
    _copy(lambda key, copy: {key: _text(other[: len(copy)].rjust(len(copy), b"\0"))})(f)


FORGERIES |= {
    "copy: no map": _copy(lambda key, copy: [[key, _text(copy)]]),
    "copy: a number": _copy(lambda key, copy: {key: len(copy)}),
    "copy: a list": _copy(lambda key, copy: {key: [*copy]}),
    "copy: nested": _copy(lambda key, copy: {key: {key: {key: _text(copy)}}}),
    "copy: no text of bytes": _copy(lambda key, copy: {key: "ü?" * len(copy)}),
    "copy: of no file": _copy(lambda key, copy: {"t/data-0.af": _text(copy)}),
    "copy: of a file outside": _copy(lambda key, copy: {"../../secret/data-0.af": _text(b"secret")}),
    "copy: longer than the index": _copy(lambda key, copy: {key: _text(copy + b"\0")}),
    "copy: shorter than the index": _copy(lambda key, copy: {key: _text(copy[1:])}),
    "copy: ten megabytes": _copy(lambda key, copy: {key: _text(copy) * (10_000_000 // len(copy))}),
    "copy: zeros": _copy(lambda key, copy: {key: _text(bytes(len(copy)))}),
    "copy: one bit of a column": _copy(lambda key, copy: {key: _text(bytes([copy[0] ^ 1]) + copy[1:])}),
    "copy: one bit of the directory": _copy(
        lambda key, copy: {key: _text(copy[:-20] + bytes([copy[-20] ^ 1]) + copy[-19:])}
    ),
    "copy: a directory longer than it": _copy(lambda key, copy: {key: _text(copy[:-8] + b"\xff" * 8)}),
    "copy: of another array": _copy_of_another,
}  # fmt: skip


# ── indexes ───────────────────────────────────────────────────────────────────────────────────


def _shift(name: str, change: Callable[[np.ndarray], Any], dtype: str = "<u8", array: str = "t") -> Forge:
    return lambda f: f.column(name, change(f.numbers(name, array).astype(object)), dtype, array)


def _first(value: int) -> Callable[[np.ndarray], Any]:
    return lambda values: [value, *values[1:]]


def _texts(cells: list[bytes]) -> tuple[dict[str, Any], bytes]:
    data = np.array([len(cell) for cell in cells], "<u4").tobytes() + b"".join(cells)
    return {"dtype": "bytes", "count": len(cells), "encoding": "raw"}, data


def _in_no_bytes(rows: int) -> Forge:
    """Give an index so many datasets, of one chunk without bytes each, in columns that take none for a row."""
    values = {
        "count": (1, "<u4"), "flags": (2, "|u1"), "rows": (48, "<u8"), "nulls": (0, "<u8"), "min": (0, "<f8"),
        "max": (0, "<f8"), "number": (0, "<u4"), "offset": (24, "<u4"), "length": (0, "<u4"), "raw_length": (48, "<u4"),
        "pipeline": (0, "|u1"), "checksum": (0, "<u8"),
    }  # fmt: skip
    columns = {
        name: ({"dtype": dtype, "count": rows, "encoding": "constant"}, np.array(value, dtype).tobytes())
        for name, (value, dtype) in values.items()
    }
    ordinals = {"dtype": "<u4", "count": rows, "encoding": "range"}, np.array([0, 1], "<i8").tobytes()
    return lambda f: f.index(lambda d, c: (c.clear(), c.update(columns, ordinal=ordinals)))


def _in_one_place(f: Forgery) -> None:
    """Give an index ten thousand columns, all of them the same bytes, which become four megabytes."""
    body = zstandard.compress(bytes(4 << 20))
    entry = {"dtype": "|u1", "count": 1 << 20, "encoding": "zstd"}
    place = {"offset": 0, "length": len(body), "hash": xxhash.xxh3_64_intdigest(body)}

    def change(_: Any, columns: dict[str, Any]) -> None:
        real = dict(columns)
        columns.clear()
        columns["first"] = entry, body
        columns.update(real)
        columns.update((f"again {i}", (entry | {"forged": place}, b"")) for i in range(10_000))

    f.index(change)


_DEEP = b"\x91" * 100_000
_HUGE = {"encoding": "constant", "dtype": "<u4", "count": 1 << 39}
FORGERIES |= {
    "index: a directory longer than it": lambda f: f.index(lambda d, c: d.update(forged_length=1 << 60)),
    "index: a directory that is a pickle": lambda f: f.index(lambda d, c: None, packed=pickle.dumps({"columns": []})),
    "index: a directory that is nested": lambda f: f.index(lambda d, c: None, packed=_DEEP),
    "index: a directory that is a list": lambda f: f.index(lambda d, c: None, packed=msgpack.packb([1, 2])),
    "index: columns that are no list": lambda f: f.index(lambda d, c: None, packed=msgpack.packb({"columns": 5})),
    "index: it belongs to another array": lambda f: f.index(lambda d, c: d.update(array="n")),
    "index: a constant without end": lambda f: f.entry("count", body=bytes(4), **_HUGE),
    "index: a long range, in a file that is said to be longer": lambda f: (
        f.entry("ordinal", body=bytes(8) + b"\1" + bytes(7), encoding="range", count=1 << 26),
        _set(*_FILE, "length", value=1 << 60)(f),
    ),
    "index: a range without end": lambda f: f.entry("ordinal", body=bytes(16), **_HUGE | {"encoding": "range"}),
    "index: a range of texts": lambda f: f.entry(
        "ordinal", body=bytes(16), encoding="range", dtype="<U4", count=1 << 20
    ),
    "index: sixteen million datasets in no bytes": _in_no_bytes(16 << 20),
    "index: a million datasets in no bytes": _in_no_bytes(1 << 20),
    "index: columns that are the same": _in_one_place,
    "index: text without end": lambda f: f.entry("min", body=b"x" * 64, **_HUGE | {"dtype": "bytes"}, array="label"),
    "index: a column bomb": lambda f: f.entry(
        "count", body=bomb(), encoding="zstd", count=1 << 26
    ),
    "index: a column of objects": lambda f: f.entry(
        "ordinal", body=pickle.dumps([os.getcwd]), dtype="|O", encoding="raw"
    ),
    "index: a column of gigabyte cells": lambda f: f.entry("ordinal", dtype=f"|V{1 << 30}", encoding="raw"),
    "index: a column of no type": lambda f: f.entry("ordinal", dtype="(((("),
    "index: a column in no encoding": lambda f: f.entry("ordinal", encoding="pickle"),
    "index: a column behind its end": lambda f: f.entry("ordinal", offset=1 << 40),
    "index: a column of negative length": lambda f: f.entry("ordinal", length=-5),
    "index: a column without a hash": lambda f: f.entry("ordinal", hash=None),
    "index: a column of floats": lambda f: f.column("number", [float("nan")] * 12, "<f8"),
    "index: text where numbers are": lambda f: f.entry("ordinal", dtype="bytes", encoding="constant", body=b"xyz"),
    "index: entries out of order": _shift("ordinal", lambda v: [*v[::-1]], "<u4"),
    "index: an entry twice": _shift("ordinal", lambda v: [v[0], v[0], v[2]], "<u4"),
    "index: more chunks than there are": _shift("count", lambda v: [1 << 31, *v[1:]], "<u4"),
    "index: a negative number of chunks": lambda f: (
        f.column("count", [(1 << 64) - 4, 12, 4], "<u8"), f.column("number", range(12), "<u8")
    ),
    "index: numbers of chunks that overflow": _shift("count", lambda v: [1 << 62, 1 << 62, (1 << 63) + 12], "<u8"),
    "index: a negative ordinal": _shift("ordinal", lambda v: [(1 << 64) - 1, *v[1:]], "<u8"),
    "index: statistics that are nested": lambda f: f.index(
        lambda d, c: (c.pop("min"), c.update(min_any=_texts([_DEEP] * 3)))
    ),
    "index: statistics that are numbers": lambda f: f.index(
        lambda d, c: (c.pop("min"), c.update(min_any=raw([1, 2, 3], "|u1")))
    ),
    "index: statistics of another type": lambda f: f.index(lambda d, c: c.update(min=_texts([b"x", b"y", b"z"]))),
    "index: a chunk outside": _shift("offset", _first(1 << 40)),
    "index: a chunk before the beginning": _shift("offset", _first(0)),
    "index: a chunk at a negative offset": _shift("offset", _first((1 << 64) - 8)),
    "index: a chunk without end": _shift("length", _first((1 << 63) - 1)),
    "index: an offset and a length that overflow": lambda f: (
        _shift("offset", _first((1 << 63) - 1))(f), _shift("length", _first((1 << 63) - 1))(f)
    ),
    "index: chunks that overlap": _shift("offset", lambda v: [v[0], v[0] + 1, *v[2:]]),
    "index: all chunks are one": _shift("offset", lambda v: [v[0]] * len(v)),
    "index: a chunk number outside the grid": _shift("number", lambda v: [0, 1, 2, 1 << 40, *v[4:]]),
    "index: chunk numbers twice": _shift("number", lambda v: [0, 0, *v[2:]]),
    "index: chunk numbers out of order": _shift("number", lambda v: [1, 0, *v[2:]]),
    "index: a chunk larger than its place": _shift("raw_length", _first(1 << 40)),
    "index: a chunk smaller than its place": _shift("raw_length", _first(4)),
    "index: a pipeline that is not known": _shift("pipeline", _first(99), "|u1"),
    "index: pipelines of two bytes": _shift("pipeline", _first(256), "<u2"),
    "index: pipelines of two bytes, every second of which is another": lambda f: f.column(
        "pipeline", [128, 2, 0] * 4, "<u2"
    ),
    "index: checksums of a byte": _shift("checksum", lambda v: [0] * len(v), "|u1"),
    "index: a text chunk of a terabyte": _shift("raw_length", _first(1 << 40), array="label"),
}  # fmt: skip


# ── chunks ────────────────────────────────────────────────────────────────────────────────────


def _packed(header: bytes, size: int = 200, array: str = "t", filling: bytes = b"\xff") -> Forge:
    return lambda f: f.chunk(header + filling * size, 64, array)


FORGERIES |= {
    "chunk: a bomb": lambda f: f.chunk(bomb(), 17),
    "chunk: a bomb that says so": lambda f: f.chunk(bomb(), 17, raw_length=1 << 28),
    "chunk: a bomb of text": lambda f: f.chunk(zstandard.compress(bytes(1 << 31), 1), 1, "label", 1 << 31),
    "chunk: a constant of text without end": lambda f: f.chunk(bytes(1), 32, "label", 1 << 40),
    "chunk: a frame that declares no size": lambda f: f.chunk(
        zstandard.ZstdCompressor(write_content_size=False).compress(bytes(48)), 17
    ),
    "chunk: a frame with junk behind": lambda f: f.chunk(zstandard.compress(bytes(48)) + b"junk", 17),
    "chunk: a frame that is cut": lambda f: f.chunk(zstandard.compress(bytes(range(48)))[:-5], 17),
    "chunk: an lz4 block that declares a gigabyte": lambda f: f.chunk(
        (1 << 30).to_bytes(4, "little") + b"\xff" * 60, 18
    ),
    "chunk: an lz4 block that is junk": lambda f: f.chunk((48).to_bytes(4, "little") + b"\xff" * 60, 18),
    "chunk: an lz4 block that is short": lambda f: f.chunk(
        (48).to_bytes(4, "little") + lz4.block.compress(bytes(20), store_size=False), 18
    ),
    "chunk: an lz4 block of no bytes": lambda f: f.chunk(b"", 18),
    "chunk: a constant of other size": lambda f: f.chunk(b"abc", 32),
    "chunk: raw, too short": lambda f: f.chunk(b"abc", 0),
    "chunk: raw, too long": lambda f: f.chunk(b"abc" * 100, 0),
    "chunk: sealed, hashes of something else": lambda f: f.chunk(bytes(range(56)), 128, checked=8),
    "chunk: sealed, one hash too many": lambda f: f.chunk(_sealed(bytes(48)) + bytes(8), 128, checked=8),
    "chunk: sealed, no cells": lambda f: f.chunk(bytes(8), 128),
    "chunk: sealed, nothing": lambda f: f.chunk(b"", 192),
    "chunk: sealed, less than a hash": lambda f: f.chunk(b"abc", 192),
    "chunk: sealed, junk": lambda f: f.chunk(_sealed(b"\xff" * 40), 192, checked=8),
    "chunk: sealed frame": lambda f: f.chunk(_sealed(zstandard.compress(bytes(48))), 128 | 17, checked=8),
    "chunk: nothing": lambda f: f.chunk(b"", 64),
    "chunk: packed, no header": lambda f: f.chunk(b"\1\2", 64),
    "chunk: packed, of unknown kind": _packed(b"\x09\0\0\0"),
    "chunk: packed, integers for floats": _packed(b"\0\0\0\0"),
    "chunk: packed, of unknown scale": _packed(b"\1\xff\0\0"),
    "chunk: packed, along axes it has not": _packed(b"\1\2\xff\0"),
    "chunk: packed, of unknown flags": _packed(b"\1\2\0\xf0"),
    "chunk: packed, the widest numbers": _packed(b"\1\2\3\0"),
    "chunk: packed, numbers wider than wide": _packed(b"\1\2\0\4"),
    "chunk: packed, four billion patches": _packed(b"\1\2\0\2\xff\xff\xff\xff"),
    "chunk: packed, a patch outside": lambda f: f.chunk(_patched(1 << 31), 64),
    "chunk: packed, a patch just outside": lambda f: f.chunk(_patched(12), 64),
    "chunk: packed, masked without a mask": _packed(b"\1\2\0\1", 1),
    "chunk: packed, cut short": _packed(b"\1\2\0\0", 3),
    "chunk: packed, too long": _packed(b"\1\2\0\0", 5000, filling=b"\0"),
    "chunk: packed, large, the widest numbers": _packed(b"\1\2\1\0", 16000, "p"),
    "chunk: packed, large, wide, all bits": _packed(b"\1\2\1\7", 40000, "p"),
    "chunk: packed, large, words that are not there": _packed(b"\1\2\1\0", 40, "p", b"\x20"),
    "chunk: packed text": lambda f: f.chunk(b"\0\0\0\0" + bytes(20), 64, "label"),
    "chunk: text longer than it": lambda f: f.chunk(b"\xff" * 8 + b"ab", 0, "label", 10),
    "chunk: text shorter than it": lambda f: f.chunk(bytes(8) + b"ab", 0, "label", 10),
    "chunk: text of no cells": lambda f: f.chunk(b"\1\0", 0, "label", 2),
    "chunk: text that is not UTF-8": lambda f: f.chunk(b"\1\0\0\0\1\0\0\0\xff\xfe", 0, "label", 10),
}  # fmt: skip


def _sealed(body: bytes) -> bytes:
    return xxhash.xxh3_64_intdigest(body).to_bytes(8, "little") + body


def _patched(position: int) -> bytes:
    """Return a chunk of 12 equal float32 cells, one of which is patched."""
    return b"\1\2\0\2\1\0\0\0" + bytes(4) + position.to_bytes(4, "little") + bytes(4) + b"\0"


# ── table files ───────────────────────────────────────────────────────────────────────────────


def _table(name: str, values: Any, dtype: str) -> Forge:
    return lambda f: f.column(name, values, dtype, "table")


def _of_one_name(f: Forgery) -> None:
    rows = 1 << 20

    def change(directory: dict[str, Any], columns: dict[str, Any]) -> None:
        for name in ("hash", "changed", "group", "row"):
            dtype = columns[name][0]["dtype"]
            columns[name] = {"dtype": dtype, "count": rows, "encoding": "constant"}, np.zeros(1, dtype).tobytes()
        for name in ("ordinal", "order"):
            columns[name] = {"dtype": "<u4", "count": rows, "encoding": "range"}, np.array([0, 1], "<i8").tobytes()
        columns["name"] = {"dtype": "bytes", "count": rows, "encoding": "constant"}, b"d\0"

    f.document["datasets"].update(slots=rows, count=rows)
    f.index(change, "table")


FORGERIES |= {
    "table: ordinals beyond the slots": _table("ordinal", [0, 1, 2, 1 << 30], "<u4"),
    "table: an ordinal twice": _table("ordinal", [0, 1, 1, 2], "<u4"),
    "table: deleted beyond the slots": _table("deleted", [1 << 31], "<u4"),
    "table: names in no order": _table("order", [0, 1, 2, 1 << 31], "<u4"),
    "table: a group that is not there": _table("group", [0, 0, 0, 9], "<u4"),
    "table: a row that is not there": _table("row", [0, 1, 1 << 30, 0], "<u4"),
    "table: names without end": lambda f: f.entry("name", "table", b"x" * 64, **_HUGE | {"dtype": "bytes"}),
    "table: a million datasets of the same name": _of_one_name,
    "table: thirty million are deleted, from a file that is said to be longer": lambda f: (
        f.document["datasets"].update(slots=(1 << 25) + 4, deleted=[[4, 1 << 25]]),
        f.file("table").update(length=1 << 60),
        f.save(),
    ),
    "table: names that are numbers": _table("name", [1, 2, 3, 4], "<u4"),
    "table: names without their ends": lambda f: f.entry(
        "name", "table", np.array([2] * 4, "<u4").tobytes() + b"abcdefgh", dtype="bytes", encoding="raw"
    ),
    "table: names that are not UTF-8": lambda f: f.entry(
        "name", "table", np.array([2] * 4, "<u4").tobytes() + b"\xff\0" * 4, dtype="bytes", encoding="raw"
    ),
    "table: a negative size": _table("0.size.0", [-6, 6, 6], "<i8"),
    "table: sizes that overflow": _table("0.size.0", [1 << 62, 6, 6], "<i8"),
    "table: a negative ordinal": _table("ordinal", [(1 << 64) - 1, 1, 2, 3], "<u8"),
    "table: a negative deleted one": _table("deleted", [(1 << 64) - 1], "<u8"),
    "table: a group of 64 bits that is not there": _table("group", [0, 0, 0, (1 << 64) - 1], "<u8"),
    "table: sizes that are texts": lambda f: f.entry("0.size.0", "table", b"xyz", dtype="bytes", encoding="constant"),
    "table: attributes that are texts": lambda f: f.entry(
        "0.attribute.0", "table", b"xyz", dtype="bytes", encoding="constant"
    ),
    "table: changes that are texts": lambda f: f.entry("changed", "table", b"xyz", dtype="bytes", encoding="constant"),
    "table: attributes of another type": _table("0.attribute.0", [0.5, 0.5, 0.5], "<f8"),
    "table: a schema that is nested": lambda f: f.index(lambda d, c: d.update(schemas=[[[[[]]]]] * 2), "table"),
    "table: a schema that is no schema": lambda f: f.index(lambda d, c: d.update(schemas=[{"dims": 1}] * 2), "table"),
    "table: four billion rows": lambda f: f.index(lambda d, c: d.update(rows=[(1 << 32) - 1] * 2), "table"),
    "table: four billion rows that are alike": lambda f: f.index(lambda d, c: d.update(rows=[3, 1 << 31]), "table"),
    "table: a negative number of rows": lambda f: f.index(lambda d, c: d.update(rows=[-3, 1]), "table"),
    "table: no columns": lambda f: f.index(lambda d, c: c.clear(), "table"),
    "table: of another store": lambda f: f.index(lambda d, c: d.update(store="x" * 32), "table"),
}  # fmt: skip


# ── records, with the root gone ───────────────────────────────────────────────────────────────

FORGERIES |= {
    "record: a head longer than it": lambda f: f.record(lambda rest, head: (1 << 62).to_bytes(8, "little") + rest),
    "record: a head that is a pickle": lambda f: f.record(lambda rest, head: with_head(pickle.dumps(os.getcwd))),
    "record: a head that is nested": lambda f: f.record(lambda rest, head: with_head(_DEEP)),
    "record: a head that is a list": lambda f: f.record(lambda rest, head: with_head([1, 2, 3])),
    "record: a root with a path for a name": lambda f: f.record(
        lambda rest, head: with_head(head | {"object": "../../secret/atlas.json"}, rest)
    ),
    "record: a root that is a bomb": lambda f: f.record(
        lambda rest, head: with_head(head | {"root": bomb()}, rest)
    ),
    "record: a root that is text": lambda f: f.record(lambda rest, head: with_head(head | {"root": "x"}, rest)),
    "record: indexes that do not add up": lambda f: f.record(
        lambda rest, head: with_head(head | {"indexes": [["t/data-0.af", 1 << 60]]}, rest)
    ),
    "record: indexes of negative length": lambda f: f.record(
        lambda rest, head: with_head(head | {"indexes": [["t/data-0.af", -1]]}, rest)
    ),
    "record: indexes that are no list": lambda f: f.record(lambda rest, head: with_head(head | {"indexes": 5}, rest)),
}  # fmt: skip
