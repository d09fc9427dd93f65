"""Stores and datasets as notebooks show them, and reasons as reports do: bounded in length; nothing is read."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import islice
from typing import Any

from atlas.attributes import decode_attribute
from atlas.schema import DatasetRecord
from atlas.session import Session

_ROWS = 20
_CHARACTERS = 60
_LONGEST_REASON = 400


def store_html(session: Session) -> str:
    """Return what is known of a store without looking into its files."""
    with session.lock:
        root, pending, count = session.snapshot.root, bool(session.pending), session.count()
    rows = [
        (name, len(root.arrays[name].files), _bytes(sum(file.length for file in root.arrays[name].files)))
        for name in islice(root.arrays, _ROWS)
    ]
    facts = f"{count:,} datasets, {len(root.arrays):,} arrays, commit {root.generation:,}, codec {root.config.codec}"
    table = _table(("array", "files", "stored"), rows, len(root.arrays))
    changes = "; changes are pending" if pending else ""
    return _box(f"Atlas {shortened(session.storage.describe())}", facts + changes, table)


def dataset_html(name: str, record: DatasetRecord) -> str:
    """Return what a dataset declares."""
    arrays = [
        (array, schema.dtype.name, _extents(schema.dims, schema.shape), " × ".join(map(str, schema.chunk_shape)))
        for array, schema in islice(record.arrays.items(), _ROWS)
    ]
    values = [(key, decode_attribute(*value)) for key, value in islice(record.attributes.items(), _ROWS)]
    facts = f"{len(record.arrays):,} arrays, {len(record.attributes):,} attributes"
    tables = _table(("array", "type", "shape", "chunks"), arrays, len(record.arrays))
    tables += _table(("attribute", "value"), values, len(record.attributes))
    return _box(f"Atlas dataset {shortened(name)}", facts, tables)


def _extents(dims: Sequence[str], shape: Sequence[int]) -> str:
    return ", ".join(f"{dim}: {size:,}" for dim, size in zip(dims, shape, strict=True)) or "scalar"


def _bytes(size: int) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024  # type: ignore[assignment]
    return f"{size:.4g} TiB"


def _box(title: str, facts: str, tables: str) -> str:
    return f"<div><strong>{escape(title)}</strong><br>{escape(facts)}{tables}</div>"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]], total: int) -> str:
    if not rows:
        return ""
    lines = ["".join(f"<th style='text-align:left'>{escape(cell)}</th>" for cell in head)]
    for row in rows:
        lines.append("".join(f"<td style='text-align:left'>{escape(shortened(cell))}</td>" for cell in row))
    if total > len(rows):
        lines.append(f"<td colspan='{len(head)}'>… and {total - len(rows):,} more</td>")
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def shortened(value: Any, most: int = _CHARACTERS) -> str:
    """Return a value as text of at most so many characters."""
    text = str(value)
    return text if len(text) <= most else f"{text[: most - 2]} …"


def reason_of(error: BaseException) -> str:
    """Return what an error of another library says, as one line: its kind, and of which variable it speaks."""
    # xarray notes the variable, and after that shows all of it.
    where = [note.partition(" with value ")[0] for note in getattr(error, "__notes__", ())]
    return in_one_line(": ".join([*where, type(error).__name__, str(error)]))


def in_one_line(text: str) -> str:
    """Return a reason as one line of bearable length."""
    return shortened(" ".join(text.split()), _LONGEST_REASON)
