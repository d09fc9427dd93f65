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
from atlas.lookup import committed, resolve
from atlas.plan import Wanted
from atlas.reader import Snapshot, naming
from atlas.schema import ArraySchema
from atlas.session import Session
from atlas.writer import Overlay, filled

Extents = Sequence[int] | None
BoxOf = Callable[[ArraySchema, str], Box]

# So many chunks are read one by one in about the time that a plan takes: of cells that may be packed, and of fewer.
# Of more bytes, wanted or in all chunks, threads take their share.
_FEW, _FEW_TINY = 6, 8
_FEW_WANTED, _FEW_BYTES = 4 << 20, 32 << 20

_FIRST = np.zeros(1, np.int64)

# A dataset's array, the dataset, and what to read of it.
BoxOfOne = tuple[ArraySchema, int, Box]


def read_list(
    session: Session, array: str, dataset_names: Iterable[str], start: Extents, shape: Extents
) -> list[NDArray[Any] | None]:
    """Return one array per name, ``None`` where a dataset lacks the array."""
    return read_parts(session, array, dataset_names, _same_box(array, start, shape))


def _same_box(array: str, start: Extents, shape: Extents) -> BoxOf:
    if start is None and shape is None:
        return lambda schema, name: Box.whole(schema.shape)
    return lambda schema, name: resolve_box(schema.shape, start, shape, f"array {array!r} of {name!r}")


def read_parts(session: Session, array: str, dataset_names: Iterable[str], box_of: BoxOf) -> list[NDArray[Any] | None]:
    """Return one array per name, ``None`` where a dataset lacks the array; `box_of` says which box of each schema."""
    names = name_list(dataset_names)
    few = _few(session, array, names, box_of, alike=False)
    if few is not None:
        return [_read_box(few[0], name, box) for name, box in zip(names, few[1], strict=True)]
    snapshot, layout, overlays = resolve(session, array, names)
    results: list[NDArray[Any] | None] = [None] * len(names)
    by_type: dict[str, list[tuple[ArraySchema, Integers, Integers]]] = {}
    for schema, positions, ordinals in layout:
        by_type.setdefault(schema.dtype.name, []).append((schema, positions, ordinals))
    for items in by_type.values():
        places = np.concatenate([positions for _, positions, _ in items])
        wanted, first, order = [], 0, np.arange(len(places))
        for schema, positions, ordinals in items:
            last = first + len(positions)
            wanted.append(Wanted(schema, box_of(schema, names[positions[0]]), order[first:last], ordinals))
            first = last
        with naming(names, places):
            parts = snapshot.read_boxes(array, items[0][0].dtype, wanted)
        for place, part in zip(places.tolist(), parts, strict=True):
            results[place] = part
    for position, overlay in overlays.items():
        box = box_of(overlay.schema, names[position])
        results[position] = overlay.read(snapshot, names[position], box, session.lock)
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
    few = _few(session, array, names, _same_box(array, start, shape), alike=True)
    if few is not None:
        schema, _, box = few[1][0]
        target = _check_out(out, (len(names), *box.shape), schema.dtype.numpy)
        rows = np.empty((len(names), *box.shape), schema.dtype.numpy) if target is None else target
        for position, name in enumerate(names):
            _read_box(few[0], name, few[1][position], rows[position, ...])
        return rows
    snapshot, layout, overlays = resolve(session, array, names)
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
        result[position, ...] = overlay.read(snapshot, names[position], box, session.lock)
    return result if out is None else out


def _few(
    session: Session, array: str, names: list[str], box_of: BoxOf, alike: bool
) -> tuple[Snapshot, list[BoxOfOne]] | None:
    """Return what to read, if it is a few chunks that are read without a plan in less time.

    With `alike`, arrays of different shapes or types are left to a plan, too.
    """
    known = committed(session, array, names) if len(names) <= _FEW_TINY else None
    if known is None:
        return None
    snapshot, found = known
    shape, dtype = found[0][0].shape, found[0][0].dtype
    boxes, wanted, total = [], 0, 0
    for name, (schema, ordinal) in zip(names, found, strict=True):
        box, size = box_of(schema, name), schema.grid.chunk_cells * schema.dtype.itemsize
        total += size
        wanted += box.cells * schema.dtype.itemsize
        is_many = wanted > _FEW_WANTED or total > _FEW_BYTES or (size >= PACKED_ABOVE and len(names) > _FEW)
        if (is_many and len(names) > 1) or (alike and (schema.shape, schema.dtype) != (shape, dtype)):
            return None
        if snapshot.only_chunk(schema, box) is None:
            return None
        boxes.append((schema, ordinal, box))
    return snapshot, boxes


def _read_box(snapshot: Snapshot, name: str, box: BoxOfOne, out: NDArray[Any] | None = None) -> NDArray[Any]:
    with naming([name], _FIRST):
        return snapshot.read_box(*box, out)


def name_list(names: Iterable[str]) -> list[str]:
    """Return names as a list, which must not be empty."""
    if isinstance(names, (str, bytes)):
        raise InvalidArgument(f"dataset_names must be a sequence of names, not the single name {names!r}")
    if not isinstance(names, Iterable):
        raise InvalidArgument(f"dataset_names must be a sequence of names, not {names!r}")
    result = list(names)
    if not result:
        raise InvalidArgument("dataset_names is empty")
    try:
        # Of a hundred thousand names in a fourth of the time that looking at each takes.
        "".join(result)
    except TypeError:
        other = next(name for name in result if not isinstance(name, str))
        raise InvalidArgument(f"dataset_names must hold names, not {type(other).__name__}") from None
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
