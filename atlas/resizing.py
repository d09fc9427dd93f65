"""Arrays change their shape: only chunks that the old or the new edge cuts are written anew.

Chunks are numbered in the order of the grid. As long as only the first axis grows the numbers stay, and so do the
stored chunks; otherwise they are listed anew, with their payloads copied as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas.chunks import Box, ChunkGrid, Integers, Shape, as_extents, whole_chunk
from atlas.copying import stored_chunks, waiting_bytes
from atlas.dtypes import as_elements
from atlas.errors import InvalidArgument, ShapeMismatch
from atlas.schema import ArraySchema, make_array_schema
from atlas.session import Session
from atlas.statistics import cell_statistics
from atlas.writer import Growth, Overlay, PendingArray, filled


def resize(session: Session, name: str, array: str, shape: Any) -> None:
    """Give an array of a dataset another shape, with the same number of axes."""
    with session.lock:
        session.writable()
        old = session.array(name, array)
        new = _reshaped(old, shape)
        if new.shape == old.shape:
            return
        before = session.pending.heap.size
        try:
            changed = _Reshaping(session, name, old, new).result()
        except BaseException:
            session.pending.heap.rewind(before)
            raise
        # From here on the heap may have chunks of others, too: what fails now leaves it as it is.
        session.pending.make_room(waiting_bytes(changed), session.snapshot.root.config, session.snapshot.workers)
        with session.pending.whole():
            session.change(name).arrays[array] = new
            session.pending.arrays.setdefault(name, {})[array] = changed
            session.pending.note(changed, waiting_bytes(changed))


@contextmanager
def whole_or_not(session: Session, name: str) -> Iterator[None]:
    """Have a dataset as it was before when an error ends the block, in which arrays are resized or declared anew."""
    record = session.record(name).copy()
    pending = {array: found for array in record.arrays if (found := session.pending.array(name, array)) is not None}
    try:
        yield
    except BaseException:
        if name in session.pending.records:
            session.pending.whole_attempt = None
            session.pending.records[name], session.pending.arrays[name] = record, pending
            session.forget_schema()
        raise


def appended_shape(session: Session, name: str, array: str, data: Any, axis: int) -> tuple[Shape, NDArray[Any]]:
    """Return the shape of an array once cells are appended to it, and these cells as its type has them."""
    schema = session.array(name, array)
    rank = len(schema.shape)
    if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)) or not -rank <= axis < rank:
        raise InvalidArgument(f"array {array!r} has {rank} axes; axis {axis!r} is none of them")
    cells = as_elements(schema.dtype, data, f"array {array!r}")
    place = int(axis) % rank
    expected = [n if i != place else None for i, n in enumerate(schema.shape)]
    if cells.ndim != rank or any(n not in (None, m) for n, m in zip(expected, cells.shape, strict=True)):
        shown = ", ".join("any" if n is None else str(n) for n in expected)
        raise ShapeMismatch(f"array {array!r} takes cells of shape [{shown}] along axis {place}, not {cells.shape}")
    return tuple(n + (cells.shape[i] if i == place else 0) for i, n in enumerate(schema.shape)), cells


def _reshaped(old: ArraySchema, shape: Any) -> ArraySchema:
    extents = as_extents(shape, f"shape of {old.name!r}")
    # An array without cells that is one chunk has no chunk shape of its own yet; neither has one that loses them, and
    # still is one.
    has_none = old.is_whole and (old.cells == 0 or old.chunk_shape == whole_chunk(extents))
    chunks = None if has_none and len(extents) == len(old.shape) else old.chunk_shape
    return make_array_schema(old.name, old.dtype.name, old.dims, extents, chunks, old.fill)


class _Reshaping:
    """What is pending of an array after it has changed its shape."""

    def __init__(self, session: Session, name: str, old: ArraySchema, new: ArraySchema) -> None:
        self.session, self.name, self.old, self.new = session, name, old, new
        self.before = session.pending.array(name, old.name) or PendingArray(old, reset=False)
        self.overlay = Overlay(old, self.before, session.ordinal(name))
        # Whether stored chunks keep their numbers, and none of them goes.
        self.in_place = (
            old.chunk_shape == new.chunk_shape
            and old.grid.counts[1:] == new.grid.counts[1:]
            and all(n >= m for n, m in zip(new.shape, old.shape, strict=True))
        )

    def result(self) -> PendingArray:
        """Return the chunks that have to be written; the array is as it was."""
        after = PendingArray(self.new, reset=self.before.reset or not self.in_place, resized=True)
        growth = self._growth()
        waiting = np.array(sorted(self.before.chunks), np.int64)
        for number, moved, same in self._kept(waiting):
            chunk = self.before.chunks[number]
            after.chunks[moved] = chunk if same else self._cut(number, moved)
        if self.before.reset:
            return after
        snapshot, ordinal = self.session.snapshot, self.overlay.ordinal
        stored = np.setdiff1d(snapshot.index(self.old.name).numbers_of(ordinal), waiting)
        kept = self._kept(stored.astype(np.int64))
        cut = {moved: self._cut(number, moved) for number, moved, same in kept if not same}
        after.chunks |= cut
        if growth is not None:
            # In place, chunks keep their numbers.
            for number, cells in cut.items():
                had = cells[tuple(map(slice, self.old.grid.extent(number).shape))]
                growth = growth.and_rewritten(had.size, cell_statistics(self.old.dtype, self.old.fill, had).nulls)
            after.growth = growth
        if not self.in_place:
            whole = {number: moved for number, moved, same in kept if same}
            numbers = np.array(sorted(whole), np.int64)
            copied = stored_chunks(snapshot, self.old, ordinal, numbers, self.session.pending.heap)
            after.chunks |= {whole[number]: held for number, held in copied.items()}
        return after

    def _growth(self) -> Growth | None:
        """Return what holds of the stored array as long as it only grows."""
        if not self.in_place or self.before.reset:
            return None
        return self.before.growth if self.before.chunks or self.before.resized else Growth(self.old.shape)

    def _kept(self, numbers: Integers) -> list[tuple[int, int, bool]]:
        """Return the chunks that stay: number, new number, and whether with the same extent."""
        old, new = self.old.grid, self.new.grid
        if not len(numbers) or not self.old.shape:
            return [(number, number, True) for number in numbers.tolist()]
        old.expect(int(numbers.max()))
        places = np.stack(np.unravel_index(numbers, old.counts), axis=1)
        stays = (places < np.array(new.counts)).all(axis=1)
        numbers, places = numbers[stays], places[stays]
        same = (_extents(old, places) == _extents(new, places)).all(axis=1)
        moved = np.ravel_multi_index(tuple(places.T), new.counts) if len(numbers) else numbers
        return list(zip(numbers.tolist(), moved.tolist(), same.tolist(), strict=True))

    def _cut(self, number: int, moved: int) -> NDArray[Any]:
        """Return a chunk with its new extent; cells that it did not have hold the fill value."""
        had, has = self.old.grid.extent(number), self.new.grid.extent(moved)
        common = tuple(map(min, had.shape, has.shape))
        cells = filled(self.new, has.shape)
        box = Box(had.start, common)
        there = self.overlay.read(self.session.snapshot, self.name, box, self.session.lock)
        cells[tuple(map(slice, common))] = there
        return cells


def _extents(grid: ChunkGrid, places: Integers) -> Integers:
    starts = places * np.array(grid.chunk_shape)
    extents: Integers = np.minimum(np.array(grid.chunk_shape), np.array(grid.shape) - starts)
    return extents
