"""Where datasets that are named have an array: in what is committed, or in pending changes over it."""

from __future__ import annotations

import numpy as np

from atlas.catalog import Alike, Listed
from atlas.chunks import Integers
from atlas.errors import ArrayNotFound, DatasetNotFound
from atlas.names import seek
from atlas.reader import Snapshot
from atlas.schema import ArraySchema
from atlas.session import Session
from atlas.writer import Overlay


def committed(session: Session, array: str, names: list[str]) -> tuple[Snapshot, list[tuple[ArraySchema, int]]] | None:
    """Look a few names up one by one; ``None`` where changes are pending, or one of them has no such array."""
    with session.lock:
        if session.pending or not isinstance(array, str):
            return None
        snapshot, catalog = session.snapshot, session.snapshot.root.catalog
        found = []
        for name in names:
            ordinal = catalog.ordinal(name)
            schema = catalog.record(ordinal).arrays.get(array) if ordinal >= 0 else None
            if schema is None:
                return None
            found.append((schema, ordinal))
        return snapshot, found


def resolve(session: Session, array: str, names: list[str]) -> tuple[Snapshot, list[Alike], dict[int, Overlay]]:
    """Look the names up: what is committed, by schema, and what pending changes override, by position."""
    if not isinstance(array, str):
        raise ArrayNotFound(f"array not found: {array!r}; array names are strings")
    with session.lock:
        snapshot, catalog = session.snapshot, session.snapshot.root.catalog
        listed = catalog.listed(names)
        overlays: dict[int, Overlay] = {}
        if session.pending:
            listed = Listed(listed.ordinals.copy())
            _overlay(session, array, names, listed.ordinals, overlays)
        for position in np.flatnonzero(listed.ordinals < 0).tolist():
            if position not in overlays and not session.exists(names[position]):
                raise DatasetNotFound(f"dataset not found: {names[position]!r} in {session.storage.describe()}")
    layout = catalog.arranged(array, listed)
    if not layout and not overlays and array not in session.merged_schema().arrays:
        raise ArrayNotFound(f"array not found: {array!r} in {session.storage.describe()}")
    return snapshot, layout, overlays


def _overlay(session: Session, array: str, names: list[str], ordinals: Integers, overlays: dict[int, Overlay]) -> None:
    """Find what pending changes say of an array, and take their datasets out of the committed ones."""
    pending = session.pending
    hidden = session.hidden()
    if hidden:
        for position, name in enumerate(names):
            if name in hidden:
                ordinals[position] = -1
                record = pending.records.get(name)
                if record is not None and array in record.arrays:
                    found = pending.array(name, array)
                    overlays[position] = Overlay(record.arrays[array], found, session.ordinal(name))
    if not pending.table.pieces:
        return
    numbers = pending.table.find(seek(names))
    for position in np.flatnonzero(numbers >= 0).tolist():
        created = pending.batch_of(int(numbers[position])) is not None
        # A loose dataset has no number any more.
        found = pending.numbered_array(int(numbers[position]), array)
        if found is not None:
            overlays[position] = Overlay(found.schema, found, -1 if created else int(ordinals[position]))
        if created or found is not None:
            ordinals[position] = -1
