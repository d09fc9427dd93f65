"""The pages of documentation, run as they stand: every block, in order, as a reader would."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import re
import shlex
import subprocess
import sys
from pathlib import Path

import matplotlib
import matplotlib.image
import numpy as np
import pytest
import xarray as xr
from documents import ROOT, pages, pages_with_blocks, run_blocks

import atlas
from atlas.config import Settings

TUTORIAL = "docs/tutorial.md"


@pytest.fixture(autouse=True)
def log(monkeypatch):
    """The logger, which a page turns up, as it was."""
    monkeypatch.setattr(logging.getLogger("atlas"), "level", logging.NOTSET)


@pytest.mark.parametrize("page", [page for page in pages_with_blocks() if page != TUTORIAL])
def test_every_block_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_blocks(page)


def test_the_first_hour_goes_as_written(shared_data, tmp_path, monkeypatch):
    matplotlib.use("Agg")
    (tmp_path / "shared").symlink_to(shared_data.parent)
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    scope = run_blocks(TUTORIAL)
    assert len(scope["store"]) == 334
    made, shown = (matplotlib.image.imread(path)[..., :3] for path in ("float.png", ROOT / "docs/_static/float.png"))
    assert made.shape == shown.shape
    assert np.abs(made - shown).mean() < 0.05, "the picture on the page is another one"


def test_the_first_hour_fits_a_terminal():
    for block in re.findall(r"```(?:sh|console|pycon)\n(.*?)```", (ROOT / TUTORIAL).read_text(), re.DOTALL):
        assert [line for line in block.splitlines() if len(line) > 80] == []


def test_the_commands_in_the_readme_do_what_they_say(tmp_path, monkeypatch, terminal):
    monkeypatch.chdir(tmp_path)
    Path("profiles").mkdir()
    for i, warmest in enumerate((27.5, 28.5)):
        cells = np.linspace(warmest, 4, 5, dtype="float32")
        xr.Dataset({"TEMP": ("N_LEVELS", cells)}).to_netcdf(f"profiles/R13857_00{i + 1}.nc")
    (block,) = re.findall(r"```\n(atlas .*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    for line in block.splitlines():
        printed = terminal(*shlex.split(line)[1:])
        assert "--where" not in line or printed == "R13857_002\n"
    assert len(Path("temperatures.csv").read_text().splitlines()) == 11
    assert len(atlas.Atlas.open("store")) == len(list(Path("files").glob("*.nc"))) == 2


def test_every_setting_names_its_variable():
    parts = re.split(r"^(\w+) : ", inspect.getdoc(Settings), flags=re.MULTILINE)[1:]
    named = dict(zip(parts[::2], parts[1::2], strict=True))
    assert list(named) == [field.name for field in dataclasses.fields(Settings)]
    assert [name for name, text in named.items() if f"``ATLAS_{name.upper()}``" not in text] == []


def test_no_handler_is_installed(fleet):
    code = f"""
import logging, atlas
store = atlas.Atlas.open({str(fleet)!r})
store.read_array_across_stacked("t", store.list_datasets())
print(logging.getLogger("atlas").handlers, logging.root.handlers)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[] []\n", "")


def test_nothing_that_could_be_run_is_left_out():
    """Blocks that are not run are of files in other forms, or of commands that other tests run or that install."""
    for page in pages():
        for kind, block in re.findall(r"^```(\S*)\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE):
            if kind in ("", "sh") and page != "docs/cli.md":
                for line in block.splitlines():
                    program = (shlex.split(line, comments=True) or [""])[0]
                    assert program not in ("python", "atlas") or is_run_elsewhere(page, line), (page, line)


def is_run_elsewhere(page: str, line: str) -> bool:
    """Return whether a command is one of the README's, an example's, or help and measurements."""
    return page == "README.md" or "examples/" in line or "-m perf" in line or "--help" in line
