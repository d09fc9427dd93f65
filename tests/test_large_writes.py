"""Large writes are encoded at once; what is pending behaves as if they were not."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import atlas
from atlas import codecs, encoding, writer
from atlas.errors import CorruptChunk
from atlas.kernels import native
from atlas.schema import make_array_schema

TYPES = ["bool", "int16", "uint64", "float16", "float32", "float64", "complex64", "datetime64[ns]", "timedelta64[s]"]


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch):
    monkeypatch.setattr(writer, "_ENCODE_ABOVE", 0)


def test_working_memory_has_a_bound_however_large_a_chunk_is(monkeypatch):
    """Packing takes 26 bytes a cell: chunks of more than so many are left to the codec."""
    monkeypatch.setattr(codecs, "PACKED_CELLS", 1 << 20)
    monkeypatch.setattr(encoding, "_MOST_KEPT", 1 << 20)
    config, taken = atlas.StoreConfig(), []

    def encode(count: int) -> None:
        schema = make_array_schema("a", "uint8", ["y", "x"], [count, 2], None, None)
        walk = np.cumsum(np.random.default_rng(0).integers(-1, 2, count)).astype("u1")
        cells = np.tile(walk, (1, 2, 1)).transpose(0, 2, 1)
        pipeline = int(encoding.encode_rows(schema, cells, config).pipeline[0])
        kept = getattr(encoding._kept, "memory", np.zeros(0)), getattr(native.buffers._buffers, "work", np.zeros(0))
        taken.append((codecs.plain(pipeline) == codecs.PACKED, *map(len, kept)))

    native.digest(np.zeros(1, np.uint8), np.zeros(1, np.int64), np.ones(1, np.int64))
    for count in (1 << 19, (1 << 19) + 1):
        thread = threading.Thread(target=encode, args=(count,))
        thread.start()
        thread.join()
    (is_packed, copied, worked), (other_is_packed, other_copied, other_worked) = taken
    assert (is_packed, copied, worked > 20 << 20) == (True, 1 << 20, True)
    assert (other_is_packed, other_copied, other_worked < 1 << 20) == (False, 0, True)


@settings(max_examples=60)
@given(st.sampled_from(TYPES), st.sampled_from(["zstd", "lz4", "none"]), st.integers(0, 2**32), st.data())
def test_overlapping_writes_are_what_numpy_says(tmp_path_factory, dtype, codec, seed, data):
    rng = np.random.default_rng(seed)
    place = tmp_path_factory.mktemp("large") / "s"
    shape, chunk = (13, 9), data.draw(st.sampled_from([(13, 9), (5, 4), (20, 20)]))
    expected = np.zeros(shape, dtype)
    with atlas.Atlas.create(place, codec=codec) as store:
        view = store.create_dataset("d")
        view.define_array("a", dtype, ["y", "x"], shape, chunk)
        for _ in range(data.draw(st.integers(1, 5))):
            start = [data.draw(st.integers(0, n - 1)) for n in shape] if data.draw(st.booleans()) else [0, 0]
            box = tuple(slice(s, n) for s, n in zip(start, shape, strict=True))
            cells = rng.integers(0, 2 if dtype == "bool" else 90, expected[box].shape).astype(dtype)
            view.write_array("a", start, cells)
            expected[box] = cells
            cells[...] = 0  # the caller's memory is the caller's again
            assert view.read_array("a").tobytes() == expected.tobytes()
            if data.draw(st.booleans()):
                store.flush()
    assert atlas.Atlas.open(place).read_array_across_stacked("a", ["d"])[0].tobytes() == expected.tobytes()


def test_pending_payloads_are_small(place):
    cells = np.round(np.cumsum(np.random.default_rng(0).normal(0, 1, (100, 1000)), axis=0), 2)
    store = atlas.Atlas.create(place)
    view = store.create_dataset("d")
    view.define_array("a", "float64", ["y", "x"], cells.shape, [50, 500])
    view.write_array("a", [0, 0], cells)
    held = store._session.pending.arrays["d"]["a"].chunks
    assert sum(int(chunk.rows.one(chunk.row)["length"][0]) for chunk in held.values()) < cells.nbytes / 4


def test_a_write_that_fails_half_way_leaves_nothing_pending(place):
    with atlas.Atlas.create(place, codec="none") as store:
        view = store.create_dataset("d")
        view.define_array("a", "int32", ["x"], [30], [10])
        view.write_array("a", [0], np.arange(30, dtype="i4"))
    file = next((place / "a").iterdir())
    damaged = bytearray(file.read_bytes())
    damaged[24 + 80] ^= 1  # in the last chunk
    file.write_bytes(damaged)
    store = atlas.Atlas.open(place)
    view = store.open_dataset("d")
    with pytest.raises(CorruptChunk):
        view.write_array("a", [5], np.zeros(20, "i4"))
    assert view.read_array("a", [0], [20]).tolist() == list(range(20))
    assert not any(pending.chunks for pending in store._session.pending.arrays["d"].values())


def waiting(store: atlas.Atlas) -> int:
    """Return the bytes of cells that wait as they are."""
    pending = store._session.pending.arrays.values()
    chunks = [chunk for arrays in pending for array in arrays.values() for chunk in array.chunks.values()]
    return sum(writer.size_in_memory(chunk) for chunk in chunks if not isinstance(chunk, writer.Held))


def test_single_cells_of_large_chunks_wait_in_little_memory(place):
    store = atlas.Atlas.create(place, pending_bytes=1 << 20)
    for i in range(12):
        view = store.create_dataset(f"d{i}")
        view.define_array("a", "int64", ["x"], [50_000])
        view.write_array("a", [i], np.array([7]))
        view.write_array("a", [i + 1], np.array([8]))
        assert waiting(store) < 1 << 20
    store.flush()
    assert [store.open_dataset(f"d{i}").read_array("a", [i], [3]).tolist() for i in range(12)] == [[7, 8, 0]] * 12


def test_text_waits_in_as_little_memory_as_it_says(place):
    store = atlas.Atlas.create(place, pending_bytes=1 << 20)
    for i in range(12):
        view = store.create_dataset(f"d{i}")
        view.define_array("a", "string", ["x"], [2])
        view.write_array("a", [0], np.array([str(i) * 100_000, ""], object))
        assert waiting(store) < 1 << 20
    store.flush()
    assert store.open_dataset("d3").read_array("a")[0] == "3" * 100_000
