"""What a store must hold, in plain dictionaries: datasets, two writers' views, and statistics by brute force."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np


class Kind(NamedTuple):
    """How every dataset declares an array of this name."""

    dtype: str
    numpy: np.dtype[Any]
    dims: tuple[str, ...]
    fill: Any

    @property
    def unwritten(self) -> Any:
        """What cells hold that nobody wrote."""
        if self.fill is not None:
            return self.fill
        return "" if self.dtype == "string" else np.zeros((), self.numpy)[()]


KINDS = {
    "t": Kind("float32", np.dtype("f4"), ("y", "x"), math.nan),
    "n": Kind("int64", np.dtype("i8"), ("x",), None),
    "u": Kind("uint8", np.dtype("u1"), ("y", "x"), 7),
    "s": Kind("string", np.dtype(object), ("x",), None),
    "b": Kind("binary", np.dtype(object), ("x",), b"-"),
    "w": Kind("timestamp_nanoseconds", np.dtype("M8[ns]"), ("x",), None),
    "z": Kind("float64", np.dtype("f8"), (), None),
    "f": Kind("bool", np.dtype(bool), ("y", "x"), None),
    "c": Kind("complex64", np.dtype("c8"), ("x",), None),
}


@dataclass
class Array:
    """One array of one dataset."""

    kind: Kind
    cells: np.ndarray
    attributes: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def unwritten(name: str, shape: tuple[int, ...]) -> Array:
        kind = KINDS[name]
        return Array(kind, np.full(shape, kind.unwritten, kind.numpy))

    def resize(self, shape: tuple[int, ...]) -> None:
        """Take another shape; new cells are unwritten."""
        cells = np.full(shape, self.kind.unwritten, self.kind.numpy)
        common = tuple(map(slice, map(min, self.cells.shape, shape)))
        cells[common] = self.cells[common]
        self.cells = cells

    def plain(self) -> list[Any]:
        """Return the cells as Python values; times as integers, and no time as nothing."""
        if self.kind.numpy.kind == "M":
            return [cell for cell in self.cells.reshape(-1).view("i8").tolist() if cell != np.iinfo("i8").min]
        return self.cells.reshape(-1).tolist()

    def statistics(self) -> dict[str, Any]:
        """Return what ``array_stats`` must say, counted one by one."""
        nulls, values = 0, []
        for cell in self.plain():
            if self.kind.fill is not None and (cell == self.kind.fill or (cell != cell and math.isnan(self.kind.fill))):
                nulls += 1
            elif cell == cell:
                values.append(cell.encode() if isinstance(cell, str) else cell)
        values = [] if self.kind.numpy.kind == "c" else values
        low, high = min(values, default=None), max(values, default=None)
        return {"row_count": self.cells.size, "null_count": nulls, "min": low, "max": high}

    def counted(self) -> list[Any]:
        """Return the cells that conditions are about."""
        return [cell for cell in self.plain() if cell == cell and (self.kind.fill is None or cell != self.kind.fill)]


@dataclass
class Dataset:
    """One dataset."""

    arrays: dict[str, Array] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)


State = dict[str, Dataset]


class Model:
    """The committed state; every dataset has the number of the commit that last changed it."""

    def __init__(self) -> None:
        self.state: State = {}
        self.versions: dict[str, int] = {}
        self.commits = 0

    def copy(self) -> State:
        """Return the state, to be kept."""
        return copy.deepcopy(self.state)


class Writer:
    """What one handle shows, and has pending."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.attempted: set[str] = set()
        self._settle()

    def _settle(self) -> None:
        self.base, self._versions = self.model.copy(), dict(self.model.versions)
        self.shown = copy.deepcopy(self.base)
        self.seen: dict[str, int | None] = {}
        self.created: dict[str, None] = {}
        self.deleted: set[str] = set()
        self.origins: dict[str, str] = {}

    def touch(self, name: str) -> Dataset:
        """Return a dataset to be changed."""
        self.seen.setdefault(name, self._versions.get(name))
        return self.shown[name]

    def create(self, name: str) -> None:
        self.seen.setdefault(name, self._versions.get(name))
        self.shown[name] = Dataset()
        self.created[name] = None

    def delete(self, name: str) -> None:
        self.touch(name)
        del self.shown[name]
        if name in self.created and name not in self.attempted:
            self._unsee(name)
        else:
            self.deleted.add(self.origins.pop(name, name))
        self.created.pop(name, None)

    def rename(self, old: str, new: str) -> None:
        self.touch(old)
        self.seen.setdefault(new, self._versions.get(new))
        self.shown = {new if name == old else name: dataset for name, dataset in self.shown.items()}
        if old not in self.created:
            self.origins[new] = self.origins.pop(old, old)
            return
        self.created = {new if name == old else name: None for name in self.created}
        if old in self.attempted:
            self.deleted.add(old)
        else:
            self._unsee(old)

    def _unsee(self, name: str) -> None:
        if name not in self.deleted and name not in self.origins.values():
            del self.seen[name]

    def clashes(self) -> tuple[str, ...]:
        """Return the datasets that somebody else has changed meanwhile."""
        return tuple(sorted(name for name, seen in self.seen.items() if self.model.versions.get(name) != seen))

    def over(self, state: State) -> State:
        """Return a state with what is pending over it."""
        changed = (self.seen.keys() & self.shown.keys()) - self.created.keys() - self.deleted
        moved = {origin: name for name, origin in self.origins.items()}
        result = {
            moved.get(name, name): self.shown[moved.get(name, name)] if name in changed | moved.keys() else dataset
            for name, dataset in state.items()
            if name in moved or (name not in self.deleted and name not in self.created)
        }
        return copy.deepcopy(result | {name: self.shown[name] for name in self.created})

    def commit(self) -> None:
        """Publish; what is pending stays until it is known that it worked."""
        model = self.model
        model.state = self.over(model.state)
        model.commits += 1
        for name in self.seen:
            model.versions.pop(name, None)
            if name in model.state:
                model.versions[name] = model.commits

    def done(self) -> None:
        """The commit has worked."""
        self.attempted = set()
        self._settle()

    def failed(self, happened: bool) -> None:
        """The commit was reported as failed; what it did all the same is no conflict."""
        self.attempted = set()
        if happened:
            self.attempted = set(self.seen)
            self.origins = {}
            self.seen |= {name: self.model.versions.get(name) for name in self.seen}

    def follow(self) -> None:
        """Take up the committed state under what is pending."""
        self.base, self._versions = self.model.copy(), dict(self.model.versions)
        self.shown = self.over(self.base)


def arrays_of(state: State, array: str) -> Iterator[tuple[str, Array]]:
    """Yield the datasets that have an array."""
    for name, dataset in state.items():
        if array in dataset.arrays:
            yield name, dataset.arrays[array]


# ── comparing ─────────────────────────────────────────────────────────────────────────────────


def same_cells(found: Any, expected: np.ndarray) -> bool:
    """Whether two arrays are the same to the bit."""
    if not isinstance(found, np.ndarray) or (found.dtype, found.shape) != (expected.dtype, expected.shape):
        return False
    return found.tolist() == expected.tolist() if found.dtype == object else found.tobytes() == expected.tobytes()


def same_value(found: Any, expected: Any) -> bool:
    """Whether two attribute values are the same, type included; NaN is NaN."""
    return type(found) is type(expected) and repr(found) == repr(expected)


def check_dataset(view: Any, expected: Dataset) -> None:
    """Compare all that a view shows."""
    assert view.list_arrays() == list(expected.arrays)
    assert view.attributes().keys() == expected.attributes.keys()
    for key, value in expected.attributes.items():
        assert same_value(view.get_attribute(key), value), (key, view.get_attribute(key), value)
    for array, model in expected.arrays.items():
        assert same_cells(view.read_array(array), model.cells), (view.name, array, view.read_array(array), model.cells)
        assert view.array_meta(array)["shape"] == list(model.cells.shape)
        attributes = view.array_attributes(array)
        assert attributes.keys() == model.attributes.keys()
        assert all(same_value(attributes[key], value) for key, value in model.attributes.items())
        statistics = view.array_stats(array)
        assert statistics in (None, model.statistics()), (view.name, array, statistics, model.statistics())


def check_store(store: Any, expected: State) -> None:
    """Compare all that a handle shows."""
    assert store.list_datasets() == list(expected)
    assert len(store) == len(expected)
    for name, dataset in expected.items():
        check_dataset(store.open_dataset(name), dataset)
