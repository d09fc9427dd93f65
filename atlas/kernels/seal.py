"""Checking a payload as far as it is used: whole, or, where it is sealed, by the stretch."""

from __future__ import annotations

from typing import Any

import numpy as np

from atlas.kernels.compile import helper
from atlas.kernels.digest import hash_of
from atlas.kernels.layout import STRETCH
from atlas.kernels.memory import i64
from atlas.kernels.sealed import hashes_size

_hashes_size = helper(hashes_size)

# A guard holds where checked bytes end, the hashes, the payload proper and its length, and then the hash's own room.


@helper
def open_payload(guard: Any, payload: Any, length: Any, sealed: Any, checksum: Any) -> Any:
    """Set up a guard, and return the address of the payload proper; 0 where it is damaged.

    All of a payload that is not sealed is checked here.
    """
    state = i64(guard)
    room = guard + 32
    if not sealed:
        state[0] = payload + length
        return payload if hash_of(payload, length, room) == checksum else np.int64(0)
    size = _hashes_size(length)
    if size >= length or hash_of(payload, size, room) != checksum:
        return np.int64(0)
    state[0] = payload + size
    state[1], state[2], state[3] = payload, payload + size, length - size
    return payload + size


@helper
def are_whole(guard: Any, begin: Any, end: Any) -> Any:
    """Return whether the bytes between two addresses are what was written; may be asked in any order."""
    state = i64(guard)
    if end <= state[0]:
        return True
    body, length = state[2], state[3]
    for stretch in range((begin - body) // STRETCH, (end - 1 - body) // STRETCH + 1):
        at = stretch * STRETCH
        if hash_of(body + at, min(length - at, STRETCH), guard + 32) != i64(state[1])[stretch]:
            return False
    return True


@helper
def may_use(guard: Any, begin: Any, end: Any) -> Any:
    """Return whether the bytes between two addresses are what was written; to be asked in ascending order."""
    state = i64(guard)
    if end <= state[0]:
        return True
    first = max(begin, state[0])
    if not are_whole(guard, first, end):
        return False
    state[0] = min(state[2] + ((end - 1 - state[2]) // STRETCH + 1) * STRETCH, state[2] + state[3])
    return True


@helper
def may_use_next(guard: Any, until: Any, begin: Any, end: Any) -> Any:
    """Do the same for one of several series of questions, each in ascending order; `until` says how far it has come."""
    known = i64(until)
    state = i64(guard)
    if end <= max(state[0], known[0]):
        return True
    if not are_whole(guard, max(begin, state[0], known[0]), end):
        return False
    known[0] = min(state[2] + ((end - 1 - state[2]) // STRETCH + 1) * STRETCH, state[2] + state[3])
    return True
