"""Real power cuts: a store on a file system of its own, which is shut down without writing anything back.

The file system is in a file, mounted through a loop device; an ioctl of ext4 and xfs takes it away as a power cut
does: what was not synced is lost, and the next mount replays the journal. Needs the rights to mount.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import random
import select
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

import atlas
from torture.concurrency import start
from torture.scenes import in_child, leftovers

# EXT4_IOC_SHUTDOWN, which xfs and f2fs have as well, and its "do not even flush the journal".
_SHUTDOWN, _NO_FLUSH = 0x8004587D, 2
_IMAGE_BYTES = 64 << 20
NAMES = ["a", "b"]


def is_possible(work: Path) -> bool:
    """Return whether a file system can be mounted here."""
    if not shutil.which("mkfs.ext4") or os.geteuid() != 0:
        return False
    try:
        with FileSystem(work / "probe").mounted():
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


class FileSystem:
    """An ext4 in a file."""

    def __init__(self, work: Path) -> None:
        work.mkdir()
        self.image, self.top = work / "image", work / "mounted"
        self.top.mkdir()
        with open(self.image, "wb") as file:
            file.truncate(_IMAGE_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-F", self.image], check=True, capture_output=True)

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        """Context in which it is there."""
        subprocess.run(["mount", "-o", "loop", self.image, self.top], check=True, capture_output=True)
        try:
            yield self.top
        finally:
            subprocess.run(["umount", self.top], check=True, capture_output=True)

    def cut(self) -> None:
        """Take the power away."""
        descriptor = os.open(self.top, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _NO_FLUSH))
        finally:
            os.close(descriptor)


def write_turns(place: Path, begin: int, pipe: int, synced: bool) -> None:
    """Commit one number after the other in every dataset, and say so once it is acknowledged."""
    if not synced:
        os.fsync = lambda descriptor: None
    store = atlas.Atlas.open(place, workers=1)
    for number in itertools.count(begin):
        for name in NAMES:
            view = store.open_dataset(name)
            view.write_array("t", [0], np.full(500, number))
            view.set_attribute("turn", number)
        store.create_dataset(f"extra{number}").set_attribute("turn", number)
        store.flush()
        os.write(pipe, struct.pack("q", number))
        if number % 4 == 0:
            store.delete_dataset(f"extra{number}")
            store.compact()


def make_store(place: Path) -> None:
    """Make the store that the writers count in."""
    with atlas.Atlas.create(place, workers=1) as store:
        for name in NAMES:
            view = store.create_dataset(name)
            view.define_array("t", "int64", ["x"], [500], [100])
            view.write_array("t", [0], np.zeros(500, "int64"))
            view.set_attribute("turn", 0)


def tidied(place: Path) -> list[str]:
    """Return what is left in the store's directory that nobody needs, after one more flush and a compaction."""
    with atlas.Atlas.open(place, workers=1) as store:
        store.open_dataset("a").set_attribute("after", True)
    atlas.Atlas.open(place, workers=1).compact()
    return leftovers(place)


def seen_turn(place: Path) -> int:
    """Return the number that the whole store holds; mixed ones are an error."""
    store = atlas.Atlas.open(place, mode="r", workers=1)
    seen = {store.open_dataset(name).get_attribute("turn") for name in NAMES}
    seen |= set(np.unique(store.read_array_across_stacked("t", NAMES)).tolist())
    assert len(seen) == 1, f"mixed after a cut: {seen}"
    report = store.verify()
    assert report.ok or all("is of a newer one" in str(problem) for problem in report.problems), report.problems
    return int(seen.pop())


def check_cuts(work: Path, cuts: int, seed: int = 1, synced: bool = True) -> int:
    """Cut the power again and again under a writer; return how many flushes had been acknowledged."""
    system, rng, acknowledged, flushes = FileSystem(work / "cuts"), random.Random(seed), 0, 0
    # All that touches the store is done in children: what they hold of the file system goes with them.
    with system.mounted() as top:
        in_child(partial(make_store, top / "store"))
    for _ in range(cuts):
        with system.mounted() as top:
            seen = in_child(partial(seen_turn, top / "store"))
            assert seen >= acknowledged, f"flush {acknowledged} was acknowledged, but after the cut there is {seen}"
            last = _cut_under_a_writer(system, top / "store", seen + 1, rng.uniform(0.0, 0.12), synced)
            flushes += max(last - seen, 0)
            acknowledged = max(last, seen)
    with system.mounted() as top:
        assert in_child(partial(seen_turn, top / "store")) >= acknowledged
        assert in_child(partial(tidied, top / "store")) == []
    return flushes


def _cut_under_a_writer(system: FileSystem, place: Path, begin: int, after: float, synced: bool) -> int:
    """Let a writer begin, cut the power some time after its first flush; return the last flush acknowledged."""
    read, write = os.pipe()
    writer = start(lambda: write_turns(place, begin, write, synced), quiet=True)
    os.close(write)
    try:
        select.select([read], [], [], 30)
        time.sleep(after)
        system.cut()
        # Whatever was acknowledged came before the cut, or was on the disk already.
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        data = b"".join(iter(lambda: os.read(read, 1 << 16), b""))
    finally:
        os.close(read)
    return int(struct.unpack("q", data[-8:])[0]) if data else begin - 1
