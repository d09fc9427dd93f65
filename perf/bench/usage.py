"""What a worker and all of its children use, from /proc."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")
SAMPLE_SECONDS = 0.02

# Fields of /proc/PID/stat behind the command's closing parenthesis.
SESSION, TIMES = 3, slice(11, 15)


def session_stats(leader: int) -> Iterator[tuple[int, list[str]]]:
    """Yield the id and the stat fields of every process in the session that `leader` leads."""
    for entry in os.listdir(PROC):
        if not entry.isdigit():
            continue
        try:
            fields = (PROC / entry / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
        if int(fields[SESSION]) == leader:
            yield int(entry), fields


def cpu_seconds(leader: int) -> float:
    """User and system time so far, children that have ended included."""
    return sum(sum(map(int, fields[TIMES])) for _, fields in session_stats(leader)) / TICKS


def memory(leader: int) -> tuple[int, int]:
    """Proportional set size in bytes, without mapped files and with them: what processes share is counted once."""
    whole = files = 0
    for pid, _ in session_stats(leader):
        try:
            lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        sizes = {name: int(value.split()[0]) << 10 for name, value in (line.split(":", 1) for line in lines[1:])}
        whole += sizes["Pss"]
        files += sizes["Pss_File"]
    return whole - files, whole


class PeakMemory:
    """The largest :func:`memory` seen while the block runs, by sampling.

    Some systems map files, others read them: only without the pages of files are they comparable.
    """

    def __init__(self, leader: int) -> None:
        self.leader = leader
        self.own = self.whole = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        while True:
            own, whole = memory(self.leader)
            self.own, self.whole = max(self.own, own), max(self.whole, whole)
            if self._over.wait(SAMPLE_SECONDS):
                return
