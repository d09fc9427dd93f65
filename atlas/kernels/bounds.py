"""What the tables of tasks must be before a kernel is called with them."""

from __future__ import annotations

from typing import Any

import numpy as np


def with_axes(chunk_extent: Any, block_start: Any, block_extent: Any, strides: Any, itemsize: int) -> Any:
    """Return the geometry tables, those of arrays without axes with one axis of one cell."""
    if chunk_extent.shape[1]:
        return chunk_extent, block_start, block_extent, strides
    one = np.ones((len(chunk_extent), 1), np.int64)
    return one, np.zeros_like(one), one, one * itemsize


def check_rows(tasks: int, offset: Any, length: Any, size: int) -> None:
    """Raise ValueError unless every task's bytes lie within a buffer of `size` bytes."""
    if len(offset) != tasks:
        raise ValueError("the columns of the tasks differ in length")
    if not tasks:
        return
    # Each by itself first: a sum of forged numbers may wrap around.
    alone = offset.min() >= 0 and length.min() >= 0 and offset.max() <= size and length.max() <= size
    if not alone or (offset + length).max() > size:
        raise ValueError("a chunk leaves its buffer")
