"""Which chunks a box touches, cell by cell."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import atlas
from atlas.chunks import Box, ChunkGrid, as_extents, find_overlaps


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


def test_there_is_no_chunk_of_a_number_that_the_grid_does_not_have():
    for grid, number in ((ChunkGrid((6, 8), (3, 4)), 4), (ChunkGrid((0, 8), (3, 4)), 0), (ChunkGrid((), ()), 1)):
        with pytest.raises(atlas.CorruptIndex, match=f"a number that a grid of {grid.count} chunks does not have"):
            grid.extent(number)
    assert ChunkGrid((6, 7), (3, 4)).extent(3) == Box((3, 4), (3, 3))


@pytest.mark.parametrize("values", [3, np.int64(3), np.array(3), "3", b"3", None, {3}])
def test_what_is_no_sequence_of_integers_is_refused(values, place):
    with pytest.raises(
        atlas.InvalidArgument, match=re.escape(f"a shape must be a sequence of integers, not {values!r}")
    ):
        as_extents(values, "a shape")
    view = atlas.Atlas.create(place).create_dataset("d")
    for shape, chunk_shape in ((values, None), ([4], 3 if values is None else values)):
        with pytest.raises(atlas.InvalidArgument, match="must be a sequence of integers"):
            view.define_array("v", "int8", ["x"], shape, chunk_shape)
    view.define_array("v", "int8", ["x"], [4])
    for start, extent in ((3 if values is None else values, [1]), ([0], 3 if values is None else values)):
        with pytest.raises(atlas.SelectionError, match="must be a sequence of integers"):
            view.read_array("v", start, extent)


def test_extents_are_taken_from_any_sequence_of_integers():
    for values in ([3, 4], (3, np.int8(4)), np.array([3, 4]), np.array([3, 4], object), range(3, 5)):
        assert as_extents(values, "a shape") == (3, 4)
    for values in ([], (), np.array([], int)):
        assert as_extents(values, "a shape") == ()
