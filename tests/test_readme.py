"""The README's tour, run as it stands."""

from __future__ import annotations

from pathlib import Path

from documents import run_blocks

README = Path(__file__).parents[1] / "README.md"


def test_the_tour_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "lazy" in run_blocks("README.md")


def test_the_examples_of_very_many_datasets_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope = run_blocks("docs/scale.md")
    assert len(scope["store"].list_datasets()) == 9001


def test_the_examples_of_object_storage_run():
    assert run_blocks("docs/object-storage.md")


def test_the_readme_opens_with_the_two_commands():
    start = README.read_text()[:900]
    assert "\nmake demo " in start
    assert "\nmake test " in start


def test_the_examples_of_files_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope = run_blocks("docs/files.md")
    assert len(scope["atlas"].Atlas.open("profiles")) == 4
