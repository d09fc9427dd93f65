"""Forged stores, sealed with the right checksums: every value of a root replaced by what an attacker would put there.

Each is refused with an error of ours (or read rightly), within a second, in bounded memory, and with nothing looked at
outside the store.
"""

from __future__ import annotations

import copy
import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import xxhash
import zstandard

import atlas
from torture.disk import Disk
from torture.scenes import build, in_child, state_of

DEEP: Any = []
for _ in range(400):
    DEEP = [DEEP]

VALUES: list[Any] = [
    None, True, -1, 0, 1 << 31, 1 << 62, (1 << 64) - 1, 1e308, "", "../../secret/data-0.af", "/etc/passwd",
    "x" * 100_000, "a\0b", "\ud800", [], {}, [[0, 1 << 40]], {"all": 1 << 60}, {"each": []},
    [1 << 40, 1 << 40, 1 << 40], DEEP,
]  # fmt: skip


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every value of a document."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def replaced(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return the document with one value exchanged."""
    forged = copy.deepcopy(document)
    target = forged
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return forged


def seal(plain: bytes) -> bytes:
    """Return a JSON root with the checksum that its bytes ask for."""
    start = len('{"checksum": "')
    blank = plain[:start] + b"0" * 16 + plain[start + 16 :]
    return blank[:start] + xxhash.xxh3_64_hexdigest(blank).encode() + blank[start + 16 :]


def forged_roots(place: Path) -> Iterator[tuple[str, str, bytes]]:
    """Yield a description, the name of a root object, and what it holds."""
    plain = (place / "atlas.json").read_bytes()
    document = json.loads(plain)
    for path in places(document):
        if path != ("checksum",):
            for number, value in enumerate(VALUES):
                yield f"{path} value {number}", "atlas.json", seal(json.dumps(replaced(document, path, value)).encode())
            key = path[-1]
            if isinstance(key, str):
                # The same key twice, where it is first written.
                written = json.dumps(key).encode() + b":"
                yield f"{path} twice", "atlas.json", seal(plain.replace(written, written + b" 1, " + written, 1))
    yield from _bombs(plain)


def _bombs(plain: bytes) -> Iterator[tuple[str, str, bytes]]:
    start = plain.index(b'"format"')
    for what, text in {
        "deep lists": b'"x": ' + b"[" * 200_000,
        "deep maps": b'"x": ' + b'{"a":' * 200_000,
        "not a number": b'"x": NaN, ',
        "infinity": b'"x": -Infinity, ',
        "a long number": b'"x": ' + b"9" * 100_000 + b", ",
        "not UTF-8": b'"\xff": 1, ',
    }.items():
        yield what, "atlas.json", seal(plain[:start] + text + plain[start:])
    yield "a bomb", "atlas.json.zst", zstandard.compress(bytes(1 << 28), 19)
    yield "an empty frame", "atlas.json.zst", zstandard.compress(b"")
    yield "a pickle", "atlas.msgpack", b"cos\nsystem\n(S'touch /tmp/pwned'\ntR."
    yield "many announced", "atlas.msgpack", b"\x81\xa8checksum\xdd\xff\xff\xff\xff"
    yield "nested msgpack", "atlas.msgpack", b"\x91" * 100_000
    yield "an extension", "atlas.msgpack", msgpack.packb(msgpack.ExtType(5, b"x" * 100))
    yield "nothing", "atlas.json.lz4", b""


def survive(place: Path, what: str, key: str, data: bytes) -> str:
    """Put a forged root in a store and read all of it; return how that ended."""
    original = (place / "atlas.json").read_bytes()
    (place / "atlas.json").unlink()
    (place / key).write_bytes(data)
    try:
        return str(in_child(lambda: _read(place, what)))
    finally:
        (place / key).unlink()
        (place / "atlas.json").write_bytes(original)


def _read(place: Path, what: str) -> str:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (768 << 20), -1))
    disk = Disk(str(place.parent))
    began = time.process_time()
    with disk.installed():
        try:
            state_of(place)
            ended = "read"
        except atlas.AtlasError:
            ended = "refused"
        except MemoryError:
            # An array may be declared larger than the machine; reading all of it fails, and takes no memory first.
            ended = "too large"
        except Exception as error:
            raise AssertionError(f"{what}: {error!r}") from error
    assert time.process_time() - began < 1, f"{what}: it took {time.process_time() - began:.1f} s"
    outside = [s.path for s in disk.steps if not s.path.startswith(str(place))]
    assert not outside, f"{what}: {outside}"
    return ended


def corpus(work: Path) -> tuple[Path, list[tuple[str, str, bytes]]]:
    """Make a store, a file that it must not touch, and the forgeries."""
    place = work / "store"
    build(place)
    (work / "secret").mkdir()
    (work / "secret" / "data-0.af").write_bytes(b"secret")
    return place, list(forged_roots(place))
