"""Stores on S3: what they are, which requests they cost, and who wins."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import add_fields, deadline, field
from objectstore import servers
from objectstore.place import kinds

import atlas
from atlas import commitfiles
from atlas.storage import requests


def write(store: atlas.Atlas, names: list[str], arrays: tuple[str, ...] = ("t",)) -> None:
    for i, name in enumerate(names):
        add_fields(store, name, i, *arrays).set_attribute("number", i)


NAMES = [f"d{i:02d}" for i in range(20)]


def test_a_store_is_written_and_read(s3):
    with s3.create() as store:
        write(store, NAMES)
    store = s3.open()
    assert store.list_datasets() == NAMES
    assert store.open_dataset("d07").attributes() == {"number": 7}
    stacked = store.read_array_across_stacked("t", NAMES, [2, 3], [5, 4])
    np.testing.assert_array_equal(stacked, [field(i)[2:7, 3:7] for i in range(20)])
    np.testing.assert_array_equal(store.open_dataset("d03").read_array("t", [1, 1], [2, 2]), field(3)[1:3, 1:3])
    assert [key.split("-")[0] for key in s3.objects()] == ["atlas.json", "t/data"]


def test_what_each_step_costs(s3):
    commit = Counter({"CONDITIONAL PUT": 1} if s3.honours_conditions else {"PUT": 1, "HEAD": 1})
    store = s3.create()
    write(store, NAMES, ("t", "u"))
    with s3.recording() as made:
        store.flush()
    assert kinds(made) == commit + Counter({"PUT": 2})
    write(store, ["more"])
    with s3.recording() as made:
        store.flush()
    assert kinds(made) == commit + Counter({"PUT": 1})

    with s3.recording() as made:
        store = s3.open()
    assert kinds(made) == {"GET": 1}
    assert made[0].key.endswith("/atlas.json")
    with s3.recording() as made:
        assert len(store.list_datasets()) == 21
        assert store.merged_schema()["arrays"].keys() == {"t", "u"}
        assert store.open_dataset("d05").get_attribute("number") == 5
        assert store.open_dataset("d05").array_meta("u")["shape"] == [10, 12]
        # The root has copies of small indexes.
        assert store.open_dataset("d05").array_stats("u")["row_count"] == 120
        assert len(store.select("min(u) >= 3")) == 17
    assert made == []
    with s3.recording() as made:
        store.read_array_across_stacked("u", NAMES)
    assert kinds(made) == {"GET": 1}
    with s3.recording() as made:
        store.read_array_across_stacked("u", NAMES, [9, 11], [1, 1])
    assert kinds(made) == {"GET": 1}


@pytest.mark.parametrize(
    ("meta_format", "inline", "copied", "requests"),
    [("json", 20, 22, 1), ("json", 16, 22, 2), ("msgpack", 20, 22, 2), ("msgpack", 16, 22, 2), ("msgpack", 16, 10, 3)],
)
def test_a_large_table_costs_one_request_at_most(moto, monkeypatch, meta_format, inline, copied, requests):
    """None up to a mebibyte, which as many datasets as in practice do not have here."""
    assert (commitfiles.INLINE_BYTES_FAR, commitfiles.COPIED_TABLE_BYTES) == (1 << 20, 4 << 20)
    monkeypatch.setattr(commitfiles, "INLINE_BYTES_FAR", 1 << inline)
    monkeypatch.setattr(commitfiles, "COPIED_TABLE_BYTES", 1 << copied)
    store = moto.create(meta_format=meta_format)
    names = [f"station {i:05d} of the network" for i in range(4000)]
    store.create_datasets(names, {"t": {"dims": ["x"], "data": np.ones((4000, 3))}}, {"k": list(range(4000))})
    store.flush()
    with moto.recording() as made:
        reader = moto.open()
        assert reader.list_datasets() == names
        assert reader.open_dataset(names[77]).get_attribute("k") == 77
    assert kinds(made) == {"GET": requests}
    # Whoever wrote the table need not read it.
    store.create_dataset("one more").set_attribute("k", 1)
    with moto.recording() as made:
        store.flush()
    assert kinds(made) == {"CONDITIONAL PUT": 1}
    assert moto.open().list_datasets() == [*names, "one more"]
    assert store.open_dataset(names[5]).get_attribute("k") == 5


# --- who wins


ENCODINGS = [(fmt, compression) for fmt in ("json", "msgpack") for compression in ("none", "zstd", "lz4")]


@pytest.mark.parametrize(("meta_format", "meta_compression"), ENCODINGS)
def test_every_encoding_is_found_in_two_requests(moto, meta_format, meta_compression):
    store = moto.create(meta_format=meta_format, meta_compression=meta_compression)
    plain = (meta_format, meta_compression) == ("json", "none")
    assert moto.open().list_datasets() == []
    write(store, NAMES)
    with moto.recording() as made:
        store.flush()
    assert kinds(made) == {"PUT": 1, "CONDITIONAL PUT": 1}
    with moto.recording() as made:
        reader = moto.open()
    assert kinds(made) == {"GET": 1 if plain else 2}
    assert reader.list_datasets() == NAMES
    suffix = {"none": "", "zstd": ".zst", "lz4": ".lz4"}[meta_compression]
    assert f"atlas.{meta_format}{suffix}" in moto.objects()


def test_creators_of_different_encodings_cannot_both_win(moto):
    def create(encoding):
        try:
            moto.create(meta_format=encoding[0], meta_compression=encoding[1])
        except atlas.StoreAlreadyExists:
            return 0
        return 1

    with ThreadPoolExecutor(6) as threads:
        assert sum(threads.map(create, ENCODINGS)) == 1


def test_a_store_that_was_copied_here_is_found(moto, tmp_path):
    with atlas.Atlas.create(tmp_path / "s", meta_format="msgpack", meta_compression="zstd") as store:
        write(store, NAMES)
    moto.filesystem().put(str(tmp_path / "s") + "/", f"bucket/{moto.prefix}/", recursive=True)
    store = moto.open()
    assert store.list_datasets() == NAMES
    with pytest.raises(atlas.StoreAlreadyExists):
        moto.create()
    with store:
        write(store, ["more"])
    assert moto.open().list_datasets() == [*NAMES, "more"]
    assert store.verify().ok


def test_a_store_that_was_copied_from_here_is_found(moto, tmp_path):
    with moto.create(meta_format="msgpack", meta_compression="zstd") as store:
        write(store, NAMES)
    moto.filesystem().get(f"bucket/{moto.prefix}/", str(tmp_path / "s"), recursive=True)
    with atlas.Atlas.open(tmp_path / "s") as store:
        write(store, ["more"])
    assert atlas.Atlas.open(tmp_path / "s").list_datasets() == [*NAMES, "more"]
    assert store.verify().ok


@pytest.mark.parametrize("before", ENCODINGS[::2])
@pytest.mark.parametrize("after", ENCODINGS[::2])
def test_a_store_is_overwritten_in_another_encoding(moto, before, after):
    with moto.create(meta_format=before[0], meta_compression=before[1]) as store:
        write(store, NAMES)
    other = moto.open()
    write(other, ["late"])
    with moto.create(meta_format=after[0], meta_compression=after[1], overwrite=True) as store:
        write(store, ["new"])
    assert moto.open().list_datasets() == ["new"]
    other.flush()
    assert sorted(moto.open().list_datasets()) == ["late", "new"]


def test_disjoint_writers_merge(moto):
    moto.create()

    def commit(number):
        store = moto.open()
        for step in range(3):
            write(store, [f"{number}-{step}"])
            store.flush()
        return store

    with ThreadPoolExecutor(4) as threads:
        stores = list(threads.map(commit, range(4)))
    expected = sorted(f"{number}-{step}" for number in range(4) for step in range(3))
    store = moto.open()
    assert sorted(store.list_datasets()) == expected
    stacked = store.read_array_across_stacked("t", expected)
    np.testing.assert_array_equal(stacked, [field(0)] * 12)
    assert store.verify().ok
    stores[0].refresh()
    assert sorted(stores[0].list_datasets()) == expected


def test_processes_race(moto):
    moto.create()
    code = """
import sys, numpy as np, atlas
url, options, number = sys.argv[1], eval(sys.argv[2]), sys.argv[3]
for step in range(3):
    store = atlas.Atlas.open(url, storage_options=options)
    view = store.create_dataset(f"{number}-{step}")
    view.define_array("t", "int32", ["x"], [4])
    view.write_array("t", [0], np.full(4, int(number), "int32"))
    store.flush()
"""
    arguments = [sys.executable, "-c", code, moto.url, repr(moto.options)]
    running = [subprocess.Popen([*arguments, str(number)]) for number in range(3)]
    assert [process.wait(120) for process in running] == [0] * 3
    store = moto.open()
    assert sorted(store.list_datasets()) == [f"{number}-{step}" for number in range(3) for step in range(3)]
    for name in store.list_datasets():
        assert store.open_dataset(name).read_array("t").tolist() == [int(name[0])] * 4
    referred = {"atlas.json", *(file.key for file in store._session.snapshot.root.files)}
    retired = {key for key, _, _ in store._session.snapshot.root.retired}
    assert set(moto.objects()) == referred | retired


def test_the_same_dataset_is_a_conflict(moto):
    with moto.create() as store:
        write(store, ["a"])
    first, second = moto.open(), moto.open()
    first.open_dataset("a").set_attribute("k", 1)
    second.open_dataset("a").set_attribute("k", 2)
    first.flush()
    with pytest.raises(atlas.ConflictError, match="'a'"):
        second.flush()
    assert moto.open().open_dataset("a").get_attribute("k") == 1


@pytest.mark.parametrize("fault", ["lost", "lost-500", "timeout", "500", "reset"])
def test_a_lost_answer_to_the_commit_is_no_conflict(moto, fault, monkeypatch):
    monkeypatch.setattr(requests, "_ANSWER_SECONDS", 0.5)
    store = moto.create()
    write(store, ["a"])
    left = [fault]

    def once(request):
        return left.pop() if request.kind == "CONDITIONAL PUT" and left else ""

    with moto.proxy.failing(once):
        store.flush()
    assert left == []
    assert moto.open().list_datasets() == ["a"]
    write(store, ["b"])
    store.flush()
    assert moto.open().list_datasets() == ["a", "b"]


def test_a_lost_answer_is_recognised_behind_commits_of_others(moto):
    store, other = moto.create(), atlas.Atlas.open(moto.url, storage_options=servers.options(moto.proxy.upstream))
    write(store, ["a"])
    left = ["lost", "overtaken"]

    def lose_and_overtake(request):
        if request.kind != "CONDITIONAL PUT" or not left:
            return ""
        if left.pop(0) == "overtaken":
            # Our own commit has landed; before it is asked for again, others commit.
            for step in range(5):
                write(other, [f"other-{step}"])
                other.flush()
            return ""
        return "lost"

    with moto.proxy.failing(lose_and_overtake):
        store.flush()
    assert sorted(moto.open().list_datasets()) == ["a", *(f"other-{step}" for step in range(5))]


def test_a_commit_that_nobody_can_tell_of_is_unknown(moto):
    store = moto.create()
    write(store, ["a"])
    broken = []

    def lose(request):
        broken.extend(["x"] if request.kind == "CONDITIONAL PUT" else [])
        return "lost" if request.kind == "CONDITIONAL PUT" else "500" if broken else ""

    with moto.proxy.failing(lose), deadline(2), pytest.raises(atlas.CommitUnknownError, match="flush again"):
        store.flush()
    store.flush()
    assert moto.open().list_datasets() == ["a"]


def test_a_server_without_conditions_is_for_one_writer_only(s3_places):
    with s3_places["rclone"].anew() as place:
        with pytest.raises(atlas.UnsafeStorage, match="single_writer=True"):
            atlas.Atlas.create(place.url, storage_options=place.options)
        # What tried the server goes, too, but nobody waits for that.
        patience = time.monotonic() + 30
        while place.objects() and time.monotonic() < patience:
            time.sleep(0.05)
        assert place.objects() == []
        with place.create() as store:
            write(store, ["a"])
        reader = atlas.Atlas.open(place.url, storage_options=place.options)
        assert reader.list_datasets() == ["a"]
        write(reader, ["b"])
        for write_all in (reader.flush, reader.compact, lambda: reader.gc(grace=0, unfinished=0)):
            with pytest.raises(atlas.UnsafeStorage):
                write_all()
        assert reader.gc(dry_run=True).removed == [], "looking is no writing"
        first, second = place.open(), place.open()
        write(first, ["c"])
        first.flush()
        write(second, ["d"])
        with pytest.raises(atlas.ConflictError, match="only one may write"):
            second.flush()


def test_where_no_condition_looks_at_the_root_a_flush_looks_while_its_files_leave(s3_places):
    with s3_places["rclone"].anew() as place, place.create() as store:
        write(store, ["a"])
        with place.proxy.gathering(2, of=lambda request: request.method == "HEAD" or request.key.endswith(".af")):
            store.flush()


def test_verifying_takes_no_request_for_each_chunk(moto):
    with moto.create() as store:
        write(store, NAMES, ("t", "u"))
    store = moto.open()
    with moto.recording() as made:
        report = store.verify()
    assert report.ok
    assert report.chunks == 2 * 20 * 9
    # Of each file its length, its head, its index, its gaps and its chunks.
    assert sum(kinds(made).values()) < 15


def test_a_chunk_that_is_damaged_is_named_by_verify(moto):
    with moto.create() as store:
        write(store, NAMES)
    (key,) = (key for key in moto.objects() if key.endswith(".af"))
    path, disk = f"bucket/{moto.prefix}/{key}", moto.filesystem()
    data = bytearray(disk.cat_file(path))
    index = moto.open()._session.snapshot.index("t")
    offset, length = (int(index.columns[name][7]) for name in ("offset", "length"))
    data[offset + length // 2] ^= 1
    disk.pipe_file(path, bytes(data))
    report = moto.open().verify()
    (problem,) = report.problems
    assert (problem.array, problem.dataset, problem.chunk) == ("t", "d00", 7)
    assert report.chunks == 20 * 9


@pytest.mark.parametrize(("fault", "error"), [("503", atlas.StorageError), ("forbidden", atlas.ReadOnlyStore)])
def test_a_store_that_does_not_answer_is_not_called_damaged(moto, fault, error):
    with moto.create() as store:
        write(store, NAMES)
    store = moto.open()
    with moto.proxy.failing(lambda request: fault), deadline(1), pytest.raises(error):
        store.verify()
