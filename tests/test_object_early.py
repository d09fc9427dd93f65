"""Chunks that leave for an object store before the flush: the same store in the end, whatever happens meanwhile."""

from __future__ import annotations

import os

import numpy as np
import pytest
from conftest import deadline
from objectstore.place import kinds

import atlas

COUNT, SHAPE, CHUNK = 24, (2, 100_000), (1, 100_000)
NAMES = [f"d{i:02d}" for i in range(COUNT)]


pytestmark = pytest.mark.usefixtures("parts_of_5_mib")


@pytest.fixture(params=["s3fs", "obstore"])
def options(request, moto):
    return {"storage_options": moto.options | {"client": request.param}}


def noise(seed: int = 0) -> np.ndarray:
    """19 MB; half of it are the first chunks, which are enough to leave in parts."""
    return np.random.default_rng(seed).normal(size=(COUNT, *SHAPE)).astype("float32")


def begun(place, options, data: np.ndarray, store: atlas.Atlas | None = None) -> atlas.Atlas:
    """A store in which all is written and nothing committed."""
    if store is None:
        store = atlas.Atlas.create(place.url, codec="none", **options)
    layout = {"dtype": "float32", "dims": ["y", "x"], "shape": list(SHAPE), "chunk_shape": list(CHUNK)}
    store.create_datasets(NAMES, {"t": layout})
    store.write_stacked("t", NAMES, data)
    return store


def expect(place, data: np.ndarray) -> atlas.Atlas:
    reader = place.open()
    np.testing.assert_array_equal(reader.read_array_across_stacked("t", NAMES), data)
    assert reader.verify().ok
    return reader


def nothing_is_left_over(place) -> None:
    store = place.open()
    files = {file.key for file in store._session.snapshot.root.files}
    assert set(place.objects()) == {"atlas.json", *files}
    assert store._session.storage.drop_unfinished(float("inf")) == 0


def test_most_of_a_large_block_leaves_before_the_flush(moto, options):
    data = noise()
    with moto.recording() as made:
        store = begun(moto, options, data)
    # On their way, that is: nobody has waited for them.
    assert len(store._session.pending.starts.of("t").writer._sent) == 3
    with moto.recording() as flushed:
        store.flush()
    # What tries a server is put once in a process.
    lasting = [request for request in made + flushed if "_probe/" not in request.key]
    assert kinds(lasting)["CONDITIONAL PUT"] == 2
    assert sum("partNumber" in request.query for request in made + flushed) == 4
    reader = expect(moto, data)
    nothing_is_left_over(moto)
    # The first chunks of all datasets lie together, as if they had waited.
    offsets = reader._session.snapshot.index("t").columns["offset"].reshape(COUNT, 2)
    assert offsets[:, 0].max() < offsets[:, 1].min()


def test_what_is_written_again_or_deleted_meanwhile_is_as_said_last(moto, options):
    data = noise()
    store = begun(moto, options, data)
    store.open_dataset(NAMES[5]).write_array("t", [0, 0], np.zeros(SHAPE, "float32"))
    store.delete_dataset(NAMES[6])
    store.flush()
    data[5] = 0
    reader = moto.open()
    left = [name for name in NAMES if name != NAMES[6]]
    np.testing.assert_array_equal(reader.read_array_across_stacked("t", left), np.delete(data, 6, axis=0))
    nothing_is_left_over(moto)


def test_more_of_the_same_array_comes_behind(moto):
    data = noise()
    store = begun(moto, {"storage_options": moto.options}, data)
    store.create_dataset("loose").define_array("t", "float32", ["y", "x"], list(SHAPE), list(CHUNK))
    store.open_dataset("loose").write_array("t", [0, 0], data[3])
    more = [f"more {name}" for name in NAMES[:4]]
    store.create_datasets(more, {"t": {"dims": ["y", "x"], "data": data[:4], "chunk_shape": list(CHUNK)}})
    store.flush()
    reader = expect(moto, data)
    np.testing.assert_array_equal(reader.read_array_across_stacked("t", [*more, "loose"]), data[[0, 1, 2, 3, 3]])
    nothing_is_left_over(moto)


def test_a_batch_that_is_dropped_leaves_nothing(moto, options):
    with pytest.raises(RuntimeError), begun(moto, options, noise()):
        raise RuntimeError("the user's own")
    nothing_is_left_over(moto)
    assert moto.open().list_datasets() == []


@pytest.mark.parametrize("step", ["uploads", "partNumber"])
def test_a_server_that_fails_meanwhile_does_not_make_the_flush_fail(moto, step):
    options, data = {"storage_options": moto.options}, noise()
    store = atlas.Atlas.create(moto.url, codec="none", **options)
    with moto.proxy.failing(lambda request: "503" if step in request.query else ""), deadline(1):
        begun(moto, options, data, store)
        start = store._session.pending.starts.of("t")
        assert start is not None
        for request in (start.writer._upload, *start.writer._sent):
            request.exception(30)
    store.flush()
    expect(moto, data)


def test_the_loser_of_a_race_writes_the_chunks_once_more(moto):
    data = noise()
    store = begun(moto, {"storage_options": moto.options}, data)
    with moto.open() as other:
        other.create_dataset("other").set_attribute("k", 1)
    store.flush()
    assert expect(moto, data).list_datasets() == ["other", *NAMES]
    nothing_is_left_over(moto)


def test_a_server_for_one_writer_is_sent_nothing_by_two(s3_places):
    with s3_places["rclone"].anew() as rclone, rclone.create() as store:
        store.create_datasets(NAMES)
    store = atlas.Atlas.open(rclone.url, storage_options=rclone.options)
    data = noise()
    with rclone.recording() as made:
        for name in NAMES[:2]:
            store.open_dataset(name).define_array("t", "float32", ["y", "x"], list(SHAPE), list(CHUNK))
        more = [f"new {name}" for name in NAMES]
        store.create_datasets(more, {"t": {"dims": ["y", "x"], "data": data, "chunk_shape": list(CHUNK)}})
    assert not any("uploads" in request.query for request in made)
    with pytest.raises(atlas.UnsafeStorage):
        store.flush()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_leaves_the_parents_upload_alone(moto):
    data = noise()
    store = begun(moto, {"storage_options": moto.options}, data)
    child = os.fork()
    if not child:
        store._session.pending.starts.drop()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    store.flush()
    expect(moto, data)
