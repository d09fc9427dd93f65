"""Costs that grow with what is touched, not with what is there: counted, not timed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import atlas.commit
from atlas import Atlas, commitfiles


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
    plain = atlas.commit.read_layer
    monkeypatch.setattr(atlas.commit, "read_layer", lambda file, slots: read.append(1) or plain(file, slots))
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
