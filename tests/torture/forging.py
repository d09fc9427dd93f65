"""Tools of a forger: change anything in a store, and seal it with the checksums that it asks for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import xxhash

from atlas.record import MAGIC


def seal(plain: bytes) -> bytes:
    """Return a JSON root with the checksum that its bytes ask for."""
    start = len('{"checksum": "')
    blank = plain[:start] + b"0" * 16 + plain[start + 16 :]
    return blank[:start] + xxhash.xxh3_64_hexdigest(blank).encode() + blank[start + 16 :]


def raw(values: Any, dtype: str) -> tuple[dict[str, Any], bytes]:
    """Return a column that is stored as it is."""
    data = np.array(list(values), dtype).tobytes()
    return {"dtype": dtype, "count": len(values), "encoding": "raw"}, data


class Forgery:
    """A store under the forger's hands; :meth:`save` seals the root."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.document = json.loads((place / "atlas.json").read_bytes())

    def save(self) -> None:
        """Write the root with the checksum it asks for."""
        (self.place / "atlas.json").write_bytes(seal(json.dumps(self.document).encode()))

    def text(self, change: Callable[[bytes], bytes]) -> None:
        """Change the text of the root."""
        plain = (self.place / "atlas.json").read_bytes()
        (self.place / "atlas.json").write_bytes(seal(change(plain)))

    def replace_root(self, key: str, data: bytes) -> None:
        """Put another root object in the place of this."""
        (self.place / "atlas.json").unlink()
        (self.place / key).write_bytes(data)

    def file(self, array: str = "t") -> dict[str, Any]:
        """Return the root's entry for the first file of an array, or for the table file."""
        found = self.document["datasets"]["tables"] if array == "table" else self.document["arrays"][array]["files"]
        return found[0]  # type: ignore[no-any-return]

    def index(
        self,
        change: Callable[[dict[str, Any], dict[str, tuple[dict[str, Any], bytes]]], None],
        array: str = "t",
        payload: bytes = b"",
        packed: bytes | None = None,
    ) -> None:
        """Change the directory and the columns (entry and bytes, by name) of a file; `payload` goes before them."""
        entry = self.file(array)
        path = self.place / entry["file"]
        data = path.read_bytes()
        begin, length = entry["index"]
        area = data[begin : begin + length]
        size = int.from_bytes(area[-8:], "little")
        directory = msgpack.unpackb(area[-8 - size : -8])
        columns = {
            column["name"]: (column, area[column["offset"] : column["offset"] + column["length"]])
            for column in directory.pop("columns")
        }
        change(directory, columns)
        begin += len(payload)
        new, listed = b"", []
        for name, (column, body) in columns.items():
            new += bytes(-len(new) % 8)
            place = {"name": name, "offset": len(new), "length": len(body), "hash": xxhash.xxh3_64_intdigest(body)}
            listed.append(
                place | {key: column[key] for key in ("dtype", "count", "encoding")} | column.get("forged", {})
            )
            new += body
        packed = packed if packed is not None else msgpack.packb(directory | {"columns": listed})
        new += packed + directory.get("forged_length", len(packed)).to_bytes(8, "little")
        path.write_bytes(data[: entry["index"][0]] + payload + new)
        entry |= {"length": begin + len(new), "index": [begin, len(new)], "hash": xxhash.xxh3_64_hexdigest(packed)}
        self.save()

    def column(self, name: str, values: Any, dtype: str, array: str = "t") -> None:
        """Exchange a column."""
        self.index(lambda _, columns: columns.update({name: raw(values, dtype)}), array)

    def entry(self, name: str, array: str = "t", body: bytes | None = None, **forged: Any) -> None:
        """Change what the directory says of a column."""

        def change(_: Any, columns: dict[str, Any]) -> None:
            column, data = columns[name]
            columns[name] = (column | {"forged": forged}, data if body is None else body)

        self.index(change, array)

    def numbers(self, name: str, array: str = "t") -> np.ndarray:
        """Return a chunk column as it is."""
        import atlas

        return np.array(atlas.Atlas.open(self.place)._session.snapshot.segments(array)[0].column(name))

    def chunk(
        self, payload: bytes, pipeline: int, array: str = "t", raw_length: int | None = None, checked: int | None = None
    ) -> None:
        """Give the first chunk another payload, with the checksum of it, or of so many bytes of it."""
        begin = self.file(array)["index"][0]
        columns = {
            name: self.numbers(name, array) for name in ("offset", "length", "raw_length", "pipeline", "checksum")
        }
        new = {
            "offset": begin,
            "length": len(payload),
            "raw_length": columns["raw_length"][0] if raw_length is None else raw_length,
            "pipeline": pipeline,
            "checksum": xxhash.xxh3_64_intdigest(payload[:checked]),
        }

        def change(_: Any, listed: dict[str, Any]) -> None:
            for name, values in columns.items():
                values = values.astype("<u8")
                values[0] = new[name]
                listed[name] = raw(values, "|u1" if name == "pipeline" else "<u8")

        self.index(change, array, payload + bytes(-(begin + len(payload)) % 8))

    def record(self, change: Callable[[bytes, dict[str, Any]], bytes]) -> None:
        """Lose the root, and change the only record: its bytes behind the head's length are given, with its head."""
        (path,) = (self.place / "_catalog").glob("*.ar")
        data = path.read_bytes()
        size = int.from_bytes(data[16:24], "little")
        rest = change(data[24 + size :], msgpack.unpackb(data[24 : 24 + size]))
        path.write_bytes(sealed_record(rest))
        (self.place / "atlas.json").unlink()


def with_head(head: Any, rest: bytes = b"") -> bytes:
    """Return what a record holds behind its hash."""
    packed = head if isinstance(head, bytes) else msgpack.packb(head)
    return len(packed).to_bytes(8, "little") + packed + rest


def sealed_record(rest: bytes) -> bytes:
    """Return a record with the hash that the rest of it asks for."""
    return MAGIC + xxhash.xxh3_64_intdigest(rest).to_bytes(8, "little") + rest
