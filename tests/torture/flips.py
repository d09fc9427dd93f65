"""Damage: every bit, every length, junk behind, files exchanged. The right answer or an error, never wrong numbers."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import atlas
from torture.scenes import Share, fill_dataset, state_of

Damage = tuple[str, bytes]
Chunk = tuple[str, str, int]


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


def survive(place: Path, key: str, damage: Damage, right: Any) -> str:
    """Put damaged bytes in a file's place; return how reading the whole store ended."""
    path = place / key
    original = path.read_bytes()
    # A new file, as a restored backup would be: a process may still have the old one mapped.
    beside = path.with_name("damaged")
    beside.write_bytes(damage[1])
    os.replace(beside, path)
    try:
        seen = state_of(place)
    except (atlas.CorruptStore, atlas.SnapshotExpired):
        return "refused"
    finally:
        beside.write_bytes(original)
        os.replace(beside, path)
    assert seen == right, f"{key}, {damage[0]}: wrong, and nobody said so"
    return "right"


def survive_repair(place: Path, key: str, damage: Damage, right: dict[Chunk, Any]) -> int:
    """Put damaged bytes in a file's place in a copy of the store, verify and repair it; count the chunks lost.

    What verify says must be true, and repair must bring back every chunk whose bytes are not hit.
    """
    trial = place.with_name("trial")
    shutil.copytree(place, trial)
    try:
        (trial / key).write_bytes(damage[1])
        return _repaired(trial, f"{key}, {damage[0]}", right, _hit(place, key, damage[1]))
    finally:
        shutil.rmtree(trial)


def _repaired(trial: Path, what: str, right: dict[Chunk, Any], hit: set[Chunk]) -> int:
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


def _hit(place: Path, key: str, damaged: bytes) -> set[Chunk]:
    """Return the chunks whose own bytes are not what they were."""
    whole = (place / key).read_bytes()
    snapshot = atlas.Atlas.open(place, mode="r", workers=1)._session.snapshot
    hit = set()
    for array in snapshot.root.arrays:
        index = snapshot.index(array)
        names = snapshot.root.catalog.names_of(np.repeat(index.entries, np.diff(index.starts)))
        columns = (index.columns[name].tolist() for name in ("number", "file", "offset", "length"))
        for name, number, file, offset, length in zip(names, *columns, strict=True):
            if index.files[file].key == key and whole[offset:][:length] != damaged[offset:][:length]:
                hit.add((array, name, number))
    return hit


def chunks(place: Path) -> dict[Chunk, Any]:
    """Return every chunk's box and cells."""
    store = atlas.Atlas.open(place, mode="r", workers=1)
    found = {}
    for name in store.list_datasets():
        view = store.open_dataset(name)
        for array in view.list_arrays():
            grid = store._session.record(name).arrays[array].grid
            for number in range(grid.count):
                box = grid.extent(number)
                found[array, name, number] = (*box, view.read_array(array, *box))
    return found


def readable(place: Path, right: dict[Chunk, Any]) -> set[Chunk]:
    """Return the chunks that can be read; a wrong one is an AssertionError."""
    store = atlas.Atlas.open(place, mode="r", workers=1)
    found = set()
    for (array, name, number), (start, shape, cells) in right.items():
        try:
            read = store.open_dataset(name).read_array(array, start, shape)
        except atlas.CorruptStore:
            continue
        assert np.array_equal(read, cells, equal_nan=read.dtype.kind == "f")
        found.add((array, name, number))
    return found


def small_store(place: Path, seed: int = 1, **options: Any) -> Path:
    """Make a store of two datasets, small enough for each of its bits."""
    with atlas.Atlas.create(place, workers=1, **options) as store:
        fill_dataset(store, "a", seed)
        fill_dataset(store, "b", seed + 1)
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
    """Damage every byte of a store in each root encoding and codec; verify and repair every seventh of them."""
    total = 0
    cases = [("json", c, "zstd") for c in ("none", "zstd", "lz4")] + [
        ("msgpack", c, "lz4") for c in ("none", "zstd", "lz4")
    ]
    for fmt, compression, codec in cases:
        place = small_store(work / "store", meta_format=fmt, meta_compression=compression, codec=codec)
        right, right_chunks = state_of(place), chunks(place)
        ends: Counter[str] = Counter()
        for key in objects(place):
            for damage in share.of(every_damage(place, key, every)):
                ends[survive(place, key, damage, right)] += 1
            for damage in share.of(every_damage(place, key, 7 * every)):
                lost = survive_repair(place, key, damage, right_chunks)
                ends["repaired, chunks lost" if lost else "repaired whole"] += 1
        for key, damage in share.of(swapped_chunks(place)):
            ends["repaired, chunks lost"] += survive_repair(place, key, damage, right_chunks) > 0
        for key, damage in share.of(stale(place)):
            ends[survive(place, key, damage, state_of(place))] += 1
        total += ends.total()
        report(f"{fmt} {compression} {codec}: {dict(ends)}")
        shutil.rmtree(place)
    return total
