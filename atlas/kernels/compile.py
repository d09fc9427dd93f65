"""The one place of compile policy: what every kernel is compiled with, and where that is kept."""

from __future__ import annotations

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
        try:
            return _compile(function, signature, cache=True)
        except RuntimeError:
            # Numba found no cache directory that can be written; then every process compiles anew.
            return _compile(function, signature, cache=False)

    return compiled


def _compile(function: Function, signature: tuple[Any, ...], cache: bool) -> Function:
    compiler = numba.njit(types.void(*signature), nogil=True, cache=cache, error_model="numpy")
    return compiler(function)  # type: ignore[no-any-return]
