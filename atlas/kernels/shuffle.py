"""Byte shuffle: the first bytes of all elements, then the second ones, and so on."""

from __future__ import annotations

from typing import Any

from atlas.kernels.compile import helper
from atlas.kernels.memory import u8


@helper
def _planes(source: Any, target: Any, cells: Any, itemsize: Any) -> None:
    src = u8(source)
    # Blocks that stay in the first-level cache while every plane is written.
    for begin in range(0, cells, 4096):
        n = min(4096, cells - begin)
        for byte in range(itemsize):
            plane = u8(target + byte * cells + begin)
            first = begin * itemsize + byte
            for i in range(n):
                plane[i] = src[first + i * itemsize]


def shuffle(src: Any, out: Any, cells: Any, itemsize: Any) -> Any:
    """Write the shuffled bytes of `cells` elements at address `src` to address `out`."""
    if itemsize == 4:
        _planes(src, out, cells, 4)
    elif itemsize == 8:
        _planes(src, out, cells, 8)
    elif itemsize == 2:
        _planes(src, out, cells, 2)
    else:
        _planes(src, out, cells, itemsize)
    return 0
