"""Text of many files at once: each distinct cell is looked at once."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class TextColumn:
    """Cells of one variable of many files, end to end.

    Parameters
    ----------
    cells : (n,) object or bytes
        Text, bytes, and NaN where there is none.
    """

    def __init__(self, cells: NDArray[Any]) -> None:
        from pandas import factorize

        self._codes, distinct = factorize(cells.astype(object))
        kinds = {type(cell) for cell in distinct}
        self._kind = kinds.pop() if len(kinds) == 1 else None
        # The last one is what missing cells, whose code is -1, will be.
        self._texts = np.empty(len(distinct) + 1, object)
        self._empty = np.zeros(len(distinct) + 1, bool)
        self.is_plain = self._kind in (None, str, bytes) and not kinds and self._encode(distinct.tolist())
        # pandas counts None as missing as well; it is kept apart from NaN.
        gaps = cells[self._codes < 0] if cells.dtype == object else cells[:0]
        self.is_plain &= set(map(type, gaps.tolist())) <= {float}

    def _encode(self, distinct: list[Any]) -> bool:
        for i, cell in enumerate(distinct):
            try:
                text = cell.encode("utf-8") if isinstance(cell, str) else cell
                text.decode("utf-8")
            except UnicodeError:
                return False
            self._texts[i], self._empty[i] = text, not text
        return True

    def variants(self, bounds: Sequence[tuple[int, int]]) -> list[Hashable | None]:
        """Return what, apart from the cells, decides how each file's cells are stored; ``None`` if more does."""
        if not self.is_plain:
            return [None] * len(bounds)
        # The last distinct text, that of missing cells, counts as not empty.
        before = [np.concatenate([[0], np.cumsum(mask)]) for mask in (self._codes < 0, self._empty[self._codes])]
        begins, ends = np.array(bounds, np.int64).reshape(-1, 2).T
        missing, empty = ((count[ends] - count[begins]).tolist() for count in before)
        return [
            None if gaps and blanks else (None if gaps == end - begin else self._kind, gaps > 0)
            for gaps, blanks, (begin, end) in zip(missing, empty, bounds, strict=True)
        ]

    def stored(self, fill: str) -> NDArray[Any]:
        """Return the cells as they are stored, encoded; `fill` where there is none."""
        texts = self._texts.copy()
        texts[-1] = fill.encode("utf-8")
        cells: NDArray[Any] = texts[self._codes]
        return cells
