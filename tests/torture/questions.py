"""Questions as small trees, answered by asking every cell; and the same as conditions and as text."""

from __future__ import annotations

import math
import operator
import random
from collections.abc import Iterable
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from atlas import box, col
from atlas.where import parse_condition

OPS = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}
COMPLEX = {"complex64", "complex128"}
KEYS = ["deck", "id", "kind", "lat", "tags", "when"]
BIG = 2**60


class Pool(NamedTuple):
    """How arrays of a name are declared, what their cells may be by type, and what is asked of them."""

    declared: list[tuple[str, Any]]
    cells: dict[str, list[Any]]
    literals: list[Any]


FLOATS = [0.0, -0.0, 1.0, 2.5, -3.0, 9999.0, math.nan, math.inf, -math.inf]
TEXTS = ["", "a", "ab", "é", "z\0", "b" * 300]

ARRAYS: dict[str, Pool] = {
    "t": Pool(
        [("float32", math.nan), ("float32", 9999.0), ("float32", None), ("float64", -0.0), ("int16", -1)],
        {"float32": FLOATS, "float64": FLOATS, "int16": [0, 1, -1, 3, 9999]},
        [0, 1, 2.5, -3, 9999, 0.1, math.inf, -math.inf, "warm"],
    ),
    "n": Pool(
        [("int64", None), ("int64", 0), ("uint64", 7), ("uint64", None)],
        {"int64": [0, 5, BIG, BIG + 1, -7, -(2**63)], "uint64": [0, 7, BIG + 1, 2**64 - 1, 2**63]},
        [0, BIG, BIG + 1, 2.0**60, -6.5, 2**64 - 1, 2**70, -math.inf, 0.5, True],
    ),
    "b": Pool([("bool", None), ("bool", True)], {"bool": [True, False]}, [True, False, 0.5, 1]),
    "h": Pool(
        [("float16", math.nan), ("float64", math.inf), ("complex64", None)],
        {"float16": FLOATS[:5] + FLOATS[6:], "float64": FLOATS, "complex64": [1 + 2j, math.nan]},
        [0, 2.5, math.inf],
    ),
    "s": Pool(
        [("string", None), ("string", ""), ("binary", b"a")],
        {"string": TEXTS, "binary": [text.encode() for text in TEXTS] + [b"\xff"]},
        ["", "a", "é", b"z\0", "b" * 299, 3],
    ),
    "x": Pool(
        [("string", None), ("int32", None), ("string", "k")],
        {"string": ["k", "m"], "int32": [0, 1, 4]},
        ["k", "l", 0, 2, 1.0],
    ),
    "w": Pool(
        [("datetime64[s]", None), ("datetime64[s]", 5)],
        {"datetime64[s]": [0, 5, 10**9, np.iinfo("i8").min, -(10**9)]},
        [
            0,
            5,
            np.datetime64(10**9, "s"),
            np.datetime64(5 * 10**9 + 1, "ns"),
            "1970-01-01",
            "9999-01-01T00:00:00",
            True,
        ],
    ),
    "k": Pool(
        [("int8", -1), ("uint8", 7), ("uint16", None), ("uint32", 0), ("int32", None), ("complex128", None)],
        {
            "int8": [-128, -1, 0, 127],
            "uint8": [0, 7, 255],
            "uint16": [0, 2**16 - 1],
            "uint32": [0, 2**32 - 1],
            "int32": [-(2**31), 5],
            "complex128": [1j],
        },
        [0, 7, 126.5, -129, 2**32 - 1],
    ),
    "m": Pool(
        [("datetime64[ms]", None), ("datetime64[ms]", 7)],
        {"datetime64[ms]": [0, 7, -1, np.iinfo("i8").min]},
        [7, np.datetime64(0, "s"), np.datetime64(7_500, "us"), "1970-01-01T00:00:00.007"],
    ),
    "u": Pool(
        [("timestamp_nanoseconds", None), ("datetime64[s]", None)],
        {"timestamp_nanoseconds": [0, 7], "datetime64[s]": [0, 7]},
        [np.datetime64(7, "s")],
    ),
    "v": Pool(
        [("timedelta64[ms]", None)],
        {"timedelta64[ms]": [0, 1500, -1, np.iinfo("i8").min]},
        [np.timedelta64(1, "s"), 1500, np.timedelta64(1500_001, "us")],
    ),
}

ASKED: dict[str, list[Any]] = {
    "lat": [1.5, 0, 2, math.inf, 3, "north"],
    "id": [0, 5, 2**53, 2.0**53, 2**53 + 1, 2**63 + 5, -math.inf, True],
    "kind": ["", "x", "é", "x\0", "y" * 300, 7, b"x", True],
    "when": [np.datetime64("2019-01-01", "D"), 5, np.datetime64(5500, "ms"), "2019-01-01"],
    "tags": [1, 5, "x", 1.5, "y"],
    "deck": [3, 0.1, float(np.float32(0.1)), 9, False],
    "units": ["K", "°C", "L"],
}


# ── making them ──────────────────────────────────────────────────────────────────────────────────


def question(rng: random.Random, depth: int) -> Any:
    """Return a random question."""
    if depth:
        kind = rng.choice(["and", "or", "not"])
        if kind == "not":
            return "not", question(rng, depth - 1)
        return kind, question(rng, depth - 1), question(rng, rng.randrange(depth))
    kind = rng.choice(["cell"] * 4 + ["range", "range", "isin", "chain", "box", "has"] + ["value"] * 5 + ["values"])
    array = rng.choice(sorted(ARRAYS))
    literals = ARRAYS[array].literals
    if kind == "cell":
        return "cell", array, rng.choice(sorted(OPS)), rng.choice(literals)
    if kind in ("range", "isin"):
        return kind, array, rng.choice(literals), rng.choice(literals)
    if kind == "chain":
        written = [value for value in literals if is_written(value)]
        ends = rng.choice(written or [0]), rng.choice(written or [0])
        return kind, array, rng.choice(["<", "<="]), ends[0], rng.choice(["<", "<="]), ends[1]
    if kind == "box":
        ends = [None if rng.random() < 0.3 else rng.choice([0, 1, 2.5, -3, math.inf]) for _ in range(4)]
        return "box", ("t", ends[0], ends[1]), ("n", ends[2], ends[3])
    if kind == "has":
        return "has", rng.choice([array, some_value(rng)])
    value = some_value(rng)
    if kind == "values":
        return "values", value, rng.choice(sorted(OPS)), some_value(rng)
    asked = literals_of(value)
    if rng.random() < 0.3:
        return rng.choice(["value range", "value isin"]), value, rng.choice(asked), rng.choice(asked)
    return "value", value, rng.choice(sorted(OPS)), rng.choice(asked)


def some_value(rng: random.Random) -> Any:
    array = rng.choice(sorted(ARRAYS))
    if rng.random() < 0.5:
        return "stat", array, rng.choice(["min", "max", "row_count", "null_count"])
    return ("attr", array, "units") if rng.random() < 0.2 else ("attr", None, rng.choice(KEYS))


def literals_of(value: Any) -> list[Any]:
    """Return what a value is compared with."""
    if value[0] == "attr":
        return ASKED[value[2]]
    return [0, 1, 4, 2.5, "a"] if value[2].endswith("count") else ARRAYS[value[1]].literals


# ── asking every dataset ─────────────────────────────────────────────────────────────────────────


def ask(node: Any, dataset: Any) -> bool | None:
    """Return the answer for one dataset; ``None`` when it lacks what is asked about."""
    kind = node[0]
    if kind == "not":
        inner = ask(node[1], dataset)
        return None if inner is None else not inner
    if kind in ("and", "or"):
        answers = [ask(part, dataset) for part in node[1:]]
        decisive = kind == "or"
        return decisive if decisive in answers else None if None in answers else not decisive
    if kind == "box":
        return ask(("and", *(("within", *part) for part in node[1:])), dataset)
    if kind == "has":
        return node[1] in dataset.arrays if isinstance(node[1], str) else has(node[1], dataset)
    if kind in ("cell", "range", "isin", "chain", "within"):
        array = dataset.arrays.get(node[1])
        return None if array is None else any(cell_fits(node, cell, array.dtype) for cell in array.counted())
    cells = values_of(node[1], dataset)
    if cells is None:
        return None
    if kind == "values":
        others = values_of(node[3], dataset)
        return None if others is None else any(compare(a, node[2], b) for a in cells for b in others)
    unit = unit_of(node[1], dataset)
    return any(value_fits(node, cell, unit) for cell in cells)


def cell_fits(node: Any, cell: Any, unit: str) -> bool:
    """Return whether one cell is what is asked for."""
    kind, literals = node[0], [plain(value, unit) for value in node[2:]]
    if kind == "cell":
        return compare(cell, node[2], literals[1])
    if kind == "isin":
        return any(compare(cell, "==", literal) for literal in literals)
    if kind == "chain":
        _, _, lower, _, upper, _ = node
        return compare(literals[1], lower, cell) and compare(cell, upper, literals[3])
    low, high = literals
    above, below = low is None or compare(cell, ">=", low), high is None or compare(cell, "<=", high)
    # A box whose first end is above its last goes around.
    around = kind == "within" and None not in (low, high) and low > high
    return above or below if around else above and below


def value_fits(node: Any, cell: Any, unit: str) -> bool:
    """Return whether one value is what is asked for."""
    literals = [plain(value, unit) for value in node[2:]]
    if node[0] == "value":
        return compare(cell, node[2], literals[1])
    if node[0] == "value isin":
        return any(compare(cell, "==", literal) for literal in literals)
    return compare(cell, ">=", literals[0]) and compare(cell, "<=", literals[1])


def compare(cell: Any, op: str, other: Any) -> bool:
    """Compare as numbers are, however they are stored; text and numbers are different and have no order."""
    if isinstance(cell, bytes) != isinstance(other, bytes):
        return op == "!="
    return bool(OPS[op](cell, other))


def plain(value: Any, unit: str) -> Any:
    """Return a literal as cells are: text as bytes, times as (fractions of) ticks."""
    if value is None or isinstance(value, (int, float)) or value in OPS:
        return value
    if is_time(unit):
        if isinstance(value, str):
            value = np.datetime64(value)
        ticks = {"D": Fraction(86400), "s": Fraction(1), "ms": Fraction(1, 10**3)}
        ticks |= {"us": Fraction(1, 10**6), "ns": Fraction(1, 10**9)}
        seconds = int(value.astype("i8")) * ticks[np.datetime_data(value.dtype)[0]]
        return seconds / ticks["ns" if unit == "timestamp_nanoseconds" else unit.split("[")[1].rstrip("]")]
    return value.encode() if isinstance(value, str) else value


def has(value: Any, dataset: Any) -> bool:
    """Return whether there is such a value, which an attribute that is NaN is too."""
    if value[0] == "stat":
        return value[1] in dataset.arrays
    if value[1] is None:
        return value[2] in dataset.attributes
    return value[1] in dataset.arrays and value[2] in dataset.arrays[value[1]].attributes


def values_of(value: Any, dataset: Any) -> list[Any] | None:
    """Return a value of a dataset; of an attribute that is a list, its items."""
    if not has(value, dataset):
        return None
    if value[0] == "attr":
        found = dataset.attributes if value[1] is None else dataset.arrays[value[1]].attributes
        return items_of(found[value[2]]) or None
    array = dataset.arrays[value[1]]
    if value[2] == "row_count":
        return [array.cells.size]
    if value[2] == "null_count":
        return [array.nulls()]
    cells = array.counted()
    return [min(cells) if value[2] == "min" else max(cells)] if cells else None


def items_of(value: Any) -> list[Any]:
    """Return the values of an attribute that count, as Python has them."""
    items = np.asarray(value).reshape(-1) if isinstance(value, (np.generic, np.ndarray)) else value
    if isinstance(items, np.ndarray):
        times = items.dtype.kind in "Mm"
        items = items.view("i8").tolist() if times else items.tolist()
        items = [item for item in items if not times or item != np.iinfo("i8").min]
    items = items if isinstance(items, list) else [items]
    return [item.encode() if isinstance(item, str) else item for item in items if item == item]


def unit_of(value: Any, dataset: Any) -> str:
    """Return the type of a value."""
    if value[0] == "stat":
        return "int64" if value[2].endswith("count") else dataset.arrays[value[1]].dtype
    return "datetime64[s]" if value[2] == "when" else "any"


# ── what must be refused, and what statistics alone decide ───────────────────────────────────────


def is_refused(node: Any, datasets: Iterable[Any]) -> bool:
    """Return whether a question makes no sense for a fleet, whatever its cells are."""
    datasets, kind = list(datasets), node[0]
    if kind in ("and", "or", "not"):
        return any(is_refused(part, datasets) for part in node[1:])
    if kind == "box":
        return any(is_refused(("range", *part), datasets) for part in node[1:])
    if kind == "has":
        value = ("stat", node[1], "row_count") if isinstance(node[1], str) else node[1]
        return not types_of(value, datasets)
    if kind in ("cell", "range", "isin", "chain"):
        types, literals = types_of(("stat", node[1], "min"), datasets), node[2:]
        literals = [v for v in literals if not (isinstance(v, str) and v in OPS)]
    else:
        types, literals = types_of(node[1], datasets), node[2:] if kind != "value" else node[3:]
    if not types:
        return True
    if kind == "values":
        others = types_of(node[3], datasets)
        together = types | others
        times = {t for t in together if is_time(t)}
        apart = not kinds(types) & kinds(others)
        return bool(not others or together & COMPLEX or apart or (times and len(together) > 1))
    return any(cannot_be_compared(literal, types) for literal in literals)


def kinds(types: set[str]) -> set[str]:
    return {"text" if t in ("string", "binary") else "time" if is_time(t) else "number" for t in types}


def is_time(name: str) -> bool:
    return name.startswith(("timestamp", "datetime", "timedelta"))


def cannot_be_compared(literal: Any, types: set[str]) -> bool:
    """Return whether a literal makes no sense for values of some types."""
    if literal is None:
        return False
    if types & COMPLEX or (any(map(is_time, types)) and len(types) > 1):
        return True
    if any(map(is_time, types)):
        return isinstance(literal, (bool, float, bytes))
    text = bool(types & {"string", "binary"})
    number = bool(types - {"string", "binary"})
    return not (text if isinstance(literal, (str, bytes)) else number) or isinstance(literal, np.generic)


def types_of(value: Any, datasets: list[Any]) -> set[str]:
    """Return the types that a value has in a fleet."""
    if value[0] == "attr":
        return {kind_of(found) for dataset in datasets for found in attribute_of(value, dataset)}
    declared = {dataset.arrays[value[1]].dtype for dataset in datasets if value[1] in dataset.arrays}
    return {"int64"} if declared and value[2].endswith("count") else declared


def attribute_of(value: Any, dataset: Any) -> list[Any]:
    if not has(value, dataset):
        return []
    return [(dataset.attributes if value[1] is None else dataset.arrays[value[1]].attributes)[value[2]]]


def kind_of(value: Any) -> str:
    """Return the type that an attribute is kept as."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.dtype.name
    item = value[0] if isinstance(value, list) and value else 0 if isinstance(value, list) else value
    return {bool: "bool", int: "int64", float: "float64", str: "string", bytes: "binary"}[type(item)]


def is_decided(node: Any) -> bool:
    """Return whether smallest and largest cells are enough to answer."""
    kind = node[0]
    if kind in ("and", "or", "not"):
        return all(map(is_decided, node[1:]))
    if kind == "box":
        return all(None in part for part in node[1:])
    return kind not in ("range", "isin", "chain") and (kind != "cell" or node[2] != "==")


# ── as users write them ──────────────────────────────────────────────────────────────────────────


def to_condition(node: Any) -> Any:
    """Return the question as a condition of the package."""
    kind = node[0]
    if kind == "not":
        return ~to_condition(node[1])
    if kind in ("and", "or"):
        first, second = map(to_condition, node[1:])
        return first & second if kind == "and" else first | second
    if kind == "box":
        return box(**{name: (low, high) for name, low, high in node[1:]})
    if kind == "has":
        return (col(node[1]) if isinstance(node[1], str) else to_value(node[1])).exists()
    if kind == "chain":
        return parse_condition(str(to_text(node)))
    subject = col(node[1]) if kind in ("cell", "range", "isin") else to_value(node[1])
    if kind in ("cell", "value"):
        return OPS[node[2]](subject, node[3])
    if kind == "values":
        return OPS[node[2]](subject, to_value(node[3]))
    return subject.isin(node[2:]) if kind.endswith("isin") else subject.between(*node[2:])


def to_value(value: Any) -> Any:
    if value[0] == "attr":
        return col.attr(value[2]) if value[1] is None else col(value[1]).attr(value[2])
    return getattr(col(value[1]), value[2])()


def to_text(node: Any) -> str | None:
    """Return the question as text, if its literals can be written."""
    kind = node[0]
    if kind == "not":
        inner = to_text(node[1])
        return inner and f"not ({inner})"
    if kind in ("and", "or"):
        first, second = map(to_text, node[1:])
        return f"({first}) {kind} ({second})" if first and second else None
    if kind == "box" or not all(map(is_written, node[2:])):
        return None
    subject = value_text(node[1]) if isinstance(node[1], tuple) else node[1]
    if kind == "has":
        return f"exists({subject})"
    if kind == "values":
        return f"{subject} {node[2]} {value_text(node[3])}"
    if kind in ("cell", "value"):
        return f"{subject} {node[2]} {node[3]!r}"
    if kind == "chain":
        return f"{node[3]!r} {node[2]} {subject} {node[4]} {node[5]!r}"
    return (
        f"{subject} in [{node[2]!r}, {node[3]!r}]"
        if kind.endswith("isin")
        else (f"{node[2]!r} <= {subject} <= {node[3]!r}")
    )


def value_text(value: Any) -> str:
    if value[0] == "attr":
        return f"attr({value[2]})" if value[1] is None else f'attr({value[1]}, "{value[2]}")'
    return f"{ {'row_count': 'rows', 'null_count': 'nulls'}.get(value[2], value[2]) }({value[1]})"


def is_written(value: Any) -> bool:
    return not isinstance(value, np.generic) and not (isinstance(value, float) and not math.isfinite(value))
