"""Odd answers of servers and file systems, and odd names of places: understood, or refused in one line."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import ClassVar

import fsspec
import numpy as np
import pytest
from conftest import add_fields, deadline, field
from fsspec.implementations.memory import MemoryFileSystem
from objectstore import servers
from objectstore.place import BUCKET, kinds

import atlas
from atlas import commitfiles
from atlas.storage import open_storage


def write(store: atlas.Atlas, arrays: tuple[str, ...] = ("t",)) -> None:
    for i, name in enumerate("ab"):
        add_fields(store, name, i, *arrays)


def expect(store: atlas.Atlas, arrays: tuple[str, ...] = ("t",)) -> None:
    for array in arrays:
        np.testing.assert_array_equal(store.read_array_across_stacked(array, ["a", "b"]), [field(0), field(1)])


def test_answers_in_chunks_have_no_length(s3):
    with s3.proxy.failing(lambda request: "chunked" if request.method == "GET" else ""):
        with s3.create() as store:
            write(store)
        store = s3.open()
        expect(store)
        store.delete_dataset("a")
        store.flush()
        store.compact()
        assert store.verify().ok


def test_a_connection_that_is_refused_is_asked_for_again(moto):
    storage = open_storage("s3://bucket/x", storage_options=moto.options | {"endpoint_url": "http://127.0.0.1:9"})
    with deadline(1), pytest.raises(atlas.StorageError, match=r"127\.0\.0\.1:9"):
        storage.read("atlas.json")
    assert storage.io_stats.requests["get"] > 1


def test_what_is_damaged_on_its_way_is_neither_kept_nor_copied(moto, tmp_path, setting):
    """Neither in the cache, nor by a compaction, whose copy would be all that is left."""
    setting("object_cache", tmp_path / "cache")
    with moto.create() as store:
        write(store, ("t", "large"))
    store.create_dataset("c").define_array("large", "float64", ["x"], [20_000])
    store.open_dataset("c").write_array("large", [0], np.random.default_rng(0).normal(size=20_000))
    store.flush()

    harmed: dict[str, bool] = {}

    def garble_every_other(request):
        harmed[request.key] = not harmed.get(request.key, False)
        return "garbled" if harmed[request.key] and request.range else ""

    with moto.proxy.failing(garble_every_other):
        expect(moto.open(), ("t", "large"))
        moto.open().compact()
    store = moto.open()
    assert store.verify().ok
    expect(store, ("t", "large"))


class ServiceError(Exception):
    """As some clients raise, which is no OSError."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the service said {code}")
        self.code = code


class Odd(MemoryFileSystem):
    """A file system of which no more is known than that it is one."""

    protocol = "odd"
    cachable = False
    store: ClassVar[dict] = {}
    errors: ClassVar[list[Exception]] = []

    def cat_file(self, *args, **kwargs):
        if self.errors:
            raise self.errors.pop()
        return super().cat_file(*args, **kwargs)


def test_errors_of_other_file_systems_are_ours():
    with atlas.Atlas.create(Odd(), prefix="s", single_writer=True) as store:
        write(store)
    Odd.errors = [ServiceError(503), ServiceError(429)]
    expect(atlas.Atlas.open(Odd(), prefix="s"))
    assert Odd.errors == []
    Odd.errors = [ServiceError(400)]
    with pytest.raises(atlas.StorageError, match="the service said 400"):
        atlas.Atlas.open(Odd(), prefix="s")


def test_an_index_is_fetched_once_however_many_want_it(moto, monkeypatch):
    monkeypatch.setattr(commitfiles, "COPIED_BYTES", 0)
    with moto.create() as store:
        write(store)
    store, together = moto.open(), threading.Barrier(8)

    def read(number: int) -> np.ndarray:
        together.wait()
        return store.open_dataset("ab"[number % 2]).read_array("t", [0, number], [10, 1])

    moto.proxy.latency = 0.1
    with moto.recording() as made, ThreadPoolExecutor(8) as threads:
        for number, cells in enumerate(threads.map(read, range(8))):
            np.testing.assert_array_equal(cells, field(number % 2)[:, number : number + 1])
    assert kinds(made) == {"GET": 9}


# --- names of places


@pytest.mark.parametrize("spelled", ["{}", "/{}", "{}/", "s3://{}", "s3://{}/"])
def test_a_prefix_is_the_same_place_however_it_is_spelled(moto, spelled):
    filesystem, prefix = fsspec.filesystem("s3", **moto.options), f"{BUCKET}/{moto.prefix}"
    with atlas.Atlas.create(filesystem, prefix=spelled.format(prefix)) as store:
        write(store)
    expect(moto.open())
    assert repr(store) == f"<Atlas {moto.url} datasets=2>"
    assert sorted(item.key for item in store._session.storage.inventory()) == moto.objects()


def test_prefixes_of_local_file_systems_and_paths(tmp_path):
    filesystem = fsspec.filesystem("file")
    with atlas.Atlas.create(filesystem, prefix=f"file://{tmp_path}/s") as store:
        write(store)
    expect(atlas.Atlas.open(filesystem, prefix=PurePosixPath(tmp_path / "s")))
    expect(atlas.Atlas.open(tmp_path, prefix="s"))
    with pytest.raises(atlas.InvalidArgument, match="not a path"):
        atlas.Atlas.open(filesystem, prefix=5)
    with pytest.raises(atlas.InvalidArgument, match="unknown client: 'obstor'"):
        atlas.Atlas.open("s3://bucket/s", storage_options={"client": "obstor"})
    with pytest.raises(atlas.InvalidArgument, match="storage_options"):
        atlas.Atlas.open(filesystem, prefix=str(tmp_path / "s"), storage_options={"anon": True})


ODD_NAMES = ("sea water °C", "100%", "a+b#c?d", "%2F", ".x ")


@pytest.mark.parametrize("prefix", ["a b/ü", "100%/a+b", "x#y", "q?r=1", "%2F"])
def test_both_clients_find_what_the_other_wrote_under_odd_names(moto, prefix):
    url, obstore = f"{moto.url}/{prefix}", moto.options | {"client": "obstore"}
    for writer, reader in ((moto.options, obstore), (obstore, moto.options)):
        with atlas.Atlas.create(url, storage_options=writer, overwrite=True) as store:
            write(store, ODD_NAMES)
        store = atlas.Atlas.open(url, storage_options=reader)
        expect(store, ODD_NAMES)
        known = {"atlas.json", *(file.key for file in store._session.snapshot.root.files)}
        assert known <= {item.key for item in store._session.storage.inventory()}
        assert known.isdisjoint(store.gc(grace=0, unfinished=0).removed)
        expect(store, ODD_NAMES)


def test_names_that_a_client_does_not_take_are_refused_in_one_line(moto):
    url = f"{moto.url}/a//b"
    with atlas.Atlas.create(url, storage_options=moto.options) as store:
        write(store)
    expect(atlas.Atlas.open(url, storage_options=moto.options))
    with pytest.raises(atlas.InvalidArgument, match="empty path segment"):
        atlas.Atlas.open(url, storage_options=moto.options | {"client": "obstore"})


def test_what_an_address_says_of_its_user_is_not_shown(tmp_path):
    with atlas.Atlas.create(tmp_path / "s") as store:
        write(store)
    with servers.web(tmp_path) as port:
        url = f"http://user:a-secret@127.0.0.1:{port}/s"
        store = atlas.Atlas.open(url)
        expect(store)
        cut, gone = atlas.Atlas.open(url), atlas.Atlas.open(url)
        (path,) = (tmp_path / "s" / "t").iterdir()
        os.truncate(path, 100)
        with pytest.raises(atlas.AtlasError) as first:
            expect(cut)
        path.unlink()
        with pytest.raises(atlas.SnapshotExpired) as second:
            expect(gone)
        with pytest.raises(atlas.StoreNotFound) as third:
            atlas.Atlas.open(f"{url}/nowhere")
        for said in (repr(store), first.value, second.value, third.value):
            assert "a-secret" not in str(said)
