"""What a store costs as it grows: sensors of 3 arrays of 24 values, from a thousand datasets to a million.

    python -m perf.scale [--sizes 1000 10000 …] [--work DIRECTORY]

writes the tables in ``docs/scale.md``, ``perf/results/scale/scale.json`` and ``scale.svg``. Each step runs in a process
of its own. The fleets of :mod:`perf.shapes` are measured as well.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from atlas import Atlas, col, kernels
from perf import shapes
from perf.measure import memory, peak, timed

SIZES = (1_000, 10_000, 100_000, 1_000_000)
OUT = Path(__file__).parent / "results" / "scale"
PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
STACKED = 10_000

# What is measured, its title, and the target at a million datasets, in seconds or MiB.
COSTS = {
    "build": ("build: create_datasets with data, and flush", None),
    "build_memory": ("build: peak memory beyond the data, MiB", None),
    "open": ("open", 1.0),
    "open_memory": ("open, list, look up: memory, MiB", 400.0),
    "list": ("list_datasets", None),
    "exists": ("dataset_exists, the first", None),
    "view": ("open_dataset, one more", None),
    "stacked": ("stacked read of 10,000 names (all, if there are fewer), the second time", None),
    "attribute_cold": ("pruning one attribute, cold", 0.5),
    "attribute_warm": ("pruning one attribute, warm", 0.15),
    "statistics_cold": ("pruning one array, cold", 0.5),
    "statistics_warm": ("pruning one array, warm", 0.15),
    "select": ("select by an array's maximum and an attribute", None),
    "add_empty": ("add one dataset to an empty store and flush, median of 20", None),
    "add": ("add one dataset to this store and flush, median of 20", None),
    "delete": ("delete every tenth dataset and flush", None),
    "compact": ("compact", None),
    "compact_memory": ("delete and compact: peak memory, MiB", None),
}


def build(place: Path, size: int) -> dict[str, float]:
    """Make the store."""
    costs: dict[str, float] = {}
    kernels.load()  # compiled once per machine
    rng = np.random.default_rng(0)
    arrays = {
        name: {"dims": ["hour"], "data": np.round(rng.normal(15, 5, (size, 24)), 2).astype(dtype)}
        for name, dtype in {"temperature": "f4", "pressure": "f8", "humidity": "f4"}.items()
    }
    attributes = {"lat": rng.uniform(-90, 90, size), "platform": [f"p{i % 7}" for i in range(size)], "year": 2019}
    names = [f"sensor_{i:08d}" for i in range(size)]
    before = memory()
    with timed(costs, "build"), Atlas.create(place) as store:
        store.create_datasets(names, arrays, attributes)
    costs["build_memory"] = peak() - before
    return costs


def read(place: Path, size: int) -> dict[str, float]:
    """Open it, and ask for things."""
    costs: dict[str, float] = {}
    before = memory()
    with timed(costs, "open"):
        store = Atlas.open(place)
    with timed(costs, "exists"):
        assert store.dataset_exists(f"sensor_{size // 2:08d}")
    with timed(costs, "view"):
        store.open_dataset(f"sensor_{size // 3:08d}")
    with timed(costs, "list"):
        names = store.list_datasets()
    costs["open_memory"] = memory() - before
    rng = np.random.default_rng(1)
    picked = [names[i] for i in rng.integers(0, size, min(STACKED, size))]
    for _ in range(2):
        with timed(costs, "stacked"):
            store.read_array_across_stacked("temperature", picked)
    return costs


def prune(place: Path, size: int) -> dict[str, float]:
    """Ask for columns and conditions, cold in this process and again."""
    costs: dict[str, float] = {}
    store = Atlas.open(place)
    for word in ("cold", "warm"):
        with timed(costs, f"attribute_{word}"):
            store.pruning_index(global_attrs=["lat"])
    store = Atlas.open(place)
    for word in ("cold", "warm"):
        with timed(costs, f"statistics_{word}"):
            store.pruning_index(["temperature"])
    with timed(costs, "select"):
        store.select(col("temperature").max() > 25, col.attr("platform") == "p3")
    return costs


def change(place: Path, size: int) -> dict[str, float]:
    """Add, delete, compact."""
    costs: dict[str, float] = {}
    kernels.load()
    before = memory()
    store = Atlas.open(place)
    costs["add_empty"] = add_one_by_one(Atlas.create(place.with_name("empty")))
    costs["add"] = add_one_by_one(store)
    names = store.list_datasets()[::10]
    with timed(costs, "delete"):
        store.delete_datasets(names)
        store.flush()
    with timed(costs, "compact"):
        store.compact()
    costs["compact_memory"] = peak() - before
    return costs


def add_one_by_one(store: Atlas) -> float:
    """Return the median of the seconds that it takes to add a dataset, without the first."""
    times = []
    for i in range(21):
        began = time.perf_counter()
        store.create_datasets([f"more {i}"], {"temperature": {"dims": ["hour"], "data": np.ones((1, 24), "f4")}})
        store.flush()
        times.append(time.perf_counter() - began)
    return float(np.median(times[1:]))


STEPS: dict[str, Callable[[Path, int], dict[str, float]]] = {
    **{name: lambda place, _, shape=shape: shape(place) for name, shape in shapes.SHAPES.items()},
    "build": build,
    "read": read,
    "prune": prune,
    "change": change,
}
GROWING = ("build", "read", "prune", "change")


def measure(size: int, work: Path, steps: Sequence[str] = GROWING) -> dict[str, float]:
    """Run steps, each in a process of its own, on one store."""
    costs: dict[str, float] = {}
    place = Path(tempfile.mkdtemp(dir=work)) / "store"
    try:
        for step in steps:
            command = [sys.executable, "-m", "perf.scale", "--step", step, "--sizes", str(size), "--work", str(place)]
            costs |= json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    finally:
        shutil.rmtree(place.parent)
    return costs


def table(results: dict[int, dict[str, float]]) -> str:
    """Return the costs as Markdown; the last column goes on from the last two sizes."""
    sizes = sorted(results)
    lines = ["| datasets | " + " | ".join(f"{n:,}" for n in sizes) + f" | {10 * sizes[-1]:,}, by extrapolation |"]
    lines.append("|---" * (len(sizes) + 2) + "|")
    for key, (title, target) in COSTS.items():
        cells = [shown(key, results[n][key]) for n in sizes] + [shown(key, extrapolated(results, key))]
        goal = f" (target: {shown(key, target)})" if target and sizes[-1] == SIZES[-1] else ""
        lines.append(f"| {title}{goal} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def extrapolated(results: dict[int, dict[str, float]], key: str) -> float:
    """Return a cost for ten times the datasets, linear in what the last two sizes show."""
    (n, a), (m, b) = [(size, results[size][key]) for size in sorted(results)[-2:]]
    return max(b, b + (b - a) / (m - n) * 9 * m)


def shown(key: str, value: float) -> str:
    """Return a cost in words."""
    if key.endswith("memory"):
        return f"{value:,.0f} MiB"
    return f"{value:.1f} s" if value >= 1 else f"{1000 * value:.2g} ms" if value < 0.0995 else f"{1000 * value:.0f} ms"


DRAWN = {"build": "#0072b2", "stacked": "#d55e00", "statistics_warm": "#009e73", "add": "#cc79a7", "open": "#e69f00"}


def plot(results: dict[int, dict[str, float]]) -> str:
    """Return a plot of seconds against datasets, both logarithmic; dashed where extrapolated."""
    sizes = sorted(results)
    points = {key: [results[n][key] for n in sizes] + [extrapolated(results, key)] for key in DRAWN}
    xs = [*sizes, 10 * sizes[-1]]
    low = min(min(values) for values in points.values())
    high = max(max(values) for values in points.values())

    def x(n: float) -> float:
        return 70 + 420 * np.log(n / xs[0]) / np.log(xs[-1] / xs[0])

    def y(value: float) -> float:
        return 300 - 270 * np.log(value / low) / np.log(high / low)

    parts = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 700 350" font-family="sans-serif" font-size="12">']
    parts.append("<style>text{fill:#333}path{fill:none;stroke-width:2}.grid{stroke:#8884;stroke-width:1}")
    parts.append("@media (prefers-color-scheme: dark){text{fill:#ddd}}</style>")
    for n in xs:
        parts.append(f'<path class="grid" d="M{x(n):.1f} 30V300"/>')
        parts.append(f'<text x="{x(n):.1f}" y="320" text-anchor="middle">{n:,}</text>')
    for power in range(int(np.floor(np.log10(low))) + 1, int(np.floor(np.log10(high))) + 1):
        parts.append(f'<path class="grid" d="M70 {y(10.0**power):.1f}H490"/>')
        parts.append(f'<text x="62" y="{y(10.0**power) + 4:.1f}" text-anchor="end">{10.0**power:g} s</text>')
    for (key, color), line in zip(DRAWN.items(), range(9), strict=False):
        places = [f"{x(n):.1f} {y(value):.1f}" for n, value in zip(xs, points[key], strict=True)]
        parts.append(f'<path stroke="{color}" d="M{"L".join(places[:-1])}"/>')
        parts.append(f'<path stroke="{color}" stroke-dasharray="4 4" d="M{places[-2]}L{places[-1]}"/>')
        parts.append(f'<path stroke="{color}" d="M500 {40 + 20 * line}h16"/>')
        parts.append(f'<text x="522" y="{44 + 20 * line}">{COSTS[key][0].split(":")[0].split(",")[0]}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    """Measure, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(STEPS[options.step](options.work, options.sizes[0])))
        return
    load = f"\nMeasured on {os.cpu_count()} cores with a load average of {os.getloadavg()[1]:.1f} before the run.\n"
    results, others = {}, {}
    for size in options.sizes:
        results[size] = measure(size, options.work)
        print(size, json.dumps(results[size]), flush=True)
    for shape in shapes.SHAPES:
        others[shape] = measure(0, options.work, [shape])
        print(shape, json.dumps(others[shape]), flush=True)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "scale.json").write_text(json.dumps({"sensors": results} | others, indent=1) + "\n")
    (OUT / "scale.svg").write_text(plot(results))
    tables = {"sensors": table(results) + load} | {shape: shapes.table(shape, costs) for shape, costs in others.items()}
    PAGE.write_text(refreshed(PAGE.read_text(), tables))


def refreshed(page: str, tables: dict[str, str]) -> str:
    """Return a page with new tables in the places that are marked for them."""
    for name, text in tables.items():
        begin, end = f"<!-- {name}: written by make scale -->\n", "<!-- end -->"
        before, _, rest = page.partition(begin)
        _, found, after = rest.partition(end)
        assert found, f"there is no place for the table {name!r}"
        page = f"{before}{begin}{text}{end}{after}"
    return page


if __name__ == "__main__":
    main()
