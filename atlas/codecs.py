"""How a chunk becomes bytes: a filter, then a codec, named together by a one-byte *pipeline* id.

The ids are part of the format and never change their meaning.
"""

from __future__ import annotations

import math
import threading
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from atlas import kernels
from atlas.errors import CorruptChunk
from atlas.kernels.layout import ELEMENTS, SEALED
from atlas.kernels.sealed import body_of

RAW = 0
ZSTD = 1
LZ4 = 2
SHUFFLE_ZSTD = 17
SHUFFLE_LZ4 = 18
CONSTANT = 32
PACKED = 64

PIPELINES = {
    RAW: "raw",
    ZSTD: "zstd",
    LZ4: "lz4",
    SHUFFLE_ZSTD: "shuffle+zstd",
    SHUFFLE_LZ4: "shuffle+lz4",
    CONSTANT: "constant",
    PACKED: "packed",
}
_SHUFFLED = 16


def among(*pipelines: int) -> NDArray[np.bool_]:
    """Return a table that tells by pipeline, sealed or not, whether it is one of these."""
    table = np.zeros(256, bool)
    table[[*pipelines, *(SEALED | pipeline for pipeline in pipelines)]] = True
    return table


# What kernels decode for many chunks at once; the others take a call each.
BY_KERNELS = among(RAW, LZ4, SHUFFLE_LZ4, PACKED)

# Compression that saves less than this fraction costs more time than it saves space.
_WORTH = 0.98

# Packed chunks are decoded several times faster than compressed ones: these must be so much smaller to be taken.
SMALLER = 0.7

# How much of a large chunk a codec is tried on, and how much better than there it may do on all of it.
_PARTS = 4
_PART_BYTES = 8 << 10
_TRIED_IN_PARTS = 4 * _PARTS * _PART_BYTES
_DOUBT = 1.2

# Packing must save this fraction, as it only pays where the numbers really are short.
_PACKED_WORTH = 0.9

# Where more than this is left of a large chunk, some numbers may be far from the others, and no sample have told.
_DOUBTFUL = 0.6

# A frame, or a block with its length, takes more than this by itself.
_INCOMPRESSIBLE = 13

# An lz4 block holds no more.
_LZ4_MOST = 0x7E000000

# Smaller chunks are mostly header.
PACKED_ABOVE = 32

# Chunks of more cells are not packed: of each, 26 bytes of working memory are taken.
PACKED_CELLS = 64 << 20

_contexts = threading.local()

Pipelines = TypeVar("Pipelines", int, "np.ndarray[Any, Any]")


def plain(pipeline: Pipelines) -> Pipelines:
    """Return pipelines without saying which payloads are sealed."""
    return pipeline & (SEALED - 1)


def is_shuffled(pipeline: int) -> bool:
    """Return whether a pipeline's decoded bytes still have to be un-shuffled."""
    return pipeline in (SHUFFLE_ZSTD, SHUFFLE_LZ4)


def element_of(dtype: np.dtype[Any]) -> int:
    """Return the number of a type whose cells can be packed, -1 for other types."""
    return ELEMENTS.get(f"{dtype.kind}{dtype.itemsize}", -1)


def may_be_packed(size: int, dtype: np.dtype[Any]) -> bool:
    """Return whether chunks of so many bytes of a type are packed at all."""
    return element_of(dtype) >= 0 and PACKED_ABOVE <= size <= dtype.itemsize * PACKED_CELLS


def packed_limit(size: int) -> int:
    """Return how many bytes a packed chunk of so many may take."""
    return int(size * _PACKED_WORTH)


def _is_settled(packed: NDArray[np.int64], repetitive: NDArray[np.int64], size: int) -> Any:
    """Return where packing chunks of `size` bytes to `packed` is so good that no other codec need be tried."""
    return (packed > 0) & (repetitive == 0) & ((packed <= _DOUBTFUL * size) | (size < _TRIED_IN_PARTS))


def encode_numbers(
    raw: NDArray[np.uint8], dtype: np.dtype[Any], shape: tuple[int, ...], fill: Any, codec: str, level: int
) -> tuple[list[Any], NDArray[np.uint8]]:
    """Return the payloads of chunks of one shape and the pipelines that made them, packed where that is best.

    Parameters
    ----------
    raw : (n, bytes) uint8
        The elements of each chunk, C order, little-endian.
    dtype : numpy.dtype
        Their type.
    shape : tuple of int
        The chunks' shape.
    fill : (itemsize,) uint8 or None
        The bytes of a value that many cells may hold.
    codec, level
        As for :func:`encode`.

    Returns
    -------
    payloads : list of bytes-like
        Some are in memory that the next call in this thread uses again.
    pipelines : (n,) uint8
    """
    payloads: list[Any] = [b""] * len(raw)
    pipelines = np.full(len(raw), PACKED, np.uint8)
    others = _pack(raw, dtype, shape, fill, payloads)
    for row in others.tolist():
        payloads[row], pipelines[row] = _encode_otherwise(raw[row], dtype.itemsize, payloads[row], codec, level)
    return payloads, pipelines


def _pack(
    raw: NDArray[np.uint8], dtype: np.dtype[Any], shape: tuple[int, ...], fill: Any, payloads: list[Any]
) -> NDArray[np.int64]:
    """Put packed payloads in their places; return the rows that another codec has to look at.

    A call for all of them: threads that encode side by side would wait for each other at every one.
    """
    every = np.arange(len(raw))
    if not may_be_packed(raw.shape[1], dtype):
        return every
    tried = every[~_constant_rows(raw, dtype.itemsize)]
    if not len(tried):
        return every
    loops = kernels.pick(len(tried) * max(raw.shape[1], kernels.CALL))
    picked = raw if len(tried) == len(raw) else raw[tried]
    data, lengths, packings = loops.pack_rows(picked, shape, element_of(dtype), fill, packed_limit(raw.shape[1]))
    ends = np.cumsum(lengths)
    view = memoryview(data)
    for row, begin, end in zip(tried.tolist(), (ends - lengths).tolist(), ends.tolist(), strict=True):
        payloads[row] = view[begin:end]
    settled = tried[_is_settled(lengths, packings[:, 3], raw.shape[1])]
    return np.setdiff1d(every, settled, assume_unique=True)


def _constant_rows(raw: NDArray[np.uint8], itemsize: int) -> NDArray[np.bool_]:
    items = raw.reshape(len(raw), -1, itemsize)
    # The second cell settles it for most chunks.
    constant = (items[:, :2] == items[:, :1]).all(axis=(1, 2))
    candidates = np.flatnonzero(constant)
    constant[candidates] = (items[candidates] == items[candidates, :1]).all(axis=(1, 2))
    return np.asarray(constant)


def _encode_otherwise(raw: Any, itemsize: int, packed: Any, codec: str, level: int) -> tuple[Any, int]:
    """Return a payload and its pipeline where packing, which may have made nothing of it, has not settled it."""
    if len(packed) and not _promises(raw, itemsize, codec, level, len(packed)):
        return packed, PACKED
    other, pipeline = encode(raw, itemsize, codec, level)
    if len(packed) and len(other) > len(packed) * SMALLER:
        return packed, PACKED
    return other, pipeline


def _promises(raw: Any, itemsize: int, codec: str, level: int, packed: int) -> bool:
    """Return whether a codec may make a large chunk much smaller than packing did, judging by some parts of it."""
    if len(raw) < _TRIED_IN_PARTS:
        return True
    step = len(raw) // _PARTS // itemsize * itemsize
    parts = np.concatenate([raw[at : at + _PART_BYTES] for at in range(0, _PARTS * step, step)])
    return len(encode(parts, itemsize, codec, level)[0]) / len(parts) < SMALLER * _DOUBT * packed / len(raw)


def encode(raw: Any, itemsize: int, codec: str, level: int) -> tuple[bytes, int]:
    """Return a chunk's payload and the pipeline that made it.

    Parameters
    ----------
    raw : bytes-like
        The elements, C order, little-endian.
    itemsize : int
        Bytes per element.
    codec : {"zstd", "lz4", "none"}
    level : int
        zstd compression level.
    """
    data = np.frombuffer(raw, np.uint8)
    if codec == "none" or not len(data):
        return data.tobytes(), RAW
    if len(data) > itemsize and _is_constant(data, itemsize):
        return data[:itemsize].tobytes(), CONSTANT
    if len(data) <= _INCOMPRESSIBLE or (codec == "lz4" and len(data) > _LZ4_MOST):
        return data.tobytes(), RAW
    shuffled = itemsize > 1
    body = _shuffle(data, itemsize) if shuffled else data
    packed = compress_zstd(body, level) if codec == "zstd" else _compress_lz4(body)
    if len(packed) > len(data) * _WORTH:
        return data.tobytes(), RAW
    return packed, (ZSTD if codec == "zstd" else LZ4) + (_SHUFFLED if shuffled else 0)


def _is_constant(data: np.ndarray[Any, Any], itemsize: int) -> bool:
    # Shifted by one element, constant data equals itself; the first bytes settle it for most chunks.
    probe = min(len(data), 64 * itemsize)
    return all(np.array_equal(data[itemsize:end], data[: end - itemsize]) for end in (probe, len(data)))


def _shuffle(data: np.ndarray[Any, Any], itemsize: int) -> np.ndarray[Any, Any]:
    out = np.empty_like(data)
    kernels.pick(len(data)).shuffle(data, out, itemsize)
    return out


def compress_zstd(data: Any, level: int) -> bytes:
    """Return one zstd frame; by a compressor that the thread keeps, as making one costs more than a small frame."""
    import zstandard

    contexts = _contexts.__dict__.setdefault("compressors", {})
    if level not in contexts:
        contexts[level] = zstandard.ZstdCompressor(level=level)
    return bytes(contexts[level].compress(data))


def decompress_zstd(data: Any, most: int) -> bytes:
    """Return what one zstd frame holds, up to `most` bytes.

    Raises
    ------
    ValueError
        If it is damaged, says that it holds more, or does not say.
    """
    import zstandard

    if not hasattr(_contexts, "decompressor"):
        _contexts.decompressor = zstandard.ZstdDecompressor()
    try:
        # The declared size is checked first: the decompressor would allocate whatever it says.
        size = zstandard.frame_content_size(data)
        if not 0 <= size <= most:
            raise ValueError(f"it declares {size} bytes")
        return bytes(_contexts.decompressor.decompress(data, allow_extra_data=False))
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from None


def _compress_lz4(data: Any) -> bytes:
    import lz4.block

    return bytes(lz4.block.compress(data, store_size=True))


def decode(payload: Any, pipeline: int, raw_length: int, itemsize: int) -> Any:
    """Return a chunk's bytes, still shuffled where :func:`is_shuffled` says so.

    Packed chunks are not for this function: kernels unpack them into the output.

    Raises
    ------
    CorruptChunk
        If the payload is not exactly `raw_length` bytes encoded by `pipeline`.
    """
    payload, pipeline = body_of(payload, pipeline)
    if pipeline in (ZSTD, SHUFFLE_ZSTD):
        data: Any = _decompress_zstd(payload, raw_length)
    elif pipeline in (LZ4, SHUFFLE_LZ4):
        data = _decompress_lz4(payload, raw_length)
    elif pipeline == CONSTANT:
        if len(payload) != itemsize or raw_length % itemsize:
            raise CorruptChunk(f"a constant of {len(payload)} bytes cannot fill {raw_length} bytes")
        return bytes(payload) * (raw_length // itemsize)
    elif pipeline == RAW:
        data = payload
    else:
        raise CorruptChunk(f"pipeline {pipeline} is not known to this release")
    if len(data) != raw_length:
        raise CorruptChunk(f"it holds {len(data)} bytes, not {raw_length}")
    return data


def decode_numbers(payload: Any, pipeline: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Any:
    """Return a chunk's elements as an array; the inverse of :func:`encode_numbers`.

    Raises
    ------
    CorruptChunk
        If the payload is not a chunk of that type and shape.
    """
    size = math.prod(shape) * dtype.itemsize
    payload, pipeline = body_of(payload, pipeline)
    if pipeline != PACKED:
        data = np.frombuffer(decode(payload, pipeline, size, dtype.itemsize), np.uint8)
        if is_shuffled(pipeline):
            data = data.reshape(dtype.itemsize, -1).T
        return np.array(data, order="C").reshape(-1).view(dtype).reshape(shape)
    element = element_of(dtype)
    if element < 0:
        raise CorruptChunk("cells of this type are never packed")
    loops = kernels.pick(max(size, kernels.CALL))
    return loops.unpack_whole(np.frombuffer(payload, np.uint8), shape, element).view(dtype).reshape(shape)


def _decompress_zstd(payload: Any, raw_length: int) -> bytes:
    try:
        return decompress_zstd(payload, raw_length)
    except (ValueError, MemoryError) as error:
        # Text may be of any length; what does not fit into memory is taken for a lie.
        raise CorruptChunk(f"zstd: {error or f'there is no room for {raw_length} bytes'}") from None


def _decompress_lz4(payload: Any, raw_length: int) -> bytes:
    import lz4.block

    size = int.from_bytes(payload[:4], "little")
    if len(payload) < 4 or size != raw_length:
        raise CorruptChunk(f"its lz4 block declares {size} bytes, not {raw_length}")
    try:
        return bytes(lz4.block.decompress(payload))
    except (lz4.block.LZ4BlockError, ValueError, OverflowError, MemoryError) as error:
        raise CorruptChunk(f"lz4: {error}") from None
