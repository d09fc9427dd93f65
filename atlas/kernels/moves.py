"""Bytes put elsewhere: a few, or many past the caches.

A store into memory that is not in a cache reads the line it belongs to first, to write it back later. Where results are
much larger than the caches, and memory is what cores wait for, lines that are written whole and past the caches take
half of that. Where memory is new, its pages were cleared just before and still are in a cache: then it takes longer.
"""

from __future__ import annotations

from typing import Any

from atlas.kernels.compile import helper
from atlas.kernels.layout import LINE
from atlas.kernels.memory import move4, move8, move16, move32, stream_line, u8

# Of longer runs, what is not a whole cache line is little.
_LONG = 1024


@helper
def copy_short(target: Any, source: Any, length: Any) -> None:
    """Copy a few cells; a call of the library's function would take longer than that."""
    # The last block overlaps the one before where the length is no multiple.
    last = length - 32
    if last >= 0:
        for at in range(0, last, 32):
            move32(target + at, source + at)
        move32(target + last, source + last)
    elif length >= 16:
        move16(target, source)
        move16(target + length - 16, source + length - 16)
    elif length >= 8:
        move8(target, source)
        move8(target + length - 8, source + length - 8)
    elif length >= 4:
        move4(target, source)
        move4(target + length - 4, source + length - 4)
    else:
        for at in range(length):
            u8(target)[at] = u8(source)[at]


@helper
def streams_well(target: Any, length: Any) -> Any:
    """Return whether runs of such a length from such an address on are whole cache lines, or nearly."""
    return (target | length) & (LINE - 1) == 0 or length >= _LONG


@helper
def stream(target: Any, source: Any, length: Any) -> None:
    """Copy bytes, whole cache lines of the target past the caches."""
    at = min(-target & (LINE - 1), length)
    copy_short(target, source, at)
    while at + LINE <= length:
        stream_line(target + at, source + at)
        at += LINE
    copy_short(target + at, source + at, length - at)
