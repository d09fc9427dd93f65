"""Statistics, pruning and queries, against brute force over the data."""

from __future__ import annotations

import datetime
import math
import operator
import random
from pathlib import Path

import numpy as np
import pytest

import atlas
from atlas import Atlas, box, col, commitfiles

FILL = 9999.0


class Fleet:
    """A random fleet, and what it holds as plain Python."""

    def __init__(self, place: Path, seed: int, count: int = 120) -> None:
        self.random = random.Random(seed)
        self.place = place
        self.cells: dict[str, dict[str, list]] = {}
        self.attributes: dict[str, dict] = {}
        store = Atlas.create(place)
        for i in range(count):
            self.add(store, f"d{i:03d}")
            if self.random.random() < 0.1:
                store.flush()
        store.flush()
        for name in self.random.sample(list(self.cells), count // 5):
            self.change(store, name)
        store.flush()

    def add(self, store: Atlas, name: str) -> None:
        rng, view = self.random, store.create_dataset(name)
        self.cells[name], self.attributes[name] = {}, {}
        if rng.random() < 0.8:
            fill = FILL if rng.random() < 0.7 else None
            self.write(
                view, "t", "float32", fill, [rng.choice([*map(float, range(8)), FILL, math.nan]) for _ in range(4)]
            )
        if rng.random() < 0.7:
            self.write(view, "n", "int64", None, [rng.choice([0, 1, 5, 2**60, 2**60 + 1, -7]) for _ in range(3)])
        if rng.random() < 0.6:
            self.write(view, "s", "string", "", [rng.choice(["", "a", "ab", "é", "z\0"]) for _ in range(3)])
        if rng.random() < 0.6:
            self.write(view, "when", "datetime64[s]", None, [rng.randrange(0, 10**9) for _ in range(2)])
        for key, value in {
            "lat": rng.choice([1.5, 2.0, math.nan]),
            "id": rng.randrange(9),
            "kind": rng.choice("xyz"),
        }.items():
            if rng.random() < 0.8:
                view.set_attribute(key, value)
                self.attributes[name][key] = value

    def write(self, view, array, dtype, fill, cells) -> None:
        view.define_array(array, dtype, ["i"], [len(cells)], [2], fill)
        if self.random.random() < 0.9:
            data = np.array(cells, object if dtype == "string" else "M8[s]" if dtype.startswith("datetime") else dtype)
            view.write_array(array, [0], data)
        else:
            cells = [{"s": ""}.get(array, 0) if fill is None else fill] * len(cells)
        self.cells[view.name][array] = [c for c in cells if c == c and (fill is None or c != fill)]

    def change(self, store: Atlas, name: str) -> None:
        what = self.random.randrange(3)
        if what == 0:
            store.delete_dataset(name)
            del self.cells[name], self.attributes[name]
        elif what == 1 and "n" in self.cells[name]:
            store.open_dataset(name).write_array("n", [0], np.array([3, 3, 3]))
            self.cells[name]["n"] = [3, 3, 3]
        elif "t" in self.cells[name]:
            store.open_dataset(name).delete_array("t")
            del self.cells[name]["t"]

    def matching(self, test) -> list[str]:
        """Names for which a test of (cells, attributes) is True; None is null."""
        return [name for name in self.cells if test(self.cells[name], self.attributes[name]) is True]


def some(array, test):
    return lambda cells, _: None if array not in cells else any(map(test, cells[array]))


def of(array, pick, test):
    return lambda cells, _: None if not cells.get(array) else test(pick(cells[array]))


def attribute(key, test):
    def ask(_, attributes):
        value = attributes.get(key)
        return None if value is None or value != value else test(value)

    return ask


def moment(day):
    return int(np.datetime64(day, "s").astype(int))


# A condition, and what it means.
CONDITIONS = [
    (col("t") > 5, some("t", lambda c: c > 5)),
    (col("t") <= 0.5, some("t", lambda c: c <= 0.5)),
    (col("t") == 3, some("t", lambda c: c == 3)),
    (col("t") != 3, some("t", lambda c: c != 3)),
    (col("t").between(2.5, 4), some("t", lambda c: 2.5 <= c <= 4)),
    (col("t").isin([1, 6]), some("t", lambda c: c in (1, 6))),
    (col("t").max() > 5, of("t", max, lambda c: c > 5)),
    (col("t").min() == 0, of("t", min, lambda c: c == 0)),
    (col("t").exists(), lambda cells, _: "t" in cells),
    (col("n") == 2**60 + 1, some("n", lambda c: c == 2**60 + 1)),
    (col("n").max() > 2.0**60, of("n", max, lambda c: c > 2**60)),
    (col("n").min() < -6.5, of("n", min, lambda c: c < -6.5)),
    (col("n") == 0.5, some("n", lambda c: False)),
    (col("n") < math.inf, some("n", lambda c: True)),
    (col("n") > 2**70, some("n", lambda c: False)),
    (col("s") == "ab", some("s", lambda c: c == "ab")),
    (col("s").max() >= "é", of("s", lambda cells: max(c.encode() for c in cells), lambda c: c >= "é".encode())),
    (col("s") == "z\0", some("s", lambda c: c == "z\0")),
    (col("when") > "1990-01-01", some("when", lambda c: c > moment("1990-01-01"))),
    (col("when").max() <= np.datetime64("1985-06-01T00", "ns"), of("when", max, lambda c: c <= moment("1985-06-01"))),
    (col("when") < datetime.datetime(1980, 1, 1), some("when", lambda c: c < moment("1980-01-01"))),
    (col("when") < "9999-01-01", some("when", lambda c: True)),
    (col.attr("lat") > 1.75, attribute("lat", lambda v: v > 1.75)),
    (col.attr("id").between(2, 5), attribute("id", lambda v: 2 <= v <= 5)),
    (col.attr("kind") == "x", attribute("kind", lambda v: v == "x")),
    (col.attr("kind").isin(["x", "z"]), attribute("kind", lambda v: v in "xz")),
    (col.attr("kind").exists(), lambda _, attributes: "kind" in attributes),
    (box(t=(2, 4), n=(0, None)), None),
]


def three_valued(op, first, second):
    def both(cells, attributes):
        a, b = first(cells, attributes), second(cells, attributes)
        if op == "and":
            return False if a is False or b is False else None if a is None or b is None else True
        return True if a is True or b is True else None if a is None or b is None else False

    return both


def negated(test):
    return lambda cells, attributes: {True: False, False: True, None: None}[test(cells, attributes)]


def combined(rng: random.Random, depth: int):
    if not depth:
        return rng.choice(CONDITIONS[:-1])
    (one, is_one), (two, is_two) = combined(rng, depth - 1), combined(rng, depth - 1)
    kind = rng.randrange(3)
    if kind == 0:
        return one & two, three_valued("and", is_one, is_two)
    if kind == 1:
        return one | two, three_valued("or", is_one, is_two)
    return ~one, negated(is_one)


@pytest.mark.parametrize("inline", [0, 1 << 16])
@pytest.mark.parametrize("seed", range(3))
def test_selections_are_what_brute_force_finds(tmp_path, monkeypatch, seed, inline):
    monkeypatch.setattr(commitfiles, "INLINE_BYTES", inline)
    fleet = Fleet(tmp_path / "s", seed)
    store = Atlas.open(tmp_path / "s")
    rng = random.Random(2 * seed + bool(inline))
    cases = [*CONDITIONS[:-1], *(combined(rng, depth) for depth in (1, 2, 3) for _ in range(12))]
    for compacted in (False, True):
        if compacted:
            store.compact()
        assert store.list_datasets() == list(fleet.cells)
        for condition, test in cases:
            expected = fleet.matching(test)
            found = store.select(condition)
            certain = [name for name, sure in zip(found, found.certain, strict=True) if sure]
            assert set(certain) <= set(expected) <= set(found)
            assert list(store.select(condition, confirm=True)) == expected


def test_a_box_is_one_line_and_a_selection_reads(fleet):
    store = Atlas.open(fleet)
    found = store.select(box(t=(62, None)), col.attr("number") < 18)
    assert list(found) == [f"d{i:02d}" for i in range(3, 18)]
    assert found.certain.all()
    assert len(found[2:4]) == 2
    assert found[0] == "d03"
    assert "d04" in found
    np.testing.assert_array_equal(found.stack("t", [9, 11], [1, 1]).reshape(-1), np.arange(3, 18) + 59.5)
    assert [part.shape for part in found[:2].read("label")] == [(3,), (3,)]
    assert repr(found) == "<Selection of 15 datasets, 15 for certain>"


def test_what_cannot_be_asked_is_refused(fleet):
    store = Atlas.open(fleet)
    refused = [
        (lambda: store.select(col("temprature") > 1), atlas.ArrayNotFound),
        (lambda: store.select(col.attr("zz") == 1), atlas.InvalidArgument),
        (lambda: store.select(col("t") > "warm"), atlas.DataTypeError),
        (lambda: store.select(col("label") > 1), atlas.DataTypeError),
        (lambda: store.select(col("t") == math.nan), atlas.InvalidArgument),
        (lambda: store.select(), atlas.InvalidArgument),
        (lambda: (col("t") > 1) and (col("t") < 2), atlas.DataTypeError),
        (lambda: (col("t") > 1) & True, atlas.DataTypeError),
        (lambda: col("t").isin([]), atlas.InvalidArgument),
        (lambda: box(), atlas.InvalidArgument),
    ]
    for call, error in refused:
        with pytest.raises(error):
            call()


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("max(t) > 70", 9),
        ("70 < max(t)", 9),
        ("attr(number) >= 5 and attr(number) < 7", 2),
        ("3 <= t <= 3.2", 4),
        ('attr(t, "units") == "K" and not attr(number) in [1, 2]', 18),
        ("attr(number) not in [1, 2] or rows(t) == 3", 18),
        ('cells("label") == "a"', 20),
        ("exists(t) and nulls(t) == 0", 20),
    ],
)
def test_conditions_as_text(fleet, text, count):
    assert len(Atlas.open(fleet).select(text, confirm=True)) == count


@pytest.mark.parametrize(
    "text",
    ["", "t", "1", "max(t) >", "__import__('os')", "t.max() > 1", "max(t, t) > 1", "t > [1]", "1 < 2", "f'{t}' == 1"],
)
def test_text_that_is_no_condition_is_refused(fleet, text):
    with pytest.raises(atlas.InvalidArgument, match="cannot be understood"):
        Atlas.open(fleet).select(text)


def test_ls_where_on_the_command_line(fleet, terminal):
    assert terminal("ls", fleet, "--where", "attr(number) in [3, 11]").split() == ["d03", "d11"]
    terminal("ls", fleet, "--where", "max(zz) > 1", status=1)
    assert terminal.errors.count("\n") == 1


def test_the_pruning_index_holds_what_reads_return(tmp_path):
    fleet = Fleet(tmp_path / "s", 7)
    store = Atlas.open(tmp_path / "s")
    index = store.pruning_index(arrays=["t", "s"], global_attrs=["lat", "kind"])
    assert set(index["columns"]) == {"t", "s", "lat", "kind"}
    assert index["rows"] == store.row_slots() == len(index["datasets"]) == len(index["live"])
    assert [name for name in index["datasets"] if name] == list(fleet.cells)
    for row, name in enumerate(index["datasets"]):
        assert index["live"][row] == (name is not None)
        for array in ("t", "s"):
            column = {key: values[row] for key, values in index["columns"][array].items()}
            cells = fleet.cells.get(name, {}).get(array)
            assert column["present"] == (cells is not None)
            assert column["stats_valid"] == bool(cells)
            if cells and array == "t":
                assert (column["min"], column["max"]) == (min(cells), max(cells))
                view = store.open_dataset(name)
                assert column["row_count"] == 4
                if view.array_stats("t"):
                    assert column["null_count"] == view.array_stats("t")["null_count"]
            if array == "s":
                expected = (None, None) if not cells else (min(map(str.encode, cells)), max(map(str.encode, cells)))
                assert (column["min"], column["max"]) == expected
        kind = fleet.attributes.get(name, {}).get("kind")
        assert index["columns"]["kind"]["max"][row] == (None if kind is None else kind.encode())
    assert index["columns"]["t"]["min"].dtype == index["columns"]["lat"]["max"].dtype == np.float64
    assert set(store.pruning_index()["columns"]) == {"t", "n", "s", "when", "lat", "id", "kind"}


def test_column_summaries(tmp_path):
    fleet = Fleet(tmp_path / "s", 3)
    summaries = Atlas.open(tmp_path / "s").column_summaries()
    cells = [cell for arrays in fleet.cells.values() for cell in arrays.get("n", [])]
    present = sum("n" in arrays for arrays in fleet.cells.values())
    assert summaries["n"] == {"min": min(cells), "max": max(cells), "present_count": present}
    assert summaries["kind"]["min"] == b"x"
    assert set(summaries) == {"t", "n", "s", "when", "lat", "id", "kind"}


def test_only_the_files_of_what_is_asked_are_read(fleet):
    store = Atlas.open(fleet)
    opened = []
    storage = store._session.storage
    plain = storage.read_range
    storage.read_range = lambda key, *place: opened.append(key.split("/")[0]) or plain(key, *place)
    store.select(col.attr("number") == 3)
    assert opened == []
    store.select(col("t").max() > 1)
    assert opened == ["t"]


def test_conditions_on_text_that_nobody_has_written(tmp_path):
    with Atlas.create(tmp_path / "s") as store:
        view = store.create_dataset("empty")
        view.define_array("s", "string", ["x"], [0])
        view.define_array("other", "string", ["x"], [1], None, "")
    assert list(store.select(col("s") > "a")) == []
    assert list(store.select(col("s").max() != col("other").max())) == []


def test_integers_and_floats_compare_exactly_beyond_what_floats_hold(place):
    big = 2**53
    store = Atlas.create(place)
    integers = [big, big + 1, big + 2, -big - 1, 2**63 - 1]
    floats = [float(big), float(big), float(big), -float(big), 2.0**63]
    store.create_datasets([f"d{i}" for i in range(5)], None, {"i": integers, "f": floats})
    store.flush()
    literals = [big + d for d in range(-2, 4)] + [-big - 1, 2**63 - 1, 2**63, 10**400, -(10**400), big + 0.0]
    for op in ("gt", "ge", "lt", "le", "eq", "ne"):
        compare = getattr(operator, op)
        for key, values in (("i", integers), ("f", floats)):
            for literal in literals:
                expected = [f"d{i}" for i, value in enumerate(values) if compare(value, literal)]
                assert list(store.select(compare(col.attr(key), literal))) == expected, (op, key, literal)
        expected = [f"d{i}" for i in range(5) if compare(integers[i], floats[i])]
        assert list(store.select(compare(col.attr("i"), col.attr("f")))) == expected, op
        expected = [f"d{i}" for i in range(5) if compare(floats[i], integers[i])]
        assert list(store.select(compare(col.attr("f"), col.attr("i")))) == expected, op


@pytest.mark.parametrize("fill", [None, 7])
def test_statistics_of_what_was_never_written_agree(place, fill):
    store = Atlas.create(place)
    view = store.create_dataset("a")
    view.define_array("v", "int16", ["x"], [5], fill_value=fill)
    assert view.array_stats("v") is None
    store.flush()
    column = store.pruning_index(["v"])["columns"]["v"]
    found = {key: column[key][0].item() for key in ("row_count", "null_count", "min", "max")}
    if not column["stats_valid"][0]:
        found |= {"min": None, "max": None}
    assert (
        view.array_stats("v")
        == found
        == {
            "row_count": 5,
            "null_count": 0 if fill is None else 5,
            "min": 0 if fill is None else None,
            "max": 0 if fill is None else None,
        }
    )


def test_a_range_goes_around_where_its_first_end_is_above_its_last(place):
    store = Atlas.create(place)
    store.create_datasets(list("abc"), {"lon": {"dims": ["x"], "data": np.array([[170.0], [0.0], [-175.0]])}})
    store.flush()
    assert list(store.select(box(lon=(165, -170)))) == ["a", "c"]
    assert list(store.select(box(lon=(np.float32(165), np.int16(-170))))) == ["a", "c"]
    assert list(store.select(box(lon=(-170, 165)))) == ["b"]
    assert list(store.select(col("lon").between(165, -170))) == []


def test_one_cell_has_to_lie_within_a_range_in_text(place):
    store = Atlas.create(place)
    store.create_datasets(["apart", "within"], {"t": {"dims": ["x"], "data": np.array([[0, 9], [3, 9]])}})
    store.flush()
    for text in ("1 < t < 5", "5 > t > 1", "1 <= t <= 5"):
        assert list(store.select(text, confirm=True)) == ["within"], text
    assert list(store.select("3 < t < 9", confirm=True)) == []


def test_some_item_of_an_attribute_that_is_a_list(place):
    store = Atlas.create(place)
    for name, tags in (("a", ["argo", "deep"]), ("b", ["deep"]), ("c", ["argo"])):
        store.create_dataset(name).set_attribute("tags", tags)
    store.flush()
    tags = col.attr("tags")
    assert list(store.select(tags == "argo")) == ["a", "c"]
    assert list(store.select(~(tags == "argo"))) == ["b"]
    assert list(store.select(tags.between("b", "e"))) == list(store.select("'b' <= attr(tags) < 'e'")) == ["a", "b"]
    assert list(store.select(tags != "argo")) == ["a", "b"]


def test_no_time_is_no_value_and_units_do_not_mix(place):
    store = Atlas.create(place)
    store.create_datasets(["a", "b"], {"s": {"dims": [], "data": np.array([5, 6], "M8[s]")}})
    store.open_dataset("a").set_attribute("when", np.datetime64("NaT", "s"))
    store.open_dataset("b").define_array("n", "timestamp_nanoseconds", [], [])
    store.flush()
    assert list(store.select(~(col.attr("when") > "2019-01-01"))) == []
    for condition in (col("s").max() > col("n").max(), col("s").max() > 2.5, col.attr("when") > True):
        with pytest.raises(atlas.DataTypeError):
            store.select(condition)


def test_text_and_numbers_under_one_name(place):
    store = Atlas.create(place)
    store.create_dataset("a").set_attribute("k", 1)
    with pytest.warns(UserWarning, match="cannot merge"):
        store.create_dataset("b").set_attribute("k", "x")
    store.flush()
    assert store.column_summaries()["k"] == {"min": None, "max": None, "present_count": 2}
    assert list(store.select(col.attr("k") != 1)) == ["b"]
    assert list(store.select(~(col.attr("k") > 0))) == ["b"]


def test_statistics_in_equal_steps_beyond_what_is_signed(place):
    cells = np.arange(3, dtype="u8") + np.uint64(2**63)
    store = Atlas.create(place)
    store.create_datasets(list("abc"), {"n": {"dims": [], "data": cells}})
    store.flush()
    assert store.pruning_index(["n"])["columns"]["n"]["max"].tolist() == cells.tolist()


def test_a_list_beside_a_statistic_that_is_not_there_is_no_match(place):
    with Atlas.create(place) as store:
        # Of two types, and nothing but fill in one: bounds that are no column of numbers.
        for name, dtype, cell in (("a", "int64", 5), ("b", "uint64", 7), ("c", "int64", 0)):
            view = store.create_dataset(name)
            view.define_array("n", dtype, [], [], fill_value=0)
            view.write_array("n", [], np.array(cell, dtype))
            view.set_attribute("k", [1.5])
    assert list(Atlas.open(place).select(col("n").min() >= col.attr("k"))) == ["a", "b"]
