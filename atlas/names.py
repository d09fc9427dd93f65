"""Dataset names by the million: one block of text, found by hash without a dictionary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atlas.columns import Integers, Texts, are_all
from atlas.errors import CorruptStore
from atlas.forks import cached_property
from atlas.kernels import digests
from atlas.schema import MAX_NAME_BYTES, check_name

Hashes = NDArray[np.uint64]

# What check_name refuses, searched in names with a NUL before and behind each.
_SUSPECT = ("/", "\0_", "\0\0", "\0.\0", "\0..\0")


class Sought(NamedTuple):
    """Names to look up: their UTF-8 form followed by a NUL, and its hash without that."""

    texts: Texts
    hashes: Hashes


def seek(names: Sequence[object]) -> Sought:
    """Return names as look-ups want them; what is no name at all is simply not found."""
    texts = _joined(names)
    if texts is None:
        texts = Texts.of([_encoded(name) + b"\0" if isinstance(name, str) else b"\0" for name in names])
    return Sought(texts, _hash(texts))


def _encoded(text: str) -> bytes:
    # A lone surrogate has no UTF-8 form, and the form it gets here is never stored.
    return text.encode("utf-8", "surrogatepass")


def _joined(names: Sequence[object]) -> Texts | None:
    """Return names as texts without looking at each; ``None`` where one is no text, or holds a NUL."""
    try:
        data = np.frombuffer(_encoded("\0".join([*names, ""])), np.uint8)  # type: ignore[list-item]
    except TypeError:
        return None
    ends = np.flatnonzero(data == 0) + 1
    return Texts(data, ends) if len(ends) == len(names) else None


def _hash(texts: Texts) -> Hashes:
    """Hash strings without the NUL behind each."""
    lengths = texts.lengths
    hashes: Hashes = digests(texts.data, texts.ends - lengths, np.maximum(lengths - 1, 0))
    return hashes


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
        xxh3-64 of every name without its NUL, ascending; made when first needed.
    order : (n,) integers, optional
        The row of each of these hashes.
    """

    def __init__(self, texts: Texts, hashes: Hashes | None = None, order: NDArray[Any] | None = None) -> None:
        self.texts = texts
        if hashes is not None and order is not None:
            self.index = hashes, order

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
    def index(self) -> tuple[Hashes, NDArray[Any]]:
        """The hash of every name, ascending, and the row of each."""
        return _sorted(_hash(self.texts))

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
        if are_all(rows, len(self)):
            return self
        return Names(self.texts.take(rows))

    def keep(self, rows: Integers) -> Names:
        """Return the names of most rows, in ascending order; the hashes are kept, too."""
        hashes, order = self.index
        moved = np.full(len(self), -1, np.int64)
        moved[rows] = np.arange(len(rows))
        order = moved[order]
        kept = order >= 0
        return Names(self.texts.take(rows), hashes[kept], order[kept])

    @staticmethod
    def joined(parts: Sequence[Names]) -> Names:
        """Return the names of several together."""
        if len(parts) == 1:
            return parts[0]
        firsts = np.cumsum([0, *(len(part) for part in parts)])
        hashes = np.concatenate([part.index[0] for part in parts])
        order = np.concatenate([part.index[1] + first for part, first in zip(parts, firsts, strict=False)])
        # The sort is a merge: every part is in order already.
        merged, picks = _sorted(hashes)
        return Names(Texts.joined([part.texts for part in parts]), merged, order[picks])

    @property
    def sought(self) -> Sought:
        """These names as look-ups elsewhere want them."""
        hashes, order = self.index
        by_row = np.empty(len(self), np.uint64)
        by_row[order] = hashes
        return Sought(self.texts, by_row)

    def find(self, sought: Sought) -> Integers:
        """Return the row of every sought name, -1 where it is not among these."""
        found = np.full(len(sought.hashes), -1, np.int64)
        if not len(self):
            return found
        hashes, order = self.index
        # Ascending probes touch the index front to back.
        places = np.argsort(sought.hashes)
        at = np.searchsorted(hashes, sought.hashes[places])
        while len(places):
            same = at < len(self)
            same[same] = hashes[at[same]] == sought.hashes[places[same]]
            places, at = places[same], at[same]
            # Back in the order asked for, in which names often lie one behind the other.
            asked = np.argsort(places)
            places, at = places[asked], at[asked]
            rows = order[at].astype(np.int64)
            right = self.texts.matches(rows, sought.texts, places)
            found[places[right]] = rows[right]
            # Names that share a hash are neighbours.
            places, at = places[~right], at[~right] + 1
        return found


def _sorted(hashes: Hashes) -> tuple[Hashes, NDArray[Any]]:
    order = np.argsort(hashes, kind="stable")
    return hashes[order], order
