"""Random fleets and random questions: what a store answers, against brute force over plain Python values.

Nothing here uses what the package knows of statistics: a question is asked of every cell, one by one.
"""

from __future__ import annotations

import copy
import json
import math
import random
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from atlas import Atlas, commitfiles, datafiles
from torture.model import same_cells, same_value
from torture.questions import ARRAYS, KEYS, ask, is_decided, is_refused, items_of, question, to_condition, to_text

NAMES = [f"d{i}" for i in range(40)] + ["ü", "a b", "z" * 60]
UNITS = ["K", "°C", "degC"]
ATTRIBUTES: dict[str, list[Any]] = {
    "lat": [1.5, -0.0, 2.0, math.nan, math.inf, 3],
    "id": [0, 5, -(2**63), 2**63 + 5, 2**53 + 1, 2.0**53, True],
    "kind": ["", "x", "é", "x\0", "y" * 300, 7, b"x"],
    "when": [np.datetime64("2019-01-01", "s"), np.datetime64(5, "s"), np.datetime64("NaT", "s")],
    "tags": [[1, 5], ["x", "é"], [], "x", 5, np.array([1.5, math.nan])],
    "deck": [np.int8(3), np.float32(0.1), np.uint16(9), False],
}
assert sorted(ATTRIBUTES) == KEYS


class Array:
    """An array of one dataset as it was declared, and all of its cells."""

    def __init__(self, dtype: str, fill: Any, cells: np.ndarray, chunks: tuple[int, ...] | None) -> None:
        self.dtype, self.fill, self.cells, self.chunks = dtype, fill, cells, chunks
        self.attributes: dict[str, Any] = {}

    def plain(self) -> list[Any]:
        """Return the cells as Python values, text as bytes and times as integers, without NaN and no time."""
        cells = self.cells.reshape(-1)
        if cells.dtype.kind in "Mm":
            return [cell for cell in cells.view("i8").tolist() if cell != np.iinfo("i8").min]
        return [cell.encode() if isinstance(cell, str) else cell for cell in cells.tolist() if cell == cell]

    def counted(self) -> list[Any]:
        """Return the cells that questions are about."""
        if self.dtype.startswith("complex"):
            return []
        fill = self.fill.encode() if isinstance(self.fill, str) else self.fill
        return [cell for cell in self.plain() if fill is None or cell != fill]

    def nulls(self) -> int:
        """Return how many cells equal the declared fill value."""
        if isinstance(self.fill, float) and math.isnan(self.fill):
            return int(np.isnan(self.cells).sum())
        fill = self.fill.encode() if isinstance(self.fill, str) else self.fill
        return 0 if fill is None else sum(cell == fill for cell in self.plain())


class Dataset:
    """A dataset in plain Python."""

    def __init__(self) -> None:
        self.arrays: dict[str, Array] = {}
        self.attributes: dict[str, Any] = {}


State = dict[str, Dataset]


def unwritten(dtype: str, fill: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return cells that nobody wrote."""
    kind = numpy_type(dtype)
    value = fill if fill is not None else {"string": "", "binary": b""}.get(dtype, np.zeros((), kind)[()])
    cells = np.empty(shape, kind)
    cells.fill(np.array(value, "i8").view(kind)[()] if kind.kind in "Mm" and fill is not None else value)
    return cells


def numpy_type(dtype: str) -> np.dtype[Any]:
    """Return the NumPy type that cells come back as."""
    if dtype in ("string", "binary"):
        return np.dtype(object)
    return np.dtype("M8[ns]" if dtype == "timestamp_nanoseconds" else dtype)


@contextmanager
def quick_merges(rng: random.Random) -> Iterator[None]:
    """Have files of all kinds appear in small stores."""
    before = commitfiles.INLINE_BYTES, datafiles.MERGE_ALWAYS
    commitfiles.INLINE_BYTES = rng.choice([0, 600, 1 << 16])
    datafiles.MERGE_ALWAYS = rng.choice([0, 2000, 256 << 10])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # types that cannot merge are part of the game
            yield
    finally:
        commitfiles.INLINE_BYTES, datafiles.MERGE_ALWAYS = before


class Fleet:
    """A store, what it shows, and what it has committed."""

    def __init__(self, place: Path, rng: random.Random) -> None:
        self.place, self.random = place, rng
        self.store = Atlas.create(
            place,
            rng.choice(["zstd", "lz4", "none"]),
            rng.choice(["json", "msgpack"]),
            workers=1,
            pending_bytes=rng.choice([0, 2000, None]),
        )
        self.shown: State = {}
        self.committed: State = {}

    # ── changes ──────────────────────────────────────────────────────────────────────────────

    def change(self) -> None:
        """Do something to the store and to the model."""
        steps: list[tuple[int, Callable[[], None]]] = [
            (6, self.create),
            (4, self.create_together),
            (5, self.define),
            (6, self.write),
            (3, self.write_stacked),
            (2, self.resize),
            (2, self.append),
            (2, self.delete_array),
            (5, self.set_attribute),
            (3, self.set_array_attribute),
            (2, self.rename),
            (2, self.copy),
            (2, self.delete),
            (1, self.delete_together),
            (4, self.flush),
            (1, self.reopen),
            (1, self.compact),
        ]
        weights, calls = zip(*steps, strict=True)
        self.random.choices(calls, weights)[0]()

    def some_dataset(self) -> str | None:
        return self.random.choice(list(self.shown)) if self.shown else None

    def some_array(self) -> tuple[str, str] | None:
        pairs = [(name, array) for name, dataset in self.shown.items() for array in dataset.arrays]
        return self.random.choice(pairs) if pairs else None

    def free_names(self, count: int) -> list[str]:
        free = [name for name in NAMES if name not in self.shown]
        return self.random.sample(free, min(count, len(free)))

    def some_cells(self, dtype: str, array: str, shape: tuple[int, ...]) -> np.ndarray:
        pool, kind = ARRAYS[array].cells[dtype], numpy_type(dtype)
        # A few values only, so that all cells of some arrays are null, or the same.
        few = self.random.sample(pool, self.random.randint(1, len(pool)))
        cells = np.empty(shape, kind)
        flat = cells.reshape(-1)
        for i in range(len(flat)):
            value = self.random.choice(few)
            flat[i] = np.int64(value).view(kind) if kind.kind in "Mm" else value
        return cells

    def some_shape(self) -> tuple[int, ...]:
        return self.random.choice([(), (1,), (4,), (7,), (0,), (3, 2)])

    def declaration(self, array: str) -> Array:
        rng = self.random
        dtype, fill = rng.choice(ARRAYS[array].declared)
        shape = self.some_shape()
        chunks = tuple(rng.randint(1, 3) for _ in shape) if shape and rng.random() < 0.6 else None
        return Array(dtype, fill, unwritten(dtype, fill, shape), chunks)

    def create(self) -> None:
        for name in self.free_names(1):
            self.store.create_dataset(name)
            self.shown[name] = Dataset()
            for array in self.random.sample(sorted(ARRAYS), self.random.randint(0, 4)):
                self.define_in(name, array)

    def define_in(self, name: str, array: str) -> None:
        made, view = self.declaration(array), self.store.open_dataset(name)
        dims = [f"x{i}" for i in range(made.cells.ndim)]
        view.define_array(array, made.dtype, dims, made.cells.shape, made.chunks, made.fill)
        self.shown[name].arrays[array] = made
        if self.random.random() < 0.8:
            made.cells = self.some_cells(made.dtype, array, made.cells.shape)
            view.write_array(array, [0] * made.cells.ndim, made.cells)

    def define(self) -> None:
        name = self.some_dataset()
        absent = [array for array in ARRAYS if name and array not in self.shown[name].arrays]
        if name and absent:
            self.define_in(name, self.random.choice(absent))

    def create_together(self) -> None:
        rng, names = self.random, self.free_names(self.random.randint(1, 6))
        if not names:
            return
        made = {array: self.declaration(array) for array in rng.sample(sorted(ARRAYS), rng.randint(0, 3))}
        specs: dict[str, Any] = {}
        data: dict[str, np.ndarray] = {}
        for array, one in made.items():
            specs[array] = {"dtype": one.dtype, "dims": [f"x{i}" for i in range(one.cells.ndim)]}
            specs[array] |= {"shape": one.cells.shape, "chunk_shape": one.chunks, "fill_value": one.fill}
            if rng.random() < 0.7:
                data[array] = self.some_cells(one.dtype, array, (len(names), *one.cells.shape))
                specs[array]["data"] = data[array]
        keys = rng.sample(KEYS, rng.randint(0, 3))
        values = {key: rng.choice([v for v in ATTRIBUTES[key] if not np.ndim(v)]) for key in keys}
        self.store.create_datasets(names, specs, values)
        for row, name in enumerate(names):
            self.shown[name] = Dataset()
            self.shown[name].attributes = dict(values)
            for array, one in made.items():
                cells = data[array][row, ...].copy() if array in data else one.cells.copy()
                self.shown[name].arrays[array] = Array(one.dtype, one.fill, cells, one.chunks)

    def write(self) -> None:
        found = self.some_array()
        if found:
            name, array = found
            one = self.shown[name].arrays[array]
            start = [self.random.randint(0, max(n - 1, 0)) for n in one.cells.shape]
            shape = tuple(self.random.randint(0, n - s) for n, s in zip(one.cells.shape, start, strict=True))
            cells = self.some_cells(one.dtype, array, shape)
            self.store.open_dataset(name).write_array(array, start, cells)
            one.cells[(*(slice(s, s + n) for s, n in zip(start, shape, strict=True)), ...)] = cells

    def write_stacked(self) -> None:
        found = self.some_array()
        if not found:
            return
        array, like = found[1], self.shown[found[0]].arrays[found[1]]
        names = [
            name
            for name, dataset in self.shown.items()
            if array in dataset.arrays
            and (dataset.arrays[array].dtype, dataset.arrays[array].cells.shape) == (like.dtype, like.cells.shape)
        ]
        names = self.random.sample(names, self.random.randint(1, len(names)))
        rows = self.some_cells(like.dtype, array, (len(names), *like.cells.shape))
        self.store.write_stacked(array, names, rows)
        for row, name in zip(rows, names, strict=True):
            self.shown[name].arrays[array].cells[...] = row

    def resize(self) -> None:
        found = self.some_array()
        if found:
            name, array = found
            one = self.shown[name].arrays[array]
            shape = tuple(max(n + self.random.randint(-2, 3), 0) for n in one.cells.shape)
            self.store.open_dataset(name).resize(array, shape)
            before, one.cells = one.cells, unwritten(one.dtype, one.fill, shape)
            common = (*(slice(min(n, m)) for n, m in zip(before.shape, shape, strict=True)), ...)
            one.cells[common] = before[common]

    def append(self) -> None:
        found = self.some_array()
        if found and self.shown[found[0]].arrays[found[1]].cells.ndim:
            name, array = found
            one = self.shown[name].arrays[array]
            axis = self.random.randrange(one.cells.ndim)
            shape = list(one.cells.shape)
            shape[axis] = self.random.randint(0, 3)
            cells = self.some_cells(one.dtype, array, tuple(shape))
            self.store.open_dataset(name).append(array, cells, axis)
            one.cells = np.concatenate([one.cells, cells], axis)

    def delete_array(self) -> None:
        found = self.some_array()
        if found:
            self.store.open_dataset(found[0]).delete_array(found[1])
            del self.shown[found[0]].arrays[found[1]]

    def set_attribute(self) -> None:
        name, key = self.some_dataset(), self.random.choice(KEYS)
        if name:
            value = self.random.choice(ATTRIBUTES[key])
            self.store.open_dataset(name).set_attribute(key, value)
            self.shown[name].attributes[key] = value

    def set_array_attribute(self) -> None:
        found = self.some_array()
        if found:
            value = self.random.choice(UNITS)
            self.store.open_dataset(found[0]).set_array_attribute(found[1], "units", value)
            self.shown[found[0]].arrays[found[1]].attributes["units"] = value

    def rename(self) -> None:
        old = self.some_dataset()
        for new in self.free_names(1) if old else []:
            self.store.rename_dataset(old, new)
            self.shown = {new if name == old else name: dataset for name, dataset in self.shown.items()}

    def copy(self) -> None:
        source = self.some_dataset()
        for target in self.free_names(1) if source else []:
            self.store.copy_dataset(source, target)
            self.shown[target] = copy.deepcopy(self.shown[source])

    def delete(self) -> None:
        name = self.some_dataset()
        if name:
            self.store.delete_dataset(name)
            del self.shown[name]

    def delete_together(self) -> None:
        names = self.random.sample(list(self.shown), self.random.randint(0, min(5, len(self.shown))))
        if names:
            self.store.delete_datasets(names)
            self.shown = {name: dataset for name, dataset in self.shown.items() if name not in names}

    def flush(self) -> None:
        self.store.flush()
        # What is new comes behind what was there before, whatever it is called.
        self.committed = copy.deepcopy(self.shown)

    def reopen(self) -> None:
        self.flush()
        self.store = Atlas.open(self.place, workers=1)

    def compact(self) -> None:
        self.store.compact()

    # ── questions ────────────────────────────────────────────────────────────────────────────

    def check(self, questions: int, on_command_line: int = 0) -> None:
        """Ask, and compare with what is committed."""
        assert self.store.list_datasets() == list(self.shown)
        for _ in range(questions):
            self.check_one(question(self.random, self.random.randint(0, 3)))
        for _ in range(on_command_line):
            self.check_command_line(question(self.random, 1))
        self.check_columns()

    def check_one(self, node: Any) -> None:
        condition = to_condition(node)
        if is_refused(node, self.committed.values()):
            refused = False
            try:
                self.store.select(condition)
            except (KeyError, ValueError, TypeError):
                refused = True
            assert refused, f"{node} was not refused"
            return
        expected = [name for name, dataset in self.committed.items() if ask(node, dataset) is True]
        found = self.store.select(condition)
        certain = [name for name, sure in zip(found, found.certain, strict=True) if sure]
        assert set(certain) <= set(expected) <= set(found), (node, certain, expected, list(found))
        assert list(found) == [name for name in self.committed if name in set(found)], node
        if is_decided(node):
            assert certain == expected == list(found), (node, certain, expected, list(found))
        confirmed = self.store.select(condition, confirm=True)
        assert list(confirmed) == expected, (node, list(confirmed), expected)
        assert confirmed.certain.all()
        text = to_text(node)
        if text is not None:
            assert list(self.store.select(text)) == list(found), (node, text)

    def check_command_line(self, node: Any) -> None:
        text = to_text(node)
        if text is None:
            return
        command = [sys.executable, "-m", "atlas", "ls", str(self.place), "--json", "--confirm", "--where", text]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        refused = is_refused(node, self.committed.values())
        assert run.returncode == int(refused), (text, run.stderr)
        if not refused:
            expected = [name for name, dataset in self.committed.items() if ask(node, dataset) is True]
            assert json.loads(run.stdout) == expected, text

    def check_columns(self) -> None:
        """Compare the statistics and attributes of every dataset."""
        index, summaries = self.store.pruning_index(), self.store.column_summaries()
        assert index["rows"] == len(index["datasets"]) == len(index["live"])
        assert [name for name in index["datasets"] if name] == list(self.committed)
        everywhere: dict[str, list[Any]] = {name: [] for name in index["columns"]}
        for row, name in enumerate(index["datasets"]):
            assert index["live"][row] == (name is not None)
            dataset = self.committed[name] if name else Dataset()
            for column, values in index["columns"].items():
                cell = {key: value[row] for key, value in values.items()}
                expected = column_of(dataset, column)
                if expected:
                    everywhere[column].append(expected)
                check_cell(cell, expected, (name, column))
        for column, values in everywhere.items():
            if values:
                lows = [v["min"] for v in values if v["min"] is not None]
                highs = [v["max"] for v in values if v["max"] is not None]
                check_summary(summaries[column], lows, highs, len(values), column)

    def check_everything(self) -> None:
        """Compare every cell and every attribute with what the handle shows."""
        for name, dataset in self.shown.items():
            view = self.store.open_dataset(name)
            for key, value in dataset.attributes.items():
                assert same_value(view.get_attribute(key), value), (name, key)
            for array, one in dataset.arrays.items():
                assert same_cells(view.read_array(array), one.cells), (name, array, view.read_array(array), one.cells)


def column_of(dataset: Dataset, column: str) -> dict[str, Any] | None:
    """Return what a column says of a dataset; ``None`` where it has nothing of that name."""
    array, _, key = column.partition(":")
    if column in dataset.arrays:
        one = dataset.arrays[column]
        cells = one.counted()
        extremes = {"min": min(cells, default=None), "max": max(cells, default=None)}
        return extremes | {"row_count": one.cells.size, "null_count": one.nulls()}
    found = dataset.arrays[array].attributes if key and array in dataset.arrays else dataset.attributes
    if (key or column) not in found:
        return None
    items = items_of(found[key or column])
    extremes = {"min": min(items, default=None), "max": max(items, default=None)}
    return extremes | {"row_count": int(np.size(found[key or column])), "null_count": 0}


def check_cell(cell: dict[str, Any], expected: dict[str, Any] | None, where: Any) -> None:
    """Compare one row of a column of the pruning index."""
    assert cell["present"] == (expected is not None), where
    assert cell["stats_valid"] == (expected is not None and expected["min"] is not None), (where, cell, expected)
    if expected is None:
        expected = {"row_count": 0, "null_count": 0}
    assert (cell["row_count"], cell["null_count"]) == (expected["row_count"], expected["null_count"]), where
    for bound in ("min", "max") if cell["stats_valid"] else ():
        assert isinstance(cell[bound], bytes) == isinstance(expected[bound], bytes), (where, cell, expected)
        assert cell[bound] == expected[bound], (where, cell, expected)


def check_summary(found: dict[str, Any], lows: list[Any], highs: list[Any], present: int, column: str) -> None:
    """Compare what is said of a column as a whole; text and numbers together have no order."""
    assert found["present_count"] == present, column
    if len({isinstance(value, bytes) for value in lows}) < 2:
        assert (found["min"], found["max"]) == (min(lows, default=None), max(highs, default=None)), column


def play(seed: int, steps: int = 40, questions: int = 12, on_command_line: int = 0) -> None:
    """Build a fleet by random steps, and ask on the way and at the end."""
    rng = random.Random(seed)
    with quick_merges(rng), tempfile.TemporaryDirectory(prefix="fleet-") as work:
        fleet = Fleet(Path(work) / "s", rng)
        for _ in range(3):
            for _ in range(steps):
                fleet.change()
            fleet.check_everything()
            fleet.flush()
            fleet.check(questions)
        fleet.compact()
        fleet.check(questions, on_command_line)
        fleet.reopen()
        fleet.check_everything()
        assert fleet.store.verify().ok


def campaign(first: int, count: int) -> None:
    """Play many fleets; some of the questions are asked on the command line."""
    for seed in range(first, first + count):
        try:
            play(seed, on_command_line=int(seed % 10 == 0))
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
