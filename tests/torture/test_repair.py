"""Repair: every chunk that is intact comes back, what is lost is named, and nothing else is touched."""

from __future__ import annotations

import errno
import json
import mmap
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import numpy as np
import pytest

import atlas
from atlas import commitfiles, datafiles, repair
from atlas.damage import Damage
from atlas.record import read_record
from atlas.storage import LocalStorage, local
from atlas.storage.names import record_key
from torture import flips
from torture.corpus import original
from torture.forging import Forgery, sealed_record, with_head
from torture.scenes import build, cells, fill_dataset, in_child, state_of

ENCODINGS = [(fmt, compression) for fmt in ("json", "msgpack") for compression in ("none", "zstd", "lz4")]


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 16
    path.unlink()
    path.write_bytes(data)


def root_of(place: Path) -> Path:
    return next(place.glob("atlas.*"))


def change_attributes(place: Path) -> None:
    with atlas.Atlas.open(place) as store:
        store.open_dataset("d0").set_attribute("seed", 11)


def delete_only(place: Path) -> None:
    with atlas.Atlas.open(place) as store:
        store.delete_dataset("d2")


def compact(place: Path) -> None:
    atlas.Atlas.open(place).compact()


def compact_to_nothing(place: Path) -> None:
    store = atlas.Atlas.open(place)
    for name in store.list_datasets():
        store.delete_dataset(name)
    store.create_dataset("empty").set_attribute("k", 1)
    store.flush()
    store.compact()


@pytest.mark.parametrize("last", [change_attributes, delete_only, compact, compact_to_nothing])
@pytest.mark.parametrize("loss", ["deleted", "damaged"])
def test_the_root_of_every_kind_of_commit_comes_back(loss, last, tmp_path: Path):
    build(tmp_path / "s")
    last(tmp_path / "s")
    right, root = state_of(tmp_path / "s"), root_of(tmp_path / "s")
    root.unlink() if loss == "deleted" else flip(root, 40)
    report = atlas.Atlas.repair(tmp_path / "s")
    assert report.ok
    assert len(report.actions) == (1 if loss == "deleted" else 2)
    assert state_of(tmp_path / "s") == right
    assert atlas.Atlas.open(tmp_path / "s").verify().ok
    kept = [path.name for path in tmp_path.glob("s/_damaged/*/*")]
    assert kept == ([] if loss == "deleted" else ["atlas.json"])


@pytest.mark.parametrize(("fmt", "compression"), ENCODINGS)
def test_the_root_comes_back_in_its_encoding(fmt, compression, tmp_path: Path):
    place = flips.small_store(tmp_path / "s", meta_format=fmt, meta_compression=compression)
    right, name = state_of(place), root_of(place).name
    root_of(place).unlink()
    assert atlas.Atlas.repair(place).ok
    assert root_of(place).name == name
    assert state_of(place) == right


def test_a_store_without_damage_is_not_changed(tmp_path: Path):
    build(tmp_path / "s")
    before = {key: (tmp_path / "s" / key).read_bytes() for key in flips.objects(tmp_path / "s")}
    report = atlas.Atlas.repair(tmp_path / "s")
    assert report.ok
    assert (report.actions, report.kept) == ([], "")
    assert before == {key: (tmp_path / "s" / key).read_bytes() for key in flips.objects(tmp_path / "s")}


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(tmp_path: Path):
    build(tmp_path / "s")
    (tmp_path / "s/atlas.json").unlink()
    os.truncate(next((tmp_path / "s/n").iterdir()), 60)
    before = sorted(tmp_path.rglob("*"))
    said = atlas.Atlas.repair(tmp_path / "s", dry_run=True)
    assert sorted(tmp_path.rglob("*")) == before
    done = atlas.Atlas.repair(tmp_path / "s")
    assert (said.actions, said.lost) == (done.actions, done.lost)
    assert done.lost


@pytest.mark.parametrize("where", ["head", "column", "directory", "tail"])
def test_an_index_comes_back(where, tmp_path: Path):
    build(tmp_path / "s")
    right = state_of(tmp_path / "s")
    file = atlas.Atlas.open(tmp_path / "s")._session.snapshot.root.arrays["t"].files[0]
    place = {"head": 12, "column": file.index_offset + 9, "directory": -50, "tail": -1}[where]
    flip(tmp_path / "s" / file.key, place)
    report = atlas.Atlas.repair(tmp_path / "s")
    assert report.ok
    assert state_of(tmp_path / "s") == right
    assert atlas.Atlas.open(tmp_path / "s").verify().ok
    assert (tmp_path / "s" / report.kept / file.key).exists()


@pytest.mark.parametrize("length", [0, 24, 100, 200, 333, 500])
def test_what_is_before_a_cut_comes_back_and_the_rest_is_named(length, tmp_path: Path):
    build(tmp_path / "s")
    right = flips.chunks(tmp_path / "s")
    store = atlas.Atlas.open(tmp_path / "s")
    index, key = store._session.snapshot.index("t"), store._session.snapshot.root.arrays["t"].files[0].key
    ordinals = np.repeat(index.entries, np.diff(index.starts))
    ends = (index.columns["offset"] + index.columns["length"]).tolist()
    # The fourth dataset was deleted.
    rows = zip(
        [f"d{n}" for n in ordinals], index.columns["number"].tolist(), ends, index.columns["file"].tolist(), strict=True
    )
    gone = {("t", name, number) for name, number, end, file in rows if file == 0 and end > length and name != "d3"}
    os.truncate(tmp_path / "s" / key, length)
    report = atlas.Atlas.repair(tmp_path / "s")
    assert {(p.array, p.dataset, p.chunk) for p in report.lost} == gone
    assert flips.readable(tmp_path / "s", right) == set(right) - gone
    found = atlas.Atlas.open(tmp_path / "s").verify()
    assert {(p.array, p.dataset, p.chunk) for p in found.problems} == gone
    assert all("is lost" in p.message for p in found.problems)
    assert atlas.Atlas.repair(tmp_path / "s").actions == []


def test_a_missing_file_costs_its_own_chunks_only_and_they_are_named(tmp_path: Path, monkeypatch):
    # Two files, which the second flush would otherwise make one of.
    monkeypatch.setattr(datafiles, "MERGE_ALWAYS", 0)
    monkeypatch.setattr(datafiles, "MERGE_RATIO", 0)
    build(tmp_path / "s")
    right = flips.chunks(tmp_path / "s")
    files = atlas.Atlas.open(tmp_path / "s")._session.snapshot.root.arrays["t"].files
    (tmp_path / "s" / files[1].key).unlink()
    report = atlas.Atlas.repair(tmp_path / "s")
    assert {(p.array, p.dataset, p.chunk) for p in report.lost} == {("t", "d1", 0)}
    assert flips.readable(tmp_path / "s", right) == set(right) - {("t", "d1", 0)}


def test_lost_chunks_are_errors_until_they_are_written_anew(tmp_path: Path):
    build(tmp_path / "s")
    files = atlas.Atlas.open(tmp_path / "s")._session.snapshot.root.arrays["t"].files
    os.truncate(tmp_path / "s" / files[0].key, 60)
    assert not atlas.Atlas.repair(tmp_path / "s").ok
    store = atlas.Atlas.open(tmp_path / "s")
    with pytest.raises(atlas.CorruptChunk, match=r"dataset 'd2'.*chunk 1 .*is lost"):
        store.open_dataset("d2").read_array("t", [0, 4], [3, 4])
    store.compact()
    with pytest.raises(atlas.CorruptChunk, match="is lost"):
        store.open_dataset("d2").read_array("t")
    store.open_dataset("d2").write_array("t", [0, 0], cells(8))
    store.flush()
    assert np.array_equal(store.open_dataset("d2").read_array("t"), cells(8))
    left = {p.dataset for p in store.verify().problems}
    assert left == {"d0", "d1"}


def test_one_chunk_of_several_lost_ones_can_be_written_anew(tmp_path: Path):
    build(tmp_path / "s")
    files = atlas.Atlas.open(tmp_path / "s")._session.snapshot.root.arrays["t"].files
    os.truncate(tmp_path / "s" / files[0].key, 24)
    atlas.Atlas.repair(tmp_path / "s")
    store = atlas.Atlas.open(tmp_path / "s")
    store.open_dataset("d2").write_array("t", [0, 0], cells(8, (3, 4)))
    store.flush()
    assert np.array_equal(store.open_dataset("d2").read_array("t", [0, 0], [3, 4]), cells(8, (3, 4)))
    # What the lost chunks held is bounded by what was known of them.
    stats = store.open_dataset("d2").array_stats("t")
    assert (stats["row_count"], stats["min"], stats["max"]) == (48, min(cells(3).min(), 8), cells(3).max())


def test_a_damaged_chunk_of_no_dataset_is_no_loss(tmp_path: Path):
    """A file, forged, has more datasets than the table."""
    original(tmp_path / "s")
    forgery = Forgery(tmp_path / "s")
    forgery.column("ordinal", [0, 1, 1 << 20], "<u4")
    flip(tmp_path / "s" / forgery.file()["file"], int(forgery.numbers("offset")[-1]))
    report = atlas.Atlas.repair(tmp_path / "s")
    assert (report.lost, report.actions) == ([], [])


def test_lost_arrays_are_dropped_on_request(tmp_path: Path):
    build(tmp_path / "s")
    next((tmp_path / "s/n").iterdir()).unlink()
    report = atlas.Atlas.repair(tmp_path / "s", drop_lost=True)
    assert report.ok
    assert report.dropped == [("d0", "n"), ("d1", "n"), ("d2", "n")]
    store = atlas.Atlas.open(tmp_path / "s")
    assert store.verify().ok
    assert store.list_arrays() == ["label", "t"]


def test_an_index_and_its_copy_lost_leave_the_other_arrays_alone(tmp_path: Path):
    place = flips.small_store(tmp_path / "s")
    right = flips.chunks(place)
    flip(next((place / "n").iterdir()), -40)
    flip(next((place / "_catalog").iterdir()), -40)
    report = atlas.Atlas.repair(place)
    assert [(p.array, p.dataset) for p in report.lost] == [("n", "")]
    assert "no copy of its index" in report.lost[0].message
    assert flips.readable(place, right) == {key for key in right if key[0] != "n"}
    # The other arrays' indexes have a copy again.
    flip(next((place / "t").iterdir()), -40)
    assert [p.array for p in atlas.Atlas.repair(place).lost] == ["n"]
    assert atlas.Atlas.repair(place, drop_lost=True).ok
    assert atlas.Atlas.open(place).verify().ok


def test_a_damaged_record_is_found_and_written_anew(tmp_path: Path):
    build(tmp_path / "s")
    for record in sorted((tmp_path / "s/_catalog").iterdir()):
        flip(record, 100)
    assert len(atlas.Atlas.open(tmp_path / "s").verify().problems) == 2
    report = atlas.Atlas.repair(tmp_path / "s")
    assert report.ok
    assert atlas.Atlas.open(tmp_path / "s").verify().ok
    flip(next((tmp_path / "s/label").iterdir()), -20)
    assert atlas.Atlas.repair(tmp_path / "s").ok


@pytest.mark.parametrize("loss", ["flipped", "gone", "cut", "tail"])
def test_the_dataset_table_comes_back(loss, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(commitfiles, "INLINE_BYTES", 0)
    build(tmp_path / "s")
    right = state_of(tmp_path / "s")
    for table in (tmp_path / "s/_catalog").glob("*.at"):
        data = table.read_bytes()
        table.unlink()
        if loss != "gone":
            table.write_bytes({"flipped": data[:40] + b"?" + data[41:], "cut": data[:90], "tail": data + b"x"}[loss])
    if loss != "tail":
        with pytest.raises((atlas.CorruptStore, atlas.SnapshotExpired)):
            state_of(tmp_path / "s")
    assert not atlas.Atlas.open(tmp_path / "s").verify().ok
    assert atlas.Atlas.repair(tmp_path / "s").ok
    assert state_of(tmp_path / "s") == right
    assert atlas.Atlas.open(tmp_path / "s").verify().ok


def test_an_older_root_in_its_place_gives_way_to_the_newest_state(tmp_path: Path):
    build(tmp_path / "s")
    old = (tmp_path / "s/atlas.json").read_bytes()
    change_attributes(tmp_path / "s")
    right = state_of(tmp_path / "s")
    (tmp_path / "s/atlas.json").write_bytes(old)
    assert "newer" in str(atlas.Atlas.open(tmp_path / "s").verify().problems[0])
    assert atlas.Atlas.repair(tmp_path / "s").ok
    assert state_of(tmp_path / "s") == right


def test_a_record_of_another_store_is_not_mistaken_for_one_of_this(tmp_path: Path):
    build(tmp_path / "s")
    for _ in range(3):
        change_attributes(tmp_path / "s")
    other = flips.small_store(tmp_path / "o")
    right = state_of(other)
    for record in (tmp_path / "s/_catalog").iterdir():
        shutil.copy(record, other / "_catalog")
    assert atlas.Atlas.repair(other).ok
    assert state_of(other) == right
    root_of(other).unlink()
    assert atlas.Atlas.repair(other).ok
    assert state_of(other) == right


def test_what_was_overwritten_does_not_come_back(tmp_path: Path):
    build(tmp_path / "s")
    atlas.Atlas.create(tmp_path / "s", overwrite=True)
    root_of(tmp_path / "s").unlink()
    with pytest.raises(atlas.CorruptRoot, match="no record"):
        atlas.Atlas.repair(tmp_path / "s")


def test_nothing_to_repair_from(tmp_path: Path):
    with pytest.raises(atlas.StoreNotFound):
        atlas.Atlas.repair(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    place = flips.small_store(tmp_path / "s")
    flip(root_of(place), 40)
    flip(next((place / "_catalog").iterdir()), 40)
    before = sorted(place.rglob("*"))
    with pytest.raises(atlas.CorruptRoot, match="no record"):
        atlas.Atlas.repair(place)
    assert sorted(place.rglob("*")) == before


def test_stores_that_are_not_local_are_repaired_as_far_as_that_goes(tmp_path: Path):
    """They keep records in their files only: what is intact can be read again, and what is lost is named."""
    files = fsspec.filesystem("memory")
    url = f"memory://{tmp_path.name}/s"
    try:
        with atlas.Atlas.create(url) as store:
            fill_dataset(store, "a", 1)
        with store:
            fill_dataset(store, "b", 2)
        first = min(files.ls(f"/{tmp_path.name}/s/t", detail=True), key=lambda info: info["created"])["name"]
        data = files.cat_file(first)
        files.pipe_file(first, data[:30] + bytes([data[30] ^ 1]) + data[31:])
        report = atlas.Atlas.repair(url)
        assert [(problem.dataset, problem.array) for problem in report.lost] == [("a", "t")]
        store = atlas.Atlas.open(url)
        assert np.array_equal(store.open_dataset("b").read_array("t"), cells(2))
        atlas.Atlas.repair(url, drop_lost=True)
        assert atlas.Atlas.open(url).verify().ok
        root = f"/{tmp_path.name}/s/atlas.json"
        files.pipe_file(root, files.cat_file(root)[:-9])
        # The last commit wrote no file: what it dropped is there again, and lost again.
        assert [(problem.dataset, problem.array) for problem in atlas.Atlas.repair(url).lost] == [("a", "t")]
        store = atlas.Atlas.open(url)
        assert np.array_equal(store.open_dataset("b").read_array("t"), cells(2))
    finally:
        files.rm("/", recursive=True)


def test_the_command(tmp_path: Path, terminal):
    place = flips.small_store(tmp_path / "s")
    root_of(place).unlink()
    os.truncate(next((place / "n").iterdir()), 30)
    assert "chunk 0 of array 'n'" in terminal("repair", place, "--dry-run", status=1)
    assert not list(place.glob("atlas.*"))
    done = terminal("repair", place, "--drop-lost")
    assert "deleted from dataset 'a'" in done
    assert "_damaged/" in done
    assert json.loads(terminal("repair", place, "--json")) == {"actions": [], "lost": [], "dropped": [], "kept": ""}


@pytest.mark.parametrize(
    ("head", "behind", "said"),
    [
        (b"", b"", ""),
        (b"\xc1", b"", ""),
        ({"object": "atlas.json", "root": b""}, b"", ""),
        ({"object": "atlas.json", "root": b"", "indexes": [["a"]]}, b"", ""),
        ({"object": "elsewhere.json", "root": b"", "indexes": []}, b"", "head is malformed"),
        ({"object": ["atlas.json"], "root": b"", "indexes": []}, b"", ""),
        ({"object": "atlas.json", "root": "", "indexes": []}, b"", "head is malformed"),
        ({"object": "atlas.json", "root": b"", "indexes": [["a", True]]}, b"1", "head is malformed"),
        ({"object": "atlas.json", "root": b"", "indexes": [[1, 4]]}, b"1234", "head is malformed"),
        ({"object": "atlas.json", "root": b"", "indexes": [["a", 5], ["b", -1]]}, b"1234", "head is malformed"),
        ({"object": "atlas.json", "root": b"", "indexes": [["a", 3]]}, b"1234", "do not add up"),
        ({"object": "atlas.json", "root": b"", "indexes": [["a", 5]]}, b"1234", "do not add up"),
    ],
)
def test_a_forged_record_is_refused(head, behind: bytes, said: str, tmp_path: Path):
    """Its hash is right, what it says makes no sense."""
    key = record_key("0" * 32)
    (tmp_path / key).parent.mkdir()
    (tmp_path / key).write_bytes(sealed_record(with_head(head, behind)))
    with pytest.raises(atlas.CorruptIndex, match=f"{key} is damaged: .*{said}"):
        read_record(LocalStorage(str(tmp_path)), key)


@pytest.mark.parametrize("table_bytes", [0, 1 << 16])
def test_of_a_commit_that_was_cut_off_the_one_before_is_brought_back(table_bytes: int, tmp_path: Path, monkeypatch):
    """The root is lost, a writer has died, and of the newest recorded commit not every file is whole."""
    monkeypatch.setattr(datafiles, "MERGE_BELOW", 0)
    monkeypatch.setattr(commitfiles, "INLINE_BYTES", table_bytes)
    monkeypatch.setattr(commitfiles, "TABLE_RATIO", 0)
    place, states = tmp_path / "s", []
    for seed, name in enumerate("ab"):
        store = atlas.Atlas.open(place, workers=1) if seed else atlas.Atlas.create(place, workers=1)
        with store:
            fill_dataset(store, name, seed + 1)
        states.append(state_of(place))
    newest = store._session.snapshot.root.arrays["t"].files[-1].key
    root_of(place).unlink()
    (place / ".atlas.lock").write_bytes(b"w")
    whole = (place / newest).read_bytes()
    (place / newest).write_bytes(whole[:-1])
    copy = tmp_path / "copy"
    shutil.copytree(place, copy)
    atlas.Atlas.repair(place)
    assert state_of(place) == states[0]
    (copy / newest).write_bytes(whole)
    atlas.Atlas.repair(copy)
    assert state_of(copy) == states[1]


@pytest.mark.parametrize("moment", ["write_record", "keep", "publish"])
@pytest.mark.parametrize("loss", ["table", "data"])
def test_a_repair_that_was_cut_off_is_begun_again_from_the_same_commit(loss, moment, tmp_path: Path, monkeypatch):
    """Its mark is not that of a writer: a commit of which a file is damaged is not taken for one that was cut off."""
    monkeypatch.setattr(commitfiles, "INLINE_BYTES", 0)
    monkeypatch.setattr(datafiles, "MERGE_BELOW", 0)
    place = tmp_path / "s"
    build(place)
    right, root = state_of(place), atlas.Atlas.open(place)._session.snapshot.root
    file = root.catalog.tables[-1] if loss == "table" else root.arrays["t"].files[-1]
    assert file.commit == root.commit
    flip(place / file.key, -20)
    root_of(place).unlink()

    def cut_off() -> None:
        owner = repair if moment == "publish" else commitfiles.CommitFiles
        monkeypatch.setattr(owner, moment, lambda *args: os._exit(9))
        atlas.Atlas.repair(place)

    assert in_child(cut_off) == "killed"
    assert atlas.Atlas.repair(place).ok
    assert state_of(place) == right
    assert atlas.Atlas.open(place).verify().ok


def test_what_a_repair_that_was_cut_off_had_replaced_is_kept_by_the_next(tmp_path: Path, monkeypatch):
    """Also where a power cut took its mark, so that its record is taken for that of a newer commit."""
    place = tmp_path / "s"
    build(place)
    right, key = state_of(place), atlas.Atlas.open(place)._session.snapshot.root.arrays["t"].files[-1].key
    flip(place / key, -20)
    damaged = (place / key).read_bytes()

    def cut_off() -> None:
        monkeypatch.setattr(repair, "publish", lambda *args: os._exit(9))
        atlas.Atlas.repair(place)

    assert in_child(cut_off) == "killed"
    (place / ".atlas.lock").write_bytes(b"")
    shutil.rmtree(place / "_damaged")
    assert atlas.Atlas.repair(place).ok
    assert state_of(place) == right
    assert [path.read_bytes() for path in (place / "_damaged").glob("*/t/*")] == [damaged]


@pytest.mark.parametrize(
    ("is_root_lost", "said"), [(False, "what the datasets are cannot be brought back"), (True, "there is no record")]
)
def test_without_its_table_a_store_cannot_be_brought_back(is_root_lost, said, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(commitfiles, "INLINE_BYTES", 0)
    place = tmp_path / "s"
    build(place)
    for path in (place / "_catalog").iterdir():
        flip(path, -20)
    if is_root_lost:
        root_of(place).unlink()
    with pytest.raises(atlas.CorruptRoot, match=said):
        atlas.Atlas.repair(place)


def test_a_copy_of_another_index_brings_nothing_back(tmp_path: Path):
    """The record is whole, but what it has is not the index that the root vouches for."""
    place = flips.small_store(tmp_path / "s")
    (record,) = (place / "_catalog").glob("*.ar")
    data = record.read_bytes()
    size = 24 + int.from_bytes(data[16:24], "little")
    record.write_bytes(sealed_record(data[16:size] + bytes(len(data) - size)))
    flip(next((place / "t").iterdir()), -20)
    (lost,) = atlas.Atlas.repair(place).lost
    assert (lost.array, lost.chunk) == ("t", -1)
    assert "there is no copy of its index" in lost.message


@pytest.mark.parametrize(
    "put", [Path.mkdir, lambda path: path.symlink_to("/dev/null"), os.mkfifo], ids=["directory", "link", "pipe"]
)
def test_what_is_no_file_is_lost_and_nothing_else(put, tmp_path: Path, monkeypatch):
    """In the places of a data file, of a table file, and of the record of a third commit."""
    monkeypatch.setattr(commitfiles, "INLINE_BYTES", 0)
    monkeypatch.setattr(commitfiles, "TABLE_RATIO", 0)
    monkeypatch.setattr(datafiles, "MERGE_BELOW", 0)
    place = tmp_path / "s"
    build(place)
    change_attributes(place)
    right, root = state_of(place), atlas.Atlas.open(place)._session.snapshot.root
    for key in (root.arrays["label"].files[0].key, root.catalog.tables[-1].key, record_key(root.parent)):
        (place / key).unlink()
        put(place / key)
    assert {problem.array for problem in atlas.Atlas.repair(place).lost} == {"label"}
    store = atlas.Atlas.open(place)
    assert {(problem.array, problem.chunk) for problem in store.verify().problems} == {("label", 0)}
    fill_dataset(store, "more", 3)
    store.flush()
    store.compact()
    atlas.Atlas.repair(place, drop_lost=True)
    left = [(name, [array for array in arrays if array[0] != "label"], rest) for name, arrays, rest in right]
    assert state_of(place)[:-1] == left


def test_who_would_repair_keeps_others_from_writing_meanwhile(tmp_path: Path, monkeypatch):
    """What they are at work on looks damaged."""
    build(tmp_path / "s")
    storage = LocalStorage(str(tmp_path / "s"))

    def write() -> None:
        with storage.writer_lock(timeout=0):
            pass

    def look(*call):
        with ThreadPoolExecutor(1) as other, pytest.raises(atlas.ConflictError):
            other.submit(write).result()
        return Damage(*call)

    monkeypatch.setattr(repair, "Damage", look)
    assert atlas.Atlas.repair(tmp_path / "s", dry_run=True).actions == []
    write()
    monkeypatch.setattr(repair, "Damage", Damage)
    monkeypatch.setattr(LocalStorage, "writer_lock", refuse)
    assert atlas.Atlas.repair(tmp_path / "s", dry_run=True).actions == []


def refuse(*call, **options):
    raise atlas.ReadOnlyStore("the disk is read-only")


class BadSector:
    """A file of which some bytes cannot be read."""

    def __init__(self, file: BinaryIO, first: int, last: int) -> None:
        self._file, self._first, self._last = file, first, last

    def __enter__(self) -> BadSector:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def read(self, size: int) -> bytes:
        begin = self._file.tell()
        if begin < self._last and begin + size > self._first:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return self._file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@pytest.fixture
def worn(tmp_path: Path, monkeypatch) -> Callable[[str, int, int], None]:
    """Makes bytes of a data file unreadable, wherever that is, and ends the process that maps it."""

    def wear(key: str, first: int, last: int) -> None:
        real_open, real_map = local.open_file, mmap.mmap
        status = os.stat(tmp_path / "s" / key)

        def open_file(path: str) -> Any:
            file = real_open(path)
            is_worn = os.path.samestat(os.fstat(file.fileno()), status)
            return BadSector(file, first, last) if is_worn else file

        def map_file(descriptor: int, *args: Any, **kwargs: Any) -> mmap.mmap:
            assert not os.path.samestat(os.fstat(descriptor), status), "SIGBUS"
            return real_map(descriptor, *args, **kwargs)

        monkeypatch.setattr(local, "open_file", open_file)
        monkeypatch.setattr(mmap, "mmap", map_file)

    return wear


@pytest.mark.parametrize("part", ["head", "payload", "index"])
def test_a_bad_sector_costs_what_is_on_it_and_stops_nobody(part, tmp_path: Path, worn):
    place = tmp_path / "s"
    build(place)
    (file,) = atlas.Atlas.open(place)._session.snapshot.root.arrays["t"].files
    columns = atlas.Atlas.open(place)._session.snapshot.segments("t")[0].chunk_columns()
    row = len(columns["offset"]) // 2
    first, length = {
        "head": (8, 1),
        "payload": (int(columns["offset"][row]), int(columns["length"][row])),
        "index": (file.index_offset, 1),
    }[part]
    worn(file.key, first, first + length)

    report = atlas.Atlas.open(place).verify()
    assert not report.ok
    assert all(problem.array == "t" and "cannot be read" in problem.message for problem in report.problems)
    with atlas.Atlas.open(place) as store:
        fill_dataset(store, "more", 9)
    assert file in atlas.Atlas.open(place)._session.snapshot.root.arrays["t"].files, "it is taken into no other"
    if part != "head":
        with pytest.raises(atlas.CorruptStore, match="cannot be read"):
            atlas.Atlas.open(place).compact()

    lost = [(problem.dataset, problem.chunk) for problem in atlas.Atlas.repair(place).lost]
    if part == "payload":
        assert lost == [(problem.dataset, problem.chunk) for problem in report.problems]
        assert len(lost) == 1
    else:
        assert lost == []
    assert atlas.Atlas.repair(place).actions == []
    store = atlas.Atlas.open(place)
    store.compact()
    assert [(problem.dataset, problem.chunk) for problem in store.verify().problems] == lost
    assert "more" in store.list_datasets()


def test_what_can_be_read_the_second_time_is_not_lost(tmp_path: Path, monkeypatch):
    build(tmp_path / "s")
    real, failed = local.open_file, set[str]()

    def open_file(path: str) -> BinaryIO:
        if path.endswith((".af", ".ar")) and path not in failed:
            failed.add(path)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path)

    monkeypatch.setattr(local, "open_file", open_file)
    assert atlas.Atlas.repair(tmp_path / "s").actions == []
    failed.clear()
    assert atlas.Atlas.open(tmp_path / "s").verify().ok
    assert failed


def test_a_file_in_the_place_of_a_directory_is_lost_and_nothing_else(tmp_path: Path):
    place = tmp_path / "s"
    build(place)
    shutil.rmtree(place / "t")
    (place / "t").write_bytes(b"no directory")
    report = atlas.Atlas.repair(place, dry_run=True)
    assert {problem.array for problem in report.lost} == {"t"}
    assert {problem.array for problem in atlas.Atlas.open(place).verify().problems} == {"t"}
