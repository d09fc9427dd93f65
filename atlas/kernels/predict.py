"""Prediction of a cell from its neighbours: differences along chosen axes, and the sums that undo them.

The differences of a chunk are stored box by box: cells that are first along some of those axes differ
from the others in size, and would widen every block of bits that they share with them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from atlas.kernels.compile import helper
from atlas.kernels.lanes import FEW, add_few, sum_column
from atlas.kernels.layout import BLOCK
from atlas.kernels.memory import add, copy, sub

# Of rows that are shorter than this, many are added up column by column.
_LONG_ROW, _MANY_ROWS = 128, 4


@helper
def inner_of(ndim: Any, extent: Any, axis: Any) -> Any:
    """Cells between neighbours along an axis of a C-order chunk."""
    cells = np.int64(1)
    for i in range(axis + 1, ndim):
        cells *= extent[i]
    return cells


@helper
def difference(values: Any, out: Any, cells: Any, ndim: Any, extent: Any, axis: Any) -> None:
    """Write every cell's difference from the one before it along `axis`; the first stay as they are."""
    inner = inner_of(ndim, extent, axis)
    plane = inner * extent[axis]
    for begin in range(0, cells, plane):
        for i in range(begin, begin + inner):
            out[i] = values[i]
        for i in range(begin + inner, begin + plane):
            out[i] = sub(values[i], values[i - inner])


@helper
def _sum_columns(like: Any, cast: Any, size: Any, out: Any, source: Any, lag: Any, run: Any) -> None:
    """Do what :func:`sum_run` does, for whole rows of `lag` integers."""
    whole = lag // FEW * FEW
    for i in range(0, whole, FEW):
        sum_column(like, out + i * size, source + i * size, lag * size, run // lag)
    for i in range(whole, lag):
        to, numbers = cast(out + i * size), cast(source + i * size)
        total = cast(out + (i - lag) * size)[0]
        for at in range(0, run, lag):
            total = add(total, numbers[at])
            to[at] = total


@helper
def sum_run(like: Any, cast: Any, size: Any, out: Any, source: Any, lag: Any, run: Any) -> None:
    """Write the `run` integers at address `source`, each plus the one `lag` before it at address `out`, there."""
    if lag == 1:
        to, numbers = cast(out), cast(source)
        total = cast(out - size)[0]
        for i in range(run):
            total = add(total, numbers[i])
            to[i] = total
        return
    begin = np.int64(0)
    if lag < _LONG_ROW and run >= _MANY_ROWS * lag:
        begin = run // lag * lag
        _sum_columns(like, cast, size, out, source, lag, begin)
    while begin < run:
        # Rows are taken apart alike, so that what is read was written by a single instruction.
        length = min(lag, run - begin)
        row, addend = out + begin * size, source + begin * size
        for i in range(0, length - (FEW - 1), FEW):
            add_few(like, row + i * size, addend + i * size, row + (i - lag) * size)
        to, numbers, before = cast(row), cast(addend), cast(row - lag * size)
        for i in range(length // FEW * FEW, length):
            to[i] = add(numbers[i], before[i])
        begin += lag


@helper
def accumulate(
    like: Any, address: Any, cast: Any, size: Any, ndim: Any, extent: Any, stop: Any, axis: Any, position: Any
) -> None:
    """Undo :func:`difference` for the cells before `stop` along every axis."""
    inner = inner_of(ndim, extent, axis)
    # Cells of one run lie one behind the other: those of all later axes, when none is cut.
    run = np.int64(1)
    strip = np.int64(1)
    last = ndim - 1
    while last > axis and run == strip:
        run *= stop[last]
        strip *= extent[last]
        last -= 1
    for i in range(ndim):
        position[i] = 0
    first = np.int64(0)
    while True:
        begin = address + (first + inner) * size
        if run == inner:
            sum_run(like, cast, size, begin, begin, inner, inner * (stop[axis] - 1))
        else:
            for _ in range(1, stop[axis]):
                sum_run(like, cast, size, begin, begin, inner, run)
                begin += inner * size
        # The next run: count up the axes that are not covered by it.
        i = last
        while i >= 0:
            if i != axis:
                step = inner_of(ndim, extent, i)
                position[i] += 1
                first += step
                if position[i] < stop[i]:
                    break
                first -= position[i] * step
                position[i] = 0
            i -= 1
        if i < 0:
            return


@helper
def box_begin(box: Any, mask: Any, axis: Any) -> Any:
    """First cell of a box along an axis: 1 for what lies behind the first cells, else 0."""
    return 1 if mask & box & (1 << axis) else 0


@helper
def box_end(box: Any, mask: Any, axis: Any, extent: Any) -> Any:
    """Cell behind the last of a box along an axis."""
    return 1 if mask & (1 << axis) and not box & (1 << axis) else extent[axis]


@helper
def next_box(box: Any, mask: Any) -> Any:
    """The subset of `mask` after `box`; 0 behind the last."""
    return (box - mask) & mask


@helper
def inner_of_box(ndim: Any, extent: Any, box: Any, mask: Any, axis: Any) -> Any:
    """Cells of a box between neighbours along an axis."""
    cells = np.int64(1)
    for i in range(axis + 1, ndim):
        cells *= box_end(box, mask, i, extent) - box_begin(box, mask, i)
    return cells


@helper
def move_box(
    like: Any,
    stream: Any,
    cells: Any,
    cast: Any,
    size: Any,
    inward: Any,
    lag: Any,
    ndim: Any,
    extent: Any,
    stop: Any,
    box: Any,
    mask: Any,
    position: Any,
) -> None:
    """Copy the cells of a box before `stop` between their order in the stream and their place in the chunk.

    `stream` and `cells` are addresses, of the box's first cell in the stream and of the chunk; cells go
    into the chunk when `inward`, out of it otherwise. With a `lag`, the cell so much before is added to each.
    """
    # The run: trailing axes that the box covers whole.
    last = ndim - 1
    run = 1
    while last >= 0 and not mask & (1 << last) and stop[last] == extent[last]:
        run *= extent[last]
        last -= 1
    if last >= 0:
        run *= max(min(stop[last], box_end(box, mask, last, extent)) - box_begin(box, mask, last), 0)
        last -= 1
    first = np.int64(0)
    for i in range(ndim):
        begin = box_begin(box, mask, i)
        if min(stop[i], box_end(box, mask, i, extent)) <= begin:
            return
        position[i] = 0
        first += begin * inner_of(ndim, extent, i)
    # Runs along the next axis follow each other at equal distances.
    runs, pitch, stride = np.int64(1), np.int64(0), np.int64(0)
    if last >= 0:
        runs = min(stop[last], box_end(box, mask, last, extent)) - box_begin(box, mask, last)
        pitch = inner_of(ndim, extent, last) * size
        stride = inner_of_box(ndim, extent, box, mask, last) * size
        last -= 1
    source = np.int64(0)
    while True:
        cell, number = cells + first * size, stream + source * size
        for _ in range(runs):
            if lag != 0:
                sum_run(like, cast, size, cell, number, lag, run)
            elif inward:
                copy(cell, number, run * size)
            else:
                copy(number, cell, run * size)
            cell += pitch
            number += stride
        i = last
        while i >= 0:
            begin = box_begin(box, mask, i)
            step = inner_of(ndim, extent, i)
            width = inner_of_box(ndim, extent, box, mask, i)
            position[i] += 1
            first += step
            source += width
            if position[i] < min(stop[i], box_end(box, mask, i, extent)) - begin:
                break
            first -= position[i] * step
            source -= position[i] * width
            position[i] = 0
            i -= 1
        if i < 0:
            return


@helper
def box_cells(ndim: Any, extent: Any, box: Any, mask: Any) -> Any:
    """Cells of a box."""
    return inner_of_box(ndim, extent, box, mask, -1)


@helper
def split_blocks(ndim: Any, extent: Any, mask: Any, starts: Any) -> Any:
    """Write where each block of the stream starts, and where the last ends; return how many there are.

    A block does not reach from one box into the next.
    """
    blocks = 0
    begin = np.int64(0)
    box = np.int64(0)
    while True:
        count = box_cells(ndim, extent, box, mask)
        for at in range(0, count, BLOCK):
            starts[blocks] = begin + at
            blocks += 1
        begin += count
        box = next_box(box, mask)
        if box == 0:
            break
    starts[blocks] = begin
    return blocks
