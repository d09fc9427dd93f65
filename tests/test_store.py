"""What users do with a store, on local paths and on fsspec file systems."""

from __future__ import annotations

import datetime
import errno
import logging
import os
import pickle
import sys
import threading
import warnings
from pathlib import Path

import fsspec
import numpy as np
import pytest
from conftest import add_fields, field

import atlas
from atlas import Atlas, DataTypeError, StorageError, session
from atlas.codecs import PIPELINES
from atlas.storage import LocalStorage, local

ROOTS = [
    (fmt, compression, f"atlas.{fmt}{suffix}")
    for fmt in ("json", "msgpack")
    for compression, suffix in (("none", ""), ("zstd", ".zst"), ("lz4", ".lz4"))
]


def files(place: Path) -> dict[str, bytes]:
    return {str(f.relative_to(place)): f.read_bytes() for f in sorted(place.rglob("*")) if f.is_file()}


def data_files(place: Path) -> list[str]:
    return [name for name in files(place) if name.endswith(".af")]


@pytest.mark.parametrize(("fmt", "compression", "name"), ROOTS)
@pytest.mark.parametrize("codec", ["zstd", "lz4", "none"])
def test_every_root_encoding_and_codec_is_detected(place, fmt, compression, name, codec):
    with Atlas.create(place / "a" / "b", codec, fmt, compression) as store:
        view = store.create_dataset("ü")
        view.define_array("v", "float64", ["x"], [100])
        view.write_array("v", [0], np.arange(100.0))
        view.set_attribute("month", 6)
    roots = [f.name for f in (place / "a" / "b").iterdir() if f.name.startswith("atlas.")]
    assert roots == [name]
    again = Atlas.open(place / "a" / "b").open_dataset("ü")
    np.testing.assert_array_equal(again.read_array("v"), np.arange(100.0))
    assert again.get_attribute("month") == 6


def test_a_store_is_not_replaced_unless_asked(fleet):
    with pytest.raises(atlas.StoreAlreadyExists, match="overwrite=True"):
        Atlas.create(fleet)
    store = Atlas.create(fleet, meta_format="msgpack", overwrite=True)
    assert store.list_datasets() == []
    assert Atlas.open(fleet).list_datasets() == []
    assert sorted(f.name for f in fleet.iterdir() if f.name.startswith("atlas.")) == ["atlas.msgpack"]


def test_path_names_of_the_reference(place):
    Atlas.create_path(place, atlas.StoreConfig(codec="lz4", meta_format="msgpack")).flush()
    assert Atlas.open_path(place).info()["codec"] == "lz4"


@pytest.mark.parametrize("packing", [True, False])
def test_packing_is_a_choice_that_the_store_remembers(place, packing):
    cells = np.round(np.sin(np.linspace(0, 9, 20_000)) * 10, 2).astype("float32").reshape(2, 10_000)
    Atlas.create(place, config=atlas.StoreConfig(codec="lz4", packing=packing)).flush()
    with Atlas.open(place) as store:
        view = store.create_dataset("d")
        view.define_array("t", "float32", ["y", "x"], [2, 10_000], [1, 10_000])
        view.write_array("t", [0, 0], cells)
    store = Atlas.open(place)
    assert {PIPELINES[int(p)] for p in store._session.snapshot.index("t").columns["pipeline"]} == {
        "packed" if packing else "shuffle+lz4"
    }
    np.testing.assert_array_equal(store.open_dataset("d").read_array("t"), cells)


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_a_filesystem_object_with_a_prefix(kind, tmp_path):
    filesystem = fsspec.filesystem(kind)
    prefix = f"{tmp_path}/inner/store"
    with Atlas.create(filesystem, prefix=prefix) as store:
        for i in range(3):
            add_fields(store, f"d{i}", i)
    store = Atlas.open(filesystem, prefix=prefix)
    stacked = store.read_array_across_stacked("t", ["d2", "d0"], [3, 3], [5, 6])
    np.testing.assert_array_equal(stacked, np.stack([field(2), field(0)])[:, 3:8, 3:9])
    store.delete_dataset("d1")
    store.flush()
    store.compact()
    assert Atlas.open(filesystem, prefix=prefix).list_datasets() == ["d0", "d2"]
    np.testing.assert_array_equal(store.open_dataset("d2").read_array("t"), field(2))


def test_only_flush_persists(fleet):
    before = files(fleet)
    store = Atlas.open(fleet)
    store.create_dataset("new").set_attribute("k", 1)
    store.open_dataset("d00").write_array("t", [0, 0], field(9))
    store.delete_dataset("d01")
    del store
    assert files(fleet) == before
    store = Atlas.open(fleet)
    store.flush()
    store.close()
    assert files(fleet) == before, "a flush with nothing pending writes nothing"


def test_a_failed_block_commits_nothing(fleet):
    before = files(fleet)
    with pytest.raises(ZeroDivisionError), Atlas.open(fleet) as store:
        store.create_dataset("half")
        _ = 1 / 0
    assert files(fleet) == before
    store.close()
    assert files(fleet) == before
    assert "half" not in store


def test_one_data_file_per_touched_array_and_flush(fleet):
    assert len(data_files(fleet)) == 2
    store = Atlas.open(fleet)
    for name in store.list_datasets():
        store.open_dataset(name).write_array("t", [0, 0], field(1))
    store.flush()
    assert len(data_files(fleet)) == 3


def test_pending_changes_are_seen_at_once_and_by_every_view(fleet):
    store = Atlas.open(fleet)
    one, two = store.open_dataset("d03"), store.open_dataset("d03")
    one.write_array("t", [2, 3], np.full((2, 2), -1, np.float32))
    expected = field(3)
    expected[2:4, 3:5] = -1
    np.testing.assert_array_equal(two.read_array("t"), expected)
    np.testing.assert_array_equal(store.read_array_across_stacked("t", ["d03", "d04"]), [expected, field(4)])
    np.testing.assert_array_equal(store.read_array_across("t", ["d04", "d03"])[1], expected)
    assert two.array_stats("t") is None
    store.flush()
    assert two.array_stats("t") == {"row_count": 120, "null_count": 0, "min": -1.0, "max": 62.5}
    np.testing.assert_array_equal(Atlas.open(fleet).open_dataset("d03").read_array("t"), expected)


def test_compact_reclaims_and_an_older_reader_goes_on(fleet):
    reader = Atlas.open(fleet)
    writer = Atlas.open(fleet)
    for i in range(5):
        writer.delete_dataset(f"d{i:02d}")
    writer.open_dataset("d07").write_array("t", [0, 0], field(70))
    writer.flush()
    writer.compact()
    assert {Path(f).parts[0] for f in data_files(fleet)} >= {"t", "label"}
    assert [len(list((fleet / d).glob("*.af"))) for d in ("t", "label")] == [1, 1]
    np.testing.assert_array_equal(reader.read_array_across_stacked("t", ["d00", "d07"]), [field(0), field(7)])
    assert writer.row_slots() == 15
    assert writer.dataset_row("d05") == 0
    np.testing.assert_array_equal(writer.open_dataset("d07").read_array("t"), field(70))
    assert writer.open_dataset("d07").array_stats("t")["min"] == 70.0
    del reader
    writer.open_dataset("d08").set_attribute("k", 1)
    writer.flush()
    assert len(data_files(fleet)) == 2, "retired files go once nobody reads them"
    before = files(fleet)
    writer.compact()
    assert files(fleet) == before, "there is nothing to compact"


def test_compact_takes_away_what_is_left_of_arrays_and_does_nothing_twice(place):
    with Atlas.create(place) as store:
        for name in ("a", "b"):
            view = store.create_dataset(name)
            for array in ("t", "u"):
                view.define_array(array, "int8", ["x"], [9])
                view.write_array(array, [0], np.arange(9, dtype="int8"))
    before = files(place)
    store.compact()
    assert files(place) == before, "there is nothing to compact"
    for name, arrays in (("a", "t"), ("b", "u"), ("a", "u")):
        store.open_dataset(name).delete_array(arrays)
    store.flush()
    size = max(path.stat().st_size for path in (place / "t").iterdir())
    store.compact()
    assert not (place / "u").exists()
    assert max(path.stat().st_size for path in (place / "t").iterdir()) < size
    before = files(place)
    store.compact()
    assert files(place) == before, "nor when one dataset is left"
    assert store.open_dataset("b").read_array("t").tolist() == list(range(9))


def test_compact_leaves_pending_changes_pending(fleet):
    store = Atlas.open(fleet)
    store.delete_dataset("d00")
    store.flush()
    store.open_dataset("d05").write_array("t", [0, 0], field(50))
    store.compact()
    np.testing.assert_array_equal(Atlas.open(fleet).open_dataset("d05").read_array("t"), field(5))
    store.flush()
    np.testing.assert_array_equal(Atlas.open(fleet).open_dataset("d05").read_array("t"), field(50))


def test_a_deleted_name_can_be_made_anew(fleet):
    store = Atlas.open(fleet)
    store.delete_dataset("d02")
    view = store.create_dataset("d02")
    assert view.list_arrays() == []
    view.define_array("t", "float32", ["x"], [2])
    assert view.read_array("t").tolist() == [0, 0]
    store.flush()
    again = Atlas.open(fleet)
    assert again.open_dataset("d02").read_array("t").tolist() == [0, 0]
    assert again.dataset_row("d02") == 20
    assert again.list_datasets()[-1] == "d02"


def test_an_array_defined_anew_forgets_the_old_cells(fleet):
    store = Atlas.open(fleet)
    view = store.open_dataset("d04")
    view.delete_array("t")
    assert view.read_array("t") is None
    view.define_array("t", "float32", ["y", "x"], [10, 12], [4, 5], 7.0)
    view.write_array("t", [0, 0], np.ones((4, 5), np.float32))
    store.flush()
    expected = np.full((10, 12), 7, np.float32)
    expected[:4, :5] = 1
    for handle in (store, Atlas.open(fleet)):
        np.testing.assert_array_equal(handle.open_dataset("d04").read_array("t"), expected)
    store.compact()
    np.testing.assert_array_equal(Atlas.open(fleet).open_dataset("d04").read_array("t"), expected)
    assert store.open_dataset("d04").array_stats("t") == {"row_count": 120, "null_count": 100, "min": 1.0, "max": 1.0}


def test_names_schemas_and_attributes(fleet):
    store = Atlas.open(fleet)
    assert len(store) == 20
    assert store.list_arrays() == ["label", "t"]
    assert (store.array_dtype("t"), store.array_dtype("zz")) == ("float32", None)
    view = store.open_dataset("d07")
    assert view.array_meta("t") == {
        "dtype": "float32",
        "shape": [10, 12],
        "chunk_shape": [4, 5],
        "dimension_names": ["y", "x"],
    }
    assert view.array_meta("zz") is None
    assert np.isnan(view.array_fill_value("t"))
    assert view.attributes() == {"number": 7}
    assert view.array_attributes("t") == {"units": "K"}
    assert view.get_array_attribute("t", "zz") is None
    assert store.merged_schema() == {
        "arrays": {
            "t": {"dtype": "float32", "dimension_names": ["y", "x"], "attributes": {"units": "string"}},
            "label": {"dtype": "string", "dimension_names": ["y"], "attributes": {}},
        },
        "global_attributes": {"number": "int64"},
    }


@pytest.mark.parametrize(
    ("first", "second", "merged"),
    [
        ("int8", "int16", "int16"),
        ("int32", "uint32", "int64"),
        ("int32", "float32", "float64"),
        ("int16", "float32", "float32"),
        ("timestamp_ns", "string", "string"),
        ("int32", "string", None),
        ("bool", "int8", None),
    ],
)
def test_types_widen_or_are_reported(place, first, second, merged):
    store = Atlas.create(place, on_type_mismatch="error")
    store.create_dataset("a").define_array("x", first, ["i"], [2])
    if merged is None:
        with pytest.raises(ValueError, match="cannot merge"):
            store.create_dataset("b").define_array("x", second, ["i"], [2])
        assert store.array_dtype("x") == first
        store.flush()
        with pytest.warns(UserWarning, match="cannot merge"):
            Atlas.open(place).open_dataset("b").define_array("x", second, ["i"], [2])
    else:
        store.create_dataset("b").define_array("x", second, ["i"], [2])
        assert store.array_dtype("x") == merged
        store.flush()
        assert Atlas.open(place).array_dtype("x") == merged


VALUES = [
    True,
    42,
    -(2**63),
    2**64 - 1,
    2.5,
    float("inf"),
    "text\nµ",
    b"\x00\xff",
    [1, 2],
    ["a", "b"],
    [],
    [True, False],
    np.float32(1.5),
    np.array([1, 2], np.int16),
    np.array([1.5, np.inf]),
    np.array(["a", "bc"]),
    np.datetime64("2020-01-01", "ns"),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_attributes_round_trip_with_their_types(place, value):
    with Atlas.create(place) as store:
        view = store.create_dataset("d")
        view.define_array("x", "int8", [], [])
        view.set_attribute("k", value)
        view.set_array_attribute("x", "k", value)
    view = Atlas.open(place).open_dataset("d")
    for found in (view.get_attribute("k"), view.get_array_attribute("x", "k")):
        assert type(found) is type(value)
        np.testing.assert_array_equal(found, value)
        if isinstance(value, np.ndarray):
            assert found.dtype == value.dtype


def test_attribute_hints_and_refusals(place):
    view = Atlas.create(place).create_dataset("d")
    view.set_attribute("small", 7, dtype="int8")
    view.set_attribute("when", 1_700_000_000_000_000_001, dtype="timestamp_nanoseconds")
    assert view.attributes() == {"small": 7, "when": 1_700_000_000_000_000_001}
    with pytest.raises(OverflowError):
        view.set_attribute("k", 300, dtype="int8")
    with pytest.raises(OverflowError):
        view.set_attribute("k", 2**64)
    with pytest.raises(TypeError):
        view.set_attribute("k", "x", dtype="int8")
    view.set_attribute("day", np.datetime64("2020-02-29"))
    view.set_attribute("span", np.array([1, 2], "m8[h]"))
    assert view.get_attribute("day") == np.datetime64("2020-02-29")
    assert view.get_attribute("span").tolist() == [datetime.timedelta(hours=1), datetime.timedelta(hours=2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        without_unit = np.timedelta64(1)
    for odd in (np.datetime64(1, "ps"), np.timedelta64(1, "Y"), without_unit):
        with pytest.raises(DataTypeError, match="'odd'"):
            view.set_attribute("odd", odd)
    with pytest.raises(OverflowError, match="'odd'"):
        view.set_attribute("odd", np.datetime64(2**62, "D"))
    for odd in (None, {}, [1, "a"], object()):
        with pytest.raises(ValueError):
            view.set_attribute("k", odd)
    with pytest.raises(KeyError):
        view.set_array_attribute("absent", "k", 1)


@pytest.mark.parametrize("name", ["", "_x", ".", "..", "a/b", "a\0b", 7, "\udc80", "x" * 5000])
def test_bad_names(place, name):
    store = Atlas.create(place)
    with pytest.raises(ValueError):
        store.create_dataset(name)
    view = store.create_dataset("ok")
    with pytest.raises(ValueError):
        view.define_array(name, "int8", [], [])
    assert store.list_datasets() == ["ok"]


@pytest.mark.parametrize(
    "name", ["CON", "a b", "é", "e\u0301", "x" * 300, "atlas.json", "A", "a", "tr.", "…", "%41", "*?"]
)
def test_array_names_that_file_systems_dislike(place, name):
    with Atlas.create(place) as store:
        view = store.create_dataset("d")
        for each in (name, "a.", "B"):
            view.define_array(each, "int8", ["x"], [1])
            view.write_array(each, [0], np.array([len(each) % 100], np.int8))
    view = Atlas.open(place).open_dataset("d")
    assert [view.read_array(each)[0] for each in (name, "a.", "B")] == [len(name) % 100, 2, 1]


def test_errors_are_ours_and_the_builtin(fleet, tmp_path):
    store = Atlas.open(fleet)
    view = store.open_dataset("d00")
    cases = [
        (lambda: store.open_dataset("zz"), atlas.DatasetNotFound, KeyError),
        (lambda: store.delete_dataset("zz"), atlas.DatasetNotFound, KeyError),
        (lambda: view.delete_array("zz"), atlas.ArrayNotFound, KeyError),
        (lambda: view.write_array("zz", [0], np.zeros(1)), atlas.ArrayNotFound, KeyError),
        (lambda: store.create_dataset("d00"), atlas.DatasetAlreadyExists, FileExistsError),
        (lambda: view.define_array("t", "int8", [], []), atlas.ArrayAlreadyExists, FileExistsError),
        (lambda: Atlas.open(tmp_path / "none"), atlas.StoreNotFound, FileNotFoundError),
        (lambda: Atlas.create(tmp_path / "n", codec="brotli"), atlas.InvalidArgument, ValueError),
        (lambda: view.define_array("n", "float31", [], []), atlas.InvalidArgument, ValueError),
        (lambda: view.define_array("n", "int8", ["x"], [2, 3]), atlas.InvalidArgument, ValueError),
        (lambda: view.define_array("n", "int8", ["x"], [-1]), atlas.InvalidArgument, ValueError),
        (lambda: view.define_array("n", "int8", ["x"], [2], [0]), atlas.InvalidArgument, ValueError),
        (lambda: view.define_array("n", "int8", ["x"], [2], [1, 1]), atlas.InvalidArgument, ValueError),
        (lambda: view.define_array("n", "int8", ["x"], [2], None, 1.5), atlas.DataTypeError, TypeError),
        (lambda: view.define_array("n", "bool", ["x"], [2], None, 1), atlas.DataTypeError, TypeError),
        (lambda: view.define_array("n", "float32", ["x"], [2], None, True), atlas.DataTypeError, TypeError),
        (lambda: view.define_array("n", "uint8", ["x"], [2], None, -1), atlas.ValueOutOfRange, OverflowError),
        (lambda: view.write_array("t", [0, 0], np.zeros((2, 2))), atlas.DataTypeError, TypeError),
        (lambda: view.write_array("t", [9, 0], field(0)), atlas.SelectionError, IndexError),
        (lambda: view.read_array("t", [0, 0], [11, 1]), atlas.SelectionError, IndexError),
        (lambda: view.read_array("t", [0]), atlas.SelectionError, ValueError),
        (lambda: view.read_array("t", [-1, 0], [1, 1]), atlas.SelectionError, IndexError),
        (lambda: store.read_array_across("t", []), atlas.InvalidArgument, ValueError),
        (lambda: store.read_array_across("t", "d00"), atlas.InvalidArgument, ValueError),
        (lambda: store.read_array_across("t", ["zz"]), atlas.DatasetNotFound, KeyError),
        (lambda: store.read_array_across_stacked("zz", ["d00"]), atlas.ArrayNotFound, KeyError),
        (lambda: Atlas.open(fleet, mode="r").create_dataset("n"), atlas.ReadOnlyStore, PermissionError),
    ]
    for call, ours, builtin in cases:
        with pytest.raises(ours) as caught:
            call()
        assert isinstance(caught.value, atlas.AtlasError)
        assert isinstance(caught.value, builtin)
        assert str(caught.value)
    assert view.list_arrays() == ["t", "label"], "refused definitions leave no trace"


BIG = 10**400


def test_arguments_of_the_wrong_kind_are_refused_by_us(fleet, tmp_path):
    store = Atlas.open(fleet)
    view = store.open_dataset("d00")

    def define(dtype, fill, dims=("x",)):
        return lambda: view.define_array("n", dtype, dims, [2], None, fill)

    cases = [
        (lambda: store.open_dataset(["d00"]), KeyError),
        (lambda: store.read_array_across("t", None), ValueError),
        (lambda: store.read_array_across("t", [7]), ValueError),
        (lambda: store.read_array_across("t", [["d00"]]), ValueError),
        (lambda: store.read_array_across(["t"], ["d00"]), KeyError),
        (lambda: view.write_array(["t"], [0, 0], field(0)), KeyError),
        (lambda: view.read_arrays("t"), ValueError),
        (lambda: view.get_attribute(["k"]), ValueError),
        (lambda: view.set_attribute("\udc80", 1), TypeError),
        (lambda: view.set_attribute("k", 1, "complex64"), ValueError),
        (lambda: view.set_attribute("k", BIG, "float64"), OverflowError),
        (lambda: view.set_attribute("k", [1.5, 1e300], "float32"), OverflowError),
        (lambda: Atlas.create(tmp_path / "n", config={"codec": "zstd"}), ValueError),
        (lambda: Atlas.open(fleet, executor="gpu"), ValueError),
        (define(None, None), ValueError),
        (define("int8", None, ["\udc80"]), TypeError),
        (define("string", "\udc80"), TypeError),
        (define("float32", BIG), OverflowError),
        (define("float16", 1e6), OverflowError),
        (define("complex64", 1e300j), OverflowError),
        (define("timestamp_ns", np.datetime64("9999-01-01")), OverflowError),
        (define("datetime64[s]", np.datetime64("2020-01-01T00:00:00.5")), OverflowError),
    ]
    for number, (call, builtin) in enumerate(cases):
        with pytest.raises(builtin) as caught:
            call()
        assert isinstance(caught.value, atlas.AtlasError), (number, caught.value)
        assert caught.value.__cause__ is None
    assert ["d00"] not in store
    assert view.read_array(["t"]) is None
    assert view.list_arrays() == ["t", "label"]


def test_a_refused_definition_is_no_change(fleet):
    before = files(fleet)
    store = Atlas.open(fleet, on_type_mismatch="error")
    with pytest.raises(atlas.TypeMismatch):
        store.open_dataset("d00").set_attribute("number", "text")
    store.open_dataset("d01").delete_array("t")
    store.open_dataset("d01").define_array("other", "int8", [], [])
    store.refresh()
    store = Atlas.open(fleet, on_type_mismatch="error")
    with pytest.raises(atlas.TypeMismatch):
        store.create_dataset("new").define_array("t", "string", ["x"], [1])
    store.delete_dataset("new")
    with pytest.raises(atlas.ArrayAlreadyExists):
        store.open_dataset("d00").define_array("t", "float32", ["x"], [1])
    store.flush()
    assert files(fleet) == before


def test_a_write_is_seen_whole_by_other_threads(fleet):
    store = Atlas.open(fleet)
    view = store.open_dataset("d00")
    stop = threading.Event()
    torn = []

    def read() -> None:
        while not stop.is_set():
            row = store.read_array_across_stacked("t", ["d00"])[0]
            if len(np.unique(row)) != 1:
                torn.append(row)

    view.write_array("t", [0, 0], np.zeros((10, 12), np.float32))
    readers = [threading.Thread(target=read) for _ in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    for reader in readers:
        reader.start()
    for value in range(300):
        view.write_array("t", [0, 0], np.full((10, 12), value, np.float32))
        view.set_attribute(f"k{value % 7}", value)
        view.attributes()
    stop.set()
    for reader in readers:
        reader.join()
    sys.setswitchinterval(interval)
    assert not torn


def test_disjoint_writers_merge_and_others_conflict(fleet):
    one, two, three = (Atlas.open(fleet) for _ in range(3))
    one.open_dataset("d01").write_array("t", [0, 0], field(101))
    one.create_dataset("from_one").set_attribute("k", 1)
    two.open_dataset("d02").write_array("t", [0, 0], field(102))
    two.create_dataset("from_two")
    two.delete_dataset("d03")
    three.open_dataset("d02").set_attribute("k", 3)
    one.flush()
    two.flush()
    with pytest.raises(atlas.ConflictError) as caught:
        three.flush()
    assert caught.value.datasets == ("d02",)
    store = Atlas.open(fleet)
    assert store.list_datasets()[-2:] == ["from_one", "from_two"]
    np.testing.assert_array_equal(store.read_array_across_stacked("t", ["d01", "d02"]), [field(101), field(102)])
    one.refresh()
    assert "from_two" in one
    assert "d03" not in one


def test_sixteen_threads_share_one_handle(place):
    store = Atlas.create(place)
    errors = []

    def work(i: int) -> None:
        try:
            for j in range(5):
                name = f"t{i}_{j}"
                view = add_fields(store, name, i, "v")
                store.flush()
                np.testing.assert_array_equal(view.read_array("v"), field(i))
                names = [n for n in store.list_datasets() if n.startswith(f"t{i}_")]
                stacked = store.read_array_across_stacked("v", names)
                np.testing.assert_array_equal(stacked, np.broadcast_to(field(i), stacked.shape))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(Atlas.open(place)) == 80


def test_a_store_and_a_view_pickle_as_their_place(fleet):
    store = pickle.loads(pickle.dumps(Atlas.open(fleet)))
    np.testing.assert_array_equal(store.open_dataset("d01").read_array("t"), field(1))
    view = pickle.loads(pickle.dumps(store.open_dataset("d02")))
    np.testing.assert_array_equal(view.read_array("t"), field(2))
    store.create_dataset("x")
    with pytest.raises(ValueError, match="flush"):
        pickle.dumps(store)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
def test_a_read_only_copy_opens_without_a_lock_file(fleet):
    (fleet / ".atlas.lock").unlink()
    store = Atlas.open(fleet, mode="r")
    np.testing.assert_array_equal(store.open_dataset("d01").read_array("t"), field(1))
    assert not (fleet / ".atlas.lock").exists(), "opening for reading writes nothing"


def test_the_older_packages_names(fleet, monkeypatch):
    from atlas import _atlas

    for name, value in (("handlers", []), ("level", logging.WARNING)):
        monkeypatch.setattr(logging.getLogger("atlas"), name, value)
    store = Atlas.open(str(fleet))
    assert _atlas.Atlas is Atlas
    assert isinstance(store.open_dataset("d00"), _atlas.DatasetView)
    assert store._inner.dataset_exists("d00")
    assert set(store.open_dataset("d00").read_arrays(["t", "zz"])) == {"t", "zz"}
    atlas.init_tracing("atlas=warn")
    with pytest.raises(ValueError):
        atlas.init_tracing("atlas=loud")


# --- a commit that happened although it was reported as failed


def test_changes_that_were_committed_after_all_are_committed_once(place, monkeypatch):
    Atlas.create(place)
    store = Atlas.open(place)
    store.create_dataset("a").define_array("t", "int8", ["x"], [3])
    store.open_dataset("a").write_array("t", [0], np.array([1, 2, 3], "int8"))
    with monkeypatch.context() as broken:
        broken.setattr(local, "sync_parent", fail_with_eio)
        with pytest.raises(StorageError):
            store.flush()
    assert Atlas.open(place).list_datasets() == ["a"]
    store.create_dataset("b")
    store.flush()
    assert Atlas.open(place).list_datasets() == ["a", "b"]
    assert Atlas.open(place).open_dataset("a").read_array("t").tolist() == [1, 2, 3]


def test_an_interrupt_behind_a_commit_makes_no_conflict_with_it(place, monkeypatch):
    store = Atlas.create(place)
    store.create_dataset("a").set_attribute("n", 1)

    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(store._session, "adopt", interrupt)
        with pytest.raises(KeyboardInterrupt):
            store.flush()
    assert Atlas.open(place).open_dataset("a").get_attribute("n") == 1
    store.open_dataset("a").set_attribute("n", 2)
    store.create_dataset("b")
    assert store.list_datasets() == ["a", "b"]
    store.flush()
    assert Atlas.open(place).list_datasets() == ["a", "b"]
    assert Atlas.open(place).open_dataset("a").get_attribute("n") == 2


def fail_with_eio(path):
    raise OSError(errno.EIO, "Input/output error")


def test_a_root_that_cannot_be_looked_at_is_not_an_absent_store(place, monkeypatch):
    Atlas.create(place)
    original = os.stat

    def fail(path, *args, **kwargs):
        if str(path).endswith("atlas.json"):
            raise OSError(errno.EIO, "Input/output error")
        return original(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", fail)
    with pytest.raises(StorageError, match=r"atlas\.json"):
        Atlas.create(place)


def test_a_root_left_by_an_overwrite_that_died_is_removed(place):
    Atlas.create(place)
    old = (place / "atlas.json").read_bytes()
    Atlas.create(place, meta_format="msgpack", overwrite=True)
    (place / "atlas.json").write_bytes(old)
    (place / ".atlas.lock").write_bytes(b"w")
    store = Atlas.open(place)
    assert store.info()["root"] == "atlas.msgpack"
    store.create_dataset("a")
    store.flush()
    assert not (place / "atlas.json").exists()


def test_a_root_that_changes_its_name_while_it_is_looked_for(place, monkeypatch):
    Atlas.create(place, meta_format="msgpack")
    original, missed = LocalStorage.read, []

    def read(storage, key):
        if key == "atlas.msgpack" and not missed:
            missed.append(key)
            Atlas.create(place, overwrite=True)
        return original(storage, key)

    monkeypatch.setattr(LocalStorage, "read", read)
    assert Atlas.open(place).info()["root"] == "atlas.json"


def test_opening_holds_the_files_before_it_knows_their_generation(fleet, monkeypatch):
    """Another process compacts between the root's being read and its being claimed."""
    original, compacted = session.load_root, []

    def load(storage):
        root = original(storage)
        if not compacted:
            compacted.append(1)
            other = Atlas.open(fleet)
            other.delete_dataset("d00")
            other.flush()
            other.compact()
        return root

    monkeypatch.setattr(session, "load_root", load)
    store = Atlas.open(fleet)
    assert len(store.read_array_across("t", store.list_datasets())) == 20
