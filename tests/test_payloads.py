"""Payloads are copied from file to file as they are, many by one step."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from atlas.payloads import Payloads, copy_payloads
from atlas.segment import ALIGNED_FROM, ALIGNMENT, HEADER_LENGTH, SegmentWriter

# Sizes about what is large, and gaps about what is left free before a large one.
SIZES = st.one_of(st.integers(0, 40), st.integers(ALIGNED_FROM - 9, ALIGNED_FROM + 9), st.integers(0, 9000))
GAPS = st.one_of(st.just(0), st.integers(0, ALIGNMENT), st.integers(0, 30_000))


class Memory:
    """A file in memory, which counts the pieces that it is made of."""

    def __init__(self) -> None:
        self.data, self.pieces = bytearray(), 0

    @property
    def position(self) -> int:
        return len(self.data)

    def write(self, data) -> None:
        self.data += data
        self.pieces += 1


def laid_out(sizes, gaps):
    """Return a source without a zero, and where payloads are in it."""
    ends = np.cumsum(np.add(sizes, gaps))
    source = np.random.default_rng(0).integers(1, 256, int(ends[-1]), np.uint8).tobytes()
    return source, ends - sizes


@given(st.lists(st.tuples(SIZES, GAPS), min_size=1, max_size=30), st.integers(0, 30), st.data())
def test_payloads_are_copied_whole_and_large_ones_begin_where_words_do(layout, before, data):
    sizes = np.array([size for size, _ in layout])
    source, begins = laid_out(sizes, [gap for _, gap in layout])
    rows = data.draw(st.lists(st.integers(0, len(layout) - 1), min_size=1, max_size=40))
    file = Memory()
    segment = SegmentWriter(file, "key", bytes(16))
    segment.append(bytes(before))
    payloads = Payloads(lambda offset, length: source[offset : offset + length])
    places = copy_payloads(payloads, begins[rows], sizes[rows], segment)
    covered = np.zeros(len(file.data), bool)
    covered[: HEADER_LENGTH + before] = True
    for row, place in zip(rows, places.tolist(), strict=True):
        begin, end = begins[row], begins[row] + sizes[row]
        assert file.data[place : place + sizes[row]] == source[begin:end]
        assert sizes[row] < ALIGNED_FROM or place % ALIGNMENT == 0
        covered[place : place + sizes[row]] = True
    # What the source has between them stays there.
    gaps = np.frombuffer(file.data, np.uint8)[~covered]
    assert not gaps.any()
    assert len(gaps) < ALIGNMENT * len(rows) + ALIGNMENT


def test_payloads_that_lie_as_they_are_to_lie_are_one_read_and_one_piece():
    sizes = np.full(1000, 2003)
    source, begins = laid_out(sizes, np.full(1000, -2003 % ALIGNMENT))
    begins -= -2003 % ALIGNMENT
    file, reads = Memory(), []
    segment = SegmentWriter(file, "key", bytes(16))

    def read(offset, length):
        reads.append(length)
        return source[offset : offset + length]

    before = file.pieces
    copy_payloads(Payloads(read), begins, sizes, segment)
    assert len(reads) == 1
    assert file.pieces - before == 2  # what is left free before it, and all of them
