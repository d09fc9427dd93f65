"""The new files of one commit: data files, table files that take over what the root cannot hold, and its record."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from atlas.ahead import HeadStart
from atlas.catalog import Catalog
from atlas.columnfile import DataFile
from atlas.errors import ConflictError
from atlas.layer import Layer, joined
from atlas.record import append_record, write_record
from atlas.root import ArrayFiles, Root, root_key
from atlas.roots import CLAIMED_KEY, LostRace
from atlas.segment import SegmentWriter
from atlas.spill import Spill
from atlas.storage import DataWriter, Storage
from atlas.storage.names import data_key, record_key, table_key
from atlas.table import write_table

# Above this, the newest changes of the dataset table move from the root, which every commit writes
# and every open reads, into a table file; and how much larger older table files are that stay.
INLINE_BYTES = 1 << 16
TABLE_RATIO = 4

# On object stores a table file is a request that waits for the root: with few ten thousands of datasets there is none.
INLINE_BYTES_FAR = 1 << 20

# Indexes that a root there has copies of, so that the first read of an array need not wait for them either.
COPIED_BYTES = 256 << 10

# Where the root itself is asked for after the object that tells its name, it has copies of table files, too, so that
# nobody waits for a third: of as much as goes over a line in about the time that a request takes.
COPIED_TABLE_BYTES = 4 << 20


def _index_bytes(files: Sequence[DataFile]) -> int:
    return sum(file.index_length for file in files)


class CommitFiles:
    """The files of one commit: durable together, or gone together."""

    def __init__(self, storage: Storage, root: Root) -> None:
        self._storage = storage
        # Every file says which commit it belongs to: without the root, that is how it is told.
        self._root = root
        self.origin: dict[str, Any] = {
            "store": root.store,
            "generation": root.generation,
            "commit": root.commit,
            "parent": root.parent,
        }
        self._writers: list[tuple[str, DataWriter]] = []
        # How many of them are on the disk already, and of how many the entries in their directories are, too.
        self._finished = self._durable = 0
        self._segments: list[SegmentWriter] = []
        self._indexes: dict[str, bytes | bytearray] = {}
        self._kept = False

    def __enter__(self) -> CommitFiles:
        return self

    def __exit__(self, *exc: object) -> None:
        if not self._kept:
            self.discard()

    def discard(self) -> None:
        """Take back what was written."""
        self._storage.abort_all([writer for _, writer in self._writers])

    def create(self, directory: str) -> SegmentWriter:
        """Begin a new data file."""
        self._make_room()
        file_id = uuid.uuid4()
        key = data_key(directory, file_id)
        return self._segment(self._begin(key), key, file_id)

    def take_over(self, directory: str, spill: Spill) -> SegmentWriter | None:
        """Make a file of pending chunks a data file that is gone on with, where that is possible; tried once."""
        self._make_room()
        spill.is_taken = True
        key = data_key(directory, spill.file_id)
        writer = self._storage.adopt(key, spill.descriptor, spill.end)
        if writer is None:
            return None
        self._writers.append((key, writer))
        return self._segment(writer, key, spill.file_id)

    def _make_room(self) -> None:
        if self._storage.must_finish([writer for _, writer in self._writers[self._finished :]]):
            self._finish()

    def _segment(self, writer: DataWriter, key: str, file_id: uuid.UUID) -> SegmentWriter:
        self._segments.append(SegmentWriter(writer, key, file_id.bytes, self._leaves_record))
        return self._segments[-1]

    def complete(self, start: HeadStart) -> SegmentWriter:
        """Go on with a data file that was begun ahead."""
        self._writers.append((start.key, start.writer))
        segment = start.hand_over()
        self._segments.append(segment)
        return segment

    @property
    def are_fetched(self) -> bool:
        """Whether readers have to fetch what they want of the files, a request for each piece."""
        return not self._storage.is_local

    @property
    def inline_bytes(self) -> int:
        """How much of the dataset table the root may hold itself."""
        return INLINE_BYTES_FAR if self.are_fetched else INLINE_BYTES

    @property
    def _leaves_record(self) -> bool:
        """Whether commits leave a record of its own, with the indexes."""
        return self._storage.is_local

    def write_table(self, layer: Layer, slots: int) -> DataFile:
        """Write a layer of the dataset table."""
        file_id = uuid.uuid4()
        key = table_key(file_id)
        head = self.origin | {"slots": slots}
        file, self._indexes[key] = write_table(self._begin(key), key, file_id.bytes, layer, head)
        return file if self._leaves_record else replace(file, commit="")

    def adopt(self, file: DataFile, index: bytes) -> DataFile:
        """Take an older file's index into this commit's record; return the file as the root is to name it."""
        self._indexes[file.key] = index
        return replace(file, commit=self._root.commit)

    def state(self, catalog: Catalog, arrays: Mapping[str, ArrayFiles]) -> Root:
        """Return the state that the commit makes."""
        copies = self._copies(arrays, catalog.tables) if self.are_fetched else {}
        return replace(self._root, catalog=catalog, arrays=arrays, copies=copies)

    def _copies(self, arrays: Mapping[str, ArrayFiles], tables: Sequence[DataFile]) -> dict[str, bytes]:
        """Return the indexes that the root is to have copies of, as many as fit.

        All of an array or none, as one that is missing takes a request all the same; smaller ones first, of which more
        fit.
        """
        written = (segment.written for segment in self._segments if segment.written is not None)
        known = {**self._root.copies, **self._indexes, **{file.key: index for file, index in written}}
        copies, left = dict[str, bytes](), COPIED_BYTES
        for files in sorted((array.files for array in arrays.values()), key=_index_bytes):
            if _index_bytes(files) <= left and all(file.key in known for file in files):
                left -= _index_bytes(files)
                copies.update((file.key, bytes(known[file.key])) for file in files)
        if root_key(self._root.config) != CLAIMED_KEY and _index_bytes(tables) <= COPIED_TABLE_BYTES:
            copies.update((file.key, bytes(known[file.key])) for file in tables if file.key in known)
        return copies

    def write_record(self, root: Root, retired: Sequence[str] = ()) -> None:
        """Write what brings the root and the indexes of the commit's files back, should they be lost.

        Locally the files are made durable first: where a record is, there is everything that it tells of, even if the
        power goes before the root is replaced. Nothing else would say then that the commit did not get done, as the
        mark in the lock file is not synced.

        Parameters
        ----------
        root : Root
            The state that the commit makes.
        retired : sequence of str
            Files that it will no longer refer to.
        """
        waiting = tuple((key, root.generation, int(time.time())) for key in retired)
        recorded = replace(root, retired=root.retired + waiting)
        if not self._leaves_record:
            # An object more would be a request more. What has no file leaves none.
            for _, writer in self._writers[-1:]:
                append_record(writer, recorded)
            return
        self.make_durable()
        finished = [segment.written for segment in self._segments if segment.written is not None]
        indexes = {file.key: index for file, index in finished} | self._indexes
        write_record(self._begin(record_key(root.commit)), recorded, indexes)

    def _begin(self, key: str) -> DataWriter:
        writer = self._storage.create(key)
        self._writers.append((key, writer))
        return writer

    def make_durable(self) -> None:
        """Sync every file that is not durable yet, then every directory of these once."""
        self._storage.expect_version(root_key(self._root.config), self._root.version)
        self._finish()
        self._storage.sync_directories([key for key, _ in self._writers[self._durable :]])
        self._durable = len(self._writers)

    def _finish(self) -> None:
        self._storage.finish_all([writer for _, writer in self._writers[self._finished :]])
        self._finished = len(self._writers)

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """Take the files back if it turns out that the state which refers to them never becomes part of the store."""
        try:
            yield
        except LostRace as lost:
            if lost.is_final:
                self.discard()
            raise
        except ConflictError:
            self.discard()
            raise

    def keep(self) -> None:
        """The root refers to the files now."""
        self._kept = True


def settle(files: CommitFiles, catalog: Catalog) -> tuple[Catalog, list[str]]:
    """Move the newest layer into a table file once it is too large for the root.

    Table files that are not several times larger than what is written take part, so their sizes
    form a geometric series: few files, and few rewrites of each dataset.

    Returns
    -------
    catalog : Catalog
    replaced : list of str
        Table files that it no longer refers to.
    """
    if catalog.top.weight <= files.inline_bytes:
        return catalog, []
    kept, size = len(catalog.tables), catalog.top.weight
    while kept and (files.are_fetched or catalog.tables[kept - 1].length < TABLE_RATIO * size):
        kept -= 1
        size += catalog.tables[kept].length
    layer = joined(catalog.layers[kept:], bottom=not kept)
    tables = (*catalog.tables[:kept], files.write_table(layer, catalog.slots))
    settled = catalog.with_top(tables, Layer.empty())
    if files.are_fetched:
        # Nobody need fetch what was just written.
        settled = replace(settled, loaded={**settled.loaded, tables[-1]: layer})
    return settled, [file.key for file in catalog.tables[kept:]]
