"""Damage: every bit, every length, junk behind, files exchanged. The right answer or an error, never wrong numbers."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import atlas
from atlas import commitfiles
from atlas.chunks import Box
from atlas.record import read_record
from atlas.storage import LocalStorage
from torture.scenes import Share, fill_dataset, state_of

Damage = tuple[str, bytes]
Chunk = tuple[str, str, int]


class Intact(NamedTuple):
    """What a chunk is, and where its bytes are; in no file if it was never written."""

    box: Box
    cells: np.ndarray
    key: str = ""
    offset: int = 0
    length: int = 0


def objects(place: Path) -> list[str]:
    """Return the files of a store whose bytes matter."""
    found = (p for p in sorted(place.rglob("*")) if p.is_file() and p.name != ".atlas.lock")
    return [str(p.relative_to(place)) for p in found]


def bit_flips(data: bytes, every: int = 1) -> Iterator[Damage]:
    """Yield the file with each of its bits (or every so many) the other way round."""
    for bit in range(0, len(data) * 8, every):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        yield f"bit {bit}", bytes(changed)


def lengths(data: bytes, every: int = 1) -> Iterator[Damage]:
    """Yield the file cut off at each of its lengths."""
    for length in range(0, len(data), every):
        yield f"cut at {length}", data[:length]


def tails(data: bytes) -> Iterator[Damage]:
    """Yield the file with something behind it."""
    for tail in (b"\0", b"junk" * 100, data):
        yield f"{len(tail)} bytes behind", data + tail


_moments = count(1)


def _overwrite(path: Path, data: bytes) -> None:
    with open(path, "r+b", buffering=0) as file:
        file.write(data)
        file.truncate()
    # Else two of them within a tick of the clock would seem to be the same file, which need not be read again.
    os.utime(path, ns=(0, next(_moments)))


@contextmanager
def _damaged(path: Path, data: bytes) -> Iterator[None]:
    original = path.read_bytes()
    _overwrite(path, data)
    try:
        yield
    finally:
        _overwrite(path, original)


def survive(place: Path, key: str, damage: Damage, right: Any, see: Callable[[Path], Any] = state_of) -> str:
    """Put damaged bytes in a file's place; return how reading the whole store, or what `see` does of it, ended."""
    with _damaged(place / key, damage[1]):
        try:
            seen = see(place)
        except (atlas.CorruptStore, atlas.SnapshotExpired):
            return "refused"
    assert seen == right, f"{key}, {damage[0]}: wrong, and nobody said so"
    return "right"


def what_needs(key: str) -> Callable[[Path], Any]:
    """Return what reads all that a file is needed for, and nothing else."""
    directory = key.split("/")[0]
    if key.endswith(".ar"):
        return lambda place: read_record(LocalStorage(str(place)), key)
    return partial(_state_of_array, directory) if key.endswith(".af") else state_of


def _state_of_array(array: str, place: Path) -> Any:
    store = atlas.Atlas.open(place, mode="r", workers=1)
    names = store.list_datasets()
    cells = [part.tolist() for part in store.read_array_across(array, names)]
    return repr(cells), [repr(store.open_dataset(name).array_stats(array)) for name in names]


def survive_repair(place: Path, key: str, damage: Damage, right: Mapping[Chunk, Intact]) -> int:
    """Put damaged bytes in a file's place in a copy of the store, verify and repair it; count the chunks lost.

    What verify says must be true, and repair must bring back every chunk whose bytes are not hit.
    """
    trial, whole = place.with_name("trial"), (place / key).read_bytes()
    hit = {chunk for chunk, at in right.items() if at.key == key and _piece(whole, at) != _piece(damage[1], at)}
    shutil.copytree(place, trial)
    try:
        (trial / key).write_bytes(damage[1])
        return _repaired(trial, f"{key}, {damage[0]}", right, hit)
    finally:
        shutil.rmtree(trial)


def _piece(data: bytes, at: Intact) -> bytes:
    return data[at.offset :][: at.length]


def _repaired(trial: Path, what: str, right: Mapping[Chunk, Intact], hit: set[Chunk]) -> int:
    try:
        found = not atlas.Atlas.open(trial, mode="r", workers=1).verify().ok
    except atlas.CorruptStore:
        found = True
    # A compressed root has a few bits that change nothing of what comes out.
    assert found or re.match(r"atlas\..*\.(zst|lz4), bit", what), f"{what}: verify does not see it"
    lost = {(p.array, p.dataset, p.chunk) for p in atlas.Atlas.repair(trial).lost}
    assert lost == hit, f"{what}: lost {lost}, but hit were {hit}"
    assert readable(trial, right) == right.keys() - hit, f"{what}: not every intact chunk is back"
    left = {(p.array, p.dataset, p.chunk) for p in atlas.Atlas.open(trial, mode="r", workers=1).verify().problems}
    assert left == hit, f"{what}: after the repair verify still says {left}"
    return len(hit)


def chunks(place: Path) -> dict[Chunk, Intact]:
    """Return every chunk."""
    store = atlas.Atlas.open(place, mode="r", workers=1)
    found = {}
    for name in store.list_datasets():
        view = store.open_dataset(name)
        for array in view.list_arrays():
            grid = store._session.record(name).arrays[array].grid
            for number in range(grid.count):
                box = grid.extent(number)
                found[array, name, number] = Intact(
                    box, view.read_array(array, *box), *_stored(store, array, name, number)
                )
    return found


def _stored(store: atlas.Atlas, array: str, name: str, number: int) -> tuple[Any, ...]:
    """Return where the bytes of a chunk are; nothing where there are none."""
    index = store._session.snapshot.index(array)
    row = index.locate_one(store._session.ordinal(name), number)
    if row < 0:
        return ()
    file, offset, length = (int(index.columns[column][row]) for column in ("file", "offset", "length"))
    return index.files[file].key, offset, length


def readable(place: Path, right: Mapping[Chunk, Intact]) -> set[Chunk]:
    """Return the chunks that can be read; a wrong one is an AssertionError."""
    store = atlas.Atlas.open(place, mode="r", workers=1)
    found = set()
    for (array, name, number), intact in right.items():
        try:
            read = store.open_dataset(name).read_array(array, *intact.box)
        except atlas.CorruptStore:
            continue
        assert np.array_equal(read, intact.cells, equal_nan=read.dtype.kind == "f")
        found.add((array, name, number))
    return found


def small_store(place: Path, seed: int = 1, tables: bool = False, **options: Any) -> Path:
    """Make a store of two datasets, small enough for each of its bits; with a table file on request."""
    inline = commitfiles.INLINE_BYTES
    commitfiles.INLINE_BYTES = 0 if tables else inline
    try:
        with atlas.Atlas.create(place, workers=1, **options) as store:
            fill_dataset(store, "a", seed)
            fill_dataset(store, "b", seed + 1)
    finally:
        commitfiles.INLINE_BYTES = inline
    return place


def exchanges(place: Path, other: Path) -> Iterator[tuple[str, Damage]]:
    """Yield files in the places of others, of this store and of another."""
    keys = objects(place)
    data = {key: (place / key).read_bytes() for key in keys}
    for key in keys:
        for foreign in (k for k in keys if k != key):
            yield key, (f"{foreign} in its place", data[foreign])
        for foreign in objects(other):
            if not foreign.startswith("atlas."):
                yield key, (f"{foreign} of another store in its place", (other / foreign).read_bytes())


def stale(place: Path) -> Iterator[tuple[str, Damage]]:
    """Change a store, and yield what its files were before, in the places of what they are now."""
    before = {key: (place / key).read_bytes() for key in objects(place)}
    with atlas.Atlas.open(place, workers=1) as store:
        store.open_dataset("a").write_array("t", [0, 0], store.open_dataset("b").read_array("t"))
    for key in objects(place):
        array = key.split("/")[0]
        for old, data in before.items():
            if key not in before and old.split("/")[0] == array:
                yield key, (f"{old} of an older generation in its place", data)


def swapped_chunks(place: Path) -> Iterator[tuple[str, Damage]]:
    """Yield data files with the bytes of one chunk in the place of another's."""
    snapshot = atlas.Atlas.open(place, mode="r", workers=1)._session.snapshot
    for array in snapshot.root.arrays:
        index = snapshot.index(array)
        offsets, lengths = index.columns["offset"].tolist(), index.columns["length"].tolist()
        key = index.files[0].key
        data = (place / key).read_bytes()
        for i, first in enumerate(offsets):
            for j, second in enumerate(offsets):
                one, other = data[first:][: lengths[i]], data[second:][: lengths[j]]
                if one != other and i < j and lengths[i] == lengths[j]:
                    swapped = bytearray(data)
                    swapped[first : first + lengths[i]], swapped[second : second + lengths[j]] = other, one
                    yield key, (f"chunks {i} and {j} swapped", bytes(swapped))
                    swapped[second : second + lengths[j]] = other
                    yield key, (f"chunk {j} twice", bytes(swapped))


def every_damage(place: Path, key: str, every: int) -> Iterator[Damage]:
    """Yield the flips, the lengths and the tails of a file."""
    data = (place / key).read_bytes()
    yield from bit_flips(data, every)
    yield from lengths(data, every)
    yield from tails(data)


def campaign(work: Path, share: Share, report: Callable[[str], None], every: int = 1) -> int:
    """Damage every bit of a store in each root encoding and codec, and read what needs that file.

    With every seventh of them all of the store is read, verified and repaired: so each byte is damaged for that, too.
    """
    total = 0
    cases = [("json", c, "zstd", c == "none") for c in ("none", "zstd", "lz4")] + [
        ("msgpack", c, "lz4", False) for c in ("none", "zstd", "lz4")
    ]
    for fmt, compression, codec, tables in cases:
        place = small_store(work / "store", tables=tables, meta_format=fmt, meta_compression=compression, codec=codec)
        right, right_chunks = state_of(place), chunks(place)
        ends: Counter[str] = Counter()
        for key in objects(place):
            # What this handle knows of the dataset table need not be found out for each damage to another file.
            kept = atlas.Atlas.open(place, mode="r", workers=1) if key.endswith(".af") else None
            see = what_needs(key)
            seen = see(place)
            for damage in share.of(every_damage(place, key, every)):
                ends[survive(place, key, damage, seen, see)] += 1
            for damage in share.of(every_damage(place, key, 7 * every)):
                ends[survive(place, key, damage, right)] += 1
                lost = survive_repair(place, key, damage, right_chunks)
                ends["repaired, chunks lost" if lost else "repaired whole"] += 1
            del kept
        for key, damage in share.of(swapped_chunks(place)):
            ends["repaired, chunks lost"] += survive_repair(place, key, damage, right_chunks) > 0
        for key, damage in share.of(stale(place)):
            ends[survive(place, key, damage, state_of(place))] += 1
        total += ends.total()
        report(f"{fmt} {compression} {codec}: {dict(ends)}")
        shutil.rmtree(place)
    return total
