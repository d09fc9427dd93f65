"""What was probably meant by a name that there is not."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from atlas.errors import ArrayNotFound, AtlasError, DatasetNotFound

# More names take longer to compare with than anybody waits for an error.
_MOST_NAMES = 100_000

# What commands call arguments that are names of datasets.
_DATASETS = ("dataset", "old")


def hinting(run: Callable[..., None]) -> Callable[..., None]:
    """Return a command that says, where a dataset or an array is not found, which one there is."""

    @functools.wraps(run)
    def hinted(**words: Any) -> None:
        try:
            run(**words)
        except (DatasetNotFound, ArrayNotFound) as error:
            for hint in _hints(error, words):
                error.add_note(hint)
            raise

    return hinted


def _hints(error: AtlasError, words: dict[str, Any]) -> Iterator[str]:
    from atlas.store import Atlas

    try:
        store = Atlas.open(words["store"], mode="r")
    except AtlasError:
        return
    if isinstance(error, ArrayNotFound):
        asked, known = [words.get("array")], store.list_arrays()
    else:
        several = words.get("names") or ()
        asked, known = [*(words.get(key) for key in _DATASETS), *several], store.list_datasets()
        if any(letter in name for name in several for letter in "*?["):
            yield "patterns go behind --glob"
    if len(known) <= _MOST_NAMES:
        there = set(known)
        close = [_close(name, known) for name in asked if name is not None and name not in there]
        yield from (f"did you mean {' or '.join(map(repr, names))}?" for names in close if names)


def _close(name: str, known: Sequence[str]) -> list[str]:
    import difflib

    spelt = {each.casefold(): each for each in known}
    return [spelt[each] for each in difflib.get_close_matches(name.casefold(), spelt, 3)]
