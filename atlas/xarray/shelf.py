"""Coordinates that are read together: of each xarray makes an index as a dataset is opened, one after the other."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas.across import read_list
from atlas.errors import AtlasError
from atlas.forks import free_in_children
from atlas.indexes import side_by_side
from atlas.session import Session

# Cells that are read ahead of their use.
_AHEAD_BYTES = 32 << 20

# A dataset and its array.
_Place = tuple[str, str]


class Shelf:
    """Whole arrays of one state of a store, put there before they are asked for.

    The first of them that is read takes others along: one read for each name of an array, and on object
    stores several at a time. Each is handed out once; whoever asks again reads it alone.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self._lock = free_in_children(threading.Lock())
        self._sizes: dict[_Place, int] = {}
        self._ready: dict[_Place, NDArray[Any]] = {}

    def add(self, dataset: str, array: str, size: int) -> bool:
        """Have an array of about `size` bytes read with the others; large ones are not."""
        if size <= _AHEAD_BYTES:
            self._sizes[dataset, array] = size
        return size <= _AHEAD_BYTES

    def take(self, dataset: str, array: str) -> NDArray[Any] | None:
        """Return the cells of an array, or ``None`` if it is to be read alone."""
        place = dataset, array
        with self._lock:
            if place not in self._sizes:
                return None
            if place not in self._ready:
                try:
                    self._read(list(self._next(place)))
                except AtlasError:
                    # Read alone, what is damaged will say so, and nothing else.
                    self._sizes.clear()
                    return None
            del self._sizes[place]
            # A copy, as all that were read at once are one piece of memory.
            return np.array(self._ready.pop(place))

    def _next(self, first: _Place) -> Iterator[_Place]:
        """Yield the array that is wanted and those that may be wanted next: behind it, and then those passed over.

        Of one dataset xarray asks in the order of a set, which is another one in every process.
        """
        places = list(self._sizes)
        begin, size = places.index(first), 0
        for place in places[begin:] + places[:begin]:
            size += self._sizes[place]
            if size > _AHEAD_BYTES:
                return
            if place not in self._ready:
                yield place

    def _read(self, places: Sequence[_Place]) -> None:
        datasets: dict[str, list[str]] = {}
        for dataset, array in places:
            datasets.setdefault(array, []).append(dataset)

        def read(item: tuple[str, list[str]]) -> None:
            array, names = item
            for name, cells in zip(names, read_list(self.session, array, names, None, None), strict=True):
                assert cells is not None
                self._ready[name, array] = cells

        side_by_side(self.session.storage, read, list(datasets.items()))
