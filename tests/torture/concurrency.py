"""Several processes on one store: readers see whole generations, writers lose nothing and wait for nobody dead."""

from __future__ import annotations

import faulthandler
import itertools
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import atlas
from atlas.storage import LocalStorage
from torture.scenes import in_child

NAMES = ["a", "b", "c"]
ARRAYS = ["u", "v"]
COMMITS = 6


def start(action: Callable[[], Any], quiet: bool = False) -> int:
    """Run something in a forked child; its exit status says whether it ended well."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            action()
            status = 0
        except BaseException:
            if not quiet:
                traceback.print_exc()
        finally:
            os._exit(status)
    return child


def ended_well(child: int) -> bool:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def turning_store(place: Path) -> None:
    """Make the store in which every cell and attribute of a generation has the same number."""
    with atlas.Atlas.create(place, workers=1) as store:
        for name in NAMES:
            view = store.create_dataset(name)
            for array in ARRAYS:
                view.define_array(array, "int64", ["x"], [500], [100])
            view.set_attribute("turn", 0)


def turn(place: Path) -> None:
    """Commit one number after the other, and compact, until killed."""
    store = atlas.Atlas.open(place, workers=1)
    for number in itertools.count(1):
        for name in NAMES:
            for array in ARRAYS:
                store.open_dataset(name).write_array(array, [0], np.full(500, number))
            store.open_dataset(name).set_attribute("turn", number)
        store.flush()
        if number % 3 == 0:
            store.compact()


def read_turns(place: Path, reads: int, seed: int) -> None:
    """Read; every read must be of one generation, and of none before the last one seen.

    Where commits are slow, reads go on for a while until there were some.
    """
    rng, store, last = np.random.default_rng(seed), atlas.Atlas.open(place, mode="r", workers=1), 0
    for number in range(100 * reads):
        if number >= reads and last >= COMMITS:
            return
        if rng.random() < 0.3:
            store.refresh()
        if rng.random() < 0.05:
            store = atlas.Atlas.open(place, mode="r", workers=1)
        seen = {store.open_dataset(name).get_attribute("turn") for name in NAMES}
        for array in ARRAYS:
            seen |= set(np.unique(store.read_array_across_stacked(array, NAMES)).tolist())
        assert len(seen) == 1, f"generations mixed: {seen}"
        assert min(seen) >= last, f"back from {last} to {seen}"
        last = seen.pop()


def check_readers(place: Path, processes: int, reads: int) -> int:
    """Read in several processes while another flushes and compacts; return how many generations there were."""
    turning_store(place)
    writer = start(lambda: turn(place))
    readers = [start(lambda seed=seed: read_turns(place, reads, seed)) for seed in range(processes)]
    results = [ended_well(reader) for reader in readers]
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    assert all(results), "a reader saw what was never committed, or failed"
    return int(atlas.Atlas.open(place, workers=1).info()["generation"])


def count_up(place: Path, own: str, flushes: int) -> None:
    """Commit `flushes` times to an own dataset, every fourth time also to the one that both change."""
    store = atlas.Atlas.open(place, workers=1)
    for number in range(flushes):
        while True:
            names = [own, "shared"] if number % 4 == 0 else [own]
            for name in names:
                view = store.open_dataset(name)
                view.set_attribute("count", view.get_attribute("count") + 1)
                view.write_array("n", [number], np.array([number + 1]))
            try:
                store.flush()
                break
            except atlas.ConflictError as error:
                if error.datasets != ("shared",):
                    raise AssertionError(f"a conflict that is none: {error}") from error
                store = atlas.Atlas.open(place, workers=1)
        if number % 50 == 49:
            store.compact()


def check_writers(place: Path, flushes: int) -> None:
    """Let two processes commit; nothing of either may be lost."""
    with atlas.Atlas.create(place, workers=1) as store:
        for name in ("one", "two", "shared"):
            view = store.create_dataset(name)
            view.define_array("n", "int64", ["x"], [flushes])
            view.set_attribute("count", 0)
    writers = [start(lambda own=own: count_up(place, own, flushes)) for own in ("one", "two")]
    results = [ended_well(writer) for writer in writers]
    assert all(results), "a writer failed"
    store = atlas.Atlas.open(place, workers=1)
    counts = [store.open_dataset(name).get_attribute("count") for name in ("one", "two", "shared")]
    assert counts == [flushes, flushes, 2 * -(-flushes // 4)], f"updates were lost: {counts}"
    for name in ("one", "two"):
        assert store.open_dataset(name).read_array("n").tolist() == list(range(1, flushes + 1))


def take_turns(place: Path, log: Path, letter: bytes) -> None:
    """Take the writer lock again and again without a pause, and write down each turn."""
    storage = LocalStorage(str(place))
    while True:
        with storage.writer_lock(), open(log, "ab") as turns:
            turns.write(letter)
            time.sleep(0.002)


def check_turns(place: Path, rivals: int, turns: int, begin: Callable[..., Callable[[], None]]) -> list[int]:
    """Take the writer lock while others want it all the time; return how many turns of theirs each wait took."""
    log, waits = place / "turns", []
    log.write_bytes(b"")
    storage = LocalStorage(str(place))
    stops = [begin(partial(take_turns, place, log, b"r")) for _ in range(rivals)]
    try:
        while log.stat().st_size < rivals:
            time.sleep(0.001)  # until they are at it
        for _ in range(turns):
            before = log.stat().st_size
            with storage.writer_lock():
                waits.append(log.stat().st_size - before)
    finally:
        for stop in stops:
            stop()
    return sorted(waits)


def in_process(action: Callable[[], None]) -> Callable[[], None]:
    """Begin something in a process; return what ends it."""
    child = start(action)

    def stop() -> None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

    return stop


def check_forks(place: Path, forks: int) -> None:
    """Fork again and again while threads flush one handle; the children commit too."""
    store = atlas.Atlas.create(place, workers=1)
    ended = threading.Event()
    committed: list[str] = []

    def commit(who: int) -> None:
        for number in itertools.count():
            if ended.is_set():
                return
            name = f"thread{who}-{number}"
            store.create_dataset(name).set_attribute("who", who)
            store.flush()
            committed.append(name)

    threads = [threading.Thread(target=commit, args=(who,)) for who in range(2)]
    for thread in threads:
        thread.start()
    try:
        children = (partial(commit_one, place, f"child{number}") for number in range(forks))
        results = [ended_well(start(child)) for child in children]
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert all(results), "a child failed"
    expected = {*committed, *(f"child{number}" for number in range(forks))}
    assert set(atlas.Atlas.open(place, workers=1).list_datasets()) == expected


def commit_one(place: Path, name: str) -> None:
    # Whatever the parent's threads were doing, the child must not wait for them for ever.
    faulthandler.dump_traceback_later(60, exit=True)
    with atlas.Atlas.open(place, workers=1) as store:
        store.create_dataset(name).set_attribute("pid", os.getpid())


def check_stale_locks(place: Path, kills: int) -> float:
    """Kill a writer at any moment; return the longest that the next one took: would it wait, it failed."""
    turning_store(place)
    rng, longest = np.random.default_rng(1), 0.0
    for _ in range(kills):
        writer = start(lambda: turn(place))
        time.sleep(rng.uniform(0, 0.05))
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        begun = time.monotonic()
        with atlas.Atlas.open(place, workers=1) as store:
            store.open_dataset("a").set_attribute("after", True)
        longest = max(longest, time.monotonic() - begun)
    return longest


def check_read_only(place: Path) -> None:
    """Open a store that this user cannot write to; nothing is left in it."""
    turning_store(place)
    before = sorted(place.rglob("*"))
    for path in (place, *before):
        path.chmod(0o555 if path.is_dir() else 0o444)
    for above in place.parents[:3]:
        above.chmod(above.stat().st_mode | 0o055)

    def read() -> tuple[bool, str]:
        if os.geteuid() == 0:
            os.setuid(65534)
        # As from another machine's disc: what this process has mapped does not count.
        store = atlas.Atlas.open(place, workers=1)
        whole = store.read_array_across_stacked("u", NAMES).shape == (3, 500)
        store.create_dataset("new")
        try:
            store.flush()
        except atlas.ReadOnlyStore as error:
            return whole, str(error)
        return whole, ""

    try:
        whole, message = in_child(read)
    finally:
        for folder in (place, *(path for path in before if path.is_dir())):
            folder.chmod(0o755)
    assert whole
    assert str(place) in message
    assert sorted(place.rglob("*")) == before
