"""What no state of a store needs any more, or never did: told from what others may still need, and removed.

Files that were replaced, as long as nobody reads an older state; and what commits left that came to nothing.
"""

from __future__ import annotations

import logging
import re
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence, Set

from atlas.errors import AtlasError
from atlas.root import ROOT_KEYS, Root, root_key
from atlas.roots import recorded_state
from atlas.storage import WRITING, Storage
from atlas.storage.names import CATALOG, is_file_of_a_commit, is_record, name_of, record_key

_log = logging.getLogger("atlas")

# How long a retired file outlives its replacement where nobody can tell whether it is still read.
GRACE_SECONDS = 15 * 60

# Locally so many wait for a reader that stays and stays, before time decides.
_MOST_WAITING = 10_000


def sweep(storage: Storage, root: Root, needed: Set[str]) -> tuple[tuple[str, int, int], ...]:
    """Remove the retired files that are :func:`unneeded`; return those that stay, for the next commit to note.

    No state before refers to a retired file, so it may go before the next one is published. One that cannot be
    removed stays noted, and somebody tries again.
    """
    free = set(unneeded(storage, root, int(time.time()), needed))
    return tuple(entry for entry in root.retired if not (entry in free and try_to_remove(storage, entry[0])))


def try_to_remove(storage: Storage, key: str) -> bool:
    """Remove a file that is not needed, and return whether that was possible; if not, it is said in the log."""
    try:
        storage.purge(key)
    except AtlasError as error:
        _log.warning("%s: an old file could not be removed: %s", storage.describe(), error)
        return False
    return True


# A root that was not renamed into its place, and pending changes whose file was not made nameless.
_BESIDE_NAME = re.compile(r"\.atlas\..*\.tmp-[0-9a-f]{32}|\.atlas\.spill-[0-9a-f]{32}")


def recover(storage: Storage, root: Root, interrupted: bytes, gone: Sequence[str] | None = None) -> None:
    """Remove what a writer that died left behind: files that are :func:`abandoned`, unless the caller has looked.

    Only called under the writer lock, so none of them can belong to a commit under way. What a newer root
    must have known stays: an older one was put in its place, and :func:`~atlas.repair.repair` can bring it back.
    """
    # What it made and did not sync is relied on from here on.
    storage.sync_place()
    there = files_of(storage)
    for name in there:
        # A root of another name was overwritten, and the writer died before it could remove it.
        if _BESIDE_NAME.fullmatch(name) or (name in ROOT_KEYS and name != root_key(root.config)):
            storage.delete(name)
    # Should one stay, the next writer is to find the mark as it is.
    for key in abandoned(storage, there, root, interrupted) if gone is None else gone:
        storage.purge(key)


def abandoned(storage: Storage, there: Iterable[str], root: Root, interrupted: bytes) -> list[str]:
    """Return which of the files that are there no state of the store knows, neither this one nor a newer one."""
    unknown = strays(there, root)
    # What was interrupted was going to follow this very state; without its mark, it may have been as well. A repair
    # that was interrupted found its state here: what is newer than the root was committed, or is its own.
    threshold = root.generation - 1 if is_of_a_copy(storage, root) else root.generation + (interrupted == WRITING)
    needed = _known_to(_recorded(storage, unknown, root, threshold))
    if needed:
        _log.warning("%s: its root is older than the record of a later commit; repair tells more", storage.describe())
    return [key for key in unknown if name_of(key) not in needed]


def is_of_a_copy(storage: Storage, root: Root) -> bool:
    """Whether a root is of a commit that left no record here: of a copy of this store that has gone another way.

    Then what was committed here is not older than it.
    """
    return bool(root.files) and not storage.exists(record_key(root.commit))


def known_to_newer(storage: Storage, root: Root) -> set[str]:
    """Return the names of the files that later states know of the same store, whose root an older one was put in.

    They are kept until the store has gone on for as many commits, also those that the older one knows, too: so that
    a repair can bring the later state back, or, once others have been committed, put it aside whole.
    """
    known = {*map(record_key, root.commits), *(key for key, _, _ in root.retired)}
    records = [
        key for name in storage.list_dir(CATALOG) if is_record(name) and (key := f"{CATALOG}/{name}") not in known
    ]
    return _known_to(_recorded(storage, records, root, root.generation))


def _recorded(storage: Storage, keys: Iterable[str], root: Root, generation: int) -> Iterator[tuple[str, Root]]:
    """Yield the states of the same store above a generation that those of the files tell of which are records."""
    for key in keys:
        recorded = recorded_state(storage, key) if is_record(name_of(key)) else None
        if recorded is not None and recorded.store == root.store and recorded.generation > generation:
            yield key, recorded


def _known_to(recorded: Iterable[tuple[str, Root]]) -> set[str]:
    """Return the names of the files that recorded states know, and those of the records."""
    return {name_of(file) for key, root in recorded for file in (key, *known_files(root))}


def known_files(root: Root) -> set[str]:
    """Return the files that a state refers to, and the records of their commits."""
    return {file.key for file in root.files} | {record_key(commit) for commit in root.commits}


def files_of(storage: Storage) -> list[str]:
    """Return the files that are there: what is none, but has the name of one, is not the store's."""
    return [item.key for item in storage.inventory()]


def strays(there: Iterable[str], *roots: Root) -> list[str]:
    """Return which of the files that are there belong to commits, and none of some states knows them."""
    # By their names, which no two files share: one that was put aside for readers is at another place.
    known = {name_of(key) for root in roots for key in (*known_files(root), *(key for key, _, _ in root.retired))}
    return [key for key in there if "/" in key and is_file_of_a_commit(name_of(key)) and name_of(key) not in known]


def unneeded(storage: Storage, root: Root, now: int, needed: Set[str] = frozenset()) -> list[tuple[str, int, int]]:
    """Return the retired files that no reader can need any more: pins tell, and time where nobody can.

    Nor are any among them whose names are said to be `needed`.
    """
    # A pin below one generation is below all later ones.
    generations = sorted({generation for _, generation, _ in root.retired})
    pinned = bisect_left(generations, True, key=lambda below: storage.is_pinned(below) is not False)
    free = set(generations[:pinned])
    time_decides = len(root.retired) > _MOST_WAITING or storage.is_pinned(1) is None
    return [
        (key, generation, since)
        for key, generation, since in root.retired
        if name_of(key) not in needed and (generation in free or (time_decides and now - since > GRACE_SECONDS))
    ]
