"""Plain NumPy twins of the kernels: the reference in tests, and what small jobs use while nothing is compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
import xxhash

from atlas.kernels.twins.admitting import admit
from atlas.kernels.twins.moving import place_one, scatter, scatter_decoded, scatter_one, shuffle
from atlas.kernels.twins.packing import pack_rows
from atlas.kernels.twins.unpacking import unpack, unpack_one, unpack_whole

__all__ = [
    "admit",
    "digest",
    "pack_rows",
    "place_one",
    "scatter",
    "scatter_decoded",
    "scatter_one",
    "shuffle",
    "unpack",
    "unpack_one",
    "unpack_whole",
]


def digest(src: Any, offset: Any, length: Any) -> Any:
    """Twin of :func:`atlas.kernels.native.digest`, without its bounds check."""
    view = memoryview(src)
    hashes = [xxhash.xxh3_64_intdigest(view[a : a + n]) for a, n in zip(offset.tolist(), length.tolist(), strict=True)]
    return np.array(hashes, np.uint64)
