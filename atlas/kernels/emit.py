"""From integers to cells: convert the numbers of a chunk, and lay a box of them in a strided output."""

from __future__ import annotations

from typing import Any

import numpy as np

from atlas.kernels.compile import helper
from atlas.kernels.layout import FLOAT32, LINE
from atlas.kernels.memory import f32, f64, i32, i64, u8, u16
from atlas.kernels.moves import copy_short, stream
from atlas.kernels.numbers import from_sign_last, in_order, quotient
from atlas.kernels.predict import inner_of

# How integers become floats: by a division, by a product that is corrected where it stands for a division, or as
# their bits.
DIVIDE, MULTIPLY, ORDER, SIGN = range(4)

# Cells converted at once where the runs of a box are short: they stay in the first-level cache.
STRIP = 1024

# Runs from this length on are worth converting one by one.
_LONG_RUN = 128


@helper
def _floats(values: Any, run: Any, out: Any, scaling: Any, cast: Any) -> None:
    how, scale, inverse, correction = scaling
    if how == DIVIDE:
        for i in range(run):
            out[i] = cast(values[i]) / scale
    else:
        for i in range(run):
            out[i] = quotient(cast(values[i]), scale, inverse, correction)


@helper
def _masked_floats(values: Any, run: Any, out: Any, scaling: Any, cast: Any, hole: Any, special: Any) -> None:
    how, scale, inverse, correction = scaling
    if how == DIVIDE:
        for i in range(run):
            n = values[i]
            out[i] = special if n == hole else cast(n) / scale
    else:
        for i in range(run):
            n = values[i]
            value = quotient(cast(n), scale, inverse, correction)
            out[i] = special if n == hole else value


@helper
def _integers(values: Any, run: Any, out: Any, masked: Any, hole: Any, special: Any) -> None:
    if masked:
        for i in range(run):
            n = values[i]
            out[i] = special if n == hole else n
    else:
        for i in range(run):
            out[i] = values[i]


@helper
def _bits(values: Any, run: Any, out: Any, how: Any, top: Any, masked: Any, hole: Any, special: Any) -> None:
    """Write floats whose bits are numbers of the same size, as integers of that size."""
    if how == ORDER:
        for i in range(run):
            out[i] = in_order(values[i], top)
    else:
        for i in range(run):
            out[i] = from_sign_last(values[i], top)
    if masked:
        for i in range(run):
            out[i] = special if values[i] == hole else out[i]


@helper
def convert(values: Any, signed: Any, size: Any, run: Any, out: Any, rule: Any, hole: Any) -> None:
    """Write a run of cells at address `out`."""
    element, how, scale, inverse, correction, masked, special = rule
    if how >= ORDER:
        _bits(values, run, signed(out), how, 8 * size - 1, masked, hole, signed(special)[0])
    elif element == FLOAT32:
        small = (how, np.float32(scale), np.float32(inverse), np.float32(correction))
        if masked:
            _masked_floats(values, run, f32(out), small, np.float32, hole, f32(special)[0])
        else:
            _floats(values, run, f32(out), small, np.float32)
    elif element > FLOAT32:
        wide = (how, scale, inverse, correction)
        if masked:
            _masked_floats(values, run, f64(out), wide, np.float64, hole, f64(special)[0])
        else:
            _floats(values, run, f64(out), wide, np.float64)
    elif element < 2:
        _integers(values, run, u8(out), masked, hole, u8(special)[0])
    elif element < 4:
        _integers(values, run, u16(out), masked, hole, u16(special)[0])
    elif element < 6:
        _integers(values, run, i32(out), masked, hole, i32(special)[0])
    else:
        _integers(values, run, i64(out), masked, hole, i64(special)[0])


@helper
def _copy_rows(source: Any, pitch: Any, rows: Any, length: Any, target: Any, stride: Any, past: Any) -> None:
    """Copy the first `length` bytes of rows that are `pitch` bytes apart to places that are `stride` bytes apart."""
    for _ in range(rows):
        if past:
            stream(target, source, length)
        else:
            copy_short(target, source, length)
        source += pitch
        target += stride


@helper
def _convert_past(
    numbers: Any, signed: Any, size: Any, run: Any, out: Any, item: Any, rule: Any, hole: Any, room: Any
) -> None:
    """Write a long run of cells past the caches, by way of `room` for STRIP cells."""
    done = np.int64(0)
    while done < run:
        target = out + done * item
        # All but the first strip begin with a cache line.
        strip = min(STRIP - (target & (LINE - 1)) // item, run - done)
        convert(signed(numbers + done * size), signed, size, strip, room, rule, hole)
        stream(target, room, strip * item)
        done += strip


@helper
def emit_box(
    numbers: Any,
    signed: Any,
    size: Any,
    hole: Any,
    ndim: Any,
    extent: Any,
    begin: Any,
    block: Any,
    out: Any,
    strides: Any,
    item: Any,
    position: Any,
    rule: Any,
    room: Any,
    past: Any,
) -> None:
    """Write the cells of a box, whose integers are at address `numbers`, to a strided output.

    The `rule` is the element type, how integers become floats (DIVIDE and so on, scale, its inverse, the
    correction), whether there are holes, and the address of the value that is to be there.
    At address `room` there is space for STRIP cells. What is written goes `past` the caches, or does not.
    """
    # Merge trailing axes that are contiguous in both, so that the inner run is long.
    inner = ndim
    run = np.int64(1)
    strip = np.int64(1)
    while inner > 0 and strides[inner - 1] == run * item and strip == run:
        inner -= 1
        run *= block[inner]
        strip *= extent[inner]
    # Rows of short runs are converted together, with what lies between them.
    rows: Any = np.int64(1)
    pitch = strip
    stride = np.int64(0)
    if inner > 0 and run < _LONG_RUN and strip <= STRIP:
        inner -= 1
        rows, stride = block[inner], strides[inner]
    most: Any = max(STRIP // pitch, 1)
    first = np.int64(0)
    for i in range(ndim):
        first += begin[i] * inner_of(ndim, extent, i)
        position[i] = 0
    target = out
    while True:
        for row in range(0, rows, most):
            several = min(most, rows - row)
            values = numbers + (first + row * pitch) * size
            if rows > 1:
                convert(signed(values), signed, size, (several - 1) * pitch + run, room, rule, hole)
                _copy_rows(room, pitch * item, several, run * item, target + row * stride, stride, past)
            elif past:
                _convert_past(values, signed, size, run, target, item, rule, hole, room)
            else:
                convert(signed(values), signed, size, run, target, rule, hole)
        i = inner - 1
        while i >= 0:
            step = inner_of(ndim, extent, i)
            position[i] += 1
            first += step
            target += strides[i]
            if position[i] < block[i]:
                break
            first -= position[i] * step
            target -= position[i] * strides[i]
            position[i] = 0
            i -= 1
        if i < 0:
            return
