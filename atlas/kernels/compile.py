"""The one place of compile policy: what every kernel is compiled with, and where that is kept."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Any, TypeVar

import numba
from numba import types

Function = TypeVar("Function", bound=Callable[..., Any])

BYTES = types.Array(types.uint8, 1, "C")
READ_BYTES = types.Array(types.uint8, 1, "C", readonly=True)
INTS = types.Array(types.int64, 1, "C")
SMALL_INTS = types.Array(types.int32, 1, "C")
TABLE = types.Array(types.int64, 2, "C")
INT = types.int64


def kernel(*signature: Any) -> Callable[[Function], Function]:
    """Compile a kernel for one signature, at import, through the on-disk cache.

    The GIL is released, so threads run kernels side by side. Numba keeps the machine code beside
    the source, in ``NUMBA_CACHE_DIR``, or in the user's cache directory, whichever can be written.
    """

    def compiled(function: Function) -> Function:
        return numba.njit(types.void(*signature), nogil=True, cache=_can_cache(function), error_model="numpy")(function)  # type: ignore[no-any-return]

    return compiled


def _can_cache(function: Callable[..., Any]) -> bool:
    # Numba raises when no cache directory can be written; then it has to compile every time.
    places = [
        os.environ.get("NUMBA_CACHE_DIR", ""),
        os.path.dirname(function.__code__.co_filename),
        os.path.expanduser("~"),
        tempfile.gettempdir(),
    ]
    return any(place and os.access(place, os.W_OK) for place in places[:3])
