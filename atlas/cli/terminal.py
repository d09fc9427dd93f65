"""What commands say, and how: tables, JSON, progress and warnings."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

# Floats that would seem to have twice as many digits, were they shown as Python's.
SHORT_FLOATS = ("float16", "float32")


def counted(number: int, what: str) -> str:
    """Return how many there are of something that has an ``s`` where they are several."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def as_json(value: Any) -> str:
    """Return a value as JSON; NaN, the infinities and missing times become null."""
    found = plain(value)
    text = json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        # As stdout would write what it has no character for, it is no JSON.
        return json.dumps(found, indent=2, allow_nan=False)
    return text


def plain(value: Any) -> Any:
    """Return a value as JSON takes it."""
    import numpy as np

    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        if not value.ndim:
            return plain(value[()])
        as_cells = value.dtype.kind in "Mm" or value.dtype.name in SHORT_FLOATS
        return [plain(item) for item in (value if as_cells else value.tolist())]
    if isinstance(value, np.generic):
        if value.dtype.name in SHORT_FLOATS:
            return plain(float(str(value)))
        times = value.dtype.kind in "Mm"
        return plain(value.item()) if not times else None if np.isnat(value) else str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, complex):
        return [plain(value.real), plain(value.imag)]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def of_type(value: Any, dtype: str | None) -> Any:
    """Return a value of a type as one that shows it: no more digits than it has, times and truth, not numbers."""
    import numpy as np

    from atlas.dtypes import parse_dtype

    if isinstance(value, float) and dtype in SHORT_FLOATS:
        return np.dtype(dtype).type(value)
    if isinstance(value, int) and dtype == "bool":
        return bool(value)
    if isinstance(value, int) and dtype is not None and (kind := parse_dtype(dtype).numpy).kind in "Mm":
        return np.array(value, np.int64).view(kind)[()]
    return value


def bounds(found: Mapping[str, Any], dtype: str | None) -> dict[str, Any]:
    """Return statistics with the smallest and largest value as :func:`of_type` has them."""
    return {**found, "min": of_type(found["min"], dtype), "max": of_type(found["max"], dtype)}


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], right: Sequence[str] = ()) -> None:
    """Print rows under a heading, as wide as the terminal (80 columns elsewhere); long words go on below."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, show_header=any(columns))
    for column in columns:
        shown.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        shown.add_row(*map(cell, row))
    Console(highlight=False, markup=False, emoji=False, soft_wrap=False).print(shown)


def cell(value: Any) -> str:
    """Return a value as a table shows it."""
    if isinstance(value, bool) or value is None:
        return "" if value is None else str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.7g}"
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


Advance = Callable[[int, int, str], None]


@contextmanager
def progress(what: str) -> Iterator[Advance]:
    """Show how far a piece of work is, its rate and the time left, while stderr is a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total, name: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, rate="")

        def advance(done: int, total: int, name: str) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, completed=done, total=total, rate=f"{speed:.0f}/s" if speed else "")

        yield advance


def warn_in_one_line() -> Callable[..., None]:
    """Return a function that shows each warning once, in one line."""
    seen = set()

    def show(message: Warning | str, *details: Any) -> None:
        if str(message) not in seen:
            seen.add(str(message))
            print(f"atlas: warning: {' '.join(str(message).split())}", file=sys.stderr)

    return show
