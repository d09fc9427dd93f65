"""Hashes made by the kernel are those of the library, whatever the length."""

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas.kernels import native, twins

DATA = np.random.default_rng(0).integers(0, 256, 70_000, np.uint8)


@pytest.mark.parametrize("loops", [native, twins])
def test_every_length_is_hashed_like_the_library_does(loops):
    lengths = np.array([*range(2200), 65535, 65536, 65537])
    offsets = np.arange(len(lengths)) % 77
    expected = [xxhash.xxh3_64_intdigest(DATA[a : a + n]) for a, n in zip(offsets, lengths, strict=True)]
    assert loops.digest(DATA, offsets, lengths).tolist() == expected


@settings(max_examples=200)
@given(st.binary(max_size=400), st.data())
def test_any_bytes_hash_alike(data, more):
    offset = more.draw(st.integers(0, len(data)))
    stretch = np.array([offset]), np.array([more.draw(st.integers(0, len(data) - offset))])
    source = np.frombuffer(data, np.uint8)
    assert native.digest(source, *stretch).tolist() == twins.digest(source, *stretch).tolist()


@pytest.mark.parametrize(("offset", "length"), [(-1, 5), (69_999, 2), (0, -1), (1 << 62, 1 << 62)])
def test_nothing_outside_is_read(offset, length):
    with pytest.raises(ValueError, match="leaves its buffer"):
        native.digest(DATA, np.array([offset]), np.array([length]))
