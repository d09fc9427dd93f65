"""A system with one codec: its processes and its stores."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from perf.bench.environments import Environment
from perf.bench.process import Worker
from perf.bench.systems import HARNESS, REPOSITORY, SYSTEMS, System


@dataclass(frozen=True)
class Contender:
    """A system with one codec.

    Parameters
    ----------
    system : System
    codec : str
    environment : Environment
    work : path
        Where stores and logs are kept.
    """

    system: System
    codec: str
    environment: Environment
    work: Path

    @property
    def label(self) -> str:
        return f"{self.system.name}:{self.codec}"

    def start(self) -> Worker:
        """Start a process in the system's environment."""
        logs = self.work / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        log = logs / f"{self.system.name}.log"
        return Worker(self.environment.python, self.system.adapter, log, self.environment.isolated)

    def store(self, key: str) -> Path:
        """Where its store of a workload is; a store is only used by the code that wrote it."""
        return self.work / "stores" / key.replace(" ", "-") / f"{self.label.replace(':', '-')}-{self.fingerprint()}"

    def fingerprint(self) -> str:
        """Changes with the versions of the system, with the harness, and with this package's code."""
        digest = hashlib.sha256(repr(sorted(self.environment.versions.items())).encode())
        digest.update(code_fingerprint(HARNESS).encode())
        if "--editable" in self.system.requirements:
            digest.update(code_fingerprint(REPOSITORY / "atlas").encode())
        return digest.hexdigest()[:8]


@cache
def code_fingerprint(folder: Path) -> str:
    """A hash of all source in a folder, as it was when first asked for."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def chosen(wanted: Sequence[str]) -> list[tuple[System, str]]:
    """Return the systems and codecs that a selection names.

    Parameters
    ----------
    wanted : sequence of str
        ``"zarr"`` for all of a system's codecs, ``"zarr:zstd"`` for one.

    Raises
    ------
    ValueError
        If there is no such system or codec.
    """
    found = []
    for item in wanted:
        name, _, codec = item.partition(":")
        if name not in SYSTEMS:
            raise ValueError(f"unknown system: {name!r}; use {', '.join(SYSTEMS)}")
        system = SYSTEMS[name]
        if codec and codec not in system.codecs:
            raise ValueError(f"{name} has no codec {codec!r}; use {', '.join(system.codecs)}")
        found += [(system, codec)] if codec else [(system, each) for each in system.codecs]
    return found


def size(place: Path) -> dict[str, Any]:
    """Return the bytes and the number of the files below `place`."""
    files = [path.stat().st_size for path in place.rglob("*") if path.is_file()]
    return {"size": sum(files), "files": len(files)}


def _files(place: Path) -> Iterator[Path]:
    return (path for path in ([place] if place.is_file() else place.rglob("*")) if path.is_file())


def bring_in(place: Path) -> None:
    """Have the page cache hold a file, or the files below `place`: those of all contenders do not fit together."""
    buffer = bytearray(1 << 20)
    for path in _files(place):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def send_out(place: Path) -> None:
    """Have the page cache forget the files below `place`, so that there is free memory for whoever comes next."""
    for path in _files(place):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def remove(place: Path) -> None:
    """Delete a store, if it is there."""
    shutil.rmtree(place, ignore_errors=True)
