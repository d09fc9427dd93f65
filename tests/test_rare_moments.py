"""What a commit does in moments that hardly ever come, brought about on purpose."""

from __future__ import annotations

import errno
import os
import resource
import sys
import tempfile
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest
from hypothesis import given as examples
from hypothesis import strategies as st
from torture.scenes import in_child

import atlas
from atlas import (
    catalog,
    columnfile,
    commit,
    commitfiles,
    compaction,
    datafiles,
    garbage,
    heap,
    leftovers,
    root,
    roots,
    session,
    spill,
    verify,
)
from atlas.catalog import Catalog
from atlas.chunks import Box
from atlas.config import StoreConfig, settings
from atlas.conflicts import Attempt
from atlas.heap import Heap
from atlas.pending import Pending
from atlas.reader import Snapshot
from atlas.root import Root, encode_root
from atlas.schema import make_array_schema
from atlas.segment import HEADER_LENGTH
from atlas.storage import LocalStorage, files, local, locks, pins, remote
from atlas.threads import take_in
from atlas.writer import Growth, Held, PendingArray


@pytest.fixture
def url(tmp_path) -> str:
    """A store in memory: to Atlas an object store, with conditional puts."""
    return f"memory://{tmp_path.name}/s"


def add(store: atlas.Atlas, name: str) -> None:
    view = store.create_dataset(name)
    view.define_array("t", "int32", ["x"], [4])
    view.write_array("t", [0], np.arange(4, dtype="int32"))


def objects(url: str) -> set[str]:
    """Return the names of what is there."""
    return {name.rsplit("/", 1)[-1] for name in fsspec.filesystem("memory").find(url)}


def left_over(store: atlas.Atlas) -> list[str]:
    """Return what no state ever referred to."""
    return store.gc(grace=1e9, unfinished=0, dry_run=True).removed


def before_next(monkeypatch, module, act) -> None:
    """Let something happen just before a module's next commit begins."""
    real = module.next_state

    def next_state(storage, root):
        monkeypatch.setattr(module, "next_state", real)
        act()
        return real(storage, root)

    monkeypatch.setattr(module, "next_state", next_state)


# ── object stores ─────────────────────────────────────────────────────────────────────────────


def flush_more(url: str, name: str) -> None:
    """Commit as another process would, which knows nothing of the locks of this one's threads."""
    with pytest.MonkeyPatch.context() as patched, atlas.Atlas.open(url) as other:
        patched.setattr(locks, "_threads", {})
        add(other, name)
        other.flush()


def test_data_that_took_half_a_day_to_put_may_be_gone_and_is_not_relied_on(url, monkeypatch):
    store = atlas.Atlas.create(url)
    add(store, "a")
    hours = count(step=12)
    clock = SimpleNamespace(time=time.time, monotonic=lambda: next(hours) * 3601)
    monkeypatch.setattr(commit, "time", clock)
    with pytest.raises(atlas.StorageError, match="took 12 hours; flush more often"):
        store.flush()
    assert objects(url) == {"atlas.json"}, "what was put is taken back"
    assert atlas.Atlas.open(url).list_datasets() == []
    monkeypatch.undo()
    store.flush()
    assert atlas.Atlas.open(url).list_datasets() == ["a"]


def test_how_long_the_machine_has_been_running_says_nothing(url, monkeypatch):
    store = atlas.Atlas.create(url)
    add(store, "a")
    monkeypatch.setattr(commit, "time", SimpleNamespace(time=time.time, monotonic=lambda: 1e9))
    store.flush()
    assert atlas.Atlas.open(url).list_datasets() == ["a"]


def test_many_replaced_objects_go_without_anybody_asking(url, monkeypatch):
    with atlas.Atlas.create(url) as store:
        add(store, "a")
    files = fsspec.filesystem("memory")
    monkeypatch.setattr(commit, "_MOST_RETIRED", 1)
    monkeypatch.setattr(leftovers, "GRACE_SECONDS", -1)
    for turn in range(6):
        store.open_dataset("a").write_array("t", [0], np.full(4, turn, "int32"))
        store.flush()
        store.compact()
    assert len([name for name in files.find(url) if name.endswith(".af")]) <= 4
    retired = {key.rsplit("/", 1)[-1] for key, *_ in store._session.snapshot.root.retired}
    assert retired <= objects(url), "what has gone is not noted any more"
    assert atlas.Atlas.open(url).open_dataset("a").read_array("t").tolist() == [5] * 4


def put_bytes(place: object, size: int) -> None:
    """Commit a dataset of that many bytes, which nothing compresses."""
    with atlas.Atlas.open(place) as store:
        view = store.create_dataset(f"d{len(store.list_datasets())}")
        view.define_array("t", "uint8", ["x"], [size])
        view.write_array("t", [0], np.random.default_rng(size).integers(0, 256, size, np.uint8))


def test_far_away_it_is_small_files_that_are_waited_for_not_all(url, monkeypatch):
    monkeypatch.setattr(datafiles, "MERGE_ALWAYS", 4096)
    monkeypatch.setattr(datafiles, "MERGE_RATIO", 0)
    atlas.Atlas.create(url).close()
    for size in (10_000, 10_000, 10_000, 10_000, 500, 500):
        put_bytes(url, size)
    assert len(atlas.Atlas.open(url)._session.snapshot.root.arrays["t"].files) == 6


STRAY = f"t/data-{'0' * 32}.af"


@pytest.fixture
def littered(url) -> atlas.Atlas:
    """A store with a file that was replaced, and one of a commit that came to nothing."""
    store = atlas.Atlas.create(url)
    for name in ("a", "b"):
        add(store, name)
        store.flush()
    store.compact()
    fsspec.filesystem("memory").pipe_file(f"{url}/{STRAY}", b"half a file")
    return store


def test_what_is_as_old_as_was_said_may_go(littered, monkeypatch):
    """Age is counted in whole seconds: what is as old as the grace is over it."""
    found = {item.key: item for item in littered._session.storage.inventory()}
    retired = {key: since for key, _, since in littered._session.snapshot.root.retired}
    for now, gone in ((max(retired.values()), set(retired)), (found[STRAY].modified, {*retired, STRAY})):
        monkeypatch.setattr(garbage, "_look", lambda storage, dry_run, now=now: (now, found))
        assert set(littered.gc(grace=0, unfinished=0, dry_run=True).removed) >= gone


def test_uploads_are_dropped_that_began_before_unfinished_commits_may_have(littered, monkeypatch):
    asked: list[float] = []
    monkeypatch.setattr(remote.RemoteStorage, "drop_unfinished", lambda storage, before: asked.append(before) or 0)
    monkeypatch.setattr(garbage, "_look", lambda storage, dry_run: (1000.0, {}))
    littered.gc(unfinished=100)
    assert asked == [900]


def test_the_clock_of_who_collects_does_not_matter(littered, monkeypatch):
    """Age is by the clock of the store, which is asked for it: here nothing is old yet."""
    ahead = SimpleNamespace(time=lambda: time.time() + 9 * 86400, monotonic=time.monotonic)
    monkeypatch.setattr(garbage, "time", ahead)
    assert littered.gc().removed == []


def test_what_is_too_young_to_go_is_remembered_until_it_is_old(littered, url, monkeypatch):
    old = {key for key, *_ in littered._session.snapshot.root.retired}
    add(littered, "c")
    littered.flush()
    littered.compact()
    young = {key for key, *_ in littered._session.snapshot.root.retired} - old
    found = littered._session.storage.inventory()
    times = dict.fromkeys(old, 1000) | dict.fromkeys(young, 2000)
    root = littered._session.snapshot.root
    aged = replace(root, retired=tuple((key, since, times[key]) for key, since, _ in root.retired))
    monkeypatch.setattr(garbage, "load_root", lambda storage: aged)
    monkeypatch.setattr(garbage, "_look", lambda storage, dry_run: (2100.0, {item.key: item for item in found}))
    assert set(littered.gc(grace=500, unfinished=1e12).removed) == old
    monkeypatch.undo()
    assert {key for key, *_ in atlas.Atlas.open(url)._session.snapshot.root.retired} == young


def test_what_a_reader_kept_goes_when_it_has_gone(place):
    with atlas.Atlas.create(place) as store:
        add(store, "a")
    reader = atlas.Atlas.open(place, mode="r")
    store = atlas.Atlas.open(place)
    add(store, "b")
    store.flush()
    store.compact()
    kept = [file for file in place.glob("_retired/**/*") if file.is_file()]
    assert kept
    assert store.gc().removed == []
    del reader
    size = sum(file.stat().st_size for file in kept)
    report = store.gc()
    assert len(report.removed) == len(kept)
    assert report.bytes == size
    assert not any(file.exists() for file in kept)


@pytest.mark.parametrize("wrong", [True, "60", -1, float("nan")])
@pytest.mark.parametrize("which", ["grace", "unfinished"])
def test_ages_are_numbers_of_seconds(place, which, wrong):
    store = atlas.Atlas.create(place)
    with pytest.raises(atlas.InvalidArgument, match=f"{which} must be a number of seconds"):
        store.gc(**{which: wrong})


def test_where_nothing_tells_how_old_the_store_is_the_clock_here_does(littered, monkeypatch):
    plain = remote.RemoteStorage.inventory

    def timeless(storage):
        return [item for item in plain(storage) if "_probe/" not in item.key]

    monkeypatch.setattr(remote.RemoteStorage, "inventory", timeless)
    assert littered.gc(grace=1e9, unfinished=1e9).removed == []
    assert littered.gc(grace=0, unfinished=0).removed != []


def test_what_waits_is_there(littered, url):
    """What somebody else has removed meanwhile waits for nothing."""
    key, *_ = littered.gc().waiting
    fsspec.filesystem("memory").rm_file(f"{url}/{key}")
    assert key not in littered.gc().waiting


@pytest.mark.parametrize("meta_format", ["json", "msgpack"])
def test_a_store_with_a_damaged_root_is_overwritten_on_an_object_store(url, meta_format):
    """Whichever names the roots of the old store and of the new one have."""
    with atlas.Atlas.create(url, meta_format="msgpack") as store:
        add(store, "a")
    for name in fsspec.filesystem("memory").ls(url, detail=False):
        if "/atlas." in name:
            fsspec.filesystem("memory").pipe_file(name, b"junk")
    with pytest.raises(atlas.CorruptRoot):
        atlas.Atlas.open(url)
    with atlas.Atlas.create(url, meta_format=meta_format, overwrite=True) as store:
        assert store.info()["generation"] == 1, "nothing is known of the commits before"
        add(store, "b")
    assert atlas.Atlas.open(url).list_datasets() == ["b"]


@pytest.mark.parametrize("meta_format", ["json", "msgpack"])
def test_nothing_is_left_of_a_new_store_that_is_discarded(url, meta_format):
    """Whatever name its root would have had."""
    store = atlas.Atlas.create(url, meta_format=meta_format)
    store.discard_if_new()
    assert objects(url) == set()


def test_who_overwrites_while_another_commits_comes_after_him(url, monkeypatch):
    with atlas.Atlas.create(url) as store:
        add(store, "a")
    before_next(monkeypatch, commit, lambda: flush_more(url, "b"))
    store = atlas.Atlas.create(url, overwrite=True)
    assert store.info()["generation"] == 3
    assert atlas.Atlas.open(url).list_datasets() == []


def test_who_compacts_while_another_commits_begins_anew(url, monkeypatch):
    with atlas.Atlas.create(url) as store:
        add(store, "a")
    flush_more(url, "b")
    store.refresh()
    before_next(monkeypatch, compaction, lambda: flush_more(url, "c"))
    store.compact()
    assert store.list_datasets() == ["a", "b", "c"]
    store = atlas.Atlas.open(url)
    assert len(store._session.snapshot.root.arrays["t"].files) == 1
    assert store.verify().ok
    assert left_over(store) == [], "what was put in vain is taken back"


def test_who_flushes_while_another_commits_begins_anew(url, monkeypatch):
    store = atlas.Atlas.create(url)
    add(store, "a")
    before_next(monkeypatch, commit, lambda: flush_more(url, "b"))
    store.flush()
    store = atlas.Atlas.open(url)
    assert store.list_datasets() == ["b", "a"]
    assert store.verify().ok
    assert left_over(store) == [], "what was put in vain is taken back"


def test_who_is_always_slower_than_others_gives_up_at_last(url, monkeypatch):
    atlas.Atlas.create(url)
    store = atlas.Atlas.open(url)
    add(store, "a")
    flush_more(url, "b")
    with monkeypatch.context() as patched:
        patched.setattr(roots, "settings", lambda: type("Hurry", (), {"commit_seconds": -1}))
        with pytest.raises(atlas.ConflictError, match="other writers were faster"):
            store.flush()
    store.flush()
    assert atlas.Atlas.open(url).list_datasets() == ["b", "a"]
    assert settings().commit_seconds > 0


def test_who_loses_a_race_waits_for_longer_each_time(url, monkeypatch):
    """For a random time, lest the same two meet again and again; never for more than two seconds."""
    waited: list[tuple[float, float]] = []
    monkeypatch.setattr(roots, "random", SimpleNamespace(uniform=lambda *bounds: waited.append(bounds) or 0))
    race = roots.Race(atlas.Atlas.create(url)._session.storage)
    lost = roots.LostRace(SimpleNamespace(commit="theirs"), SimpleNamespace(commit="before"))
    for _ in range(9):
        assert race.again(lost) is lost.current
    assert waited == [(0, 0.02 * 2**turn) for turn in range(7)] + [(0, 2.0)] * 2


def test_who_overwrites_what_has_been_taken_away_again_makes_a_store(url, monkeypatch):
    real = roots.create_root

    def faster(storage, layout):
        monkeypatch.setattr(atlas.store, "create_root", real)
        raise FileExistsError

    monkeypatch.setattr(atlas.store, "create_root", faster)
    with atlas.Atlas.create(url, meta_format="msgpack", overwrite=True) as store:
        add(store, "a")
    assert atlas.Atlas.open(url).list_datasets() == ["a"]
    assert {"atlas.json", "atlas.msgpack"} <= objects(url), "what creators compete for is there"


def test_the_root_is_found_under_whatever_name(url):
    """A new store has no later state yet; one that was overwritten twice has an older one under the next name."""
    for meta_format in ("msgpack", "json", "msgpack"):
        atlas.Atlas.create(url, meta_format=meta_format, overwrite=True)
        assert atlas.Atlas.open(url).list_datasets() == []
        for name in ("a", "b"):
            with atlas.Atlas.open(url) as store:
                add(store, name)
        assert atlas.Atlas.open(url).list_datasets() == ["a", "b"]
    assert store.info()["generation"] == 8


@pytest.mark.parametrize("is_readable", [True, False])
def test_a_commit_whose_answer_is_lost_is_recognised(url, monkeypatch, is_readable):
    store = atlas.Atlas.create(url)
    add(store, "a")
    files = type(fsspec.filesystem("memory"))
    real = files.pipe_file

    def lose(self, path, value, *args, **kwargs):
        real(self, path, value, *args, **kwargs)
        if "atlas." in path:
            raise OSError(5, "no answer")

    def fail(storage):
        raise atlas.StorageError("nothing can be read")

    with monkeypatch.context() as patched:
        patched.setattr(files, "pipe_file", lose)
        if is_readable:
            store.flush()
        else:
            patched.setattr(roots, "load_root", fail)
            with pytest.raises(atlas.CommitUnknownError, match="nothing can be read; flush again"):
                store.flush()
    store.flush()
    assert atlas.Atlas.open(url).list_datasets() == ["a"]
    assert atlas.Atlas.open(url).verify().ok


@pytest.mark.parametrize("meta_format", ["json", "msgpack"])
@pytest.mark.parametrize(("size", "tables"), [(3000, 0), (25_000, 1)])
def test_the_root_holds_more_where_a_table_file_is_a_request(url, meta_format, size, tables):
    with atlas.Atlas.create(url, meta_format=meta_format) as store:
        store.create_datasets([f"a station with a name that is rather long, {i}" for i in range(size)])
    assert len([name for name in objects(url) if name.endswith(".at")]) == tables
    assert len(atlas.Atlas.open(url)) == size


@pytest.mark.parametrize("room", [0, -1])
def test_the_root_holds_just_as_much_of_the_table_as_fits(tmp_path, monkeypatch, room):
    with atlas.Atlas.create(tmp_path / "first") as store:
        add(store, "a")
    weight = store._session.snapshot.root.catalog.top.weight
    monkeypatch.setattr(commitfiles, "INLINE_BYTES", weight + room)
    with atlas.Atlas.create(tmp_path / "second") as store:
        add(store, "a")
    assert len(store._session.snapshot.root.catalog.tables) == -room


def test_statistics_are_of_what_is_there_also_where_others_have_compacted(tmp_path):
    """Of what stays of an array, which has another number now, in another file."""
    with atlas.Atlas.create(tmp_path / "s") as store:
        for number, name in enumerate(("a", "b", "c")):
            store.create_dataset(name).define_array("t", "int32", ["x"], [8], [4])
            store.open_dataset(name).write_array("t", [0], np.arange(8, dtype="int32") + 10 * number)
    store = atlas.Atlas.open(tmp_path / "s")
    store.open_dataset("b").write_array("t", [0], np.full(4, 12, "int32"))
    with atlas.Atlas.open(tmp_path / "s") as other:
        other.delete_dataset("a")
    atlas.Atlas.open(tmp_path / "s").compact()
    store.flush()
    found = atlas.Atlas.open(tmp_path / "s").open_dataset("b").array_stats("t")
    assert found == {"row_count": 8, "null_count": 0, "min": 12, "max": 17}


def test_a_compact_store_stays_as_it_is(tmp_path):
    with atlas.Atlas.create(tmp_path / "s") as store:
        add(store, "a")
    before = store.info()["generation"]
    store.compact()
    assert store.info()["generation"] == before


def test_an_array_made_anew_without_cells(url):
    with atlas.Atlas.create(url) as store:
        add(store, "a")
    view = store.open_dataset("a")
    view.delete_array("t")
    view.define_array("t", "int8", ["x"], [2])
    store.flush()
    assert atlas.Atlas.open(url).open_dataset("a").read_array("t").tolist() == [0, 0]


# ── local disks ───────────────────────────────────────────────────────────────────────────────


def test_what_has_changed_says_in_which_commit(tmp_path):
    """Created one by one and together, in the order of their creation."""
    with atlas.Atlas.create(tmp_path / "s") as store:
        for names in ("ab", "cd"):
            store.create_datasets([*names])
        add(store, "e")
    with atlas.Atlas.open(tmp_path / "s") as store:
        store.open_dataset("b").set_attribute("k", 1)
    catalog = atlas.Atlas.open(tmp_path / "s")._session.snapshot.root.catalog
    assert catalog.names() == [*"abcde"]
    assert catalog.changed(catalog.ordinals).tolist() == [1, 2, 1, 1, 1]


def test_directories_of_new_arrays_are_made_together(tmp_path, monkeypatch):
    """With one sync for all of them; two whose names differ in case only are two everywhere."""
    store = atlas.Atlas.create(tmp_path / "s")
    arrays = {name: {"dims": ["x"], "data": np.ones((1, 2), "int8")} for name in ("t", "T", "u", "v")}
    store.create_datasets(["a"], arrays)
    synced, real = [], files.sync_directory
    monkeypatch.setattr(files, "sync_directory", lambda path: synced.append(path) or real(path))
    store.flush()
    assert synced.count(str(tmp_path / "s")) == 3, "for the four directories, for that of records, and for the root"
    directories = {name.casefold() for name in os.listdir(tmp_path / "s")} - {".atlas.lock", "atlas.json", "_catalog"}
    assert len(directories) == 4


def test_a_thread_that_writes_for_too_long_is_named(tmp_path):
    begun, done = threading.Event(), threading.Event()

    def write() -> None:
        with locks.thread_lock(str(tmp_path), 1):
            begun.set()
            done.wait(10)

    thread = threading.Thread(target=write)
    thread.start()
    begun.wait(10)
    try:
        with pytest.raises(atlas.ConflictError, match="another thread"), locks.thread_lock(str(tmp_path), 0.01):
            pass
    finally:
        done.set()
        thread.join()


def test_who_only_looks_and_is_refused_leaves_the_mark_as_it_is(tmp_path):
    for content in (b"", b"w"):
        (tmp_path / locks.LOCK_NAME).write_bytes(content)
        with pytest.raises(atlas.ConflictError), locks.writer_lock(str(tmp_path), 1, mark=b""):
            raise atlas.ConflictError("refused")
        assert (tmp_path / locks.LOCK_NAME).read_bytes() == content


def test_a_lock_that_cannot_be_had_is_not_held(tmp_path, monkeypatch):
    def fail(*args: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(locks.fcntl, "flock", fail)
        patched.setattr(locks.fcntl, "fcntl", fail)
        with pytest.raises(OSError, match="Input/output"), locks.writer_lock(str(tmp_path), 1):
            pass
    with locks.writer_lock(str(tmp_path), 1) as interrupted:
        assert not interrupted


def test_a_copy_that_does_not_fit_is_taken_back(tmp_path, monkeypatch):
    """Where there are no links, what a repair replaces is copied."""
    (tmp_path / "whole").write_bytes(bytes(5000))

    def refuse(*args: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    def copy() -> list[str]:
        monkeypatch.setattr(os, "link", refuse)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(atlas.StorageError, match="too large"):
            LocalStorage(str(tmp_path)).keep_copy("whole", "_damaged/whole")
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        return os.listdir(tmp_path / "_damaged")

    assert in_child(copy) == []


def test_a_root_that_appears_meanwhile_is_not_replaced(tmp_path, monkeypatch):
    storage, real = LocalStorage(str(tmp_path)), LocalStorage._write_beside

    def late(self, place, data):
        (tmp_path / "root").write_bytes(b"faster")
        return real(self, place, data)

    monkeypatch.setattr(LocalStorage, "_write_beside", late)
    with pytest.raises(FileExistsError):
        storage.create_exclusive("root", b"slower")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"root": b"faster"}


def test_what_nobody_else_may_list_is_nothing_of_the_store():
    def look() -> list[str]:
        with tempfile.TemporaryDirectory(dir="/tmp") as place:
            os.mkdir(f"{place}/lost+found", 0o100)
            os.chmod(place, 0o755)
            storage = LocalStorage(place)
            with nobody():
                within = storage.list_dir("lost+found")
            os.chmod(place, 0o111)
            try:
                with nobody(), pytest.raises(atlas.ReadOnlyStore, match=r"listing .*Permission denied"):
                    storage.list_dir("")
            finally:
                os.chmod(place, 0o700)
                os.chmod(f"{place}/lost+found", 0o700)
        return within

    assert in_child(look) == []


@contextmanager
def nobody():
    """Let this process be one that has no rights of its own."""
    before = os.geteuid()
    if not before:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_root_that_is_neither_replaced_nor_readable_is_a_failure(tmp_path, monkeypatch, is_there):
    place = tmp_path / "s"
    with atlas.Atlas.create(place) as store:
        add(store, "a")
    add(store, "b")
    kept, calls = (place / "atlas.json").read_bytes(), []

    def fail(*args: object) -> None:
        calls.append(args)
        if is_there:
            (place / "atlas.json").write_bytes(b"half")
        else:
            (place / "atlas.json").unlink()
        raise atlas.StorageError("Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(LocalStorage, "replace", fail)
        with pytest.raises(atlas.StorageError, match="Input/output"):
            store.flush()
    assert len(calls) == 1, "what is known to be there is put once more, and nothing else"
    (place / "atlas.json").write_bytes(kept)
    assert atlas.Atlas.open(place).list_datasets() == ["a"]
    store.flush()
    assert atlas.Atlas.open(place).list_datasets() == ["a", "b"]


def test_a_root_that_is_in_its_place_is_put_there_once_more_until_it_is_durable(tmp_path, monkeypatch):
    store = atlas.Atlas.create(tmp_path / "s")
    add(store, "a")
    real, failures = local.sync_parent, iter([OSError(errno.EIO, os.strerror(errno.EIO))])

    def fail_once(path: str) -> None:
        for error in failures:
            raise error
        real(path)

    monkeypatch.setattr(local, "sync_parent", fail_once)
    store.flush()
    assert next(failures, None) is None
    assert atlas.Atlas.open(tmp_path / "s").list_datasets() == ["a"]


@pytest.mark.parametrize(("recent", "is_ruled_out"), [(("b",), False), (("other", "b"), True), (("mine", "b"), False)])
def test_a_commit_did_not_happen_if_another_has_its_number(recent, is_ruled_out):
    """Until the root names every commit from there on, it may be among those before."""
    mine = Root(StoreConfig(), 5, "mine", "a", Catalog(), {})
    now = Root(StoreConfig(), 7, "c", "b", Catalog(), {}, recent=recent)
    assert Attempt(mine, set()).is_ruled_out_by(now) == is_ruled_out


@pytest.mark.parametrize(("generation", "is_ruled_out"), [(4, False), (5, True), (6, True)])
def test_a_put_that_nobody_answered_may_arrive_until_another_commit_has_its_number(generation, is_ruled_out):
    """It replaces the state of generation 4, if it is still there; where a lock decides, nothing is on its way."""
    mine = Root(StoreConfig(), 5, "mine", "a", Catalog(), {})
    now = Root(StoreConfig(), generation, "c", "b", Catalog(), {}, version="of an object")
    assert Attempt(mine, set()).is_ruled_out_by(now) == is_ruled_out
    assert Attempt(mine, set()).is_ruled_out_by(replace(now, version=None))


@pytest.mark.parametrize("own", [0, 160])
def test_a_flush_of_more_arrays_than_files_may_be_open(tmp_path, monkeypatch, own):
    """Also where what waits of each array has a file of its own, which becomes the data file."""
    monkeypatch.setattr(heap, "OWN_BYTES", 1)
    monkeypatch.setattr(heap, "OWN_FILES", own)

    def write() -> None:
        store = atlas.Atlas.create(tmp_path / "s", workers=1)
        view = store.create_dataset("a")
        for number in range(160):
            view.define_array(f"t{number}", "int32", ["x"], [1])
            view.write_array(f"t{number}", [0], np.full(1, number, "int32"))
        limit = len(os.listdir("/proc/self/fd")) + 140 + own
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        store.flush()

    in_child(write)
    assert atlas.Atlas.open(tmp_path / "s").open_dataset("a").read_array("t159").tolist() == [159]


# ── verify, where a request for each chunk would take long ────────────────────────────────────


@pytest.mark.parametrize("together", [64 << 20, 0])
def test_verify_names_a_damaged_chunk_however_many_are_read_together(url, monkeypatch, together):
    monkeypatch.setattr(verify, "_GROUP_BYTES", together)
    with atlas.Atlas.create(url) as store:
        for name in ("a", "b"):
            add(store, name)
    (key,) = (key for key in fsspec.filesystem("memory").find(url) if key.endswith(".af"))
    data = bytearray(fsspec.filesystem("memory").cat_file(key))
    data[HEADER_LENGTH] ^= 1
    fsspec.filesystem("memory").pipe_file(key, bytes(data))
    report = atlas.Atlas.open(url).verify()
    assert [(problem.array, problem.dataset, problem.chunk) for problem in report.problems] == [("t", "a", 0)]
    assert report.chunks == 2


@pytest.mark.parametrize(("together", "read"), [(64 << 20, "read_boxes"), (0, "read_box")])
def test_verify_does_not_call_damaged_what_gives_no_answer(url, monkeypatch, together, read):
    monkeypatch.setattr(verify, "_GROUP_BYTES", together)
    with atlas.Atlas.create(url) as store:
        add(store, "a")

    def fail(*args):
        raise atlas.StorageError("no answer")

    monkeypatch.setattr(Snapshot, read, fail)
    with pytest.raises(atlas.StorageError, match="no answer"):
        atlas.Atlas.open(url).verify()


# ── what waits for a flush ────────────────────────────────────────────────────────────────────


def test_what_waits_is_read_back_whole_or_not_at_all(tmp_path):
    waiting = Heap(str(tmp_path), 0)
    for piece in (b"first", b"second", b"third"):
        waiting.append(piece)
    assert waiting.spilled == 11
    assert waiting.read(0, 16) == b"firstsecondthird"
    file = waiting._shared.descriptor
    os.ftruncate(file, HEADER_LENGTH + 2)
    with pytest.raises(atlas.StorageError, match="the disk has not kept what was written"):
        waiting.read(0, 5)
    with open(os.devnull, "wb") as unreadable:
        os.dup2(unreadable.fileno(), file)
    with pytest.raises(atlas.StorageError, match="reading pending changes back: Bad file"):
        waiting.read(0, 5)


@pytest.mark.parametrize("own", [0, 1 << 30])
def test_what_the_disk_has_lost_before_the_flush_is_not_committed(tmp_path, monkeypatch, own):
    """As where writing ahead failed, a flush heard of it, and the pages are not in memory when the next one comes."""
    monkeypatch.setattr(heap, "OWN_BYTES", own)
    store = atlas.Atlas.create(tmp_path / "s", pending_bytes=0)
    for name in ("a", "b"):
        add(store, name)
        store.create_dataset(f"{name} too").define_array("u", "int32", ["x"], [100_000])
        store.open_dataset(f"{name} too").write_array("u", [0], np.arange(100_000, dtype="int32") ** 2)
    waiting = store._session.pending.heap
    with monkeypatch.context() as failing:
        failing.setattr(files.LocalWriter, "finish", refuse)
        with pytest.raises(OSError, match="No space"):
            store.flush()
    for file in {*waiting._own.values(), waiting._shared} - {None}:
        os.pwrite(file.descriptor, bytes(64), HEADER_LENGTH + 512)
    with pytest.raises(atlas.StorageError, match="has not kept what was written"):
        store.flush()
    assert atlas.Atlas.open(tmp_path / "s").list_datasets() == []


def test_what_waits_is_read_back_in_as_many_pieces_as_the_system_gives(tmp_path, monkeypatch):
    waiting, real = Heap(str(tmp_path), 0), os.pread
    for piece in (b"first", b"second", b""):
        waiting.append(piece)
    waiting.append(b"third")
    assert waiting.spilled
    monkeypatch.setattr(os, "pread", lambda file, length, at: real(file, min(length, 2), at))
    assert waiting.read(0, 16) == b"firstsecondthird"
    assert waiting.read(3, 0) == b""


def test_what_is_left_free_before_a_large_piece_reads_as_zeros(tmp_path):
    waiting = Heap(str(tmp_path), 1 << 20)
    assert (waiting.append(b"abc"), waiting.append(b"x" * 2000)) == (0, 8)
    assert waiting.read(0, 10) == b"abc" + bytes(5) + b"xx"
    assert waiting.read(4, 6) == bytes(4) + b"xx"


def test_a_file_that_cannot_be_given_a_name_stays_the_callers(tmp_path):
    with open(tmp_path / "other", "w+b") as file:
        before = os.listdir("/proc/self/fd")
        with pytest.raises(atlas.StorageError, match="name too long"):
            files.LocalWriter.going_on(str(tmp_path / ("n" * 300)), file.fileno(), 0)
        assert os.listdir("/proc/self/fd") == before
        file.write(b"still open")


@pytest.mark.parametrize("can_begin", [True, False])
def test_the_disk_begins_with_large_files_before_they_are_synced(tmp_path, monkeypatch, can_begin):
    begun = []
    real = files._sync_file_range
    monkeypatch.setattr(
        files, "_sync_file_range", (lambda *call: begun.append(call) or real(*call)) if can_begin else None
    )
    writer = files.LocalWriter(str(tmp_path / "large"))
    for _ in range(9):
        writer.write(b"x" * (1 << 20))
    writer.finish()
    assert (tmp_path / "large").stat().st_size == 9 << 20
    assert [call[1:3] for call in begun] == ([(0, 8 << 20)] if can_begin else [])


class Interrupter:
    """Ctrl-C at the so-manieth moment when Python looks for it: functions begin, and those written in C have ended."""

    def __init__(self, moment: int, where: str) -> None:
        self.left = moment
        self.where = where

    def __call__(self, frame, event, argument) -> None:
        if event in ("call", "c_return") and self.where in frame.f_code.co_filename:
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt


def at_every_call(prepare, act, check, where: str = "") -> int:
    """Interrupt an action at every moment when Python may do so, and look at what it leaves; return how many there are.

    `where` is part of the names of the files that are looked at.
    """
    for moment in count(1):
        prepared, watch = prepare(), Interrupter(moment, where)
        with suppress(KeyboardInterrupt):
            sys.setprofile(watch)
            try:
                act(prepared)
            finally:
                sys.setprofile(None)
        check(prepared)
        if watch.left > 0:
            return moment


@pytest.mark.parametrize("is_taken_back", [True, False])
def test_an_interrupt_leaves_what_waits_as_it_is(tmp_path, monkeypatch, is_taken_back):
    """What was taken before can be read, and what is taken next, whatever an interrupted step has left."""
    monkeypatch.setattr(heap, "OWN_BYTES", 2000)
    monkeypatch.setattr(heap, "MORE_BYTES", 900)
    pieces = [bytes([i]) * size for i, size in enumerate((300, 1100, 200, 1000, 40, 1200))]

    def taken(waiting: Heap, begin: int, end: int) -> list[tuple[int, bytes]]:
        return [(waiting.append(piece, "ab"[i % 2]), piece) for i, piece in enumerate(pieces[begin:end], begin)]

    def prepare() -> tuple[Heap, list[tuple[int, bytes]]]:
        waiting = Heap(str(tmp_path), 2500)
        return waiting, taken(waiting, 0, 3)

    def act(prepared) -> None:
        waiting, _ = prepared
        size = waiting.size
        try:
            waiting.append(pieces[3], "b")
            waiting.append(pieces[1], None)
        except KeyboardInterrupt:
            if is_taken_back:
                waiting.rewind(size)

    def check(prepared) -> None:
        waiting, given = prepared
        waiting.filed("b", np.array([offset for offset, _ in given]))
        given += taken(waiting, 3, 6)
        waiting.append(bytes(3000))
        waiting.append(b"last")
        for offset, piece in given:
            assert waiting.read(offset, len(piece)) == piece
            found = waiting.filed("b", np.array([offset]))
            if found is not None and found[1][0] >= 0:
                assert os.pread(found[0].descriptor, len(piece), int(found[1][0])) == piece
        if found is not None:
            # Nothing is in it that is nobody's, but for zeros.
            left = bytearray(os.pread(found[0].descriptor, found[0].end, 0)[HEADER_LENGTH:])
            for part in waiting._parts:
                if part.spill is found[0]:
                    begin = part.position - HEADER_LENGTH
                    left[begin : begin + part.size] = bytes(part.size)
            assert not any(left)

    assert at_every_call(prepare, act, check, os.path.dirname(heap.__file__)) > 50


def test_two_interrupts_in_turn_leave_what_was_spilled_as_it_is(tmp_path, monkeypatch):
    """The second one comes before what the first one has cut short is taken back."""

    def prepare() -> spill.Spill:
        file = spill.Spill(str(tmp_path))
        assert file.append([b"first"]) == [HEADER_LENGTH]
        return file

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    def act(file: spill.Spill) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(spill.Spill, "forget", interrupt)
            file.append([b"lost"])

    def check(file: spill.Spill) -> None:
        (place,) = file.append([b"second"])
        assert file.read(HEADER_LENGTH, 5) == b"first"
        assert file.read(place, 6) == b"second"

    assert at_every_call(prepare, act, check, spill.__file__) > 5


@pytest.mark.filterwarnings("error")
def test_a_spill_that_keeps_its_name_is_closed(tmp_path, monkeypatch):
    def fail(path: str) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    monkeypatch.setattr(os, "unlink", fail)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="Input/output"):
        spill.open_nameless(str(tmp_path))
    assert os.listdir("/proc/self/fd") == before


def test_what_was_taken_back_is_not_in_the_file_that_is_committed(tmp_path, monkeypatch):
    """A few bytes only, which could be taken for what is left free before an aligned piece."""
    monkeypatch.setattr(heap, "OWN_BYTES", 0)
    monkeypatch.setattr(heap, "MORE_BYTES", 0)
    store = atlas.Atlas.create(tmp_path / "s", pending_bytes=0)
    store.create_dataset("a").define_array("t", "int32", ["x"], [100_000])
    store.open_dataset("a").write_array("t", [0], np.arange(100_000, dtype="int32") ** 2)
    waiting = store._session.pending.heap
    size = waiting.size
    waiting.append(b"junk", "t")
    waiting.rewind(size)
    store.flush()
    assert store.verify().problems == []


def test_an_interrupt_lets_a_write_happen_whole_or_not_at_all(tmp_path):
    schema = make_array_schema("t", "int32", ["x"], [12], [4], -1)

    def prepare() -> PendingArray:
        return PendingArray(schema, reset=False, resized=True, growth=Growth((6,)))

    def act(array: PendingArray) -> None:
        cells = np.arange(1, 7, dtype="int32")
        array.write(Box((6,), (6,)), cells, lambda number: np.zeros(4, "int32"), Heap(None, 0), StoreConfig())

    def check(array: PendingArray) -> None:
        found = np.zeros(12, "int32")
        array.overlay(Box((0,), (12,)), found)
        not_at_all, whole = ([0] * 12, Growth((6,))), ([*[0] * 6, *range(1, 7)], Growth((6,), rows=2, nulls=2))
        assert (found.tolist(), array.growth) in (not_at_all, whole)

    assert at_every_call(prepare, act, check) > 20


@pytest.fixture(scope="module")
def changing(tmp_path_factory) -> atlas.Atlas:
    """A handle on which changes are made, and dropped again."""
    with atlas.Atlas.create(tmp_path_factory.mktemp("changing") / "s", workers=1) as store:
        for name in ("a", "b"):
            add(store, name)
            store.open_dataset(name).set_attribute("k", 1)
    return store


def shown(store: atlas.Atlas) -> dict[str, object]:
    """Return all that a handle shows."""
    views = {name: store.open_dataset(name) for name in store.list_datasets()}
    cells = {name: {a: view.read_array(a).tolist() for a in view.list_arrays()} for name, view in views.items()}
    return {name: (view.attributes(), cells[name]) for name, view in views.items()}


# An interrupt that comes while a generator is closed is dropped by Python.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "change",
    [
        lambda store: store.delete_dataset("a"),
        lambda store: store.delete_datasets(["a", "b"]),
        lambda store: store.rename_dataset("a", "c"),
        lambda store: store.copy_dataset("a", "c"),
        lambda store: store.create_datasets(["c", "d"], {"t": {"dims": ["x"], "data": np.ones((2, 3), "int32")}}),
        lambda store: store.open_dataset("a").define_array("u", "int8", ["x"], [2]),
        lambda store: store.open_dataset("a").delete_array("t"),
        lambda store: store.open_dataset("a").write_array("t", [1], np.full(2, 9, "int32")),
        lambda store: store.open_dataset("a").resize("t", [2]),
        lambda store: store.open_dataset("a").append("t", np.full(2, 9, "int32")),
        lambda store: store.write_stacked("t", ["a", "b"], np.full((2, 1), 9, "int32")),
    ],
)
def test_an_interrupt_makes_no_half_changes(changing, change):
    """What a change that was ended half way has left is not committed, and nothing else shows it."""
    session, outcomes = changing._session, set()
    session.drop_pending()
    before = shown(changing)
    change(changing)
    after = shown(changing)

    def check(_: object) -> None:
        if session.pending.is_torn:
            with pytest.raises(atlas.AtlasError, match="half way"):
                changing.flush()
            outcomes.add("torn")
        else:
            found = shown(changing)
            assert found in (before, after)
            # Every cell that waits as it is will be encoded.
            session.pending.settle(StoreConfig(), 1)
            waiting = [array for arrays in session.pending.arrays.values() for array in arrays.values()]
            assert all(isinstance(chunk, Held) for array in waiting for chunk in array.chunks.values())
            assert shown(changing) == found
            outcomes.add("whole" if found == after else "none")

    at_every_call(session.drop_pending, lambda _: change(changing), check, os.path.dirname(atlas.__file__))
    session.drop_pending()
    assert {"whole", "none"} <= outcomes
    assert atlas.Atlas.open(session.storage.local_path).list_datasets() == ["a", "b"]


def test_an_interrupt_of_a_resize_leaves_what_others_wait_for(tmp_path, monkeypatch):
    """The cells of another array were encoded to make room, and are behind what the resize had put there."""
    store = atlas.Atlas.create(tmp_path / "s")
    for name in ("a", "b"):
        view = store.create_dataset(name)
        view.define_array("t", "int32", ["x"], [6], [4])
        view.write_array("t", [0], np.arange(6, dtype="int32") * 3)
    real = Pending.make_room

    def interrupted(pending: Pending, size: int, config: StoreConfig, workers: int) -> None:
        monkeypatch.setattr(Pending, "make_room", real)
        pending.settle(config, workers)
        raise KeyboardInterrupt

    monkeypatch.setattr(Pending, "make_room", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.open_dataset("a").resize("t", [9])
    store.copy_dataset("a", "c")
    store.flush()
    for name in ("a", "b", "c"):
        assert store.open_dataset(name).read_array("t").tolist() == [0, 3, 6, 9, 12, 15]


def test_threads_that_read_back_what_waits_get_each_its_own(tmp_path, monkeypatch):
    """Small pieces of one block are read one by one; another thread may want another block meanwhile."""

    class Shared(spill.Spill):
        def __setattr__(self, name, value):
            super().__setattr__(name, value)
            if name == "_read" and value[0] == 1:
                super().__setattr__(name, (2, b"second"))

    file = Shared(str(tmp_path))
    (first,), (second,) = file.append([b"first"]), file.append([b"second"])
    assert (file.read(first, 5), file.read(second, 6)) == (b"first", b"second")


class AlmostTaken:
    """A lock, and what happens just when a thread gets it."""

    def __init__(self, happens) -> None:
        self.real, self.happens = threading.RLock(), happens

    def acquire(self, blocking: bool = True) -> bool:
        taken = self.real.acquire(blocking)
        self.happens()
        return taken

    def __getattr__(self, name: str):
        return getattr(self.real, name)


def test_a_pin_that_another_thread_has_forgotten_is_not_missed(tmp_path):
    with locks.writer_lock(str(tmp_path), 1):
        pass
    pin, status = pins.pin(str(tmp_path), 3), os.stat(tmp_path / locks.LOCK_NAME)
    board = pins._boards[status.st_dev, status.st_ino]
    board._lock = AlmostTaken(board._unlock)
    pin.release()
    assert not pins.pinned_below(str(tmp_path), 9)


def test_an_interrupt_leaves_no_lock_behind_in_what_finalizers_do():
    def interrupt() -> None:
        raise KeyboardInterrupt

    lock, waiting = AlmostTaken(interrupt), deque([1])
    with pytest.raises(KeyboardInterrupt):
        take_in(lock, waiting, waiting.clear)
    free: list[bool] = []
    thread = threading.Thread(target=lambda: free.append(lock.real.acquire(blocking=False)))
    thread.start()
    thread.join()
    assert free == [True]


def test_chunks_are_found_however_far_apart_they_are(tmp_path):
    """Numbers of chunks, times the datasets that have them, may be more than 64 bits tell."""
    store, far = atlas.Atlas.create(tmp_path / "s"), (1 << 58) - 3
    names = [f"d{i}" for i in range(40)]
    for i, name in enumerate(names):
        view = store.create_dataset(name)
        view.define_array("t", "uint8", ["x"], [far + 3], [1])
        view.write_array("t", [far + i % 2], np.array([i + 1, i + 2], "uint8"))
    store.flush()
    found = store.read_array_across_stacked("t", names, [far], [3])
    assert found.tolist() == [[0, i + 1, i + 2] if i % 2 else [i + 1, i + 2, 0] for i in range(40)]


def test_a_store_that_has_no_room_for_more_datasets_says_so(tmp_path, monkeypatch):
    store = atlas.Atlas.create(tmp_path / "s")
    add(store, "a")
    store.flush()
    monkeypatch.setattr(catalog, "MAX_SLOTS", 2)
    store.delete_dataset("a")
    add(store, "b")
    store.flush()
    add(store, "c")
    with pytest.raises(atlas.InvalidArgument, match=r"room for 2 datasets.*compact it first"):
        store.flush()
    store.compact()
    store.flush()
    assert atlas.Atlas.open(tmp_path / "s").list_datasets() == ["b", "c"]


def test_what_failed_half_way_is_not_kept(tmp_path):
    waiting = Heap(str(tmp_path), 100)
    waiting.append(b"kept")
    size = waiting.size
    waiting.append(b"half")
    waiting.append(b"way")
    waiting.rewind(size)
    assert waiting.append(b"next") == 4
    assert waiting.read(0, 8) == b"keptnext"


def test_what_failed_half_way_takes_no_room_in_the_file_of_its_array(tmp_path, monkeypatch):
    monkeypatch.setattr(heap, "OWN_BYTES", 0)
    monkeypatch.setattr(heap, "MORE_BYTES", 0)
    waiting = Heap(str(tmp_path), 100)
    waiting.append(b"kept", "a")
    size = waiting.size
    waiting.append(b"half way", "b")
    waiting.rewind(size)
    _, places = waiting.filed("b", np.array([waiting.append(b"next", "b")]))
    assert places.tolist() == [HEADER_LENGTH]


def test_large_pieces_go_to_the_file_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(spill, "GATHERED_BYTES", 8)
    waiting, pieces = Heap(str(tmp_path), 30), [bytes([i]) * n for i, n in enumerate((3, 4, 9, 2, 20, 1))]
    places = [waiting.append(piece) for piece in pieces]
    assert waiting.spilled
    assert [waiting.read(at, len(piece)) for at, piece in zip(places, pieces, strict=True)] == pieces


Step = st.tuples(st.sampled_from([None, "a", "b", "c"]), st.integers(0, 3000)) | st.sampled_from(["rewind", "failed"])


@examples(st.lists(Step, max_size=40), st.integers(0, 6000), st.integers(0, 4000), st.integers(0, 4000))
def test_whatever_waits_and_wherever_it_is_what_was_given(tmp_path_factory, steps, limit, own, more):
    """Pieces of arrays and of none, with what failed half way taken back, and a disk that is full now and then."""
    given, marks = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heap, "OWN_BYTES", own)
        patch.setattr(heap, "MORE_BYTES", more)
        patch.setattr(heap, "OWN_FILES", 2)
        waiting = Heap(str(tmp_path_factory.getbasetemp()), limit)
        for number, step in enumerate(steps):
            if step == "rewind" and marks:
                size, count = marks.pop(len(marks) // 2)
                waiting.rewind(size)
                given, marks = given[:count], marks[: len(marks) // 2]
            elif step == "failed":
                with pytest.MonkeyPatch.context() as full, suppress(atlas.StorageError):
                    full.setattr(os, "pwrite", refuse)
                    marks.append((waiting.size, len(given)))
                    piece = bytes([number]) * 700
                    given.append((waiting.append(piece, "a"), piece, "a"))
            elif step != "rewind":
                array, size = step
                marks.append((waiting.size, len(given)))
                piece = bytes([number]) * size
                given.append((waiting.append(piece, array), piece, array))
    for offset, piece, array in given:
        assert waiting.read(offset, len(piece)) == piece
        found = waiting.filed(array, np.array([offset])) if array and piece else None
        if found is not None and found[1][0] >= 0:
            assert os.pread(found[0].descriptor, len(piece), int(found[1][0])) == piece
    assert waiting._held == sum(part.size for part in waiting._parts if part.spill is None)


def refuse(*args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_place_that_takes_no_files_is_named(tmp_path):
    (tmp_path / "file").touch()
    waiting = Heap(str(tmp_path / "file"), 0)
    waiting.append(b"first")
    with pytest.raises(atlas.StorageError, match="file does not take more: Not a directory"):
        waiting.append(b"second")
    assert waiting.read(0, 5) == b"first"


# What was just opened is closed as it is forgotten.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_an_interrupt_locks_no_writer_out(tmp_path):
    """Wherever it comes between taking the lock and giving it up, others have it at once, in this thread or another."""

    def act(_: None) -> None:
        with locks.writer_lock(str(tmp_path), 1):
            pass

    def check(_: None) -> None:
        with ThreadPoolExecutor(1) as others:
            others.submit(act, None).result()
        act(None)

    assert at_every_call(lambda: None, act, check, locks.__file__) > 20


def test_a_signal_handler_may_write_and_read_wherever_it_comes(tmp_path):
    """It has the locks of another store, and those of this one or an error; what it claims stays claimed."""
    here, other = str(tmp_path), str(tmp_path / "other")
    os.mkdir(other)

    def write(place: str) -> None:
        with suppress(atlas.ConflictError), locks.writer_lock(place, 1):
            pass

    def act() -> None:
        write(here)
        pins.pin(here, 3).release()

    write(other)
    write(here)
    for moment in count(1):
        claimed, left = [], moment

        def signal(frame, event, argument, claimed=claimed) -> None:
            nonlocal left
            if frame.f_code.co_filename in (locks.__file__, pins.__file__):
                left -= 1
                if not left:
                    sys.setprofile(None)
                    write(other)
                    write(here)
                    claimed.append(pins.pin(here, 3))

        # In a thread of its own, which is left behind should it wait for itself.
        thread = threading.Thread(target=lambda: (sys.setprofile(signal), act()), daemon=True)
        thread.start()
        thread.join(20)
        assert not thread.is_alive(), f"moment {moment}"
        assert pins.pinned_below(here, 4) is bool(claimed), f"moment {moment}"
        if left > 0:
            break
    assert moment > 100


@pytest.mark.parametrize("is_alone", [True, False])
def test_an_interrupt_leaves_no_pin_behind(tmp_path, monkeypatch, is_alone):
    """Wherever it comes while one is taken and given up: at once, or with the next one where others are left."""
    # What is raised in a finalizer is dropped; pytest would keep it, and with it the frame that had the pin.
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    with locks.writer_lock(str(tmp_path), 1):
        pass
    other = pins.NoPin() if is_alone else pins.pin(str(tmp_path), 9)

    def act(_: None) -> None:
        pins.pin(str(tmp_path), 3).release()

    def check(_: None) -> None:
        if not is_alone:
            pins.pin(str(tmp_path), 5).release()
        assert not pins.pinned_below(str(tmp_path), 9)
        pin = pins.pin(str(tmp_path), 3)
        assert pins.pinned_below(str(tmp_path), 4), "what was noted of an earlier one is not believed"
        pin.release()
        assert not pins.pinned_below(str(tmp_path), 9)

    assert at_every_call(lambda: None, act, check) > 20
    other.release()
    assert not pins.pinned_below(str(tmp_path), 99)


def test_where_nothing_can_be_locked_there_is_no_pin_and_none_to_give_up(tmp_path, monkeypatch):
    def fail(*args: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    with locks.writer_lock(str(tmp_path), 1):
        pass
    monkeypatch.setattr(pins.PinBoard, "_set", fail)
    pins.pin(str(tmp_path), 3).release()
    assert not pins.pinned_below(str(tmp_path), 9)


def test_an_interrupt_of_a_refresh_leaves_nothing_of_the_state_before(tmp_path):
    with atlas.Atlas.create(tmp_path / "s") as store:
        add(store, "a")

    def prepare() -> atlas.Atlas:
        reader = atlas.Atlas.open(tmp_path / "s", mode="r")
        reader.list_arrays()
        with atlas.Atlas.open(tmp_path / "s") as other:
            name = f"u{len(reader.list_arrays())}"
            other.open_dataset("a").define_array(name, "int8", ["x"], [1])
        return reader

    def check(reader: atlas.Atlas) -> None:
        reader.refresh()
        assert reader.list_arrays() == atlas.Atlas.open(tmp_path / "s").list_arrays()

    assert at_every_call(prepare, atlas.Atlas.refresh, check, session.__file__) > 5


def test_arrays_that_no_memory_holds(tmp_path):
    """Sums of their sizes may be more than 64 bits tell."""
    store, names = atlas.Atlas.create(tmp_path / "s"), [f"d{i}" for i in range(8)]
    for name in names:
        store.create_dataset(name).define_array("t", "complex128", ["x"], [1 << 58], [1 << 50])
    with pytest.raises(MemoryError):
        store.open_dataset("d0").read_array("t")
    store.flush()
    for read in (store.read_array_across, store.read_array_across_stacked):
        with pytest.raises(MemoryError):
            read("t", names)
        assert [cells.tolist() for cells in read("t", names, [1 << 57], [1])] == [[0j]] * 8
    for shape in ([1 << 58, 2], [0, 1 << 40, 1 << 40]):
        with pytest.raises(atlas.InvalidArgument, match="too large"):
            store.open_dataset("d0").define_array("u", "int8", ["x", "y", "z"][: len(shape)], shape)


@pytest.mark.parametrize(
    ("cells", "taken"),
    [
        (np.arange(200, dtype="i8"), 200),
        (np.arange(300, dtype="i8"), 600),
        (np.arange(200, dtype="i8") - 100, 200),
        (np.arange(200, dtype="i8") - 199, 400),
        (np.arange(200, dtype="u8") + (1 << 63), 1600),
        (np.arange(200) / 4, 800),
        (np.arange(200) / 10, 1600),
        (np.array([-0.0, 0.0]), 8),
        (np.arange(200, dtype="f4") / 4, 800),
        (np.full(200, np.nan), 0),
        (np.array([7]), 0),
        (np.array([], "i8"), 0),
        (np.array([b"a", None, b"c"], object), 0),
    ],
)
def test_columns_on_a_shelf_are_narrow_and_come_back_as_they_were(tmp_path, cells, taken):
    waiting = Heap(str(tmp_path), 1 << 20)
    waiting.append(b"before")
    shelf = heap.Shelf(waiting, {"cells": cells})
    assert waiting.size == taken + (8 if taken >= heap.ALIGNED_FROM else 6)
    for first in (0, len(cells) // 2):
        found = shelf.columns(first, len(cells) - first)["cells"]
        assert (found.dtype, found.tobytes()) == (cells.dtype, cells[first:].tobytes())


def test_roots_that_name_each_other_are_not_followed_for_ever(url, monkeypatch):
    with atlas.Atlas.create(url, meta_format="msgpack") as store:
        add(store, "a")
    filesystem, place = fsspec.filesystem("memory"), url.removeprefix("memory:/")
    first = roots.load_root(store._session.storage)
    there = {name: first.config if name == "json" else StoreConfig() for name in ("json", "msgpack")}
    for name, config in there.items():
        filesystem.pipe(f"{place}/atlas.{name}", encode_root(replace(first, config=config), f"atlas.{name}"))
    asked, original = [], remote.RemoteStorage.read_each

    def read_each(storage, keys):
        asked.append(keys)
        assert len(asked) < 10
        return original(storage, keys)

    monkeypatch.setattr(remote.RemoteStorage, "read_each", read_each)
    assert atlas.Atlas.open(url).list_datasets() == ["a"]


@pytest.mark.parametrize("meta_compression", ["none", "zstd"])
def test_a_root_with_every_key_is_read(url, meta_compression):
    """One that does not pack, remembers a commit and has copies of indexes has more keys than the shortest map."""
    config = StoreConfig(meta_format="msgpack", meta_compression=meta_compression, packing=False)
    with atlas.Atlas.create(url, config=config) as store:
        add(store, "a")
    assert len(store._session.snapshot.root.copies) == 1
    assert atlas.Atlas.open(url).list_datasets() == ["a"]


def test_a_root_that_nobody_would_read_is_not_written(tmp_path, monkeypatch):
    with atlas.Atlas.create(tmp_path / "s") as store:
        add(store, "a")
    monkeypatch.setattr(root, "MOST_BYTES", 2000)
    for i in range(9):
        store.create_dataset(f"d{i}").define_array(f"v{i}", "int32", ["x"], [4])
        store.open_dataset(f"d{i}").write_array(f"v{i}", [0], np.arange(4, dtype="int32"))
    with pytest.raises(atlas.InvalidArgument, match="too many arrays"):
        store.flush()
    monkeypatch.undo()
    assert atlas.Atlas.open(tmp_path / "s").list_datasets() == ["a"]
    store.flush()
    assert len(atlas.Atlas.open(tmp_path / "s").list_datasets()) == 10
    assert atlas.Atlas.open(tmp_path / "s").verify().ok


def test_an_index_that_nobody_would_read_is_not_written(tmp_path, monkeypatch):
    with atlas.Atlas.create(tmp_path / "s") as store:
        add(store, "a")
        monkeypatch.setattr(columnfile, "MOST_BYTES", 100)
        with pytest.raises(atlas.InvalidArgument, match="too many columns"):
            store.flush()
        monkeypatch.undo()
    assert atlas.Atlas.open(tmp_path / "s").verify().ok
