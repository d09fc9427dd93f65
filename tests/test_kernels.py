"""Every kernel against its NumPy twin, and the codecs against their own inverse."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress

import lz4.block
import numpy as np
import pytest
import xxhash
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from atlas import codecs, errors
from atlas.kernels import native, twins
from atlas.kernels.layout import Stored
from atlas.kernels.native import digest, place_one, scatter, scatter_decoded, scatter_one, shuffle, unpack, unpack_one
from atlas.kernels.sealed import stretches

TABLES = ("chunk_extent", "block_start", "block_extent", "strides")


def tasks(extent, start, block, strides, destinations, geometry=None):
    """Return a table of tasks, one for each destination."""
    boxes = dict(
        zip(TABLES, (np.atleast_2d(np.array(t, np.int64)) for t in (extent, start, block, strides)), strict=True)
    )
    count = len(destinations)
    kinds = np.arange(count) if geometry is None else geometry
    return {**boxes, "geometry": np.array(kinds, np.int32), "destination": np.array(destinations, np.int64)}


def stored(tables, payloads, sealed):
    """Add the columns of payloads to a table of tasks; return the file that they are in."""
    file, columns = b"begin", []
    for payload, seal in zip(payloads, sealed, strict=True):
        parts = stretches(np.array([0]), np.array([len(payload)]))
        hashes = digest(np.frombuffer(payload, np.uint8), *parts).tobytes() if seal else b""
        columns.append((len(file), len(hashes + payload), 128 * seal, xxhash.xxh3_64_intdigest(hashes or payload)))
        file += hashes + payload
    for name, column, dtype in zip(
        ("offset", "length", "pipeline", "checksum"), zip(*columns, strict=True), ("i8", "i8", "u1", "u8"), strict=True
    ):
        tables[name] = np.array(column, dtype)
    return np.frombuffer(file, np.uint8)


@st.composite
def boxes(draw):
    """Chunks of one rank, with a box of each, and an output that they are scattered to."""
    ndim = draw(st.integers(0, 5))
    itemsize = draw(st.sampled_from([1, 2, 3, 4, 8, 16]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.integers(1, 4))
    extent = rng.integers(1, 6, (count, ndim))
    if ndim and draw(st.booleans()):
        extent[:, draw(st.sampled_from([0, ndim - 1]))] *= rng.integers(1, 500, count)
    start = rng.integers(0, extent)
    block = rng.integers(0 if draw(st.booleans()) else 1, extent - start + 1)
    full = draw(st.booleans())
    if full:
        start, block = np.zeros_like(extent), extent.copy()
    outer = rng.integers(0, 3, ndim) + (block.max(axis=0) if ndim else np.zeros(0, int))
    row = np.concatenate([outer[1:], [itemsize]]) if ndim else np.zeros(0, int)
    strides = np.tile(np.cumprod(row[::-1])[::-1], (count, 1))
    step = int(np.prod(outer)) * itemsize if ndim else itemsize
    tables = tasks(*(table.reshape(count, ndim) for table in (extent, start, block, strides)), np.arange(count) * step)
    chunks = [rng.bytes(int(size) * itemsize) for size in np.prod(extent, axis=1)]
    return chunks, tables, np.zeros(step * count + 5, np.uint8), itemsize


def moved(out, data):
    """Return a copy of an output that begins anywhere in a cache line."""
    copy = np.zeros(len(out) + 64, np.uint8)[data.draw(st.integers(0, 63)) :][: len(out)]
    copy[:] = out
    return copy


@settings(max_examples=300)
@given(boxes(), st.data())
def test_decoded_chunks_are_scattered_as_numpy_does(case, data):
    chunks, tables, out, itemsize = case
    shuffled = np.array(data.draw(st.lists(st.booleans(), min_size=len(chunks), max_size=len(chunks))), np.uint8)
    ours, theirs, rows = moved(out, data), out.copy(), np.arange(len(chunks))
    scatter_decoded(chunks, shuffled, rows, tables, ours, itemsize, past=data.draw(st.booleans()))
    twins.scatter_decoded(chunks, shuffled, rows, tables, theirs, itemsize)
    assert ours.tobytes() == theirs.tobytes()


@settings(max_examples=300)
@given(boxes(), st.data())
def test_stored_chunks_are_scattered_as_numpy_does_and_no_damage_gets_out(case, data):
    chunks, tables, out, itemsize = case
    sealed = data.draw(st.lists(st.booleans(), min_size=len(chunks), max_size=len(chunks)))
    file = stored(tables, chunks, sealed)
    ours, theirs, rows = moved(out, data), out.copy(), np.arange(len(chunks))
    past = data.draw(st.booleans())
    scatter(file, rows, tables, ours, itemsize, past)
    twins.scatter(file, rows, tables, theirs, itemsize)
    assert ours.tobytes() == theirs.tobytes()
    damaged = file.copy()
    place = data.draw(st.integers(5, len(file) - 1))
    damaged[place] ^= 1 << data.draw(st.integers(0, 7))
    row = int(np.searchsorted(tables["offset"], place, side="right")) - 1
    with pytest.raises(errors.CorruptChunk, match="checksum"):
        twins.scatter(damaged, rows, tables, theirs, itemsize)
    # A kernel may leave alone what it does not use of a sealed chunk: then the cells are the right ones.
    again, found = out.copy(), []
    try:
        scatter(damaged, rows, tables, again, itemsize, past)
    except errors.CorruptChunk as error:
        found.append((error.row, str(error)))
    assert found == [(row, "its checksum does not match")] or (sealed[row] and again.tobytes() == ours.tobytes())


@settings(max_examples=200)
@given(boxes(), st.data())
def test_a_chunk_alone_is_read_as_one_of_many(case, data):
    chunks, tables, _, itemsize = case
    sealed = data.draw(st.lists(st.booleans(), min_size=len(chunks), max_size=len(chunks)))
    file = stored(tables, chunks, sealed)
    for row, chunk in enumerate(chunks):
        box = tuple(tuple(tables[name][row].tolist()) for name in TABLES[:3])
        cells = np.frombuffer(chunk, f"V{itemsize}").reshape(box[0])
        expected = cells[tuple(slice(first, first + size) for first, size in zip(*box[1:], strict=True))].tobytes()
        where = Stored(*(int(tables[name][row]) for name in ("offset", "length", "pipeline", "checksum")))
        shuffled = np.frombuffer(chunk, np.uint8).reshape(-1, itemsize).T.tobytes()
        for loops in (native, twins):
            outs = [np.zeros(box[2], f"V{itemsize}") for _ in range(3)]
            loops.scatter_one(file, where, box, outs[0], itemsize)
            loops.place_one(chunk, False, box, outs[1], itemsize)
            loops.place_one(shuffled, True, box, outs[2], itemsize)
            assert [out.tobytes() for out in outs] == [expected] * 3
        damaged = file.copy()
        damaged[where.offset] ^= 1
        for loops in (native, twins):
            with pytest.raises(errors.CorruptChunk, match="checksum"):
                loops.scatter_one(damaged, where, box, np.zeros(box[2], f"V{itemsize}"), itemsize)


def test_a_chunk_alone_never_leaves_its_buffers():
    file, out, whole = np.zeros(100, np.uint8), np.zeros(10, np.uint8), ((10,), (0,), (10,))
    for where in (Stored(-1, 10, 0, 0), Stored(0, -1, 0, 0), Stored(95, 10, 0, 0)):
        with pytest.raises(ValueError, match="leaves its buffer"):
            scatter_one(file, where, whole, out, 1)
        with pytest.raises(ValueError, match="leaves its buffer"):
            unpack_one(file, where, whole, out, 1)
    with pytest.raises(ValueError, match="leaves its buffer"):
        place_one(bytes(9), False, whole, out, 1)
    for box in (((10,), (-1,), (5,)), ((10,), (0,), (-1,)), ((10,), (6,), (5,))):
        with pytest.raises(ValueError, match="leaves its chunk"):
            place_one(bytes(10), False, box, out, 1)
    with pytest.raises(ValueError, match="leaves the output"):
        place_one(bytes(20), False, ((20,), (0,), (11,)), out, 1)


def test_only_what_is_used_of_a_sealed_chunk_is_checked():
    cells = np.random.default_rng(0).integers(0, 256, (40, 1024), dtype=np.uint8)
    tables = tasks([[40, 1024]], [[0, 0]], [[8, 1024]], [[1024, 1]], [0])
    file = stored(tables, [cells.tobytes()], [True])
    seal = file.size - cells.size
    for at, is_used in [(seal, True), (seal + 8191, True), (seal + 8192, False), (file.size - 1, False), (5, True)]:
        damaged, out = file.copy(), np.zeros(8 * 1024, np.uint8)
        damaged[at] ^= 1
        if is_used:
            with pytest.raises(errors.CorruptChunk):
                scatter(damaged, np.zeros(1, np.int64), tables, out, 1)
        else:
            scatter(damaged, np.zeros(1, np.int64), tables, out, 1)
            assert out.tobytes() == cells[:8].tobytes()


@pytest.mark.parametrize("change", ["longer", "shorter", "nothing", "only hashes"])
def test_stored_chunks_of_another_size_are_refused(change):
    tables = tasks([[4, 16384]], [[0, 0]], [[1, 1]], [[16384, 1]], [0])
    payload = {"longer": bytes(65537), "shorter": bytes(65535)}.get(change, b"")
    for loops in (twins, native):
        file = stored(tables, [payload], [change != "nothing"])
        if change == "only hashes":
            tables["length"][:], tables["checksum"][:] = 8, xxhash.xxh3_64_intdigest(bytes(8))
            file = np.frombuffer(b"begin" + bytes(8), np.uint8)
        with pytest.raises(errors.CorruptChunk):
            loops.scatter(file, np.zeros(1, np.int64), tables, np.zeros(9, np.uint8), 1)


@st.composite
def compressible(draw):
    """Bytes with runs and repetitions of any length and distance, and noise between."""
    rng, parts = np.random.default_rng(draw(st.integers(0, 2**32))), [b""]
    for _ in range(draw(st.integers(1, 12))):
        kind, size = draw(st.integers(0, 3)), draw(st.integers(1, 90) | st.integers(1, 3000))
        before = b"".join(parts)
        if kind == 0 or not before:
            parts.append(rng.bytes(size))
        elif kind == 1:
            parts.append(bytes(rng.integers(0, 2, size, np.uint8)))
        else:
            back = int(rng.integers(1, min(len(before), 40 if kind == 2 else 70000) + 1))
            parts.append((before[-back:] * (size // back + 1))[:size])
    return b"".join(parts)


@settings(max_examples=200)
@given(
    compressible(), st.sampled_from(["default", "fast", "high_compression"]), st.sampled_from([1, 2, 4, 8]), st.data()
)
def test_lz4_blocks_are_decompressed(raw, mode, itemsize, data):
    raw = raw[: len(raw) // itemsize * itemsize] or bytes(itemsize)
    cells = len(raw) // itemsize
    body = np.frombuffer(raw, np.uint8)
    planes = body.reshape(cells, itemsize).T.tobytes()
    first = data.draw(st.integers(0, cells - 1))
    count = data.draw(st.integers(1, cells - first))
    tables = tasks([[cells]] * 2, [[0], [first]], [[cells], [count]], [[itemsize]] * 2, [8, 16 + len(raw)])
    payloads = [lz4.block.compress(each, mode=mode) for each in (raw, planes)]
    file = stored(tables, payloads, [False, False])
    tables["pipeline"][:] = 2, 18
    results = []
    for loops in (native, twins):
        out = moved(np.zeros(24 + len(raw) + count * itemsize, np.uint8), data)
        loops.scatter(file, np.arange(2), tables, out, itemsize, past=data.draw(st.booleans()))
        results.append(out.tobytes())
    wanted = raw[first * itemsize : (first + count) * itemsize]
    assert results[0] == results[1] == bytes(8) + raw + bytes(8) + wanted + bytes(8)


@settings(max_examples=300)
@given(compressible(), st.data())
def test_damaged_lz4_blocks_stay_within_their_place(raw, data):
    payload = bytearray(lz4.block.compress(raw))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    payload = payload[: data.draw(st.integers(0, len(payload)) | st.just(len(payload)))]
    tables = tasks([[len(raw)]], [[0]], [[len(raw)]], [[1]], [16])
    file = stored(tables, [bytes(payload)], [False])
    tables["pipeline"][:] = 2
    out = np.zeros(32 + len(raw), np.uint8)
    with suppress(errors.CorruptChunk):
        scatter(file, np.zeros(1, np.int64), tables, out, 1)
    assert not out[:16].any()
    assert not out[-16:].any()


def test_lz4_blocks_of_another_size_are_refused():
    tables = tasks([[100]], [[0]], [[100]], [[1]], [0])
    for payload in (lz4.block.compress(bytes(99)), lz4.block.compress(bytes(101)), b"", b"\x64\0\0", b"\x64\0\0\0"):
        file = stored(tables, [payload], [False])
        tables["pipeline"][:] = 2
        for loops in (native, twins):
            with pytest.raises(errors.CorruptChunk, match="lz4"):
                loops.scatter(file, np.zeros(1, np.int64), tables, np.zeros(100, np.uint8), 1)


def refusals(src, rows, length, tables, out, itemsize):
    """Return how kernel and twin refuse tasks, which must be for the same reason."""
    found = []
    for admit in (lambda *task: native.admit(*task)[0], twins.admit):
        try:
            found.append(admit(src, rows, length, tables, [tables[name] for name in TABLES], out, itemsize))
        except ValueError as error:
            found.append(str(error))
    assert found[0] == found[1]
    return found[0]


@settings(max_examples=100)
@given(boxes(), st.sampled_from(["src", "out", "offset", "geometry", "chunk", "nothing"]))
def test_scatter_never_leaves_its_buffers(case, what):
    chunks, tables, out, itemsize = case
    file, rows = stored(tables, chunks, [False] * len(chunks)), np.arange(len(chunks))
    assume(tables["block_extent"].all())
    lengths = np.array([len(chunk) for chunk in chunks])
    if what == "src":
        file = file[:-1]
    elif what == "out":
        out = out[: int(tables["destination"][-1])]
    elif what == "offset":
        tables["offset"] = tables["offset"] - 6
    elif what == "geometry":
        tables["geometry"] = tables["geometry"] + np.int32(len(chunks))
    elif what == "chunk":
        lengths[-1] -= 1
    stored_says = refusals(file, rows, tables["length"], tables, out, itemsize)
    decoded_says = refusals(None, rows, lengths, tables, out, itemsize)
    assert isinstance(stored_says, str) == (what in ("src", "out", "offset", "geometry"))
    assert isinstance(decoded_says, str) == (what in ("out", "geometry", "chunk"))


def test_rows_outside_the_table_and_columns_in_pieces_are_refused():
    tables = tasks([[2]], [[0]], [[2]], [[1]], [0, 2], [0, 0])
    sizes, out = np.array([2]), np.zeros(9, np.uint8)
    for row in (-1, 2):
        assert "not in the table" in refusals(None, np.array([row]), sizes, tables, out, 1)
    for bad in ({"destination": np.zeros(3, np.int64)}, {"strides": np.ones((2, 1), np.int64)}):
        with pytest.raises(ValueError, match="differ in length"):
            scatter_decoded([b"ab"], np.zeros(1, np.uint8), np.zeros(1, np.int64), tables | bad, out, 1)
    with pytest.raises(ValueError, match="one piece"):
        scatter_decoded([b"ab"], np.zeros(1, np.uint8), np.zeros(1, np.int64), tables, np.zeros(18, np.uint8)[::2], 1)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, "i4") for name in ("offset", "length", "destination", *TABLES)),
        *(("pipeline", dtype) for dtype in ("u2", "u8")),
        *(("checksum", dtype) for dtype in ("u1", "u4", "f8")),
        ("geometry", "i8"),
    ],
)
def test_columns_of_another_type_than_kernels_read_are_refused(name, dtype):
    rows, out = np.zeros(1, np.int64), np.zeros(2, np.uint8)
    tables = tasks([[2]], [[0]], [[2]], [[1]], [0])
    file = stored(tables, [b"ab"], [False])
    scatter(file, rows, tables, out, 1)
    tables[name] = tables[name].astype(dtype)
    for read in (scatter, unpack):
        with pytest.raises(ValueError, match="kernels take"):
            read(file, rows, tables, out, 1)


def test_rows_and_marks_of_another_type_than_kernels_read_are_refused():
    rows, out, tables = np.zeros(1, np.int64), np.zeros(2, np.uint8), tasks([[2]], [[0]], [[2]], [[1]], [0])
    for marks, places in ((np.zeros(1, np.int64), rows), (np.zeros(1, np.uint8), rows.astype("i4"))):
        with pytest.raises(ValueError, match="kernels take"):
            scatter_decoded([b"ab"], marks, places, tables, out, 1)
    with pytest.raises(ValueError, match="kernels take"):
        digest(out, rows.astype("i4"), rows)


def test_kernels_are_loaded_wherever_there_is_memory():
    """Between much that is mapped, where there is room for small parts of a program, and none for the large ones."""
    script = """if True:
        import mmap
        from atlas.kernels import native
        from atlas.kernels.compile import Library
        small = [mmap.mmap(-1, 1 << 14) for _ in range(400)]
        how = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, "prot": mmap.PROT_READ}
        large = [mmap.mmap(-1, 3 << 30, **how)]
        for piece in small[::2]:
            piece.close()
        kept = []
        for _ in range(20):
            kept.append(Library())
            kept[-1].load()
            large.append(mmap.mmap(-1, 3 << 30, **how))
    """
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]


def test_a_box_outside_its_chunk_is_refused():
    tables = tasks([[2]], [[2]], [[2]], [[2]], [0])
    assert "leaves its chunk" in refusals(None, np.zeros(1, np.int64), np.array([2]), tables, np.zeros(99, np.uint8), 1)


@settings(max_examples=50)
@given(st.binary(max_size=4000), st.sampled_from([1, 2, 4, 8, 16]))
def test_shuffle_does_what_numpy_does(data, itemsize):
    source = np.frombuffer(data[: len(data) // itemsize * itemsize], np.uint8)
    ours, theirs = np.empty_like(source), np.empty_like(source)
    shuffle(source, ours, itemsize)
    twins.shuffle(source, theirs, itemsize)
    assert ours.tobytes() == theirs.tobytes()


def unshuffled(data: bytes, pipeline: int, itemsize: int) -> bytes:
    if not codecs.is_shuffled(pipeline):
        return bytes(data)
    return np.frombuffer(data, np.uint8).reshape(itemsize, -1).T.tobytes()


@settings(max_examples=200)
@given(
    st.binary(max_size=2000) | st.builds(lambda b, n: b * n, st.binary(min_size=1, max_size=16), st.integers(1, 200)),
    st.sampled_from([1, 2, 4, 8, 16]),
    st.sampled_from(["zstd", "lz4", "none"]),
)
def test_codecs_are_their_own_inverse(data, itemsize, codec):
    data = data[: len(data) // itemsize * itemsize]
    payload, pipeline = codecs.encode(data, itemsize, codec, 1)
    assert pipeline in codecs.PIPELINES
    assert codec != "none" or pipeline == codecs.RAW
    assert unshuffled(codecs.decode(payload, pipeline, len(data), itemsize), pipeline, itemsize) == data


def test_choices_of_the_encoder():
    noise = np.random.default_rng(0).integers(0, 256, 4096, dtype=np.uint8).tobytes()
    smooth = np.arange(1000, dtype="f8").tobytes()
    assert codecs.encode(noise, 4, "zstd", 1)[1] == codecs.RAW
    assert codecs.encode(smooth, 8, "zstd", 1)[1] == codecs.SHUFFLE_ZSTD
    assert codecs.encode(smooth, 8, "lz4", 1)[1] == codecs.SHUFFLE_LZ4
    assert codecs.encode(b"text " * 99, 1, "zstd", 1)[1] == codecs.ZSTD
    payload, pipeline = codecs.encode(b"\0\1" * 5000, 2, "zstd", 1)
    assert (payload, pipeline) == (b"\0\1", codecs.CONSTANT)


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_bombs_junk_and_forged_lengths_are_refused(codec):
    bomb, pipeline = codecs.encode(bytes(1 << 24)[:-1] + b"\1", 1, codec, 1)
    data = np.arange(1000, dtype="i4").tobytes()
    payload, kind = codecs.encode(data, 4, codec, 1)
    cases = [
        (bomb, pipeline, 4000),
        (payload, kind, 3996),
        (payload + b"junk", kind, 4000),
        (payload[:-1], kind, 4000),
        (payload[:3], kind, 4000),
        (b"", kind, 4000),
        (payload, 99, 4000),
        (b"ab", codecs.CONSTANT, 4000),
        (b"abc", codecs.RAW, 4),
    ]
    for bad, bad_pipeline, length in cases:
        with pytest.raises(errors.CorruptChunk):
            codecs.decode(bad, bad_pipeline, length, 4)


@pytest.mark.parametrize("itemsize", [1, 2, 3, 4, 6, 8, 12, 16])
@pytest.mark.parametrize("width", [1, 7, 8, 9, 15, 16, 17, 24, 33])
def test_rows_of_every_width_are_unshuffled(itemsize, width):
    # Rows of eight elements and more take the vector path; its last block overlaps the one before it.
    rng = np.random.default_rng(width)
    chunks = [rng.bytes(3 * (width + 2) * itemsize) for _ in range(2)]
    pitch = (width + 1) * itemsize + 1
    ours = rng.integers(0, 256, 4 * pitch + 1, dtype=np.uint8)
    theirs = ours.copy()
    tables = tasks([[3, width + 2]], [[1, 1]], [[2, width]], [[pitch, itemsize]], [1, 1 + 2 * pitch], [0, 0])
    shuffled, rows = np.array([1, 0], np.uint8), np.arange(2)
    scatter_decoded(chunks, shuffled, rows, tables, ours, itemsize)
    twins.scatter_decoded(chunks, shuffled, rows, tables, theirs, itemsize)
    assert ours.tobytes() == theirs.tobytes()


def bounded(extent, start, block, strides, count=1, geometry=0):
    """Return how tasks of one byte an element that begin at 0 of 64 bytes are refused, if they are."""
    tables = tasks(extent, start, block, strides, [0] * count, [geometry] * count)
    return refusals(None, np.arange(count), np.full(count, 64), tables, np.zeros(64, np.uint8), 1)


def test_forged_extents_do_not_wrap_around():
    big = 1 << 62
    for extent, start, block, strides in [
        ([1 << 32, 1 << 32], [1 << 31, 0], [1, 1], [1, 1]),
        ([1 << 21] * 3 + [2], [0] * 4, [1] * 4, [1] * 4),
        ([8], [big], [big], [1]),
        ([-8], [0], [1], [1]),
        ([8], [0], [8], [big]),
        ([8, 8], [0, 0], [5, 5], [big, big]),
        ([8], [0], [8], [-1]),
    ]:
        assert isinstance(bounded(extent, start, block, strides), str)


def test_an_empty_box_may_begin_anywhere():
    tables = tasks([[8]], [[8]], [[0]], [[1]], [64])
    assert refusals(None, np.zeros(1, np.int64), np.array([64]), tables, np.zeros(64, np.uint8), 1) == (8, 64, 9)


def test_only_the_geometries_of_the_tasks_count():
    extent, strides = [[8], [8], [99]], [[1], [1], [1]]
    start, block = [[0], [4], [0]], [[8], [4], [99]]
    assert bounded(extent, start, block, strides, count=2, geometry=1) == (8, 64, 9)
    assert "leaves the output" in bounded(extent, start, block, strides, count=2, geometry=2)
    assert "no geometry" in bounded(extent, start, block, strides, geometry=3)
