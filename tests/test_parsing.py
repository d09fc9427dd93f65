"""What parsing refuses although it is sealed with the right checksums; `torture/corpus.py` forges whole stores."""

from __future__ import annotations

import itertools
import json
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import fsspec
import msgpack
import numpy as np
import pytest
import xxhash
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torture.corpus import original
from torture.forging import Forgery, sealed_record, with_head
from torture.scenes import build, fill_dataset, in_child, state_of

import atlas
from atlas import columnfile, datafiles, record, roots, table
from atlas.columns import Column, Texts
from atlas.groups import Group, LazyColumns
from atlas.root import decode_root
from atlas.storage import LocalStorage


@pytest.mark.parametrize(
    ("dtype", "encoding", "data", "said"),
    [
        ("<u4", "zstd", b"no frame", "content size"),
        ("<u4", "zstd", zstandard.ZstdCompressor(write_content_size=False).compress(bytes(8)), "declares -1 bytes"),
        ("<u4", "zstd", zstandard.ZstdCompressor().compress(bytes(8)) + b"junk", "trailing|extra|unused"),
        ("<u4", "raw", bytes(4), "buffer"),
        ("bytes", "constant", bytes(1 << 20), "absurdly often"),
        ("bytes", "raw", bytes(8) + b"x", "do not add up"),
        ("bytes", "raw", np.array([1, 2], "<u4").tobytes() + b"xx", "do not add up"),
    ],
)
def test_columns_that_make_no_sense(dtype: str, encoding: str, data: bytes, said: str):
    with pytest.raises(ValueError, match=said):
        columnfile._decode(dtype, encoding, data, 1 << 20 if encoding == "constant" else 2)


def test_an_index_whose_entries_say_too_little_is_not_whole():
    packed = msgpack.packb({"columns": [{"name": "a"}]})
    area = np.frombuffer(packed + len(packed).to_bytes(8, "little"), np.uint8)
    file = columnfile.DataFile("t/data.af", len(area), 0, len(area), xxhash.xxh3_64_hexdigest(packed))
    index = columnfile.ColumnFile(area, file)
    assert not index.is_whole
    with pytest.raises(atlas.CorruptIndex, match="offset"):
        index.expect_no_junk()


def test_text_of_one_value_is_repeated():
    assert columnfile._decode("bytes", "constant", b"ab", 3).tolist() == [b"ab"] * 3
    assert columnfile._decode("bytes", "raw", b"", 0).tolist() == []


@pytest.mark.parametrize(
    ("key", "data", "said"),
    [
        ("atlas.json.zst", b"no frame", "content size"),
        ("atlas.json.zst", zstandard.ZstdCompressor(write_content_size=False).compress(b"{}"), "declares -1 bytes"),
        ("atlas.json.lz4", b"no frame", "LZ4"),
        ("atlas.json", b'{"checksum": "0123456789abcdef", "version": 1}', "does not match$"),
        ("atlas.json", b'{"format": "atlas", "version": 3}', "older atlas-python package"),
    ],
)
def test_roots_that_are_none(key: str, data: bytes, said: str):
    with pytest.raises(atlas.CorruptRoot, match=said):
        decode_root(data, key, lambda *unused: None)


def test_the_dataset_table_is_not_believed():
    with pytest.raises(atlas.CorruptIndex, match="a schema is malformed"):
        table._counts({"attributes": [], "arrays": 3})
    with pytest.raises(atlas.CorruptIndex, match="dataset table is damaged"):
        table._check_sizes(Column(1, np.array([-5])))
    with pytest.raises(atlas.CorruptStore, match="a schema of the dataset table"):
        _ = Group({"dims": 3}, 0, [], []).template


def test_columns_are_loaded_when_asked_for():
    loaded = []
    columns = LazyColumns(3, lambda i: loaded.append(i) or Column(1, np.array([i])))
    assert [column.cells.tolist() for column in columns[1:]] == [[1], [2]]
    assert columns[1].cells.tolist() == [1]
    assert loaded == [1, 2]


def index_of(tmp_path: Path, array: str):
    build(tmp_path / "s")
    snapshot = atlas.Atlas.open(tmp_path / "s")._session.snapshot
    return snapshot.segment(array, snapshot.root.arrays[array].files[0])


def test_a_statistic_that_is_no_value(tmp_path: Path, monkeypatch):
    index = index_of(tmp_path, "t")
    monkeypatch.setattr(type(index), "column", lambda self, name: Texts.of([b"\xc1"]))
    with pytest.raises(atlas.CorruptIndex, match="cannot be decoded"):
        index._bound("none", np.ones(1, bool))


@pytest.mark.filterwarnings("ignore:type mismatch")
def test_arrays_of_a_name_may_be_of_different_kinds(tmp_path: Path):
    with atlas.Atlas.create(tmp_path / "s", workers=1) as store:
        for name, dtype, cells in (
            ("a", "int32", np.arange(2, dtype="int32")),
            ("b", "string", np.array(["x", "y"], object)),
        ):
            view = store.create_dataset(name)
            view.define_array("t", dtype, ["x"], [2])
            view.write_array("t", [0], cells)
    atlas.Atlas.open(tmp_path / "s", workers=1).compact()
    store = atlas.Atlas.open(tmp_path / "s", workers=1)
    found = [store.open_dataset(name).array_stats("t") for name in "ab"]
    assert [(stats["min"], stats["max"]) for stats in found] == [(0, 1), (b"x", b"y")]


def test_an_array_without_files_has_nothing_to_lose(tmp_path: Path):
    build(tmp_path / "s")
    forgery = Forgery(tmp_path / "s")
    forgery.document["arrays"]["more"] = {"directory": "more", "files": []}
    forgery.save()
    before = state_of(tmp_path / "s")
    assert atlas.Atlas.repair(tmp_path / "s").ok
    atlas.Atlas.open(tmp_path / "s").compact()
    assert state_of(tmp_path / "s") == before
    assert "more" not in json.loads((tmp_path / "s" / "atlas.json").read_bytes())["arrays"]


A_HEAD = msgpack.packb({"object": "atlas.json", "root": b"", "indexes": []})
A_RECORD = sealed_record(with_head(A_HEAD))


def behind(data: bytes, length: int | None = None) -> bytes:
    """Return what says that a record of a length ends here."""
    return (len(data) if length is None else length).to_bytes(8, "little") + record.MAGIC_BEHIND


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (A_RECORD + behind(A_RECORD), None),
        (A_RECORD, "it is cut short, or no record"),
        (behind(b""), "it is cut short, or no record"),
        (b"x", "it is cut short, or no record"),
        (A_RECORD + behind(b"", 1), "its length does not match"),
        (A_RECORD + behind(b"", len(A_RECORD) + 1), "its length does not match"),
        (A_RECORD + behind(b"", 1 << 63), "it is cut short, or no record"),
        (b"x" * 9 + behind(b"x" * 9), "it is no record"),
        (A_RECORD[:8] + bytes(8) + A_RECORD[16:] + behind(A_RECORD), "its hash does not match"),
    ],
)
def test_only_a_record_may_be_behind_a_file(tmp_path: Path, after: bytes, said: str | None):
    """And what is left of a file says of what it is the record, whatever else is in its place."""
    (tmp_path / "file").write_bytes(b"before" + after)
    storage, size = LocalStorage(str(tmp_path)), 6 + len(after)
    (tmp_path / "short").write_bytes(b"ATLASRT1" * 2)
    others = [key for key, _ in record.records_behind(storage, {"file": size, "short": 16})]
    if said is None:
        assert record.record_behind(storage, "file", 6, size).object == "atlas.json"
        assert others == ["file"]
    else:
        with pytest.raises(atlas.CorruptIndex, match=said):
            record.record_behind(storage, "file", 6, size)
        assert others == []


def test_one_chunk_in_two_files(tmp_path: Path, monkeypatch):
    """The newer file only says that what the older one holds is void."""
    monkeypatch.setattr(datafiles, "MERGE_BELOW", 0)
    with atlas.Atlas.create(tmp_path / "s", workers=1) as store:
        store.create_dataset("a").define_array("t", "int8", ["x"], [2])
        store.open_dataset("a").write_array("t", [0], np.ones(2, "int8"))
    with atlas.Atlas.open(tmp_path / "s", workers=1) as store:
        store.open_dataset("a").delete_array("t")
        store.open_dataset("a").define_array("t", "int8", ["x"], [2])
    store = atlas.Atlas.open(tmp_path / "s", workers=1)
    assert len(store._session.snapshot.root.arrays["t"].files) == 2
    assert store.open_dataset("a").read_array("t").tolist() == [0, 0]


def test_verify_of_what_no_reader_needs_or_could_read(tmp_path: Path):
    """A record that is gone, and a chunk beyond the array; what there is not is done as well."""
    place = tmp_path / "s"
    with atlas.Atlas.create(place) as store:
        store.create_dataset("without")
        fill_dataset(store, "a", 1)
    forgery, done = Forgery(place), []
    forgery.column("number", [0, 1, 2, 9], "<u8")
    next((place / "_catalog").iterdir()).unlink()
    report = atlas.Atlas.open(place).verify(lambda *step: done.append(step))
    assert [str(problem) for problem in report.problems if problem.chunk == 9] == [
        "dataset 'a': there is a chunk 9, but array 't' has 4"
    ]
    assert "is gone; the store is whole" in str(report.problems[0])
    assert (done[0][:2], done[-1]) == ((1, 6), (6, 6, "t"))
    fsspec.filesystem("memory").put(str(place), f"/{tmp_path.name}/copy", recursive=True)
    far = atlas.Atlas.open(f"memory://{tmp_path.name}/copy").verify()
    assert [problem.chunk for problem in far.problems if problem.dataset == "a"] == [9], "where they are read together"


def test_records_of_commits_before_are_no_news_to_verify(tmp_path: Path):
    place = tmp_path / "s"
    build(place)
    kept = {path: path.read_bytes() for path in (place / "_catalog").iterdir()}
    atlas.Atlas.open(place).compact()
    for path, data in kept.items():
        path.write_bytes(data)
    (place / "_catalog" / f"commit-{'0' * 32}.ar").write_bytes(b"none")
    assert atlas.Atlas.open(place).verify().ok


def test_a_record_in_the_place_of_another_is_noticed(tmp_path: Path):
    place = tmp_path / "s"
    build(place)
    first, second = (place / "_catalog").glob("*.ar")
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    assert "lacks the index of" in str(atlas.Atlas.open(place).verify().problems[0])


def test_a_damaged_file_is_not_taken_into_another(tmp_path: Path):
    place = tmp_path / "s"
    build(place)
    damaged = next((place / "n").iterdir())
    data = bytearray(damaged.read_bytes())
    data[-20] ^= 1
    damaged.write_bytes(data)
    with atlas.Atlas.open(place, workers=1) as store:
        fill_dataset(store, "more", 3)
    store = atlas.Atlas.open(place, workers=1)
    assert damaged.exists()
    assert store.open_dataset("more").read_array("t").shape == (6, 8)


@pytest.mark.parametrize("damage", [os.unlink, lambda path: os.truncate(path, 30)])
def test_a_file_that_is_gone_or_cut_short_is_not_taken_into_another(tmp_path: Path, damage):
    """Also by who has read its index before."""
    place = tmp_path / "s"
    build(place)
    store = atlas.Atlas.open(place, workers=1)
    assert store.open_dataset("d0").read_array("n").shape == (6,)
    damage(next((place / "n").iterdir()))
    fill_dataset(store, "more", 3)
    store.flush()
    assert atlas.Atlas.open(place).open_dataset("more").read_array("t").shape == (6, 8)


def test_a_root_that_cannot_be_put_is_not_there(tmp_path: Path, monkeypatch):
    url = f"memory://{tmp_path.name}/s"
    store = atlas.Atlas.create(url)
    store.create_dataset("a")
    files = type(fsspec.filesystem("memory"))
    real = files.pipe_file

    def refuse(self, path, value, *args, **kwargs):
        if "atlas." in path:
            raise OSError(5, "Input/output error")
        return real(self, path, value, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(files, "pipe_file", refuse)
        with pytest.raises(atlas.StorageError):
            store.flush()
    with monkeypatch.context() as patched:
        # As if more had been committed since than the root remembers.
        patched.setattr(files, "pipe_file", refuse)
        patched.setattr(roots, "_REMEMBERED", -10)
        patched.setattr(roots, "load_root", lambda storage, real=roots.load_root: moved_on(real(storage)))
        with pytest.raises(atlas.CommitUnknownError, match="remembers no more"):
            store.flush()
    store.flush()
    assert atlas.Atlas.open(url).list_datasets() == ["a"]


def moved_on(root):
    return replace(root, commit="0" * 32, recent=())


def test_a_root_that_cannot_be_put_in_its_place_is_not_there(tmp_path: Path, monkeypatch, caplog):
    build(tmp_path / "s")
    store = atlas.Atlas.open(tmp_path / "s", workers=1)
    fill_dataset(store, "more", 3)

    def refuse(self: LocalStorage, *args: object) -> None:
        raise atlas.StorageError("Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(LocalStorage, "replace", refuse)
        with pytest.raises(atlas.StorageError, match="Input/output"):
            store.flush()
        assert "more" not in atlas.Atlas.open(tmp_path / "s")
    with monkeypatch.context() as patched:
        # What was replaced stays where it is; the commit stands.
        patched.setattr(LocalStorage, "retire", refuse)
        store.flush()
    assert "old data files could not be put aside" in caplog.text
    assert "more" in atlas.Atlas.open(tmp_path / "s")
    assert atlas.Atlas.open(tmp_path / "s").verify().ok


numbers = st.one_of(
    st.lists(st.integers(0, 2**64 - 1), max_size=80),
    st.builds(lambda value, count: [value] * count, st.integers(0, 2**64 - 1), st.integers(0, 80)),
    st.builds(
        lambda first, step, count: [n for n in range(first, first + step * count, step) if 0 <= n < 2**64],
        st.integers(0, 2**64 - 1),
        st.integers(-(2**33), 2**33).filter(bool),
        st.integers(0, 80),
    ),
)


@given(cells=numbers)
def test_columns_of_any_length_come_back_and_take_no_room_for_what_is_regular(cells: list[int]):
    column = np.array(cells, "<u8")
    entry, data = columnfile.encode_column("numbers", column)
    assert columnfile._decode(entry["dtype"], entry["encoding"], data, len(cells)).tolist() == cells
    steps = {after - before for before, after in itertools.pairwise(cells)}
    if len(cells) > 2 and len(steps) == 1 and max(cells) < 2**63:
        assert entry["encoding"] == ("constant" if steps == {0} else "range")


@given(cells=arrays("f4", st.integers(0, 80)))
def test_columns_of_floats_come_back_to_the_bit(cells: np.ndarray):
    entry, data = columnfile.encode_column("floats", cells)
    found = columnfile._decode(entry["dtype"], entry["encoding"], data, len(cells))
    assert found.tobytes() == cells.tobytes()


def forged(tmp_path: Path) -> Forgery:
    original(tmp_path / "s")
    return Forgery(tmp_path / "s")


@pytest.mark.parametrize(("name", "dtype"), [("pipeline", "<u2"), ("checksum", "|u1"), ("checksum", ">u8")])
def test_columns_that_kernels_read_are_of_no_other_type(tmp_path: Path, name: str, dtype: str):
    forgery = forged(tmp_path)
    forgery.column(name, forgery.numbers(name).astype(np.uint8), dtype)
    with pytest.raises(atlas.CorruptIndex, match=f"'{name}' is not of type"):
        atlas.Atlas.open(forgery.place).open_dataset("d0").read_array("t")


@pytest.mark.parametrize("number", [4, 1 << 40])
def test_a_chunk_outside_the_grid_is_not_moved(tmp_path: Path, number: int):
    forgery = forged(tmp_path)
    forgery.column("number", [0, 1, 2, number] * 3, "<u8")
    for shape in ([9, 8], [6, 5]):
        store = atlas.Atlas.open(forgery.place)
        with pytest.raises(atlas.CorruptIndex, match="a number that a grid of 4 chunks does not have"):
            store.open_dataset("d0").resize("t", shape)


def test_columns_of_a_table_may_be_wider_than_they_are_written(tmp_path: Path):
    original(tmp_path / "s", tables=True)
    before = state_of(tmp_path / "s")
    forgery = Forgery(tmp_path / "s")
    for name, values in (("group", [0, 0, 0, 1]), ("row", [0, 1, 2, 0]), ("ordinal", range(4))):
        forgery.column(name, values, "<u8", "table")
    forgery.index(lambda _, columns: columns.update(order=wider(columns["order"])), "table")
    assert state_of(tmp_path / "s") == before
    store = atlas.Atlas.open(tmp_path / "s", workers=1)
    assert store.merged_schema()["arrays"].keys() == {"t", "n", "label", "p"}
    assert store.verify().ok
    store.create_dataset("more")
    store.delete_dataset("d1")
    store.flush()
    store.compact()
    assert atlas.Atlas.open(tmp_path / "s").list_datasets() == ["d0", "d2", "large", "more"]


def wider(column: tuple[dict[str, object], bytes]) -> tuple[dict[str, object], bytes]:
    entry, body = column
    return {**entry, "dtype": "<u8"}, np.frombuffer(body, entry["dtype"]).astype("<u8").tobytes()


@pytest.mark.parametrize(
    ("forge", "said"),
    [
        (lambda f: f.column("flags", [0, 0], "|u1"), "differ in length"),
        (lambda f: f.column("flags", [0] * 9, "|u1"), "differ in length"),
        # In a file with holes a longer one would take no room on the disk, and all the memory there is.
        (lambda f: f.chunk(bytes(5000), 2), "a payload is larger than its chunk"),
    ],
    ids=["too few flags", "too many flags", "a payload much larger than its chunk"],
)
def test_indexes_that_cannot_be_are_refused(tmp_path: Path, forge: Callable[[Forgery], None], said: str):
    forgery = forged(tmp_path)
    forge(forgery)
    store = atlas.Atlas.open(forgery.place)
    with pytest.raises(atlas.CorruptIndex, match=said):
        store.open_dataset("d0").read_array("t")
    assert not store.verify().ok


def test_cells_whose_bytes_no_integer_counts_are_refused(tmp_path: Path):
    """So many of 16 bytes each that 64 bits say they take none: as many as a chunk without bytes has."""
    forgery = forged(tmp_path)
    forgery.chunk(b"", 0, "p", 0)
    forgery.document["schemas"][1]["arrays"][0]["dtype"] = "complex128"
    forgery.document["datasets"]["parts"][1]["sizes"] = [{"all": 1 << 60}]
    forgery.save()

    def read() -> str:
        with pytest.raises(atlas.CorruptRoot):
            atlas.Atlas.open(forgery.place).open_dataset("large").read_array("p", [1 << 40], [1])
        return "refused"

    # In a child: it would be killed.
    assert in_child(read) == "refused"


def packed_texts(values: list[object]) -> tuple[dict[str, object], bytes]:
    cells = [msgpack.packb(value) for value in values]
    data = np.array([len(cell) for cell in cells], "<u4").tobytes() + b"".join(cells)
    return {"dtype": "bytes", "count": len(cells), "encoding": "raw"}, data


@pytest.mark.parametrize("values", [[[1], 1, 2], [1, None, 2], [1, {"a": 1}, 2]])
def test_values_that_nothing_can_be_compared_with_are_no_bounds(tmp_path: Path, values: list[object]):
    forgery = forged(tmp_path)
    forgery.index(lambda _, columns: (columns.pop("min"), columns.update(min_any=packed_texts(values))))
    with pytest.raises(atlas.CorruptIndex, match="something else than bounds"):
        list(atlas.Atlas.open(forgery.place).select(atlas.col("t") > 5))


@pytest.mark.parametrize("dtype", ["<M8[s]", "<c16", "|V8"])
def test_columns_of_other_types_are_no_bounds(tmp_path: Path, dtype: str):
    forgery = forged(tmp_path)
    forgery.entry("min", dtype=dtype, count=3, encoding="raw", body=bytes(3 * np.dtype(dtype).itemsize))
    with pytest.raises(atlas.CorruptIndex, match="something else than bounds"):
        list(atlas.Atlas.open(forgery.place).select(atlas.col("t") > 5))


@pytest.mark.parametrize(
    ("array", "column"),
    [
        ("t", ({"dtype": "bytes", "count": 3, "encoding": "constant"}, b"x")),
        ("label", ({"dtype": "bytes", "count": 3, "encoding": "constant"}, b"\xff")),
        ("label", ({"dtype": "<i8", "count": 3, "encoding": "constant"}, bytes(8))),
    ],
)
def test_statistics_of_another_type_make_no_table(tmp_path: Path, array: str, column: tuple[dict[str, object], bytes]):
    forgery = forged(tmp_path)
    forgery.index(lambda _, columns: columns.update(min=column), array)
    with pytest.raises(atlas.CorruptIndex, match="do not fit the type"):
        atlas.Atlas.open(forgery.place).table([array])


def test_binary_attributes_are_decoded_or_refused(tmp_path: Path):
    with atlas.Atlas.create(tmp_path / "s") as store:
        store.create_dataset("a").set_attribute("key", b"\0value\0")
    assert list(store.select(atlas.col.attr("key") == b"\0value\0")) == ["a"]
    forgery = Forgery(tmp_path / "s")
    forgery.document["datasets"]["parts"][0]["attributes"] = [{"all": "abc"}]
    forgery.save()
    with pytest.raises(atlas.CorruptStore, match="a binary attribute"):
        list(atlas.Atlas.open(tmp_path / "s").select(atlas.col.attr("key") == b"x"))


def test_what_follows_a_forged_commit_could_not_be_read(tmp_path: Path):
    """Its record would have a name that no root may mention, or datasets a number that none may have."""
    forgery = forged(tmp_path)
    commit = forgery.document["commit"]
    forgery.document["commit"] = "mine"
    forgery.save()
    with pytest.raises(atlas.CorruptRoot, match="bad commit ids"):
        atlas.Atlas.open(forgery.place)
    forgery.document |= {"commit": commit, "generation": (1 << 62) - 1}
    forgery.save()
    store = atlas.Atlas.open(forgery.place)
    store.create_dataset("more").set_attribute("k", 1)
    with pytest.raises(atlas.CorruptRoot, match="none can follow"):
        store.flush()
    assert len(atlas.Atlas.open(forgery.place)) == 4


def test_records_that_others_have_done_without_are_not_missed(tmp_path: Path):
    build(tmp_path / "s")
    reader = atlas.Atlas.open(tmp_path / "s", mode="r")
    atlas.Atlas.open(tmp_path / "s").compact()
    assert reader.verify().problems == []


def test_a_commit_under_way_is_no_damage(tmp_path: Path, monkeypatch):
    """Its record is there, and its root is not yet."""
    build(tmp_path / "s")
    reader, writer = atlas.Atlas.open(tmp_path / "s", mode="r"), atlas.Atlas.open(tmp_path / "s")
    writer.open_dataset("d0").set_attribute("seed", 5)
    thread, is_written, may_go_on = threading.Thread(target=writer.flush), threading.Event(), threading.Event()
    replace, list_dir = LocalStorage.replace, LocalStorage.list_dir

    def replace_later(*call, **options):
        is_written.set()
        assert may_go_on.wait(60)
        return replace(*call, **options)

    def list_while_others_commit(storage: LocalStorage, prefix: str) -> list[str]:
        if threading.current_thread() is not thread and not is_written.is_set():
            thread.start()
            assert is_written.wait(60)
        return list_dir(storage, prefix)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "replace", replace_later)
        patch.setattr(LocalStorage, "list_dir", list_while_others_commit)
        report = reader.verify()
        may_go_on.set()
        thread.join()
    assert report.problems == []
    assert atlas.Atlas.open(tmp_path / "s").open_dataset("d0").get_attribute("seed") == 5
