"""The README's tour, run as it stands."""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_tour_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) >= 6
    scope: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), scope)


def test_the_examples_of_very_many_datasets_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    for block in re.findall(r"```python\n(.*?)```", (README.parent / "docs" / "scale.md").read_text(), re.DOTALL):
        exec(compile(block, "scale.md", "exec"), scope)
    assert len(scope["store"].list_datasets()) == 9001


def test_the_examples_of_object_storage_run():
    text = (README.parent / "docs" / "object-storage.md").read_text()
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "object-storage.md", "exec"), {})


def test_the_readme_opens_with_the_two_commands():
    start = README.read_text()[:900]
    assert "\nmake demo " in start
    assert "\nmake test " in start


def test_the_examples_of_files_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    for block in re.findall(r"```python\n(.*?)```", (README.parent / "docs" / "files.md").read_text(), re.DOTALL):
        exec(compile(block, "files.md", "exec"), scope)
    assert len(scope["atlas"].Atlas.open("profiles")) == 4
