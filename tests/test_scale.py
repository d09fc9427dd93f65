"""Costs that grow with what is touched, not with what is there: counted, not timed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import atlas.roots
from atlas import Atlas, columnfile, commitfiles, compaction, datafiles, layer
from atlas.errors import StorageError


def grow(place: Path, count: int, flushes: int) -> Atlas:
    store = Atlas.create(place)
    for i in range(count):
        add(store, f"station {i:05d}", i)
        if i % (count // flushes) == 0:
            store.flush()
    store.flush()
    return store


def add(store: Atlas, name: str, i: int) -> None:
    view = store.create_dataset(name)
    view.set_attribute("platform", f"platform {i % 7}")
    view.set_attribute("lat", i / 10)


def tables(place: Path) -> list[str]:
    return sorted(path.name for path in (place / "_catalog").glob("*.at"))


@pytest.fixture
def large(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(commitfiles, "INLINE_BYTES", 4096)
    grow(place, 3000, 60)
    return place


def test_opening_reads_the_root_alone_and_decodes_a_table_when_a_name_is_asked_for(large, monkeypatch):
    read = []
    plain = atlas.roots.read_layer
    monkeypatch.setattr(atlas.roots, "read_layer", lambda file, slots: read.append(1) or plain(file, slots))
    store = Atlas.open(large)
    assert (len(store), store.row_slots(), len(read)) == (3000, 3000, 0)
    assert (large / "atlas.json").stat().st_size < 16_000
    assert store.open_dataset("station 01234").get_attribute("lat") == 123.4
    assert len(read) == len(tables(large))
    # A commit reads none of them again, and writes none.
    before = tables(large)
    add(store, "one more", 1)
    store.flush()
    assert len(read) == len(before)
    assert tables(large) == before


def test_table_files_stay_few_without_being_rewritten_each_time(place, monkeypatch):
    monkeypatch.setattr(commitfiles, "INLINE_BYTES", 4096)
    written = []
    plain = commitfiles.write_table

    def count(writer, key, file_id, layer, head):
        written.append(len(layer))
        return plain(writer, key, file_id, layer, head)

    monkeypatch.setattr(commitfiles, "write_table", count)
    store = grow(place, 4000, 200)
    assert len(store._session.snapshot.root.catalog.tables) <= 6
    # 50 table files in all: 9 times what is there, where one table would have taken 25.
    assert sum(written) < 10 * 4000
    assert Atlas.open(place).list_datasets() == [f"station {i:05d}" for i in range(4000)]


def test_a_table_file_takes_in_those_that_are_not_much_larger(place, monkeypatch):
    """And what it says is deleted stays so in the older ones."""
    monkeypatch.setattr(commitfiles, "INLINE_BYTES", 0)
    store, sizes = Atlas.create(place), []
    for turn, count in enumerate((2000, 100, 100, 600)):
        store.create_datasets([f"{turn}: station {i}" for i in range(count)])
        if turn:
            store.delete_dataset(f"0: station {turn}")
        store.flush()
        sizes.append(len(Atlas.open(place)._session.snapshot.root.catalog.tables))
        names = Atlas.open(place).list_datasets()
        assert names[:2] == ["0: station 0", f"0: station {turn + 1}"]
    assert sizes == [1, 2, 2, 1]
    assert len(names) == 2797


@pytest.mark.parametrize(
    ("counts", "files"), [((100_000, 10_000, 10_000, 60_000), [1, 2, 2, 1]), ((100_000, 20_000, 6_000), [1, 2, 1])]
)
def test_a_data_file_takes_in_those_that_are_not_much_larger(place, monkeypatch, counts, files):
    """What it has taken in counts, too, when it is compared with the one before."""
    monkeypatch.setattr(datafiles, "MERGE_ALWAYS", 0)
    store, sizes, rng = Atlas.create(place), [], np.random.default_rng(0)
    for turn, count in enumerate(counts):
        store.create_dataset(f"d{turn}").define_array("t", "float64", ["x"], [count])
        store.open_dataset(f"d{turn}").write_array("t", [0], rng.normal(size=count))
        store.flush()
        sizes.append(len(store._session.snapshot.root.arrays["t"].files))
    assert sizes == files


def test_a_fleet_of_datasets_that_are_all_alike_is_believed(place, monkeypatch):
    """Nothing but their ordinals and names tells how many there are: these take bytes for each in a large fleet."""
    monkeypatch.setattr(columnfile, "FREE_ROWS", 64)
    monkeypatch.setattr(columnfile, "COMPRESS_BELOW", 256)
    monkeypatch.setattr(commitfiles, "INLINE_BYTES", 0)
    store, names = Atlas.create(place), [f"station {i:05d}" for i in range(3000)]
    store.create_datasets(names, {"t": {"dims": ["x"], "data": np.ones((3000, 4), "int32")}})
    store.flush()
    assert Atlas.open(place).read_array_across_stacked("t", names).tolist() == [[1] * 4] * 3000
    store.delete_datasets(names[1:2900])
    store.flush()
    store = Atlas.open(place)
    assert store.list_datasets() == [names[0], *names[2900:]]
    assert store.verify().ok
    store.compact()
    assert Atlas.open(place).read_array_across_stacked("t", store.list_datasets()).tolist() == [[1] * 4] * 101


def test_a_root_lists_no_more_deleted_datasets_than_readers_make_room_for(place, monkeypatch):
    """However short the list: what it says must not take memory that nothing accounts for."""
    assert columnfile.FREE_ROWS == commitfiles.INLINE_BYTES_FAR
    monkeypatch.setattr(layer, "FREE_ROWS", 4096)
    monkeypatch.setattr(commitfiles, "INLINE_BYTES", 4096)
    store, names = Atlas.create(place), [f"station {i:05d}" for i in range(9000)]
    store.create_datasets(names)
    store.flush()
    store.delete_datasets(names[:5000])
    store.flush()
    assert Atlas.open(place).list_datasets() == names[5000:]


def test_a_compaction_remembers_the_index_of_one_array_at_a_time(place, monkeypatch):
    store = Atlas.create(place)
    for name in ("a", "b"):
        view = store.create_dataset(name)
        for i in range(4):
            view.define_array(f"t{i}", "int32", ["x"], [4])
            view.write_array(f"t{i}", [0], np.arange(4, dtype="int32"))
        store.flush()
    store.delete_dataset("a")
    store.flush()
    known, plain = [], compaction._copy
    monkeypatch.setattr(
        compaction, "_copy", lambda snapshot, *args: known.append(len(snapshot._segments)) or plain(snapshot, *args)
    )
    store.compact()
    assert known == [1] * 4


def test_changes_over_table_files(large):
    store = Atlas.open(large)
    for i in range(0, 3000, 3):
        store.delete_dataset(f"station {i:05d}")
    store.open_dataset("station 00001").set_attribute("lat", -1.0)
    store.flush()
    add(store, "station 00000", 5)
    store.flush()
    expected = [f"station {i:05d}" for i in range(3000) if i % 3] + ["station 00000"]
    for _ in range(2):
        again = Atlas.open(large)
        assert again.list_datasets() == expected
        assert len(again) == len(expected)
        assert not again.dataset_exists("station 00003")
        assert again.open_dataset("station 00001").get_attribute("lat") == -1.0
        assert again.open_dataset("station 00000").get_attribute("lat") == 0.5
        rows = again.pruning_index(global_attrs=["lat"])
        assert [name for name in rows["datasets"] if name] == expected
        assert np.count_nonzero(rows["live"]) == len(expected)
        store.compact()
    assert store.row_slots() == len(expected)


def test_a_flush_of_many_arrays_has_few_files_open(place):
    code = f"""
import resource, numpy as np
from atlas import Atlas
resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))
arrays = {{f"a{{i:03d}}": {{"dims": ["x"], "data": np.full((1, 3), i)}} for i in range(600)}}
with Atlas.create({str(place)!r}) as store:
    store.create_datasets(["all"], arrays)
store.compact()
assert store.verify().ok
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    store = Atlas.open(place)
    assert store.open_dataset("all").read_array("a599").tolist() == [599] * 3
    assert len([path for path in place.iterdir() if path.is_dir()]) == 601


def test_a_sync_that_fails_among_many_fails_the_flush(place, monkeypatch):
    store = Atlas.create(place)
    store.create_datasets(["all"], {f"a{i}": {"dims": ["x"], "data": np.ones((1, 2))} for i in range(40)})
    plain, calls = os.fsync, []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) == 20:
            raise OSError(5, "it is broken")
        plain(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StorageError, match="it is broken"):
        store.flush()
    monkeypatch.undo()
    assert Atlas.open(place).list_datasets() == []
    store.flush()
    assert Atlas.open(place).list_datasets() == ["all"]
    assert Atlas.open(place).verify().ok
