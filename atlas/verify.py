"""Reading everything that a store holds, to say what is damaged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from atlas.catalog import Catalog
from atlas.columns import column_values
from atlas.errors import AtlasError, CorruptIndex, CorruptStore
from atlas.reader import Snapshot
from atlas.schema import ArraySchema
from atlas.segment import HEADER_LENGTH, MAGIC

# Called with the datasets done, those there are, and the array.
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Problem:
    """Something in a store that cannot be read.

    Attributes
    ----------
    array : str
    dataset : str
        Empty when it concerns the array's files as a whole.
    chunk : int
        Number of the chunk, or -1 when it concerns the dataset as a whole.
    message : str
        What is wrong, naming the object.
    """

    array: str
    dataset: str
    chunk: int
    message: str

    def __str__(self) -> str:
        return self.message


@dataclass
class VerifyReport:
    """What :meth:`atlas.Atlas.verify` found.

    Attributes
    ----------
    datasets, chunks : int
        How many were read.
    problems : list of Problem
    """

    datasets: int = 0
    chunks: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether everything is as it was committed."""
        return not self.problems


def verify(snapshot: Snapshot, progress: Progress | None = None) -> VerifyReport:
    """Read and decode every chunk of a committed state; a damaged one hides no other."""
    report = VerifyReport()
    # Without the dataset table nothing says what any chunk is.
    if not _noted(report, "", "", -1, partial(_load_table, snapshot.root.catalog)):
        return report
    names = snapshot.root.catalog.names()
    arrays = sorted(snapshot.root.arrays)
    report.datasets = len(names)
    for position, array in enumerate(arrays):
        # An index that cannot be trusted says nothing about any of its chunks.
        usable = _noted(report, array, "", -1, partial(_load_index, snapshot, array))
        for row, name in enumerate(names):
            if usable:
                _verify_dataset(snapshot, report, array, name)
            if progress is not None:
                progress(position * len(names) + row + 1, len(arrays) * len(names), array)
    return report


def _load_table(catalog: Catalog) -> None:
    catalog.names()
    for layer in catalog.layers:
        for group in layer.groups:
            for column, (_, _, tag) in zip(group.columns, group.template.slots, strict=True):
                column_values(tag, column)
            list(group.sizes)


def _load_index(snapshot: Snapshot, array: str) -> None:
    for file in snapshot.index(array).files:
        name = file.key.rsplit("-", 1)[-1].removesuffix(".af")
        head = snapshot.storage.read_range(file.key, 0, HEADER_LENGTH)
        if not head.startswith(MAGIC) or head[len(MAGIC) :].hex() != name:
            raise CorruptIndex(f"the head of {file.key} is damaged: it is not the file of that name")
    for segment in snapshot.segments(array):
        # Decoding them checks their hashes.
        assert len(segment.statistics.rows) == len(segment.entries)


def _verify_dataset(snapshot: Snapshot, report: VerifyReport, array: str, name: str) -> None:
    catalog = snapshot.root.catalog
    ordinal = catalog.ordinal(name)
    schema = catalog.record(ordinal).arrays.get(array)
    if schema is None:
        return
    index = snapshot.index(array)
    position = int(index.entries.searchsorted(ordinal))
    if position == len(index.entries) or index.entries[position] != ordinal:
        return
    for number in index.columns["number"][index.starts[position] : index.starts[position + 1]].tolist():
        report.chunks += 1
        _noted(report, array, name, number, partial(_read_chunk, snapshot, schema, ordinal, number))


def _read_chunk(snapshot: Snapshot, schema: ArraySchema, ordinal: int, number: int) -> None:
    if number >= schema.grid.count:
        raise CorruptStore(f"there is a chunk {number}, but array {schema.name!r} has {schema.grid.count}")
    snapshot.read_box(schema, ordinal, schema.grid.extent(number))


def _noted(report: VerifyReport, array: str, dataset: str, chunk: int, read: Callable[[], None]) -> bool:
    """Whether something can be read; if not, the report says why."""
    try:
        read()
    except AtlasError as error:
        owner = f"dataset {dataset!r}: " if dataset else f"array {array!r}: " if array else ""
        report.problems.append(Problem(array, dataset, chunk, f"{owner}{error}"))
        return False
    return True
