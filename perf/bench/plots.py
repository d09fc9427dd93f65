"""The plots: SVG without a background, in a grey that is readable on light and on dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perf.bench.figures import AXES, OURS, Record, median, select, sweeps

INK = "#808080"
COLOURS = ("#d9480f", "#1c7ed6", "#2f9e44", "#ae3ec9", "#e8a500", "#0ca678", "#7048e8", "#e64980", "#74b816", "#868e96")


def draw(records: Sequence[Record], folder: Path) -> list[Path]:
    """Draw what was measured; return the files."""
    import matplotlib

    style = {
        "svg.hashsalt": "atlas",
        "svg.fonttype": "none",
        "font.size": 9,
        "text.color": INK,
        **{f"axes.{part}": INK for part in ("edgecolor", "labelcolor", "titlecolor")},
        **{f"{axis}tick.{part}": INK for axis in "xy" for part in ("color", "labelcolor")},
    }
    with matplotlib.rc_context(style):
        drawn = [draw_bars(select(records, sweep=None, operation=o), w, o, folder) for w, o in _read(records)]
        drawn += [draw_sweep(select(records, sweep=s, workload=w), s, w, folder) for s, w in sweeps(records)]
    return drawn


def _read(records: Sequence[Record]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((r["workload"], r["operation"]) for r in records if r["sweep"] is None))


def _save(figure: Any, path: Path) -> Path:
    figure.tight_layout()
    figure.savefig(path, transparent=True, metadata={"Date": None})
    return path


def draw_bars(records: Sequence[Record], workload: str, operation: str, folder: Path) -> Path:
    """One bar a contender, the fastest on top."""
    from matplotlib.figure import Figure

    what = "write" if operation == "write" else "warm"
    timed = [(value, r) for r in select(records, workload=workload) if (value := median(r, what)) is not None]
    timed.sort(key=lambda item: -item[0])
    figure = Figure(figsize=(7, 0.8 + 0.22 * max(len(timed), 1)))
    axes = figure.subplots()
    bars = axes.barh(
        [f"{r['system']} {r['codec']}" for _, r in timed],
        [value for value, _ in timed],
        color=[COLOURS[0] if r["system"] == OURS[0] else INK for _, r in timed],
    )
    axes.bar_label(bars, fmt="{:.3g}", padding=2, color=INK)
    if timed:
        axes.set_xscale("log")
    axes.set_xlabel("seconds")
    axes.set_title(f"{workload}: {operation}")
    return _save(figure, folder / f"{workload}-{operation}.svg")


def draw_sweep(records: Sequence[Record], sweep: str, workload: str, folder: Path) -> Path:
    """One line a system: ours with the default codec, each peer with its best codec at every point."""
    from matplotlib.figure import Figure

    place, label, logarithmic = AXES[sweep]
    figure = Figure(figsize=(7, 4.2))
    axes = figure.subplots()
    for colour, system in zip(COLOURS, dict.fromkeys(r["system"] for r in records), strict=False):
        points: dict[float, float] = {}
        for record in select(records, system=system):
            value = median(record, "warm")
            if value is not None and (system != OURS[0] or record["codec"] == OURS[1]):
                points[place(record)] = min(value, points.get(place(record), value))
        width = 2.5 if system == OURS[0] else 1.2
        axes.plot(list(points), list(points.values()), marker="o", ms=3, lw=width, color=colour, label=system)
    if logarithmic:
        axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(label)
    axes.set_ylabel("seconds")
    axes.set_title(f"{workload}, each peer with the fastest of its codecs that were tried")
    axes.grid(alpha=0.25, color=INK)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return _save(figure, folder / f"sweep-{sweep}-{workload}.svg")
