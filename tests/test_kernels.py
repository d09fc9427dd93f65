"""Every kernel against its NumPy twin, and the codecs against their own inverse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas import codecs, errors
from atlas.kernels import bounds, twins
from atlas.kernels.native import scatter, shuffle


def check_bounds(size, offsets, geometry, extent, start, block, out_size, destinations, strides, itemsize):
    cells = bounds.check_boxes(geometry, extent, start, block, out_size, destinations, strides, itemsize)
    bounds.check_rows(len(geometry), offsets, cells * itemsize, size)


@st.composite
def boxes(draw):
    """Chunks of one rank, with a box of each, and an output that they are scattered to."""
    ndim = draw(st.integers(0, 5))
    itemsize = draw(st.sampled_from([1, 2, 3, 4, 8, 16]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.integers(1, 4))
    extent = rng.integers(1, 6, (count, ndim))
    start = rng.integers(0, extent)
    block = rng.integers(0 if draw(st.booleans()) else 1, extent - start + 1)
    full = draw(st.booleans())
    if full:
        start, block = np.zeros_like(extent), extent.copy()
    sizes = np.prod(extent, axis=1) * itemsize
    offsets = np.cumsum(sizes) - sizes
    outer = rng.integers(0, 3, ndim) + (block.max(axis=0) if ndim else np.zeros(0, int))
    row = np.concatenate([outer[1:], [itemsize]]) if ndim else np.zeros(0, int)
    strides = np.cumprod(row[::-1])[::-1]
    step = int(np.prod(outer)) * itemsize if ndim else itemsize
    out = np.zeros(step * count + 5, np.uint8)
    return (
        rng.integers(0, 256, int(sizes.sum()), dtype=np.uint8),
        offsets.astype(np.int64),
        np.arange(count, dtype=np.int32),
        extent.astype(np.int64),
        start.astype(np.int64),
        block.astype(np.int64),
        out,
        np.arange(count, dtype=np.int64) * step,
        np.tile(strides, (count, 1)).astype(np.int64),
        itemsize,
        rng.integers(0, 2, count).astype(np.uint8),
    )


@settings(max_examples=300, deadline=None)
@given(boxes())
def test_scatter_does_what_numpy_does(case):
    ours, theirs = case[6].copy(), case[6].copy()
    scatter(*case[:6], ours, *case[7:])
    twins.scatter(*case[:6], theirs, *case[7:])
    assert ours.tobytes() == theirs.tobytes()


@settings(max_examples=100, deadline=None)
@given(boxes(), st.sampled_from(["src", "out", "offset", "geometry"]))
def test_scatter_never_leaves_its_buffers(case, what):
    src, offsets, geometry, extent, start, block, out, destinations, strides, itemsize, _ = case
    sizes = [src.size, out.size]
    if what == "src":
        sizes[0] = int(offsets[-1] + np.prod(extent[-1]) * itemsize) - 1
    elif what == "out":
        sizes[1] = int(destinations[-1])
    elif what == "offset":
        offsets = offsets - 1
    else:
        geometry = geometry + len(extent)
    block = np.maximum(block, 1)
    with pytest.raises(ValueError):
        check_bounds(sizes[0], offsets, geometry, extent, start, block, sizes[1], destinations, strides, itemsize)


def test_a_box_outside_its_chunk_is_refused():
    two = np.array([[2]])
    with pytest.raises(ValueError, match="leaves its chunk"):
        check_bounds(9, np.array([0]), np.array([0]), two, two, two, 99, np.array([0]), two, 1)


@settings(max_examples=50, deadline=None)
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


@settings(max_examples=200, deadline=None)
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
    extent, start = np.array([[3, width + 2]]), np.array([[1, 1]])
    block = np.array([[2, width]])
    src = rng.integers(0, 256, 2 * 3 * (width + 2) * itemsize + 1, dtype=np.uint8)
    pitch = (width + 1) * itemsize + 1
    ours = rng.integers(0, 256, 4 * pitch + 1, dtype=np.uint8)
    theirs = ours.copy()
    offsets, targets = np.array([1, 1 + 3 * (width + 2) * itemsize]), np.array([1, 1 + 2 * pitch])
    task = (src, offsets, np.zeros(2, np.int32), extent, start, block)
    rest = (targets, np.array([[pitch, itemsize]]), itemsize, np.array([1, 0], np.uint8))
    scatter(*task, ours, *rest)
    twins.scatter(*task, theirs, *rest)
    assert ours.tobytes() == theirs.tobytes()


def bounded(extent, start, block, strides, tasks=1, geometry=0):
    """Check tasks of one byte an element that begin at 0 of 64 bytes."""
    zeros = np.zeros(tasks, np.int64)
    tables = (np.atleast_2d(np.array(table, np.int64)) for table in (extent, start, block))
    rows = np.full(tasks, geometry, np.int32)
    check_bounds(64, zeros, rows, *tables, 64, zeros, np.atleast_2d(np.array(strides, np.int64)), 1)


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
        with pytest.raises(ValueError):
            bounded(extent, start, block, strides)


def test_an_empty_box_may_begin_anywhere():
    zero, end = np.array([0]), np.array([64])
    empty = (np.array([[8]]), np.array([[8]]), np.array([[0]]))
    check_bounds(64, zero, zero, *empty, 64, end, np.array([[1]]), 1)


def test_only_the_geometries_of_the_tasks_count():
    extent, strides = [[8], [8], [99]], [[1], [1], [1]]
    start, block = [[0], [4], [0]], [[8], [4], [99]]
    bounded(extent, start, block, strides, tasks=2, geometry=1)
    with pytest.raises(ValueError, match="leaves the output"):
        bounded(extent, start, block, strides, tasks=2, geometry=2)
    with pytest.raises(ValueError, match="no geometry"):
        bounded(extent, start, block, strides, geometry=3)
