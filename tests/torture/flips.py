"""Damage: every bit, every length, junk behind, files exchanged. The right answer or an error, never wrong numbers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import atlas
from torture.scenes import fill_dataset, state_of

Damage = tuple[str, bytes]


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


def campaign(work: Path, report: Callable[[str], None], every: int = 1) -> int:
    """Damage every byte of a store in each root encoding and codec."""
    total = 0
    cases = [("json", c, "zstd") for c in ("none", "zstd", "lz4")] + [
        ("msgpack", c, "lz4") for c in ("none", "zstd", "lz4")
    ]
    for fmt, compression, codec in cases:
        place = small_store(work / "store", meta_format=fmt, meta_compression=compression, codec=codec)
        right = state_of(place)
        ends: dict[str, int] = {}
        for key in objects(place):
            data = (place / key).read_bytes()
            for damage in (*bit_flips(data, every), *lengths(data, every), *tails(data)):
                end = survive(place, key, damage, right)
                ends[end] = ends.get(end, 0) + 1
        total += sum(ends.values())
        report(f"{fmt} {compression} {codec}: {ends}")
        shutil.rmtree(place)
    return total
