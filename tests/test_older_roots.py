"""A root that is not the newest: after a power cut, or when a backup was put in its place. No commit is lost to it."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from atlas import Atlas, ConflictError, CorruptRoot, commit, commitfiles, datafiles
from atlas.root import Root

CELLS = np.arange(4)


def add(place: Path, name: str, array: str = "t") -> None:
    """Commit a dataset with an array."""
    with Atlas.open(place) as store:
        view = store.create_dataset(name)
        view.define_array(array, "int64", ["x"], [4])
        view.write_array(array, [0], CELLS)


def change(place: Path, value: int) -> None:
    with Atlas.open(place) as store:
        store.open_dataset("a").set_attribute("k", value)


def shown(place: Path) -> dict[str, list[int]]:
    """Return the cells of each dataset."""
    store = Atlas.open(place, mode="r")
    return {name: store.open_dataset(name).read_array("t").tolist() for name in store.list_datasets()}


def root_of(place: Path) -> Root:
    return Atlas.open(place, mode="r")._session.snapshot.root


def files_of(place: Path) -> set[str]:
    return {file.key for file in root_of(place).files}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    Atlas.create(tmp_path / "s")
    add(tmp_path / "s", "a")
    return tmp_path / "s"


@pytest.mark.parametrize("act", ["repair", "gc"])
def test_the_root_of_a_copy_that_went_another_way_takes_nothing_away(place: Path, act: str) -> None:
    shutil.copytree(place, place.with_name("copy"))
    before = (place / "atlas.json").read_bytes()
    add(place.with_name("copy"), "of the copy")
    add(place, "mine")
    mine, expected = (place / "atlas.json").read_bytes(), shown(place)
    assert mine != before
    shutil.copy(place.with_name("copy") / "atlas.json", place / "atlas.json")
    if act == "repair":
        place = place / Atlas.repair(place).kept
        Atlas.repair(place)
    else:
        Atlas.open(place).gc()
        (place / "atlas.json").write_bytes(mine)
    assert shown(place) == expected


def test_a_record_of_another_store_that_names_no_files_is_not_taken_for_the_state(place: Path) -> None:
    other = place.with_name("other")
    with Atlas.create(other) as store:
        store.create_dataset("x").set_attribute("k", 0)
    for value in range(3):
        with Atlas.open(other) as store:
            store.open_dataset("x").set_attribute("k", value)
    newest = max((other / "_catalog").glob("*.ar"), key=os.path.getmtime)
    expected = shown(place)
    shutil.copy(newest, place / "_catalog")
    (place / "atlas.json").unlink()
    assert Atlas.repair(place).ok
    assert shown(place) == expected


def die_before_the_root_is_replaced(act: Callable[[], None]) -> None:
    """Leave all files of a commit that never happened."""
    child = os.fork()
    if child == 0:
        commit.publish = lambda *args, **kwargs: os._exit(9)  # type: ignore[assignment]
        act()
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_a_record_is_written_when_all_that_it_tells_of_is_durable(place, monkeypatch):
    """So that it says nothing wrong, however much of the rest a power cut takes."""
    synced, write = list[str](), commitfiles.write_record
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        fsync(descriptor)
        synced.append(os.path.relpath(os.readlink(f"/proc/self/fd/{descriptor}"), place))

    def checked(writer, root, indexes) -> None:
        own = {file.key for file in root.files if file.commit == root.commit}
        assert {*own, *map(os.path.dirname, own)} <= {*synced}
        write(writer, root, indexes)
        checked.calls = True

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(commitfiles, "write_record", checked)
    monkeypatch.setattr(commitfiles, "INLINE_BYTES", 0)
    add(place, "b")
    assert checked.calls


def test_a_root_does_not_give_way_to_a_commit_whose_files_are_missing(place):
    """As those may be that a killed writer left, its mark and some of its files gone: a backup during a flush, say."""
    known = files_of(place)
    die_before_the_root_is_replaced(lambda: add(place, "b"))
    (new,) = {f"t/{path.name}" for path in (place / "t").iterdir()} - known
    (place / new).unlink()
    (place / ".atlas.lock").write_bytes(b"")
    assert "repair puts what there is of that one aside" in str(Atlas.open(place).verify().problems[0])
    report = Atlas.repair(place)
    assert report.lost == []
    assert ["did not get done" in action for action in report.actions] == [True]
    assert shown(place) == {"a": [0, 1, 2, 3]}
    assert Atlas.open(place).verify().ok
    assert Atlas.repair(place).actions == []


def test_a_root_gives_way_to_the_whole_commit_that_was_to_replace_it(place):
    die_before_the_root_is_replaced(lambda: add(place, "b"))
    (place / ".atlas.lock").write_bytes(b"")
    assert Atlas.repair(place).ok
    assert shown(place) == {"a": [0, 1, 2, 3], "b": [0, 1, 2, 3]}


def put_back(place: Path, commits: int) -> None:
    """Make some commits, then put the root back that there was before."""
    old = (place / "atlas.json").read_bytes()
    for value in range(commits):
        change(place, value)
    (place / "atlas.json").write_bytes(old)


@pytest.mark.parametrize("commits", [1, 3, 40])
def test_a_root_that_was_put_back_gives_way_to_the_newest_commit(place, commits):
    """Also when it is older than the newest remembers."""
    put_back(place, commits)
    assert "an older root was put in its place" in str(Atlas.open(place).verify().problems[0])
    assert Atlas.repair(place).ok
    assert Atlas.open(place).open_dataset("a").get_attribute("k") == commits - 1


def go_on(place: Path) -> None:
    """Commit twice, so that the second may remove what the first replaced."""
    add(place, "new")
    change(place, -1)


def compact_too(place: Path) -> None:
    go_on(place)
    Atlas.open(place).compact()
    Atlas.open(place).gc()


def compact_pieces(place: Path) -> None:
    """Commit, beside the file that is there, and make one of both, which takes the files away that it replaces."""
    kept, datafiles.MERGE_BELOW = datafiles.MERGE_BELOW, 0
    add(place, "new")
    datafiles.MERGE_BELOW = kept
    Atlas.open(place).compact()


@pytest.mark.parametrize("commits", [5, 40])
@pytest.mark.parametrize("go_on", [go_on, compact_too, compact_pieces])
def test_what_was_committed_on_top_of_an_older_root_stays_and_so_does_the_rest(go_on, commits, place, tmp_path):
    """A repair cannot know which of the two is wanted: the root stays, the other becomes a store of its own."""
    put_back(place, commits)
    go_on(place)
    before = shown(place)
    assert before == {"a": [0, 1, 2, 3], "new": [0, 1, 2, 3]}
    assert "puts what there is of that one aside" in str(Atlas.open(place).verify().problems[0])
    report = Atlas.repair(place)
    assert report.ok
    assert len(report.actions) == 1
    assert shown(place) == before
    assert Atlas.open(place).verify().ok
    assert Atlas.repair(place).actions == []
    Atlas.open(place).compact()
    assert shown(place) == before
    other = tmp_path / "other"
    shutil.copytree(place / report.kept, other)
    assert Atlas.repair(other).ok
    assert shown(other) == {"a": [0, 1, 2, 3]}
    assert Atlas.open(other).open_dataset("a").get_attribute("k") == commits - 1
    assert Atlas.open(other).verify().ok


def test_a_damaged_root_beside_the_intact_one_is_repaired(place):
    """Left by who replaced a store by one of another encoding, and was killed before he had removed the old root."""
    (place / "atlas.msgpack").write_bytes(b"damaged")
    with pytest.raises(CorruptRoot):
        Atlas.open(place)
    assert Atlas.repair(place).ok
    assert shown(place) == {"a": [0, 1, 2, 3]}
    assert not (place / "atlas.msgpack").exists()


def test_a_handle_of_the_newer_state_does_not_take_another_change_for_one_that_it_saw(place):
    """The older root was gone on from until it was of the same generation, in which the same dataset changed."""
    old = (place / "atlas.json").read_bytes()
    change(place, 1)
    store = Atlas.open(place)
    store.open_dataset("a").set_attribute("k", 2)
    (place / "atlas.json").write_bytes(old)
    unchanged = Atlas.open(place)
    change(place, 3)
    with pytest.raises(ConflictError):
        store.flush()
    assert Atlas.open(place).open_dataset("a").get_attribute("k") == 3
    # Whose state is part of both histories is told of no conflict that is none.
    unchanged.create_dataset("b").set_attribute("k", 4)
    unchanged.flush()
    assert Atlas.open(place).list_datasets() == ["a", "b"]


def test_a_handle_of_the_newer_state_has_no_conflict_with_the_older_one(place):
    old = (place / "atlas.json").read_bytes()
    add(place, "b")
    store = Atlas.open(place)
    store.open_dataset("a").set_attribute("k", 2)
    (place / "atlas.json").write_bytes(old)
    store.flush()
    assert Atlas.open(place).list_datasets() == ["a"]
    assert Atlas.open(place).open_dataset("a").get_attribute("k") == 2


def test_a_later_state_is_kept_until_the_store_has_gone_on_for_as_many_commits(place):
    put_back(place, 3)
    before = root_of(place)
    for value in range(3):
        assert not Atlas.open(place).verify().ok
        add(place, f"b{value}")
    assert Atlas.open(place).verify().ok
    gc.collect()  # handles that were dropped keep files as long as they are there
    change(place, 7)
    Atlas.open(place).compact()
    Atlas.open(place).gc()
    for file in before.files:
        assert not (place / file.key).exists()
        assert not (place / "_retired" / Path(file.key).name).exists()
    assert Atlas.repair(place).actions == []
