"""Plain NumPy twins of the kernels: the reference in tests, and what small jobs use while nothing is compiled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import xxhash

from atlas.errors import CorruptChunk
from atlas.kernels.bounds import with_axes
from atlas.kernels.layout import (
    BAD_POSITION,
    BINARY,
    BITS,
    BLOCK,
    DIVIDED,
    FLOAT32,
    INTEGERS,
    ITEM_SIZES,
    MASKED,
    MAX_AXES,
    MAX_BINARY,
    MAX_DECIMAL,
    MULTIPLIED,
    ORDERED,
    PATCHED,
    PROBLEMS,
    SIGN_LAST,
    UNKNOWN_HEADER,
    WIDE,
    WRONG_LENGTH,
    Packing,
)

_TYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")
_LIMIT32, _LIMIT64 = 2147483000.0, 2251799813685248.0


def scatter(
    src: Any,
    src_offset: Any,
    geometry: Any,
    chunk_extent: Any,
    block_start: Any,
    block_extent: Any,
    out: Any,
    dst_offset: Any,
    dst_strides: Any,
    itemsize: int,
    shuffled: Any,
) -> None:
    """Twin of :func:`atlas.kernels.native.scatter`, without its bounds check."""
    for task in range(len(src_offset)):
        g = int(geometry[task])
        shape = tuple(chunk_extent[g].tolist())
        cells = int(np.prod(shape, dtype=np.int64))
        begin = int(src_offset[task])
        data = src[begin : begin + cells * itemsize]
        if shuffled[task]:
            data = np.ascontiguousarray(data.reshape(itemsize, cells).T).reshape(-1)
        _place(
            data.view(f"V{itemsize}").reshape(shape),
            block_start[g],
            block_extent[g],
            out,
            int(dst_offset[task]),
            dst_strides[g],
        )


def _place(chunk: Any, start: Any, extent: Any, out: Any, offset: int, strides: Any) -> None:
    if extent.all():
        box = tuple(map(slice, start, start + extent))
        target: Any = np.ndarray(tuple(extent.tolist()), chunk.dtype, out, offset, tuple(strides.tolist()))
        target[...] = chunk[box]


def digest(src: Any, offset: Any, length: Any) -> Any:
    """Twin of :func:`atlas.kernels.native.digest`, without its bounds check."""
    view = memoryview(src)
    hashes = [xxhash.xxh3_64_intdigest(view[a : a + n]) for a, n in zip(offset.tolist(), length.tolist(), strict=True)]
    return np.array(hashes, np.uint64)


def shuffle(src: Any, out: Any, itemsize: int) -> None:
    """Twin of :func:`atlas.kernels.native.shuffle`."""
    cells = len(src) // itemsize
    out.reshape(itemsize, cells)[...] = src.reshape(cells, itemsize).T


# ── packed chunks ────────────────────────────────────────────────────────────────────────────────


def unpack(
    src: Any,
    rows: Any,
    offset: Any,
    length: Any,
    geometry: Any,
    chunk_extent: Any,
    block_start: Any,
    block_extent: Any,
    out: Any,
    destination: Any,
    strides: Any,
    element: int,
) -> None:
    """Twin of :func:`atlas.kernels.native.unpack`, without its bounds check."""
    item = ITEM_SIZES[element]
    chunk_extent, block_start, block_extent, strides = with_axes(chunk_extent, block_start, block_extent, strides, item)
    for row in rows.tolist():
        g = int(geometry[row])
        payload = src[int(offset[row]) : int(offset[row]) + int(length[row])].tobytes()
        try:
            cells = _unpack_chunk(payload, tuple(chunk_extent[g].tolist()), element)
        except _Problem as problem:
            raise CorruptChunk(PROBLEMS[problem.args[0]], row) from None
        _place(cells.view(f"V{item}"), block_start[g], block_extent[g], out, int(destination[row]), strides[g])


def unpack_whole(payload: Any, shape: tuple[int, ...], element: int) -> Any:
    """Twin of :func:`atlas.kernels.native.unpack_whole`."""
    try:
        return _unpack_chunk(payload.tobytes(), shape or (1,), element).reshape(-1).view(np.uint8)
    except _Problem as problem:
        raise CorruptChunk(PROBLEMS[problem.args[0]]) from None


class _Problem(Exception):
    """What is wrong with a payload."""


def _expect(condition: bool, problem: int) -> None:
    if not condition:
        raise _Problem(problem)


def _block_sizes(shape: tuple[int, ...], axes: int) -> list[int]:
    """Return the cells of every block; none reaches from one box into the next."""
    counts = [np.empty(shape, "V0")[box].size for box in _boxes(shape, axes)]
    return [min(BLOCK, count - at) for count in counts for at in range(0, count, BLOCK)]


def _lanes_and_rows(n: int) -> tuple[int, int]:
    lanes = -(-n // 32)
    return lanes, -(-n // lanes)


def _block_words(n: int, width: int) -> int:
    lanes, rows = _lanes_and_rows(n)
    if width > 32:
        return lanes * (rows + -(-rows * (width - 32) // 32))
    return lanes * -(-rows * width // 32)


def _scale(kind: int, code: int, dtype: Any) -> Any:
    power = 2.0 ** (code - BINARY) if code >= BINARY else 10.0**code
    return dtype.type(power if kind == DIVIDED else 1.0 / power)


def _floats(numbers: Any, kind: int, code: int, dtype: Any) -> Any:
    if kind == BITS:
        return _from_bits(numbers, code, dtype)
    scale = _scale(kind, code, dtype)
    return numbers.astype(dtype) / scale if kind == DIVIDED else numbers.astype(dtype) * scale


def _bits_of(values: Any, code: int) -> Any:
    """Return the bits of floats as integers of their size."""
    bits = values.view(f"<i{values.itemsize}")
    top = 8 * values.itemsize - 1
    if code == ORDERED:
        return bits ^ np.where(bits < 0, bits.dtype.type((1 << top) - 1), bits.dtype.type(0))
    turned = bits.view(f"<u{values.itemsize}")
    turned = turned << 1 | turned >> top
    return (turned - turned.dtype.type((1 << top) - 1)).view(bits.dtype)


def _from_bits(numbers: Any, code: int, dtype: Any) -> Any:
    """Undo :func:`_bits_of`."""
    if code == ORDERED:
        return _bits_of(numbers.view(dtype), code).view(dtype)
    top = 8 * dtype.itemsize - 1
    turned = numbers.view(f"<u{dtype.itemsize}") + np.array((1 << top) - 1, f"<u{dtype.itemsize}")
    return (turned >> 1 | turned << top).view(dtype)


def _unpack_chunk(payload: bytes, shape: tuple[int, ...], element: int) -> Any:
    dtype = np.dtype(_TYPES[element])
    cells, item = int(np.prod(shape, dtype=np.int64)), dtype.itemsize
    _expect(len(payload) >= 4, WRONG_LENGTH)
    kind, code, axes, flags = payload[:4]
    _expect(kind <= BITS and (kind != INTEGERS) == (element >= FLOAT32), UNKNOWN_HEADER)
    _expect(flags <= MASKED | PATCHED | WIDE and (code <= MAX_DECIMAL or BINARY <= code <= MAX_BINARY), UNKNOWN_HEADER)
    _expect(kind != BITS or (code <= SIGN_LAST and bool(flags & WIDE) == (item == 8)), UNKNOWN_HEADER)
    _expect(len(shape) >= MAX_AXES or not axes >> len(shape), UNKNOWN_HEADER)
    size, sizes = 8 if flags & WIDE else 4, _block_sizes(shape, axes)
    at, patches = 4, 0
    if flags & PATCHED:
        _expect(len(payload) >= 8 and element >= FLOAT32, WRONG_LENGTH)
        patches, at = int.from_bytes(payload[4:8], "little"), 8
    bitmap = len(payload) - (-(-cells // 8) if flags & MASKED else 0)
    words = at + len(sizes) * size
    _expect(bitmap - len(sizes) >= words and patches <= cells, WRONG_LENGTH)
    widths = list(payload[bitmap - len(sizes) : bitmap])
    _expect(all(width <= 8 * size for width in widths), WRONG_LENGTH)
    counts = [_block_words(n, width) for n, width in zip(sizes, widths, strict=True)]
    special = words + 4 * sum(counts)
    positions = special + (max(item, 4) if flags & MASKED else 0)
    _expect(positions + patches * (4 + item) == bitmap - len(sizes), WRONG_LENGTH)
    bases = np.frombuffer(payload, f"<u{size}", len(sizes), at)
    parts = []
    for n, width, count, base in zip(sizes, widths, counts, bases, strict=True):
        parts.append(_unpack_block(np.frombuffer(payload, "<u4", count, words), n, width).astype(bases.dtype) + base)
        words += 4 * count
    stream = np.concatenate(parts)
    numbers = _accumulated(stream, shape, axes).view(f"<i{size}").reshape(-1)
    result = numbers.astype(dtype) if kind == INTEGERS else _floats(numbers, kind, code, dtype)
    if flags & MASKED:
        bits = np.unpackbits(np.frombuffer(payload, np.uint8, -1, bitmap), bitorder="little")[:cells]
        result[bits.astype(bool)] = np.frombuffer(payload, dtype, 1, special)
    if patches:
        where = np.frombuffer(payload, "<u4", patches, positions)
        _expect(int(where.max()) < cells, BAD_POSITION)
        result[where] = np.frombuffer(payload, dtype, patches, positions + 4 * patches)
    return result.reshape(shape)


def _unpack_block(words: Any, n: int, width: int) -> Any:
    if width == 0:
        return np.zeros(n, np.uint64)
    lanes, rows = _lanes_and_rows(n)
    low = _unpack_part(words, lanes, rows, n, min(width, 32))
    if width > 32:
        low |= _unpack_part(words[lanes * rows :], lanes, rows, n, width - 32) << np.uint64(32)
    return low


def _unpack_part(words: Any, lanes: int, rows: int, n: int, width: int) -> Any:
    bits = np.arange(rows) * width
    table = np.concatenate([words, np.zeros(lanes, "<u4")]).astype(np.uint64).reshape(-1, lanes)
    pairs = table[bits >> 5] | table[np.minimum((bits >> 5) + 1, len(table) - 1)] << np.uint64(32)
    values = pairs >> (bits & 31).astype(np.uint64)[:, None] & np.uint64((1 << width) - 1)
    return values.reshape(-1)[:n]


def _boxes(shape: tuple[int, ...], axes: int) -> Iterator[tuple[slice, ...]]:
    """Yield the boxes of a chunk in the order of the stream."""
    box = 0
    while True:
        yield tuple(
            slice(None) if not axes >> i & 1 else slice(1, None) if box >> i & 1 else slice(0, 1)
            for i in range(len(shape))
        )
        box = (box - axes) & axes
        if not box:
            return


def _accumulated(stream: Any, shape: tuple[int, ...], axes: int) -> Any:
    numbers = np.empty(shape, stream.dtype)
    at = 0
    for box in _boxes(shape, axes):
        part = numbers[box]
        part[...] = stream[at : at + part.size].reshape(part.shape)
        at += part.size
    for axis in range(len(shape)):
        if axes >> axis & 1:
            np.cumsum(numbers, axis, numbers.dtype, numbers)
    return numbers


def pack(cells: Any, shape: tuple[int, ...], element: int, fill: Any, packing: Packing, limit: int) -> bytes | None:
    """Twin of :func:`atlas.kernels.native.pack`."""
    shape = shape or (1,)
    values = cells.view(_TYPES[element])
    kind, code, axes, _ = packing
    wide = values.itemsize == 8 and (kind == BITS or not _fits_narrow(values, fill, code))
    signed = np.dtype("<i8" if wide else "<i4")
    if kind == INTEGERS:
        numbers, good = _integers(values, fill, signed)
    elif kind == BITS:
        numbers = _bits_of(values, code)
        good = ~_is_special(values, fill) & (numbers != np.iinfo(signed).min)
    else:
        numbers, good = _decimals(values, fill, kind, code, wide)
    special, masked, patches = _settled(values, numbers, good, fill, packing, wide)
    if len(patches) > -(-len(values) // 16):
        return None
    stream = _differences(numbers.reshape(shape), axes)
    bases, widths, words = [], [], []
    for block in np.split(stream, np.cumsum(_block_sizes(shape, axes))[:-1]):
        low = block.min()
        left = block.view(f"<u{block.itemsize}") - np.array(low).view(f"<u{block.itemsize}")
        widths.append(int(left.max()).bit_length())
        bases.append(low)
        words.append(_pack_block(left.astype(np.uint64), widths[-1]))
    flags = (MASKED if special is not None else 0) | (PATCHED if len(patches) else 0) | (WIDE if wide else 0)
    parts = [bytes((kind, code, axes, flags))]
    if len(patches):
        parts.append(len(patches).to_bytes(4, "little"))
    parts += [np.array(bases, signed).tobytes(), *words]
    if special is not None:
        parts.append(special.tobytes().ljust(4, b"\0"))
    parts += [patches.astype("<u4").tobytes(), values[patches].tobytes(), bytes(widths)]
    if special is not None:
        parts.append(np.packbits(masked, bitorder="little").tobytes())
    payload = b"".join(parts)
    return payload if len(payload) <= limit else None


def pack_rows(cells: Any, shape: tuple[int, ...], element: int, fill: Any, limit: int) -> tuple[Any, Any, Any]:
    """Twin of :func:`atlas.kernels.native.pack_rows`."""
    packings = [choose(row, shape, element, fill) for row in cells]
    payloads = [
        (packing and pack(row, shape, element, fill, packing, limit)) or b""
        for row, packing in zip(cells, packings, strict=True)
    ]
    lengths = np.array([len(payload) for payload in payloads], np.int64)
    repetitive = np.array([packing is not None and bool(packing.repetitive) for packing in packings], bool)
    return np.frombuffer(b"".join(payloads), np.uint8), lengths, repetitive


def _power(code: int) -> float:
    return 2.0 ** (code - BINARY) if code >= BINARY else 10.0**code


def _is_fill(values: Any, fill: Any) -> Any:
    unsigned = f"<u{values.itemsize}"
    if fill is None:
        return np.zeros(len(values), bool)
    return values.view(unsigned) == fill.view(unsigned)[0]


def _fits_narrow(values: Any, fill: Any, code: int) -> bool:
    if values.dtype.kind == "f":
        sample = slice(None, None, max(len(values) // 64, 1))
        with np.errstate(over="ignore", invalid="ignore"):
            size = np.abs(values[sample] * _power(code))
        return not ((size >= _LIMIT32) & (size < _LIMIT64) & ~_is_fill(values[sample], fill)).any()
    kept = values.view("<i8")[~_is_fill(values, fill)]
    return not len(kept) or (int(kept.min()) > -(1 << 31) and int(kept.max()) < 1 << 31)


def _integers(values: Any, fill: Any, signed: Any) -> tuple[Any, Any]:
    numbers = values.astype(signed)
    good = ~_is_fill(values, fill)
    if (numbers[good] == np.iinfo(signed).min).any():
        good[:] = True
    return numbers, good


def _decimals(values: Any, fill: Any, kind: int, code: int, wide: bool) -> tuple[Any, Any]:
    dtype = values.dtype
    limit = dtype.type(_LIMIT64 if wide else _LIMIT32)
    with np.errstate(over="ignore", invalid="ignore"):
        y = values * dtype.type(_power(code))
        numbers = np.rint(np.where(np.abs(y) < limit, y, dtype.type(0))).astype("<i8" if wide else "<i4")
        back = _floats(numbers, kind, code, dtype)
    return numbers, _same(back, values) & ~_is_fill(values, fill)


def _same(first: Any, second: Any) -> Any:
    unsigned = f"<u{first.itemsize}"
    return (first.view(unsigned) == second.view(unsigned)) & ~np.isnan(second)


def _settled(values: Any, numbers: Any, good: Any, fill: Any, packing: Packing, wide: bool) -> tuple[Any, Any, Any]:
    """Give the cells that are no integers a number; return the special value, where it is, and the patches."""
    bad = np.flatnonzero(~good)
    if not len(bad):
        return None, None, bad
    special, masked = None, np.zeros(len(values), bool)
    if packing.kind == INTEGERS:
        special, masked[bad] = values[bad[0]], True
    else:
        candidates = bad[np.isnan(values[bad]) | _is_fill(values[bad], fill)]
        if len(candidates):
            special = values[candidates[0]]
            unsigned = f"<u{values.itemsize}"
            masked[bad] = values[bad].view(unsigned) == np.array(special).view(unsigned)
    left = bad[~masked[bad]]
    exact = _exact(values[left], packing) if len(left) else np.zeros(0, np.int64)
    highest = int(_LIMIT64 if wide else _LIMIT32)
    if packing.kind == BITS:
        highest = (1 << 63) - 1 if wide else 1 << 31
    saved = (exact > -highest) & (exact < highest)
    numbers[left[saved]] = exact[saved]
    known = good.copy()
    known[left[saved]] = True
    source = np.maximum.accumulate(np.where(known, np.arange(len(values)), -1))
    # Before the first number, the first that needed no second look; 0 where there is none.
    first = numbers[int(np.argmax(good))] if good.any() else 0
    filler = np.where(source >= 0, numbers[np.maximum(source, 0)], first)
    numbers[~known] = filler[~known]
    return special, masked, left[~saved]


def _exact(values: Any, packing: Packing) -> Any:
    """Return the integers that floats stand for, computed in float64; the smallest int64 where there is none."""
    if packing.kind == BITS:
        numbers = _bits_of(values, packing.code).astype(np.int64)
        hole = -(1 << 8 * values.itemsize - 1)
        return np.where(numbers == hole, np.iinfo(np.int64).min, numbers)
    limit = _LIMIT32 if values.itemsize == 4 else _LIMIT64
    with np.errstate(over="ignore", invalid="ignore"):
        y = values.astype(np.float64) * _power(packing.code)
        inside = np.abs(y) < limit
        n = np.rint(np.where(inside, y, 0.0)).astype(np.int64)
        same = _same(_floats(n, packing.kind, packing.code, values.dtype), values)
    return np.where(inside & same, n, np.iinfo(np.int64).min)


def _differences(numbers: Any, axes: int) -> Any:
    left = numbers
    for axis in range(min(numbers.ndim, MAX_AXES)):
        if axes >> axis & 1:
            first = [slice(None)] * numbers.ndim
            first[axis] = slice(0, 1)
            left = np.concatenate([left[tuple(first)], np.diff(left, axis=axis)], axis)
    return np.concatenate([left[box].reshape(-1) for box in _boxes(numbers.shape, axes)])


def _pack_block(values: Any, width: int) -> bytes:
    if width == 0:
        return b""
    lanes, rows = _lanes_and_rows(len(values))
    table: Any = np.zeros(lanes * rows, np.uint64)
    table[: len(values)] = values
    table = table.reshape(rows, lanes)
    low = _pack_part(table & np.uint64(0xFFFFFFFF), min(width, 32))
    return low + (_pack_part(table >> np.uint64(32), width - 32) if width > 32 else b"")


def _pack_part(table: Any, width: int) -> bytes:
    rows, lanes = table.shape
    words = np.zeros((-(-rows * width // 32) + 1, lanes), np.uint64)
    for row in range(rows):
        at, shift = row * width >> 5, np.uint64(row * width & 31)
        shifted = table[row] << shift
        words[at] |= shifted & np.uint64(0xFFFFFFFF)
        words[at + 1] |= shifted >> np.uint64(32)
    return bytes(words[:-1].astype("<u4").tobytes())


# ── choosing ─────────────────────────────────────────────────────────────────────────────────────


def choose(cells: Any, shape: tuple[int, ...], element: int, fill: Any) -> Packing | None:
    """Twin of :func:`atlas.kernels.native.choose`."""
    values = cells.view(_TYPES[element])
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


def _is_special(values: Any, fill: Any) -> Any:
    special = _is_fill(values, fill)
    return special | np.isnan(values) if values.dtype.kind == "f" else special


def _sampled(cells: int) -> Any:
    i, step = np.arange(min(cells, 64)), max(cells // 64, 1)
    return i * step + i * 7919 % step


def _choose_scale(values: Any, fill: Any) -> tuple[int, int] | None:
    sample = values[_sampled(len(values))]
    sample = sample[~_is_special(sample, fill)]
    tried, item_bits = min(len(values), 64), 8.0 * values.itemsize
    best, found = item_bits, None
    families = ((DIVIDED, 0, 3.33, 0), (MULTIPLIED, 1, 3.33, 0), (DIVIDED, BINARY + 1, 1.0, BINARY))
    for kind, first, bits, nothing in families:
        for code in range(first, first + (24 if values.itemsize == 4 else 50)):
            cost = bits * (code - nothing)
            if cost >= best:
                break
            wrong = int((_exact(sample, Packing(kind, code, 0)) == np.iinfo(np.int64).min).sum())
            cost += wrong / tried * (32.0 + item_bits)
            if wrong <= tried * 3 // 64 and cost < best:
                best, found = cost, (kind, code)
            if wrong == 0:
                break
    return found


def _rough(values: Any, fill: Any, kind: int, code: int) -> tuple[Any, Any]:
    """Return about the integer of every cell, and which cells have one."""
    known = ~_is_special(values, fill)
    if kind == BITS:
        numbers = _exact(values, Packing(BITS, code, 0))
        return numbers, known & (numbers != np.iinfo(np.int64).min)
    if values.dtype.kind != "f":
        numbers = values.astype("<i4" if values.itemsize == 4 else "<i8").astype(np.int64)
        return numbers, known & (numbers != np.iinfo(np.int64).min)
    with np.errstate(over="ignore", invalid="ignore"):
        y = values.astype(np.float64) * _power(code)
        known &= np.abs(y) < _LIMIT64
        return np.rint(np.where(known, y, 0.0)).astype(np.int64), known


def _choose_axes(numbers: Any, known: Any, shape: tuple[int, ...], most: int) -> tuple[int, float]:
    """Return the axes, of the first `most`, that are best predicted along, and the bits that a cell takes."""
    cells, axes = len(numbers), min(len(shape), most)
    inner = [int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(axes)]
    span = min(cells, BLOCK)
    groups = min(4, -(-cells // BLOCK))
    step = min(41, max(span // 24, 1))
    ranges: dict[int, list[float]] = {}
    for group in range(groups):
        begin = (cells - span) * group // max(groups - 1, 1)
        at = np.arange(begin, begin + min(span, 24 * step), step)
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
    best, cost = 0, sum(ranges.get(0, [0.0])) / max(len(ranges.get(0, [])), 1)
    for a in range(axes):
        single = 0.3 + (0.7 if a == last else 0.0)
        for mask, extra in ((1 << a, single), *((1 << a | 1 << b, single + 0.3) for b in range(a))):
            seen = ranges.get(mask, [])
            if len(seen) == groups and sum(seen) / groups + extra < cost:
                best, cost = mask, sum(seen) / groups + extra
    return best, cost


def _note(ranges: dict[int, list[float]], mask: int, left: Any) -> None:
    if len(left):
        span = (int(left.max()) - int(left.min())) & (1 << 64) - 1
        ranges.setdefault(mask, []).append(float(np.log2(float(span) + 1.0)))
