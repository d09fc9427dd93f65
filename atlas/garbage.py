"""Removing what no state of a store needs: files that were replaced, and what commits left that came to nothing.

On object stores this is the only way they go. Nobody can tell there who still reads a replaced file, or whether an
object that nothing refers to belongs to a commit under way: age decides, by the clock of the store itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from atlas.commit import UNFINISHED_SECONDS, publish
from atlas.errors import InvalidArgument
from atlas.leftovers import GRACE_SECONDS, abandoned, known_files, known_to_newer, recover, sweep, unneeded
from atlas.root import Root
from atlas.roots import LostRace, Race, load_root, next_state
from atlas.storage import WRITING, Storage, Stored
from atlas.storage.names import RETIRED, is_file_of_a_commit, is_probe, name_of, new_probe_key


@dataclass
class GarbageReport:
    """What :meth:`atlas.Atlas.gc` removed, or would remove.

    Attributes
    ----------
    removed : list of str
        Objects of the store.
    bytes : int
        Their size.
    uploads : int
        Uploads in parts that were never completed.
    waiting : list of str
        Objects that nothing refers to any more and that are too young to go.

    Examples
    --------
    >>> import atlas, xarray as xr
    >>> with atlas.Atlas.create("fleet") as store:
    ...     xr.Dataset({"t": ("x", [1.5, 2.5])}).atlas.write(store, "jan")
    >>> store.gc()
    GarbageReport(removed=[], bytes=0, uploads=0, waiting=[])
    """

    removed: list[str] = field(default_factory=list)
    bytes: int = 0
    uploads: int = 0
    waiting: list[str] = field(default_factory=list)


def collect(storage: Storage, grace: float | None, unfinished: float | None, dry_run: bool) -> GarbageReport:
    """Remove what no state needs; see :meth:`atlas.Atlas.gc`."""
    grace = GRACE_SECONDS if grace is None else grace
    unfinished = UNFINISHED_SECONDS if unfinished is None else unfinished
    for name, value in (("grace", grace), ("unfinished", unfinished)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
            raise InvalidArgument(f"{name} must be a number of seconds, not {value!r}")
    if storage.is_local:
        return _collect_locally(storage, dry_run)
    return _collect_remotely(storage, grace, unfinished, dry_run)


def _collect_locally(storage: Storage, dry_run: bool) -> GarbageReport:
    """Remove what the next writer would: the lock says that no commit is under way, and pins who reads."""
    with storage.writer_lock(mark=b"" if dry_run else WRITING) as interrupted:
        root = load_root(storage)
        sizes = {item.key: item for item in storage.inventory()}
        retired = [key for key, *_ in root.retired]
        needed = known_to_newer(storage, root)
        free = [key for key, *_ in unneeded(storage, root, int(time.time()), needed)]
        gone = abandoned(storage, sizes, root, interrupted)
        report = _report(sizes, [*gone, *free], sorted(set(retired) - set(free)))
        if not dry_run:
            recover(storage, root, interrupted, gone)
            sweep(storage, root, needed)
        return report


def _report(found: dict[str, Stored], removed: list[str], waiting: list[str]) -> GarbageReport:
    # What was put aside is listed at another place.
    aside = {name_of(key): item for key, item in found.items() if key.startswith(f"{RETIRED}/")}
    items = [found.get(key) or aside.get(name_of(key)) for key in removed]
    there = [(key, item.size) for key, item in zip(removed, items, strict=True) if item is not None]
    return GarbageReport([key for key, _ in there], sum(size for _, size in there), waiting=waiting)


def _collect_remotely(storage: Storage, grace: float, unfinished: float, dry_run: bool) -> GarbageReport:
    if not dry_run:
        storage.begin_writing()
    # Before the listing: whatever becomes part of the store after this is young.
    root = load_root(storage)
    now, found = _look(storage, dry_run)
    retired = {key: since for key, _, since in root.retired}
    old = [key for key, since in retired.items() if now - since >= grace]
    loose = dict(_loose(root, found, set(retired)))
    gone = [key for key, modified in loose.items() if now - modified >= unfinished]
    waiting = sorted((retired.keys() & found.keys()) - set(old)) + sorted(loose.keys() - set(gone))
    report = _report(found, old + gone, waiting)
    if dry_run:
        return report
    if old or gone:
        # A commit that was built on an earlier state cannot succeed from here on, however long it slept after it had
        # put its files: it begins anew. One that was faster has its files.
        needed = known_files(_note(storage, root, set(old)))
        report = _report(found, [key for key in report.removed if key not in needed], waiting)
        storage.delete_all(report.removed)
    report.uploads = storage.drop_unfinished(now - unfinished)
    return report


def _look(storage: Storage, dry_run: bool) -> tuple[float, dict[str, Stored]]:
    """Return the time by the store's clock, and what there is."""
    if dry_run:
        return time.time(), {item.key: item for item in storage.inventory()}
    probe = new_probe_key()
    storage.replace(probe, b"")
    try:
        found = {item.key: item for item in storage.inventory()}
    finally:
        storage.delete(probe)
    seen = found.pop(probe, None)
    return (seen.modified if seen and seen.modified else time.time()), found


def _loose(root: Root, found: dict[str, Stored], retired: set[str]) -> Iterator[tuple[str, float]]:
    """Yield what nothing refers to, and when it was put."""
    known = known_files(root) | retired
    for key, item in found.items():
        if key not in known and (is_file_of_a_commit(key) or is_probe(key)):
            yield key, item.modified


def _note(storage: Storage, root: Root, going: set[str]) -> Root:
    """Publish, and return, a state that has no more files waiting that are going to be removed."""
    race = Race(storage)
    while True:
        left = tuple(entry for entry in root.retired if entry[0] not in going)
        try:
            return publish(storage, replace(next_state(storage, root), retired=left), root)
        except LostRace as lost:
            root = race.again(lost)
