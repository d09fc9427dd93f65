"""A data file that is begun before the flush: on object stores chunks leave while others are still encoded.

It is a head start and no more. The heap keeps every payload, so where a flush wants other chunks than those that were
sent, or sending failed, the file is taken back and another one is written from the heap.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import numpy as np

from atlas.chunks import Integers
from atlas.columns import distinct
from atlas.config import settings
from atlas.errors import AtlasError
from atlas.heap import Heap
from atlas.payloads import Payloads, copy_payloads
from atlas.segment import SegmentWriter
from atlas.storage import EarlyWriter, Storage
from atlas.storage.names import data_key

# Chunks of a dataset that may lie apart from each other in a file on an object store.
MOST_CHUNKS_APART = 64

# What was begun so long ago is begun anew: a day later it would be taken for what a dead writer left.
_STALE_SECONDS = 60 * 60

# Below so many parts an object is put after it is encoded: beginning early saves no more than the requests cost.
_FEWEST_PARTS = 3


class HeadStart:
    """The new data file of an array, and which payloads of the heap are in it.

    Parameters
    ----------
    heap : Heap
    key : str
        The file's.
    writer : EarlyWriter
    segment : SegmentWriter
    """

    def __init__(self, heap: Heap, key: str, writer: EarlyWriter, segment: SegmentWriter) -> None:
        self.key = key
        self.writer = writer
        self.segment = segment
        self._heap = heap
        self._rewinds = heap.rewinds
        self._sent: list[tuple[Integers, Integers]] = []
        self._began = time.monotonic()
        self._owner: int | None = os.getpid()

    def send(self, offsets: Integers, lengths: Integers) -> None:
        """Send payloads of the heap."""
        offsets, lengths = offsets[lengths > 0], lengths[lengths > 0]
        self._sent.append((offsets, copy_payloads(Payloads(self._heap.view), offsets, lengths, self.segment)))

    @property
    def directory(self) -> str:
        """That of the array."""
        return self.key.rpartition("/")[0]

    @property
    def is_good(self) -> bool:
        """Whether a commit of this process may still complete it."""
        is_own = self._owner == os.getpid() and self._rewinds == self._heap.rewinds
        return is_own and time.monotonic() - self._began < _STALE_SECONDS and not self.writer.has_failed

    def places(self, directory: str, offsets: Integers, lengths: Integers) -> Integers | None:
        """Return where payloads of the heap are in the file, -1 for those that are not.

        ``None`` if it has others too, belongs into another directory, or cannot be completed.
        """
        if not self._sent or not self.is_good or directory != self.directory:
            return None
        sent, places = (np.concatenate(column) for column in zip(*self._sent, strict=True))
        order = np.argsort(sent)
        at = order[np.minimum(np.searchsorted(sent, offsets, sorter=order), len(sent) - 1)]
        found = np.where((sent[at] == offsets) & (lengths > 0), places[at], -1)
        return found if len(distinct(found[found >= 0])) == len(sent) else None

    def hand_over(self) -> SegmentWriter:
        """Give the file up to a commit, which completes it or takes it back."""
        self._owner = None
        return self.segment

    def drop(self) -> None:
        """Take back what was sent; in a forked child it is the parent's."""
        if self._owner == os.getpid():
            self._owner = None
            self.writer.abort()


class HeadStarts:
    """The files that were begun ahead of one flush.

    Parameters
    ----------
    storage : Storage
    heap : Heap
        Where its chunks wait.
    """

    def __init__(self, storage: Storage, heap: Heap) -> None:
        self._storage = storage
        self._heap = heap
        self._starts: dict[str, HeadStart] = {}

    def sender(self, array: str, directory: str, count: int, chunks: int) -> Sender | None:
        """Return what sends so many chunks of so many datasets of an array; ``None`` where that is not worth it."""
        return None if self._storage.is_local else Sender(partial(self._begun, array, directory), count, chunks)

    def _begun(self, array: str, directory: str) -> HeadStart | None:
        known = self._starts.get(array)
        if known is not None:
            return known if known.is_good and known.directory == directory else None
        held = sum(start.writer.held for start in self._starts.values())
        if held + _FEWEST_PARTS * settings().part_bytes > settings().flight_bytes // 2:
            return None
        self._storage.begin_writing()
        file_id = uuid.uuid4()
        key = data_key(directory, file_id)
        writer = self._storage.create_early(key)
        if writer is not None:
            segment = SegmentWriter(writer, key, file_id.bytes, recorded=False)
            self._starts[array] = HeadStart(self._heap, key, writer, segment)
        return self._starts.get(array)

    def of(self, array: str) -> HeadStart | None:
        """Return the file of an array, if one was begun."""
        return self._starts.get(array)

    def drop(self) -> None:
        """Take back all that no commit has taken over."""
        for start in self._starts.values():
            start.drop()


class Sender:
    """Sends the chunks of one block while it is encoded, if they are many.

    Readers fetch the same chunk of many datasets, so those lie together in a file. They still do where a block is
    encoded in that order, and has enough of each.

    Parameters
    ----------
    begun : callable
        Gives the file; ``None`` if it is not to be begun.
    count, chunks : int
        Datasets, and chunks of each.
    """

    def __init__(self, begun: Callable[[], HeadStart | None], count: int, chunks: int) -> None:
        self._begun = begun
        self._count = count
        self._chunks = chunks
        self._waiting: list[tuple[Integers, Integers]] = []
        self._rows = self._bytes = 0
        self._is_over = False

    def take(self, offsets: Integers, lengths: Integers) -> None:
        """Send payloads of the heap, as soon as it is seen that it is worth it."""
        if self._is_over:
            return
        self._waiting.append((offsets, lengths))
        self._rows += len(offsets)
        self._bytes += int(lengths.sum())
        if self._is_worth_it:
            # Whatever fails now, the flush does anew, and says what is wrong.
            with suppress(AtlasError):
                self._is_over = not self._send()
                return
            self._is_over = True

    def _send(self) -> bool:
        start = self._begun()
        if start is None:
            return False
        waiting, self._waiting = self._waiting, []
        for offsets, lengths in waiting:
            start.send(offsets, lengths)
        return True

    @property
    def _is_worth_it(self) -> bool:
        expected = self._bytes / self._rows * self._count
        lies_together = self._chunks == 1 or (self._chunks <= MOST_CHUNKS_APART and expected >= settings().fetch_bytes)
        return lies_together and expected * self._chunks >= _FEWEST_PARTS * settings().part_bytes
