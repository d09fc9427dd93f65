"""The full campaign: ``python -m torture [part …]`` from the directory of the tests; ``make torture``.

A part runs in as many processes as there are cores, each of which takes an equal share of it. It can be run in shares
one by one, too: ``faults:1/4`` is the first quarter of the faults.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from torture import (
    concurrency,
    cuts,
    faults,
    fleets,
    flips,
    fuzz,
    hostile,
    machine,
    mutants,
    mutation,
    powerloss,
    processes,
    races,
    syscalls,
)
from torture.corpus import FORGERIES
from torture.scenes import WHOLE, Share, in_child, warm_up


def run_faults(work: Path, share: Share) -> str:
    """Inject every fault at every call."""
    total = faults.campaign(work, share)
    assert total >= share.size(2_000)
    return f"{total:,} injections"


def run_syscalls(work: Path, share: Share) -> str:
    """Have the kernel fail, or kill, at every system call."""
    assert syscalls.is_possible(), "tracing processes needs strace, and the right to"
    return f"{syscalls.campaign(work, share):,} injections"


def run_powerloss(work: Path, share: Share) -> str:
    """Cut the power in every state."""
    states, opened = in_child(lambda: powerloss.check_scenario(work, 3, 64, share=share))
    after, opened_after = in_child(lambda: powerloss.check_kills(work, 1, 16, share=share))
    failed = in_child(lambda: powerloss.check_lost_syncs(work, 1, 16, share=share))
    repaired = in_child(lambda: powerloss.check_repairs(work, 1, 16, share=share))
    see = powerloss.repaired
    needless = in_child(lambda: powerloss.check_scenario(work, 1, 4, share=share, see=see)[0])
    needless += in_child(lambda: powerloss.check_kills(work, 1, 2, share=share, see=see)[0])
    # Shares are not equal.
    assert states + after >= share.size(1_000_000) // (1 if share == WHOLE else 2)
    return (
        f"{states + after:,} states of the disk, {opened + opened_after:,} of them different to a reader; "
        f"{failed:,} after a sync that failed; {repaired:,} in a repair; {needless:,} repaired without need"
    )


def run_mutants(work: Path, share: Share) -> str:
    """Take every sync away, swap every order."""
    hunted = [(mutant, mutants.hunt_power) for mutant in mutants.POWER + mutants.SYNCING]
    hunted += [(mutant, mutants.hunt_repairing) for mutant in mutants.REPAIRING]
    hunted += [(mutant, mutants.hunt_recording) for mutant in mutants.RECORDING]
    chosen = list(share.of(hunted))
    alive = [name for mutant, hunt in chosen for name in mutants.survivors([mutant], partial(hunt, work))]
    assert not alive, alive
    return f"{len(chosen)} mutants, no survivor"


def run_flips(work: Path, share: Share) -> str:
    """Damage every bit and every length."""
    total = flips.campaign(work, share, print)
    return f"{total:,} damaged files"


def run_hostile(work: Path, share: Share) -> str:
    """Forge every value of a root."""
    place, forged = hostile.corpus(work)
    ends = Counter(hostile.survive(place, *case) for case in share.of(forged))
    names = list(share.of(FORGERIES))
    for name in names:
        ended = hostile.judge(name, work / "case")
        assert ended == "refused", f"{name}: {ended}"
    return f"{len(names)} forgeries, all refused; {ends.total():,} roots with one value exchanged: {dict(ends)}"


def run_fuzz(work: Path, share: Share) -> str:
    """Mutate everything that is parsed."""
    total = 0
    for name, ends in fuzz.campaign(100_000, share):
        total += ends.total()
        print(f"{name}: {dict(ends)}", flush=True)
    return f"{total:,} mutations"


def run_machine(work: Path, share: Share) -> str:
    """Compare sequences of everything that can be done with plain dictionaries."""
    sequences = share.size(2_000)
    machine.run(sequences, steps=30, start=share.number)
    return f"{sequences:,} sequences of up to 30 operations"


def run_concurrency(work: Path, share: Share) -> str:
    """Have several processes at one store."""
    generations = concurrency.check_readers(work / "readers", 4, 2_500)
    concurrency.check_writers(work / "writers", 200)
    concurrency.check_forks(work / "forks", 60)
    longest = concurrency.check_stale_locks(work / "locks", 60)
    concurrency.check_read_only(work / "media")
    return (
        f"10,000 reads in 4 processes over {generations} commits; 2 writers, 400 flushes; 60 forks; "
        f"60 killed writers, {longest:.2f} s the longest wait after one"
    )


def run_processes(work: Path, share: Share) -> str:
    """Take workers, memory and descriptors away, and press Ctrl-C."""
    place = processes.big_store(work / "s")
    longest = processes.check_killed_workers(place, 100)
    how = processes.check_full_shared_memory(place)
    processes.check_little_memory(place)
    processes.check_few_descriptors(place, 1_000)
    processes.check_many_arrays(work / "many", 2_000)
    interrupts = processes.check_interrupts(place, 200)
    processes.check_tiny_writes(work / "tiny", 1_000_000)
    return (
        f"100 reads with workers killed, {longest:.2f} s the longest; /dev/shm full ({how}); memory and descriptors "
        f"limited; 2,000 arrays; {interrupts} interrupts; 1,000 handles; 1,000,000 tiny writes"
    )


def run_cuts(work: Path, share: Share) -> str:
    """Take a real file system's power away under a writer."""
    assert cuts.is_possible(work), "mounting a file system needs mkfs.ext4, a loop device and the rights of root"
    count = share.size(200)
    flushes = cuts.check_cuts(work, count, share.number)
    return f"{count} cuts, {flushes:,} flushes acknowledged, none lost"


def run_fleets(work: Path, share: Share) -> str:
    """Ask random fleets random questions."""
    count = share.size(1_000)
    fleets.campaign(1_000 * (share.number - 1), count)
    return f"{count:,} fleets, {48 * count:,} questions"


def run_races(work: Path, share: Share) -> str:
    """Race for a store on S3."""
    requests, broken, commits = races.check(work, 10, 10, 0.05)
    return f"{commits} commits of 12 writers, a compactor and a collector; {broken:,} of {requests:,} requests broken"


def run_mutation(work: Path, share: Share) -> str:
    """Change the commit code in every small way."""
    total, alive = mutation.survivors(work, share)
    assert not alive, alive
    return f"{total} mutants of the commit code, no survivor"


PARTS: dict[str, Callable[[Path, Share], str]] = {
    "faults": run_faults,
    "syscalls": run_syscalls,
    "powerloss": run_powerloss,
    "mutants": run_mutants,
    "flips": run_flips,
    "hostile": run_hostile,
    "fuzz": run_fuzz,
    "machine": run_machine,
    "concurrency": run_concurrency,
    "processes": run_processes,
    "cuts": run_cuts,
    "fleets": run_fleets,
    "races": run_races,
    "mutation": run_mutation,
}


# What is about a real disk, real processes, or /dev/shm itself: on the disk, and by itself.
_ALONE = ("concurrency", "processes", "cuts", "races")


def _place(name: str) -> str | None:
    """Return where a part works: where it is about what is written, not about the disk, in memory if there is room."""
    memory = "/dev/shm"
    in_memory = name not in _ALONE and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 1 << 30
    return memory if in_memory else None


def run_here(one: str) -> None:
    """Run a part, or a share of it, in this process."""
    began = time.monotonic()
    name, _, share = one.partition(":")
    with tempfile.TemporaryDirectory(prefix="torture-", dir=_place(name)) as work:
        found = PARTS[name](Path(work), Share(*map(int, share.split("/"))) if share else WHOLE)
    print(f"{one}: {found}, {time.monotonic() - began:.0f} s", flush=True)


def run_shared(name: str, count: int) -> None:
    """Run a part in so many processes side by side."""
    command = [sys.executable, "-m", "torture"]
    running = [subprocess.Popen([*command, f"{name}:{number}/{count}"]) for number in range(1, count + 1)]
    failed = [process.args for process in running if process.wait()]
    assert not failed, failed


def main(wanted: list[str]) -> None:
    logging.getLogger("atlas").setLevel(logging.CRITICAL)
    warm_up()
    cores = len(os.sched_getaffinity(0))
    for one in wanted or PARTS:
        if ":" in one or one in _ALONE or cores == 1:
            run_here(one)
        else:
            run_shared(one, cores)


if __name__ == "__main__":
    main(sys.argv[1:])
