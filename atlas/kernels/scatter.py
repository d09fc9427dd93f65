"""Copy boxes out of decoded chunks into a strided output, un-shuffling on the way."""

from __future__ import annotations

from typing import Any

import numpy as np

from atlas.kernels.compile import BYTES, INT, INTS, READ_BYTES, SMALL_INTS, TABLE, kernel


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
    # Whole words where the item size allows it: one load and store an element instead of `itemsize`.
    wide = out.size % itemsize == 0 and (itemsize == 4 or itemsize == 8)
    words4 = out[: out.size - out.size % 4].view(np.uint32)
    words8 = out[: out.size - out.size % 8].view(np.uint64)
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
        while True:
            if shuffled[task] == 0:
                begin = base + first * itemsize
                length = run * itemsize
                out[target : target + length] = src[begin : begin + length]
            elif wide and target % itemsize == 0 and itemsize == 4:
                p0 = src[base + first : base + first + run]
                p1 = src[base + cells + first : base + cells + first + run]
                p2 = src[base + 2 * cells + first : base + 2 * cells + first + run]
                p3 = src[base + 3 * cells + first : base + 3 * cells + first + run]
                words = words4[target // 4 : target // 4 + run]
                for i in range(run):
                    words[i] = (
                        np.uint32(p0[i])
                        | (np.uint32(p1[i]) << np.uint32(8))
                        | (np.uint32(p2[i]) << np.uint32(16))
                        | (np.uint32(p3[i]) << np.uint32(24))
                    )
            elif wide and target % itemsize == 0:
                q0 = src[base + first : base + first + run]
                q1 = src[base + cells + first : base + cells + first + run]
                q2 = src[base + 2 * cells + first : base + 2 * cells + first + run]
                q3 = src[base + 3 * cells + first : base + 3 * cells + first + run]
                q4 = src[base + 4 * cells + first : base + 4 * cells + first + run]
                q5 = src[base + 5 * cells + first : base + 5 * cells + first + run]
                q6 = src[base + 6 * cells + first : base + 6 * cells + first + run]
                q7 = src[base + 7 * cells + first : base + 7 * cells + first + run]
                longs = words8[target // 8 : target // 8 + run]
                for i in range(run):
                    low = (
                        np.uint32(q0[i])
                        | (np.uint32(q1[i]) << np.uint32(8))
                        | (np.uint32(q2[i]) << np.uint32(16))
                        | (np.uint32(q3[i]) << np.uint32(24))
                    )
                    high = (
                        np.uint32(q4[i])
                        | (np.uint32(q5[i]) << np.uint32(8))
                        | (np.uint32(q6[i]) << np.uint32(16))
                        | (np.uint32(q7[i]) << np.uint32(24))
                    )
                    longs[i] = np.uint64(low) | (np.uint64(high) << np.uint64(32))
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
    if not len(src_offset):
        return
    if (block_start < 0).any() or (block_extent < 0).any() or (block_start + block_extent > chunk_extent).any():
        raise ValueError("a box leaves its chunk")
    if geometry.min() < 0 or geometry.max() >= len(chunk_extent) or (dst_strides < 0).any():
        raise ValueError("a task has no geometry")
    sizes = (np.prod(chunk_extent, axis=1, dtype=np.int64) * itemsize)[geometry]
    reach = ((np.maximum(block_extent, 1) - 1) * dst_strides).sum(axis=1)[geometry] + itemsize
    reach = np.where(sizes > 0, reach, 0)
    if (src_offset < 0).any() or (src_offset + sizes > src_size).any():
        raise ValueError("a chunk leaves its buffer")
    if (dst_offset < 0).any() or (dst_offset + reach > out_size).any():
        raise ValueError("a box leaves the output")
