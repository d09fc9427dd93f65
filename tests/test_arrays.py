"""Every type, rank, chunking and selection, against NumPy as the oracle."""

from __future__ import annotations

import tempfile
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import atlas
from atlas import Atlas
from atlas.dtypes import parse_dtype
from atlas.text import unpack_text

NUMERIC = [
    *(["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]),
    *(["float16", "float32", "float64", "complex64", "complex128"]),
    *(["timestamp_nanoseconds", "datetime64[s]", "datetime64[us]", "timedelta64[ns]", "timedelta64[ms]"]),
]
EXECUTORS = ["serial", "threads"]
NAT = np.iinfo(np.int64).min


def numpy_type(name: str) -> np.dtype:
    return np.dtype("datetime64[ns]" if name == "timestamp_nanoseconds" else name)


def cells(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Any bits at all, NaN payloads included; booleans are 0 and 1."""
    rng = np.random.default_rng(seed)
    if name == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if name == "binary":
        flat = np.empty(int(np.prod(shape)), object)
        flat[:] = [rng.bytes(n) for n in rng.integers(0, 5, flat.size)]
        return flat.reshape(shape)
    if name == "string":
        alphabet = ["", "a", "ü", "🌊" * 3, "\0", "x" * 300]
        return np.array([alphabet[i] for i in rng.integers(0, len(alphabet), int(np.prod(shape)))], object).reshape(
            shape
        )
    dtype = numpy_type(name)
    raw = rng.integers(0, 256, int(np.prod(shape)) * dtype.itemsize, dtype=np.uint8)
    return raw.view(dtype).reshape(shape)


def same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    if expected.dtype == object:
        assert found.tolist() == expected.tolist()
    else:
        assert np.ascontiguousarray(found).tobytes() == np.ascontiguousarray(expected).tobytes()


@pytest.mark.parametrize("dtype", NUMERIC)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (7, 5), (3, 0, 2), (2, 3, 2, 3, 2, 2)])
@pytest.mark.parametrize("codec", ["zstd", "none"])
def test_every_type_and_rank_round_trips_to_the_bit(place, dtype, shape, codec):
    data = cells(dtype, shape, 1)
    with Atlas.create(place, codec=codec) as store:
        view = store.create_dataset("d")
        view.define_array("v", dtype, [f"d{i}" for i in range(len(shape))], shape, [2] * len(shape))
        view.write_array("v", [0] * len(shape), data)
        same(view.read_array("v"), data)
    store = Atlas.open(place)
    same(store.open_dataset("d").read_array("v"), data)
    same(store.read_array_across_stacked("v", ["d", "d"]), np.stack([data, data]))


@pytest.mark.parametrize("dtype", [*NUMERIC, "string", "binary"])
def test_unwritten_cells_read_back_as_the_default(place, dtype):
    store = Atlas.create(place)
    view = store.create_dataset("d")
    view.define_array("v", dtype, ["x"], [5], [2])
    default = {"string": "", "binary": b""}.get(dtype)
    expected = np.full(5, default, object) if default is not None else np.zeros(5, numpy_type(dtype))
    same(view.read_array("v"), expected)
    store.flush()
    same(Atlas.open(place).open_dataset("d").read_array("v"), expected)


@pytest.mark.parametrize(
    ("dtype", "fill"),
    [
        ("int32", -1),
        ("uint64", 2**63 + 5),
        ("float64", float("nan")),
        ("float32", float("-inf")),
        ("bool", True),
        ("string", "N/A"),
        ("binary", b"\xff"),
        ("complex64", 1 + 2j),
        ("timestamp_nanoseconds", -(2**63)),
        ("timedelta64[s]", 7),
    ],
)
def test_fill_values_per_type(place, dtype, fill):
    with Atlas.create(place) as store:
        view = store.create_dataset("d")
        view.define_array("v", dtype, ["x"], [6], [2], fill)
        kind = object if dtype in ("string", "binary") else numpy_type(dtype)
        first = np.zeros(1, kind) if kind is not object else np.array([type(fill)()], object)
        view.write_array("v", [0], first)
    view = Atlas.open(place).open_dataset("d")
    found = view.read_array("v")
    rest = np.full(5, fill, object) if kind is object else np.array([fill] * 5).astype(found.dtype)
    same(found[:1], first)
    np.testing.assert_array_equal(found[1:], rest)
    np.testing.assert_array_equal(view.array_fill_value("v"), fill)
    assert view.array_stats("v")["null_count"] == 5
    assert view.array_stats("v")["row_count"] == 6


def test_input_in_any_memory_order_is_converted_or_refused(place):
    store = Atlas.create(place)
    view = store.create_dataset("d")
    data = np.arange(24, dtype=np.float64).reshape(4, 6)
    view.define_array("v", "float64", ["y", "x"], [4, 6], [3, 4])
    for form in (data[::-1, ::-1], np.asfortranarray(data), data.astype(">f8"), data.T.copy().T, data.tolist()):
        view.write_array("v", [0, 0], form)
        same(view.read_array("v"), np.ascontiguousarray(form, dtype="=f8"))
    for wrong in (data.astype("f4"), data.astype("i8"), data.astype("U8"), data.astype(object)):
        with pytest.raises(TypeError):
            view.write_array("v", [0, 0], wrong)


def test_written_data_is_copied(place):
    store = Atlas.create(place)
    view = store.create_dataset("d")
    view.define_array("v", "int64", ["x"], [4])
    data = np.arange(4)
    view.write_array("v", [0], data)
    data[:] = 9
    assert view.read_array("v").tolist() == [0, 1, 2, 3]


def test_text_from_every_form_and_of_every_length(place):
    big = "é" * 2_000_000
    with Atlas.create(place) as store:
        view = store.create_dataset("d")
        for name, data in {
            "object": np.array(["a", big, ""], object),
            "bytes": np.array([b"AAA", b"BB", "ü".encode()]),
            "unicode": np.array(["foo", "barr", "\U0001f30a"]),
        }.items():
            view.define_array(name, "string", ["x"], [3])
            view.write_array(name, [0], data)
        view.define_array("raw", "binary", ["x"], [2])
        view.write_array("raw", [0], np.array([b"\xff\x00", b""], object))
        with pytest.raises(TypeError):
            view.write_array("object", [0], np.array([b"\xff"], object))
        with pytest.raises(TypeError):
            view.write_array("object", [0], np.array(["\udc80"], object))
        with pytest.raises(TypeError):
            view.write_array("object", [0], np.array([None], object))
    store = Atlas.open(place)
    view = store.open_dataset("d")
    assert view.read_array("object").tolist() == ["a", big, ""]
    assert view.read_array("bytes").tolist() == ["AAA", "BB", "ü"]
    assert view.read_array("unicode").tolist() == ["foo", "barr", "\U0001f30a"]
    assert view.read_array("raw").tolist() == [b"\xff\x00", b""]
    assert view.array_stats("bytes") == {"row_count": 3, "null_count": 0, "min": b"AAA", "max": "ü".encode()}
    assert store.read_array_across_stacked("unicode", ["d", "d"], [1], [2]).tolist() == [["barr", "\U0001f30a"]] * 2


FILLS = {
    "bool": [True],
    "int8": [-128, 5],
    "uint64": [2**64 - 1],
    "float16": [float("nan"), 65504.0],
    "float32": [float("nan"), 0.1, float("-inf")],
    "float64": [float("nan"), 0.1, -0.0],
    "complex64": [complex(0.1, float("inf"))],
    "timestamp_nanoseconds": [NAT, 7],
    "datetime64[s]": [np.datetime64("2020-01-01")],
    "timedelta64[ms]": [np.timedelta64(3, "s")],
    "string": ["", "N/A", "🌊\0"],
    "binary": [b"", b"\xff\0"],
}
FORMS = {
    "plain": lambda data: data,
    "byte-swapped": lambda data: data.astype(data.dtype.newbyteorder()),
    "column-major": lambda data: np.array(data, order="F"),
    "strided": lambda data: np.repeat(data, 2, axis=-1)[..., ::2] if data.ndim else data,
    "reversed": lambda data: data[::-1].copy()[::-1] if data.ndim else data,
    "broadcast": lambda data: np.broadcast_to(data, (1, *data.shape))[0, ...],
}


@st.composite
def boxes(draw, shape):
    start = [draw(st.integers(0, n)) for n in shape]
    return start, [draw(st.integers(0, n - first)) for n, first in zip(shape, start, strict=True)]


@st.composite
def histories(draw):
    """A chunked array, boxes written to it one after the other, each flushed or not, and a box to read."""
    ndim = draw(st.integers(0, 6))
    longest = 9 if ndim < 3 else 3
    shape = tuple(draw(st.integers(0 if ndim > 1 else 1, longest)) for _ in range(ndim))
    chunks = tuple(draw(st.integers(1, longest + 2)) for _ in range(ndim))
    dtype = draw(st.sampled_from([*NUMERIC, "string", "binary"]))
    fill = draw(st.sampled_from([None, *FILLS.get(dtype, [])]))
    step = st.tuples(
        boxes(shape), st.sampled_from(["nothing", "flush", "compact", "reopen"]), st.sampled_from([*FORMS])
    )
    return shape, chunks, dtype, fill, draw(st.lists(step, max_size=5)), draw(boxes(shape))


def place_of(start: list[int], size: list[int]) -> tuple[slice, ...]:
    return tuple(slice(first, first + n) for first, n in zip(start, size, strict=True))


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(histories(), st.sampled_from(["zstd", "lz4", "none"]), st.sampled_from(EXECUTORS))
def test_any_history_of_writes_reads_back_like_numpy(history, codec, executor):
    shape, chunks, dtype, fill, steps, (begin, extent) = history
    text = dtype in ("string", "binary")
    unwritten = fill if fill is not None else {"string": "", "binary": b""}.get(dtype, 0)
    if dtype == "timestamp_nanoseconds":
        unwritten = np.int64(unwritten).view("M8[ns]")
    expected = np.empty(shape, object if text else numpy_type(dtype))
    expected.fill(unwritten)  # np.full strips the zeros that bytes end in
    with tempfile.TemporaryDirectory() as directory:
        place = f"{directory}/s"
        store = Atlas.create(place, codec=codec, workers=2, executor=executor)
        view = store.create_dataset("d")
        view.define_array("v", dtype, [f"d{i}" for i in range(len(shape))], shape, chunks, fill)
        for seed, ((start, size), then, form) in enumerate(steps):
            data = cells(dtype, tuple(size), seed)
            given_data = data if text and form == "byte-swapped" else FORMS[form](data)
            given_data.flags.writeable = False
            view.write_array("v", start, given_data)
            expected[place_of(start, size)] = data[()]  # a 0-d object array would be put inside
            same(view.read_array("v"), expected)
            if then != "nothing":
                store.flush()
            if then == "compact":
                store.compact()
            if then == "reopen":
                store = Atlas.open(place, workers=2, executor=executor)
                view = store.open_dataset("d")
        store.flush()
        fresh = Atlas.open(place, workers=2, executor=executor)
        part = np.asarray(expected[place_of(begin, extent)], dtype=expected.dtype)
        same(fresh.read_array_across_stacked("v", ["d"] * 3, begin, extent), np.stack([part] * 3))
        same(fresh.read_array_across("v", ["d"], begin, extent)[0], part)
        found = fresh.open_dataset("d").array_stats("v")
        check_statistics(found, expected, unwritten if fill is not None else None)
        store.compact()
        same(Atlas.open(place).open_dataset("d").read_array("v"), expected)


def check_statistics(found, expected: np.ndarray, fill) -> None:
    cells = expected.reshape(-1)
    absent = np.zeros(cells.size, bool) if cells.dtype == object or cells.dtype.kind in "biu" else cells != cells
    # NumPy would take the zero bytes from the end of a text that it compares with.
    equal = np.array([cell == fill for cell in cells], bool)
    null = np.zeros(cells.size, bool) if fill is None else (absent if fill != fill else equal)
    assert (found["row_count"], found["null_count"]) == (cells.size, np.count_nonzero(null))
    kept = cells[~(absent | null)]
    if kept.dtype.kind in "Mm":
        kept = kept.view("i8")
    if kept.dtype == object:
        kept = [cell.encode() if isinstance(cell, str) else cell for cell in kept]
    bounds = (min(kept), max(kept)) if len(kept) and expected.dtype.kind != "c" else (None, None)
    assert (found["min"], found["max"]) == bounds


@settings(max_examples=30)
@given(
    st.lists(st.text(st.characters(codec="utf-8")) | st.binary(max_size=40), min_size=1, max_size=12), st.integers(1, 5)
)
def test_any_text_comes_back_as_it_is(values, chunk):
    for dtype, kind in (("string", str), ("binary", bytes)):
        data = np.array([value for value in values if isinstance(value, kind)] + [kind()], dtype=object)
        with tempfile.TemporaryDirectory() as place:
            with Atlas.create(place) as store:
                view = store.create_dataset("d")
                view.define_array("v", dtype, ["x"], data.shape, [chunk])
                view.write_array("v", [0], data)
            same(Atlas.open(place).open_dataset("d").read_array("v"), data)


@pytest.mark.parametrize(
    ("lengths", "text", "said"),
    [
        ([2, 1], b"a\xc3\xa9", "not UTF-8"),  # one letter over two cells
        ([1, 1], b"a\xff", "not UTF-8"),
        ([1, 7], b"aa", "do not add up"),
        ([1], b"a", "too short"),
    ],
)
def test_a_chunk_of_forged_text_is_refused(lengths, text, said):
    with pytest.raises(atlas.CorruptChunk, match=said):
        unpack_text(np.array(lengths, "<u4").tobytes() + text, parse_dtype("string"), (2,))


@pytest.mark.parametrize("cell", ["\ud800", "a\udfffb", "\udc80" * 100_000])
def test_text_without_a_utf8_form_is_refused_in_a_few_words(place, cell):
    view = Atlas.create(place).create_dataset("d")
    view.define_array("v", "string", ["x"], [2])
    for data in (np.array(["ok", cell], dtype=object), np.array(["ok", cell])):
        with pytest.raises(atlas.DataTypeError, match=r"'v'.*lone surrogate") as caught:
            view.write_array("v", [0], data)
        assert len(str(caught.value)) < 400
    with pytest.raises(atlas.DataTypeError, match="fill value"):
        view.define_array("w", "string", ["x"], [2], None, cell)
    assert view.read_array("v").tolist() == ["", ""]


def test_input_that_is_no_plain_array(place):
    view = Atlas.create(place).create_dataset("d")
    view.define_array("v", "float64", ["x"], [3])
    masked = np.ma.masked_array([1.0, 2.0, 3.0], [False, True, False])
    with pytest.raises(atlas.DataTypeError, match="1 cells of the data are masked"):
        view.write_array("v", [0], masked)
    view.write_array("v", [0], np.ma.masked_array([1.0, 2.0, 3.0]))
    view.write_array("v", [1], masked.filled(9.0)[1:])
    assert view.read_array("v").tolist() == [1.0, 9.0, 3.0]
    for rows in ([masked], (masked, masked), [[1.0, 2.0], list(masked)], [1.0, np.ma.masked]):
        with pytest.raises(atlas.DataTypeError, match="cells of the data are masked"):
            view.write_array("v", [0], rows)
        with pytest.raises(atlas.DataTypeError, match="cells of the data are masked"):
            view.append("v", rows)
    assert view.read_array("v").tolist() == [1.0, 9.0, 3.0]
    view.define_array("w", "float64", ["y", "x"], [2, 3])
    view.write_array("w", [0, 0], [np.ma.masked_array([1.0, 2.0, 3.0]), (4.0, 5.0, 6.0)])
    assert view.read_array("w").tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    endless: list = []
    endless.append(endless)
    fields = np.ma.masked_array(np.zeros(3, "f8,f8"))
    for ragged in ([[1.0, 2.0], [3.0]], fields, None, "text", {"a": 1}, endless):
        with pytest.raises(atlas.DataTypeError):
            view.write_array("v", [0], ragged)


def test_as_many_cells_as_no_float_counts_are_counted(place):
    size = 1 << 57
    for fill in (None, 0):
        with Atlas.create(place, overwrite=True) as store:
            view = store.create_dataset("d")
            view.define_array("v", "int8", ["x"], [size], [1], fill)
            view.write_array("v", [5], np.array([7], "i1"))
        stats = Atlas.open(place).open_dataset("d").array_stats("v")
        assert stats == {
            "row_count": size,
            "null_count": 0 if fill is None else size - 1,
            "min": 0 if fill is None else 7,
            "max": 7,
        }


@settings(max_examples=60)
@given(hnp.arrays(np.float64, hnp.array_shapes(max_dims=2, max_side=6)), st.sampled_from([None, 0.0, float("nan")]))
def test_statistics_of_floats(data, fill):
    with tempfile.TemporaryDirectory() as place:
        with Atlas.create(place + "/s") as store:
            view = store.create_dataset("d")
            view.define_array("v", "float64", [f"d{i}" for i in range(data.ndim)], data.shape, None, fill)
            view.write_array("v", [0] * data.ndim, data)
        found = Atlas.open(place + "/s").open_dataset("d").array_stats("v")
    null = np.zeros(data.shape, bool) if fill is None else (np.isnan(data) if fill != fill else data == fill)
    kept = data[~null & ~np.isnan(data)]
    assert found["null_count"] == null.sum()
    assert (found["min"], found["max"]) == ((kept.min(), kept.max()) if kept.size else (None, None))


def test_stacking_what_cannot_be_stacked(place):
    store = Atlas.create(place)
    for name, shape, dtype in (("a", [3], "int8"), ("b", [3], "int8"), ("c", [4], "int8"), ("d", [3], "int16")):
        store.create_dataset(name).define_array("v", dtype, ["x"], shape)
    store.create_dataset("e")
    for ready in (False, True):
        with pytest.raises(atlas.ShapeMismatch, match=r"'a' has int8 \[3\], dataset 'c' has int8 \[4\]"):
            store.read_array_across_stacked("v", ["a", "b", "c"])
        with pytest.raises(atlas.ShapeMismatch, match="'d' has int16"):
            store.read_array_across_stacked("v", ["a", "d"])
        with pytest.raises(atlas.ArrayNotFound, match="'e' has no array 'v'"):
            store.read_array_across_stacked("v", ["a", "e"])
        filled = store.read_array_across_stacked("v", ["e", "a"], on_missing="fill")
        assert filled.tolist() == [[0, 0, 0]] * 2
        mixed = store.read_array_across("v", ["c", "e", "d"])
        assert [None if part is None else (part.shape, part.dtype.name) for part in mixed] == [
            ((4,), "int8"),
            None,
            ((3,), "int16"),
        ]
        if not ready:
            store.flush()


def test_reading_into_out(fleet):
    store = Atlas.open(fleet)
    out = np.empty((2, 3, 4), np.float32)
    result = store.read_array_across_stacked("t", ["d01", "d02"], [1, 1], [3, 4], out=out)
    assert result is out
    same(out, store.read_array_across_stacked("t", ["d01", "d02"], [1, 1], [3, 4]))
    for wrong in (
        np.empty((2, 3, 5), np.float32),
        np.empty((2, 3, 4)),
        [1],
        np.empty((2, 4, 3), np.float32).swapaxes(1, 2),
    ):
        with pytest.raises(ValueError):
            store.read_array_across_stacked("t", ["d01", "d02"], [1, 1], [3, 4], out=wrong)


def test_one_array_of_different_types_keeps_its_statistics(place):
    with Atlas.create(place) as store:
        for name, dtype, data in (
            ("a", "float32", np.float32([1.5])),
            ("b", "int64", np.array([2**62])),
            ("c", "string", ["x"]),
        ):
            view = store.create_dataset(name)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                view.define_array("v", dtype, ["x"], [1])
            view.write_array("v", [0], np.array(data, object) if dtype == "string" else data)
    store = Atlas.open(place)
    for _ in range(2):
        assert [store.open_dataset(n).array_stats("v")["max"] for n in "abc"] == [1.5, 2**62, b"x"]
        store.open_dataset("b").set_attribute("k", 1)
        store.flush()
        store.compact()
