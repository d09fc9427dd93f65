"""Unpack short chunks of one axis.

Tiny ones come by the hundred thousand, and most of their time was what only larger ones need.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from atlas.kernels.bits import block_words, unpack_block
from atlas.kernels.compile import helper
from atlas.kernels.emit import convert
from atlas.kernels.header import is_header, rule_of
from atlas.kernels.layout import BLOCK, WRONG_LENGTH
from atlas.kernels.memory import i32, u8, u32
from atlas.kernels.numbers import HOLE32
from atlas.kernels.predict import sum_run


@helper
def may_be_series(ndim: Any, extent: Any, block: Any, strides: Any, item: Any, past: Any) -> Any:
    """Return whether :func:`unpack_series` does for a chunk and a box of it."""
    return ndim == 1 and 0 < extent[0] <= BLOCK and block[0] > 0 and strides[0] == item and not past


@helper
def unpack_series(
    payload: Any,
    length: Any,
    element: Any,
    item: Any,
    lead: Any,
    cells: Any,
    begin: Any,
    wanted: Any,
    out: Any,
    spare: Any,
) -> Any:
    """Write cells of a short chunk of one axis, all of it checked; return what is wrong with it.

    -1 where it has something special, which :mod:`atlas.kernels.unpack` does for all chunks.
    """
    if length < 4:
        return WRONG_LENGTH
    header = u8(payload)
    kind, code, mask, flags = np.int64(header[0]), np.int64(header[1]), np.int64(header[2]), np.int64(header[3])
    if flags != 0 or not is_header(kind, code, mask, flags, element, item, 1 + lead):
        return -1
    # With differences, the first cell is a block by itself.
    head = np.int64(1) if mask >> lead & 1 else cells
    rest = cells - head
    blocks = np.int64(2) if rest > 0 else np.int64(1)
    bases, widths = payload + 4, payload + length - blocks
    words = bases + 4 * blocks
    if widths < words:
        return WRONG_LENGTH
    width, later = np.int64(u8(widths)[0]), np.int64(u8(widths)[blocks - 1])
    behind = words + 4 * block_words(head, width)
    end = behind + 4 * block_words(rest, later) if rest > 0 else behind
    if width > 32 or later > 32 or end != widths:
        return WRONG_LENGTH
    unpack_block(words, head, width, u32(bases)[0], u32, 4, spare, 0, head)
    if rest > 0:
        unpack_block(behind, rest, later, u32(bases)[1], u32, 4, spare + 4, 0, rest)
        sum_run(np.uint32(0), u32, 4, spare + 4, spare + 4, 1, rest)
    rule = rule_of(kind, code, element, False, spare)
    convert(i32(spare + 4 * begin), i32, 4, wanted, out, rule, HOLE32)
    return 0
