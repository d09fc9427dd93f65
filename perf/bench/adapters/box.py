"""The selection that all systems are asked for."""

from __future__ import annotations

from collections.abc import Sequence


def box(shape: Sequence[int] | None, ndim: int) -> tuple[slice, ...]:
    """Every dataset, and the first `shape` cells of each axis behind (all of them for ``None``)."""
    return (slice(None), *([slice(None)] * (ndim - 1) if shape is None else [slice(0, n) for n in shape]))
