"""Roots on object stores carry copies of small indexes: a read waits for one request less, and for no false copy."""

from __future__ import annotations

import base64
import json
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
from conftest import add_fields, field
from objectstore.place import BUCKET, kinds
from torture.forging import seal

import atlas
from atlas import commitfiles
from atlas.root import Root, encode_root


def write(store: atlas.Atlas, name: str, number: int, arrays: tuple[str, ...] = ("t", "u")) -> None:
    add_fields(store, name, number, *arrays)
    store.flush()


def expect(store: atlas.Atlas, numbers: dict[str, int], array: str = "t") -> None:
    stacked = store.read_array_across_stacked(array, list(numbers))
    np.testing.assert_array_equal(stacked, [field(number) for number in numbers.values()])


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A store in memory: to Atlas an object store, with conditional puts."""
    return f"memory://{tmp_path.name}/s"


MEMORY = fsspec.filesystem("memory")


def root_of(url: str) -> dict:
    return json.loads(MEMORY.cat_file(f"{url}/atlas.json"))


def expect_true_copies(url: str, arrays: set[str]) -> None:
    """Those of all files of some arrays, byte by byte, and no others."""
    root = root_of(url)
    files = {file["file"]: file for entry in root["arrays"].values() for file in entry["files"]}
    copies = {key: base64.b64decode(text) for key, text in root.get("indexes", {}).items()}
    assert {key for key in files if key.partition("/")[0] in arrays} == set(copies)
    for key, copy in copies.items():
        first, length = files[key]["index"]
        assert copy == MEMORY.cat_file(f"{url}/{key}", first, first + length)


@pytest.mark.parametrize("client", ["s3fs", "obstore"])
@pytest.mark.parametrize("meta_format", ["json", "msgpack"])
def test_the_first_read_waits_for_the_root_alone(s3, monkeypatch, client, meta_format):
    monkeypatch.setattr(s3.proxy, "partial", True)  # obstore takes no other answers for parts
    with s3.create(meta_format=meta_format) as store:
        write(store, "a", 0)
        write(store, "b", 1)
    options = s3.arguments | {"storage_options": s3.options | {"client": client}}
    with s3.recording() as made:
        store = atlas.Atlas.open(s3.url, mode="r", **options)
    assert kinds(made) == {"GET": 1 if meta_format == "json" else 2}
    with s3.recording() as made:
        assert store.column_summaries()["t"]["max"] == field(1).max()
        assert list(store.select(atlas.col("u").min() > 0)) == ["b"]
    assert made == []
    with s3.recording() as made:
        expect(store, {"a": 0, "b": 1})
    assert kinds(made) == {"GET": 2}  # of each of the two files the chunks, at once
    assert store.verify().ok


@pytest.mark.parametrize("meta_format", ["json", "msgpack"])
def test_a_handle_that_travels_leaves_the_copies_behind(moto, meta_format):
    with moto.create(meta_format=meta_format) as store:
        write(store, "a", 0)
    handle = moto.open(mode="r")
    assert handle._session.snapshot.root.copies
    travelled = pickle.loads(pickle.dumps(handle))
    assert not travelled._session.snapshot.root.copies
    expect(travelled, {"a": 0})


def test_copies_follow_what_becomes_of_the_files(url):
    known: dict[str, int] = {}
    with atlas.Atlas.create(url) as store:
        for number in range(9):  # the ninth flush takes the files of the others into its own
            write(store, f"d{number}", number)
            known[f"d{number}"] = number
            expect_true_copies(url, {"t", "u"})
        assert len(root_of(url)["arrays"]["t"]["files"]) < 9
        store.open_dataset("d3").set_attribute("k", 1)
        store.flush()
        expect_true_copies(url, {"t", "u"})
        store.rename_dataset("d4", "e4")
        store.delete_dataset("d5")
        store.flush()
        known = {("e4" if name == "d4" else name): number for name, number in known.items() if name != "d5"}
        reader = atlas.Atlas.open(url, mode="r")
        store.compact()
        expect_true_copies(url, {"t", "u"})
        expect(reader, known)
        reader.refresh()
        expect(reader, known)
        store.gc(grace=0, unfinished=0)
        expect_true_copies(url, {"t", "u"})
        expect(atlas.Atlas.open(url, mode="r"), known, "u")
        assert store.verify().ok
    with atlas.Atlas.create(url, overwrite=True) as store:
        write(store, "a", 5)
    expect_true_copies(url, {"t", "u"})
    expect(atlas.Atlas.open(url), {"a": 5})


def test_the_smaller_indexes_fit_and_what_is_too_much_drops_out(url, monkeypatch):
    def size(array: str) -> int:
        return sum(file["index"][1] for file in root_of(url)["arrays"][array]["files"])

    with atlas.Atlas.create(url) as store:
        write(store, "a", 0)
        # Many chunks, many checksums: an index that is larger than the others.
        large = np.random.default_rng(0).normal(size=500)
        store.create_dataset("large").define_array("large", "float64", ["x"], [500], [1])
        store.open_dataset("large").write_array("large", [0], large)
        store.flush()
        expect_true_copies(url, {"t", "u", "large"})
        assert size("large") > size("t") + size("u")
        monkeypatch.setattr(commitfiles, "COPIED_BYTES", size("large") + size("t"))
        write(store, "b", 1, ("t",))
        # Two files of one array are there, and both copies, or none.
        expect_true_copies(url, {"t", "u"})
        monkeypatch.setattr(commitfiles, "COPIED_BYTES", size("t") // 2)
        write(store, "c", 2, ("u",))
        expect_true_copies(url, set())
        monkeypatch.undo()
        # What had none gets them when its files are written anew.
        write(store, "d", 3, ("t",))
        expect_true_copies(url, set())
        store.compact()
        expect_true_copies(url, {"t", "u", "large"})
    reader = atlas.Atlas.open(url)
    expect(reader, {"a": 0, "b": 1, "d": 3})
    np.testing.assert_array_equal(reader.open_dataset("large").read_array("large"), large)


def test_a_copy_on_a_disk_reads_them_and_writes_none(url, tmp_path):
    with atlas.Atlas.create(url) as store:
        write(store, "a", 0)
    local = tmp_path / "s"
    MEMORY.get(url, str(local), recursive=True)
    assert "indexes" in json.loads((local / "atlas.json").read_bytes())
    store = atlas.Atlas.open(local)
    expect(store, {"a": 0})
    assert store.verify().ok
    write(store, "b", 1)
    assert "indexes" not in json.loads((local / "atlas.json").read_bytes())
    expect(atlas.Atlas.open(local), {"a": 0, "b": 1})
    # And back: what has no copy is fetched.
    url = f"{url}-again"
    MEMORY.put(str(local), url, recursive=True)
    with atlas.Atlas.open(url) as store:
        expect(store, {"a": 0, "b": 1})
        write(store, "c", 2)
        assert "indexes" not in root_of(url)
        store.compact()
    expect_true_copies(url, {"t", "u"})
    expect(atlas.Atlas.open(url), {"a": 0, "b": 1, "c": 2})


def test_a_store_on_a_disk_has_none(tmp_path):
    with atlas.Atlas.create(tmp_path / "s") as store:
        write(store, "a", 0)
        store.compact()
    assert b'"indexes"' not in (tmp_path / "s" / "atlas.json").read_bytes()


# --- false copies


@contextmanager
def forged(url: str) -> Iterator[dict]:
    """The root's document, to be changed; it is sealed afterwards."""
    document = root_of(url)
    yield document
    MEMORY.pipe_file(f"{url}/atlas.json", seal(json.dumps(document).encode()))


def flipped(copy: bytes, at: int) -> bytes:
    at %= len(copy)
    return copy[:at] + bytes([copy[at] ^ 1]) + copy[at + 1 :]


FALSE: dict[str, Callable[[bytes, bytes], bytes]] = {
    "zeros": lambda copy, other: bytes(len(copy)),
    "of another file": lambda copy, other: other[: len(copy)].rjust(len(copy), b"\0"),
    "one bit of the first column": lambda copy, other: flipped(copy, 0),
    "one bit of the directory": lambda copy, other: flipped(copy, -20),
    "a length without end": lambda copy, other: copy[:-8] + b"\xff" * 8,
}


@pytest.mark.parametrize("how", FALSE)
def test_a_false_copy_is_passed_over_reported_and_left_out(url, how):
    with atlas.Atlas.create(url) as store:
        write(store, "a", 0)
        write(store, "b", 1)
    with forged(url) as document:
        first, second = (base64.b64decode(text) for text in list(document["indexes"].values())[:2])
        key = next(iter(document["indexes"]))
        document["indexes"][key] = base64.b64encode(FALSE[how](first, second)).decode()
    store = atlas.Atlas.open(url, mode="r")
    expect(store, {"a": 0, "b": 1})
    assert store.open_dataset("a").array_stats("t")["max"] == field(0).max()
    report = store.verify()
    assert [problem.array for problem in report.problems] == [key.partition("/")[0]]
    assert "copy in the root" in str(report.problems[0])
    assert report.chunks == 2 * 2 * 9  # its own index is whole, and so is all that it lists
    report = atlas.Atlas.repair(url)
    assert len(report.actions) == 1
    assert key not in root_of(url)["indexes"]
    store = atlas.Atlas.open(url)
    assert store.verify().ok
    expect(store, {"a": 0, "b": 1})
    assert atlas.Atlas.repair(url).actions == []


REFUSED: dict[str, Callable[[str, str], object]] = {
    "no map": lambda key, text: [[key, text]],
    "a number": lambda key, text: {key: 5},
    "no base64": lambda key, text: {key: "ü" * len(text)},
    "too long": lambda key, text: {key: base64.b64encode(base64.b64decode(text) + b"x").decode()},
    "three megabytes": lambda key, text: {key: "AAAA" * 1_000_000},
    "of no file": lambda key, text: {f"{key}x": text},
}


@pytest.mark.parametrize("how", REFUSED)
def test_what_cannot_be_a_copy_is_refused(url, how):
    with atlas.Atlas.create(url) as store:
        write(store, "a", 0)
    with forged(url) as document:
        document["indexes"] = REFUSED[how](*next(iter(document["indexes"].items())))
    with pytest.raises(atlas.CorruptRoot, match="root object"):
        atlas.Atlas.open(url)


def test_a_damaged_index_is_brought_back_from_its_copy(s3):
    with s3.create() as store:
        write(store, "a", 0)
    file = s3.open()._session.snapshot.root.arrays["t"].files[0]
    path, disk = f"{BUCKET}/{s3.prefix}/{file.key}", s3.filesystem()
    data = bytearray(disk.cat_file(path))
    data[file.index_offset + 3] ^= 1
    disk.pipe_file(path, bytes(data))
    expect(s3.open(), {"a": 0})
    (problem,) = s3.open().verify().problems
    assert "does not match its hash" in str(problem)
    report = atlas.Atlas.repair(s3.url, **s3.arguments)
    assert report.ok
    assert f"write {file.key} anew" in report.actions[0]
    store = s3.open()
    assert store.verify().ok
    expect(store, {"a": 0})


def test_an_index_that_is_gone_with_its_file_is_not_made_up(url):
    with atlas.Atlas.create(url) as store:
        write(store, "a", 0)
    MEMORY.rm_file(MEMORY.find(f"{url}/t")[0])
    store = atlas.Atlas.open(url)
    assert store.open_dataset("a").array_stats("t")["min"] == 0
    with pytest.raises(atlas.SnapshotExpired):
        store.open_dataset("a").read_array("t")
    assert "is gone" in str(store.verify().problems[0])


# --- copies of the dataset table, where the root's name has to be asked for


@pytest.fixture
def large(url, monkeypatch) -> Root:
    """The state of a store whose names are too many for its root."""
    monkeypatch.setattr(commitfiles, "INLINE_BYTES_FAR", 1 << 10)
    with atlas.Atlas.create(url, meta_format="msgpack") as store:
        store.create_datasets(MANY, None, {"k": list(range(len(MANY)))})
    return store._session.snapshot.root


MANY = [f"station {i:03d}" for i in range(200)]


def expect_many(store: atlas.Atlas) -> None:
    assert store.list_datasets() == MANY
    assert store.open_dataset(MANY[77]).get_attribute("k") == 77


def test_a_false_copy_of_the_table_is_passed_over_reported_and_left_out(url, large):
    ((key, copy),) = large.copies.items()
    for false in (bytes(len(copy)), flipped(copy, 0), flipped(copy, -20)):
        MEMORY.pipe_file(f"{url}/atlas.msgpack", encode_root(replace(large, copies={key: false})))
        store = atlas.Atlas.open(url)
        expect_many(store)
        (problem,) = store.verify().problems
        assert "copy in the root" in str(problem)
        assert len(atlas.Atlas.repair(url).actions) == 1
        store = atlas.Atlas.open(url)
        assert store.verify().ok
        expect_many(store)


def test_the_copy_of_a_table_stays_while_the_table_does(url, large):
    with atlas.Atlas.open(url) as store:
        store.create_dataset("one more").set_attribute("k", 1)
    root = atlas.Atlas.open(url)._session.snapshot.root
    assert (root.copies, root.catalog.tables) == (large.copies, large.catalog.tables)


def test_a_damaged_table_is_brought_back_from_its_copy(url, large):
    (file,) = large.catalog.tables
    data = MEMORY.cat_file(f"{url}/{file.key}")
    MEMORY.pipe_file(f"{url}/{file.key}", flipped(data, file.index_offset + 3))
    expect_many(atlas.Atlas.open(url))
    assert not atlas.Atlas.open(url).verify().ok
    report = atlas.Atlas.repair(url)
    assert report.ok
    assert f"write {file.key} anew" in report.actions[0]
    store = atlas.Atlas.open(url)
    assert store.verify().ok
    expect_many(store)
