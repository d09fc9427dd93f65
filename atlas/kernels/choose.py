"""Choose, on a sample, how the cells of a chunk are best packed: their scale, and what predicts them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from atlas.kernels.compile import helper
from atlas.kernels.layout import (
    BINARY,
    BITS,
    BLOCK,
    DIVIDED,
    FLOAT32,
    INTEGERS,
    MAX_AXES,
    MULTIPLIED,
    ORDERED,
    SIGN_LAST,
)
from atlas.kernels.memory import add, f32, f64, i8, i16, i32, i64, sub, u8, u16, u32, u64
from atlas.kernels.numbers import LIMIT64, as_integer, bits_as_integer, power_of
from atlas.kernels.predict import inner_of

_HOLE = np.int64(-(1 << 63))

# Cells that a scale is tried on, and how many of them may be no decimals of it.
_TRIED = 64
_MISSES = 3

# Bits that a decimal digit takes, and how many bits behind the point a scale may have.
_DIGIT_BITS = 3.33
_MOST_BITS32 = 24
_MOST_BITS64 = 50

# Groups of cells that predictions are tried on: a group is spread over one block's worth of cells.
_GROUPS = 4
_PER_GROUP = 24
_STEP = 41

# How far before a masked cell the number is looked for that is stored in its place.
_REACH = 128

# What a prediction must save to be worth its time, in bits a cell: each axis, and more for the last one, whose
# sums cannot be done many at once.
_AXIS_COST = 0.3
_LAST_AXIS_COST = 0.7

# With differences along the first of several axes, a box needs the rows before it.
_FIRST_AXIS_COST = 0.3

# Floats that are no decimals are packed where their bits are expected to save this much.
_WORTH = 0.92


@helper
def _is_special(src: Any, i: Any, element: Any, fill: Any) -> Any:
    """Tell whether a cell is NaN or the fill value."""
    if element == FLOAT32:
        return np.isnan(f32(src)[i]) or (fill != 0 and u32(src)[i] == u32(fill)[0])
    if element > FLOAT32:
        return np.isnan(f64(src)[i]) or (fill != 0 and u64(src)[i] == u64(fill)[0])
    return fill != 0 and integer_at(src, i, element) == integer_at(fill, np.int64(0), element)


@helper
def integer_at(src: Any, i: Any, element: Any) -> Any:
    """Return a cell of an integer type as int64."""
    if element == 0:
        return np.int64(i8(src)[i])
    if element == 1:
        return np.int64(u8(src)[i])
    if element == 2:
        return np.int64(i16(src)[i])
    if element == 3:
        return np.int64(u16(src)[i])
    if element < 6:
        return np.int64(i32(src)[i])
    return i64(src)[i]


@helper
def sampled(i: Any, cells: Any) -> Any:
    """Return the cell that is sample `i`; samples are spread unevenly, so that they follow no axis."""
    step = max(cells // _TRIED, 1)
    return i * step + i * 7919 % step


@helper
def _misses(src: Any, cells: Any, element: Any, fill: Any, kind: Any, code: Any, most: Any) -> Any:
    """Count the sampled cells that are not integers of this scale, those beyond `most` only as one more."""
    wrong = 0
    for i in range(min(cells, _TRIED)):
        at = sampled(i, cells)
        if not _is_special(src, at, element, fill):
            wrong += as_integer(src, at, element, kind, code) == _HOLE
            if wrong > most:
                break
    return wrong


@helper
def _choose_scale(src: Any, cells: Any, element: Any, fill: Any, report: Any) -> Any:
    """Write the kind and code of the scale that costs the fewest bits; return whether there is one."""
    item_bits = 32.0 if element == FLOAT32 else 64.0
    tried = min(cells, _TRIED)
    most = tried * _MISSES // _TRIED
    best = item_bits
    for family in range(3):
        kind = np.int64(MULTIPLIED if family == 1 else DIVIDED)
        first = BINARY + 1 if family == 2 else family
        bits = 1.0 if family == 2 else _DIGIT_BITS
        for step in range(_MOST_BITS32 if element == FLOAT32 else _MOST_BITS64):
            code = first + step
            cost = bits * (code - BINARY if family == 2 else code)
            if cost >= best:
                break
            wrong = _misses(src, cells, element, fill, kind, code, most)
            cost += wrong / tried * (32.0 + item_bits)
            if wrong <= most and cost < best:
                best = cost
                report[0], report[1] = kind, code
            if wrong == 0:
                break
    return best < item_bits


@helper
def _number(src: Any, i: Any, element: Any, fill: Any, kind: Any, code: Any, power: Any) -> Any:
    """Return about the integer of a cell, _HOLE for what has none."""
    if _is_special(src, i, element, fill):
        return _HOLE
    if element < FLOAT32:
        return integer_at(src, i, element)
    if kind == BITS:
        return bits_as_integer(src, i, element, code)
    y = (np.float64(f32(src)[i]) if element == FLOAT32 else f64(src)[i]) * power
    return np.int64(np.rint(y)) if abs(y) < LIMIT64 else _HOLE


@helper
def _stored_number(src: Any, i: Any, element: Any, fill: Any, kind: Any, code: Any, power: Any) -> Any:
    """Return about the integer that is stored for a cell: that of the last before it which has one, if it has none."""
    for at in range(i, max(i - _REACH, -1), -1):
        value = _number(src, at, element, fill, kind, code, power)
        if value != _HOLE:
            return value
    return _HOLE


@helper
def _sample(
    src: Any,
    i: Any,
    element: Any,
    fill: Any,
    kind: Any,
    code: Any,
    power: Any,
    axes: Any,
    extent: Any,
    inner: Any,
    before: Any,
    low: Any,
    high: Any,
) -> None:
    """Widen the bounds of a cell's number, and of its differences along every axis and pair of axes."""
    value = _stored_number(src, i, element, fill, kind, code, power)
    if value == _HOLE:
        return
    low[0], high[0] = min(low[0], value), max(high[0], value)
    for a in range(axes):
        before[a] = _HOLE
        if i // inner[a] % extent[a] != 0:
            before[a] = _stored_number(src, i - inner[a], element, fill, kind, code, power)
        if before[a] == _HOLE:
            continue
        left = sub(value, before[a])
        c = 1 + a
        low[c], high[c] = min(low[c], left), max(high[c], left)
        for b in range(a):
            if before[b] == _HOLE:
                continue
            corner = _stored_number(src, i - inner[a] - inner[b], element, fill, kind, code, power)
            if corner != _HOLE:
                left = add(sub(sub(value, before[a]), before[b]), corner)
                c = 1 + axes + a * (a - 1) // 2 + b
                low[c], high[c] = min(low[c], left), max(high[c], left)


@helper
def _best_axes(axes: Any, extent: Any, bits: Any, seen: Any) -> Any:
    """Return which of some axes are best predicted along, and the bits that a cell takes.

    `bits` has the sum over `seen` groups without prediction, along each axis, and along each pair of axes.
    """
    last = axes - 1
    while last > 0 and extent[last] == 1:
        last -= 1
    best, cost = np.int64(0), bits[0] / max(seen[0], 1)
    for a in range(axes):
        single = _AXIS_COST + (_LAST_AXIS_COST if a == last else _FIRST_AXIS_COST if a == 0 else 0.0)
        if 0 < seen[1 + a] == seen[0] and bits[1 + a] / seen[0] + single < cost:
            best, cost = np.int64(1 << a), bits[1 + a] / seen[0] + single
        for b in range(a):
            c = 1 + axes + a * (a - 1) // 2 + b
            both = single + _AXIS_COST + (_FIRST_AXIS_COST if b == 0 else 0.0)
            if 0 < seen[c] == seen[0] and bits[c] / seen[0] + both < cost:
                best, cost = np.int64((1 << a) | (1 << b)), bits[c] / seen[0] + both
    return best, cost


@helper
def _sample_group(
    src: Any,
    begin: Any,
    span: Any,
    step: Any,
    element: Any,
    fill: Any,
    kind: Any,
    code: Any,
    power: Any,
    axes: Any,
    extent: Any,
    inner: Any,
    before: Any,
    low: Any,
    high: Any,
) -> None:
    """Widen the bounds by every `step`-th of `span` cells, and by those beside masked ones."""
    masked = False
    for i in range(begin, begin + min(span, _PER_GROUP * step), step):
        masked |= _number(src, i, element, fill, kind, code, power) == _HOLE
        _sample(src, i, element, fill, kind, code, power, axes, extent, inner, before, low, high)
    # Few cells are beside masked ones, but these have the largest differences.
    edges = 0
    for i in range(begin + 1, begin + span if masked else begin):
        own = _number(src, i, element, fill, kind, code, power) == _HOLE
        if own != (_number(src, i - 1, element, fill, kind, code, power) == _HOLE) and edges < _PER_GROUP:
            _sample(src, i, element, fill, kind, code, power, axes, extent, inner, before, low, high)
            edges += 1


@helper
def _choose_axes(
    src: Any, cells: Any, axes: Any, ndim: Any, extent: Any, element: Any, fill: Any, report: Any, room: Any
) -> Any:
    """Write to `report` which of the first `axes` axes are best predicted along; return the bits that a cell takes."""
    kind, code = report[0], report[1]
    power = power_of(code) if kind != BITS else 1.0
    candidates = 1 + axes + axes * (axes - 1) // 2
    low, high = i64(room), i64(room + 512)
    bits, seen = f64(room + 1024), i64(room + 1536)
    inner, before = i64(room + 2048), i64(room + 2048 + 64)
    for axis in range(axes):
        inner[axis] = inner_of(ndim, extent, axis)
    for c in range(candidates):
        bits[c], seen[c] = 0.0, 0
    span = min(cells, BLOCK)
    groups = min(_GROUPS, (cells + BLOCK - 1) // BLOCK)
    step = min(_STEP, max(span // _PER_GROUP, 1))
    # The first group has cells before it along every axis, however long the rows are.
    first: Any = np.int64(0)
    for axis in range(ndim - 1):
        first += inner_of(ndim, extent, axis) if extent[axis] > 1 else np.int64(0)
    first = min(first, cells - span)
    for group in range(groups):
        for c in range(candidates):
            low[c], high[c] = np.int64((1 << 63) - 1), _HOLE
        begin = first + (cells - span - first) * group // max(groups - 1, 1)
        _sample_group(src, begin, span, step, element, fill, kind, code, power, axes, extent, inner, before, low, high)
        for c in range(candidates):
            if high[c] >= low[c]:
                bits[c] += math.log2(np.float64(np.uint64(sub(high[c], low[c]))) + 1.0)
                seen[c] += 1
    report[2], cost = _best_axes(axes, extent, bits, seen)
    return cost


@helper
def _choose_bits(src: Any, cells: Any, ndim: Any, extent: Any, element: Any, fill: Any, report: Any, room: Any) -> Any:
    """Write how the bits of floats are best packed to `report`; return whether they are shorter than the floats."""
    report[0], report[1] = BITS, SIGN_LAST
    unpredicted = _choose_axes(src, cells, np.int64(0), ndim, extent, element, fill, report, room)
    report[1] = ORDERED
    cost = _choose_axes(src, cells, min(ndim, MAX_AXES), ndim, extent, element, fill, report, room)
    if unpredicted < cost:
        report[1], report[2] = SIGN_LAST, 0
    return min(unpredicted, cost) < _WORTH * (32.0 if element == FLOAT32 else 64.0)


@helper
def _is_repetitive(src: Any, cells: Any, element: Any, fill: Any, report: Any, room: Any) -> Any:
    """Tell whether few values come again and again, which a dictionary coder makes more of."""
    kind, code = report[0], report[1]
    power = power_of(code)
    found = i64(room)
    count = 0
    tried = min(cells, _TRIED)
    for i in range(tried):
        if 2 * count >= tried:
            return False
        value = _number(src, sampled(i, cells), element, fill, kind, code, power)
        new = True
        for j in range(count):
            new = new and found[j] != value
        if new:
            found[count] = value
            count += 1
    return 2 * count < tried


def choose(src: Any, cells: Any, ndim: Any, extent: Any, element: Any, fill: Any, room: Any, report: Any) -> Any:
    """Write kind, scale code, axes and whether values repeat to `report`; return whether packing may pay.

    `src`, `extent`, `fill` (0: none), `room` (4 KiB) and `report` (4 int64) are addresses.
    """
    found = i64(report)
    found[0], found[1] = INTEGERS, 0
    if element >= FLOAT32 and not _choose_scale(src, cells, element, fill, found):
        found[3] = 1
        return _choose_bits(src, cells, ndim, i64(extent), element, fill, found, room)
    _choose_axes(src, cells, min(ndim, MAX_AXES), ndim, i64(extent), element, fill, found, room)
    found[3] = _is_repetitive(src, cells, element, fill, found, room)
    return 1
