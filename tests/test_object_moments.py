"""What may happen between two requests to an object store: sleep, late and wrong answers, and what others do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest
from conftest import add_fields, field
from objectstore.place import BUCKET, kinds

import atlas
from atlas import commit, payloads, roots
from atlas.config import MIB
from atlas.storage import ConditionFailed, open_storage, remote, requests
from atlas.storage.client import FsspecClient, concurrently


def expect(store: atlas.Atlas, names: list[str]) -> None:
    assert store.list_datasets() == names
    assert store.verify().ok
    np.testing.assert_array_equal(store.read_array_across_stacked("t", names), [field(0)] * len(names))


@pytest.fixture
def at_the_root(monkeypatch) -> Iterator[Callable]:
    """Has something else happen when the root is put, given the call that puts it, one after the other."""
    steps: list[Callable] = []
    replace = remote.RemoteStorage.replace

    def stepping(self, key, data, version=None):
        put = partial(replace, self, key, data, version)
        return steps.pop(0)(put) if steps and key.startswith("atlas.") else put()

    monkeypatch.setattr(remote.RemoteStorage, "replace", stepping)
    yield steps.append
    assert steps == []


def test_a_writer_that_sleeps_before_the_root_loses_nothing_to_gc(moto, at_the_root):
    """However old its objects are by then: its commit begins anew."""
    store = moto.create()
    add_fields(store, "a", 0)

    def sleep(put):
        assert len(moto.open().gc(unfinished=0).removed) == 1
        return put()

    at_the_root(sleep)
    store.flush()
    expect(moto.open(), ["a"])


def test_what_becomes_part_of_the_store_while_gc_looks_stays(moto, at_the_root):
    store = moto.create()
    add_fields(store, "a", 0)
    cleaner = moto.open()

    def clean(put):
        # The files are listed before the root refers to them, and the new root is there before that of gc.
        at_the_root(lambda put_of_gc: (put(), put_of_gc())[1])
        assert cleaner.gc(unfinished=0).removed == []
        raise atlas.StorageError("the answer was lost")

    at_the_root(clean)
    store.flush()
    expect(moto.open(), ["a"])


def test_a_commit_that_arrives_late_is_no_conflict(moto, at_the_root):
    """Given up, and there all the same, just before the next one is put."""
    store = moto.create()
    add_fields(store, "a", 0)
    late = []

    def hold_back(put):
        late.append(put)
        raise atlas.StorageError("no answer")

    at_the_root(hold_back)
    with pytest.raises(atlas.StorageError, match="no answer"):
        store.flush()
    add_fields(store, "b", 0)
    at_the_root(lambda put: (late[0](), put())[1])
    store.flush()
    expect(moto.open(), ["a", "b"])


def no_answer(put):
    raise atlas.StorageError("no answer")


def test_a_commit_that_never_arrived_is_ruled_out_by_the_next(moto, at_the_root):
    store, other = moto.create(), moto.open()
    add_fields(store, "a", 0)

    at_the_root(no_answer)
    with pytest.raises(atlas.StorageError, match="no answer"):
        store.flush()
    add_fields(other, "a", 0)
    other.flush()
    with pytest.raises(atlas.ConflictError, match="'a'"):
        store.flush()


def unknown(store: atlas.Atlas, at_the_root, monkeypatch) -> None:
    """A flush that commits, and hears nothing of it."""

    def fail(storage):
        raise atlas.StorageError("no answer")

    def lose(put):
        put()
        fail(None)

    at_the_root(lose)
    with monkeypatch.context() as patched:
        patched.setattr(roots, "load_root", fail)
        patched.setattr(commit, "load_root", fail)
        with pytest.raises(atlas.CommitUnknownError, match="flush again"):
            store.flush()


def test_what_was_committed_and_is_flushed_again_is_done_whatever_became_of_it(moto, at_the_root, monkeypatch):
    store, other = moto.create(), moto.open()
    add_fields(store, "a", 0)
    unknown(store, at_the_root, monkeypatch)
    other.refresh()
    other.open_dataset("a").set_attribute("k", 2)
    other.flush()
    with moto.recording() as made:
        store.flush()
    assert kinds(made) == {"GET": 1}
    assert store.open_dataset("a").get_attribute("k") == 2
    store.open_dataset("a").set_attribute("k", 3)
    store.flush()
    assert moto.open().open_dataset("a").get_attribute("k") == 3


def test_what_was_changed_since_is_a_conflict_all_the_same(moto, at_the_root, monkeypatch):
    store, other = moto.create(), moto.open()
    add_fields(store, "a", 0)
    unknown(store, at_the_root, monkeypatch)
    store.open_dataset("a").set_attribute("k", 1)
    other.refresh()
    other.open_dataset("a").set_attribute("k", 2)
    other.flush()
    with pytest.raises(atlas.ConflictError, match="'a'"):
        store.flush()


def test_a_second_attempt_that_did_not_happen_is_made_again(moto, at_the_root, monkeypatch):
    """The first one did, without what was changed after it."""
    store = moto.create()
    add_fields(store, "a", 0)
    unknown(store, at_the_root, monkeypatch)
    add_fields(store, "b", 0)

    at_the_root(no_answer)
    with pytest.raises(atlas.StorageError, match="no answer"):
        store.flush()
    store.flush()
    expect(moto.open(), ["a", "b"])


@pytest.mark.parametrize("step", ["flush", "compact"])
def test_a_refusal_and_an_old_root_do_not_take_back_what_is_committed(moto, at_the_root, monkeypatch, step):
    """The first answer was lost, the second one says that the root has changed, and what is read does not yet."""
    store = moto.create()
    add_fields(store, "a", 0)
    if step == "compact":
        store.flush()
        add_fields(store, "b", 0)
        store.flush()
    old, load = store._session.snapshot.root, roots.load_root

    def refuse(put):
        put()
        answers = [old]
        monkeypatch.setattr(roots, "load_root", lambda storage: answers.pop() if answers else load(storage))
        raise ConditionFailed("atlas.json")

    at_the_root(refuse)
    getattr(store, step)()
    expect(moto.open(), ["a"] if step == "flush" else ["a", "b"])


@pytest.mark.parametrize("step", ["flush", "compact"])
def test_files_that_go_while_they_are_copied_are_a_lost_race(moto, monkeypatch, step):
    """Others have compacted and collected meanwhile: what is built on top of their state has nothing to miss."""
    store = moto.create()
    names = [f"d{number}" for number in range(8)]
    for name in names:
        add_fields(store, name, 0)
        store.flush()
    if step == "flush":
        # With so many small files there, these are taken into the new one.
        add_fields(store, "d8", 0)
        names.append("d8")
    fill, overtakers = payloads.ReadAhead._fill, [moto.open()]

    def overtaken(self, *span):
        while overtakers:
            other = overtakers.pop()
            other.compact()
            other.gc(grace=0)
        fill(self, *span)

    monkeypatch.setattr(payloads.ReadAhead, "_fill", overtaken)
    getattr(store, step)()
    expect(moto.open(), names)


@pytest.mark.parametrize("step", ["flush", "compact"])
def test_a_file_that_is_gone_from_the_newest_state_is_said_to_be(moto, step):
    with moto.create() as store:
        add_fields(store, "a", 0)
    store.delete_dataset("a")
    add_fields(store, "b", 0)
    store.flush()
    store = moto.open()
    # The statistics of an array want its other chunks, too.
    store.open_dataset("b").write_array("t", [0, 0], np.ones((4, 5), "float32"))
    for key in moto.objects():
        if key.endswith(".af"):
            moto.filesystem().rm(f"{BUCKET}/{moto.prefix}/{key}")
    with pytest.raises(atlas.SnapshotExpired, match="gone"):
        getattr(store, step)()


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
def test_a_root_that_is_deleted_meanwhile_is_said_to_be(moto, encoding):
    store = moto.create(meta_format=encoding)
    add_fields(store, "a", 0)
    store.flush()
    add_fields(store, "b", 0)
    moto.filesystem().rm(f"{BUCKET}/{moto.prefix}/atlas.{encoding}")
    # Of the other, the state that was claimed is there, and knows nothing of "a".
    error, said = (atlas.StoreNotFound, "no root object") if encoding == "json" else (atlas.StorageError, "is older")
    with pytest.raises(error, match=said):
        store.flush()


def test_a_root_that_comes_damaged_is_asked_for_once_more(moto):
    with moto.create() as store:
        add_fields(store, "a", 0)
    broken = ["garbled"]
    with moto.proxy.failing(lambda request: broken.pop() if broken else ""):
        expect(moto.open(), ["a"])
    with moto.proxy.failing(lambda request: "garbled"), pytest.raises(atlas.CorruptRoot, match="root object"):
        moto.open()
    broken = ["", "garbled"]

    def gone_then(request):
        if broken == [""]:
            moto.filesystem().rm(f"{BUCKET}/{moto.prefix}/atlas.json")
        return broken.pop() if broken else ""

    with moto.proxy.failing(gone_then), pytest.raises(atlas.CorruptRoot, match="root object"):
        moto.open()


def test_what_is_cancelled_is_not_taken_for_done(monkeypatch):
    store = atlas.Atlas.create("memory://cancelled", overwrite=True)
    add_fields(store, "a", 0)

    async def cancelled(*given):
        raise asyncio.CancelledError

    with monkeypatch.context() as patched:
        patched.setattr(FsspecClient, "put", cancelled)
        with pytest.raises(atlas.StorageError, match="cancelled"):
            store.flush()
    store.flush()
    expect(atlas.Atlas.open("memory://cancelled"), ["a"])


def test_requests_that_share_a_slow_line_are_not_late(monkeypatch):
    """Forty of a quarter of a mebibyte are given ten seconds together, not a quarter of one each."""
    monkeypatch.setattr(requests, "_ANSWER_SECONDS", 0.0)
    storage = open_storage("memory://slow")

    async def answer():
        await asyncio.sleep(0.5)

    calls = [partial(storage._requests.insist, "range", answer, MIB // 4)] * 40
    storage._requests.run("reading", lambda: concurrently(calls, 40))
    assert storage.io_stats.requests == {"range": 40}
