"""From the stream of bit-packed blocks to the integers of some rows of a chunk."""

from __future__ import annotations

from typing import Any

import numpy as np

from atlas.kernels.bits import block_words, unpack_block, unpack_wide_block
from atlas.kernels.compile import helper
from atlas.kernels.layout import BLOCK, MAX_AXES
from atlas.kernels.memory import copy, i64
from atlas.kernels.predict import (
    accumulate,
    box_begin,
    box_cells,
    box_end,
    inner_of,
    inner_of_box,
    move_box,
    next_box,
)
from atlas.kernels.seal import may_use_next

# Rows of which so many cells are not used are unpacked one by one, without these.
_ENOUGH = 256


@helper
def _unpack_stretch(
    table: Any,
    block: Any,
    begin: Any,
    end: Any,
    cast: Any,
    size: Any,
    target: Any,
    loose: Any,
    spare: Any,
    guard: Any,
    until: Any,
) -> Any:
    """Write the numbers of the stream from position `begin`, which is in `block`, to `end` at address `target`.

    A few numbers before and behind are written, too, if it is `loose` there. Returns whether the words they come from
    are what was written. At address `spare` there is space for a block.
    """
    bases, places, widths, starts = table
    while starts[block] < end:
        first, n = starts[block], starts[block + 1] - starts[block]
        width = np.int64(widths[block])
        at = places[block]
        if not may_use_next(guard, until, at, at + 4 * block_words(n, width)):
            return False
        # Of a block that reaches beyond, a part is wanted.
        low, high = max(begin, first), min(end, first + n)
        in_place = high - low == n or (loose and n == BLOCK)
        place = target + (first - begin) * size if in_place else spare
        base = cast(bases + block * size)[0]
        if width > 32:
            unpack_wide_block(at, n, width, np.uint64(base), place, low - first, high - first)
        else:
            unpack_block(at, n, width, base, cast, size, place, low - first, high - first)
        if not in_place:
            copy(target + (low - begin) * size, spare + (low - first) * size, (high - low) * size)
        block += 1
    return True


@helper
def _used_of_row(ndim: Any, extent: Any, stop: Any, box: Any, mask: Any) -> Any:
    """Return how many cells, from its first on, of each row of a box are needed for those before `stop`."""
    if ndim == 1:
        return np.int64(1)
    between = min(stop[1], box_end(box, mask, 1, extent)) - box_begin(box, mask, 1)
    return max(between, 0) * inner_of_box(ndim, extent, box, mask, 1)


@helper
def restore_rows(
    like: Any,
    cast: Any,
    size: Any,
    table: Any,
    ndim: Any,
    extent: Any,
    stop: Any,
    mask: Any,
    low: Any,
    high: Any,
    numbers: Any,
    stream: Any,
    spare: Any,
    own: Any,
    guard: Any,
    until: Any,
) -> Any:
    """Write the integers of rows `low` to `high`, as far as cells before `stop` need them, at address `numbers`.

    With differences along the first axis, the row before stands in front of them. The `table` of the blocks has the
    address of their bases, where the words of each are, its width, and where it starts in the stream. There is space
    for three integers an axis at address `own`, and for one of each box at `until`, which says how far it was checked.

    Returns whether the words they come from are what was written.
    """
    own_extent, own_stop, position = i64(own), i64(own + 8 * ndim), i64(own + 16 * ndim)
    for i in range(ndim):
        own_extent[i], own_stop[i] = extent[i], stop[i]
    row = inner_of(ndim, extent, 0)
    top, inward = np.int64(0), np.int64(1)
    inner = mask & ~1
    # Differences along the last axis that has some are added up on their way to their place.
    axis: Any = np.int64(0)
    while inner >> axis > 1:
        axis += 1
    begin, block, box = np.int64(0), np.int64(0), np.int64(0)
    while True:
        count = box_cells(ndim, extent, box, mask)
        first, last = box_begin(box, mask, top), box_end(box, mask, top, extent)
        lowest, highest = max(low, first), min(high, last)
        if count > 0 and lowest < highest:
            run = count // (last - first)
            place = numbers + (lowest - low) * row * size
            used = _used_of_row(ndim, extent, stop, box, mask)
            step, length, loose = highest - lowest, (highest - lowest) * run, False
            if run - used >= _ENOUGH:
                step, length, loose = np.int64(1), used, True
            for at in range(lowest, highest, step):
                skipped = (at - first) * run
                if not _unpack_stretch(
                    table,
                    block + skipped // BLOCK,
                    begin + skipped,
                    begin + skipped + length,
                    cast,
                    size,
                    (stream if inner else place) + (at - lowest) * run * size,
                    loose,
                    spare,
                    guard,
                    until,
                ):
                    return False
            if inner:
                own_extent[0] = own_stop[0] = highest - lowest
                lag = inner_of(ndim, extent, axis) if box >> axis & 1 else np.int64(0)
                move_box(
                    like,
                    stream,
                    place,
                    cast,
                    size,
                    inward,
                    lag,
                    ndim,
                    own_extent,
                    own_stop,
                    box & ~1,
                    inner,
                    position,
                )
        begin += count
        block += (count + BLOCK - 1) // BLOCK
        until += 8
        box = next_box(box, mask)
        if box == 0:
            break
    own_extent[0] = own_stop[0] = high - low
    for other in range(1, min(axis, MAX_AXES)):
        if mask & (1 << other):
            accumulate(like, numbers, cast, size, ndim, own_extent, own_stop, other, position)
    if mask & 1:
        before = np.int64(1) if low > 0 else np.int64(0)
        own_extent[0] = own_stop[0] = high - low + before
        accumulate(like, numbers - before * row * size, cast, size, ndim, own_extent, own_stop, 0, position)
    return True
