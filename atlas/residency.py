"""Whether memory was touched before. New memory is cleared page by page when it is first written to."""

from __future__ import annotations

import ctypes
import mmap
import sys
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray


def was_touched(buffer: NDArray[np.uint8]) -> bool:
    """Return whether the first, the middle and the last page of a buffer have memory; ``False`` if nobody knows."""
    ask = _mincore()
    if ask is None or not len(buffer):
        return False
    begin, state = buffer.ctypes.data, ctypes.c_ubyte()
    for at in (begin, begin + len(buffer) // 2, begin + len(buffer) - 1):
        page = at - at % mmap.PAGESIZE
        if ask(page, mmap.PAGESIZE, ctypes.byref(state)) or not state.value & 1:
            return False
    return True


@cache
def _mincore() -> Any:
    # Elsewhere it has another meaning, or none.
    if not sys.platform.startswith("linux"):
        return None
    ask = ctypes.CDLL(None).mincore
    ask.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    return ask
