"""Reading everything that a store holds, to say what is damaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from atlas.columns import column_values
from atlas.errors import AtlasError, CorruptIndex, CorruptRoot, CorruptStore, ReadOnlyStore, StorageError
from atlas.examine import check_file, copied_index
from atlas.plan import Wanted
from atlas.reader import Snapshot
from atlas.record import read_record
from atlas.roots import gives_way, load_root, recorded_state
from atlas.schema import ArraySchema
from atlas.storage.names import CATALOG, is_record, record_key

# A dataset with chunks of an array: its name, its ordinal, what it declares.
Holder = tuple[str, int, ArraySchema]

# What object stores say that do not answer, or not to everybody.
_NO_ANSWER = (StorageError, ReadOnlyStore)

# Cells of datasets that are read together: every chunk by itself would take an open file, or a request.
_GROUP_BYTES = 64 << 20

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

    Examples
    --------
    >>> problem = Problem("t", "jan", 0, "chunk 0 of array 't' is damaged")
    >>> print(problem)
    chunk 0 of array 't' is damaged
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

    Examples
    --------
    >>> import atlas, xarray as xr
    >>> with atlas.Atlas.create("fleet") as store:
    ...     xr.Dataset({"t": ("x", [1.5, 2.5])}).atlas.write(store, "jan")
    >>> store.verify()
    VerifyReport(datasets=1, chunks=1, problems=[])
    """

    datasets: int = 0
    chunks: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether everything is as it was committed.

        Examples
        --------
        >>> VerifyReport(problems=[Problem("t", "jan", 0, "it is damaged")]).ok
        False
        """
        return not self.problems


def verify(snapshot: Snapshot, progress: Progress | None = None) -> VerifyReport:
    """Read and decode every chunk of a committed state; a damaged one hides no other.

    Raises
    ------
    StorageError, ReadOnlyStore
        If an object store does not answer, or denies access.
    """
    report = VerifyReport()
    # What is stored is to be looked at, not what this process has kept of it.
    snapshot = Snapshot(
        snapshot.storage, snapshot.root, snapshot.workers, snapshot.mode, snapshot.pin, snapshot, maps=False
    )
    _verify_records(snapshot, report)
    # Without the dataset table nothing says what any chunk is.
    if not _noted(snapshot, report, "", "", -1, partial(_load_table, snapshot)):
        return report
    _noted(snapshot, report, "", "", -1, partial(_check_copies, snapshot, None))
    names = snapshot.root.catalog.names()
    arrays = sorted(snapshot.root.arrays)
    report.datasets = len(names)
    for position, array in enumerate(arrays):
        # An index that cannot be trusted says nothing about any of its chunks.
        usable = _noted(snapshot, report, array, "", -1, partial(_check_files, snapshot, array))
        _noted(snapshot, report, array, "", -1, partial(_check_copies, snapshot, array))
        holders = _holders(snapshot, array) if usable else []
        done = 0
        for group in _groups(snapshot, holders):
            _verify_group(snapshot, report, group)
            for _ in group:
                done += 1
                if progress is not None:
                    progress(position * len(names) + done, len(arrays) * len(names), array)
        if progress is not None and len(holders) < len(names):
            progress((position + 1) * len(names), len(arrays) * len(names), array)
    return report


def _verify_records(snapshot: Snapshot, report: VerifyReport) -> None:
    root = snapshot.root
    # A store without files has nothing that a record could bring back, and need not have one.
    wanted = {file.commit for file in root.files if file.commit}
    if wanted and snapshot.storage.is_local:
        wanted.add(root.commit)
    _noted(snapshot, report, "", "", -1, partial(_check_for_newer, snapshot))
    for commit in sorted(wanted):
        _noted(snapshot, report, "", "", -1, partial(_check_record, snapshot, commit))


def _check_for_newer(snapshot: Snapshot) -> None:
    storage = snapshot.storage
    # Elsewhere there are none, and looking would take a listing.
    if not storage.is_local:
        return
    known = {record_key(commit) for commit in snapshot.root.commits}
    strange = {f"{CATALOG}/{name}" for name in storage.list_dir(CATALOG) if is_record(name)} - known
    recorded = {key: recorded_state(storage, key) for key in sorted(strange)}
    # Of a commit that is under way, or was cut off, the mark of the lock is there before the record, and until the
    # root is: looked for in this order, one that others make meanwhile is told from one that the root does not know.
    if not any(recorded.values()) or storage.was_interrupted():
        return
    root = load_root(storage)
    for key, found in recorded.items():
        if found is not None and found.follows(root):
            is_older = gives_way(storage, root, found)
            why = "an older root was put in its place" if is_older else "repair puts what there is of that one aside"
            raise CorruptRoot(
                f"the root is of commit {root.generation}, but {key} is of a newer one, {found.generation}: {why}"
            )


def _check_record(snapshot: Snapshot, commit: str) -> None:
    key = record_key(commit)
    try:
        record = read_record(snapshot.storage, key)
    except FileNotFoundError:
        # Another writer takes it away once the newest state has no file of that commit any more.
        if commit not in load_root(snapshot.storage).commits:
            return
        raise CorruptIndex(f"record {key} is gone; the store is whole, but for this copy of its metadata") from None
    missing = {file.key for file in snapshot.root.files if file.commit == commit} - record.indexes.keys()
    if missing:
        raise CorruptIndex(f"record {key} lacks the index of {min(missing)}")


def _load_table(snapshot: Snapshot) -> None:
    catalog = snapshot.root.catalog
    for file in catalog.tables:
        check_file(snapshot.storage, file, None)
    catalog.names()
    for layer in catalog.layers:
        for group in layer.groups:
            for column, (_, _, tag) in zip(group.columns, group.template.slots, strict=True):
                column_values(tag, column)
            list(group.sizes)


def _check_files(snapshot: Snapshot, array: str) -> None:
    for file in snapshot.index(array).files:
        check_file(snapshot.storage, file, array)


def _check_copies(snapshot: Snapshot, array: str | None) -> None:
    for file in snapshot.root.catalog.tables if array is None else snapshot.root.arrays[array].files:
        copied_index(snapshot.root, file, array)


def _holders(snapshot: Snapshot, array: str) -> list[Holder]:
    """Return the datasets with chunks of an array: most arrays of a store of many belong to few of its datasets."""
    catalog, entries = snapshot.root.catalog, snapshot.index(array).entries
    codes, schemas = catalog.layouts(array, entries)
    live = entries[codes >= 0]
    owned = [schemas[code] for code in codes[codes >= 0].tolist()]
    return list(zip(catalog.names_of(live), live.tolist(), owned, strict=True))


def _groups(snapshot: Snapshot, holders: list[Holder]) -> Iterator[list[Holder]]:
    """Split datasets into those that are read together."""
    group: list[Holder] = []
    size = 0
    for holder in holders:
        schema = holder[2]
        own = schema.nbytes
        if group and (size + own > _GROUP_BYTES or schema.dtype != group[0][2].dtype):
            yield group
            group, size = [], 0
        group.append(holder)
        size += own
    if group:
        yield group


def _verify_group(snapshot: Snapshot, report: VerifyReport, group: list[Holder]) -> None:
    # Only where something is wrong is it asked for chunk by chunk what that is.
    if _is_intact(snapshot, group):
        index = snapshot.index(group[0][2].name)
        report.chunks += sum(len(index.numbers_of(ordinal)) for _, ordinal, _ in group)
        return
    for name, ordinal, schema in group:
        _verify_dataset(snapshot, report, schema, name, ordinal)


def _is_intact(snapshot: Snapshot, group: list[Holder]) -> bool:
    schema = group[0][2]
    index = snapshot.index(schema.name)
    if schema.nbytes > _GROUP_BYTES:
        return False  # all of it may be more than there is memory
    if any(index.numbers_of(ordinal).max(initial=-1) >= own.grid.count for _, ordinal, own in group):
        return False
    wanted = [Wanted(own, own.box, np.array([row]), np.array([ordinal])) for row, (_, ordinal, own) in enumerate(group)]
    try:
        snapshot.read_boxes(schema.name, schema.dtype, wanted)
    except AtlasError as error:
        if isinstance(error, _NO_ANSWER) and not snapshot.storage.is_local:
            raise
        return False
    return True


def _verify_dataset(snapshot: Snapshot, report: VerifyReport, schema: ArraySchema, name: str, ordinal: int) -> None:
    for number in snapshot.index(schema.name).numbers_of(ordinal).tolist():
        report.chunks += 1
        _noted(snapshot, report, schema.name, name, number, partial(_read_chunk, snapshot, schema, ordinal, number))


def _read_chunk(snapshot: Snapshot, schema: ArraySchema, ordinal: int, number: int) -> None:
    if number >= schema.grid.count:
        raise CorruptStore(f"there is a chunk {number}, but array {schema.name!r} has {schema.grid.count}")
    snapshot.read_box(schema, ordinal, schema.grid.extent(number))


def _noted(
    snapshot: Snapshot, report: VerifyReport, array: str, dataset: str, chunk: int, read: Callable[[], None]
) -> bool:
    """Whether something can be read; if not, the report says why."""
    try:
        read()
    except (AtlasError, MemoryError) as error:
        if isinstance(error, _NO_ANSWER) and not snapshot.storage.is_local:
            # No answer says nothing about the store, and the deadline of a request is no time to wait for every chunk.
            raise
        owner = f"dataset {dataset!r}: " if dataset else f"array {array!r}: " if array else ""
        what = f"there is no room for it in memory: {error}" if isinstance(error, MemoryError) else error
        report.problems.append(Problem(array, dataset, chunk, f"{owner}{what}"))
        return False
    return True
