"""Which chunks a box touches, cell by cell."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from atlas.chunks import Box, ChunkGrid, find_overlaps


@st.composite
def boxes(draw: st.DrawFn) -> list[tuple[ChunkGrid, Box]]:
    """Boxes, which may be empty, of a few arrays of one rank."""
    rank = draw(st.integers(0, 3))
    found = []
    for _ in range(draw(st.integers(1, 4))):
        shape = tuple(draw(st.integers(0, 7)) for _ in range(rank))
        chunks = tuple(draw(st.integers(1, 9)) for _ in range(rank))
        start = tuple(draw(st.integers(0, n)) for n in shape)
        extent = tuple(draw(st.integers(0, n - first)) for n, first in zip(shape, start, strict=True))
        found.append((ChunkGrid(shape, chunks), Box(start, extent)))
    return found


@given(boxes())
def test_every_cell_of_a_box_comes_from_its_place_in_its_chunk(found):
    grids, selections = zip(*found, strict=True)
    overlap, counts = find_overlaps(grids, selections)
    assert counts.sum() == len(overlap.numbers)
    rows = zip(*(table.tolist() for table in overlap), strict=True)
    for grid, (start, shape), count in zip(grids, selections, counts.tolist(), strict=True):
        cells = np.arange(np.prod(grid.shape, dtype=int)).reshape(grid.shape)
        result = np.full(shape, -1)
        for _ in range(count):
            number, size, low, extent, target = next(rows)
            chunk = grid.extent(number)
            assert tuple(size) == chunk.shape
            assert all(extent), "no chunk is touched for nothing"
            block = cells[tuple(map(slice, chunk.start, np.add(chunk.start, size)))][_slices(low, extent)]
            assert (result[_slices(target, extent)] == -1).all()
            result[_slices(target, extent)] = block
        np.testing.assert_array_equal(result, cells[_slices(start, shape)])
    for grid, selection in found:
        alone, (overlaps, _) = grid.overlap(selection), find_overlaps([grid], [selection])
        assert all(map(np.array_equal, alone, overlaps))


def _slices(start, extent) -> tuple[slice, ...]:
    return tuple(slice(first, first + size) for first, size in zip(start, extent, strict=True))
