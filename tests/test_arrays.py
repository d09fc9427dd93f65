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

NUMERIC = [
    *(["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]),
    *(["float16", "float32", "float64", "complex64", "complex128"]),
    *(["timestamp_nanoseconds", "datetime64[s]", "datetime64[us]", "timedelta64[ns]", "timedelta64[ms]"]),
]
EXECUTORS = ["serial", "threads"]


def numpy_type(name: str) -> np.dtype:
    return np.dtype("datetime64[ns]" if name == "timestamp_nanoseconds" else name)


def cells(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Any bits at all, NaN payloads included; booleans are 0 and 1."""
    rng = np.random.default_rng(seed)
    if name == "bool":
        return rng.integers(0, 2, shape).astype(bool)
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


@st.composite
def histories(draw):
    """A chunked array, and boxes written to it one after the other."""
    ndim = draw(st.integers(0, 4))
    shape = tuple(draw(st.integers(0 if ndim > 1 else 1, 7)) for _ in range(ndim))
    chunks = tuple(draw(st.integers(1, 9)) for _ in range(ndim))
    boxes = []
    for _ in range(draw(st.integers(0, 4))):
        start = [draw(st.integers(0, n)) for n in shape]
        extent = [draw(st.integers(0, n - s)) for n, s in zip(shape, start, strict=True)]
        boxes.append((start, extent, draw(st.booleans())))
    begin = [draw(st.integers(0, n)) for n in shape]
    selection = (begin, [draw(st.integers(0, n - s)) for n, s in zip(shape, begin, strict=True)])
    return shape, chunks, boxes, selection


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    histories(),
    st.sampled_from([*NUMERIC, "string"]),
    st.sampled_from(["zstd", "lz4", "none"]),
    st.sampled_from(EXECUTORS),
)
def test_any_history_of_writes_reads_back_like_numpy(history, dtype, codec, executor):
    shape, chunks, boxes, (begin, extent) = history
    text = dtype == "string"
    expected = np.full(shape, "", object) if text else np.zeros(shape, numpy_type(dtype))
    with tempfile.TemporaryDirectory() as place:
        store = Atlas.create(place + "/s", codec=codec, workers=2, executor=executor)
        view = store.create_dataset("d")
        view.define_array("v", dtype, [f"d{i}" for i in range(len(shape))], shape, chunks)
        for seed, (start, size, flush) in enumerate(boxes):
            data = cells(dtype, tuple(size), seed)
            view.write_array("v", start, data)
            expected[tuple(slice(s, s + e) for s, e in zip(start, size, strict=True))] = data
            same(view.read_array("v"), expected)
            if flush:
                store.flush()
        store.flush()
        box = tuple(slice(s, s + e) for s, e in zip(begin, extent, strict=True))
        fresh = Atlas.open(place + "/s", workers=2, executor=executor)
        part = np.asarray(expected[box], dtype=expected.dtype)
        same(fresh.read_array_across_stacked("v", ["d"] * 3, begin, extent), np.stack([part] * 3))
        same(fresh.read_array_across("v", ["d"], begin, extent)[0], part)
        if boxes and not text:
            check_statistics(
                fresh.open_dataset("d").array_stats("v"), expected, written=any(all(e) for _, e, _ in boxes)
            )
        store.compact()
        same(Atlas.open(place + "/s").open_dataset("d").read_array("v"), expected)


def check_statistics(found, expected: np.ndarray, written: bool) -> None:
    if found is None:
        assert not written or expected.size == 0
        return
    assert found["row_count"] == expected.size
    assert found["null_count"] == 0
    if expected.dtype.kind == "c":
        assert found["min"] is None
        return
    kept = expected[~np.isnan(expected)] if expected.dtype.kind == "f" else expected
    if expected.dtype.kind in "Mm":
        kept = expected.view("i8")[~np.isnat(expected)]
    assert found["min"] == (kept.min().item() if kept.size else None)
    assert found["max"] == (kept.max().item() if kept.size else None)


@settings(max_examples=60, deadline=None)
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
