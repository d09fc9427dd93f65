"""Dataset names by the million: one block of text, found by hash without a dictionary."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from atlas.columns import Integers, Texts
from atlas.errors import CorruptStore
from atlas.schema import MAX_NAME_BYTES, check_name

Hashes = NDArray[np.uint64]

# What check_name refuses, searched in names with a NUL before and behind each.
_SUSPECT = ("/", "\0_", "\0\0", "\0.\0", "\0..\0")


class Sought(NamedTuple):
    """Names to look up: their UTF-8 form and its hash."""

    encoded: list[bytes]
    hashes: Hashes


def seek(names: Sequence[object]) -> Sought:
    """Return names as look-ups want them; what is no name at all is simply not found."""
    # A lone surrogate has no UTF-8 form, and the form it gets here is never stored.
    encoded = [name.encode("utf-8", "surrogatepass") if isinstance(name, str) else b"" for name in names]
    return Sought(encoded, _hash(encoded))


def _hash(encoded: Sequence[bytes]) -> Hashes:
    return np.fromiter(map(xxhash.xxh3_64_intdigest, encoded), np.uint64, len(encoded))


def _plausible(names: Sequence[str]) -> bool:
    # A million names at once: searching their text takes a tenth of the time of looking at each.
    try:
        text = "\0".join(["", *names, ""])
        text.encode("utf-8")
    except (TypeError, UnicodeEncodeError):
        return False
    whole = text.count("\0") == len(names) + 1 and max(map(len, names), default=0) <= MAX_NAME_BYTES // 4
    return whole and not any(suspect in text for suspect in _SUSPECT if names)


class Names:
    """The names of many datasets.

    Parameters
    ----------
    texts : Texts
        UTF-8, each name followed by a NUL.
    hashes : (n,) uint64, optional
        xxh3-64 of each name without its NUL; made when first needed.
    order : (n,) integers, optional
        Rows by ascending hash; made when first needed.
    """

    def __init__(self, texts: Texts, hashes: Hashes | None = None, order: NDArray[np.integer] | None = None) -> None:
        self.texts = texts
        if hashes is not None:
            self.hashes = hashes
        if order is not None:
            self.order = order

    @staticmethod
    def of(names: Sequence[str]) -> Names:
        """Return names, checked like those of single datasets.

        Raises
        ------
        InvalidName
        """
        if not _plausible(names):
            for name in names:
                check_name(name, "dataset")
        return Names(Texts.of([name.encode("utf-8") + b"\0" for name in names]))

    @cached_property
    def hashes(self) -> Hashes:
        """Hash of every name."""
        return _hash([cell[:-1] for cell in self.texts.tolist()])

    @cached_property
    def order(self) -> NDArray[np.integer]:
        """Rows by ascending hash."""
        return np.argsort(self.hashes, kind="stable")

    def __len__(self) -> int:
        return len(self.texts)

    def tolist(self) -> list[str]:
        """Return all names.

        Raises
        ------
        CorruptStore
            If they are not text, or not as many as there should be.
        """
        try:
            names = self.texts.data.tobytes().decode("utf-8").split("\0")
        except UnicodeDecodeError as error:
            raise CorruptStore(f"a dataset name is not UTF-8: {error}") from None
        if len(names) != len(self) + 1:
            raise CorruptStore("a dataset name holds a NUL")
        names.pop()
        return names

    def take(self, rows: Integers) -> Names:
        """Return the names of some rows."""
        if len(rows) == len(self) and (np.diff(rows) == 1).all():
            return self
        known = self.__dict__.get("hashes")
        return Names(self.texts.take(rows), None if known is None else known[rows])

    @staticmethod
    def joined(parts: Sequence[Names]) -> Names:
        """Return the names of several together."""
        if len(parts) == 1:
            return parts[0]
        texts = Texts.joined([part.texts for part in parts])
        return Names(texts, np.concatenate([part.hashes for part in parts]))

    def find(self, sought: Sought) -> Integers:
        """Return the row of every sought name, -1 where it is not among these."""
        found = np.full(len(sought.encoded), -1, np.int64)
        if not len(self):
            return found
        first = np.searchsorted(self.hashes, sought.hashes, sorter=self.order)
        first = np.minimum(first, len(self) - 1)
        rows = np.asarray(self.order[first], np.int64)
        places = np.flatnonzero(self.hashes[rows] == sought.hashes)
        for place, row, position in zip(places.tolist(), rows[places].tolist(), first[places].tolist(), strict=True):
            found[place] = self._same(sought.encoded[place], row, position)
        return found

    def _same(self, name: bytes, row: int, position: int) -> int:
        # Names that share a hash are neighbours in the order.
        wanted, digest = name + b"\0", self.hashes[row]
        while self.hashes[row] == digest:
            if self.texts[row] == wanted:
                return row
            position += 1
            if position == len(self):
                break
            row = int(self.order[position])
        return -1
