"""The storage contract."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any, NamedTuple, Protocol

from atlas.errors import InvalidArgument
from atlas.storage.locks import WRITING
from atlas.storage.ranges import Range
from atlas.storage.stats import IOStats

# No root is longer, nor the directory of a file's columns, each of which is read in one piece: of what says that it is,
# no more is read, or taken into memory.
MOST_BYTES = 64 << 20

# A process may have a thousand files open as a rule, and a commit may write more.
_MOST_OPEN = 128


class Stored(NamedTuple):
    """An object of a store; `modified` is when it was last put, in seconds since 1970."""

    key: str
    size: int
    modified: float


class DataWriter(Protocol):
    """Writes one new object front to back."""

    @property
    def position(self) -> int:
        """Bytes written so far."""

    def write(self, data: Any) -> None:
        """Append bytes."""

    def finish(self) -> None:
        """Make the object durable; its directory entry is left to :meth:`Storage.sync_directories`."""

    def abort(self) -> None:
        """Remove what was written."""


class EarlyWriter(DataWriter, Protocol):
    """Writes an object that is on its way before all of it is written."""

    @property
    def held(self) -> int:
        """Bytes that are in memory, about."""

    @property
    def has_failed(self) -> bool:
        """Whether something that was sent did not arrive."""


class Pin(Protocol):
    """A reader's claim on the files of one generation."""

    def release(self) -> None:
        """Give the claim up."""


class ConditionFailed(Exception):
    """An object is not the version that it was to be."""


class Storage(ABC):
    """One store's place. Keys are relative and "/"-separated; none leads out of the store.

    Absent keys raise :class:`FileNotFoundError`; other failures an :class:`~atlas.errors.AtlasError`.
    """

    @property
    def local_path(self) -> str | None:
        """The directory, when this is one."""
        return None

    @property
    def is_local(self) -> bool:
        """Whether files can be mapped."""
        return self.local_path is not None

    @abstractmethod
    def describe(self) -> str:
        """Return the place in words for messages."""

    @property
    def token(self) -> Hashable:
        """What tells this handle from one that was made with other options."""
        return self.describe()

    @abstractmethod
    def read(self, key: str) -> bytes:
        """Return a whole object; of one that is longer than :data:`MOST_BYTES`, perhaps no more than shows it."""

    def read_versioned(self, key: str) -> tuple[bytes, str | None]:
        """Return a whole object, and what :meth:`replace` needs to replace exactly this version of it."""
        return self.read(key), None

    def read_each(self, keys: Sequence[str]) -> dict[str, tuple[bytes, str | None]]:
        """Return those of the objects that there are."""
        found = {}
        for key in keys:
            with suppress(FileNotFoundError):
                found[key] = self.read_versioned(key)
        return found

    @abstractmethod
    def read_range(self, key: str, offset: int, length: int) -> bytes:
        """Return part of an object; a short read is a :class:`~atlas.errors.CorruptStore`."""

    def read_anew(self, item: Range) -> bytes:
        """Return part of an object as it is stored, whatever is in a cache."""
        return self.read_range(item.key, item.start, item.end - item.start)

    def read_ranges(self, ranges: Sequence[Range]) -> list[bytes]:
        """Return parts of objects."""
        return [self.read_range(key, start, end - start) for key, start, end in ranges]

    def fetch(self, ranges: Sequence[Range], used: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """Yield parts of objects with their numbers, as they come in; `used` says how much of each is wanted."""
        yield from enumerate(self.read_ranges(ranges))

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Return whether there is such an object."""

    @abstractmethod
    def size(self, key: str) -> int:
        """Return the length of an object, put aside or not."""

    @abstractmethod
    def list_dir(self, prefix: str) -> list[str]:
        """Return the names below a prefix. For maintenance; data is never found by listing."""

    @abstractmethod
    def inventory(self) -> list[Stored]:
        """Return every object of the store. For maintenance, too."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object; a missing one is fine."""

    def delete_all(self, keys: Sequence[str]) -> None:
        """Remove objects."""
        for key in keys:
            self.delete(key)

    def drop_unfinished(self, before: float) -> int:
        """Remove what uploads left that were begun before a time and not completed; return how many there were."""
        return 0

    @abstractmethod
    def data_path(self, key: str) -> str | None:
        """Return the path other processes can map the object at; ``None`` when there is none."""

    @abstractmethod
    def create(self, key: str) -> DataWriter:
        """Begin a new object; fails when there is one."""

    def adopt(self, key: str, descriptor: int, size: int) -> DataWriter | None:
        """Begin a new object with the first `size` bytes of an open file that has no name, by giving it one.

        ``None`` where that is not possible: then they have to be copied.
        """
        return None

    def make_directories(self, names: Sequence[str]) -> None:
        """Make directories of data files durably, all by one sync; where there are no directories, nothing is done."""
        return

    def must_finish(self, writers: Sequence[DataWriter]) -> bool:
        """Return whether these new objects take up so much that they are to be made durable before another is begun."""
        return len(writers) >= _MOST_OPEN

    @abstractmethod
    def sync_place(self) -> None:
        """Make the store's own entries durable, and the directories above it."""

    @abstractmethod
    def sync_directories(self, keys: Sequence[str]) -> None:
        """Make the directory entries of new objects durable."""

    def finish_all(self, writers: Sequence[DataWriter]) -> None:
        """Make new objects durable; their directory entries are left to :meth:`sync_directories`."""
        for writer in writers:
            writer.finish()

    def abort_all(self, writers: Sequence[DataWriter]) -> None:
        """Remove what was written of new objects."""
        for writer in writers:
            writer.abort()

    @abstractmethod
    def replace(self, key: str, data: bytes, version: str | None = None) -> str | None:
        """Replace an object atomically and durably; return its new version.

        Where objects have versions, the old one must be `version`, or absent if that is empty:
        :class:`ConditionFailed` otherwise. ``None`` replaces whatever is there.
        """

    def expect_version(self, key: str, version: str | None) -> None:
        """Say which version of an object :meth:`replace` is soon going to replace.

        Where it has to look first, that is done meanwhile.
        """
        return

    @abstractmethod
    def create_exclusive(self, key: str, data: bytes) -> str | None:
        """Make an object atomically and durably, and return its version; :class:`FileExistsError` when there is one."""

    @abstractmethod
    def begin_writing(self) -> None:
        """Refuse to write where commits could be lost; asked before every one."""

    def begin_creating(self, keys: Sequence[str]) -> bool:
        """Do as :meth:`begin_writing` does, and return whether any of some objects is there.

        Where a lock keeps others out, that is not looked for before it is held.
        """
        self.begin_writing()
        return False

    def create_early(self, key: str) -> EarlyWriter | None:
        """Begin a new object that is going to be large, and leaves while it is written; ``None`` where none does so."""
        return None

    @property
    def io_stats(self) -> IOStats:
        """The requests that were made; of a local store there are none."""
        return IOStats()

    @abstractmethod
    def writer_lock(self, timeout: float = 60.0, mark: bytes = WRITING) -> AbstractContextManager[bytes]:
        """Exclude every other writer; gives the mark of one before that may have left something unfinished, or nothing.

        `mark` tells the next writer what was; without one it is told what it would have been: for who only looks.
        """

    def holds_lock(self) -> bool:
        """Return whether the lock that this thread has taken still keeps others out, as far as that can be seen."""
        return True

    def was_interrupted(self) -> bool:
        """Return whether a writer may have left something unfinished, or be at work; asked without the lock."""
        return False

    def was_writing(self) -> bool:
        """Return whether what may be unfinished is any commit, not only a repair's."""
        return False

    @abstractmethod
    def pin(self, generation: int) -> Pin:
        """Claim the files of a generation for as long as the pin is held."""

    @abstractmethod
    def is_pinned(self, below: int) -> bool | None:
        """Return whether a reader holds a generation below this one; ``None`` where nobody can tell."""

    @abstractmethod
    def retire(self, key: str) -> None:
        """Put a data file aside; readers of older generations still find it."""

    @abstractmethod
    def keep_copy(self, key: str, copy: str) -> None:
        """Make an object, put aside or not, durable under a second key as well."""

    @abstractmethod
    def purge(self, key: str) -> None:
        """Remove a data file, put aside or not."""


def check_key(key: str) -> str:
    """Return a key that stays within the store."""
    parts = key.split("/")
    if key.startswith("/") or "\0" in key or any(part in ("", ".", "..") for part in parts):
        raise InvalidArgument(f"bad key {key!r}")
    return key
