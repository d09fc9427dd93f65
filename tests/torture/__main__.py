"""The full campaign: ``python -m torture [part …]`` from the directory of the tests; ``make torture``."""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from torture import concurrency, faults, fleets, flips, fuzz, hostile, machine, mutants, mutation, powerloss, processes
from torture.corpus import FORGERIES
from torture.scenes import in_child, warm_up


def run_faults(work: Path) -> str:
    """Inject every fault at every call."""
    total = faults.campaign(work)
    assert total >= 2_000
    return f"{total:,} injections"


def run_powerloss(work: Path) -> str:
    """Cut the power in every state."""
    states, opened = in_child(lambda: powerloss.check_scenario(work, 3, 64))
    after, opened_after = in_child(lambda: powerloss.check_kills(work, 1, 16))
    assert states + after >= 1_000_000
    return f"{states + after:,} states of the disk, {opened + opened_after:,} of them different to a reader"


def run_mutants(work: Path) -> str:
    """Take every sync away, swap every order."""
    alive = mutants.survivors(mutants.POWER, lambda: mutants.hunt_power(work))
    assert not alive, alive
    return f"{len(mutants.POWER)} mutants, no survivor"


def run_flips(work: Path) -> str:
    """Damage every bit and every length."""
    total = flips.campaign(work, print)
    return f"{total:,} damaged files"


def run_hostile(work: Path) -> str:
    """Forge every value of a root."""
    place, forged = hostile.corpus(work)
    ends = Counter(hostile.survive(place, *case) for case in forged)
    for name in FORGERIES:
        ended = hostile.judge(name, work / "case")
        assert ended == "refused", f"{name}: {ended}"
    return f"{len(FORGERIES)} forgeries, all refused; {ends.total():,} roots with one value exchanged: {dict(ends)}"


def run_fuzz(work: Path) -> str:
    """Mutate everything that is parsed."""
    total = 0
    for name, ends in fuzz.campaign(100_000):
        total += ends.total()
        print(f"{name}: {dict(ends)}", flush=True)
    return f"{total:,} mutations"


def run_machine(work: Path) -> str:
    """Compare sequences of everything that can be done with plain dictionaries."""
    machine.run(sequences=2_000, steps=30, derandomize=False)
    return "2,000 sequences of up to 30 operations"


def run_concurrency(work: Path) -> str:
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


def run_processes(work: Path) -> str:
    """Take workers, memory and descriptors away, and press Ctrl-C."""
    place = processes.big_store(work / "s")
    longest = processes.check_killed_workers(place, 100)
    how = processes.check_full_shared_memory(place)
    processes.check_little_memory(place)
    processes.check_few_descriptors(place, 1_000)
    interrupts = processes.check_interrupts(place, 200)
    processes.check_tiny_writes(work / "tiny", 1_000_000)
    return (
        f"100 reads with workers killed, {longest:.2f} s the longest; /dev/shm full ({how}); memory and descriptors "
        f"limited; {interrupts} interrupts; 1,000 handles; 1,000,000 tiny writes"
    )


def run_fleets(work: Path) -> str:
    """Ask random fleets random questions."""
    fleets.campaign(0, 1_000)
    return "1,000 fleets, 48,000 questions"


def run_mutation(work: Path) -> str:
    """Change the commit code in every small way."""
    total, alive = mutation.survivors()
    assert not alive, alive
    return f"{total} mutants of the commit code, no survivor"


PARTS: dict[str, Callable[[Path], str]] = {
    "faults": run_faults,
    "powerloss": run_powerloss,
    "mutants": run_mutants,
    "flips": run_flips,
    "hostile": run_hostile,
    "fuzz": run_fuzz,
    "machine": run_machine,
    "concurrency": run_concurrency,
    "processes": run_processes,
    "fleets": run_fleets,
    "mutation": run_mutation,
}


def main(wanted: list[str]) -> None:
    logging.getLogger("atlas").setLevel(logging.CRITICAL)
    warm_up()
    for name in wanted or PARTS:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="torture-") as work:
            found = PARTS[name](Path(work))
        print(f"{name}: {found}, {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
