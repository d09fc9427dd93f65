"""The codecs: payloads that every release must read, choices, damage of any kind, and threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import lz4.block
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas import codecs
from atlas.errors import CorruptChunk

RAMP = np.arange(16, dtype="<i4").tobytes()
PLANES = np.frombuffer(RAMP, np.uint8).reshape(16, 4).T.tobytes()
TEXT = b"atlas " * 8

# Payloads of version 1 of the format. A release that cannot read them has broken the stores of its users.
GOLDEN = [
    (0, RAMP.hex(), RAMP),
    (1, "28b52ffd20306500003061746c6173200100039522", TEXT),
    (2, "300000006f61746c61732006001250746c617320", TEXT),
    (17, "28b52ffd2040bd000088000102030405060708090a0b0c0d0e0f00010089c012", PLANES),
    (18, "40000000ff02000102030405060708090a0b0c0d0e0f00010017500000000000", PLANES),
    (32, "00010203", bytes(range(4)) * 16),
]
IDS = [codecs.PIPELINES[pipeline] for pipeline, _, _ in GOLDEN]


@pytest.mark.parametrize(("pipeline", "payload", "raw"), GOLDEN, ids=IDS)
def test_golden_payloads_are_read(pipeline, payload, raw):
    assert bytes(codecs.decode(bytes.fromhex(payload), pipeline, len(raw), 4)) == raw
    assert codecs.is_shuffled(pipeline) == (pipeline in (17, 18))


def test_every_pipeline_has_a_golden_payload():
    # Those of packed chunks are in test_packing.
    assert {pipeline for pipeline, _, _ in GOLDEN} == set(codecs.PIPELINES) - {codecs.PACKED}


@settings(max_examples=300)
@given(st.data(), st.sampled_from([row for row in GOLDEN if row[0] not in (0, 32)]))
def test_damage_is_refused_or_harmless(data, golden):
    pipeline, text, raw = golden
    damaged = bytearray.fromhex(text)
    where = data.draw(st.integers(0, len(damaged) - 1))
    damaged[where] ^= data.draw(st.integers(1, 255))
    # Neither codec has a checksum of its own (the chunk has one): what passes is of the right length.
    with suppress(CorruptChunk):
        assert len(codecs.decode(bytes(damaged), pipeline, len(raw), 4)) == len(raw)


@settings(max_examples=300)
@given(st.binary(max_size=200), st.sampled_from([*codecs.PIPELINES, 16, 33, 255]), st.integers(0, 300))
def test_junk_is_refused_or_of_the_right_length(junk, pipeline, length):
    with suppress(CorruptChunk):
        assert len(codecs.decode(junk, pipeline, length, 4)) == length


@pytest.mark.parametrize(("pipeline", "payload", "raw"), GOLDEN[1:5], ids=IDS[1:5])
def test_anything_but_one_whole_frame_is_refused(pipeline, payload, raw):
    whole = bytes.fromhex(payload)
    for bad in (whole + b"\0", whole + whole, *(whole[:cut] for cut in range(len(whole)))):
        with pytest.raises(CorruptChunk):
            codecs.decode(bad, pipeline, len(raw), 4)
    for length in (len(raw) - 1, len(raw) + 1, 2 * len(raw), 0, 1 << 40):
        with pytest.raises(CorruptChunk):
            codecs.decode(whole, pipeline, length, 4)


def test_zstd_frames_without_their_size_are_refused():
    sizeless = zstandard.ZstdCompressor(write_content_size=False).compress(RAMP)
    skippable = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"
    for payload in (sizeless, skippable, skippable + zstandard.compress(RAMP)):
        with pytest.raises(CorruptChunk):
            codecs.decode(payload, codecs.ZSTD, len(RAMP), 4)


def test_a_declared_size_is_believed_only_when_it_is_the_right_one():
    """A frame that claims a tebibyte must not be given one."""
    frame = b"\x28\xb5\x2f\xfd\xe0" + (1 << 40).to_bytes(8, "little") + b"\x01\0\0"
    assert zstandard.frame_content_size(frame) == 1 << 40
    with pytest.raises(CorruptChunk, match="declares"):
        codecs.decode(frame, codecs.ZSTD, 64, 4)
    with pytest.raises(CorruptChunk, match="declares"):
        codecs.decode(b"\xff\xff\xff\x7f" + lz4.block.compress(RAMP)[4:], codecs.LZ4, 64, 4)


@pytest.mark.parametrize("codec", ["zstd", "lz4", "none"])
@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview, lambda raw: np.frombuffer(raw, np.uint8)])
def test_any_buffer_goes_in_and_comes_out(codec, wrap):
    raw = np.linspace(0, 1, 500).tobytes()
    payload, pipeline = codecs.encode(wrap(raw), 8, codec, 1)
    decoded = np.frombuffer(codecs.decode(memoryview(payload), pipeline, len(raw), 8), np.uint8)
    if codecs.is_shuffled(pipeline):
        decoded = decoded.reshape(8, -1).T
    assert decoded.tobytes() == raw


def test_constants_are_told_by_their_bits():
    zeros = np.zeros(1000)
    assert codecs.encode(zeros.tobytes(), 8, "zstd", 1) == (bytes(8), codecs.CONSTANT)
    for place in (0, 1, 63, 64, 999):
        signed = zeros.copy()
        signed[place] = -0.0
        payload, pipeline = codecs.encode(signed.tobytes(), 8, "zstd", 1)
        assert pipeline == codecs.SHUFFLE_ZSTD
        planes = np.frombuffer(codecs.decode(payload, pipeline, 8000, 8), np.uint8)
        assert planes.reshape(8, -1).T.tobytes() == signed.tobytes()


def test_threads_do_not_share_a_context():
    chunks = [np.sin(np.arange(4000) * (i + 1) / 99).tobytes() for i in range(8)]

    def there_and_back(raw: bytes) -> bool:
        payload, pipeline = codecs.encode(raw, 1, "zstd", 3)
        return bytes(codecs.decode(payload, pipeline, len(raw), 1)) == raw

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(there_and_back, chunks * 25))


def test_chunks_too_large_for_a_form_take_another(monkeypatch):
    raw = bytes(range(200)) * 10
    monkeypatch.setattr(codecs, "_LZ4_MOST", 2000)
    assert codecs.encode(raw, 1, "lz4", 1)[1] == codecs.LZ4
    assert codecs.encode(raw + raw, 1, "lz4", 1) == (raw + raw, codecs.RAW)
    assert codecs.encode(raw + raw, 1, "zstd", 1)[1] == codecs.ZSTD
    assert codecs.may_be_packed(4 << 26, np.dtype("f4"))
    assert not codecs.may_be_packed((4 << 26) + 4, np.dtype("f4"))
