"""Power cuts: every state that a disk may be in when unsynced writes are lost and reordered.

A scenario is run once and every change it makes is recorded. The model then replays the recording and
cuts the power after every call. What POSIX does not promise may be missing: each piece of a write since the
file's last fsync, and each entry of a directory since the directory's last fsync, by itself, later ones
present while earlier ones are lost; a file may have its new size and zeros for content. What is left is
written out and opened. It must be what was acknowledged, or what was being committed, whole.

Many of those states look alike to a reader, who looks at few files. A verdict is therefore kept with what the
reader looked at, and holds for every state that is the same there.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import atlas
from atlas import commitfiles, datafiles, heap
from atlas.storage.files import sync_directory
from torture.disk import Disk, Fault, Step
from torture.scenes import DAMAGED, WHOLE, Share, State, cells, fill_dataset, seen_at, state_of

# ── the disk ──────────────────────────────────────────────────────────────────────────────────


@dataclass(eq=False)
class File:
    """A file: bytes that are on the disk, and pieces of writes that may be."""

    durable: bytes = b""
    pieces: list[tuple[int, bytes | None]] = field(default_factory=list)  # None cuts the file off there
    contents: dict[Any, bytes] = field(default_factory=dict)
    is_lost: bool = False

    def content(self, kept: tuple[bool, ...]) -> bytes:
        """Return what the file holds when only these pieces arrived; one flag more says that the size did."""
        if kept not in self.contents:
            self.contents[kept] = self._content(kept)
        return self.contents[kept]

    def _content(self, kept: tuple[bool, ...]) -> bytes:
        data = bytearray(self.durable)
        for there, (offset, piece) in zip(kept, self.pieces, strict=False):
            end = offset + len(piece or b"")
            if there and piece is None:
                del data[offset:]
            elif there and piece is not None:
                data.extend(bytes(max(0, end - len(data))))
                data[offset:end] = piece
        if len(kept) > len(self.pieces) and kept[-1]:
            size = max([len(data), *(offset + len(piece or b"") for offset, piece in self.pieces)])
            data.extend(bytes(size - len(data)))
        return bytes(data)

    def write(self, offset: int, data: bytes, parts: int) -> None:
        """Take a write, in pieces that reach the disk one by one."""
        step = max(-(-len(data) // parts), 1)
        self.pieces += [(offset + i, data[i : i + step]) for i in range(0, len(data), step)]
        self.contents.clear()

    def sync(self) -> None:
        """Make all of it durable, unless the system has told before that it cannot, and forgotten about it."""
        if self.is_lost:
            return
        self.durable, self.pieces = self._content((True,) * len(self.pieces)), []
        self.contents.clear()


@dataclass(eq=False)
class Folder:
    """A directory; its entries are kept by the model."""


@dataclass(eq=False)
class Change:
    """Entries that change together; `after` must have arrived too."""

    entries: list[tuple[Folder, str, Any]]
    after: Change | None = None


class Model:
    """The disk after some calls."""

    def __init__(self, parts: int) -> None:
        self.parts = parts
        self.top = Folder()
        self.live: dict[tuple[Folder, str], Any] = {}
        self.durable: dict[tuple[Folder, str], Any] = {}
        self.pending: list[Change] = []
        self.nameless: dict[str, File] = {}

    def find(self, path: str) -> Any:
        """Return what is at a path now."""
        if path in self.nameless:
            return self.nameless[path]
        found: Any = self.top
        for name in path.split("/"):
            found = found if name in ("", ".") else self.live.get((found, name))
        return found

    def _change(self, *entries: tuple[Folder, str, Any], after: Change | None = None) -> Change:
        change = Change(list(entries), after)
        for folder, name, node in entries:
            self.live[folder, name] = node
        self.pending.append(change)
        return change

    def apply(self, step: Step) -> None:
        """Take one recorded call; calls that failed change nothing."""
        call = getattr(self, f"_{step.call}", None)
        if call is None:
            raise AssertionError(f"{step.call} is not modelled")
        call(step)

    def _place(self, path: str) -> tuple[Folder, str, Any]:
        parent, name = os.path.split(path)
        folder = self.find(parent)
        return folder, name, self.live.get((folder, name))

    def _create(self, step: Step) -> None:
        folder, name, _ = self._place(step.path)
        self._change((folder, name, File()))

    def _create_nameless(self, step: Step) -> None:
        self.nameless[step.path] = File()

    def _mkdir(self, step: Step) -> None:
        folder, name, found = self._place(step.path)
        if found is None:
            self._change((folder, name, Folder()))

    def _write(self, step: Step) -> None:
        file = self.find(step.path)
        if isinstance(file, File):  # else it was unlinked while open: nobody will find it again
            file.write(step.offset, step.data, self.parts)

    def _ftruncate(self, step: Step) -> None:
        file = self.find(step.path)
        file.pieces.append((step.offset, None))
        file.contents.clear()

    def _truncate(self, step: Step) -> None:
        self._ftruncate(Step("ftruncate", step.path, True))

    def _fsync(self, step: Step) -> None:
        node = self.find(step.path)
        if isinstance(node, File):
            node.sync()
            return
        for change in [c for c in self.pending if any(folder is node for folder, _, _ in c.entries)]:
            self._settle(change)

    _fdatasync = _fsync

    def _lost_sync(self, step: Step) -> None:
        node = self.find(step.path)
        if isinstance(node, File):
            node.is_lost = True

    def _settle(self, change: Change) -> None:
        if change.after is not None:
            self._settle(change.after)
        if change in self.pending:
            self.pending.remove(change)
            self.durable |= {(folder, name): node for folder, name, node in change.entries}

    def _replace(self, step: Step) -> None:
        source, old, node = self._place(step.path)
        target, new, _ = self._place(step.target)
        if source is target:
            self._change((source, old, None), (target, new, node))
        else:
            added = self._change((target, new, node))
            self._change((source, old, None), after=added)

    _rename = _replace

    def _link(self, step: Step) -> None:
        target, new, _ = self._place(step.target)
        self._change((target, new, self.find(step.path)))

    def _unlink(self, step: Step) -> None:
        folder, name, found = self._place(step.path)
        if isinstance(found, File):
            self._change((folder, name, None))

    _remove = _unlink

    def _rmdir(self, step: Step) -> None:
        folder, name, found = self._place(step.path)
        if isinstance(found, Folder) and not any(f is found and n for (f, _), n in self.live.items()):
            self._change((folder, name, None))

    # ── cuts ─────────────────────────────────────────────────────────────────────────────────

    def trees(self, limit: int, rng: random.Random) -> Iterator[dict[str, File]]:
        """Yield what may be where, by path."""
        for kept in _choices(len(self.pending), limit, rng):
            chosen = {change for change, there in zip(self.pending, kept, strict=True) if there}
            if all(
                change.after is None or change.after in chosen or change.after not in self.pending for change in chosen
            ):
                entries = dict(self.durable)
                for change in self.pending:
                    if change in chosen:
                        entries |= {(folder, name): node for folder, name, node in change.entries}
                yield self._files(entries)

    def _files(self, entries: dict[tuple[Folder, str], Any]) -> dict[str, File]:
        return {path: node for path, node in self._tree(entries).items() if isinstance(node, File)}

    def _tree(self, entries: dict[tuple[Folder, str], Any]) -> dict[str, Any]:
        below: dict[Folder, list[tuple[str, Any]]] = defaultdict(list)
        for (folder, name), node in entries.items():
            if node is not None:
                below[folder].append((name, node))
        found: dict[str, Any] = {}
        waiting = [("", self.top)]
        while waiting:
            prefix, folder = waiting.pop()
            for name, node in below[folder]:
                found[prefix + name] = node
                if isinstance(node, Folder):
                    waiting.append((f"{prefix}{name}/", node))
        return found

    def states(self, limit: int, rng: random.Random) -> Iterator[dict[str, bytes]]:
        """Yield what the disk may hold if the power is cut now."""
        for tree in self.trees(limit, rng):
            whole = {path: file.durable for path, file in tree.items() if not file.pieces}
            torn = [(path, file) for path, file in tree.items() if file.pieces]
            open_files = list(dict.fromkeys(file for _, file in torn))
            counts = [len(file.pieces) + 1 for file in open_files]
            for kept in _choices(sum(counts), limit, rng):
                cut = dict(zip(open_files, _split(kept, counts), strict=True))
                yield whole | {path: file.content(cut[file]) for path, file in torn}

    def write_out(self, top: Path) -> None:
        """Make real what a process sees: everything."""
        for path, node in self._tree(self.live).items():
            if isinstance(node, Folder):
                (top / path).mkdir(parents=True, exist_ok=True)
        write_out(
            {path: file.content((True,) * len(file.pieces)) for path, file in self._files(self.live).items()}, top
        )


def _choices(count: int, limit: int, rng: random.Random) -> Iterable[tuple[bool, ...]]:
    """Return every way to keep some of `count` things, or the extremes and a sample when there are too many."""
    if 2**count <= limit:
        return itertools.product((True, False), repeat=count)
    every, none = (True,) * count, (False,) * count
    chosen = [every, none]
    for i in range(count):
        chosen += (*every[:i], False, *every[i + 1 :]), (*none[:i], True, *none[i + 1 :])
    chosen += [tuple(rng.random() < 0.5 for _ in range(count)) for _ in range(limit - len(chosen))]
    return chosen


def _split(flags: tuple[bool, ...], counts: list[int]) -> Iterator[tuple[bool, ...]]:
    first = 0
    for count in counts:
        yield flags[first : first + count]
        first += count


# ── scenarios ─────────────────────────────────────────────────────────────────────────────────


@dataclass
class Recording:
    """Calls, and between them what is promised: the states that a cut may leave from there on.

    `ends` says how many calls there were after each act, and `syncs` which steps of it were syncs.
    """

    calls: list[Step]
    promises: dict[int, list[Any]]
    ends: list[int]
    syncs: list[list[int]]


Acts = list[Callable[[Path], None]]


def record(
    acts: Acts,
    top: Path,
    first: Any = None,
    fault: Fault | None = None,
    intended: Sequence[Any] = (),
    see: Callable[[Path], State] = state_of,
) -> Recording:
    """Run acts one after the other on the store below `top`, which holds the state `first`.

    One that meets the fault may fail, which leaves open whether it led to the states that it was intended to.
    """
    place = top / "deep" / "store"
    disk = Disk(str(top), fault, record=True)
    possible, promises, ends, syncs = [first], {0: [first]}, list[int](), list[list[int]]()
    with disk.installed():
        for act in acts:
            begun, step, was_hurt, unsure = len(disk.recorded), len(disk.steps), disk.struck, list[Any]()
            try:
                act(place)
            except atlas.AtlasError:
                if was_hurt or not disk.struck:
                    raise
                unsure = [*possible, *intended]
            ends.append(len(disk.recorded))
            syncs.append([n for n in range(step, len(disk.steps)) if disk.steps[n].call == "fsync"])
            try:
                after = see(place)
            except atlas.AtlasError as error:
                raise Violation(f"after {act.__name__} not even this process can read: {error}") from None
            # From its first call on an act may have happened; from its last on it has.
            promises[begun + 1] = [*possible, after, *unsure]
            possible = [after, *unsure]
            promises[ends[-1]] = possible
    assert not disk.escaped, disk.escaped
    return Recording([_relative(step, disk.top) for step in disk.recorded], promises, ends, syncs)


def _relative(step: Step, top: str) -> Step:
    path, target = (os.path.relpath(p, top) if p else "" for p in (step.path, step.target))
    return replace(step, path=path, target=target)


def _create(place: Path) -> None:
    atlas.Atlas.create(place, workers=1)


def _mkdir(place: Path) -> None:
    """What a creator does first, who is killed then."""
    place.mkdir(parents=True)


def _first(place: Path) -> None:
    with atlas.Atlas.open(place, workers=1) as store:
        fill_dataset(store, "a", 1)
        fill_dataset(store, "b", 2)


def _second(place: Path) -> None:
    with atlas.Atlas.open(place, workers=1) as store:
        store.delete_dataset("a")
        store.open_dataset("b").set_attribute("seed", 4)
        fill_dataset(store, "c", 3)


def _compact(place: Path) -> None:
    atlas.Atlas.open(place, workers=1).compact()


def _third(place: Path) -> None:
    with atlas.Atlas.open(place, workers=1) as store:
        fill_dataset(store, "d", 4)


def _small(place: Path) -> None:
    with atlas.Atlas.open(place, workers=1) as store:
        view = store.create_dataset(f"s{store.row_slots()}")
        view.define_array("only", "int8", ["x"], [4])
        view.write_array("only", [0], np.arange(4, dtype="int8"))


def _change(place: Path) -> None:
    """Two datasets created together, one renamed, one copied, arrays resized."""
    with atlas.Atlas.open(place, workers=1) as store:
        first = store.list_datasets()[0]
        t = {"dtype": "float32", "dims": ["y", "x"], "shape": (6, 8), "chunk_shape": (3, 4)}
        names = [f"{kind}{store.row_slots()}" for kind in ("one", "two", "copy", "renamed")]
        store.create_datasets(names[:2], {"t": t})
        store.write_stacked("t", names[:2], np.stack([cells(1), cells(2)]))
        store.copy_dataset(first, names[2])
        store.rename_dataset(first, names[3])
        store.open_dataset(names[3]).append("t", cells(4, (2, 8)))


def _spill(place: Path, flush: Callable[[atlas.Atlas], None] = atlas.Atlas.flush) -> None:
    """Pending changes that wait in a file."""
    with atlas.Atlas.open(place, workers=1, pending_bytes=0) as store:
        for i in range(2):
            fill_dataset(store, f"spilled{store.row_slots()}", i + 5)
        flush(store)


def _spill_alone(place: Path, flush: Callable[[atlas.Atlas], None] = atlas.Atlas.flush) -> None:
    """Pending changes that wait in files, which become data files."""
    kept = heap.OWN_BYTES, heap.MORE_BYTES
    heap.OWN_BYTES = heap.MORE_BYTES = 0
    try:
        _spill(place, flush)
    finally:
        heap.OWN_BYTES, heap.MORE_BYTES = kept


def _spill_insisting(place: Path) -> None:
    """The same, tried again by the same handle if it fails."""
    _spill_alone(place, _insisting)


def _insisting(store: atlas.Atlas) -> None:
    try:
        store.flush()
    except atlas.StorageError:
        store.flush()


def _side_by_side(place: Path) -> None:
    """So many new arrays that their files and directories are synced by several threads."""
    with atlas.Atlas.open(place, workers=1) as store:
        view = store.create_dataset(f"wide{store.row_slots()}")
        for i in range(8):
            view.define_array(f"w{i}", "int8", ["x"], [2])
            view.write_array(f"w{i}", [0], np.full(2, i, "int8"))


def _in_pieces(place: Path) -> None:
    """A flush after which older files stay, and the dataset table is in files of its own."""
    kept = datafiles.MERGE_BELOW, commitfiles.INLINE_BYTES, commitfiles.TABLE_RATIO
    datafiles.MERGE_BELOW, commitfiles.INLINE_BYTES, commitfiles.TABLE_RATIO = 0, 0, 0
    try:
        _small(place)
    finally:
        datafiles.MERGE_BELOW, commitfiles.INLINE_BYTES, commitfiles.TABLE_RATIO = kept


def _overwrite(place: Path) -> None:
    atlas.Atlas.create(place, overwrite=True, workers=1)


def _overwrite_elsewhere(place: Path) -> None:
    atlas.Atlas.create(place, meta_format="msgpack", overwrite=True, workers=1)


def _discard(place: Path) -> None:
    atlas.Atlas.open(place, workers=1).discard_if_new()


ACTS: Acts = [_create, _discard, _create, _first, _second, _compact, _third]
ACTS += [
    _change,
    _spill,
    _spill_alone,
    _in_pieces,
    _in_pieces,
    _small,
    _overwrite_elsewhere,
    _third,
    _side_by_side,
    _overwrite,
]

# Of those that take older files into their own, some whose files are synced one by one, and some by several threads.
FEW_ACTS: Acts = [_create, _first, _second]
WIDE_ACTS: Acts = [_create, _side_by_side, _side_by_side]


# ── checking ──────────────────────────────────────────────────────────────────────────────────


class Violation(AssertionError):
    """A power cut left what must not be."""


# Files, and directories whose names were asked for.
LookedAt = tuple[tuple[str, ...], tuple[str, ...]]


class Checker:
    """Opens states; remembers what each verdict depended on."""

    def __init__(self, work: Path, see: Callable[[Path], Any] = state_of) -> None:
        self._work = work
        self._see = see
        self._verdicts: OrderedDict[LookedAt, dict[tuple[Any, ...], Any]] = OrderedDict()
        self.opened = 0

    def state(self, files: dict[str, bytes]) -> Any:
        """Return what a reader sees of a disk; an error as its text."""
        for looked_at, known in self._verdicts.items():
            held = _found(files, looked_at)
            if held in known:
                # Whoever reads the next state is likely to look at the same.
                self._verdicts.move_to_end(looked_at, last=False)
                return known[held]
        seen, looked_at = self._open(files)
        self._verdicts.setdefault(looked_at, {})[_found(files, looked_at)] = seen
        return seen

    def _open(self, files: dict[str, bytes]) -> tuple[Any, LookedAt]:
        # A new directory each time: a process may keep files mapped by their paths.
        self.opened += 1
        top = self._work / f"state-{self.opened}"
        write_out(files, top)
        disk = Disk(str(top))
        with disk.installed():
            try:
                seen = self._see(top / "deep" / "store")
            except atlas.AtlasError as error:
                seen = f"{type(error).__name__}: {error}"
        shutil.rmtree(top)
        paths, folders = dict[str, None](), dict[str, None]()
        for step in disk.steps:
            (folders if step.call in ("listdir", "scandir") else paths)[os.path.relpath(step.path, disk.top)] = None
        return seen, (tuple(paths), tuple(folders))


def _found(files: dict[str, bytes], looked_at: LookedAt) -> tuple[Any, ...]:
    paths, folders = looked_at
    listed = (tuple(sorted(path for path in files if path.startswith(f"{folder}/"))) for folder in folders)
    return (*map(files.get, paths), *listed)


def write_out(files: dict[str, bytes], top: Path) -> None:
    """Make real files of a state."""
    top.mkdir(exist_ok=True)
    for path, data in files.items():
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).write_bytes(data)


def check(
    recording: Recording,
    checker: Checker,
    parts: int,
    limit: int,
    model: Model | None = None,
    share: Share = WHOLE,
    begin: int = 0,
) -> int:
    """Cut the power after every call from one on, or a share of them; return how many states were looked at."""
    rng = random.Random(7)
    model = model or Model(parts)
    total, promised, kept = 0, recording.promises[0], set[int]()
    for number in range(len(recording.calls) + 1):
        if number in recording.promises:
            promised, kept = recording.promises[number], set()
        for files in model.states(limit, rng) if number >= begin and number in share else ():
            total += 1
            seen = checker.state(files)
            if id(seen) not in kept:
                if seen not in promised:
                    call = recording.calls[number - 1] if number else "the beginning"
                    shown = seen if isinstance(seen, str) else [entry[0] for entry in seen or []] or seen
                    raise Violation(f"after call {number}, {str(call)[:200]}: {shown}; files: {sorted(files)}")
                kept.add(id(seen))
        if number < len(recording.calls):
            model.apply(recording.calls[number])
    return total


def check_scenario(
    work: Path,
    parts: int,
    limit: int,
    acts: Acts | None = None,
    share: Share = WHOLE,
    see: Callable[[Path], State] = state_of,
) -> tuple[int, int]:
    """Record the scenario and cut the power everywhere in it; return the states looked at, and opened."""
    top = work / "recorded"
    top.mkdir()
    try:
        recording = record(acts or ACTS, top)
    finally:
        shutil.rmtree(top)
    checker = Checker(work, see)
    total = check(recording, checker, parts, limit, share=share)
    return total, checker.opened


def repaired(place: Path) -> State:
    """Return what a reader sees once the store has been repaired, whether it has to be or not."""
    with suppress(atlas.StoreNotFound):
        _repair(place)
    return state_of(place)


# What is done before, what is killed, what the next writer does.
KILLS: dict[str, tuple[Acts, Callable[[Path], None], Callable[[Path], None]]] = {
    "create": ([], _create, _small),
    "create where another was killed": ([_mkdir], _create, _small),
    # With a record there already: the directory of records would otherwise be made, and synced, after any other.
    "flush of one array": ([_create, _first], _small, _small),
    "flush": ([_create], _first, _third),
    "flush of what was written ahead": ([_create], _spill_alone, _small),
    "compact": ([_create, _first, _second], _compact, _third),
}


def check_kills(
    work: Path,
    parts: int,
    limit: int,
    cases: Iterable[str] = tuple(KILLS),
    share: Share = WHOLE,
    see: Callable[[Path], State] = state_of,
) -> tuple[int, int]:
    """Kill a writer at its every call, let another commit, and cut the power in that: return the states."""
    total = 0
    checker = Checker(work, see)
    for name in cases:
        before, killed, follows = KILLS[name]
        top = work / name
        top.mkdir()
        recording = record([*before, killed], top)
        shutil.rmtree(top)
        for number in range(recording.ends[len(before) - 1] if before else 0, len(recording.calls)):
            if number not in share:
                continue
            model = Model(parts)
            for step in recording.calls[:number]:
                model.apply(step)
            model.write_out(top)
            seen = state_of(top / "deep" / "store")
            acts = [follows] if seen is not None else [_create, follows]
            after = record(acts, top, seen)
            shutil.rmtree(top)
            # Until the second writer has committed, what the first one was doing may or may not be there.
            for position in (0, 1):
                after.promises[position] += [state for promise in recording.promises.values() for state in promise]
            total += check(after, checker, parts, limit, model)
    return total, checker.opened


# What is done before, and in what a sync fails.
LOST_SYNCS: dict[str, tuple[Acts, Callable[[Path], None]]] = {
    "create": ([], _create),
    "flush": ([_create, _first], _second),
    "flush side by side": ([_create], _side_by_side),
    "flush of what was written ahead": ([_create], _spill_insisting),
    "compact": ([_create, _first, _second], _compact),
}


def check_lost_syncs(
    work: Path, parts: int, limit: int, cases: Iterable[str] = tuple(LOST_SYNCS), share: Share = WHOLE
) -> int:
    """Let each sync fail, and whatever it was to make durable with it; cut the power then and later."""
    total, checker = 0, Checker(work)
    for name in cases:
        before, hurt = LOST_SYNCS[name]
        clean = _recorded(work / name, [*before, hurt])
        for number in share.of(clean.syncs[-1]):
            fault, intended = Fault(number, "lost sync"), clean.promises[clean.ends[-1]]
            recording = _recorded(work / name, [*before, hurt, _next], fault, intended)
            begin = recording.ends[len(before) - 1] if before else 0
            total += check(recording, checker, parts, limit, begin=begin)
    return total


def check_repairs(work: Path, parts: int, limit: int, share: Share = WHOLE) -> int:
    """Cut the power in a repair, and repair what is left: all of it is there, and what was damaged is kept, too."""
    total = 0
    for hurt, see in ((_lose_root, _mended), (_damage_index, _mended_and_kept)):
        recording = _recorded(work / "repair", [_create, _first, _second, hurt, _repair], see=seen_at)
        whole = recording.promises[recording.ends[-1]][0]
        recording.promises = {0: [whole if see is _mended else [*whole, ("1 kept",)]]}
        total += check(recording, Checker(work, see), parts, limit, share=share, begin=recording.ends[-2])
    return total


def _lose_root(place: Path) -> None:
    os.unlink(place / "atlas.json")
    sync_directory(str(place))


def _damage_index(place: Path) -> None:
    key = atlas.Atlas.open(place)._session.snapshot.root.arrays["t"].files[-1].key
    with open(place / key, "r+b") as file:
        file.seek(-20, os.SEEK_END)
        file.write(b"damaged")
        file.flush()
        os.fsync(file.fileno())


def _repair(place: Path) -> None:
    lost = atlas.Atlas.repair(place).lost
    if lost:
        raise Violation(f"a repair found chunks lost: {lost}")


def _mended(place: Path) -> State:
    """Return what a reader sees once the store has been repaired, if it has to be."""
    if seen_at(place) in (None, DAMAGED):
        _repair(place)
    return state_of(place)


def _mended_and_kept(place: Path) -> State:
    """Return the same, and how many damaged data files are kept."""
    seen, kept = _mended(place), {path.name for path in (place / "_damaged").glob("*/t/*.af")}
    return [*seen, (f"{len(kept)} kept",)]


def _next(place: Path) -> None:
    if state_of(place) is None:
        _create(place)
    _small(place)


def _recorded(
    top: Path,
    acts: Acts,
    fault: Fault | None = None,
    intended: Sequence[Any] = (),
    see: Callable[[Path], State] = state_of,
) -> Recording:
    top.mkdir()
    try:
        return record(acts, top, None, fault, intended, see)
    finally:
        shutil.rmtree(top)
