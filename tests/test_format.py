"""Reads stores from docs/format.md alone: nothing of the package but what wrote them."""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path

import fsspec
import lz4.block
import lz4.frame
import msgpack
import numpy as np
import pytest
import xxhash
import zstandard

import atlas
from atlas import commitfiles

GOLDEN = Path(__file__).parent / "golden"
CASES = [
    (fmt, compression, codec)
    for fmt in ("json", "msgpack")
    for compression in ("none", "zstd", "lz4")
    for codec in ("zstd", "lz4", "none")
]
SPECIAL = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


def expected() -> dict[str, dict[str, np.ndarray]]:
    """What every golden store holds; made of formulas so that nothing but this code says what is right."""
    grid = (np.arange(35, dtype="f4").reshape(5, 7) * 0.25) - 3
    grid[1, 2] = np.nan
    partial = np.full((4, 4), -5, "i2")
    partial[:2, :3] = np.arange(6).reshape(2, 3)
    text = np.array(["", "a", "üñ", "🌊" * 40], object)
    return {
        "first": {"grid": grid, "partial": partial, "text": text, "when": np.array([0, 10**18], "M8[ns]")},
        "zweite": {"grid": grid[::-1] * 2, "scalar": np.array(7, "u8"), "text": text[::-1]},
        "third": {"constant": np.full(1000, 2.5), "flag": np.arange(9) % 3 == 0, "raw": np.array([b"\0\xff"], object)},
    }


def build(place: Path | str, fmt: str, compression: str, codec: str) -> None:
    data = expected()
    fills = {"grid": float("nan"), "partial": -5, "text": "", "constant": 0.0}
    chunks = {"grid": [2, 3], "partial": [2, 2]}
    types = {"when": "timestamp_nanoseconds", "text": "string", "raw": "binary"}
    with atlas.Atlas.create(place, codec, fmt, compression) as store:
        store.create_dataset("gone").set_attribute("k", 1)
        for name, arrays in data.items():
            view = store.create_dataset(name)
            for array, cells in arrays.items():
                dims = [f"{array}_{i}" for i in range(cells.ndim)]
                dtype = types.get(array, cells.dtype.name)
                view.define_array(array, dtype, dims, cells.shape, chunks.get(array), fills.get(array))
                box = cells[:2, :3] if array == "partial" else cells
                view.write_array(array, [0] * cells.ndim, box)
            view.set_attribute("name", name)
            view.set_attribute("ratio", np.float32(0.5))
            view.set_attribute("limits", [1.5, math.inf])
        store.flush()
        store.delete_dataset("gone")
        # A second data file, whose chunks win over those of the first.
        store.open_dataset("first").write_array("grid", [0, 0], data["first"]["grid"][:3])


def packed_cells(payload: bytes, extent: list[int], dtype: np.dtype) -> np.ndarray:
    """Read a packed chunk, one number at a time."""
    kind, code, axes, flags = payload[:4]
    masked, patched, size = flags & 1, flags & 2, 8 if flags & 4 else 4
    cells, item = math.prod(extent), dtype.itemsize
    chosen = [axis for axis in range(len(extent)) if axes >> axis & 1]
    boxes = []
    for box in range(1 << len(chosen)):
        place = [slice(None)] * len(extent)
        for i, axis in enumerate(chosen):
            place[axis] = slice(1, None) if box >> i & 1 else slice(0, 1)
        boxes.append(tuple(place))
    counts = [np.empty(extent, bool)[box].size for box in boxes]
    sizes = [min(1024, count - at) for count in counts for at in range(0, count, 1024)]
    patches, at = (int.from_bytes(payload[4:8], "little"), 8) if patched else (0, 4)
    tail = len(payload) - (-(-cells // 8) if masked else 0)
    widths = payload[tail - len(sizes) : tail]
    bases = [int.from_bytes(payload[at + size * i : at + size * (i + 1)], "little") for i in range(len(sizes))]
    at += size * len(sizes)
    stream: list[int] = []
    for n, width, base in zip(sizes, widths, bases, strict=True):
        values, at = packed_block(payload, at, n, width)
        stream += [(value + base) % (1 << 8 * size) for value in values]
    numbers = np.empty(extent, object)
    taken = 0
    for box in boxes:
        part = numbers[box]
        part[...] = np.array([*stream[taken : taken + part.size], None], object)[:-1].reshape(part.shape)
        taken += part.size
    for axis in chosen:
        numbers = np.cumsum(numbers, axis=axis)
    signed = [(int(n) + (1 << 8 * size - 1)) % (1 << 8 * size) - (1 << 8 * size - 1) for n in numbers.reshape(-1)]
    scale = 2.0 ** (code - 64) if code >= 64 else 10.0**code
    if kind == 0:
        result = np.array([n % (1 << 8 * item) for n in signed], object).astype(f"<u{item}").view(bits_of(dtype))
    elif kind == 1:
        result = np.array(signed).astype(dtype) / dtype.type(scale)
    elif kind == 3:
        top = 8 * item - 1
        turned = [(n + (1 << top) - 1) % (1 << top + 1) for n in signed]
        ordered = [n if n >= 0 else n ^ ((1 << top) - 1) for n in signed]
        bits = [u >> 1 | (u & 1) << top for u in turned] if code else [n % (1 << top + 1) for n in ordered]
        result = np.array(bits, f"<u{item}").view(dtype)
    else:
        result = np.array(signed).astype(dtype) * dtype.type(1 / scale)
    if masked:
        special, at = payload[at : at + item], at + max(item, 4)
        holes = np.unpackbits(np.frombuffer(payload[tail:], np.uint8), bitorder="little")[:cells] == 1
        result[holes] = np.frombuffer(special, result.dtype)[0]
    where = np.frombuffer(payload, "<u4", patches, at)
    result[where] = np.frombuffer(payload, result.dtype, patches, at + 4 * patches)
    assert at + patches * (4 + item) == tail - len(sizes)
    return result.view(dtype)


def bits_of(dtype: np.dtype) -> np.dtype:
    return np.dtype("<i8") if dtype.kind in "Mm" else dtype


def packed_block(payload: bytes, at: int, n: int, width: int) -> tuple[list[int], int]:
    lanes = -(-n // 32)
    rows = -(-n // lanes)
    values = [0] * n
    for part, shift in ((min(width, 32), 0), (max(width - 32, 0), 32)):
        words = -(-rows * part // 32)
        table = np.frombuffer(payload, "<u4", words * lanes, at).reshape(words, lanes)
        at += 4 * words * lanes
        for i in range(n):
            lane = sum(int(word) << 32 * k for k, word in enumerate(table[:, i % lanes]))
            values[i] |= (lane >> i // lanes * part) % (1 << part) << shift
    return values, at


class Reader:
    """A reader that knows the specification and nothing else."""

    def __init__(self, place: Path) -> None:
        self.place = place
        roots = [p for p in place.iterdir() if p.name.startswith("atlas.")]
        assert len(roots) == 1
        parts = roots[0].name.split(".")
        plain = roots[0].read_bytes()
        if parts[-1] == "zst":
            plain = zstandard.ZstdDecompressor().decompress(plain)
        elif parts[-1] == "lz4":
            plain = lz4.frame.decompress(plain)
        at = 14 if parts[1] == "json" else 13 if plain[0] == 0xDE else 11
        blank = plain[:at] + b"0" * 16 + plain[at + 16 :]
        assert plain[at : at + 16].decode() == xxhash.xxh3_64_hexdigest(blank)
        self.root = json.loads(plain) if parts[1] == "json" else msgpack.unpackb(plain)
        assert (self.root["format"], self.root["version"]) == ("atlas", 1)

    def datasets(self) -> dict[str, tuple[int, dict, dict[str, int], list]]:
        """Every dataset's (ordinal, schema, sizes, attribute values) by name, in order of ordinal."""
        table = self.root["datasets"]
        found = {}
        for file in table["tables"]:
            head, columns = self.columns(file, b"ATLASAT1", "table-", ".at")
            assert head["slots"] <= table["slots"]
            rows = self.table_rows(head, columns)
            found = {o: row for o, row in found.items() if o not in columns["deleted"]} | rows
        for first, count in table["deleted"]:
            found = {o: row for o, row in found.items() if not first <= o < first + count}
        for part in table["parts"]:
            schema = self.root["schemas"][part["schema"]]
            ordinals = [first + i for first, count in part["ordinals"] for i in range(count)]

            def cell(column, row):
                return column["all"] if "all" in column else column["each"][row]

            for row, (ordinal, name) in enumerate(zip(ordinals, part["names"], strict=True)):
                sizes = {dim: cell(column, row) for dim, column in zip(schema["dims"], part["sizes"], strict=True)}
                values = [cell(column, row) for column in part["attributes"]]
                found[ordinal] = (name, schema, sizes, values)
        assert len(found) == table["count"]
        return {name: (ordinal, *rest) for ordinal, (name, *rest) in sorted(found.items())}

    def table_rows(self, head: dict, columns: dict) -> dict[int, tuple[str, dict, dict[str, int], list]]:
        rows = {}
        hashes = [xxhash.xxh3_64_intdigest(columns["name"][i][:-1]) for i in columns["order"]]
        assert columns["hash"].tolist() == hashes == sorted(hashes)
        for i, ordinal in enumerate(columns["ordinal"].tolist()):
            group, row = int(columns["group"][i]), int(columns["row"][i])
            schema = head["schemas"][group]
            assert row < head["rows"][group]
            sizes = {dim: int(columns[f"{group}.size.{k}"][row]) for k, dim in enumerate(schema["dims"])}
            layout = schema["attributes"] + [a for array in schema["arrays"] for a in array.get("attributes", [])]
            cells = [(tag, columns[f"{group}.attribute.{k}"][row]) for k, (_, tag) in enumerate(layout)]
            assert columns["name"][i].endswith(b"\0")
            rows[ordinal] = (columns["name"][i][:-1].decode(), schema, sizes, [self.value(*cell) for cell in cells])
        return rows

    @staticmethod
    def value(tag: str, cell):
        if tag.endswith("[]"):
            return msgpack.unpackb(cell)
        if isinstance(cell, bytes):
            return cell.decode()
        return {np.inf: "Infinity", -np.inf: "-Infinity"}.get(cell.item(), "NaN" if cell != cell else cell.item())

    def index(self, array: str, file: dict) -> dict[str, np.ndarray]:
        directory, columns = self.columns(file, b"ATLASAF1", "data-", ".af")
        assert directory["array"] == array
        return columns

    def columns(self, file: dict, magic: bytes, prefix: str, ending: str) -> tuple[dict, dict]:
        data = (self.place / file["file"]).read_bytes()
        assert data[:8] == magic
        assert data[8:24].hex() == file["file"].split(prefix)[1].removesuffix(ending)
        offset, length = file["index"]
        area = data[offset : offset + length]
        size = int.from_bytes(area[-8:], "little")
        packed = area[-8 - size : -8]
        assert xxhash.xxh3_64_hexdigest(packed) == file["hash"]
        directory = msgpack.unpackb(packed)
        assert directory["store"] == self.root["store"]
        assert directory["generation"] <= self.root["generation"]
        return directory, {column["name"]: self.column(area, column) for column in directory["columns"]}

    @staticmethod
    def column(area: bytes, column: dict):
        data = area[column["offset"] : column["offset"] + column["length"]]
        assert xxhash.xxh3_64_intdigest(data) == column["hash"]
        count = column["count"]
        if column["encoding"] == "zstd":
            data = zstandard.ZstdDecompressor().decompress(data)
        if column["dtype"] == "bytes" and column["encoding"] == "constant":
            return [data] * count
        if column["dtype"] == "bytes":
            ends = 4 * count + np.cumsum(np.frombuffer(data, "<u4", count).astype(int))
            starts = [4 * count, *ends[:-1]]
            return [data[a:b] for a, b in zip(starts, ends, strict=True)]
        if column["encoding"] == "constant":
            return np.repeat(np.frombuffer(data, column["dtype"], 1), count)
        if column["encoding"] == "range":
            first, step = np.frombuffer(data, "<i8", 2)
            return first + step * np.arange(count)
        return np.frombuffer(data, column["dtype"], count)

    def array(self, dataset: str, name: str) -> np.ndarray:
        ordinal, schema, sizes, _ = self.datasets()[dataset]
        array = next(item for item in schema["arrays"] if item["name"] == name)
        shape = array.get("shape", [sizes[dim] for dim in array["dims"]])
        chunk = array.get("chunk_shape", [max(n, 1) for n in shape])
        dtype, text = self.numpy_type(array["dtype"])
        result = np.full(shape, self.fill(array, dtype, text), dtype)
        counts = [-(-n // c) for n, c in zip(shape, chunk, strict=True)]
        for file in self.root["arrays"].get(name, {"files": []})["files"]:
            index = self.index(name, file)
            row = 0
            for entry, count in zip(index["ordinal"], index["count"], strict=True):
                for i in range(row, row + count):
                    if entry == ordinal:
                        position = np.unravel_index(index["number"][i], counts) if counts else ()
                        box = tuple(
                            slice(int(p) * c, min((int(p) + 1) * c, n))
                            for p, c, n in zip(position, chunk, shape, strict=True)
                        )
                        extent = [s.stop - s.start for s in box]
                        result[box] = self.chunk(file, index, i, extent, dtype, text)
                row += count
        return result

    @staticmethod
    def numpy_type(name: str) -> tuple[np.dtype, str]:
        if name in ("string", "binary"):
            return np.dtype(object), name
        return np.dtype("M8[ns]" if name == "timestamp_nanoseconds" else name), ""

    @staticmethod
    def fill(array: dict, dtype: np.dtype, text: str):
        if "fill_value" not in array:
            return {"string": "", "binary": b""}.get(text, np.zeros((), dtype)[()])
        value = array["fill_value"]
        if text == "binary":
            return base64.b64decode(value)
        return value if text else SPECIAL.get(value, value)

    def chunk(self, file: dict, index: dict, i: int, extent: list[int], dtype: np.dtype, text: str) -> np.ndarray:
        data = (self.place / file["file"]).read_bytes()
        payload = data[int(index["offset"][i]) : int(index["offset"][i] + index["length"][i])]
        cells, pipeline = math.prod(extent), int(index["pipeline"][i])
        seal = 8 * -(-len(payload) // 8200) if pipeline & 128 else len(payload)
        assert xxhash.xxh3_64_intdigest(payload[:seal]) == index["checksum"][i]
        if pipeline & 128:
            hashes, payload, pipeline = payload[:seal], payload[seal:], pipeline & ~128
            for at in range(0, len(payload), 8192):
                assert xxhash.xxh3_64_digest(payload[at : at + 8192])[::-1] == hashes[at // 1024 : at // 1024 + 8]
        if pipeline == 64:
            return packed_cells(payload, extent or [1], dtype).reshape(extent)
        raw = {
            0: lambda: payload,
            1: lambda: zstandard.ZstdDecompressor().decompress(payload),
            2: lambda: lz4.block.decompress(payload),
            32: lambda: payload * cells,
        }[pipeline & ~16]()
        assert len(raw) == index["raw_length"][i]
        if text:
            return np.array([*self.split(raw, cells, text), None], object)[:-1].reshape(extent)
        if pipeline & 16:
            raw = np.frombuffer(raw, np.uint8).reshape(dtype.itemsize, cells).T.tobytes()
        return np.frombuffer(raw, dtype.newbyteorder("<")).reshape(extent)

    @staticmethod
    def split(raw: bytes, cells: int, text: str) -> list:
        lengths = np.frombuffer(raw, "<u4", cells)
        found, at = [], 4 * cells
        for length in lengths.tolist():
            cell = raw[at : at + length]
            found.append(cell.decode() if text == "string" else cell)
            at += length
        assert at == len(raw)
        return found


def check(reader: Reader, tables: int | None = None) -> None:
    data = expected()
    assert tables is None or len(reader.root["datasets"]["tables"]) == tables
    assert list(reader.datasets()) == list(data)
    for name, arrays in data.items():
        _, schema, _, values = reader.datasets()[name]
        assert [item["name"] for item in schema["arrays"]] == list(arrays)
        assert schema["attributes"] == [["name", "string"], ["ratio", "np.float32"], ["limits", "float64[]"]]
        assert values == [name, 0.5, [1.5, "Infinity"]]
        for array, cells in arrays.items():
            found = reader.array(name, array)
            assert found.dtype == cells.dtype
            np.testing.assert_array_equal(found, cells)


@pytest.mark.parametrize(("fmt", "compression", "codec"), CASES)
def test_a_store_is_read_from_the_specification_alone(tmp_path, fmt, compression, codec):
    build(tmp_path / "store", fmt, compression, codec)
    check(Reader(tmp_path / "store"))
    store = atlas.Atlas.open(tmp_path / "store")
    store.compact()
    check(Reader(tmp_path / "store"))


@pytest.mark.parametrize("fmt", ["json", "msgpack"])
def test_stores_of_object_stores_are_read_from_the_specification_alone(tmp_path, fmt):
    url, memory = f"memory://{tmp_path.name}", fsspec.filesystem("memory")
    build(url, fmt, "none", "zstd")
    memory.get(url, str(tmp_path / "store"), recursive=True)
    if fmt != "json":
        # The first state, which says where this one is.
        assert json.loads((tmp_path / "store" / "atlas.json").read_bytes())["next"] == "atlas.msgpack"
        (tmp_path / "store" / "atlas.json").unlink()
    reader = Reader(tmp_path / "store")
    check(reader)
    files = {file["file"]: file for entry in reader.root["arrays"].values() for file in entry["files"]}
    assert reader.root["indexes"].keys() == files.keys()
    for key, copy in reader.root["indexes"].items():
        first, length = files[key]["index"]
        copy = base64.b64decode(copy, validate=True) if fmt == "json" else copy
        assert copy == (tmp_path / "store" / key).read_bytes()[first : first + length]


@pytest.mark.parametrize("fmt", ["json", "msgpack"])
def test_table_files_are_read_from_the_specification_alone(tmp_path, monkeypatch, fmt):
    monkeypatch.setattr(commitfiles, "INLINE_BYTES", 0)
    monkeypatch.setattr(commitfiles, "TABLE_RATIO", 0)
    build(tmp_path / "store", fmt, "zstd", "zstd")
    check(Reader(tmp_path / "store"), tables=2)
    store = atlas.Atlas.open(tmp_path / "store")
    store.compact()
    check(Reader(tmp_path / "store"), tables=1)


def test_the_records_of_commits_bring_lost_roots_and_indexes_back(tmp_path):
    build(tmp_path / "store", "json", "none", "zstd")
    reader = Reader(tmp_path / "store")
    copies, known = {}, 0
    commits = {file["commit"] for entry in reader.root["arrays"].values() for file in entry["files"]}
    assert reader.root["commit"] in commits
    assert len(commits) == 2
    for commit in commits:
        data = (tmp_path / "store" / f"_catalog/commit-{commit}.ar").read_bytes()
        assert data[:8] == b"ATLASRC1"
        assert xxhash.xxh3_64_intdigest(data[16:]) == int.from_bytes(data[8:16], "little")
        size = int.from_bytes(data[16:24], "little")
        head = msgpack.unpackb(data[24 : 24 + size])
        assert head["object"] == "atlas.json"
        copies[commit], at = msgpack.unpackb(zstandard.decompress(head["root"])), 24 + size
        for key, length in head["indexes"]:
            # A file that a later commit took into its own is of no use any more.
            for file in (f for e in reader.root["arrays"].values() for f in e["files"] if f["file"] == key):
                assert file["commit"] == commit
                first, size = file["index"]
                assert data[at : at + length] == (tmp_path / "store" / key).read_bytes()[first : first + size]
                known += 1
            at += length
        assert at == len(data)
    assert known == sum(len(entry["files"]) for entry in reader.root["arrays"].values())
    newest = copies[reader.root["commit"]]
    # The record was written before it was known which records of older commits it makes useless.
    own = {"checksum": "", "retired": []}
    assert newest | own == reader.root | own


@pytest.mark.parametrize("name", [*("-".join(case) for case in CASES), "tables"])
def test_golden_stores_are_read_for_ever(name):
    place = GOLDEN / "v1" / name
    check(Reader(place), tables=2 if name == "tables" else 0)
    store = atlas.Atlas.open(place, mode="r")
    assert store.list_datasets() == list(expected())
    for name, arrays in expected().items():
        view = store.open_dataset(name)
        assert view.attributes() == {"name": name, "ratio": np.float32(0.5), "limits": [1.5, math.inf]}
        for array, cells in arrays.items():
            found = view.read_array(array)
            assert found.dtype == cells.dtype
            np.testing.assert_array_equal(found, cells)


ROOT_FLIPS = 120


@pytest.mark.parametrize(
    "name", ["json-none-zstd", "msgpack-none-zstd", "json-zstd-zstd", "msgpack-lz4-zstd", "tables"]
)
def test_a_flipped_bit_anywhere_is_an_error_or_changes_nothing(tmp_path, name):
    """Of the root, the data file that holds the grids, and tables; every one of them in `make torture PART=flips`."""
    source = GOLDEN / "v1" / name
    wanted = atlas.Atlas.open(source, mode="r").read_array_across_stacked("grid", ["first", "zweite"])
    place = tmp_path / "store"
    for path in source.rglob("*"):
        if path.is_file():
            (place / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (place / path.relative_to(source)).write_bytes(path.read_bytes())
    root = next(p for p in place.iterdir() if p.name.startswith("atlas."))
    rng = np.random.default_rng(0)
    refused = 0
    for target in (root, *(place / "grid").glob("*.af"), *place.glob("_catalog/*.at")):
        good = target.read_bytes()
        for at in rng.choice(len(good), min(len(good), ROOT_FLIPS), replace=False).tolist():
            damaged = bytearray(good)
            damaged[at] ^= 1 << int(rng.integers(8))
            target.write_bytes(damaged)
            try:
                found = atlas.Atlas.open(place, mode="r").read_array_across_stacked("grid", ["first", "zweite"])
                np.testing.assert_array_equal(found, wanted)
            except atlas.CorruptStore:
                refused += 1
        for length in {0, 1, 23, len(good) // 2, len(good) - 1}:
            target.write_bytes(good[:length])
            with pytest.raises(atlas.CorruptStore):
                atlas.Atlas.open(place, mode="r").read_array_across_stacked("grid", ["first", "zweite"])
        target.write_bytes(good)
    assert refused > ROOT_FLIPS


def test_a_damaged_chunk_is_named_and_leaves_the_others_readable(fleet):
    store = atlas.Atlas.open(fleet)
    file = store._session.snapshot.root.arrays["t"].files[0]
    index = store._session.snapshot.index("t")
    row = int(index.starts[4]) + 5
    path = fleet / file.key
    data = bytearray(path.read_bytes())
    data[int(index.columns["offset"][row]) + 3] ^= 1
    path.write_bytes(data)
    store = atlas.Atlas.open(fleet)
    names = store.list_datasets()
    with pytest.raises(atlas.CorruptChunk, match=r"'d04'.*chunk 5 of array 't'"):
        store.read_array_across_stacked("t", names)
    with pytest.raises(atlas.CorruptChunk, match="'d04'"):
        store.open_dataset("d04").read_array("t")
    names.remove("d04")
    assert store.read_array_across_stacked("t", names).shape == (19, 10, 12)
    assert store.open_dataset("d04").read_array("t", [0, 0], [4, 5]).shape == (4, 5)


def test_packed_chunks_are_read_from_the_page_alone(tmp_path):
    rng = np.random.default_rng(3)
    walk = np.cumsum(rng.normal(0, 3, (60, 40)), axis=0)
    masked = np.round(walk, 1).astype("f4")
    masked[rng.random(masked.shape) < 0.4] = np.nan
    signed = rng.uniform(1, 2, (60, 40)) * rng.choice([-1, 1], (60, 40))
    patched = np.round(walk, 3)
    patched[::9, 3] = [np.inf, -0.0, 1e300, 5e-324, -np.inf, 1 / 3, 0.1 + 0.2]
    arrays = {
        "f4": np.round(walk, 2).astype("f4"),
        "f8": np.round(walk, 4),
        "large": np.round(walk * 1e9, 2),
        "times": (np.arange(2400) ** 2 * 10**9 + 10**18).astype("M8[ns]").reshape(60, 40),
        "scaled": np.round(walk).astype("f4") * np.float32(0.01),
        "halves": np.round(walk * 32) / 32,
        "i2": np.round(walk).astype("i2"),
        "u8": np.round(walk * 1e6).astype("i8").astype("u8") + np.uint64(1 << 63),
        "masked": masked,
        "patched": patched,
        "noise": signed,
        "noise32": np.where(np.arange(2400).reshape(60, 40) % 17, signed, np.nan).astype("f4"),
        "small": (walk * 1e-30).astype("f4"),
    }
    with atlas.Atlas.create(tmp_path / "s") as store:
        view = store.create_dataset("d")
        for name, cells in arrays.items():
            dtype = "timestamp_nanoseconds" if name == "times" else cells.dtype.name
            view.define_array(name, dtype, ["y", "x"], cells.shape, [33, 40])
            view.write_array(name, [0, 0], cells)
    reader = Reader(tmp_path / "s")
    for name, cells in arrays.items():
        file = reader.root["arrays"][name]["files"][0]
        assert reader.index(name, file)["pipeline"].tolist() == [64, 64], name
        assert reader.array("d", name).tobytes() == cells.tobytes()
        assert view.read_array(name).tobytes() == cells.tobytes()


def test_sealed_payloads_are_read_from_the_page_alone(tmp_path):
    noise = np.random.default_rng(3).standard_normal((2, 11_000)).astype("f4")
    counter = np.arange(10_000, dtype="u4")
    with atlas.Atlas.create(tmp_path / "s") as store:
        view = store.create_dataset("d")
        view.define_array("noise", "float32", ["y", "x"], noise.shape, [1, 11_000])
        view.write_array("noise", [0, 0], noise)
    with atlas.Atlas.create(tmp_path / "raw", codec="none") as store:
        view = store.create_dataset("d")
        for name, count in (("counter", 10_000), ("small", 8191)):
            view.define_array(name, "uint32", ["x"], [count])
            view.write_array(name, [0], counter[:count])
    packed, raw = Reader(tmp_path / "s"), Reader(tmp_path / "raw")
    assert packed.index("noise", packed.root["arrays"]["noise"]["files"][0])["pipeline"].tolist() == [192, 192]
    assert packed.array("d", "noise").tobytes() == noise.tobytes()
    index = raw.index("counter", raw.root["arrays"]["counter"]["files"][0])
    # What every release must find.
    assert (index["pipeline"].tolist(), index["checksum"].tolist()) == ([128], [0xA5012984770B4B67])
    assert raw.array("d", "counter").tobytes() == counter.tobytes()
    assert raw.index("small", raw.root["arrays"]["small"]["files"][0])["pipeline"].tolist() == [0]
