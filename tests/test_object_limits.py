"""Object stores with much in them: many keys, large objects, little memory; and clients of every kind."""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import deadline
from objectstore import servers
from objectstore.place import BUCKET, kinds
from obstore.store import MemoryStore, S3Store

import atlas
from atlas.storage import conditions, obstore_client, open_storage
from atlas.storage.obstore_client import ObstoreClient

CLIENTS = ["s3fs", "obstore"]


@pytest.fixture(params=CLIENTS)
def options(request, moto):
    """What opens a store with each of the clients."""
    return {"storage_options": moto.options | {"client": request.param}}


def large(place, options) -> tuple[atlas.Atlas, np.ndarray]:
    """A store in which 16 MB wait."""
    data = np.random.default_rng(0).normal(size=2_000_000)
    store = atlas.Atlas.create(place.url, codec="none", **options)
    view = store.create_dataset("x")
    view.define_array("large", "float64", ["x"], [len(data)], [100_000])
    view.write_array("large", [0], data)
    return store, data


def test_large_objects_leave_in_parts_by_either_client(moto, options, parts_of_5_mib):
    store, data = large(moto, options)
    before = store.io_stats
    with moto.recording() as made:
        store.flush()
    assert kinds(made) == {"POST": 2, "PUT": 4, "CONDITIONAL PUT": 1}
    assert (store.io_stats - before).requests == {"multipart": 2, "part": 4, "conditional_put": 1}
    np.testing.assert_array_equal(atlas.Atlas.open(moto.url, **options).open_dataset("x").read_array("large"), data)


@pytest.mark.parametrize("fault", ["500", "503", "reset", "lost", "truncated"])
def test_a_part_that_fails_once_is_put_again(moto, options, parts_of_5_mib, fault):
    store, data = large(moto, options)
    left = [fault]

    def once(request) -> str:
        return left.pop() if left and request.query.get("partNumber") == ["2"] else ""

    with moto.proxy.failing(once):
        store.flush()
    assert left == []
    np.testing.assert_array_equal(moto.open().open_dataset("x").read_array("large"), data)


@pytest.mark.parametrize("step", ["uploads", "partNumber", "complete"])
def test_an_upload_that_cannot_be_made_fails_and_can_be_made_later(moto, options, parts_of_5_mib, step):
    store, data = large(moto, options)

    def broken(request) -> str:
        is_it = (
            request.method == "POST" and "uploadId" in request.query if step == "complete" else step in request.query
        )
        return "500" if is_it else ""

    with moto.proxy.failing(broken), deadline(2), pytest.raises(atlas.StorageError):
        store.flush()
    assert moto.open().list_datasets() == []
    store.flush()
    np.testing.assert_array_equal(moto.open().open_dataset("x").read_array("large"), data)


@pytest.mark.parametrize("fault", ["lost", "lost-500"])
def test_the_answer_to_the_end_of_an_upload_may_be_lost(moto, options, parts_of_5_mib, fault):
    store, data = large(moto, options)
    left = [fault]

    def once(request) -> str:
        return left.pop() if left and request.method == "POST" and "uploadId" in request.query else ""

    with moto.proxy.failing(once):
        store.flush()
    assert left == []
    np.testing.assert_array_equal(moto.open().open_dataset("x").read_array("large"), data)


@pytest.mark.parametrize("steps", range(8))
def test_a_part_whose_giving_is_cancelled_is_not_in_the_object_twice(steps):
    """A request that takes too long is cancelled at whatever step it has come to, and made again."""

    async def put() -> bytes:
        client = ObstoreClient(MemoryStore())
        upload = await client.begin("x")
        for number, part in enumerate((b"one", b"two", b"three"), 1):
            giving = asyncio.ensure_future(client.put_part("x", upload, number, part))
            for _ in range(steps):
                await asyncio.sleep(0)
            giving.cancel()
            await asyncio.gather(giving, return_exceptions=True)
            await client.put_part("x", upload, number, part)
        await client.complete("x", upload, ["1", "2", "3"])
        return (await client.get("x")).data

    assert bytes(asyncio.run(put())) == b"onetwothree"


def test_the_handle_that_repeats_uploads_has_the_credentials_of_the_other():
    def credentials() -> dict[str, str | None]:
        return {"access_key_id": servers.KEY, "secret_access_key": servers.SECRET, "token": None, "expires_at": None}

    store = S3Store(BUCKET, region="us-east-1", credential_provider=credentials, retry_config={"max_retries": 0})
    assert obstore_client._patient(store).credential_provider is credentials


# --- many keys


def test_more_keys_than_fit_on_a_page(moto):
    store = moto.create()
    keys = [f"t/data-{number:032x}.af" for number in range(1010)]
    moto.filesystem().pipe({f"{BUCKET}/{moto.prefix}/{key}": b"left over" for key in keys})
    for client in CLIENTS:
        storage = open_storage(moto.url, storage_options=moto.options | {"client": client})
        left = [3]

        def second_page(request, left=left) -> str:
            left[0] -= request.kind == "LIST"
            return "500" if request.kind == "LIST" and left[0] == 1 else ""

        with moto.recording() as made, moto.proxy.failing(second_page):
            assert sorted(item.key for item in storage.inventory()) == ["atlas.json", *keys]
        assert kinds(made) == {"LIST": 3}  # one page again, not both
    assert store.gc().waiting == keys
    with moto.recording() as made:
        assert sorted(store.gc(unfinished=0).removed) == keys
    assert kinds(made)["DELETE"] == 2
    assert moto.objects() == ["atlas.json"]


def test_every_removal_of_other_file_systems_has_its_own_time(tmp_path, monkeypatch):
    """None of them removes many objects by one request: one that hangs keeps none of the others."""
    storage = open_storage(f"memory://{tmp_path.name}/s")
    for number in range(40):
        storage.replace(f"t/{number}", b"")
    before = storage.io_stats
    storage.delete_all([*(f"t/{number}" for number in range(40)), "t/nowhere"])
    assert (storage.io_stats - before).requests == {"delete": 41}
    assert storage.inventory() == []


# --- servers and credentials


@pytest.mark.parametrize("unknown", ["if-match", "if-none-match"])
def test_a_server_that_knows_one_of_the_conditions_is_for_one_writer(moto, monkeypatch, unknown):
    monkeypatch.setattr(conditions, "_honours", {})

    def ignoring(request) -> str:
        return f"without {unknown}" if unknown in request.headers else ""

    with moto.proxy.failing(ignoring), pytest.raises(atlas.UnsafeStorage, match="single_writer"):
        moto.create()


def test_what_tried_a_server_goes_after_the_root_is_there(moto, monkeypatch):
    """rclone's would take the store's directory away while the root is put there: it is empty without the objects."""
    monkeypatch.setattr(conditions, "_honours", {})
    monkeypatch.setattr(moto.proxy, "latency", 0.1)
    with moto.proxy.recording() as made:
        moto.create()
        while not (moto.proxy.log[-1].kind == "DELETE" and moto.proxy.log[-1].status):
            time.sleep(0.01)
    assert [request.kind for request in made[-2:]] == ["CONDITIONAL PUT", "DELETE"]
    assert made[-2].key.endswith("/atlas.json")
    assert moto.objects() == ["atlas.json"]


@pytest.mark.parametrize("client", CLIENTS)
def test_what_tried_a_server_goes_before_the_process_ends(moto, monkeypatch, client):
    monkeypatch.setattr(moto.proxy, "latency", 0.1)
    code = "import sys, atlas; atlas.Atlas.create(sys.argv[1], storage_options=eval(sys.argv[2]))"
    options = repr(moto.options | {"client": client})
    done = subprocess.run([sys.executable, "-c", code, moto.url, options], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert moto.objects() == ["atlas.json"]


def test_the_region_and_the_place_come_from_the_environment(moto, monkeypatch):
    moto.create()
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto.options["endpoint_url"])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", servers.KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", servers.SECRET)
    with moto.recording() as made:
        assert atlas.Atlas.open(moto.url, storage_options={"client": "obstore"}).list_datasets() == []
    assert "/eu-central-1/s3/" in made[0].headers["authorization"]


def test_newer_credentials_are_used(moto):
    """A worker that was sent a handle once, and is sent the same store with other credentials."""
    with moto.create() as store:
        store.create_dataset("a").define_array("t", "int32", ["x"], [4])
        store.open_dataset("a").write_array("t", [0], np.arange(4, dtype="int32"))
    for key in ("first-key", "second-key"):
        handle = atlas.Atlas.open(moto.url, mode="r", storage_options=moto.options | {"key": key})
        frozen = pickle.loads(pickle.dumps(handle._session.frozen()))
        with moto.recording() as made:
            frozen.snapshot.storage.read("atlas.json")
        assert f"Credential={key}/" in made[0].headers["authorization"]


# --- memory


@pytest.mark.parametrize("client", CLIENTS)
def test_memory_is_bounded_by_what_may_be_in_flight(moto, client):
    """110 MB are written, and 60 of them read, with a budget of 16 MB."""
    code = f"""
import numpy as np, atlas

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024

def anew():
    open("/proc/self/clear_refs", "w").write("5")
    return peak()

options = {{"storage_options": {moto.options | {"client": client}!r}, "workers": 1}}
cells = np.random.default_rng(0).normal(size=1_000_000)
store = atlas.Atlas.create({moto.url!r}, codec="none", **options)

def write(name, sizes):
    view = store.create_dataset(name)
    for array, size in sizes.items():
        view.define_array(array, "float64", ["x"], [size * 1_000_000], [20_000])
        for step in range(size):
            view.write_array(array, [step * 1_000_000], cells)

write("warm", {{"a0": 1, "large": 2}})
store.flush()
write("x", {{**{{f"a{{i}}": 1 for i in range(6)}}, "large": 8}})
before = anew()
store.flush()
print("write", peak() - before)
target = np.ones((1, 8_000_000))
store.read_array_across_stacked("large", ["warm"])
before = anew()
store.read_array_across_stacked("large", ["x"], out=target)
assert (target.reshape(8, -1) == cells).all()
print("read", peak() - before)
"""
    environment = os.environ | {
        "ATLAS_FLIGHT_BYTES": str(16 << 20),
        "ATLAS_PART_BYTES": str(5 << 20),
        "ATLAS_PENDING_BYTES": str(8 << 20),
        "ATLAS_FETCH_BYTES": str(1 << 20),
    }
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    used = {kind: int(size) / 1e6 for kind, size in (line.split() for line in output.splitlines())}
    print(client, used)
    assert used["write"] < 85  # 46 on a quiet machine, 68 on a busy one
    assert used["read"] < 40


def test_a_conflict_that_no_condition_made_is_asked_about_again(moto, options):
    """S3 says 409 of requests that meet each other, of reads and plain puts as well."""
    with atlas.Atlas.create(moto.url, **options) as store:
        store.create_dataset("a").set_attribute("k", 1)
    left = ["conflict"]
    with moto.proxy.failing(lambda request: left.pop() if left else ""):
        store = atlas.Atlas.open(moto.url, **options)
    assert store.list_datasets() == ["a"]
    view = store.create_dataset("b")
    view.define_array("t", "float32", ["x"], [3])
    view.write_array("t", [0], np.ones(3, "float32"))
    left = ["conflict"]
    with moto.proxy.failing(lambda request: left.pop() if left else ""):
        store.flush()
    assert left == []
    assert moto.open().list_datasets() == ["a", "b"]
