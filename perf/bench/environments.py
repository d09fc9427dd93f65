"""An environment of its own for every system, made on first use."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from perf.bench.systems import REPOSITORY, System


@dataclass(frozen=True)
class Environment:
    """An interpreter, and the versions of what is installed for it."""

    python: Path
    versions: dict[str, str]
    isolated: bool = True

    @property
    def folder(self) -> Path:
        """Where it is installed."""
        return self.python.parents[1]


def here() -> Environment:
    """The environment that runs the harness."""
    return Environment(Path(sys.executable), installed(Path(sys.executable)), isolated=False)


def prepare(system: System, work: Path, say: Callable[[str], None]) -> Environment:
    """Return the environment of `system`, made under `work` when it is not there yet: then it is said."""
    folder = work / "environments" / f"{system.name}-{fingerprint(system)}"
    python = folder / "bin" / "python"
    record = folder / "versions.json"
    if not record.exists():
        say(f"environment of {system.name}")
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "-qq"]
        subprocess.run([*pip, *system.requirements], check=True)
        record.write_text(json.dumps(installed(python), indent=1))
    if "--editable" in system.requirements:
        # As pip does with what it installs: nobody's first call is to compile Python.
        subprocess.run([python, "-m", "compileall", "-q", REPOSITORY / "atlas"], check=True)
    return Environment(python, json.loads(record.read_text()))


def fingerprint(system: System) -> str:
    """Changes with the requirements, with the interpreter, and with this package's own dependencies."""
    parts = [sys.version, *system.requirements]
    if "--editable" in system.requirements:
        parts.append((REPOSITORY / "pyproject.toml").read_text())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def installed(python: Path) -> dict[str, str]:
    """Versions of everything that is installed for an interpreter, and its own."""
    code = (
        "import json, platform; from importlib.metadata import distributions; "
        "print(json.dumps({'python': platform.python_version()} "
        "| {d.metadata['Name']: d.version for d in distributions()}))"
    )
    answer = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    versions: dict[str, str] = json.loads(answer.stdout)
    return versions
