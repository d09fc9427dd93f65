"""Fuzzing of everything that parses stored bytes: whatever the bytes, only errors of ours come out.

What is mutated is sealed with the right checksums: otherwise those would be all that is tested.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import atlas
from atlas import codecs
from atlas.columnfile import DataFile
from atlas.examine import open_index
from atlas.kernels import native, twins
from atlas.kernels.layout import ITEM_SIZES
from atlas.record import read_record
from atlas.root import ROOT_KEYS, decode_root
from atlas.segment import ArrayIndex, SegmentIndex
from atlas.storage import open_storage
from atlas.table import read_layer
from torture.corpus import original
from torture.forging import seal
from torture.scenes import Share

# The types that can be packed, one per element number.
_TYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")

Mutations = list[tuple[int, int, bytes]]


def mutations() -> st.SearchStrategy[Mutations]:
    """Return a strategy of changes: where, how many bytes go, what comes."""
    telling = st.sampled_from([b"\0", b"\xff", b"\x7f\xff\xff\xff", bytes(8), b"\xff" * 8, b"\x80", b"-", b"9" * 19])
    change = st.tuples(st.integers(0, 1 << 20), st.integers(0, 9), st.binary(max_size=9) | telling)
    return st.lists(change, max_size=4)


def mutated(data: bytes, changes: Mutations) -> bytes:
    """Return bytes with some changes made."""
    result = bytearray(data)
    for at, gone, come in changes:
        at %= len(result) + 1
        result[at : at + gone] = come
    return bytes(result)


class Seeds:
    """A store's parts, to begin with."""

    def __init__(self, work: Path) -> None:
        self.place = work / "tables"
        original(work / "plain")
        original(self.place, tables=True)
        self.root = (work / "plain" / "atlas.json").read_bytes()
        self.binary_root = self._as(work, "msgpack")
        snapshot = atlas.Atlas.open(self.place)._session.snapshot
        self.store, self.slots = snapshot.root.store, snapshot.root.catalog.slots
        self.files = [(name, files.files[0]) for name, files in snapshot.root.arrays.items()]
        self.files.append((None, snapshot.root.catalog.tables[0]))  # type: ignore[arg-type]
        self.record = next((self.place / "_catalog").glob("*.ar"))
        self.record_bytes = self.record.read_bytes()

    @staticmethod
    def _as(work: Path, meta_format: str) -> bytes:
        original(work / meta_format, meta_format=meta_format)
        return (work / meta_format / f"atlas.{meta_format}").read_bytes()


def _no_table(store: str, file: Any, slots: int) -> Any:
    raise atlas.CorruptStore("there is none")


def _seal_binary(plain: bytes) -> bytes:
    blank = plain[:11] + b"0" * 16 + plain[27:]
    return blank[:11] + xxhash.xxh3_64_hexdigest(blank).encode() + blank[27:]


def root_target(seeds: Seeds, changes: Mutations, choice: int) -> None:
    """Parse a root, and look at everything in it."""
    binary = bool(choice % 2)
    plain = mutated(seeds.binary_root if binary else seeds.root, changes)
    data = _seal_binary(plain) if binary else seal(plain)
    root = decode_root(data, "atlas.msgpack" if binary else "atlas.json", _no_table)
    for name in root.catalog.names():
        root.catalog.record(root.catalog.ordinal(name))
    list(root.catalog.live_templates())


def index_target(seeds: Seeds, changes: Mutations, choice: int) -> None:
    """Parse the index of a data file or a table file whose directory was changed."""
    array, file = seeds.files[choice % len(seeds.files)]
    data = (seeds.place / file.key).read_bytes()[file.index_offset :]
    size = int.from_bytes(data[-8:], "little")
    packed = mutated(data[-8 - size : -8], changes)
    area = data[: -8 - size] + packed + len(packed).to_bytes(8, "little")
    forged = DataFile(file.key, file.index_offset + len(area), file.index_offset, len(area), _digest(packed))
    index = open_index(np.frombuffer(area, np.uint8), forged, array)
    if isinstance(index, SegmentIndex):
        merged = ArrayIndex.merge([forged], [index])
        merged.locate_all(merged.entries, np.arange(3))
    else:
        layer = read_layer(index, seeds.slots)
        layer.names.tolist()
        for group in layer.groups:
            _ = group.template, list(group.sizes), list(group.columns)


def _digest(data: bytes) -> str:
    return str(xxhash.xxh3_64_hexdigest(data))


def record_target(seeds: Seeds, changes: Mutations, choice: int) -> None:
    """Parse a record, and the root in it."""
    rest = mutated(seeds.record_bytes[16:], changes)
    seeds.record.write_bytes(seeds.record_bytes[:8] + xxhash.xxh3_64_intdigest(rest).to_bytes(8, "little") + rest)
    read_record(open_storage(seeds.place), f"_catalog/{seeds.record.name}").root(_no_table)


def compressed_root_target(seeds: Seeds, changes: Mutations, choice: int) -> None:
    """Parse bytes as a root of any encoding."""
    key = sorted(ROOT_KEYS)[choice % len(ROOT_KEYS)]
    decode_root(mutated(seeds.binary_root[: choice % 97], changes), key, _no_table)


def chunk_target(seeds: Seeds, changes: Mutations, choice: int) -> None:
    """Decode a chunk of any pipeline; packed ones with the kernels and their twins, which must agree."""
    dtype = np.dtype(_TYPES[choice % len(_TYPES)])
    shape = ((40,), (7, 9), (3, 4, 5), (1500,), (), (1, 1, 1, 1, 1, 1, 1, 1, 33))[choice % 6]
    cells = _cells(dtype, shape, choice)
    raw = np.ascontiguousarray(cells).reshape(-1).view(np.uint8)
    codec = ("zstd", "lz4")[choice // 60 % 2]
    fill = raw[: dtype.itemsize] if choice % 4 else None
    (payload,), (pipeline,) = codecs.encode_numbers(raw[None], dtype, shape, fill, codec, 1)
    broken = mutated(bytes(payload), changes)
    if pipeline == codecs.PACKED:
        same_result(broken, shape, codecs.element_of(dtype))
    else:
        codecs.decode_numbers(broken, pipeline, dtype, shape)


def _cells(dtype: np.dtype[Any], shape: tuple[int, ...], choice: int) -> Any:
    rng = np.random.default_rng(choice)
    steps = rng.integers(0, 3 if choice % 3 else 40, shape)
    cells = (np.cumsum(steps).reshape(shape) / (10 if dtype.kind == "f" else 1)).astype(dtype)
    if dtype.kind == "f" and cells.size > 9:
        cells.reshape(-1)[rng.integers(0, cells.size, 2)] = (np.nan, -0.0)
    return cells


def same_result(payload: bytes, shape: tuple[int, ...], element: int) -> None:
    """Unpack with the kernels and with the twins: the same cells, or both refuse."""
    found = [_unpacked(loops, payload, shape, element) for loops in (native, twins)]
    assert found[0] == found[1], f"kernels {found[0]!r}, twins {found[1]!r}"
    if isinstance(found[0], str):
        raise atlas.CorruptChunk(found[0])


def _unpacked(loops: Any, payload: bytes, shape: tuple[int, ...], element: int) -> bytes | str:
    try:
        cells = loops.unpack_whole(np.frombuffer(payload, np.uint8), shape, element)
    except atlas.CorruptChunk as error:
        return str(error)
    assert len(cells) == int(np.prod(shape, dtype=np.int64)) * ITEM_SIZES[element]
    return bytes(cells.tobytes())


TARGETS: dict[str, Callable[[Seeds, Mutations, int], None]] = {
    "root": root_target,
    "compressed root": compressed_root_target,
    "index": index_target,
    "record": record_target,
    "chunk": chunk_target,
}


def run(name: str, seeds: Seeds, examples: int, start: int = 0) -> Counter[str]:
    """Fuzz one target; anything but an error of ours, and a result, is raised."""
    ends: Counter[str] = Counter()

    @seed(start)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(mutations(), st.integers(0, 1 << 20))
    def attempt(changes: Mutations, choice: int) -> None:
        try:
            TARGETS[name](seeds, changes, choice)
        except atlas.AtlasError:
            ends["refused"] += 1
        else:
            ends["read"] += 1

    attempt()
    return ends


def campaign(examples: int, share: Share) -> Iterator[tuple[str, Counter[str]]]:
    """Fuzz every target."""
    with tempfile.TemporaryDirectory() as work:
        seeds = Seeds(Path(work))
        for name in TARGETS:
            yield name, run(name, seeds, share.size(examples), share.number)
