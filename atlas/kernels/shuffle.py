"""Byte shuffle: the first bytes of all elements, then the second ones, and so on."""

from __future__ import annotations

from typing import Any

from atlas.kernels.compile import BYTES, INT, READ_BYTES, kernel


@kernel(READ_BYTES, BYTES, INT)
def _shuffle(src: Any, out: Any, itemsize: Any) -> None:
    cells = src.size // itemsize
    # Blocks that stay in the first-level cache while every plane is written.
    block = 4096
    for begin in range(0, cells, block):
        end = min(begin + block, cells)
        for byte in range(itemsize):
            plane = out[byte * cells + begin : byte * cells + end]
            for i in range(plane.size):
                plane[i] = src[(begin + i) * itemsize + byte]


def shuffle(src: Any, out: Any, itemsize: int) -> None:
    """Write the shuffled bytes of `src` to `out`, both (n,) uint8 with n a multiple of `itemsize`."""
    view = src.view()
    view.flags.writeable = False
    _shuffle(view, out, itemsize)
