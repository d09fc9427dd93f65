"""Two writers: what one did not see is never lost, and nobody is told of a conflict that is none."""

from __future__ import annotations

import errno
import os
import shutil
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import atlas
from atlas import Atlas, StorageError, commit, leftovers, worker
from atlas.storage import LocalStorage, local, locks


@pytest.fixture
def place(tmp_path: Path) -> Path:
    with Atlas.create(tmp_path / "s") as store:
        for name in ("a", "b"):
            view = store.create_dataset(name)
            view.define_array("t", "int64", ["x"], [4])
            view.write_array("t", [0], np.arange(4))
            view.set_attribute("k", 0)
    return tmp_path / "s"


def change(place: Path, name: str, value: int) -> None:
    """Commit a change, as another writer does."""
    with Atlas.open(place) as other:
        other.open_dataset(name).set_attribute("k", value)


@pytest.mark.parametrize("follow", [Atlas.refresh, Atlas.compact])
def test_moving_on_does_not_hide_what_another_writer_did(place, follow):
    store = Atlas.open(place)
    store.open_dataset("a").set_attribute("mine", 1)
    store.create_dataset("new")
    change(place, "a", 7)
    with Atlas.open(place) as other:
        other.create_dataset("new").set_attribute("theirs", 1)
        other.open_dataset("b").write_array("t", [0], np.ones(4, "int64"))
    follow(store)
    assert store.list_datasets() == ["a", "b", "new"]
    assert len(store) == 3
    with pytest.raises(atlas.ConflictError) as caught:
        store.flush()
    assert caught.value.datasets == ("a", "new")
    again = Atlas.open(place)
    assert again.open_dataset("a").attributes() == {"k": 7}
    assert again.open_dataset("new").attributes() == {"theirs": 1}


def delete(store: Atlas) -> None:
    store.delete_dataset("a")


def delete_the_array(store: Atlas) -> None:
    store.open_dataset("a").delete_array("t")


def make_it_anew(store: Atlas, dtype: str, chunk_shape: list[int]) -> None:
    delete_the_array(store)
    store.open_dataset("a").define_array("t", dtype, ["x"], [4], chunk_shape)
    store.open_dataset("a").write_array("t", [0], np.arange(4).astype(dtype) + 5)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(
    "meanwhile",
    [
        delete,
        delete_the_array,
        lambda store: make_it_anew(store, "float64", [4]),
        lambda store: make_it_anew(store, "int64", [2]),
    ],
)
def test_what_another_writer_took_away_is_not_read_as_something_else(place, meanwhile, together):
    """Changes of it are pending, and a refresh has shown that it is not there any more, or not what it was."""
    store = Atlas.open(place)
    if together:
        store.write_stacked("t", ["a"], np.ones((1, 1), "int64"))
    else:
        store.open_dataset("a").set_attribute("mine", 1)
    with Atlas.open(place) as other:
        meanwhile(other)
    store.refresh()
    view = store.open_dataset("a")
    reads = [lambda: store.read_array_across_stacked("t", ["a", "b"]), lambda: view.read_array("t")]
    if together and meanwhile is delete_the_array:
        assert reads.pop()() is None
    for read in reads:
        with pytest.raises(atlas.ConflictError, match="another writer has deleted dataset 'a'") as caught:
            read()
        assert caught.value.datasets == ("a",)
    with pytest.raises(atlas.ConflictError):
        store.flush()


class FlushedMeanwhile(list):
    """The first cell of a box, which is looked at when it has been found out what the box is of."""

    def __init__(self, store: Atlas) -> None:
        super().__init__([1])
        self.store = store

    def __iter__(self):
        self.store.flush()
        return super().__iter__()


@pytest.mark.parametrize("read", ["alone", "across", "stacked"])
def test_what_was_renamed_is_read_right_while_another_thread_flushes(place, read):
    store = Atlas.open(place)
    store.rename_dataset("a", "c")
    start = FlushedMeanwhile(store)
    if read == "alone":
        found = store.open_dataset("c").read_array("t", start)
    elif read == "across":
        found = store.read_array_across("t", ["c"], start)[0]
    else:
        found = store.read_array_across_stacked("t", ["c"], start)[0]
    assert found.tolist() == [1, 2, 3]


def test_what_was_seen_by_a_refresh_may_be_changed(place):
    store = Atlas.open(place)
    store.open_dataset("b").set_attribute("mine", 1)
    change(place, "a", 7)
    store.refresh()
    store.open_dataset("a").set_attribute("mine", 2)
    store.flush()
    assert Atlas.open(place).open_dataset("a").attributes() == {"k": 7, "mine": 2}


def test_a_dataset_that_another_writer_deleted(place):
    store = Atlas.open(place)
    store.delete_dataset("a")
    with Atlas.open(place) as other:
        other.delete_dataset("a")
    store.refresh()
    assert len(store) == 1
    with pytest.raises(atlas.ConflictError):
        store.flush()


def test_a_created_dataset_that_was_deleted_again_concerns_nobody(place):
    store = Atlas.open(place)
    store.create_dataset("new")
    store.delete_dataset("new")
    store.open_dataset("b").set_attribute("k", 1)
    with Atlas.open(place) as other:
        other.create_dataset("new")
    store.flush()
    assert Atlas.open(place).list_datasets() == ["a", "b", "new"]


def test_changes_to_a_store_that_was_replaced_are_not_put_into_the_new_one(place):
    store = Atlas.open(place)
    store.open_dataset("a").set_attribute("k", 5)
    store.create_dataset("new")
    with Atlas.create(place, overwrite=True) as other:
        other.create_dataset("a")
    with pytest.raises(atlas.ConflictError) as caught:
        store.flush()
    assert caught.value.datasets == ("a",)


def test_a_store_that_was_made_anew_is_another_one(place):
    """Even where its datasets are of the same generations."""
    store = Atlas.open(place)
    store.open_dataset("a").set_attribute("k", 5)
    store.create_dataset("new")
    shutil.rmtree(place)
    with Atlas.create(place) as other:
        other.create_dataset("a")
    with pytest.raises(atlas.ConflictError) as caught:
        store.flush()
    assert caught.value.datasets == ("a",)


@pytest.mark.parametrize(("count", "shown"), [(5, "'n4';"), (6, "'n4'…;")])
def test_the_message_names_five(place, count, shown):
    one, two = Atlas.open(place), Atlas.open(place)
    for store in (one, two):
        for i in range(count):
            store.create_dataset(f"n{i}")
    one.flush()
    with pytest.raises(atlas.ConflictError, match=shown) as caught:
        two.flush()
    assert len(caught.value.datasets) == count


def test_a_store_begun_at_flush_replaces_whatever_is_there(place):
    store = Atlas.create(place, overwrite="at flush")
    store.create_dataset("a")
    change(place, "b", 3)
    store.refresh()
    assert store.list_datasets() == ["a"]
    store.flush()
    assert Atlas.open(place).list_datasets() == ["a"]


# ── commits that were reported as failed ──────────────────────────────────────────────────────


def eio(*args: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def interrupt(*args: object) -> None:
    raise KeyboardInterrupt


def fails_after_the_root_was_replaced(store, monkeypatch, how=eio, error=StorageError):
    with monkeypatch.context() as broken:
        broken.setattr(local, "sync_parent", how)
        with pytest.raises(error):
            store.flush()


def fails_before(store, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(os, "replace", eio)
        with pytest.raises(StorageError):
            store.flush()


def test_own_work_is_no_conflict_after_a_second_failure(place, monkeypatch):
    store = Atlas.open(place)
    store.open_dataset("a").set_attribute("k", 1)
    store.create_dataset("new")
    fails_after_the_root_was_replaced(store, monkeypatch)
    fails_before(store, monkeypatch)
    store.flush()
    assert Atlas.open(place).list_datasets() == ["a", "b", "new"]


@pytest.mark.parametrize(("how", "error"), [(eio, StorageError), (interrupt, KeyboardInterrupt)])
def test_own_work_is_no_conflict_under_that_of_others(place, monkeypatch, how, error):
    store = Atlas.open(place)
    store.open_dataset("a").set_attribute("k", 1)
    fails_after_the_root_was_replaced(store, monkeypatch, how, error)
    for value in range(3):
        change(place, "b", value)
    store.flush()
    change(place, "b", 9)
    assert [Atlas.open(place).open_dataset(name).get_attribute("k") for name in "ab"] == [1, 9]


@pytest.mark.parametrize("meta_format", ["json", "msgpack"])
def test_a_store_that_has_begun_does_not_begin_once_more(place, monkeypatch, meta_format):
    store = Atlas.create(place, overwrite="at flush", meta_format=meta_format)
    view = store.create_dataset("a")
    view.define_array("t", "int64", ["x"], [2])
    view.write_array("t", [0], np.array([7, 8]))
    fails_after_the_root_was_replaced(store, monkeypatch)
    with Atlas.open(place) as other:
        other.create_dataset("theirs").set_attribute("k", 5)
    store.flush()
    again = Atlas.open(place)
    assert sorted(again.list_datasets()) == ["a", "theirs"]
    assert again.open_dataset("theirs").get_attribute("k") == 5
    assert again.open_dataset("a").read_array("t").tolist() == [7, 8]


def test_a_store_that_begins_at_the_flush_takes_the_root_before_it_away(place):
    with Atlas.create(place, overwrite="at flush", meta_format="msgpack") as store:
        store.create_dataset("new")
    assert [path.name for path in place.glob("atlas.*")] == ["atlas.msgpack"]


def fails_with_nothing_known(store, monkeypatch):
    """The disk fails for good just when the root has been replaced, so that it cannot be read again either."""
    with monkeypatch.context() as broken:
        broken.setattr(commit, "load_root", twice_only(commit.load_root))
        fails_after_the_root_was_replaced(store, broken)


def twice_only(action):
    """What there is to build on can be read, and that it is still there."""
    calls = []

    def limited(*args):
        calls.append(args)
        if len(calls) <= 2:
            return action(*args)
        raise StorageError("the disk is gone")

    return limited


@pytest.mark.parametrize("others", [1, 3, 12])
def test_own_work_is_known_by_what_the_root_remembers(place, monkeypatch, others):
    """Nothing could be read when the flush failed, no file tells of it, and others have committed since."""
    monkeypatch.setattr(commit, "_is_there", lambda storage, root: False)
    store = Atlas.open(place)
    store.open_dataset("a").set_attribute("k", 1)
    store.rename_dataset("b", "c")
    fails_with_nothing_known(store, monkeypatch)
    for value in range(others):
        change(place, "c", value)
        with Atlas.open(place) as other:
            other.create_dataset(f"more{value}")
    store.open_dataset("a").set_attribute("k", 2)
    with pytest.raises(atlas.ConflictError) as caught:
        store.flush()
    assert caught.value.datasets == ("c",)


@pytest.mark.parametrize("others", [1, 3, 20])
def test_an_attribute_alone_is_no_conflict_with_itself(place, monkeypatch, others):
    monkeypatch.setattr(commit, "_is_there", lambda storage, root: False)
    store = Atlas.open(place)
    store.open_dataset("a").set_attribute("k", 1)
    fails_with_nothing_known(store, monkeypatch)
    for value in range(others):
        change(place, "b", value)
    store.flush()
    for value in range(40):
        change(place, "b", value)
    assert Atlas.open(place).open_dataset("a").get_attribute("k") == 1


def test_own_work_that_was_recognised_stays_so_however_much_follows(place, monkeypatch):
    store = Atlas.open(place)
    store.rename_dataset("a", "c")
    fails_after_the_root_was_replaced(store, monkeypatch)
    for value in range(40):
        change(place, "b", value)
    store.open_dataset("c").set_attribute("k", 5)
    store.flush()
    again = Atlas.open(place)
    assert sorted(again.list_datasets()) == ["b", "c"]
    assert again.open_dataset("c").get_attribute("k") == 5


def test_what_the_root_does_not_remember_any_more_is_a_conflict(place, monkeypatch):
    """Better told of a conflict with oneself than silently writing over what another did."""
    monkeypatch.setattr(commit, "_is_there", lambda storage, root: False)
    store = Atlas.open(place)
    store.open_dataset("a").set_attribute("k", 1)
    fails_with_nothing_known(store, monkeypatch)
    for value in range(40):
        change(place, "b", value)
    with pytest.raises(atlas.ConflictError) as caught:
        store.flush()
    assert caught.value.datasets == ("a",)


def test_a_root_of_a_release_that_remembered_nothing_is_known_by_its_parent(place):
    root = Atlas.open(place)._session.snapshot.root
    older = replace(root, recent=())
    assert older.came_after(root.parent)
    assert older.oldest_known == root.generation - 1


def test_what_others_did_to_own_work_is_a_conflict(place, monkeypatch):
    store = Atlas.open(place)
    store.open_dataset("a").set_attribute("k", 1)
    fails_after_the_root_was_replaced(store, monkeypatch)
    change(place, "a", 2)
    with pytest.raises(atlas.ConflictError):
        store.flush()


def test_what_was_committed_after_all_can_be_deleted(place, monkeypatch):
    store = Atlas.open(place)
    store.create_dataset("new")
    fails_after_the_root_was_replaced(store, monkeypatch)
    store.delete_dataset("new")
    assert len(store) == 2
    store.flush()
    assert Atlas.open(place).list_datasets() == ["a", "b"]


def test_what_was_appended_is_counted_once_when_it_was_committed_after_all(place, monkeypatch):
    store = Atlas.open(place)
    store.open_dataset("a").append("t", np.array([7, -3]))
    fails_after_the_root_was_replaced(store, monkeypatch)
    store.flush()
    view = Atlas.open(place).open_dataset("a")
    assert view.read_array("t").tolist() == [0, 1, 2, 3, 7, -3]
    assert view.array_stats("t") == {"row_count": 6, "null_count": 0, "min": -3, "max": 7}


def test_a_commit_that_never_happened_is_forgotten(place, monkeypatch):
    store = Atlas.open(place)
    store.create_dataset("new")
    fails_before(store, monkeypatch)
    store.delete_dataset("new")
    with Atlas.open(place) as other:
        other.create_dataset("new")
    store.open_dataset("a").set_attribute("k", 1)
    store.flush()
    assert Atlas.open(place).list_datasets() == ["a", "b", "new"]


# ── what is in nobody's state ─────────────────────────────────────────────────────────────────


def test_compaction_removes_what_no_commit_refers_to(place):
    """Also without the mark of an interrupted writer, which a power cut may have taken along."""
    (left,) = (place / "t").glob("*.af")
    stray, beside = left.with_name(f"data-{'0' * 32}.af"), place / f".atlas.json.tmp-{'0' * 32}"
    for path in (stray, beside):
        path.write_bytes(b"half a file")
    reader = Atlas.open(place, mode="r")
    Atlas.open(place).compact()
    assert not stray.exists()
    assert not beside.exists()
    assert len(reader.read_array_across("t", ["a", "b"])) == 2


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("nowhere"), os.mkfifo])
@pytest.mark.parametrize("where", ["t", "_catalog", ""])
def test_what_is_no_file_but_is_named_like_one_hinders_nobody(place, make, where):
    names = {"t": f"data-{'0' * 32}.af", "_catalog": f"commit-{'0' * 32}.ar", "": f".atlas.json.tmp-{'0' * 32}"}
    other = place / where / names[where]
    make(other)
    die_before_the_root_is_replaced(place)
    change(place, "b", 7)
    store = Atlas.open(place)
    store.compact()
    store.gc()
    assert os.path.lexists(other)
    assert store.verify().ok
    assert store.open_dataset("b").get_attribute("k") == 7


def die_before_the_root_is_replaced(place: Path) -> None:
    """Leave a commit whose files are all there, but which never happened."""
    child = os.fork()
    if child == 0:
        store = Atlas.open(place)
        store.open_dataset("a").write_array("t", [0], np.arange(4) + 5)
        commit.publish = lambda *args, **kwargs: os._exit(9)  # type: ignore[assignment]
        store.flush()
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.parametrize("look", [lambda place: Atlas.open(place).gc(dry_run=True), Atlas.repair])
def test_what_was_never_acknowledged_is_never_brought_back(place, look):
    """Neither looking for garbage nor a repair that finds nothing to do makes a dead commit look like a newer state."""
    before = sorted(path.name for path in (place / "t").iterdir())
    die_before_the_root_is_replaced(place)
    for _ in range(2):
        look(place)
    assert Atlas.open(place).verify().ok
    Atlas.open(place).gc()
    assert sorted(path.name for path in (place / "t").iterdir()) == before
    assert Atlas.repair(place).actions == []
    assert Atlas.open(place).open_dataset("a").read_array("t").tolist() == [0, 1, 2, 3]


def test_a_writer_that_is_refused_leaves_an_older_root_what_it_is(place):
    older = (place / "atlas.json").read_bytes()
    change(place, "a", 7)
    (place / "atlas.json").write_bytes(older)
    with pytest.raises(atlas.StoreAlreadyExists):
        Atlas.create(place)
    assert not Atlas.open(place).verify().ok
    Atlas.open(place).compact()
    assert Atlas.repair(place).ok
    assert Atlas.open(place).open_dataset("a").get_attribute("k") == 7


@pytest.mark.parametrize("interrupted", [False, True])
def test_compaction_leaves_what_a_newer_root_referred_to(place, interrupted, caplog):
    """An older root was put in its place, by a backup say: the newer state can still be brought back."""
    older = (place / "atlas.json").read_bytes()
    for value in range(2):
        change(place, "a", value + 7)
    with Atlas.open(place) as store:
        store.open_dataset("a").define_array("u", "int64", ["x"], [4])
        store.open_dataset("a").write_array("u", [0], np.arange(4))
    (place / "atlas.json").write_bytes(older)
    if interrupted:
        (place / ".atlas.lock").write_bytes(b"w")
    with Atlas.open(place) as store:
        assert store.open_dataset("a").get_attribute("k") == 0
        store.compact()
    assert "its root is older than the record of a later commit" in caplog.text
    (place / ".atlas.lock").write_bytes(b"")
    assert Atlas.repair(place).ok
    assert Atlas.open(place).open_dataset("a").get_attribute("k") == 8
    assert Atlas.open(place).open_dataset("a").read_array("u").tolist() == [0, 1, 2, 3]


def refuse(place: Path) -> None:
    with pytest.raises(atlas.StoreAlreadyExists):
        Atlas.create(place)


@pytest.mark.parametrize("meanwhile", [Atlas.repair, lambda place: Atlas.open(place).compact(), refuse])
def test_a_repair_that_was_cut_off_takes_nothing_from_a_newer_state(place, meanwhile):
    """An older root was put in its place, and who wanted to repair that was interrupted: no commit was, by that."""
    older = (place / "atlas.json").read_bytes()
    change(place, "a", 7)
    (place / "atlas.json").write_bytes(older)
    (place / locks.LOCK_NAME).write_bytes(b"r")
    meanwhile(place)
    assert Atlas.repair(place).ok
    assert Atlas.open(place).open_dataset("a").get_attribute("k") == 7


def test_an_older_root_finds_its_files_where_readers_kept_them(place):
    """They were put aside when the newer state replaced them, and stay there as long as a root refers to them."""
    older = (place / "atlas.json").read_bytes()
    reader = Atlas.open(place, mode="r")
    with Atlas.open(place) as store:
        store.open_dataset("a").write_array("t", [0], np.arange(4) + 5)
    assert list((place / "_retired").iterdir())
    (place / "atlas.json").write_bytes(older)
    del reader, store
    Atlas.open(place).gc()
    Atlas.open(place).compact()
    assert Atlas.open(place).open_dataset("a").read_array("t").tolist() == [0, 1, 2, 3]


@pytest.mark.skipif(not locks.has_ofd_locks, reason="no locks on open file descriptions here")
@pytest.mark.parametrize(("most", "is_kept"), [(10_000, True), (0, False)])
def test_a_reader_keeps_its_state_for_however_long(place, monkeypatch, most, is_kept):
    """Unless so many files wait for it that every root is long for it."""
    reader = Atlas.open(place, mode="r")
    (file,) = reader._session.snapshot.root.arrays["t"].files
    monkeypatch.setattr(leftovers, "_MOST_WAITING", most)
    for day in range(3):
        clock = SimpleNamespace(time=lambda day=day: time.time() + day * 86400, monotonic=time.monotonic)
        for module in (commit, leftovers):
            monkeypatch.setattr(module, "time", clock)
        with Atlas.open(place) as store:
            store.open_dataset("a").write_array("t", [0], np.arange(4) + day)
        Atlas.open(place).compact()
        Atlas.open(place).gc()
        assert (place / "_retired" / Path(file.key).name).exists() is (is_kept or day == 0)
    if is_kept:
        assert reader.open_dataset("a").read_array("t").tolist() == [0, 1, 2, 3]
    else:
        with pytest.raises(atlas.SnapshotExpired):
            reader.open_dataset("a").read_array("t")


def test_a_state_that_was_handed_out_keeps_its_files_only_while_somebody_has_it(place):
    with Atlas.open(place) as store:
        lazy = store.open_as_xarray_dataset("a")
        for day in range(3):
            store.open_dataset("a").write_array("t", [0], np.arange(4) + day)
            store.flush()
        assert list((place / "_retired").iterdir())
        assert lazy["t"].to_numpy().tolist() == [0, 1, 2, 3]
        del lazy
        store.compact()
    assert not (place / "_retired").exists()


def test_a_new_store_is_not_made_over_one_whose_root_is_lost(place):
    (place / "atlas.json").unlink()
    with pytest.raises(atlas.StoreNotFound, match=r"repair"):
        Atlas.open(place)
    with pytest.raises(atlas.StoreAlreadyExists, match=r"repair"):
        Atlas.create(place)
    assert Atlas.repair(place).ok
    assert Atlas.open(place).list_datasets() == ["a", "b"]
    (place / "atlas.json").unlink()
    Atlas.create(place, overwrite=True)
    assert Atlas.open(place).list_datasets() == []


def test_pending_changes_whose_process_was_killed_leave_nothing(place):
    left = place / f".atlas.spill-{'0' * 32}"
    left.write_bytes(b"half a chunk")
    Atlas.open(place).compact()
    assert not left.exists()


@pytest.mark.parametrize("is_done", [True, False])
def test_a_root_that_is_said_to_be_missing_when_it_is_replaced(place, monkeypatch, is_done):
    """As network file systems say that asked twice, because an answer was lost."""
    real = os.replace

    def replace_once(*paths: str) -> None:
        monkeypatch.setattr(os, "replace", real)
        if is_done:
            real(*paths)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    store = Atlas.open(place)
    store.open_dataset("a").set_attribute("k", 5)
    monkeypatch.setattr(os, "replace", replace_once)
    with nullcontext() if is_done else pytest.raises(StorageError, match="No such file"):
        store.flush()
    store.flush()
    assert store.info()["generation"] == 2
    assert Atlas.open(place).open_dataset("a").get_attribute("k") == 5


def test_a_file_that_goes_while_it_is_verified_is_a_problem(place, monkeypatch):
    real = LocalStorage.size

    def look_and_lose(storage: LocalStorage, key: str) -> int:
        size = real(storage, key)
        if key.endswith(".af"):
            os.unlink(place / key)
        return size

    monkeypatch.setattr(LocalStorage, "size", look_and_lose)
    (problem,) = Atlas.open(place).verify().problems
    assert "is gone" in str(problem)


def test_an_old_file_that_cannot_be_removed_stays_noted(place, monkeypatch, caplog):
    reader = Atlas.open(place, mode="r")
    with Atlas.open(place) as store:
        store.delete_dataset("b")
    Atlas.open(place).compact()
    assert list((place / "_retired").iterdir())
    del reader, store  # each holds the files of the state it shows
    with monkeypatch.context() as broken:
        broken.setattr(os, "unlink", eio)
        change(place, "a", 1)
    assert "an old file could not be removed" in caplog.text
    assert list((place / "_retired").iterdir())
    change(place, "a", 2)
    assert not (place / "_retired").exists()
    # What has gone is not noted any more, but for the record of the commit before.
    assert len(Atlas.open(place)._session.snapshot.root.retired) == 1


def test_a_damaged_store_can_be_replaced(place):
    (place / "atlas.json").write_bytes(b"{}")
    Atlas.create(place, overwrite=True)
    assert Atlas.open(place).list_datasets() == []


@pytest.mark.skipif(not locks.has_ofd_locks, reason="no locks on open file descriptions here")
def test_who_reads_a_damaged_store_that_is_replaced_keeps_its_files(place):
    reader = Atlas.open(place, mode="r")
    (place / "atlas.json").write_bytes(b"{}")
    store = Atlas.create(place, overwrite=True)
    for _ in range(2):
        store.create_dataset("a").set_attribute("k", 1)
        store.flush()
        store.compact()
        store.delete_dataset("a")
        store.flush()
    assert reader.open_dataset("a").read_array("t").tolist() == [0, 1, 2, 3]
    root = store._session.snapshot.root
    assert "" not in root.recent
    del reader
    store.compact()
    store.gc()
    assert not list(place.glob("**/*.af"))


@pytest.mark.parametrize("loss", [Path.unlink, lambda root: root.write_bytes(b"{}")])
def test_a_damaged_store_is_not_replaced_before_the_flush_that_is_to_replace_it(loss, place):
    loss(place / "atlas.json")
    before = sorted(place.rglob("*"))
    with pytest.raises((atlas.CorruptRoot, atlas.StoreAlreadyExists), match=r"repair brings it back.*overwrite=True"):
        Atlas.create(place, overwrite="at flush")
    assert sorted(place.rglob("*")) == before
    assert Atlas.repair(place).ok
    assert Atlas.open(place).list_datasets() == ["a", "b"]


def test_only_an_untouched_new_store_is_discarded(tmp_path):
    one, other = Atlas.create(tmp_path / "s"), Atlas.open(tmp_path / "s")
    with other:
        other.create_dataset("a")
    one.discard_if_new()
    assert Atlas.open(tmp_path / "s").list_datasets() == ["a"]
    Atlas.create(tmp_path / "n").discard_if_new()
    with pytest.raises(atlas.StoreNotFound):
        Atlas.open(tmp_path / "n")


# ── readers beside a compaction ───────────────────────────────────────────────────────────────


def test_nothing_of_a_new_store_is_left_when_its_first_commit_failed(tmp_path, monkeypatch):
    """So that it can be begun again, as a failed ingest is."""
    store = Atlas.create(tmp_path / "s")
    store.create_dataset("a").define_array("t", "int64", ["x"], [4])
    store.open_dataset("a").write_array("t", [0], np.arange(4))
    with monkeypatch.context() as broken:
        broken.setattr(os, "replace", eio)
        with pytest.raises(StorageError):
            store.flush()
    assert list((tmp_path / "s" / "_catalog").iterdir())
    store.discard_if_new()
    assert [path.name for path in (tmp_path / "s").iterdir()] == [".atlas.lock"]
    assert len(Atlas.create(tmp_path / "s")) == 0


def test_a_file_that_is_put_aside_between_being_found_and_being_opened(place, monkeypatch):
    change(place, "a", 1)
    reader = Atlas.open(place, mode="r")
    original, once = LocalStorage.data_path, []

    def compacted_meanwhile(storage, key):
        path = original(storage, key)
        if not once:
            once.append(key)
            with Atlas.open(place) as other:
                other.delete_dataset("b")
            Atlas.open(place).compact()
        return path

    monkeypatch.setattr(LocalStorage, "data_path", compacted_meanwhile)
    assert reader.read_array_across_stacked("t", ["a", "b"]).tolist() == [[0, 1, 2, 3]] * 2
    monkeypatch.setattr(worker._maps, "_maps", type(worker._maps._maps)())
    for file in (place / "_retired").iterdir():
        file.unlink()
    with pytest.raises(atlas.SnapshotExpired, match="refresh"):
        reader.read_array_across_stacked("t", ["a", "b"])
