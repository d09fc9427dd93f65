"""The numbers that kernels, their twins and their callers share."""

from __future__ import annotations

from typing import NamedTuple

# What the integers of a packed chunk stand for.
INTEGERS, DIVIDED, MULTIPLIED, BITS = range(4)

# How the bits of a float are a number: in the order of the floats, or with the sign last, so that noise around zero
# has numbers close to each other.
ORDERED, SIGN_LAST = range(2)

# Flags of a packed chunk.
MASKED = 1  # a bitmap says which cells hold the special value
PATCHED = 2  # cells that are no decimals follow as they are
WIDE = 4  # the integers need 64 bits

# Scales: 10 to the power of the code, or 2 to the power of the code less 64.
BINARY = 64
MAX_DECIMAL = 22
MAX_BINARY = BINARY + 62

# Element types that can be packed, by NumPy kind and item size.
ELEMENTS = {
    "i1": 0,
    "u1": 1,
    "b1": 1,
    "i2": 2,
    "u2": 3,
    "i4": 4,
    "u4": 5,
    "i8": 6,
    "u8": 7,
    "M8": 6,
    "m8": 6,
    "f4": 8,
    "f8": 9,
}
ITEM_SIZES = (1, 1, 2, 2, 4, 4, 8, 8, 4, 8)
FLOAT32, FLOAT64 = 8, 9

BLOCK = 1024
MAX_AXES = 8

# Bytes of a cache line. Vectors that lie across two take twice as long.
LINE = 64

# Cells that are restored at once, about: their integers stay in the cache, however large the chunk.
SLAB = 32 << 10

# Pipelines with this bit: the hashes of the payload's stretches stand before it, so that a part of a chunk can be
# checked without the rest. Stretches are as long as hashing them well takes; smaller payloads gain too little.
SEALED = 128
STRETCH = 8 << 10
SEALED_FROM = 32 << 10

# What the scattering kernel decompresses, as pipelines name it.
LZ4, SHUFFLE_LZ4 = 2, 18

# Bytes of working memory: of a hash, and of a guard, which knows how much of a payload is checked.
HASH_ROOM = 64
GUARD_ROOM = 4 * 8 + HASH_ROOM

# What reading a chunk can find wrong.
UNKNOWN_HEADER, WRONG_LENGTH, BAD_POSITION, DAMAGED, WRONG_SIZE, BAD_BLOCK = 1, 2, 3, 4, 5, 6
PROBLEMS = {
    UNKNOWN_HEADER: "its packed header is not known to this release",
    WRONG_LENGTH: "its packed parts do not add up to its length",
    BAD_POSITION: "a patch lies outside the chunk",
    DAMAGED: "its checksum does not match",
    WRONG_SIZE: "it does not hold as many bytes as its place in the array takes",
    BAD_BLOCK: "lz4: its block does not hold what its place in the array takes",
}

# What is wrong with a task that must not touch memory.
NO_ROW, NO_GEOMETRY, NEGATIVE, OUTSIDE_CHUNK, OUTSIDE_OUTPUT, OUTSIDE_BUFFER = 1, 2, 3, 4, 5, 6
REFUSALS = {
    NO_ROW: "a task is not in the table",
    NO_GEOMETRY: "a task has no geometry",
    NEGATIVE: "a box has a negative extent",
    OUTSIDE_CHUNK: "a box leaves its chunk",
    OUTSIDE_OUTPUT: "a box leaves the output",
    OUTSIDE_BUFFER: "a chunk leaves its buffer",
}


class Stored(NamedTuple):
    """Where the payload of a chunk is in its file, and how it was made."""

    offset: int
    length: int
    pipeline: int
    checksum: int


class Packing(NamedTuple):
    """How a chunk is packed.

    Attributes
    ----------
    kind : int
        INTEGERS, or floats DIVIDED or MULTIPLIED by the scale, or their BITS.
    code : int
        The scale, or how bits are numbers.
    axes : int
        Bit *i* is set when cells are stored as differences along axis *i*.
    repetitive : int
        Whether few values may come again and again.
    """

    kind: int
    code: int
    axes: int
    repetitive: int = 0
