"""Forged stores, sealed with the right checksums: every value of a root replaced by what an attacker would put there.

Each is refused with an error of ours (or read rightly), within a second, in bounded memory, and with nothing looked at
outside the store.
"""

from __future__ import annotations

import copy
import json
import math
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import atlas
from torture.corpus import make
from torture.disk import Disk
from torture.forging import seal
from torture.scenes import build, cells, in_child, state_of

# Address space that a forged store may have on top of what the process has.
ROOM = 768 << 20

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
    return under_watch(place, what, lambda: state_of(place))


def under_watch(place: Path, what: str, action: Callable[[], Any], seconds: float = 1) -> str:
    """Do something with a forged store, in little time and memory, and with nothing looked at outside; return its end.

    Meant for a child of its own.
    """
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, -1))
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    disk = Disk(str(place.parent))
    began = time.process_time(), time.monotonic()
    with disk.installed():
        try:
            action()
            ended = "read"
        except atlas.AtlasError:
            ended = "refused"
        except MemoryError:
            # An array may be declared larger than the machine; reading all of it fails, and takes no memory first.
            assert declares_too_much(place), f"{what}: out of memory, and nothing says that so much is needed"
            ended = "too large"
        except Exception as error:
            raise AssertionError(f"{what}: {error!r}") from error
    assert time.process_time() - began[0] < seconds, f"{what}: it took {time.process_time() - began[0]:.1f} s"
    assert time.monotonic() - began[1] < 10, f"{what}: it waited {time.monotonic() - began[1]:.1f} s"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident) >> 10
    assert grown < 256, f"{what}: it took {grown} MiB"
    # Where the store really is may be asked of the directories above it.
    outside = [
        s for s in disk.steps if not f"{s.path}/".startswith(f"{place}/") and s.path not in map(str, place.parents)
    ]
    assert not outside, f"{what}: {outside}"
    assert not disk.escaped, f"{what}: {disk.escaped}"
    return ended


def declares_too_much(place: Path) -> bool:
    """Whether an array of a store has more cells than there is room for."""
    store = atlas.Atlas.open(place, mode="r", workers=1)
    views = [store.open_dataset(name) for name in store.list_datasets()]
    metas = [view.array_meta(array) for view in views for array in view.list_arrays()]
    return any(math.prod(meta["shape"]) >= ROOM >> 4 for meta in metas)


def everything(place: Path) -> None:
    """Do all that can be done with a store; raise the first error of ours, or one for what verify finds."""
    failures: list[str] = []  # an error would keep alive what its frames hold
    for act in (_repair_if_lost, state_of, _select, _verify, _write, _compact, atlas.Atlas.repair):
        began = time.process_time()
        try:
            act(place)
        except atlas.AtlasError as error:
            failures.append(str(error))
        assert time.process_time() - began < 1, f"{act}: it took {time.process_time() - began:.1f} s"
    if failures:
        raise atlas.CorruptStore(failures[0])


def _repair_if_lost(place: Path) -> None:
    if not any(place.glob("atlas.*")):
        atlas.Atlas.repair(place, dry_run=True)


def _select(place: Path) -> None:
    store = atlas.Atlas.open(place, mode="r", workers=1)
    store.merged_schema()
    store.pruning_index()
    store.column_summaries()


def _verify(place: Path) -> None:
    report = atlas.Atlas.open(place, mode="r", workers=1).verify()
    if not report.ok:
        raise atlas.CorruptStore(str(report.problems[0]))


def _write(place: Path) -> None:
    with atlas.Atlas.open(place, workers=1) as store:
        store.create_dataset("more").set_attribute("k", 1)
        store.open_dataset("d0").write_array("t", [0, 0], cells(4, (2, 2)))


def _compact(place: Path) -> None:
    atlas.Atlas.open(place, workers=1).compact()


def judge(name: str, work: Path) -> str:
    """Make a forgery of the corpus, and do everything with it; return how that ended."""
    place = make(name, work)
    secret = {path: path.read_bytes() for path in (work / "secret").rglob("*") if path.is_file()}
    try:
        return str(in_child(lambda: under_watch(place, name, lambda: everything(place), 5)))
    finally:
        assert {path: path.read_bytes() for path in (work / "secret").rglob("*") if path.is_file()} == secret
        assert sorted(path.name for path in work.iterdir()) == ["secret", "store"]
        shutil.rmtree(work)


def corpus(work: Path) -> tuple[Path, list[tuple[str, str, bytes]]]:
    """Make a store, a file that it must not touch, and the forgeries."""
    place = work / "store"
    build(place)
    (work / "secret").mkdir()
    (work / "secret" / "data-0.af").write_bytes(b"secret")
    return place, list(forged_roots(place))
