"""Numba loops over bytes and strides, which know nothing of stores.

`native` has what the rest of the package calls, `twins` the same in plain NumPy, and :func:`pick` chooses between
them. `compile` owns the policy; the other modules are the loops.
"""

from __future__ import annotations

from typing import Any

from atlas.kernels import twins
from atlas.kernels.compile import library, may_be_compiled

# NumPy does this much sooner than compiled kernels are loaded (0.05 s) or compiled.
LOAD_ABOVE = 1 << 20
COMPILE_ABOVE = 64 << 20

# What NumPy takes for a chunk or a hash is mostly calls: each counts as so many bytes.
CALL = 2 << 10
_HASH = 16

_done_by_twins = 0


def digests(src: Any, offset: Any, length: Any) -> Any:
    """Return the xxh3-64, uint64, of stretches of a buffer; see :func:`atlas.kernels.native.digest`."""
    return pick(_HASH * len(length)).digest(src, offset, length)


def load() -> None:
    """Have the compiled kernels ready, compiled now if they never were."""
    library.load()


def pick(cost: int) -> Any:
    """Return the module whose functions are to do a job of so many bytes: ``native``, or ``twins``."""
    global _done_by_twins
    if not (library.is_loaded or cost >= COMPILE_ABOVE):
        _done_by_twins += cost
        if _done_by_twins < COMPILE_ABOVE and (_done_by_twins < LOAD_ABOVE or not may_be_compiled()):
            return twins
    from atlas.kernels import native

    return native
