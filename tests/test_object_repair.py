"""A root on an object store that somebody deleted, or put something else in the place of, comes back."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import add_fields, field
from objectstore.place import BUCKET, kinds

import atlas
from atlas import commitfiles


def write(store: atlas.Atlas, names, first: int = 0) -> None:
    for i, name in enumerate(names, first):
        add_fields(store, name, i, "t", "u").set_attribute("number", i)
    store.flush()


def expect(store: atlas.Atlas, names) -> None:
    assert store.list_datasets() == list(names)
    for array in ("t", "u"):
        stacked = store.read_array_across_stacked(array, names)
        np.testing.assert_array_equal(stacked, [field(i) for i in range(len(names))])
    assert [store.open_dataset(name).get_attribute("number") for name in names] == list(range(len(names)))
    assert store.verify().ok


def delete(place, *keys: str) -> None:
    for key in keys:
        place.filesystem().rm_file(f"{BUCKET}/{place.prefix}/{key}")


def repair(place, **options):
    return atlas.Atlas.repair(place.url, **place.arguments, **options)


@pytest.mark.parametrize("encoding", [("json", "none"), ("msgpack", "zstd")])
def test_a_deleted_root_comes_back(s3, encoding):
    store = s3.create(meta_format=encoding[0], meta_compression=encoding[1])
    write(store, ["a"])
    write(store, ["b"], 1)
    roots = [key for key in s3.objects() if "/" not in key]
    for lost in ([roots[-1]], roots):
        delete(s3, *lost)
        if roots == lost:
            with pytest.raises(atlas.StoreNotFound, match=r"Atlas\.repair"):
                s3.open()
        before = s3.objects()
        with s3.recording() as made:
            (said,) = repair(s3, dry_run=True).actions
        assert kinds(made)["LIST"] == 1
        assert said.startswith("bring the state of commit 2 back from u/data-")
        assert s3.objects() == before
        report = repair(s3)
        assert report.ok
        assert report.actions == [said]
        expect(s3.open(), ["a", "b"])
        assert repair(s3).actions == []
    store = s3.open()
    write(store, ["c"], 2)
    expect(s3.open(), ["a", "b", "c"])


def test_a_root_that_is_no_root_is_replaced(moto):
    store = moto.create()
    write(store, ["a"])
    moto.filesystem().pipe_file(f"{BUCKET}/{moto.prefix}/atlas.json", b"{}")
    with pytest.raises(atlas.CorruptStore):
        moto.open()
    with moto.recording() as made:
        report = repair(moto)
    assert report.ok
    assert [request.key for request in made if "if-match" in request.headers][-1].endswith("/atlas.json")
    expect(moto.open(), ["a"])
    assert moto.filesystem().cat_file(f"{BUCKET}/{moto.prefix}/{report.kept}/atlas.json") == b"{}"


def test_what_wrote_no_file_is_lost_and_said_to_be(moto):
    store = moto.create()
    write(store, ["a"])
    store.open_dataset("a").set_attribute("number", 7)
    with moto.recording() as made:
        store.flush()
    assert kinds(made) == {"CONDITIONAL PUT": 1}
    delete(moto, "atlas.json")
    assert "what later commits changed without writing a file is lost" in repair(moto).actions[0]
    expect(moto.open(), ["a"])


def test_a_table_of_names_alone_comes_back(moto, monkeypatch):
    monkeypatch.setattr(commitfiles, "INLINE_BYTES_FAR", 1 << 16)
    store = moto.create()
    names = [f"station {i:05d} of the network" for i in range(4000)]
    store.create_datasets(names, {}, {"k": list(range(4000))})
    store.flush()
    delete(moto, "atlas.json")
    assert repair(moto).ok
    assert moto.open().list_datasets() == names


def test_the_state_after_a_compaction_and_its_gc_comes_back(moto):
    store = moto.create()
    for i, name in enumerate("abc"):
        write(store, [name], i)
    store.compact()
    store.gc(grace=0, unfinished=0)
    delete(moto, "atlas.json")
    assert "the state of commit 4 " in repair(moto).actions[0]
    expect(moto.open(), ["a", "b", "c"])


DYING = """
import os, sys, numpy as np, atlas
from atlas.storage.remote import RemoteStorage
store = atlas.Atlas.open({url!r}, storage_options={options!r})
view = store.create_dataset("never")
for array in ("t", "u"):
    view.define_array(array, "float32", ["y", "x"], [10, 12], [4, 5])
    view.write_array(array, [0, 0], np.zeros((10, 12), "float32"))
RemoteStorage.replace = lambda *args: os._exit(9)
store.flush()
"""


def die_in_a_flush(place) -> None:
    """Another writer puts its data files, and is killed before it can replace the root."""
    code = DYING.format(url=place.url, options=place.options)
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9


def test_a_commit_that_came_to_nothing_does_not_come_back_behind_a_later_one(moto):
    store = moto.create()
    write(store, ["a"])
    die_in_a_flush(moto)
    assert len(moto.objects()) == 5
    assert repair(moto).actions == []
    write(store, ["b"], 1)
    write(store, ["c"], 2)
    delete(moto, "atlas.json")
    assert repair(moto).ok
    expect(moto.open(), ["a", "b", "c"])


def test_a_commit_of_which_not_all_was_put_does_not_come_back(moto):
    store = moto.create()
    write(store, ["a"])
    before = moto.objects()
    die_in_a_flush(moto)
    delete(moto, "atlas.json", *(key for key in moto.objects() if key not in before and key.startswith("t/")))
    assert "the state of commit 1 " in repair(moto).actions[0]
    expect(moto.open(), ["a"])


def test_repair_leaves_the_files_of_commits_under_way_alone(moto):
    store = moto.create()
    write(store, ["a"])
    write(store, ["b"], 1)
    die_in_a_flush(moto)
    before = moto.objects()
    moto.filesystem().pipe_file(f"{BUCKET}/{moto.prefix}/atlas.json", b"")
    assert repair(moto).ok
    assert set(before) <= set(moto.objects())


def test_without_a_file_nothing_comes_back(moto):
    with pytest.raises(atlas.StoreNotFound):
        repair(moto)
    with moto.create() as store:
        store.create_dataset("a").set_attribute("k", 1)
    delete(moto, "atlas.json")
    with pytest.raises(atlas.StoreNotFound, match="nor what is left of one"):
        repair(moto)


def test_the_record_behind_a_file_is_verified(moto):
    store = moto.create()
    write(store, ["a"])
    (key,) = (key for key in moto.objects() if key.startswith("u/"))
    path = f"{BUCKET}/{moto.prefix}/{key}"
    data = bytearray(moto.filesystem().cat_file(path))
    for position in (-1, -16, -20, -60):
        changed = data.copy()
        changed[position] ^= 1
        moto.filesystem().pipe_file(path, bytes(changed))
        (problem,) = moto.open().verify().problems
        assert "something behind it" in str(problem)
        assert moto.open().open_dataset("a").read_array("u").shape == (10, 12)
    moto.filesystem().pipe_file(path, bytes(data))
    with moto.recording() as made:
        expect(moto.open(), ["a"])
    assert "LIST" not in kinds(made)


def test_a_copy_on_a_disk_is_whole_and_comes_back_too(moto, tmp_path):
    store = moto.create()
    write(store, ["a"])
    write(store, ["b"], 1)
    moto.filesystem().get(f"{BUCKET}/{moto.prefix}/", str(tmp_path / "s"), recursive=True)
    expect(atlas.Atlas.open(tmp_path / "s"), ["a", "b"])
    os.remove(tmp_path / "s" / "atlas.json")
    with pytest.raises(atlas.StoreNotFound, match="repair brings its root back"):
        atlas.Atlas.open(tmp_path / "s")
    with pytest.raises(atlas.StoreAlreadyExists, match="repair"):
        atlas.Atlas.create(tmp_path / "s")
    assert atlas.Atlas.repair(tmp_path / "s").ok
    with atlas.Atlas.open(tmp_path / "s") as copy:
        expect(copy, ["a", "b"])
    assert atlas.Atlas.repair(tmp_path / "s").actions == []
