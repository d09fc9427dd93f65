"""The pages of documentation, and their blocks, run one after the other as a reader would."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

# What a reader types into Python, what he types and sees there, and the same at a shell.
_RUN = re.compile(r"^```(python|pycon|console)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_COMMAND = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)


def pages() -> list[str]:
    """Return every page of the project that is written in Markdown."""
    return ["README.md", "CHANGELOG.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]


def pages_with_blocks() -> list[str]:
    """Return those that have something to be run."""
    return [page for page in pages() if _RUN.search((ROOT / page).read_text())]


def run_blocks(page: str) -> dict[str, Any]:
    """Run the blocks of a page in the working directory, Python in one scope, and return that.

    What is shown below a command or a line of Python must come out, with ``...`` for anything.
    """
    scope: dict[str, Any] = {}
    blocks = _RUN.findall((ROOT / page).read_text())
    assert blocks, page
    for kind, block in blocks:
        if kind == "python":
            exec(compile(block, page, "exec"), scope)
        elif kind == "pycon":
            # A copy of the scope is what doctest works in.
            test = doctest.DocTest(doctest.DocTestParser().get_examples(block), scope, page, page, 0, block)
            failed: list[str] = []
            doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=failed.append, clear_globs=False)
            assert not failed, "".join(failed)
            scope = test.globs
        else:
            for command, wanted in _COMMAND.findall(block):
                check_command(command, wanted)
    return scope


def check_command(command: str, wanted: str) -> None:
    """Run a command at a shell of 80 columns, and compare what it prints."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    own = {"COLUMNS": "80", "PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=os.environ | own)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    printed = "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())
    found = doctest.OutputChecker().check_output(wanted, printed, doctest.ELLIPSIS)
    assert found, f"{command}\nprinted\n{printed}\nand not\n{wanted}"
