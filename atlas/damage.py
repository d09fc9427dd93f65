"""What is damaged in a store, and what is left of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from atlas.columnfile import ColumnFile, DataFile
from atlas.errors import CorruptRoot, CorruptStore
from atlas.examine import check_file, copied_index, intact_rows, open_index
from atlas.forks import cached_property
from atlas.leftovers import is_of_a_copy
from atlas.record import Record, read_record, records_behind
from atlas.root import ROOT_KEYS, Root, decode_root, root_key
from atlas.roots import gives_way
from atlas.segment import ArrayIndex, SegmentIndex
from atlas.storage import Storage, Stored
from atlas.storage.names import CATALOG, is_file_of_a_commit, is_record, record_key
from atlas.table import read_layer
from atlas.verify import Problem


@dataclass
class RepairReport:
    """What :meth:`atlas.Atlas.repair` found and did.

    Attributes
    ----------
    actions : list of str
        What was done, or would be done: one sentence each. Empty when there was nothing to do.
    lost : list of Problem
        The chunks that cannot be brought back, by array, dataset and chunk. They read as errors.
    dropped : list of (dataset, array)
        What was removed because chunks of it were lost, when that was asked for.
    kept : str
        Where the files that were replaced are kept, within the store.

    Examples
    --------
    >>> import atlas
    >>> atlas.Atlas.create("fleet").flush()
    >>> atlas.Atlas.repair("fleet")
    RepairReport(actions=[], lost=[], dropped=[], kept='')
    """

    actions: list[str] = field(default_factory=list)
    lost: list[Problem] = field(default_factory=list)
    dropped: list[tuple[str, str]] = field(default_factory=list)
    kept: str = ""

    @property
    def ok(self) -> bool:
        """Whether the store is whole: nothing was damaged, or all of it was brought back.

        Examples
        --------
        >>> RepairReport(actions=["bring the state of commit 7 back"]).ok
        True
        """
        return not self.lost


@dataclass
class FileFound:
    """A file that the root names: its index, as it is or as a copy has it, and what is wrong."""

    file: DataFile
    index: ColumnFile | None
    problem: str
    unrecorded: bool


class Damage:
    """All that is to be known before anything is changed.

    Parameters
    ----------
    storage : Storage
    listed : list of Stored, optional
        What is there, if that is known: listing takes long on object stores.
    """

    def __init__(self, storage: Storage, listed: list[Stored] | None = None) -> None:
        self._listed = listed
        self.storage = storage
        # A repair that was cut off says nothing about the commits that it found.
        self._was_writing = storage.was_writing()
        self.report = RepairReport()
        self.roots: dict[str, Root | None] = {}
        self._versions: dict[str, str | None] = {}
        self._put: dict[str, float] = {}
        self.records: dict[str, Record] = {}
        self.damaged_records: list[str] = []
        self._read_roots()
        self._read_records()
        # Later states, by record, which the root that is there does not give way to.
        self.passed_over: dict[str, Root] = {}
        self.root, self.from_record = self._choose()
        self._drop_false_copies()
        self.tables = [self._look(file, None) for file in self.root.catalog.tables]
        self.arrays = {
            name: [self._look(file, name) for file in files.files] for name, files in self.root.arrays.items()
        }
        for table in self.tables:
            _index_of(table)
        for name in self.arrays:
            self._find_lost(name)
        self._describe()

    # ── which state ──────────────────────────────────────────────────────────────────────────

    def _read_roots(self) -> None:
        for key, (data, version) in self.storage.read_each(list(ROOT_KEYS)).items():
            self._versions[key] = version
            try:
                self.roots[key] = replace(decode_root(data, key, self._load_table), version=version)
            except CorruptStore as error:
                self.roots[key] = None
                self.report.actions.append(f"replace root object {key}: {error}")

    def _read_records(self) -> None:
        for key in self._record_keys():
            try:
                self.records[key] = read_record(self.storage, key)
            except CorruptStore:
                self.damaged_records.append(key)
        if self._is_root_missing:
            files = [item for item in self._inventory() if is_file_of_a_commit(item.key)]
            self._put = {item.key: item.modified for item in files}
            self.records.update(records_behind(self.storage, {item.key: item.size for item in files}))

    def _record_keys(self) -> list[str]:
        # Locally one directory is looked at; elsewhere that takes a listing of everything.
        keys = (
            [f"{CATALOG}/{name}" for name in self.storage.list_dir(CATALOG)]
            if self.storage.is_local
            else [item.key for item in self._inventory()]
        )
        start = f"{CATALOG}/"
        return [key for key in keys if key.startswith(start) and is_record(key.removeprefix(start))]

    def _inventory(self) -> list[Stored]:
        if self._listed is None:
            self._listed = self.storage.inventory()
        return self._listed

    @property
    def _is_root_missing(self) -> bool:
        """Whether no root is intact, or only the one that says under which name the next one is."""
        intact = [root for root in self.roots.values() if root is not None]
        return not any(self.roots.get(root_key(root.config)) is not None for root in intact)

    def _choose(self) -> tuple[Root, str]:
        """Return the newest state that there is, and the record that it is from, or nothing for the root itself."""
        intact = [root for root in self.roots.values() if root is not None]
        known = max(intact, key=lambda root: root.generation, default=None)
        # A writer that died may have left the record of a commit that never happened. Where that cannot be told
        # (on object stores), a root that is intact is believed.
        is_believed = not self.storage.is_local and not self._is_root_missing
        if known is not None and (self._was_writing or is_believed):
            return known, ""
        states = self._recorded_states
        found = {key: root for key, root in states.items() if known is None or root.follows(known)}
        if known is not None and self.storage.is_local:
            self.passed_over = {key: root for key, root in found.items() if not gives_way(self.storage, known, root)}
            if is_of_a_copy(self.storage, known):
                self.passed_over |= {key: root for key, root in states.items() if root.is_beside(known)}
        found = {key: root for key, root in found.items() if key not in self.passed_over}
        if found:
            key = max(found, key=lambda key: self._rank(found[key], key))
            # Where objects have versions, one that is not there has an empty one.
            absent = None if self.storage.is_local else ""
            return replace(found[key], version=self._versions.get(root_key(found[key].config), absent)), key
        if known is not None:
            return known, ""
        raise CorruptRoot(
            f"the root of {self.storage.describe()} is lost or damaged, and there is no record of a commit "
            "that could bring it back"
        )

    @property
    def standing(self) -> Root:
        """What there is in the place of the state that was chosen; without a commit where that cannot be read."""
        intact = [root for root in self.roots.values() if root is not None]
        if not self.storage.is_local:
            return self.root
        if not intact or len(intact) < len(self.roots):
            return replace(self.root, commit="")
        return max(intact, key=lambda root: root.generation)

    def _rank(self, root: Root, key: str) -> tuple[bool, bool, bool, int, float]:
        # Of a commit that came to nothing on an object store not every file need be there. Of two that have all, and
        # the same generation, the one is older whose writer died.
        is_complete = self.storage.is_local or all(file.key in self._put for file in root.files)
        return self._has_files(root), is_complete, self._got_done(root), root.generation, self._put.get(key, 0.0)

    @cached_property
    def _recorded_states(self) -> dict[str, Root]:
        """The states that records tell of, by record."""
        states = {}
        for key, record in self.records.items():
            with suppress(CorruptRoot):
                states[key] = record.root(self._load_table)
        return states

    def _has_files(self, root: Root) -> bool:
        """Whether a state is one of this store: a record of another may have been put here."""
        if root.files:
            return any(map(self._exists, root.files))
        return not self._stores_here or root.store in self._stores_here

    @cached_property
    def _stores_here(self) -> set[str]:
        """The stores that recorded states are of which have files here."""
        return {root.store for root in self._recorded_states.values() if any(map(self._exists, root.files))}

    def _exists(self, file: DataFile) -> bool:
        try:
            return self.storage.size(file.key) >= 0
        except (FileNotFoundError, CorruptStore):
            return False

    def _got_done(self, root: Root) -> bool:
        """Whether a commit got as far as having all of its own files, where there may be one that did not."""
        own = [(name, file) for name, file in _owned_files(root) if file.commit == root.commit]
        return not self._was_writing or all(self._is_whole(file, name) for name, file in own)

    def _is_whole(self, file: DataFile, array: str | None) -> bool:
        try:
            index = check_file(self.storage, file, array)
        except CorruptStore:
            return False
        if not isinstance(index, SegmentIndex):
            return True
        return bool(intact_rows(self.storage, file, index.chunk_columns())[0].all())

    # ── what is damaged ──────────────────────────────────────────────────────────────────────

    def _drop_false_copies(self) -> None:
        """Leave the copies of indexes out that are not what they ought to be."""
        true = dict(self.root.copies)
        for array, file in _owned_files(self.root):
            try:
                copied_index(self.root, file, array)
            except CorruptStore as error:
                true.pop(file.key, None)
                self.report.actions.append(f"leave a copy out of the root: {error}")
        self.root = replace(self.root, copies=true)

    def _look(self, file: DataFile, array: str | None) -> FileFound:
        unrecorded = bool(file.commit) and record_key(file.commit) not in self.records
        try:
            return FileFound(file, check_file(self.storage, file, array), "", unrecorded)
        except CorruptStore as error:
            return FileFound(file, self._copied_index(file, array), str(error), unrecorded)

    def _copied_index(self, file: DataFile, array: str | None) -> ColumnFile | None:
        if file.key in self.root.copies:
            return copied_index(self.root, file, array)
        record = self.records.get(record_key(file.commit))
        copy = None if record is None else record.indexes.get(file.key)
        if copy is None:
            return None
        try:
            return open_index(copy, file, array)
        except CorruptStore:
            return None

    def _load_table(self, store: str, file: DataFile, slots: int) -> Any:
        return read_layer(_index_of(self._look(file, None)), slots)

    def _find_lost(self, array: str) -> None:
        files = self.arrays[array]
        if not files:
            return
        unknown = [found for found in files if found.index is None]
        if unknown:
            owners = self._owners(array)
            message = f"{unknown[0].problem}, and there is no copy of its index: nothing of the array can be read"
            if owners:
                self.report.lost.append(Problem(array, "", -1, f"array {array!r}, in {owners} datasets: {message}"))
            return
        indexes = [found.index for found in files if isinstance(found.index, SegmentIndex)]
        merged = ArrayIndex.merge([found.file for found in files], indexes)
        ordinals = np.repeat(merged.entries, np.diff(merged.starts))
        # A file may have more than the dataset table knows of.
        known = self.root.catalog.having(array, ordinals)
        intact = ~known
        for number, found in enumerate(files):
            rows = np.flatnonzero(known & (merged.columns["file"] == number))
            chunks = {name: column[rows] for name, column in merged.columns.items()}
            intact[rows], is_unreadable = intact_rows(self.storage, found.file, chunks)
            if is_unreadable and not found.problem:
                # Whoever maps the file would end when he comes to the place: it is not to stay in use.
                found.problem = f"{found.file.key} is damaged: part of it cannot be read"
        rows = np.flatnonzero(~intact)
        names = self.root.catalog.names_of(ordinals[rows]) if len(rows) else []
        for name, row in zip(names, rows.tolist(), strict=True):
            number, key = int(merged.columns["number"][row]), files[int(merged.columns["file"][row])].file.key
            message = f"dataset {name!r}: chunk {number} of array {array!r} in {key} is lost"
            self.report.lost.append(Problem(array, name, number, message))

    def useless(self, array: str) -> bool:
        """Whether an array's files are of no use: none can be read without one that is lost, and no dataset has it."""
        return any(found.index is None for found in self.arrays[array]) and not self._owners(array)

    def _owners(self, array: str) -> int:
        """Return how many datasets have an array."""
        catalog = self.root.catalog
        return int(catalog.having(array, catalog.ordinals).sum())

    def _describe(self) -> None:
        if self.from_record:
            said = f"bring the state of commit {self.root.generation} back from {self.from_record}"
            if self.from_record in self._put:
                said += "; what later commits changed without writing a file is lost"
            self.report.actions.append(said)
        for key, root in self.passed_over.items():
            said = f"put commit {root.generation} aside, of which {key} tells"
            self.report.actions.append(
                f"{said}: it did not get done, or an older root was put in its place and gone on from"
            )
        for array, files in self.arrays.items():
            for found in files:
                if self.useless(array):
                    self.report.actions.append(f"forget {found.file.key}: no dataset has array {array!r}")
                elif found.problem and found.index is not None:
                    self.report.actions.append(f"write {found.file.key} anew: {found.problem}")
        for found in self.tables:
            if found.problem:
                self.report.actions.append(f"write {found.file.key} anew: {found.problem}")
        missing = {record_key(f.file.commit) for f in self._all() if f.unrecorded}
        for key in sorted({*missing, *self.damaged_records}):
            self.report.actions.append(f"write record {key} anew: it is {'gone' if key in missing else 'damaged'}")

    def _all(self) -> Iterator[FileFound]:
        yield from self.tables
        for files in self.arrays.values():
            yield from files


def _owned_files(root: Root) -> Iterator[tuple[str | None, DataFile]]:
    """Yield every file that a state refers to, with the array that it is of; a table file is of none."""
    yield from ((array, file) for array, files in root.arrays.items() for file in files.files)
    yield from ((None, file) for file in root.catalog.tables)


def _index_of(table: FileFound) -> ColumnFile:
    """Return what is left of a table file, without which nothing says what any chunk is."""
    if table.index is None:
        raise CorruptRoot(
            f"{table.problem}, and its copy in {record_key(table.file.commit)} is damaged, too: "
            "what the datasets are cannot be brought back"
        )
    return table.index
