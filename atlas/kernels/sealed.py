"""Payloads whose stretches have hashes of their own, in plain Python: how they are made, and looked at one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import xxhash

from atlas.kernels.layout import SEALED, STRETCH


def hashes_size(length: int) -> int:
    """Return how many bytes of a sealed payload are hashes."""
    return 8 * ((length + STRETCH + 7) // (STRETCH + 8))


def stretches(begins: Any, sizes: Any) -> tuple[Any, Any]:
    """Return offsets and lengths of the stretches of payloads that are to be sealed, one behind the other."""
    counts = -(-sizes // STRETCH)
    within = STRETCH * (np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts))
    return np.repeat(begins, counts) + within, np.minimum(np.repeat(sizes, counts) - within, STRETCH)


def body_of(payload: Any, pipeline: int) -> tuple[Any, int]:
    """Return the payload proper, and the pipeline that made it, of one that may be sealed."""
    if pipeline & SEALED:
        return payload[hashes_size(len(payload)) :], pipeline & ~SEALED
    return payload, pipeline


def is_whole(payload: Any, pipeline: int, checksum: int) -> bool:
    """Return whether all of a payload is what was written."""
    if not pipeline & SEALED:
        return bool(xxhash.xxh3_64_intdigest(payload) == checksum)
    size = hashes_size(len(payload))
    if size >= len(payload) or xxhash.xxh3_64_intdigest(payload[:size]) != checksum:
        return False
    expected = np.frombuffer(payload[:size], "<u8").tolist()
    body = payload[size:]
    found = (xxhash.xxh3_64_intdigest(body[at : at + STRETCH]) for at in range(0, len(body), STRETCH))
    return bool(list(found) == expected)
