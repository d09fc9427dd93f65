"""Tables of names, attributes and statistics, for pandas and Arrow."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from atlas import Atlas
from atlas.errors import InvalidArgument, MissingDependency

TIME = np.array(["2019-01-01", "2020-02-02T03:04:05"], "M8[ns]")


@pytest.fixture
def store(place) -> Atlas:
    store = Atlas.create(place)
    store.create_datasets(["gone", "both"], attributes={"lat": [1.5, 2.5]})
    attributes = {
        "lat": np.array([-3.5, 4.25]),
        "deck": np.array([1, 2], "i1"),
        "when": TIME,
        "ok": [True, False],
        "platform": ["ship", "buoy"],
        "tags": [["a"], ["b", "c"]],
    }
    arrays = {
        "t": {"dims": ["x"], "data": np.array([[1, 2], [3, 4]], "f4"), "attributes": {"units": "K"}},
        "s": {"dims": ["x"], "data": np.array([["é", "a"], ["z", "y"]], object)},
        "w": {"dims": ["x"], "data": TIME[:, None]},
        "n": {"dims": ["x"], "data": np.array([[2**53 + 1], [-1]])},
    }
    store.create_datasets(["c", "d"], arrays, attributes)
    store.delete_dataset("gone")
    store.flush()
    return store


def test_a_data_frame_has_the_types_that_are_stored(store):
    frame = store.table()
    assert frame.dataset.tolist() == ["both", "c", "d"]
    types = {name: str(frame.dtypes[name]) for name in ("lat", "deck", "when", "ok", "t.min", "n.max", "w.max")}
    assert types == {
        "lat": "float64",
        "deck": "Int8",
        "when": "datetime64[ns]",
        "ok": "boolean",
        "t.min": "float32",
        "n.max": "Int64",
        "w.max": "datetime64[ns]",
    }
    assert frame.lat.tolist() == [2.5, -3.5, 4.25]
    assert frame.tags.tolist()[1:] == [["a"], ["b", "c"]]
    last = frame.set_index("dataset").loc["d"]
    assert (last.deck, last.ok, last.platform, last["t:units"]) == (2, False, "buoy", "K")
    assert (last["t.min"], last["t.max"], last["t.row_count"], last["t.null_count"]) == (3, 4, 2, 0)
    assert (last["s.min"], last["s.max"], last["w.max"]) == ("y", "z", TIME[1])
    assert frame["n.max"][1] == 2**53 + 1
    missing = frame.isna().iloc[0]
    assert sorted(missing.index[~missing]) == ["dataset", "lat"]


def test_only_what_is_asked_for_is_in_it(store):
    assert list(store.table(["n"], ["lat"], [("t", "units")])) == [
        *("dataset", "lat", "t:units", "n.row_count", "n.null_count", "n.min", "n.max")
    ]
    full = Atlas.create(store._session.storage.local_path + "-full")
    full.create_datasets(["a", "b"], attributes={"n": np.array([1, 2], "u2"), "f": True})
    full.flush()
    assert {name: str(kind) for name, kind in full.table().dtypes.items() if name != "dataset"} == {
        "n": "uint16",
        "f": "bool",
    }


def test_lists_of_one_length_are_no_axes(place):
    store = Atlas.create(place)
    store.create_datasets(["a", "b"], attributes={"tags": [["x", "y"], ["z", "w"]]})
    store.flush()
    assert store.table().tags.tolist() == [["x", "y"], ["z", "w"]]


def test_an_arrow_table_holds_the_same(store):
    table = store.table(kind="arrow")
    types = {name: str(table.schema.field(name).type) for name in ("lat", "deck", "when", "platform", "tags", "t.max")}
    assert types == {
        "lat": "double",
        "deck": "int8",
        "when": "timestamp[ns]",
        "platform": "string",
        "tags": "list<item: string>",
        "t.max": "float",
    }
    assert table.column("deck").to_pylist() == [None, 1, 2]
    assert table.column("s.min").to_pylist() == [None, "a", "y"]
    assert table.column("n.min").to_pylist() == [None, 2**53 + 1, -1]
    frame = store.table()
    for name in table.column_names:
        found = [None if value is None else value for value in table.column(name).to_pylist()]
        assert [value is None for value in found] == frame[name].isna().tolist(), name


def test_types_that_differ_stay_as_they_are(place):
    store = Atlas.create(place)
    views = [store.create_dataset(name) for name in "abc"]
    views[0].set_attribute("k", 1)
    views[1].set_attribute("k", 2.5)
    with pytest.warns(UserWarning, match="cannot merge"):
        views[2].set_attribute("k", "x")
    store.flush()
    assert store.table().k.tolist() == [1, 2.5, "x"]


def test_a_package_that_is_missing_is_named(store, monkeypatch):
    with pytest.raises(InvalidArgument, match="kind"):
        store.table(kind="polars")
    for module, kind in (("pandas", "pandas"), ("pyarrow", "arrow")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(MissingDependency, match=r"atlas-fleet\[table\]"):
            store.table(kind=kind)


def test_neither_is_loaded_before_it_is_asked_for():
    code = "import sys, atlas; print([name for name in ('pandas', 'pyarrow') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
