"""What was measured: kept step by step, so that a run that was interrupted goes on where it stopped."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from perf.bench.contenders import Contender
from perf.bench.plan import Step
from perf.bench.runner import Pace
from perf.bench.systems import REPOSITORY

Record = dict[str, Any]


class Finished:
    """The steps that were measured on this machine with the same contenders, code and pace, in the work directory."""

    def __init__(self, work: Path, contenders: Sequence[Contender], pace: Pace, seed: int) -> None:
        self.folder = work / "finished"
        self.folder.mkdir(parents=True, exist_ok=True)
        who = [f"{contender.label} {contender.fingerprint()}" for contender in contenders]
        self.terms = json.dumps([who, asdict(pace), seed, machine()])

    def _path(self, step: Step) -> Path:
        key = json.dumps([self.terms, step.collection, step.facts()])
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"

    def get(self, step: Step) -> list[Record] | None:
        """Return the step's records, if it was finished before."""
        path = self._path(step)
        return json.loads(path.read_text()) if path.exists() else None

    def put(self, step: Step, records: list[Record]) -> list[Record]:
        """Keep the step's records, with what identifies the step in each."""
        when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        records = [step.facts() | {"measured": when} | record for record in records]
        write_whole(self._path(step), json.dumps(records))
        return records

    def forget(self, steps: Sequence[Step]) -> None:
        """Have these steps measured again."""
        for step in steps:
            self._path(step).unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is never seen half written."""
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_text(text)
    unfinished.replace(path)


def machine() -> dict[str, Any]:
    """Describe the machine."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in info if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": platform.release(),
        "system": platform.platform(),
    }


def commit() -> str:
    """Return which commit of this repository was measured, as far as that can be told."""
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def document(
    versions: dict[str, dict[str, str]], paces: Sequence[Pace], seed: int, records: list[Record]
) -> dict[str, Any]:
    """Return everything that is published of a run."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "load": os.getloadavg()[0],
        "seed": seed,
        "paces": [asdict(pace) for pace in paces],
        "versions": versions,
        "records": records,
    }
