"""A writer whose lock keeps nobody out: what others commit meanwhile is never lost, and he is told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torture.scenes import leftovers

import atlas
from atlas import Atlas
from atlas.commitfiles import CommitFiles
from atlas.storage import locks

ADD = """
import sys, atlas
with atlas.Atlas.open(sys.argv[1]) as store:
    view = store.create_dataset("theirs")
    view.define_array("t", "int64", ["x"], [4])
    view.write_array("t", [0], [0, 1, 2, 3])
"""
COMPACT = "import sys, atlas; atlas.Atlas.open(sys.argv[1]).compact()"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    with Atlas.create(tmp_path / "s") as store:
        fill(store, "a")
    return tmp_path / "s"


def fill(store: Atlas, name: str) -> None:
    view = store.create_dataset(name)
    view.define_array("t", "int64", ["x"], [4])
    view.write_array("t", [0], np.arange(4))


def run(code: str, place: Path) -> None:
    """Do something in another process."""
    subprocess.run([sys.executable, "-c", code, str(place)], check=True)


def meanwhile(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Do something once, when the files of the next commit have been made durable."""
    make_durable = CommitFiles.make_durable

    def hindered(files: CommitFiles) -> None:
        make_durable(files)
        monkeypatch.setattr(CommitFiles, "make_durable", make_durable)
        act()

    monkeypatch.setattr(CommitFiles, "make_durable", hindered)


def cells(place: Path) -> dict[str, list[int]]:
    store = Atlas.open(place)
    assert store.verify().ok
    return {name: store.open_dataset(name).read_array("t").tolist() for name in store.list_datasets()}


@pytest.mark.parametrize("code", [ADD, COMPACT])
def test_a_lock_file_that_was_removed_costs_nobody_a_commit(code, place, monkeypatch):
    """Somebody took it for stale; another process made a new one, and let itself in."""

    def let_in() -> None:
        (place / locks.LOCK_NAME).unlink()
        run(code, place)

    store = Atlas.open(place)
    fill(store, "mine")
    meanwhile(monkeypatch, let_in)
    with pytest.raises(atlas.ConflictError, match="lock file was removed"):
        store.flush()
    there = {"a", "theirs"} if code == ADD else {"a"}
    assert cells(place).keys() == there
    assert leftovers(place) == []
    store.flush()
    assert cells(place) == {name: [0, 1, 2, 3] for name in there | {"mine"}}


def test_a_store_that_was_put_in_the_place_of_another_is_left_alone(place, tmp_path, monkeypatch):
    def exchange() -> None:
        place.rename(tmp_path / "moved")
        shutil.copytree(other, place)

    other = tmp_path / "other"
    with Atlas.create(other) as store:
        fill(store, "other")
    store = Atlas.open(place)
    fill(store, "mine")
    meanwhile(monkeypatch, exchange)
    with pytest.raises(atlas.ConflictError, match="put elsewhere"):
        store.flush()
    assert cells(place).keys() == {"other"}
    assert cells(tmp_path / "moved").keys() == {"a"}


def break_index(place: Path) -> None:
    (file,) = (place / "t").iterdir()
    data = bytearray(file.read_bytes())
    data[-20] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("act", [Atlas.compact, lambda store: Atlas.repair(store.info()["location"])])
def test_nor_does_a_compaction_or_a_repair_take_anything_away(act, place, monkeypatch):
    with Atlas.open(place) as store:
        store.create_dataset("gone")
    with store:
        store.delete_dataset("gone")
    if act is not Atlas.compact:
        break_index(place)

    def let_in() -> None:
        (place / locks.LOCK_NAME).unlink()
        run('import sys, atlas\nwith atlas.Atlas.open(sys.argv[1]) as s: s.create_dataset("theirs")', place)

    meanwhile(monkeypatch, let_in)
    with pytest.raises(atlas.ConflictError, match="nothing was committed"):
        act(store)
    assert Atlas.open(place).list_datasets() == ["a", "theirs"]
    act(store)
    assert Atlas.open(place).list_datasets() == ["a", "theirs"]
    assert cells_of_a(place) == [0, 1, 2, 3]


def cells_of_a(place: Path) -> list[int]:
    return Atlas.open(place).open_dataset("a").read_array("t").tolist()


@pytest.mark.parametrize("act", [Atlas.flush, Atlas.compact, Atlas.gc])
def test_a_store_that_was_removed_is_not_begun_again(act, place):
    """Nor is a directory made where it was, or where a disk was that is not mounted any more."""
    store = Atlas.open(place)
    fill(store, "mine")
    shutil.rmtree(place)
    with pytest.raises(atlas.StoreNotFound):
        act(store)
    assert not place.exists()


@pytest.mark.parametrize("look", [lambda p: Atlas.repair(p, dry_run=True), lambda p: Atlas.open(p).gc(dry_run=True)])
def test_who_only_looks_makes_no_lock_file(look, place):
    (place / locks.LOCK_NAME).unlink()
    before = sorted(os.listdir(place))
    look(place)
    assert sorted(os.listdir(place)) == before
