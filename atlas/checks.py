"""Checks of what a document says, in which nothing is believed."""

from __future__ import annotations

from typing import Any

from atlas.errors import InvalidArgument

# No store has more bytes, nor commits.
_MOST = (1 << 62) - 1


def expect(condition: Any, message: str) -> None:
    """Raise :class:`InvalidArgument` unless a condition holds."""
    if not condition:
        raise InvalidArgument(message)


def is_count(value: Any, most: int = _MOST) -> bool:
    """Return whether a value is an integer from 0 to `most`: how many there are of something, or how many bytes."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most
