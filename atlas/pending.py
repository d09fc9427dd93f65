"""Everything that the next flush will commit.

Datasets that are changed one by one are *loose*: each has a record, and a :class:`PendingArray` for
each array that was written. What is done to many at once is kept by column: :class:`Batch` creates,
:class:`Block` writes. A dataset is in one of the two forms at any time; it becomes loose when it is
changed by itself.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atlas.ahead import HeadStarts
from atlas.chunks import Integers
from atlas.columns import distinct
from atlas.config import StoreConfig
from atlas.conflicts import Attempt
from atlas.errors import AtlasError
from atlas.groups import Declared
from atlas.heap import Heap
from atlas.names import Names, seek
from atlas.nametable import NameTable
from atlas.root import Root
from atlas.schema import ArraySchema, DatasetRecord
from atlas.writer import Held, HeldRows, PendingArray, encode_into


@dataclass(frozen=True)
class Batch:
    """Datasets that were created together.

    Attributes
    ----------
    first : int
        Number of the first of them in the name table; the others follow.
    sequence : int
        How many datasets the handle had created before.
    declared : Declared
        What they declare, in the order of their names.
    """

    first: int
    sequence: int
    declared: Declared

    @property
    def end(self) -> int:
        """The number behind the last of them."""
        return self.first + len(self.declared)


@dataclass(frozen=True)
class Block:
    """The same chunks of an array of many datasets, written together.

    Attributes
    ----------
    array : str
    ids : (n,) int64
        Numbers of the datasets in the name table, ascending.
    numbers : (k,) int64
        The chunks, ascending.
    rows : HeldRows
        Their n · k payloads, dataset after dataset.
    schema : ArraySchema, optional
        What they declare, of committed datasets. What others do, their batch says.
    """

    array: str
    ids: Integers
    numbers: Integers
    rows: HeldRows
    schema: ArraySchema | None = None


class Pending:
    """Everything that the next flush will commit.

    Parameters
    ----------
    heap : Heap
        Where encoded chunks wait.
    limit : int
        Bytes of cells that wait as they are before they are encoded.
    starts : HeadStarts
        Files that chunks in the heap leave to before the flush.
    layout : StoreConfig, optional
        When given, the batch begins a store of this layout in place of the one that is there.

    Attributes
    ----------
    records : dict of str to DatasetRecord
        Loose datasets, as they are now.
    created : dict of str to int
        Those of them that the committed state does not have (any more), and how many were created before each.
    deleted : set of str
        Committed datasets that go.
    origins : dict of str to str
        Loose datasets that were renamed, each with the name under which it was committed.
    arrays : dict of str to dict of str to PendingArray
        Chunks of loose datasets, by dataset and array.
    table : NameTable
        Datasets that are changed together.
    batches : list of Batch
    blocks : dict of str to list of Block
        By array, oldest first.
    seen : dict of str to Root
        The committed state in which each dataset that is, or was, loose was first changed.
    attempts : list of Attempt
        The commits that these changes were put in, and which failed, or seemed to. Those that did not happen, nor
        will, are not among them; one at most did.
    whole_attempt : Attempt or None
        The commit that everything pending was put in, if nothing was changed since.
    is_torn : bool
        Whether one of the changes was ended half way.
    """

    def __init__(self, heap: Heap, limit: int, starts: HeadStarts, layout: StoreConfig | None = None) -> None:
        self.heap = heap
        self.starts = starts
        self.layout = layout
        self.records: dict[str, DatasetRecord] = {}
        self.created: dict[str, int] = {}
        self.deleted: set[str] = set()
        self.origins: dict[str, str] = {}
        self._taken: dict[str, str] = {}
        self.arrays: dict[str, dict[str, PendingArray]] = {}
        self.table = NameTable()
        self.batches: list[Batch] = []
        self.blocks: dict[str, list[Block]] = {}
        self.seen: dict[str, Root] = {}
        self.attempts: list[Attempt] = []
        self.whole_attempt: Attempt | None = None
        self.is_torn = False
        self._moves: list[tuple[Attempt, dict[str, str]]] = []
        self._sequence = 0
        self._limit = limit
        self._waiting = 0
        self._unsettled: dict[int, PendingArray] = {}

    def __bool__(self) -> bool:
        return bool(self.records or self.deleted or self.layout or self.table.alive.any())

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Make a change that takes several steps, between which Ctrl-C may come: of half of it nobody must hear."""
        before, self.is_torn = self.is_torn, True
        try:
            yield
        except AtlasError:
            # Raised where it can be, with everything in order.
            self.is_torn = before
            raise
        self.is_torn = before

    # ── datasets ─────────────────────────────────────────────────────────────────────────────

    def create(self, name: str, root: Root) -> None:
        """Add a loose, empty dataset; `root` is the committed state that it is added to."""
        self.seen.setdefault(name, root)
        self.records[name] = DatasetRecord()
        self.created[name] = self._sequence
        self._sequence += 1

    def create_batch(self, names: Names, declared: Declared, root: Root) -> Integers:
        """Add datasets, and return their numbers."""
        ids = self.table.add(names, root)
        self.batches.append(Batch(len(self.table.alive) - len(ids), self._sequence, declared))
        self._sequence += len(ids)
        return ids

    def delete(self, name: str, root: Root) -> None:
        """Have a dataset go; one that was created in this batch is forgotten."""
        number = self.number(name)
        attempted = self._was_attempted(name) or any(0 <= number < attempt.numbered for attempt in self.attempts)
        created = name in self.created if number < 0 else self.batch_of(number) is not None
        self.seen.setdefault(name, root if number < 0 else self.table.root_of(number))
        self.records.pop(name, None)
        self.arrays.pop(name, None)
        self.created.pop(name, None)
        if number >= 0:
            self.table.alive[number] = False
        if not created:
            self.deleted.add(self.origins.get(name, name))
        if name in self.origins:
            del self._taken[self.origins.pop(name)]
        if attempted:
            self.deleted.add(name)
        elif created:
            self._unsee(name)

    def rename(self, old: str, new: str, root: Root) -> None:
        """Give a loose dataset another name; what is stored of it stays where it is."""
        self.seen.setdefault(new, root)
        self.records[new] = self.records.pop(old)
        if old in self.arrays:
            self.arrays[new] = self.arrays.pop(old)
        if old not in self.created:
            origin = self.origins[new] = self.origins.pop(old, old)
            self._taken[origin] = new
            return
        self.created[new] = self.created.pop(old)
        if self._was_attempted(old):
            self.deleted.add(old)
        else:
            self._unsee(old)

    def _was_attempted(self, name: str) -> bool:
        return any(name in attempt.names for attempt in self.attempts)

    def _unsee(self, name: str) -> None:
        """Forget a dataset of this batch, unless a committed one of that name went before it."""
        if name not in self.deleted and name not in self._taken:
            del self.seen[name]

    def committed_name(self, name: str, root: Root) -> str:
        """Return the name that a dataset has in a committed state."""
        found = self.origins.get(name, name)
        # A commit that only seemed to fail has renamed it already.
        for attempt, moved in self._moves:
            if attempt.led_to(root):
                found = moved.get(found, found)
        return found

    def renamed(self, root: Root) -> Mapping[str, str]:
        """Return the new name of each dataset of a committed state that gets another one."""
        if not self._moves:
            return self._taken
        return {self.committed_name(name, root): name for name in self.origins}

    def replaced(self, root: Root) -> Integers:
        """Return the ordinals of a committed state whose datasets go, or in whose place there are new ones."""
        # Since a refresh, another writer's dataset may be there under the name of a new one.
        catalog, names = root.catalog, [*self.deleted, *self.created]
        # Looking for nothing would read the table files.
        found = [catalog.find(names)] if names else [np.zeros(0, np.int64)]
        found += [catalog.find_sought(self.table.names(ids).sought) for _, ids in self.new_in_batches() if len(ids)]
        ordinals = distinct(np.concatenate(found))
        # The name of one that was renamed is free for others.
        kept = catalog.find(list(self.renamed(root))) if self.origins else ordinals[:0]
        gone: Integers = ordinals[(ordinals >= 0) & ~np.isin(ordinals, kept)]
        return gone

    def all_seen(self, current: Root) -> dict[str, Root]:
        """Return the state in which each changed dataset was first changed, unless that is the current one."""
        seen = {name: root for name, root in self.seen.items() if root.commit != current.commit}
        for root, ids in self.table.by_root():
            if root.commit != current.commit:
                seen |= dict.fromkeys(self.table.names(ids).tolist(), root)
        return seen

    def tried(self, root: Root, moved: Mapping[str, str]) -> None:
        """Take note of a commit that is begun, and of the datasets that it renames."""
        # What is known to have happened is what this one is put on top of.
        self.attempts = [attempt for attempt in self.attempts if not attempt.happened]
        self.whole_attempt = Attempt(root, set(self.seen), len(self.table.alive))
        self.attempts.append(self.whole_attempt)
        if moved:
            self._moves.append((self.attempts[-1], dict(moved)))

    def recognise(self, current: Root) -> None:
        """See whether an attempt was committed after all: then it is no other writer's work."""
        self.attempts = [attempt for attempt in self.attempts if not attempt.is_ruled_out_by(current)]
        for attempt in self.attempts:
            if attempt.led_to(current):
                attempt.happened = True
                self.seen |= dict.fromkeys(attempt.names, attempt.root)
                self.table.seen_in(attempt.root, attempt.numbered)

    @property
    def is_committed(self) -> bool:
        """Whether all of it has been found among the commits."""
        return self.whole_attempt is not None and self.whole_attempt.happened

    def number(self, name: str) -> int:
        """Return a dataset's number in the name table, or -1."""
        return int(self.table.find(seek([name]))[0]) if self.table.pieces else -1

    def batch_of(self, number: int) -> Batch | None:
        """Return the batch that created a dataset of the name table, if one did."""
        place = bisect_right(self.batches, number, key=lambda batch: batch.first) - 1
        return self.batches[place] if place >= 0 and number < self.batches[place].end else None

    def by_batch(self, ids: Integers) -> NDArray[np.bool_]:
        """Return which datasets of the name table were created by a batch."""
        firsts = np.array([batch.first for batch in self.batches], np.int64)
        ends = np.array([batch.end for batch in self.batches], np.int64)
        if not len(firsts):
            return np.zeros(len(ids), bool)
        places = np.searchsorted(firsts, ids, side="right") - 1
        return (places >= 0) & (ids < ends[places])

    def batch_record(self, number: int) -> DatasetRecord | None:
        """Return what a dataset that a batch created declares."""
        batch = self.batch_of(number)
        return None if batch is None else batch.declared.record(number - batch.first)

    def loosen(self, name: str, record: DatasetRecord, root: Root) -> None:
        """Make a dataset loose, with what is pending for it so far."""
        number = self.number(name)
        self.seen.setdefault(name, root if number < 0 else self.table.root_of(number))
        for attempt in self.attempts:
            if 0 <= number < attempt.numbered:
                attempt.names.add(name)
        if number >= 0:
            batch = self.batch_of(number)
            arrays = record.arrays if batch is not None else self.blocks
            found = {array: self.numbered_array(number, array) for array in arrays}
            if batch is not None:
                self.created[name] = batch.sequence + number - batch.first
            self.arrays[name] = {array: pending for array, pending in found.items() if pending is not None}
            self.table.alive[number] = False
        self.records[name] = record

    def created_names(self) -> list[str]:
        """Return the datasets that are new, in the order of their creation."""
        named = [(sequence, name) for name, sequence in self.created.items()]
        for batch, ids in self.new_in_batches():
            names = self.table.names(ids).tolist()
            named += zip((ids - batch.first + batch.sequence).tolist(), names, strict=True)
        return [name for _, name in sorted(named)]

    def created_count(self) -> int:
        """Return how many datasets are new."""
        return len(self.created) + sum(len(ids) for _, ids in self.new_in_batches())

    def new_in_batches(self) -> Iterator[tuple[Batch, Integers]]:
        """Yield every batch with the numbers of its datasets that are not loose."""
        for batch in self.batches:
            yield batch, batch.first + np.flatnonzero(self.table.alive[batch.first : batch.end])

    # ── chunks ───────────────────────────────────────────────────────────────────────────────

    def array(self, name: str, array: str) -> PendingArray | None:
        """Return what is pending for an array of a dataset; not to be changed unless the dataset is loose."""
        if name in self.records:
            return self.arrays.get(name, {}).get(array)
        number = self.number(name)
        return None if number < 0 else self.numbered_array(number, array)

    def numbered_array(self, number: int, array: str) -> PendingArray | None:
        """Return what is pending for an array of a dataset of the name table."""
        batch = self.batch_of(number)
        schema = None if batch is None else batch.declared.array(number - batch.first, array)
        result = None if schema is None else PendingArray(schema, reset=True)
        for block in self.blocks.get(array, ()):
            place = int(np.searchsorted(block.ids, number))
            if place < len(block.ids) and block.ids[place] == number:
                if result is None:
                    assert block.schema is not None
                    result = PendingArray(block.schema, reset=False)
                first = place * len(block.numbers)
                result.chunks |= {n: Held(block.rows, first + i) for i, n in enumerate(block.numbers.tolist())}
        return result

    def make_room(self, size: int, config: StoreConfig, workers: int) -> None:
        """Encode the cells that wait as they are if they would exceed the limit with `size` bytes more.

        Raises
        ------
        StorageError
            If the disk is full; everything is as it was.
        """
        if self._waiting and self._waiting + size > self._limit:
            self.settle(config, workers)

    def note(self, array: PendingArray, size: int) -> None:
        """Take note of cells that wait as they are."""
        self._unsettled[id(array)] = array
        self._waiting += size

    def settle(self, config: StoreConfig, workers: int) -> None:
        """Encode every chunk of loose datasets that waits as it is."""
        items = [
            (array.schema, (array, number), cells)
            for array in self._unsettled.values()
            for number, cells in sorted(array.chunks.items())
            if not isinstance(cells, Held)
        ]
        for (array, number), held in encode_into(self.heap, items, config, workers):
            array.chunks[number] = held
        self._unsettled, self._waiting = {}, 0

    def add_block(self, block: Block) -> None:
        """Take chunks of many datasets; what earlier blocks say of the same chunks is void."""
        known = self.blocks.setdefault(block.array, [])
        # Steps that are written one after the other go to the same chunks: only the last counts.
        if known and np.array_equal(known[-1].ids, block.ids) and np.array_equal(known[-1].numbers, block.numbers):
            known.pop()
        known.append(block)

    def changed_arrays(self) -> dict[str, list[tuple[str, PendingArray]]]:
        """Return the arrays that there is something to store of, sorted: each with the loose datasets that have it."""
        alive = self.table.alive
        found: dict[str, list[tuple[str, PendingArray]]] = {
            array: [] for array, blocks in self.blocks.items() if any(alive[block.ids].any() for block in blocks)
        }
        for name, arrays in self.arrays.items():
            for array, pending in arrays.items():
                if self._is_stored(name, pending):
                    found.setdefault(array, []).append((name, pending))
        return dict(sorted(found.items()))

    def _is_stored(self, name: str, pending: PendingArray) -> bool:
        """Return whether a data file has to say something of an array of a loose dataset."""
        # A reset without chunks matters only where older files hold something.
        return bool(pending.chunks) or ((pending.reset or pending.resized) and name not in self.created)
