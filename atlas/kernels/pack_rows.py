"""Choose a packing for chunks of one shape, and pack each: a call for all, not two for every one."""

from __future__ import annotations

from typing import Any

from atlas.kernels.choose import choose
from atlas.kernels.compile import helper
from atlas.kernels.memory import i64
from atlas.kernels.pack import pack

_choose = helper(choose)
_pack = helper(pack)


def pack_rows(
    src: Any,
    rows: Any,
    cells: Any,
    ndim: Any,
    extent: Any,
    element: Any,
    item: Any,
    fill: Any,
    limit: Any,
    out: Any,
    lengths: Any,
    packings: Any,
    given: Any,
    room: Any,
) -> Any:
    """Pack the chunks that lie back to back at `src`; return the bytes written to `out`.

    `packings` has four integers a chunk: how it is to be packed, where `given`, or else what was chosen, which begins
    with -1 where its cells are no decimals. `lengths` gets what each chunk took, 0 where packing does not pay. `out`
    takes `limit` bytes a chunk; `room` is that of both helpers.
    """
    position = out
    for row in range(rows):
        chunk, packing = src + row * cells * item, packings + 32 * row
        chosen = i64(packing)
        i64(lengths)[row] = 0
        if not given and not _choose(chunk, cells, ndim, extent, element, fill, room, packing):
            chosen[0], chosen[3] = -1, 0
        elif limit > 0:
            length = _pack(
                chunk,
                cells,
                ndim,
                extent,
                element,
                item,
                chosen[0],
                chosen[1],
                chosen[2],
                fill,
                limit,
                position,
                room + 4096,
            )
            i64(lengths)[row] = length
            position += length
    return position - out
