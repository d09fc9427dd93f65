"""How a chunk is best packed, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

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
    Packing,
)
from atlas.kernels.twins.numbers import LIMIT64, TYPES, exact, is_special, power


def choose(cells: Any, shape: tuple[int, ...], element: int, fill: Any) -> Packing | None:
    """Twin of :func:`atlas.kernels.native.choose`."""
    values = cells.view(TYPES[element])
    shape = shape or (1,)
    kind, code = INTEGERS, 0
    if element >= FLOAT32:
        scale = _choose_scale(values, fill)
        if scale is None:
            return _choose_bits(values, fill, shape)
        kind, code = scale
    numbers, known = _rough(values, fill, kind, code)
    axes, _ = _choose_axes(numbers, known, shape, MAX_AXES)
    sample = _sampled(len(values))
    distinct = len({*numbers[sample][known[sample]].tolist()}) + int((~known[sample]).any())
    return Packing(kind, code, axes, int(2 * distinct < min(len(values), 64)))


def _choose_bits(values: Any, fill: Any, shape: tuple[int, ...]) -> Packing | None:
    _, unpredicted = _choose_axes(*_rough(values, fill, BITS, SIGN_LAST), shape, 0)
    axes, cost = _choose_axes(*_rough(values, fill, BITS, ORDERED), shape, MAX_AXES)
    found = Packing(BITS, SIGN_LAST, 0, 1) if unpredicted < cost else Packing(BITS, ORDERED, axes, 1)
    return found if min(unpredicted, cost) < 0.92 * 8 * values.itemsize else None


def _sampled(cells: int) -> Any:
    i, step = np.arange(min(cells, 64)), max(cells // 64, 1)
    return i * step + i * 7919 % step


def _choose_scale(values: Any, fill: Any) -> tuple[int, int] | None:
    sample = values[_sampled(len(values))]
    sample = sample[~is_special(sample, fill)]
    tried, item_bits = min(len(values), 64), 8.0 * values.itemsize
    best, found = item_bits, None
    families = ((DIVIDED, 0, 3.33, 0), (MULTIPLIED, 1, 3.33, 0), (DIVIDED, BINARY + 1, 1.0, BINARY))
    for kind, first, bits, nothing in families:
        for code in range(first, first + (24 if values.itemsize == 4 else 50)):
            cost = bits * (code - nothing)
            if cost >= best:
                break
            wrong = int((exact(sample, Packing(kind, code, 0)) == np.iinfo(np.int64).min).sum())
            cost += wrong / tried * (32.0 + item_bits)
            if wrong <= tried * 3 // 64 and cost < best:
                best, found = cost, (kind, code)
            if wrong == 0:
                break
    return found


def _rough(values: Any, fill: Any, kind: int, code: int) -> tuple[Any, Any]:
    """Return about the integer of every cell, and which cells have one."""
    known = ~is_special(values, fill)
    if kind == BITS:
        numbers = exact(values, Packing(BITS, code, 0))
        return numbers, known & (numbers != np.iinfo(np.int64).min)
    if values.dtype.kind != "f":
        numbers = values.astype("<i4" if values.itemsize == 4 else "<i8").astype(np.int64)
        return numbers, known & (numbers != np.iinfo(np.int64).min)
    with np.errstate(over="ignore", invalid="ignore"):
        y = values.astype(np.float64) * power(code)
        known &= np.abs(y) < LIMIT64
        return np.rint(np.where(known, y, 0.0)).astype(np.int64), known


def _choose_axes(numbers: Any, known: Any, shape: tuple[int, ...], most: int) -> tuple[int, float]:
    """Return the axes, of the first `most`, that are best predicted along, and the bits that a cell takes."""
    cells, axes = len(numbers), min(len(shape), most)
    # Few cells are beside masked ones, but these have the largest differences.
    edges = np.flatnonzero(known[1:] != known[:-1]) + 1
    none = ~known
    # In the place of a cell that has none, the number before it is stored.
    source = np.maximum.accumulate(np.where(known, np.arange(cells), -1))
    numbers, known = numbers[np.maximum(source, 0)], (source >= 0) & (np.arange(cells) - source < 128)
    inner = [int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(axes)]
    span = min(cells, BLOCK)
    groups = min(4, -(-cells // BLOCK))
    step = min(41, max(span // 24, 1))
    before_first = sum(int(np.prod(shape[i + 1 :], dtype=np.int64)) for i in range(len(shape) - 1) if shape[i] > 1)
    first = min(before_first, cells - span)
    ranges: dict[int, list[float]] = {}
    for group in range(groups):
        begin = first + (cells - span - first) * group // max(groups - 1, 1)
        at = np.arange(begin, begin + min(span, 24 * step), step)
        if none[at].any():
            at = np.concatenate([at, edges[(edges > begin) & (edges < begin + span)][:24]])
        at = at[known[at]]
        _note(ranges, 0, numbers[at])
        before = {}
        for a in range(axes):
            has = (at // inner[a] % shape[a] != 0) & known[np.maximum(at - inner[a], 0)]
            before[a] = has
            _note(ranges, 1 << a, (numbers[at] - numbers[at - inner[a]])[has])
            for b in range(a):
                pair = has & before[b]
                corner = at[pair] - inner[a] - inner[b]
                pair_at = at[pair][known[corner]]
                corner = corner[known[corner]]
                left = numbers[pair_at] - numbers[pair_at - inner[a]] - numbers[pair_at - inner[b]] + numbers[corner]
                _note(ranges, 1 << a | 1 << b, left)
    last = axes - 1
    while last > 0 and shape[last] == 1:
        last -= 1
    there = ranges.get(0, [])
    best, cost = 0, sum(there) / max(len(there), 1)
    for a in range(axes):
        single = 0.3 + (0.7 if a == last else 0.3 if a == 0 else 0.0)
        pairs = [(1 << a | 1 << b, single + 0.3 + (0.3 if b == 0 else 0.0)) for b in range(a)]
        for mask, extra in ((1 << a, single), *pairs):
            seen = ranges.get(mask, [])
            if 0 < len(seen) == len(there) and sum(seen) / len(there) + extra < cost:
                best, cost = mask, sum(seen) / len(there) + extra
    return best, cost


def _note(ranges: dict[int, list[float]], mask: int, left: Any) -> None:
    if len(left):
        span = (int(left.max()) - int(left.min())) & (1 << 64) - 1
        ranges.setdefault(mask, []).append(float(np.log2(float(span) + 1.0)))
