"""Decompress lz4 blocks: small ones by the thousand, without a call from Python for each."""

from __future__ import annotations

from typing import Any

import numpy as np

from atlas.kernels.compile import helper
from atlas.kernels.memory import copy, move16, u8, u16, u32

_LONGEST_LOOP = 64


@helper
def _long(at: Any, end: Any) -> Any:
    """Return the rest of a length that did not fit its token, and where it ends; -1 where it does not."""
    length = np.int64(0)
    while at < end:
        more = np.int64(u8(at)[0])
        at += 1
        length += more
        if more != 255:
            return length, at
    return np.int64(-1), at


@helper
def _repeat(out: Any, back: Any, length: Any, stop: Any) -> None:
    """Write `length` bytes at address `out` that repeat what is `back` bytes before; there is space up to `stop`."""
    if back >= 16 and length <= _LONGEST_LOOP and stop - out >= _LONGEST_LOOP + 16:
        # Whole words, of which the last may go beyond: what follows is written over that.
        for at in range(0, length, 16):
            move16(out + at, out + at - back)
        return
    done = min(back, length)
    copy(out, out - back, done)
    while done < length:
        more = min(done, length - done)
        copy(out + done, out, more)
        done += more


@helper
def decompress(source: Any, length: Any, target: Any, size: Any) -> Any:
    """Decompress a block of `length` bytes, the size of what is in it before it, to `size` bytes at address `target`.

    Returns whether that is what the block holds; nothing is read or written outside, whatever is in it.
    """
    if length < 4 or np.int64(u32(source)[0]) != size:
        return False
    at, end = source + 4, source + length
    out, stop = target, target + size
    while at < end:
        token = np.int64(u8(at)[0])
        at += 1
        run, more = token >> 4, np.int64(0)
        if run == 15:
            more, at = _long(at, end)
            run += more
        if more < 0 or run > end - at or run > stop - out:
            return False
        if run <= 16 and end - at >= 16 and stop - out >= 16:
            move16(out, at)
        else:
            copy(out, at, run)
        at += run
        out += run
        # The last sequence has no repetition.
        if at == end:
            return out == stop
        if end - at < 2:
            return False
        back = np.int64(u16(at)[0])
        at += 2
        run = token & 15
        if run == 15:
            more, at = _long(at, end)
            run += more
        run += 4
        if more < 0 or back == 0 or back > out - target or run > stop - out:
            return False
        _repeat(out, back, run, stop)
        out += run
    return False
