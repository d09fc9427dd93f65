"""Choose a packing for many small chunks of one shape, and pack each: a call for all, not two for every one."""

from __future__ import annotations

from typing import Any

from atlas.kernels.choose import choose
from atlas.kernels.compile import helper
from atlas.kernels.memory import i64, u8
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
    repetitive: Any,
    room: Any,
) -> Any:
    """Pack the chunks that lie back to back at `src`; return the bytes written to `out`.

    `lengths` gets what each chunk took, 0 where packing does not pay; `repetitive` (bytes) whether its values
    come again and again. `out` takes `limit` bytes a chunk; `room` is that of both kernels.
    """
    position = out
    for row in range(rows):
        chunk = src + row * cells * item
        i64(lengths)[row] = 0
        u8(repetitive)[row] = 0
        if _choose(chunk, cells, ndim, extent, element, fill, room, room + 4096):
            report = i64(room + 4096)
            u8(repetitive)[row] = report[3]
            length = _pack(
                chunk,
                cells,
                ndim,
                extent,
                element,
                item,
                report[0],
                report[1],
                report[2],
                fill,
                limit,
                position,
                room + 4096 + 64,
            )
            i64(lengths)[row] = length
            position += length
    return position - out
