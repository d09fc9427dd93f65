"""Many chunks of one shape become bytes together: columns, not an object for each."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atlas import kernels
from atlas.chunks import Integers
from atlas.codecs import PACKED, RAW, encode, encode_numbers
from atlas.config import StoreConfig
from atlas.kernels.layout import SEALED, SEALED_FROM, STRETCH
from atlas.kernels.sealed import stretches
from atlas.schema import ArraySchema
from atlas.segment import ALIGNED_FROM, ALIGNMENT, StatisticsColumns
from atlas.statistics import row_statistics, text_statistics
from atlas.text import encoded_cells, pack_texts
from atlas.threads import map_ahead

# What a task encodes. Threads that encode side by side wait for the interpreter, and for each other, several times a
# task: of 1 MiB, two took as long as one.
BATCH_BYTES = 8 << 20

HASH_BYTES = 8

# Memory that was touched before is several times faster; what a single huge chunk took is not kept for the next.
_kept = threading.local()
_MOST_KEPT = 256 << 20

Cells = NDArray[Any]


class EncodedRows(NamedTuple):
    """Encoded chunks.

    Attributes
    ----------
    payloads : (bytes,) uint8
        Back to back, but for zeros that have large ones begin at multiples of 8.
    offset, length, raw_length, checksum : (n,) integers
    pipeline : (n,) uint8
    statistics : StatisticsColumns
    """

    payloads: NDArray[np.uint8]
    offset: Integers
    length: Integers
    raw_length: Integers
    pipeline: NDArray[np.uint8]
    checksum: NDArray[np.uint64]
    statistics: StatisticsColumns


def encode_rows(schema: ArraySchema, chunks: Cells | Sequence[Cells], config: StoreConfig) -> EncodedRows:
    """Encode chunks, each as if it were alone.

    Parameters
    ----------
    schema : ArraySchema
    chunks : (n, *extent) array, or sequence of arrays
        A chunk in every row; of text, chunks may differ in shape.
    """
    if schema.dtype.is_text:
        return _encode_texts(schema, chunks, config)
    cells = _in_rows(chunks)
    return _joined(*_encode_numbers(schema, cells, config), row_statistics(schema.dtype, schema.fill, cells))


def _joined(
    payloads: list[Any], pipelines: NDArray[np.uint8], raw: Integers, statistics: StatisticsColumns
) -> EncodedRows:
    sizes = np.fromiter(map(len, payloads), np.int64, len(payloads))
    # Large payloads that can be used in part are sealed: the hashes of their stretches stand before them.
    sealed = ((pipelines == RAW) | (pipelines == PACKED)) & (sizes >= SEALED_FROM)
    pipelines[sealed] |= SEALED
    hashed = np.where(sealed, -(-sizes // STRETCH) * HASH_BYTES, 0)
    lengths = hashed + sizes
    gaps = -lengths % ALIGNMENT if lengths.max(initial=0) >= ALIGNED_FROM else np.zeros_like(lengths)
    offsets = np.cumsum(lengths + gaps) - (lengths + gaps)
    parts = payloads
    if sealed.any() or gaps.any():
        rooms = zip(hashed.tolist(), payloads, gaps.tolist(), strict=True)
        parts = [part for before, payload, gap in rooms for part in (bytes(before), payload, bytes(gap))]
    joined = np.frombuffer(bytearray().join(parts), np.uint8)
    if sealed.any():
        hashes = kernels.digests(joined, *stretches((offsets + hashed)[sealed], sizes[sealed]))
        ends = np.cumsum(hashed[sealed])
        seals = zip(offsets[sealed].tolist(), (ends - hashed[sealed]).tolist(), ends.tolist(), strict=True)
        for offset, first, last in seals:
            joined[offset : offset + last - first] = hashes.view(np.uint8)[first:last]
    checksums = kernels.digests(joined, offsets, np.where(sealed, hashed, lengths))
    return EncodedRows(joined, offsets, lengths, raw, pipelines, checksums, statistics)


def _in_rows(chunks: Cells | Sequence[Cells]) -> Cells:
    """Return chunks as rows of one C-order array, in memory that this thread uses again if they are not yet."""
    if isinstance(chunks, np.ndarray) and chunks.flags.c_contiguous:
        return chunks
    first = chunks[0]
    if first.dtype.hasobject or not first.nbytes:
        return np.stack(list(chunks))
    size = len(chunks) * first.nbytes
    memory = getattr(_kept, "memory", None)
    if memory is None or len(memory) < size:
        memory = np.empty(size, np.uint8)
        if size <= _MOST_KEPT:
            _kept.memory = memory
    rows = memory[:size].view(first.dtype).reshape(len(chunks), *first.shape)
    if isinstance(chunks, np.ndarray):
        np.copyto(rows, chunks)
        return rows
    return np.stack(chunks, out=rows)


def _encode_texts(schema: ArraySchema, chunks: Cells | Sequence[Cells], config: StoreConfig) -> EncodedRows:
    if isinstance(chunks, np.ndarray):
        cells = encoded_cells(chunks)
        counts = np.full(len(chunks), chunks.size // max(len(chunks), 1), np.int64)
    else:
        cells = [cell for chunk in chunks for cell in encoded_cells(chunk)]
        counts = np.fromiter((chunk.size for chunk in chunks), np.int64, len(chunks))
    raw = pack_texts(cells, counts)
    # What many datasets say in words is often the same.
    known = {chunk: encode(chunk, 1, config.codec, config.level) for chunk in set(raw)}
    payloads = [known[chunk][0] for chunk in raw]
    pipelines = np.array([known[chunk][1] for chunk in raw], np.uint8)
    lengths = np.fromiter(map(len, raw), np.int64, len(raw))
    return _joined(payloads, pipelines, lengths, text_statistics(schema.dtype, schema.fill, cells, counts))


Encoded = tuple[list[Any], NDArray[np.uint8], Integers]


def _encode_numbers(schema: ArraySchema, cells: Cells, config: StoreConfig) -> Encoded:
    count, dtype = len(cells), schema.dtype.storage
    raw = cells.reshape(count, -1).view(dtype).view(np.uint8) if cells.size else np.zeros((count, 0), np.uint8)
    raw_lengths = np.full(count, raw.shape[1], np.int64)
    if config.codec == "none":
        return list(raw), np.full(count, RAW, np.uint8), raw_lengths
    if config.packing:
        fill = frequent_value(schema)
        return *encode_numbers(raw, dtype, cells.shape[1:], fill, config.codec, config.level), raw_lengths
    pairs = [encode(row, dtype.itemsize, config.codec, config.level) for row in raw]
    return [payload for payload, _ in pairs], np.array([pipeline for _, pipeline in pairs], np.uint8), raw_lengths


def frequent_value(schema: ArraySchema) -> Any:
    """Return the bytes of the value that stands for "nothing here", or ``None``."""
    if schema.fill is None and schema.dtype.kind not in "Mm":
        return None
    value = np.iinfo(np.int64).min if schema.fill is None else schema.fill
    return np.array([value]).astype(schema.dtype.storage).view(np.uint8)


def encode_batches(
    batches: Iterable[tuple[ArraySchema, Cells | Sequence[Cells]]], config: StoreConfig, workers: int
) -> Iterator[EncodedRows]:
    """Encode batches of chunks in order, a few ahead on threads (the codecs release the GIL)."""
    return map_ahead(encode_rows, ((*batch, config) for batch in batches), workers)
