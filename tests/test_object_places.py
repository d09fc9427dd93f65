"""Where stores may be: file systems with prefixes, memory, the web; with credentials that stay where they belong."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import pickle
import subprocess
import sys

import fsspec
import numpy as np
import pytest
import s3fs
from conftest import deadline
from fsspec.asyn import get_loop
from fsspec.implementations.dirfs import DirFileSystem
from objectstore import FAULTS, servers
from objectstore.place import BUCKET
from torture.scenes import in_child

import atlas
from atlas.storage import conditions, flight, requests

SECRET = servers.SECRET


def write(store: atlas.Atlas, names=("a", "b")) -> None:
    for i, name in enumerate(names):
        view = store.create_dataset(name)
        view.define_array("t", "int32", ["x"], [1000], [100])
        view.write_array("t", [0], np.arange(1000, dtype="int32") * (i + 1))
        view.define_array("label", "string", ["y"], [2])
        view.write_array("label", [0], np.array(["ü", name], object))


def expect(store: atlas.Atlas, names=("a", "b")) -> None:
    assert store.list_datasets() == list(names)
    expected = [np.arange(1000) * (i + 1) for i in range(len(names))]
    np.testing.assert_array_equal(store.read_array_across_stacked("t", names), expected)
    assert store.open_dataset(names[0]).read_array("label").tolist() == ["ü", names[0]]


def test_a_file_system_and_a_prefix(moto):
    filesystem = fsspec.filesystem("s3", **moto.options)
    with atlas.Atlas.create(filesystem, prefix=f"{BUCKET}/{moto.prefix}") as store:
        write(store)
    expect(atlas.Atlas.open(filesystem, prefix=f"{BUCKET}/{moto.prefix}"))
    expect(atlas.Atlas.open(DirFileSystem(f"{BUCKET}/{moto.prefix}", filesystem)))
    expect(moto.open())


def test_memory_and_file_urls(tmp_path):
    for url in (f"memory://{tmp_path.name}/s", f"file://{tmp_path}/s"):
        with atlas.Atlas.create(url, meta_format="msgpack", meta_compression="lz4") as store:
            write(store)
        expect(atlas.Atlas.open(url))
        with pytest.raises(atlas.StoreAlreadyExists):
            atlas.Atlas.create(url)
        store = atlas.Atlas.open(url)
        store.delete_dataset("b")
        store.flush()
        store.compact()
        expect(atlas.Atlas.open(url), ["a"])
        assert atlas.Atlas.open(url).verify().ok


def test_writers_in_memory_merge(tmp_path):
    url = f"memory://{tmp_path.name}/s"
    first, second = atlas.Atlas.create(url), atlas.Atlas.open(url)
    write(first, ["a"])
    write(second, ["b"])
    first.flush()
    second.flush()
    assert atlas.Atlas.open(url).list_datasets() == ["a", "b"]


def test_a_store_on_the_web_is_read_only(tmp_path):
    with atlas.Atlas.create(tmp_path / "s", meta_format="msgpack") as store:
        write(store)
    with servers.web(tmp_path) as port:
        url = f"http://127.0.0.1:{port}/s"
        store = atlas.Atlas.open(url)
        expect(store)
        assert repr(store).startswith(f"<Atlas {url} ")
        write(store, ["c"])
        with pytest.raises(atlas.ReadOnlyStore, match="read-only"):
            store.flush()
        with pytest.raises(atlas.ReadOnlyStore):
            atlas.Atlas.create(url)
        with pytest.raises(atlas.StoreNotFound):
            atlas.Atlas.open(f"{url}/nowhere")


def test_no_secret_is_shown_or_stored(moto, caplog):
    caplog.set_level(logging.DEBUG, "atlas")
    with moto.create() as store:
        write(store)
    assert SECRET not in repr(store) + caplog.text
    filesystem = moto.filesystem()
    for key in moto.objects():
        assert SECRET.encode() not in filesystem.cat_file(f"{BUCKET}/{moto.prefix}/{key}")
    wrong = moto.options | {"endpoint_url": "http://127.0.0.1:9"}
    with pytest.raises(atlas.AtlasError) as failure:
        atlas.Atlas.open("s3://bucket/x", storage_options=moto.options | {"nonsense": SECRET})
    assert SECRET not in str(failure.value)
    with deadline(1), pytest.raises(atlas.StorageError, match=r"127\.0\.0\.1:9") as failure:
        atlas.Atlas.open("s3://bucket/x", storage_options=wrong)
    assert SECRET not in str(failure.value)


def test_missing_buckets_and_expired_credentials_are_one_line(moto):
    with pytest.raises(atlas.StorageError, match="bucket 'no-such-bucket' does not exist"):
        atlas.Atlas.open("s3://no-such-bucket/s", storage_options=moto.options)
    with pytest.raises(atlas.StorageError, match="bucket 'no-such-bucket' does not exist"):
        atlas.Atlas.create("s3://no-such-bucket/s", storage_options=moto.options)
    with pytest.raises(atlas.StoreNotFound, match=r"Atlas\.create"):
        moto.open()
    store = moto.create()
    write(store)
    for fault, said in (("expired", "expired"), ("forbidden", "access denied")):
        with moto.proxy.failing(lambda request, fault=fault: fault):
            for step in (moto.open, store.flush):
                with pytest.raises(atlas.AtlasError, match=said) as failure:
                    step()
                assert "\n" not in str(failure.value)
    store.flush()
    expect(moto.open())


def test_anonymous_access(moto):
    with moto.create() as store:
        write(store)
    for key in moto.objects():
        moto.filesystem().call_s3("put_object_acl", Bucket=BUCKET, Key=f"{moto.prefix}/{key}", ACL="public-read")
    options = {"anon": True, "endpoint_url": moto.options["endpoint_url"]}
    expect(atlas.Atlas.open(moto.url, storage_options=options))


def test_xarray_opens_urls(moto):
    xr = pytest.importorskip("xarray")
    with moto.create() as store:
        write(store)
    ds = xr.open_dataset(moto.url, engine="atlas", group="b", storage_options=moto.options)
    np.testing.assert_array_equal(ds["t"][:5], np.arange(5) * 2)
    assert SECRET not in repr(ds) + repr(ds.encoding) + repr(ds["t"].encoding)
    with moto.open() as store:
        ds.rename(x="z").atlas.write(store, "c")
    np.testing.assert_array_equal(moto.open().open_as_xarray_dataset("c")["t"], ds["t"])


def test_the_command_line(moto):
    with moto.create() as store:
        write(store)
    environment = os.environ | {
        "AWS_ACCESS_KEY_ID": servers.KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": servers.REGION,
        "AWS_ENDPOINT_URL": moto.options["endpoint_url"],
    }

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "atlas", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    run("mv", moto.url, "b", "c")
    assert run("ls", moto.url).split() == ["a", "c"]


def test_handles_travel_and_children_read(moto):
    with moto.create() as store:
        write(store)
    expect(pickle.loads(pickle.dumps(store)))

    def read() -> None:
        expect(store)
        expect(moto.open())

    assert in_child(read) is None
    expect(store)


def test_children_of_a_process_that_used_obstore_are_told(moto):
    with moto.create() as store:
        write(store)
    options = {"storage_options": moto.options | {"client": "obstore"}}
    handle = atlas.Atlas.open(moto.url, **options)

    def use() -> None:
        for way in (handle.refresh, lambda: atlas.Atlas.open(moto.url, **options)):
            with pytest.raises(atlas.StorageError, match="spawn processes, or use s3fs"):
                way()
        expect(moto.open())

    assert in_child(use) is None
    expect(handle)


def test_worker_processes_make_no_connections(moto):
    with moto.create(codec="lz4") as store:
        write(store)
    with moto.recording() as made:
        reader = moto.open(executor="processes", workers=2)
        reader.read_array_across_stacked("t", ["a", "b"])
    assert [request.kind for request in made] == ["GET"] * 2


def test_it_counts_what_it_asks_for(moto):
    with moto.create() as store:
        write(store)
    store = moto.open()
    assert store.io_stats.requests == {"get": 1}
    before = store.io_stats
    with moto.recording() as made:
        store.read_array_across_stacked("t", ["a", "b"], [0], [100])
    spent = store.io_stats - before
    assert spent.requests == {"range": 1} == {"range": len(made)}
    assert spent.bytes_asked == sum(request.received for request in made)
    # The first chunks of all datasets lie together; the second ones are between them and the third.
    assert spent.bytes_used == spent.bytes_asked
    before = store.io_stats
    store.read_array_across_stacked("t", ["a"], [0], [300])
    spent = store.io_stats - before
    assert spent.requests == {"range": 1}
    assert 0 < spent.bytes_used < spent.bytes_asked
    assert atlas.Atlas.create(f"memory://counted-{moto.prefix}").io_stats.total > 0


# --- garbage


def test_a_table_that_was_just_written_is_not_fetched():
    names = [f"sensor_{i:08d}_{i * 7919 % 1_000_003}" for i in range(60_000)]
    store = atlas.Atlas.create("memory://just-written", meta_format="msgpack", overwrite=True)
    store.create_datasets(names, {"t": {"dims": ["x"], "data": np.ones((len(names), 2), "f4")}})
    store.flush()
    assert store._session.snapshot.root.catalog.tables
    before = store.io_stats
    assert store.list_datasets() == names
    assert (store.io_stats - before).requests == {}


def test_readers_keep_their_state_until_the_grace_is_over(moto):
    with moto.create() as store:
        write(store)
    reader = moto.open()
    with moto.open() as store:
        store.delete_dataset("b")
    store.compact()
    assert store.gc().removed == []
    assert len(store.gc().waiting) == 2
    expect(reader)
    late = moto.open()
    reader = moto.open()
    write(late, ["c"])
    late.flush()
    late.compact()
    assert len(late.gc(grace=0, dry_run=True).removed) == 6
    assert len(late.gc(grace=0).removed) == 6
    with pytest.raises(atlas.SnapshotExpired, match="refresh"):
        reader.read_array_across_stacked("t", ["a"])
    reader.refresh()
    assert reader.read_array_across_stacked("t", ["a", "c"]).shape == (2, 1000)
    assert len(moto.objects()) == 3
    assert late.gc(grace=0, unfinished=0).removed == []


def test_leftovers_of_a_killed_writer_are_found(moto):
    with moto.create() as store:
        write(store)
    code = f"""
import os, numpy as np, atlas
from atlas.storage.remote import RemoteStorage
store = atlas.Atlas.open({moto.url!r}, storage_options={moto.options!r})
view = store.create_dataset("x")
for array, size in (("t", 1000), ("large", 3_000_000)):
    view.define_array(array, "float64", ["x"], [size])
    view.write_array(array, [0], np.random.default_rng(0).normal(size=size))
RemoteStorage.replace = lambda *args: os._exit(9)
from atlas.storage.s3 import S3Client
async def die(self, *args):
    os._exit(9)
S3Client.complete = die
store.flush()
"""
    environment = os.environ | {"ATLAS_PART_BYTES": str(5 << 20)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 9
    store = moto.open()
    expect(store)
    # moto says of every upload that it was begun in 2010.
    first, second = store.gc(), store.gc(unfinished=0)
    assert first.removed == []
    assert first.uploads + second.uploads == 1
    assert len(second.removed) <= 1
    assert len(moto.objects()) == 3
    expect(moto.open())


def put_in_parts(place) -> tuple[atlas.Atlas, np.ndarray]:
    """A store in which an array waits that is too large for one request."""
    data = np.random.default_rng(0).normal(size=2_000_000)
    store = place.create(codec="none")
    view = store.create_dataset("x")
    view.define_array("large", "float64", ["x"], [len(data)], [100_000])
    view.write_array("large", [0], data)
    return store, data


def test_large_objects_leave_in_parts(s3, parts_of_5_mib):
    store, data = put_in_parts(s3)
    with s3.recording() as made:
        store.flush()
    assert [request.method for request in made].count("POST") == 2
    assert sum("partNumber" in request.query for request in made) == 4
    with s3.recording() as made:
        np.testing.assert_array_equal(s3.open().open_dataset("x").read_array("large"), data)
    assert len(made) == 1 + 2


def test_the_answer_to_the_last_request_of_an_upload_may_be_lost(s3, parts_of_5_mib):
    """Asked again, servers say that there is no such upload: it has become the object."""
    store, data = put_in_parts(s3)
    lost: list[str] = []

    def once(request) -> str:
        if request.method == "POST" and "uploadId" in request.query and not lost:
            lost.append(request.key)
            return "lost"
        return ""

    with s3.proxy.failing(once):
        store.flush()
    assert lost
    np.testing.assert_array_equal(s3.open().open_dataset("x").read_array("large"), data)


def test_a_server_that_offers_no_conditions_is_for_one_writer(moto, monkeypatch):
    monkeypatch.setattr(conditions, "_honours", {})
    with moto.proxy.failing(lambda request: "501" if request.is_conditional else ""):
        with pytest.raises(atlas.UnsafeStorage, match="single_writer"):
            moto.create()
        with atlas.Atlas.create(moto.url, storage_options=moto.options, single_writer=True) as store:
            write(store)
        expect(atlas.Atlas.open(moto.url, storage_options=moto.options, single_writer=True))


def test_a_fetch_that_is_cancelled_is_no_read_that_hangs():
    async def cancelled() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        list(flight.in_flight(get_loop(), [flight.Job(1, cancelled)], 1, 10))


def test_of_many_fetches_that_fail_one_is_raised_and_none_is_logged(caplog):
    async def failing() -> None:
        raise atlas.StorageError("no")

    for _ in range(3):
        with pytest.raises(atlas.StorageError):
            list(flight.in_flight(get_loop(), [flight.Job(1, failing)] * 8, 8, 100))
    gc.collect()
    assert caplog.text == ""


def test_a_session_that_fails_once_is_begun_again(moto, monkeypatch):
    with moto.create() as store:
        write(store)
    begin, failed = s3fs.S3FileSystem.set_session, []

    async def failing_once(self, *args, **kwargs):
        if not failed:
            failed.append(True)
            raise ConnectionError("not now")
        return await begin(self, *args, **kwargs)

    monkeypatch.setattr(s3fs.S3FileSystem, "set_session", failing_once)
    expect(atlas.Atlas.open(moto.url, storage_options=moto.options | {"skip_instance_cache": True}))
    assert failed


# --- another client, and a cache


@pytest.fixture
def obstore(moto):
    """A handle of the package of that name."""
    from obstore.store import S3Store

    return S3Store(
        BUCKET,
        prefix=moto.prefix,
        endpoint=moto.options["endpoint_url"],
        access_key_id=servers.KEY,
        secret_access_key=SECRET,
        region=servers.REGION,
        client_options={"allow_http": True},
    )


def test_a_handle_of_obstore_is_a_place_too(moto, obstore):
    with atlas.Atlas.create(obstore, prefix="s") as store:
        write(store)
    url, options = f"{moto.url}/s", moto.options | {"client": "obstore"}
    for store in (atlas.Atlas.open(obstore, prefix="s"), atlas.Atlas.open(url, storage_options=options)):
        expect(store)
        assert repr(store) == f"<Atlas {url} datasets=2>"
        expect(pickle.loads(pickle.dumps(store)))
    first, second = atlas.Atlas.open(obstore, prefix="s"), atlas.Atlas.open(url, storage_options=moto.options)
    write(first, ["c"])
    write(second, ["d"])
    with moto.recording() as made:
        first.flush()
    assert sorted(request.kind for request in made) == ["CONDITIONAL PUT", "PUT", "PUT"]
    second.flush()
    assert atlas.Atlas.open(obstore, prefix="s").list_datasets() == ["a", "b", "c", "d"]
    first.refresh()
    first.compact()
    assert len(first.gc(grace=0, unfinished=0).removed) == 6
    with pytest.raises(atlas.InvalidArgument, match="'use_ssl'"):
        atlas.Atlas.open(url, storage_options=options | {"use_ssl": False})


def test_faults_meet_obstore_as_well(moto, monkeypatch):
    monkeypatch.setattr(requests, "_ANSWER_SECONDS", 0.5)
    options = {"storage_options": moto.options | {"client": "obstore"}}
    store = atlas.Atlas.create(moto.url, **options)
    write(store)
    for fault in FAULTS:
        left = [fault]

        def once(request, left=left):
            return left.pop() if left and request.method != "DELETE" else ""

        with moto.proxy.failing(once):
            store.create_dataset(f"x-{fault}").set_attribute("k", 1)
            store.flush()
            assert left == []
            left.append(fault)
            reader = atlas.Atlas.open(moto.url, **options)
            left.append(fault)
            np.testing.assert_array_equal(reader.read_array_across_stacked("t", ["a"]), [np.arange(1000)])
        assert left == []


def test_what_is_cached_is_not_fetched_again(moto, tmp_path, setting):
    setting("object_cache", tmp_path / "cache")
    with moto.create() as store:
        write(store)
    expect(moto.open())
    with moto.recording() as made:
        expect(moto.open())
    assert [request.kind for request in made] == ["GET"]
    with moto.open() as store:
        store.open_dataset("a").write_array("t", [0], np.zeros(1000, "int32"))
    store = moto.open()
    assert not store.open_dataset("a").read_array("t").any()
    for path in (tmp_path / "cache").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert not moto.open().open_dataset("a").read_array("t").any()
    setting("object_cache_bytes", 0)
    assert not moto.open().open_dataset("a").read_array("t").any()


def test_processes_share_a_cache_that_stays_within_bounds(tmp_path):
    code = f"""
import random, sys
from atlas.storage.cache import RangeCache
from atlas.storage.ranges import Range
cache = RangeCache({str(tmp_path)!r}, 200_000)
for step in range(100):
    number = random.randrange(40)
    item = Range(f"t/data-{{number:032x}}.af", number, number + 10_000)
    found = cache.get("s", item)
    assert found is None or found == bytes([number]) * 10_000
    cache.put("s", item, bytes([number]) * 10_000)
"""
    running = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [process.wait(150) for process in running] == [0] * 2
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in files) < 300_000
    assert all("." not in path.name for path in files)
