"""What threads of the parent were doing must not stop a forked child: it finds every lock of theirs free.

A fork copies locks as they are, and the threads that would release them are not there any more. What such
a lock guards is short and changes only caches, or is of no use to a child (somebody else's flush).
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

__all__ = ["cached_property", "free_in_children"]

_LockType = TypeVar("_LockType")

_locks: weakref.WeakSet[Any] = weakref.WeakSet()


def free_in_children(lock: _LockType) -> _LockType:
    """Return a `threading` lock that nobody holds in a child forked later."""
    with _guard:
        _locks.add(lock)
    return lock


# Held across every fork, so that no child finds the set half changed; reentrant for signal handlers.
_guard = threading.RLock()


def _after_fork_in_child() -> None:
    for lock in _locks:
        # What the standard library does with its own; making new locks would leave the old ones in use.
        lock._at_fork_reinit()
    _guard.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_guard.acquire, after_in_parent=_guard.release, after_in_child=_after_fork_in_child)


if TYPE_CHECKING or sys.version_info >= (3, 12):
    from functools import cached_property
else:

    class cached_property:
        """What ``functools`` has from Python 3.12 on; before, it computes under a lock that a fork may copy."""

        def __init__(self, function: Callable[[Any], Any]) -> None:
            self._function = function
            self.__doc__ = function.__doc__

        def __set_name__(self, owner: type, name: str) -> None:
            self._name = name

        def __get__(self, instance: Any, owner: type | None = None) -> Any:
            if instance is None:
                return self
            value = instance.__dict__[self._name] = self._function(instance)
            return value
