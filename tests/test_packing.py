"""Packed chunks: kernels and twins write the same bytes, every bit comes back, and damage is told."""

from __future__ import annotations

import threading
from contextlib import suppress

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas import codecs
from atlas.errors import CorruptChunk
from atlas.kernels import compile, native, twins
from atlas.kernels.layout import (
    BITS,
    DIVIDED,
    ELEMENTS,
    INTEGERS,
    MASKED,
    MULTIPLIED,
    ORDERED,
    PATCHED,
    SEALED,
    SIGN_LAST,
    WIDE,
    Packing,
    Stored,
)
from atlas.kernels.sealed import stretches

FLOATS, NUMBERS = ["f4", "f8"], ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"]


def element(cells: np.ndarray) -> int:
    return ELEMENTS[f"{cells.dtype.kind}{cells.dtype.itemsize}"]


def raw(cells: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(cells).reshape(-1).view(np.uint8)


@st.composite
def chunks(draw):
    """A chunk of some type, shape and habit, and the value that many of its cells may hold."""
    shape = tuple(draw(st.lists(st.integers(1, 12), max_size=4)))
    if draw(st.booleans()):
        shape = (draw(st.integers(1, 2500)),)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    cells = (floats if draw(st.booleans()) else integers)(draw, rng, int(np.prod(shape)))
    fill = draw(st.sampled_from([None, "first", "odd"]))
    if fill is not None:
        odd = 99999.0 if cells.dtype.kind == "f" else np.iinfo(cells.dtype).min
        fill = raw(cells[:1] if fill == "first" else np.array([odd], cells.dtype)).copy()
    return cells.reshape(shape), fill


def floats(draw, rng, count):
    dtype = np.dtype(draw(st.sampled_from(FLOATS)))
    walk = np.cumsum(rng.normal(0, 1, count)) + rng.normal(0, 20)
    habit = draw(st.sampled_from(["decimal", "noise", "small", "scaled", "binary", "large"]))
    if habit == "decimal":
        walk = np.round(walk, draw(st.integers(0, 6)))
    elif habit == "scaled":
        walk = np.round(walk).astype(dtype) * dtype.type(0.01)
    elif habit == "binary":
        walk = np.round(walk * 64) / 64
    elif habit == "large":
        walk = np.round(walk * 1e9) / 100
    elif habit == "small":
        walk = rng.normal(0, 1, count) * 1e-30
    cells = walk.astype(dtype)
    cells[rng.random(count) < draw(st.sampled_from([0, 0, 0.01, 0.4, 1]))] = np.nan
    odd = rng.random(count) < draw(st.sampled_from([0, 0.02]))
    cells[odd] = rng.choice([np.inf, -np.inf, -0.0, 0.0, 1e30, 1e-40, 1 / 3], int(odd.sum()))
    odd = rng.random(count) < draw(st.sampled_from([0, 0.03]))
    cells.view(f"u{dtype.itemsize}")[odd] = 0xFFC00001 if dtype.itemsize == 4 else 0xFFF8000000000123
    return cells


def integers(draw, rng, count):
    dtype = np.dtype(draw(st.sampled_from(NUMBERS)))
    ends = np.iinfo(dtype)
    habit = draw(st.sampled_from(["walk", "noise", "wide", "counter"]))
    if habit == "noise":
        cells = rng.integers(ends.min, ends.max, count, dtype, endpoint=True)
    elif habit == "counter":
        cells = (np.arange(count) % 120).astype(dtype)
    else:
        walk = np.cumsum(rng.normal(0, 10 if habit == "walk" else 1e7, count))
        cells = np.clip(walk, max(ends.min, -(2**62)), min(ends.max, 2**62)).astype(dtype)
    cells[rng.random(count) < draw(st.sampled_from([0, 0.3]))] = ends.min
    return cells


def unpacked(loops, payload: bytes, cells: np.ndarray, box: tuple[slice, ...]) -> bytes:
    """Read a box of a packed chunk: in a table of tasks, past the caches or not, and alone."""
    wanted = np.array(cells[box], order="C")
    size = max(wanted.nbytes, 1)
    start, extent = [s.start for s in box], [s.stop - s.start for s in box]
    tables = [np.array([table], np.int64) for table in (list(cells.shape), start, extent, wanted.strides)]
    one, src, checksum = (
        np.zeros(1, np.int64),
        np.frombuffer(b"!" + payload, np.uint8),
        xxhash.xxh3_64_intdigest(payload),
    )
    table = {"offset": one + 1, "length": one + len(payload), "geometry": np.zeros(1, np.int32), "destination": one}
    table |= {"pipeline": np.zeros(1, np.uint8), "checksum": np.array([checksum], np.uint64)}
    table |= dict(zip(("chunk_extent", "block_start", "block_extent", "strides"), tables, strict=True))
    stored, place = Stored(1, len(payload), 0, checksum), (cells.shape, tuple(start), tuple(extent))
    answers: list[bytes | str] = []
    for read in (
        lambda out: loops.unpack(src, one, table, out, element(cells)),
        lambda out: loops.unpack(src, one, table, out, element(cells), past=True),
        lambda out: loops.unpack_one(src, stored, place, out, element(cells)),
    ):
        # Where cache lines begin makes no difference.
        out = np.zeros(size + 64, np.uint8)[len(payload) % 64 :][:size]
        try:
            read(out)
            answers.append(out[: wanted.nbytes].tobytes())
        except CorruptChunk as error:
            answers.append(str(error))
    assert answers[0] == answers[1] == answers[2]
    if isinstance(answers[0], str):
        raise CorruptChunk(answers[0])
    return answers[0]


def chosen(loops, cells: np.ndarray, fill) -> Packing | None:
    """Return how a chunk would be packed."""
    _, _, packings = loops.pack_rows(raw(cells)[np.newaxis], cells.shape, element(cells), fill, 0)
    return Packing(*packings[0].tolist()) if packings[0, 0] >= 0 else None


def packed_as(loops, cells: np.ndarray, fill, packing: Packing, limit: int) -> bytes:
    """Pack a chunk in a given way."""
    return loops.pack_rows(raw(cells)[np.newaxis], cells.shape, element(cells), fill, limit, packing)[0].tobytes()


def whole(cells: np.ndarray) -> tuple[slice, ...]:
    return tuple(slice(0, n) for n in cells.shape)


@settings(max_examples=300)
@given(chunks(), st.data())
def test_kernels_and_twins_write_and_read_the_same(chunk, data):
    cells, fill = chunk
    packing = chosen(native, cells, fill)
    assert packing == chosen(twins, cells, fill)
    if packing is None:
        return
    axes = data.draw(st.sampled_from([packing.axes, 0, *range(1 << max(cells.ndim, 1))]))
    packing = packing._replace(axes=axes)
    limit = 2 * cells.nbytes + 5000
    payload = packed_as(native, cells, fill, packing, limit)
    assert payload == packed_as(twins, cells, fill, packing, limit)
    if not payload:
        return
    starts = [data.draw(st.integers(0, n - 1)) for n in cells.shape]
    box = tuple(slice(s, data.draw(st.integers(s + 1, n))) for s, n in zip(starts, cells.shape, strict=True))
    for loops in (native, twins):
        for part in (whole(cells), box):
            assert unpacked(loops, payload, cells, part) == np.ascontiguousarray(cells[part]).tobytes()


def encoded(cells: np.ndarray, fill: np.ndarray | None = None, codec: str = "zstd") -> tuple[bytes, int]:
    payloads, pipelines = codecs.encode_numbers(raw(cells)[None], cells.dtype, cells.shape, fill, codec, 1)
    return bytes(payloads[0]), int(pipelines[0])


@settings(max_examples=200)
@given(chunks(), st.sampled_from(["zstd", "lz4"]))
def test_what_the_encoder_writes_comes_back(chunk, codec):
    cells, fill = chunk
    data = raw(cells)
    payload, pipeline = encoded(cells, fill, codec)
    if pipeline == codecs.PACKED:
        assert len(payload) <= 0.9 * len(data)
        assert unpacked(native, payload, cells, whole(cells)) == data.tobytes()
    else:
        decoded = np.frombuffer(codecs.decode(payload, pipeline, len(data), cells.dtype.itemsize), np.uint8)
        if codecs.is_shuffled(pipeline):
            decoded = decoded.reshape(cells.dtype.itemsize, -1).T
        assert decoded.tobytes() == data.tobytes()


def packed(cells: np.ndarray, fill: np.ndarray | None = None) -> bytes:
    payload, pipeline = encoded(cells, fill)
    assert pipeline == codecs.PACKED
    return payload


STEPS = np.cumsum(np.arange(48) % 7 - 2).reshape(4, 12)

# Payloads of version 1 of the format. A release that cannot read them has broken the stores of its users.
GOLDEN = {
    "decimal": (
        np.round(STEPS * 0.13 + 11, 2).astype("f4"),
        "0102020032040000e6ffffff003845d40d0000008d5310a01a9ab371a101343472364e416783e66c802608d09c828053d09c"
        "1a9a10a0a101b3710a020907",
    ),
    "multiplied": (
        STEPS.astype("f8") * 0.01,
        "02020100fdffffff070000000110638a77a8000085046a526a5248a048a026852685046a04000000520000000404",
    ),
    "masked": (
        np.where(STEPS % 3 == 0, np.nan, STEPS / 4),
        "01420101feffffff050000000000007966970000b72898048b787ac06ab688a749b728980700000004000000000000000000"
        "f87f04043640d20648da",
    ),
    "integers": (
        (STEPS * 3).astype("i2"),
        "00000200fafffffffaffffff00d2cf0c233d601886c991e4304c0e26480f9807477a203d0c9386c960180000911e00000705",
    ),
    "wide": (
        (STEPS * 10**10).astype("i8"),
        "000002040038e857fbffffff0038e857fbffffff0000000000b08ef000b4f9e400489429800dec0900e40b5400c817a800ac"
        "23fc00902f5000743ba4005847f80000000000e40b5400c817a800ac23fc00902f50005847f80000000000e40b5400c817a8"
        "00ac23fc00902f5000743ba4005847f80000000000e40b5400c817a800902f5000743ba4005847f80000000000e40b5400c8"
        "17a800ac23fc00902f5000743ba4005847f80000000000c817a800ac23fc00902f5000743ba4005847f80000000000e40b54"
        "00c817a800ac23fc00902f5000743ba4620b9440942dd662d9922db60bb440d9600b9400942db6002724",
    ),
    "ordered": (
        np.where(STEPS % 5 == 0, np.nan, np.float32(np.pi) * (STEPS + 40)).astype("f4"),
        "03000301d4c2ee42d1e424004293f6ff6cd0eaff0000a03873263f003f24832f5bd253fbf8b22591c0216f7fe5cb96000000"
        "be6c892f5bc2972d0100cf75b1b515e70ee5f00200004b5571ee48717a1540b5ac54e78eb5f00bd2955e124d4e56114d4e56"
        "9c3b15e72d48d6c24ec5b9434b3439393d85559c81b7599c3b969e483b502d2b9a3ce80fe54b5571c9580b2feea8387715e7"
        "0e00000000000000c07f001216169014006084a4",
    ),
    "series": (
        np.round(STEPS.reshape(-1) * 0.13 + 11, 2).astype("f4"),
        "0102010032040000e6ffffff8d5310a01a9ab371a1391ba70a0234342040437367e31404364e41806868cec686e66c9c2908d0d0820000"
        "00000000000007",
    ),
    "counts": (
        (STEPS.reshape(-1)[:40] % 5).astype("u2"),
        "000000000000000013444061da403112460683069721990003",
    ),
    "sign last": (
        np.pi * (STEPS - 30),
        "03010004315a88a8f643120001000000d34244b5d34244b5010000005d7a7795e9b1aa75a3a699a0472c220b196f66c0196f"
        "66c0472c220ba3a699a08d1622aa01000000470b11d5e990993fe990993f470b11d501000000196f66c0470b11d5d16355eb"
        "75e9dd5575e9dd55d16355eb470b11d575e9dd5501000000010000008d1622aa8d1622aa0100000001000000000000008c16"
        "22aa74e9dd55000000000000000074e9dd558c1622aa0000000074e9dd558c1622aa460b11d5460b11d58c1622aa74e9dd55"
        "5c7a77950000a01f1f92a10092a1c0db00a061259ce2dc919822019541939622419396e20195fd90dc9100008c7e488680be"
        "6c89be6c89007e48864100807e489376c24a66026f7370026f73c24a70027e4866006f5300000020fd9040fd904c4c000040"
        "000020fd00000002904c00006f33000020026f3320fd904c000060fd026f737e906c7e484866fd9066026f736cc0db7c38",
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("loops", [native, twins])
def test_golden_payloads_are_read(name, loops):
    cells, payload = GOLDEN[name]
    assert unpacked(loops, bytes.fromhex(payload), cells, whole(cells)) == cells.tobytes()


def test_each_habit_is_found():
    rng = np.random.default_rng(0)
    walk = np.cumsum(rng.normal(0, 5, 5000))
    for dtype in ("f4", "f8"):
        kind = np.dtype(dtype).type
        assert packed(np.round(walk, 2).astype(dtype))[:2] == bytes((DIVIDED, 2))
        assert packed(np.round(walk).astype(dtype) * kind(0.01))[:2] == bytes((MULTIPLIED, 2))
        assert packed(np.round(walk * 8).astype(dtype) / 8)[0] == DIVIDED
    assert packed(np.round(walk).astype("i2"))[:2] == bytes((INTEGERS, 0))
    for dtype in ("f4", "f8"):
        assert packed(rng.normal(0, 1, 5000).astype(dtype))[:2] == bytes((BITS, SIGN_LAST))
        # Close to each other, but of too many digits.
        close = np.cumsum(rng.normal(1, 0.1, 5000)).astype(dtype) * np.dtype(dtype).type(1e-30)
        assert packed(close)[:2] == bytes((BITS, ORDERED))
    # Bits that are all random cannot be shortened by anyone.
    noise = rng.integers(0, 256, 40000, np.uint8).view("f8")
    assert encoded(noise)[1] == codecs.RAW


def test_flags_say_what_a_chunk_needs():
    walk = np.round(np.cumsum(np.random.default_rng(1).normal(0, 5, 3000)), 2)
    assert packed(walk)[3] == 0
    holes = np.where(np.arange(3000) % 3, walk, np.nan)
    assert packed(holes)[3] == MASKED
    walk[5] = np.pi
    assert packed(walk)[3] == PATCHED
    assert packed(np.arange(3000) * 10**12)[3] == WIDE


@pytest.mark.parametrize("width", range(33, 65))
def test_whole_blocks_of_wide_numbers(width):
    rng = np.random.default_rng(width)
    cells = rng.integers(0, (1 << width) - 1, 2500, np.uint64, endpoint=True).astype("i8")
    cells[[0, 1100, 2300]] = (1 << width) - 1 - (1 << 64) * (width == 64)
    payload = packed_as(native, cells, None, Packing(INTEGERS, 0, 0), 2 * cells.nbytes)
    assert payload == packed_as(twins, cells, None, Packing(INTEGERS, 0, 0), 2 * cells.nbytes)
    for loops in (native, twins):
        assert unpacked(loops, payload, cells, whole(cells)) == cells.tobytes()


def sealed(payload: bytes, box: dict[str, list[int]]) -> tuple[np.ndarray, dict]:
    """Return a file of one sealed payload, and the task that reads a box of it."""
    body = np.frombuffer(payload, np.uint8)
    hashes = native.digest(body, *stretches(np.array([0]), np.array([len(payload)]))).tobytes()
    tables: dict = {name: np.array([values], np.int64) for name, values in box.items()}
    tables |= {"geometry": np.zeros(1, np.int32), "destination": np.zeros(1, np.int64)}
    tables |= {"offset": np.zeros(1, np.int64), "length": np.array([len(hashes) + len(payload)])}
    tables |= {"pipeline": np.array([SEALED | codecs.PACKED], np.uint8)}
    tables |= {"checksum": np.array([xxhash.xxh3_64_intdigest(hashes)], np.uint64)}
    return np.frombuffer(hashes + payload, np.uint8).copy(), tables


def test_rows_before_a_box_are_left_out_unless_differences_need_them():
    walk = np.cumsum(np.random.default_rng(0).normal(0, 5, (64, 4, 1024)), axis=2).round(2)
    box = {"chunk_extent": [64, 4, 1024], "block_start": [60, 1, 0], "block_extent": [4, 2, 1024]}
    for axes, fails in ((0, False), (0b100, False), (0b110, False), (0b001, True), (0b101, True)):
        payload = packed_as(native, walk, None, Packing(DIVIDED, 2, axes), walk.nbytes)
        file, tables = sealed(payload, box | {"strides": [2 * 8192, 8192, 8]})
        for is_damaged in (False, True):
            out = np.zeros(8 * 8 * 1024, np.uint8)
            # In the numbers of the first rows, wherever along the other axes.
            file[len(file) - len(payload) + len(payload) // 6] ^= is_damaged
            if is_damaged and fails:
                with pytest.raises(CorruptChunk):
                    native.unpack(file, np.zeros(1, np.int64), tables, out, ELEMENTS["f8"])
            else:
                native.unpack(file, np.zeros(1, np.int64), tables, out, ELEMENTS["f8"])
                assert out.tobytes() == walk[60:, 1:3].tobytes()


@pytest.mark.parametrize("axes", [0b000, 0b010, 0b101, 0b111])
def test_every_byte_of_a_sealed_chunk_that_is_restored_in_parts_is_checked(axes):
    walk = np.cumsum(np.random.default_rng(1).normal(0, 5, (70, 9, 120)), axis=2).round(2).astype("f4")
    walk[:, 3] = np.nan
    payload = packed_as(native, walk, None, Packing(DIVIDED, 2, axes), walk.nbytes)
    box = {"chunk_extent": [70, 9, 120], "block_start": [0, 0, 0], "block_extent": [70, 9, 120]}
    file, tables = sealed(payload, box | {"strides": [9 * 480, 480, 4]})
    out = np.zeros(walk.nbytes, np.uint8)
    native.unpack(file, np.zeros(1, np.int64), tables, out, ELEMENTS["f4"])
    assert out.tobytes() == walk.tobytes()
    for place in range(0, len(file), 997):
        file[place] ^= 1
        with pytest.raises(CorruptChunk):
            native.unpack(file, np.zeros(1, np.int64), tables, out, ELEMENTS["f4"])
        file[place] ^= 1


@pytest.mark.parametrize(
    "shape", [(90001,), (301, 333), (9, 7919), (50, 50, 61), (1, 1, 400, 251), (2, 50001), (70, 3, 5, 99)]
)
def test_chunks_that_are_restored_in_parts(shape):
    rng = np.random.default_rng(len(shape))
    walk = np.cumsum(rng.normal(0, 3, shape), axis=-1)
    masked = np.where(rng.random(shape) < 0.4, np.nan, walk.round(2))
    kinds = [(masked.astype("f4"), DIVIDED, 2), (masked, DIVIDED, 2), (walk, BITS, ORDERED)]
    kinds += [((walk * 1e12).astype("i8"), INTEGERS, 0), (walk.astype("i2"), INTEGERS, 0)]
    low = rng.integers(0, shape, (3, len(shape)))
    high = low + rng.integers(1, np.array(shape) - low + 1)
    boxes = [tuple(map(slice, *ends)) for ends in zip(low.tolist(), high.tolist(), strict=True)]
    for cells, kind, code in kinds:
        for axes in {0, 1, 1 << len(shape) - 1, (1 << len(shape)) - 1, 1 << len(shape) >> 2}:
            payload = packed_as(native, cells, None, Packing(kind, code, axes), 4 * cells.nbytes)
            for box in [whole(cells), *boxes]:
                assert unpacked(native, payload, cells, box) == np.ascontiguousarray(cells[box]).tobytes()


def test_what_was_checked_of_a_chunk_counts_though_it_changes_meanwhile():
    """The widths of the blocks, the last bytes of a chunk, which the first cells that are restored are written over."""
    cells = np.random.default_rng(0).integers(0, 1 << 20, 90_000, np.int32)
    cells[:16] = 0
    payload = packed_as(native, cells, None, Packing(INTEGERS, 0, 0), cells.nbytes)
    blocks = -(-len(cells) // 1024)
    assert set(payload[-blocks:]) == {20}
    file = np.empty(len(payload) + cells.nbytes, np.uint8)
    file[: len(payload)] = np.frombuffer(payload, np.uint8)
    out = file[len(payload) - blocks :][: cells.nbytes]
    shape = {"chunk_extent": [90_000], "block_start": [0], "block_extent": [90_000], "strides": [4]}
    _, tables = sealed(payload, shape)
    tables |= {"length": np.array([len(payload)])}
    native.unpack(
        file,
        np.zeros(1, np.int64),
        {k: v for k, v in tables.items() if k not in ("pipeline", "checksum")},
        out,
        ELEMENTS["i4"],
    )
    assert out.tobytes() == cells.tobytes()


def test_working_memory_does_not_grow_with_the_chunk():
    cells = np.round(np.cumsum(np.random.default_rng(0).normal(0, 1, (2000, 1000)), axis=1), 2).astype("f4")
    payload = np.frombuffer(packed(cells), np.uint8)
    sizes = []

    def unpack() -> None:
        assert native.unpack_whole(payload, cells.shape, element(cells)).tobytes() == cells.tobytes()
        sizes.append(native.buffers._buffers.work.nbytes)

    thread = threading.Thread(target=unpack)
    thread.start()
    thread.join()
    assert sizes[0] < payload.nbytes + cells.nbytes / 4


def test_masked_parts_do_not_keep_the_rest_from_being_predicted():
    x, y, z = np.ogrid[:30, :60, :60]
    field = np.round(15 + 9 * np.sin(x / 9) + 7 * np.cos(y / 8) + 5 * np.sin((y + z) / 7), 2).astype("f4")
    field[:, :20] = np.nan
    found = chosen(native, field, None)
    assert found == chosen(twins, field, None)
    assert found.axes


def test_fields_are_predicted_from_those_before_however_large_they_are():
    rng = np.random.default_rng(0)
    still = rng.normal(0, 50, (40, 60))
    series = np.round(still + 0.1 * np.arange(20)[:, None, None] + rng.normal(0, 0.02, (20, 40, 60)), 2).astype("f4")
    masked = series.copy()
    masked[:, rng.random((40, 60)) < 0.4] = np.nan
    for cells in (series, masked):
        assert chosen(native, cells, None) == chosen(twins, cells, None) == Packing(DIVIDED, 2, 1)


def test_noise_with_masked_cells_is_not_predicted():
    rng = np.random.default_rng(0)
    noise = np.round(rng.normal(0, 5, (20, 40, 60)), 2).astype("f4")
    noise[rng.random(noise.shape) < 0.4] = np.nan
    assert chosen(native, noise, None) == chosen(twins, noise, None) == Packing(DIVIDED, 2, 0)


def test_a_fill_value_far_away_costs_a_bit_a_cell():
    walk = np.round(np.cumsum(np.random.default_rng(2).normal(0, 5, 8000)), 2).astype("f4")
    filled = np.where(np.arange(8000) % 5, walk, np.float32(9.96921e36)).astype("f4")
    fill = raw(np.array([9.96921e36], "f4"))
    assert len(packed(filled, fill)) < len(packed(walk)) + 8000 // 8 + 400


def test_repetitive_numbers_go_to_the_codec_that_is_good_at_them():
    categories = np.repeat(np.random.default_rng(3).integers(0, 5, 200), 50).astype("i4")
    payload, pipeline = encoded(categories)
    assert pipeline == codecs.SHUFFLE_ZSTD
    other = packed_as(native, categories, None, chosen(native, categories, None), categories.nbytes)
    assert not other or len(payload) < 0.7 * len(other)


def test_outliers_that_no_sample_tells_are_left_to_the_codec():
    rng = np.random.default_rng(3)
    cells = rng.integers(0, 100, 100_000).astype("i4")
    assert encoded(cells)[1] == codecs.PACKED
    cells[rng.random(len(cells)) < 0.001] = 2**31 - 1
    payload, pipeline = encoded(cells)
    assert pipeline == codecs.SHUFFLE_ZSTD
    assert len(payload) < 0.7 * len(packed_as(native, cells, None, chosen(native, cells, None), cells.nbytes))


@settings(max_examples=400)
@given(st.sampled_from(sorted(GOLDEN)), st.data())
def test_damage_is_told_or_changes_values_alike(name, data):
    cells, text = GOLDEN[name]
    payload = bytearray.fromhex(text)
    change = data.draw(st.sampled_from(["flip", "cut", "grow"]))
    if change == "flip":
        payload[data.draw(st.integers(0, len(payload) - 1))] ^= data.draw(st.integers(1, 255))
    elif change == "cut":
        del payload[data.draw(st.integers(0, len(payload) - 1)) :]
    else:
        payload += data.draw(st.binary(min_size=1, max_size=9))
    answers = []
    for loops in (native, twins):
        try:
            answers.append(unpacked(loops, bytes(payload), cells, whole(cells)))
        except CorruptChunk as error:
            answers.append(str(error))
    # The checksum is what tells damage; unpacking must only stay within its buffers, and agree.
    assert answers[0] == answers[1]
    # Bytes added behind shift the widths of the blocks: whole words may happen to fit other widths, nothing else can.
    if change == "grow" and (len(payload) - len(bytes.fromhex(text))) % 4:
        assert isinstance(answers[0], str)


@settings(max_examples=300)
@given(st.binary(max_size=300), st.sampled_from(sorted(GOLDEN)), st.integers(0, 3), st.sampled_from([0, 1, 2, 3, 4, 7]))
def test_junk_is_refused_or_fills_the_output(junk, name, kind, flags):
    cells, _ = GOLDEN[name]
    payload = bytes((kind, 1, 3, flags)) + junk
    for loops in (native, twins):
        with suppress(CorruptChunk):
            assert len(unpacked(loops, payload, cells, whole(cells))) == cells.nbytes


def test_small_jobs_are_done_by_numpy_until_kernels_are_there(monkeypatch):
    from atlas import kernels

    class Nothing:
        is_loaded = False

    monkeypatch.setattr(kernels, "library", Nothing())
    monkeypatch.setattr(kernels, "_done_by_twins", 0)
    monkeypatch.setattr(kernels, "may_be_compiled", lambda: False)
    assert kernels.pick(kernels.COMPILE_ABOVE // 2) is twins
    assert kernels.pick(kernels.COMPILE_ABOVE // 2) is native
    assert kernels.pick(kernels.COMPILE_ABOVE) is native
    monkeypatch.setattr(kernels, "_done_by_twins", 0)
    monkeypatch.setattr(kernels, "may_be_compiled", lambda: True)
    assert kernels.pick(100) is twins
    assert kernels.pick(kernels.LOAD_ABOVE) is native


def test_a_cache_that_cannot_be_looked_at_holds_no_kernels(monkeypatch):
    monkeypatch.setenv("ATLAS_CACHE_DIR", "/" + "x" * 300)
    assert not compile.may_be_compiled()


@pytest.mark.parametrize("shape", [(), (1,), (40, 1, 30), (1, 1, 500)])
def test_axes_of_one_cell_are_no_trouble(shape):
    cells = np.round(np.linspace(3, 9, int(np.prod(shape))), 1).reshape(shape)
    for axes in range(1 << max(len(shape), 1)):
        payload = packed_as(native, cells, None, Packing(DIVIDED, 1, axes), 1 << 16)
        assert unpacked(native, payload, cells, whole(cells)) == cells.tobytes()
