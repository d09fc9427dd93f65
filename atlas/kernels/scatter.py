"""Copy boxes out of decoded chunks into a strided output, un-shuffling on the way."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from atlas.kernels.compile import helper
from atlas.kernels.layout import BAD_BLOCK, DAMAGED, GUARD_ROOM, LINE, LZ4, SEALED, SHUFFLE_LZ4, STRETCH, WRONG_SIZE
from atlas.kernels.lz4 import decompress
from atlas.kernels.memory import copy, i32, i64, settle_streams, u8
from atlas.kernels.moves import stream, streams_well
from atlas.kernels.seal import may_use, open_payload
from atlas.kernels.slabs import STRIP_BYTES, whole_lines

# Elements un-shuffled at once. A run's last block overlaps the one before it instead of going element
# by element; 8 wastes less than 16 on the short rows of slices and is as fast on long ones.
_LANES = 8

# Bytes of the widest elements that are un-shuffled by vector instructions.
_WIDEST = 16

_whole_lines = helper(whole_lines)


def _weaver(itemsize: int) -> Any:
    """Return a function that un-shuffles `_LANES` elements of one size with vector instructions."""

    @intrinsic  # type: ignore[untyped-decorator]
    def weave(typing: Any, target: Any, source: Any, cells: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            parts = []
            for byte in range(itemsize):
                plane = builder.add(args[1], builder.mul(args[2], ir.Constant(ir.IntType(64), byte)))
                vector = ir.VectorType(ir.IntType(8), _LANES).as_pointer()
                parts.append(builder.load(builder.inttoptr(plane, vector), align=1))
            while len(parts) > 1:
                half = len(parts) // 2
                parts = [_interleave(builder, a, b) for a, b in zip(parts[:half], parts[half:], strict=True)]
            builder.store(parts[0], builder.inttoptr(args[0], parts[0].type.as_pointer()), align=1)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64), generate

    return weave


def _interleave(builder: Any, a: Any, b: Any) -> Any:
    count = a.type.count
    order = [index for lane in range(count) for index in (lane, count + lane)]
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), 2 * count), order))


_weave2, _weave4, _weave8, _weave16 = (_weaver(itemsize) for itemsize in (2, 4, 8, 16))


@helper
def _unshuffle_run(target: Any, source: Any, run: Any, cells: Any, itemsize: Any) -> None:
    """Write `run` elements whose first bytes begin at `source`, planes of `cells` bytes apart."""
    if run < _LANES or (itemsize != 2 and itemsize != 4 and itemsize != 8 and itemsize != 16):
        out = u8(target)
        for byte in range(itemsize):
            plane = u8(source + byte * cells)
            for i in range(run):
                out[i * itemsize + byte] = plane[i]
        return
    i = 0
    while i < run:
        i = min(i, run - _LANES)
        if itemsize == 4:
            _weave4(target + i * itemsize, source + i, cells)
        elif itemsize == 8:
            _weave8(target + i * itemsize, source + i, cells)
        elif itemsize == 2:
            _weave2(target + i * itemsize, source + i, cells)
        else:
            _weave16(target + i * itemsize, source + i, cells)
        i += _LANES


@helper
def _unshuffle_past(target: Any, source: Any, run: Any, cells: Any, itemsize: Any, spare: Any) -> None:
    """Do the same past the caches, by way of `spare` room for a strip."""
    done = np.int64(0)
    while done < run:
        place = target + done * itemsize
        # All but the first strip begin with a cache line.
        strip = min((STRIP_BYTES - (place & (LINE - 1))) // itemsize, run - done)
        _unshuffle_run(spare, source + done, strip, cells, itemsize)
        stream(place, spare, strip * itemsize)
        done += strip


def _checking(move: Any) -> Any:
    """Return a function that moves bytes while what was just checked of them is in the cache.

    One loop that chooses how for every stretch would not be made part of what calls it, and takes a third longer.
    """

    @helper
    def move_checked(guard: Any, target: Any, source: Any, size: Any) -> Any:
        """Return whether the bytes of a payload, as far as they were moved, are whole."""
        for done in range(0, size, STRETCH):
            part = min(size - done, STRETCH)
            if not may_use(guard, source + done, source + done + part):
                return False
            move(target + done, source + done, part)
        return True

    return move_checked


_copy_checked, _stream_checked = _checking(copy), _checking(stream)


@helper
def _open_chunk(
    row: Any, src: Any, offset: Any, length: Any, pipeline: Any, checksum: Any, size: Any, place: Any, guard: Any
) -> Any:
    """Return what is wrong with a payload, where its `size` bytes are, whether as they are, and still to be checked."""
    begin = src + i64(offset)[row]
    end = begin + i64(length)[row]
    i64(guard)[0] = end
    kind, body = np.int64(0), begin
    if checksum:
        kind = np.int64(u8(pipeline)[row]) & ~SEALED
        body = open_payload(guard, begin, end - begin, u8(pipeline)[row] & SEALED, i64(checksum)[row])
    if body == 0:
        return np.int64(DAMAGED), body, True, False
    if kind in (LZ4, SHUFFLE_LZ4):
        whole = decompress(body, end - body, place, size)
        return np.int64(0 if whole else BAD_BLOCK), place, kind == LZ4, False
    return np.int64(0 if end - body == size else WRONG_SIZE), body, True, True


@helper
def _place_box(
    base: Any,
    cells: Any,
    plain: Any,
    checked: Any,
    guard: Any,
    ndim: Any,
    steps: Any,
    start: Any,
    block: Any,
    pitch: Any,
    position: Any,
    target: Any,
    itemsize: Any,
    past: Any,
    spare: Any,
) -> Any:
    """Write a box of a chunk of so many cells at `base`; return whether what was to be `checked` is whole."""
    # Merge trailing axes that are contiguous in both, so that the inner run is long.
    inner = ndim
    run = 1
    first = 0
    for axis in range(ndim):
        first += start[axis] * steps[axis]
        position[axis] = 0
    while inner > 0 and pitch[inner - 1] == run * itemsize and steps[inner - 1] == run:
        inner -= 1
        run *= block[inner]
    past = past and streams_well(target, run * itemsize) and (plain or itemsize <= _WIDEST)
    while True:
        if not plain:
            if past:
                _unshuffle_past(target, base + first, run, cells, itemsize, spare)
            else:
                _unshuffle_run(target, base + first, run, cells, itemsize)
        elif not checked:
            if past:
                stream(target, base + first * itemsize, run * itemsize)
            else:
                copy(target, base + first * itemsize, run * itemsize)
        elif past:
            if not _stream_checked(guard, target, base + first * itemsize, run * itemsize):
                return False
        elif not _copy_checked(guard, target, base + first * itemsize, run * itemsize):
            return False
        axis = inner - 1
        while axis >= 0:
            position[axis] += 1
            first += steps[axis]
            target += pitch[axis]
            if position[axis] < block[axis]:
                break
            first -= position[axis] * steps[axis]
            target -= position[axis] * pitch[axis]
            position[axis] = 0
            axis -= 1
        if axis < 0:
            return True


def scatter(
    src: Any,
    rows: Any,
    tasks: Any,
    offset: Any,
    length: Any,
    pipeline: Any,
    checksum: Any,
    shuffled: Any,
    geometry: Any,
    ndim: Any,
    chunk_extent: Any,
    block_start: Any,
    block_extent: Any,
    out: Any,
    destination: Any,
    strides: Any,
    itemsize: Any,
    room: Any,
    past: Any,
    failed: Any,
) -> Any:
    """Copy one box of every task's chunk; all arguments are addresses or integers.

    Chunks are payloads as they are stored, checked as far as they are used, or lz4 blocks; for these `room` has space
    for the largest chunk. Without `pipeline` and `checksum` (0) they are taken as they are. Without `src` and `length`,
    they are decoded ones: `offset` has the address of every task's, and `shuffled` how it is. Cells are written `past`
    the caches (see :mod:`atlas.kernels.moves`), or are not.

    Returns 0, or what is wrong with the row written to `failed`.
    """
    guard = room
    position, steps = i64(room + GUARD_ROOM), i64(room + GUARD_ROOM + 8 * ndim)
    spare = _whole_lines(room + GUARD_ROOM + 16 * ndim)
    place = spare + STRIP_BYTES
    for task in range(tasks):
        row = i64(rows)[task]
        at = np.int64(i32(geometry)[row]) * ndim * 8
        extent, start = i64(chunk_extent + at), i64(block_start + at)
        block, pitch = i64(block_extent + at), i64(strides + at)
        cells = 1
        wanted = 1
        for axis in range(ndim - 1, -1, -1):
            steps[axis] = cells
            cells *= extent[axis]
            wanted *= block[axis]
        problem, plain, checked = np.int64(0), True, False
        if length:
            problem, base, plain, checked = _open_chunk(
                row, src, offset, length, pipeline, checksum, cells * itemsize, place, guard
            )
        else:
            base = i64(offset)[task]
            plain = u8(shuffled)[task] == 0
        plain = plain or itemsize == 1
        target = out + i64(destination)[row]
        if problem == 0 and wanted > 0:
            ways = (past, spare)
            whole = _place_box(
                base, cells, plain, checked, guard, ndim, steps, start, block, pitch, position, target, itemsize, *ways
            )
            problem = np.int64(0 if whole else DAMAGED)
        if problem:
            i64(failed)[0] = row
            return problem
    if past:
        settle_streams()
    return 0
