"""Addresses of arrays, and working memory."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from atlas.kernels.layout import LINE, MAX_AXES

# What kernels take numbers as, whatever their array says.
BYTES, INT32, INT64, UINT64 = map(np.dtype, (np.uint8, np.int32, np.int64, np.uint64))

# Each chosen axis doubles the boxes of a chunk, and each box begins a block.
MOST_BOXES = 1 << MAX_AXES

# What a single huge chunk took is not kept for the next.
_MOST_KEPT = 1 << 30

_buffers = threading.local()


def scratch(name: str, size: int) -> Any:
    """Return working memory of this thread, from the begin of a cache line on.

    Memory that was touched before is several times faster.
    """
    found = getattr(_buffers, name, None)
    if found is None or len(found) < size:
        whole = np.empty(-(-size // 65536) * 65536 + LINE, np.uint8)
        found = whole[-address(whole) % LINE :]
        if size <= _MOST_KEPT:
            setattr(_buffers, name, found)
    return found


def address(array: Any, dtype: np.dtype[Any] | None = None) -> int:
    """Return where an array's first byte is; it has to be in one piece, and of a type that is given."""
    if not array.flags.c_contiguous:
        raise ValueError("kernels take arrays in one piece")
    if dtype is not None and array.dtype != dtype:
        raise ValueError(f"kernels take {dtype} there, not {array.dtype}")
    return int(array.__array_interface__["data"][0])
