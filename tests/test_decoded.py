"""Decompressed chunks are kept: a small fleet that is read again and again is decompressed once."""

from __future__ import annotations

import os

import numpy as np
import pytest

import atlas
from atlas import datafiles, kernels, worker
from atlas.decoded import decoded_chunks

NAMES = [f"d{i}" for i in range(10)]


@pytest.fixture
def decompressed(monkeypatch) -> list[int]:
    """Note the size of every chunk that is decompressed; begin with none kept."""
    sizes: list[int] = []
    decode = worker.decode

    def noting(payload, pipeline, raw_length, itemsize):
        sizes.append(raw_length)
        return decode(payload, pipeline, raw_length, itemsize)

    monkeypatch.setattr(worker, "decode", noting)
    monkeypatch.setattr(decoded_chunks, "_chunks", type(decoded_chunks._chunks)())
    monkeypatch.setattr(decoded_chunks, "_size", 0)
    return sizes


def build(place) -> np.ndarray:
    cells = np.random.default_rng(0).integers(0, 5, (10, 40, 30)).cumsum(axis=2).astype("f4")
    config = atlas.StoreConfig(packing=False)
    with atlas.Atlas.create(place, config=config) as store:
        store.create_datasets(NAMES, arrays={"t": {"dims": ["y", "x"], "chunk_shape": [20, 30], "data": cells}})
    return cells


def test_what_was_read_is_not_decompressed_again(place, decompressed):
    cells = build(place)
    store = atlas.Atlas.open(place)
    assert store.read_array_across_stacked("t", NAMES, [0, 0], [5, 30]).tobytes() == cells[:, :5].tobytes()
    assert len(decompressed) == 10
    assert store.read_array_across_stacked("t", NAMES, [2, 3], [5, 7]).tobytes() == cells[:, 2:7, 3:10].tobytes()
    assert atlas.Atlas.open(place).read_array_across_stacked("t", NAMES).tobytes() == cells.tobytes()
    assert len(decompressed) == 20  # the other half of the chunks, though another handle read them


def test_a_file_that_is_cut_short_is_no_trouble_to_reads_of_others(place, decompressed, monkeypatch):
    monkeypatch.setattr(datafiles, "MERGE_BELOW", 0)
    cells = build(place)
    with atlas.Atlas.open(place) as store:
        store.create_datasets(["other"], arrays={"t": {"dims": ["y", "x"], "data": cells[:1]}})
    store = atlas.Atlas.open(place, workers=1)
    store.read_array_across_stacked("t", [*NAMES[1:], "other"])
    _, second = (place / file.key for file in store._session.snapshot.index("t").files)
    os.truncate(second, 100)
    for _ in range(2):
        assert store.read_array_across_stacked("t", NAMES).tobytes() == cells.tobytes()
        with pytest.raises(atlas.CorruptChunk, match=f"{second.name} is truncated"):
            store.read_array_across_stacked("t", [*NAMES, "other"])


def test_a_chunk_alone_is_not_decompressed_again_either(place, decompressed):
    cells = build(place)
    for _ in range(2):
        store = atlas.Atlas.open(place)
        for row, name in enumerate(NAMES[:3]):
            found = store.open_dataset(name).read_array("t", [20, 5], [20, 7])
            assert found.tobytes() == cells[row, 20:, 5:12].tobytes()
        stacked = store.read_array_across_stacked("t", NAMES[:3], [25, 0], [2, 30])
        assert stacked.tobytes() == cells[:3, 25:27].tobytes()
    assert len(decompressed) == 3
    # Nor by a read that makes a plan.
    assert store.read_array_across_stacked("t", NAMES, [20, 0], [1, 1]).tobytes() == cells[:, 20:21, :1].tobytes()
    assert len(decompressed) == 10


def test_what_is_kept_is_no_proof_of_what_is_stored(place, decompressed):
    build(place)
    store = atlas.Atlas.open(place)
    store.read_array_across_stacked("t", NAMES)
    (file,) = (place / "t").glob("*.af")
    data, status = bytearray(file.read_bytes()), file.stat()
    data[len(data) // 4] ^= 1
    with file.open("r+b") as same:
        same.write(data)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert len(store.verify().problems) == 1
    assert store.open_dataset("d9").read_array("t") is not None


def test_what_changed_on_the_disk_is_seen(place, decompressed):
    build(place)
    store = atlas.Atlas.open(place)
    store.read_array_across_stacked("t", NAMES)
    (file,) = (place / "t").glob("*.af")
    data = bytearray(file.read_bytes())
    data[len(data) // 4] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(1, 1))
    with pytest.raises(atlas.CorruptStore, match="checksum"):
        store.read_array_across_stacked("t", NAMES)


def test_no_more_is_kept_than_the_setting_says(place, decompressed, setting):
    cells = build(place)
    half = cells.nbytes // 2
    setting("decoded_bytes", half)
    store = atlas.Atlas.open(place)
    # A read of more than that would only push out what it is going to need.
    assert store.read_array_across_stacked("t", NAMES).tobytes() == cells.tobytes()
    assert decoded_chunks._size == 0
    for begin in (0, 5, 2):
        some = store.read_array_across_stacked("t", NAMES[begin : begin + 5])
        assert some.tobytes() == cells[begin : begin + 5].tobytes()
        assert decoded_chunks._size == sum(map(len, decoded_chunks._chunks.values())) == half


def test_lz4_blocks_that_are_not_kept_are_decompressed_by_a_kernel(place, decompressed, setting):
    kernels.load()
    cells = np.random.default_rng(0).integers(0, 5, (10, 40, 300)).cumsum(axis=2).astype("f4")
    for codec_chunk, python in ((30, 0), (300, 20)):
        config = atlas.StoreConfig("lz4", packing=False)
        with atlas.Atlas.create(place, config=config, overwrite=True) as store:
            spec = {"dims": ["y", "x"], "chunk_shape": [20, codec_chunk], "data": cells}
            store.create_datasets(NAMES, arrays={"t": spec})
        for _ in range(2):
            assert atlas.Atlas.open(place).read_array_across_stacked("t", NAMES).tobytes() == cells.tobytes()
        assert len(decompressed) == python
    setting("decoded_bytes", 0)
    assert atlas.Atlas.open(place).read_array_across_stacked("t", NAMES).tobytes() == cells.tobytes()
    assert len(decompressed) == 20


def test_verify_looks_at_what_is_there_now(tmp_path):
    """A disk that loses a bit does not say when."""
    with atlas.Atlas.create(tmp_path / "s", workers=1) as store:
        view = store.create_dataset("a")
        view.define_array("t", "complex64", ["x"], [1 << 18])
        view.write_array("t", [0], np.arange(1 << 18).astype("c8"))
    store.open_dataset("a").read_array("t")
    assert store.verify().ok
    (path,) = (tmp_path / "s" / "t").iterdir()
    data, status = bytearray(path.read_bytes()), path.stat()
    data[200] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert [(problem.dataset, problem.chunk) for problem in store.verify().problems] == [("a", 0)]
