"""Copy boxes out of decoded chunks into a strided output, un-shuffling on the way.

The helpers stay in this file because Numba's cache notices only changes of the kernel's own file.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.cgutils import raw_memcpy
from numba.extending import intrinsic

from atlas.kernels.compile import BYTES, INT, INTS, READ_BYTES, SMALL_INTS, TABLE, kernel

# Elements un-shuffled at once. A run's last block overlaps the one before it instead of going element
# by element; 8 wastes less than 16 on the short rows of slices and is as fast on long ones.
_LANES = 8


def _address(context: Any, builder: Any, array_type: Any, array: Any, offset: Any) -> Any:
    # Indexing an array tests for negative indices, and slicing builds an object: both cost more than a short copy.
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [offset])


@intrinsic  # type: ignore[untyped-decorator]
def _copy(typing: Any, out: Any, target: Any, src: Any, begin: Any, length: Any) -> Any:
    """Copy `length` bytes."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to = _address(context, builder, signature.args[0], args[0], args[1])
        source = _address(context, builder, signature.args[2], args[2], args[3])
        raw_memcpy(builder, to, source, args[4], 1)
        return context.get_dummy_value()

    return types.void(out, types.int64, src, types.int64, types.int64), generate


def _weaver(itemsize: int) -> Any:
    """Return a function that un-shuffles `_LANES` elements of one size with vector instructions."""

    @intrinsic  # type: ignore[untyped-decorator]
    def weave(typing: Any, out: Any, target: Any, src: Any, begin: Any, cells: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            parts = []
            for byte in range(itemsize):
                offset = builder.add(args[3], builder.mul(args[4], ir.Constant(ir.IntType(64), byte)))
                plane = _address(context, builder, signature.args[2], args[2], offset)
                parts.append(_load(builder, plane))
            while len(parts) > 1:
                half = len(parts) // 2
                parts = [_interleave(builder, a, b) for a, b in zip(parts[:half], parts[half:], strict=True)]
            to = _address(context, builder, signature.args[0], args[0], args[1])
            builder.store(parts[0], builder.bitcast(to, parts[0].type.as_pointer()), align=1)
            return context.get_dummy_value()

        return types.void(out, types.int64, src, types.int64, types.int64), generate

    return weave


def _load(builder: Any, pointer: Any) -> Any:
    vector = ir.VectorType(ir.IntType(8), _LANES)
    return builder.load(builder.bitcast(pointer, vector.as_pointer()), align=1)


def _interleave(builder: Any, a: Any, b: Any) -> Any:
    count = a.type.count
    order = [index for lane in range(count) for index in (lane, count + lane)]
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), 2 * count), order))


_weave2, _weave4, _weave8, _weave16 = (_weaver(itemsize) for itemsize in (2, 4, 8, 16))


@kernel(READ_BYTES, INTS, SMALL_INTS, TABLE, TABLE, TABLE, BYTES, INTS, TABLE, INT, BYTES)
def _scatter(
    src: Any,
    src_offset: Any,
    geometry: Any,
    chunk_extent: Any,
    block_start: Any,
    block_extent: Any,
    out: Any,
    dst_offset: Any,
    dst_strides: Any,
    itemsize: Any,
    shuffled: Any,
) -> None:
    ndim = chunk_extent.shape[1]
    position = np.zeros(ndim + 1, np.int64)
    strides = np.zeros(ndim + 1, np.int64)
    woven = itemsize == 2 or itemsize == 4 or itemsize == 8 or itemsize == 16
    for task in range(src_offset.size):
        g = geometry[task]
        cells = 1
        wanted = 1
        for axis in range(ndim - 1, -1, -1):
            strides[axis] = cells
            cells *= chunk_extent[g, axis]
            wanted *= block_extent[g, axis]
        if wanted == 0:
            continue
        # Merge trailing axes that are contiguous in both, so that the inner run is long.
        inner = ndim
        run = 1
        first = 0
        for axis in range(ndim):
            first += block_start[g, axis] * strides[axis]
            position[axis] = 0
        while inner > 0 and dst_strides[g, inner - 1] == run * itemsize and strides[inner - 1] == run:
            inner -= 1
            run *= block_extent[g, inner]
        base = src_offset[task]
        target = dst_offset[task]
        plain = shuffled[task] == 0 or itemsize == 1
        while True:
            if plain:
                _copy(out, target, src, base + first * itemsize, run * itemsize)
            elif woven and run >= _LANES:
                i = 0
                while i < run:
                    i = min(i, run - _LANES)
                    to = target + i * itemsize
                    begin = base + first + i
                    if itemsize == 4:
                        _weave4(out, to, src, begin, cells)
                    elif itemsize == 8:
                        _weave8(out, to, src, begin, cells)
                    elif itemsize == 2:
                        _weave2(out, to, src, begin, cells)
                    else:
                        _weave16(out, to, src, begin, cells)
                    i += _LANES
            else:
                for byte in range(itemsize):
                    plane = base + byte * cells + first
                    for i in range(run):
                        out[target + i * itemsize + byte] = src[plane + i]
            axis = inner - 1
            while axis >= 0:
                position[axis] += 1
                first += strides[axis]
                target += dst_strides[g, axis]
                if position[axis] < block_extent[g, axis]:
                    break
                first -= position[axis] * strides[axis]
                target -= position[axis] * dst_strides[g, axis]
                position[axis] = 0
                axis -= 1
            if axis < 0:
                break


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
    """Copy one box of every task's chunk to the output.

    Parameters
    ----------
    src : (n,) uint8
        Decoded chunks.
    src_offset : (T,) int64
        Where each task's chunk begins.
    geometry : (T,) int32
        Row of the geometry tables that describes the task.
    chunk_extent, block_start, block_extent : (G, ndim) int64
        The chunk's shape and the box within it, in elements.
    out : (m,) uint8
    dst_offset : (T,) int64
        Byte at which the box begins in `out`.
    dst_strides : (G, ndim) int64
        Byte strides of the output.
    itemsize : int
    shuffled : (T,) uint8
        Whether the chunk's bytes are shuffled: byte `b` of element `e` at ``b * cells + e``.

    Raises
    ------
    ValueError
        If any task would leave `src` or `out`.
    """
    check_bounds(
        src.size,
        src_offset,
        geometry,
        chunk_extent,
        block_start,
        block_extent,
        out.size,
        dst_offset,
        dst_strides,
        itemsize,
    )
    if len(shuffled) != len(src_offset):
        raise ValueError("the columns of the tasks differ in length")
    view = src.view()
    view.flags.writeable = False
    _scatter(
        view,
        np.ascontiguousarray(src_offset),
        np.ascontiguousarray(geometry),
        chunk_extent,
        block_start,
        block_extent,
        out,
        np.ascontiguousarray(dst_offset),
        dst_strides,
        itemsize,
        shuffled,
    )


def check_bounds(
    src_size: int,
    src_offset: Any,
    geometry: Any,
    chunk_extent: Any,
    block_start: Any,
    block_extent: Any,
    out_size: int,
    dst_offset: Any,
    dst_strides: Any,
    itemsize: int,
) -> None:
    """Raise ValueError unless every task stays within its buffers; the kernel indexes raw memory."""
    tasks = len(src_offset)
    if not tasks:
        return
    if len(geometry) != tasks or len(dst_offset) != tasks or itemsize < 1:
        raise ValueError("the columns of the tasks differ in length")
    if geometry.min() < 0 or geometry.max() >= len(chunk_extent):
        raise ValueError("a task has no geometry")
    rows: Any = geometry
    if tasks < len(chunk_extent):
        # A batch of a read of many shapes: looking at all of them in every batch would be quadratic.
        tables = (chunk_extent, block_start, block_extent, dst_strides)
        chunk_extent, block_start, block_extent, dst_strides = (table[geometry] for table in tables)
        rows = slice(None)
    if min(table.min(initial=0) for table in (chunk_extent, block_start, block_extent, dst_strides)) < 0:
        raise ValueError("a box has a negative extent")
    if (block_extent > chunk_extent - block_start).any():
        raise ValueError("a box leaves its chunk")
    # In float64, forged extents cannot wrap around; whatever fits into memory is exact.
    sizes = (np.prod(chunk_extent, axis=1, dtype=np.float64) * itemsize)[rows]
    steps = np.multiply(np.maximum(block_extent, 1) - 1, dst_strides, dtype=np.float64)
    # An empty box writes nothing, wherever it is said to begin.
    reach = np.where((block_extent > 0).all(axis=1), steps.sum(axis=1) + itemsize, 0)[rows]
    if src_offset.min() < 0 or (src_offset + sizes).max() > src_size:
        raise ValueError("a chunk leaves its buffer")
    if dst_offset.min() < 0 or (dst_offset + reach).max() > out_size:
        raise ValueError("a box leaves the output")
