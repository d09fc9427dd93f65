"""The compiled kernels as the rest of the package calls them: with arrays, and with every bound checked."""

from __future__ import annotations

from typing import Any

import numpy as np

from atlas.kernels.bounds import check_rows
from atlas.kernels.compile import library
from atlas.kernels.layout import HASH_ROOM
from atlas.kernels.native.buffers import INT64, address, scratch
from atlas.kernels.native.packing import pack_rows
from atlas.kernels.native.single import place_one, scatter_one, unpack_one, unpack_whole
from atlas.kernels.native.tables import admit, scatter, scatter_decoded, unpack

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
    """Return the xxh3-64 of stretches of `src`.

    Parameters
    ----------
    src : (n,) uint8
    offset, length : (T,) int64

    Returns
    -------
    (T,) uint64

    Raises
    ------
    ValueError
        If any stretch leaves `src`, or a column is of another type.
    """
    offset, length = np.ascontiguousarray(offset), np.ascontiguousarray(length)
    check_rows(len(length), offset, length, len(src))
    out = np.empty(len(length), np.uint64)
    places = address(offset, INT64), address(length, INT64), address(out)
    library["digest"](address(src), len(out), *places, address(scratch("work", HASH_ROOM)))
    return out


def shuffle(src: Any, out: Any, itemsize: int) -> None:
    """Write the shuffled bytes of `src` to `out`, both (n,) uint8 with n a multiple of `itemsize`."""
    if len(src) != len(out) or len(src) % itemsize:
        raise ValueError("the buffers do not hold the same whole elements")
    library["shuffle"](address(src), address(out), len(src) // itemsize, itemsize)
