"""Too little of everything: workers that die, memory, descriptors, and patience."""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import atlas
from atlas import executor
from torture.scenes import in_child

NAMES = [f"d{i}" for i in range(40)]
SHAPE = (40, 50, 24)
ROOT = Path(__file__).resolve().parents[2]


def big_store(place: Path) -> Path:
    """Make a store whose reads are worth several workers."""
    rng = np.random.default_rng(0)
    with atlas.Atlas.create(place, workers=1) as store:
        for name in NAMES:
            view = store.create_dataset(name)
            view.define_array("t", "float32", ["z", "y", "x"], SHAPE, (20, 25, 24))
            view.write_array("t", [0, 0, 0], np.round(rng.normal(10, 1, SHAPE), 2).astype("f4"))
    return place


def check_killed_workers(place: Path, reads: int) -> float:
    """Read while workers are killed at random moments; return the longest read."""
    executor.shutdown()
    before, rng, longest = shared_memory(), random.Random(3), 0.0
    store = atlas.Atlas.open(place, mode="r", workers=2, executor="processes")
    expected = store.read_array_across_stacked("t", NAMES).tobytes()
    for _ in range(reads):
        pool = executor._pool._executor
        victims = list(pool._processes) if pool is not None else []
        killer = threading.Timer(rng.uniform(0, 0.02), _kill, [rng.sample(victims, min(1, len(victims)))])
        killer.start()
        begun = time.monotonic()
        assert store.read_array_across_stacked("t", NAMES).tobytes() == expected, "a wrong result"
        longest = max(longest, time.monotonic() - begun)
        killer.join()
        del pool
    executor.shutdown()
    # The semaphores of a pool that broke go when its last thread has ended, and its last process is joined.
    patience = time.monotonic() + 30
    while not shared_memory() <= before and time.monotonic() < patience:
        multiprocessing.active_children()
        time.sleep(0.05)
    assert shared_memory() <= before, f"left in /dev/shm: {shared_memory() - before}"
    return longest


def shared_memory() -> set[str]:
    """Return what is in /dev/shm, but for semaphores of other processes, and the directories of campaigns."""
    gc.collect()
    foreign = re.compile(rf"sem\.(mp-|loky-(?!{os.getpid()}-))|torture-")
    return {name for name in os.listdir("/dev/shm") if not foreign.match(name)}


def _kill(victims: list[int]) -> None:
    for victim in victims:
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            return  # it was idle for too long, and has ended


_READ = """
import sys, atlas
names = atlas.Atlas.open(sys.argv[1]).list_datasets()
one = atlas.Atlas.open(sys.argv[1], workers=1).read_array_across_stacked("t", names)
many = atlas.Atlas.open(sys.argv[1], workers=2, executor="processes").read_array_across_stacked("t", names)
assert one.tobytes() == many.tobytes()
"""


def check_full_shared_memory(place: Path) -> str:
    """Read where /dev/shm has no room; return how that was arranged."""
    python = [sys.executable, "-c", _READ, str(place)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    own = 'mount -t tmpfs -o size=4k tmpfs /dev/shm && (dd if=/dev/zero of=/dev/shm/full bs=4k count=1 2>&-; exec "$@")'
    unshared = ["unshare", "-m", "sh", "-c", own, "sh"]
    if subprocess.run([*unshared, "true"], capture_output=True).returncode == 0:
        how, command = "a full /dev/shm of its own", [*unshared, *python]
    else:
        how, command = "files of no more than 0 bytes", ["sh", "-c", 'ulimit -f 0; exec "$@"', "sh", *python]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return how


def check_little_memory(place: Path) -> None:
    """Ask for more than may be had: an error that says so, and the handle goes on."""

    def read() -> None:
        store = atlas.Atlas.open(place, mode="r", workers=1)
        small = store.read_array_across_stacked("t", NAMES[:2])
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), used + (64 << 20)))
        try:
            store.read_array_across_stacked("t", NAMES * 100)
        except MemoryError:
            assert store.read_array_across_stacked("t", NAMES[:2]).tobytes() == small.tobytes()
            return
        raise AssertionError("770 MB were read into 64")

    in_child(read)


def check_few_descriptors(place: Path, handles: int) -> None:
    """Open many handles with few descriptors; then with none left: an error that says so."""

    def use() -> None:
        limit = len(os.listdir("/proc/self/fd")) + 24
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        stores = [atlas.Atlas.open(place, workers=1) for _ in range(handles)]
        expected = stores[0].read_array_across_stacked("t", NAMES[:2]).tobytes()
        assert all(s.read_array_across_stacked("t", NAMES[:2]).tobytes() == expected for s in stores[:: handles // 10])
        stores[0].open_dataset("d0").set_attribute("k", 1)
        taken = []
        with suppress(OSError):
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        try:
            stores[0].flush()
        except atlas.StorageError:
            for descriptor in taken:
                os.close(descriptor)
            stores[0].flush()
            return
        raise AssertionError("a flush without a descriptor")

    in_child(use)
    assert atlas.Atlas.open(place, workers=1).open_dataset("d0").get_attribute("k") == 1


def check_many_arrays(place: Path, arrays: int) -> None:
    """Flush more arrays than files may be open: with hardly any, an error that says so, and with 256 all of them."""

    def write() -> None:
        store = atlas.Atlas.create(place, workers=1)
        arrays_of_all = {
            f"t{number}": {"dims": ["x"], "data": np.full((1, 4), number, "int32")} for number in range(arrays)
        }
        store.create_datasets(["a"], arrays_of_all)
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        taken = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken + 20, most))
        with pytest.raises(atlas.StorageError, match="Too many open files"):
            store.flush()
        # Where tests before this one have not left many open, 256.
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(256, taken + 180), most))
        assert atlas.Atlas.open(place, workers=1).list_datasets() == []
        store.flush()
        view = atlas.Atlas.open(place, workers=1).open_dataset("a")
        assert all(view.read_array(f"t{number}").tolist() == [number] * 4 for number in range(arrays))

    in_child(write)
    assert atlas.Atlas.open(place, workers=1).verify().ok


def check_interrupts(place: Path, times: int) -> int:
    """Press Ctrl-C at random moments of reads and flushes; return how often it was heard."""
    rng, heard = random.Random(5), 0
    store = atlas.Atlas.open(place, workers=2, executor="threads")
    expected = store.read_array_across_stacked("t", NAMES).tobytes()
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for number in range(times):
            store.open_dataset("d1").set_attribute("number", number)
            action = store.flush if number % 2 else lambda: store.read_array_across_stacked("t", NAMES)
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.0001, 0.02))
                action()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                heard += 1
            assert store.read_array_across_stacked("t", NAMES).tobytes() == expected
            store.flush()
            assert atlas.Atlas.open(place, workers=1).open_dataset("d1").get_attribute("number") == number
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return heard


def check_tiny_writes(place: Path, count: int) -> None:
    """Write single cells, one by one: all of them arrive, in little memory."""

    def write() -> int:
        with atlas.Atlas.create(place, workers=1) as store:
            view = store.create_dataset("a")
            view.define_array("t", "int64", ["x"], [1000], [100])
            view.write_array("t", [0], np.zeros(1000, "int64"))
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            cell: Any = np.zeros(1, "int64")
            for number in range(count):
                cell[0] = number
                view.write_array("t", [number % 1000], cell)
        return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)

    assert in_child(write) < 64 << 10, "memory grew with the number of writes"
    cells = atlas.Atlas.open(place, workers=1).open_dataset("a").read_array("t")
    assert sorted(cells.tolist()) == list(range(count - 1000, count))
