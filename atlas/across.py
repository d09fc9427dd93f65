"""The same box of an array from many datasets, committed and pending ones together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas.chunks import Box, Integers, resolve_box
from atlas.codecs import PACKED_ABOVE
from atlas.config import choice
from atlas.errors import ArrayNotFound, InvalidArgument, ShapeMismatch
from atlas.plan import Wanted
from atlas.schema import ArraySchema
from atlas.session import Session, naming
from atlas.writer import Overlay, filled

Extents = Sequence[int] | None
BoxOf = Callable[[ArraySchema, str], Box]

# A plan takes as long as decoding so many bytes, and so does each chunk that is read without one, or half as long where
# it is too small to be packed: a few small ones are read sooner one by one.
_PLAN_BYTES, _CHUNK_BYTES = 1300 << 10, 230 << 10


def read_list(
    session: Session, array: str, dataset_names: Iterable[str], start: Extents, shape: Extents
) -> list[NDArray[Any] | None]:
    """Return one array per name, ``None`` where a dataset lacks the array."""
    return read_parts(session, array, dataset_names, _same_box(array, start, shape))


def _same_box(array: str, start: Extents, shape: Extents) -> BoxOf:
    return lambda schema, name: resolve_box(schema.shape, start, shape, f"array {array!r} of {name!r}")


def read_parts(session: Session, array: str, dataset_names: Iterable[str], box_of: BoxOf) -> list[NDArray[Any] | None]:
    """Return one array per name, ``None`` where a dataset lacks the array; `box_of` says which box of each schema."""
    names = name_list(dataset_names)
    few = _read_few(session, array, names, box_of, alike=False)
    if few is not None:
        return list(few)
    snapshot, layout, overlays = session.resolve(array, names)
    results: list[NDArray[Any] | None] = [None] * len(names)
    by_type: dict[str, list[tuple[ArraySchema, Integers, Integers]]] = {}
    for schema, positions, ordinals in layout:
        by_type.setdefault(schema.dtype.name, []).append((schema, positions, ordinals))
    for items in by_type.values():
        places = np.concatenate([positions for _, positions, _ in items])
        wanted, first = [], 0
        for schema, positions, ordinals in items:
            last = first + len(positions)
            wanted.append(Wanted(schema, box_of(schema, names[positions[0]]), np.arange(first, last), ordinals))
            first = last
        with naming(names, places):
            parts = snapshot.read_boxes(array, items[0][0].dtype, wanted)
        for place, part in zip(places.tolist(), parts, strict=True):
            results[place] = part
    for position, overlay in overlays.items():
        box = box_of(overlay.schema, names[position])
        results[position] = session.pending_box(snapshot, overlay, names[position], box)
    return results


def read_stacked(
    session: Session,
    array: str,
    dataset_names: Iterable[str],
    start: Extents,
    shape: Extents,
    out: NDArray[Any] | None,
    on_missing: str,
) -> NDArray[Any]:
    """Return one array with a row per name, in `out` if that is given."""
    names = name_list(dataset_names)
    choice(on_missing, ("raise", "fill"), "on_missing")
    few = _read_few(session, array, names, _same_box(array, start, shape), alike=True)
    if few is not None:
        target = _check_out(out, (len(names), *few[0].shape), few[0].dtype)
        if target is None and len(few) == 1:
            return few[0][np.newaxis]
        target = np.empty((len(names), *few[0].shape), few[0].dtype) if target is None else target
        for position, cells in enumerate(few):
            target[position] = cells
        return target
    snapshot, layout, overlays = session.resolve(array, names)
    absent = _absent(names, layout, overlays)
    if absent and on_missing == "raise":
        raise ArrayNotFound(
            f"dataset {names[absent[0]]!r} has no array {array!r} ({len(absent)} of {len(names)} lack it); "
            "pass on_missing='fill' for rows of the fill value, or use read_array_across"
        )
    schema = _common_schema(array, names, layout, overlays)
    box = resolve_box(schema.shape, start, shape, f"array {array!r}")
    target = _check_out(out, (len(names), *box.shape), schema.dtype.numpy)
    nothing = np.zeros(0, np.int64)
    wanted = [Wanted(s, box, positions, ordinals) for s, positions, ordinals in layout]
    wanted = wanted or [Wanted(schema, box, nothing, nothing)]
    with naming(names, np.arange(len(names))):
        result = snapshot.read_stacked(array, schema.dtype, wanted, target, len(names))
    for position in absent:
        result[position, ...] = filled(schema, box.shape)
    for position, overlay in overlays.items():
        result[position, ...] = session.pending_box(snapshot, overlay, names[position], box)
    return result if out is None else out


def _read_few(session: Session, array: str, names: list[str], box_of: BoxOf, alike: bool) -> list[NDArray[Any]] | None:
    """Read small chunks of a few datasets without a plan; ``None`` where one is better made.

    With `alike`, arrays of different shapes or types are left to a plan, too.
    """
    known = session.committed(array, names) if len(names) * _CHUNK_BYTES <= 2 * _PLAN_BYTES else None
    if known is None:
        return None
    snapshot, found = known
    if alike and any((schema.shape, schema.dtype) != (found[0][0].shape, found[0][0].dtype) for schema, _ in found):
        return None
    boxes, cost = [], 0
    for name, (schema, _) in zip(names, found, strict=True):
        size = schema.grid.chunk_cells * schema.dtype.itemsize
        cost += size + (_CHUNK_BYTES if size >= PACKED_ABOVE else _CHUNK_BYTES // 2)
        box = box_of(schema, name)
        if cost > _PLAN_BYTES or snapshot.small_chunk(schema, box) is None:
            return None
        boxes.append(box)
    rows = []
    for name, (schema, ordinal), box in zip(names, found, boxes, strict=True):
        with naming([name], np.zeros(1, np.int64)):
            rows.append(snapshot.read_box(schema, ordinal, box))
    return rows


def name_list(names: Iterable[str]) -> list[str]:
    """Return names as a list, which must not be empty."""
    if isinstance(names, (str, bytes)):
        raise InvalidArgument(f"dataset_names must be a sequence of names, not the single name {names!r}")
    if not isinstance(names, Iterable):
        raise InvalidArgument(f"dataset_names must be a sequence of names, not {names!r}")
    result = list(names)
    if not result:
        raise InvalidArgument("dataset_names is empty")
    for kind in set(map(type, result)):
        if not issubclass(kind, str):
            raise InvalidArgument(f"dataset_names must hold names, not {kind.__name__}")
    return result


def _absent(names: list[str], layout: Any, overlays: dict[int, Overlay]) -> list[int]:
    if len(layout) == 1 and len(layout[0][1]) == len(names):
        return []
    present = np.zeros(len(names), bool)
    for _, positions, _ in layout:
        present[positions] = True
    present[list(overlays)] = True
    return [int(i) for i in np.flatnonzero(~present)]


def _common_schema(array: str, names: list[str], layout: Any, overlays: dict[int, Overlay]) -> ArraySchema:
    found = [(int(positions.min()), schema) for schema, positions, _ in layout]
    found += [(position, overlay.schema) for position, overlay in overlays.items()]
    if not found:
        raise ArrayNotFound(f"array not found: none of the {len(names)} datasets has {array!r}")
    found.sort(key=lambda item: item[0])
    first: int = found[0][0]
    common: ArraySchema = found[0][1]
    for position, schema in found:
        if (schema.shape, schema.dtype) != (common.shape, common.dtype):
            raise ShapeMismatch(
                f"array {array!r} cannot be stacked: dataset {names[first]!r} has {common.dtype.name} "
                f"{list(common.shape)}, dataset {names[position]!r} has {schema.dtype.name} {list(schema.shape)}; "
                "read_array_across returns them as a list"
            )
    return common


def _check_out(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any] | None:
    if out is None:
        return None
    if not isinstance(out, np.ndarray) or out.shape != shape or out.dtype != dtype:
        found = f"{out.dtype} {list(out.shape)}" if isinstance(out, np.ndarray) else type(out).__name__
        raise ShapeMismatch(f"out must be a {dtype} array of shape {list(shape)}, not {found}")
    if not (out.flags.c_contiguous and out.flags.writeable):
        raise InvalidArgument("out must be C-contiguous and writable")
    return out
