"""The tables, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from perf.bench.argo import ARGO
from perf.bench.figures import AXES, OURS, Record, median, ours, quartiles, ratio, select, shown, sweeps
from perf.bench.plan import INTO
from perf.bench.systems import SYSTEMS
from perf.bench.targets import target_rows

WIN = "◀"

# What begins the message of a system that cannot do a work at all.
NO_PLACE = "NotImplementedError: "


def report(results: dict[str, Any]) -> str:
    """Return the whole report."""
    records = results["records"]
    parts = ["# Benchmark results", header(results), *targets(records)]
    for workload, datasets in collections(records):
        mine = select(records, workload=workload, datasets=datasets, sweep=None)
        title = f"{workload}, {datasets:,} datasets" if datasets else workload
        parts += [f"## {title}", table(*summary(mine)), *left_out(mine), "### Spread", table(*spread(mine))]
    for sweep, workload in sweeps(records):
        mine = select(records, sweep=sweep, workload=workload)
        parts += [f"## {workload}, by {AXES[sweep][1]}", table(*swept(mine, sweep))]
    return "\n\n".join(parts) + "\n"


def targets(records: Sequence[Record]) -> list[str]:
    """Return the targets that these records say something about, if there are any."""
    head, rows = target_rows(records)
    return ["## Targets", table(head, rows)] if rows else []


def collections(records: Sequence[Record]) -> list[tuple[str, int | None]]:
    """Return the workloads outside of sweeps, in order."""
    return list(dict.fromkeys((r["workload"], r.get("datasets")) for r in records if r["sweep"] is None))


def header(results: dict[str, Any]) -> str:
    machine, rounds = results["machine"], max(pace["rounds"] for pace in results["paces"])
    return (
        f"{results['date'][:10]}, {machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory'] / 2**30:.0f} GiB, Linux {machine['kernel']}, commit {results['commit']}; "
        f"load average {results['load']:.1f} at the end; seed {results['seed']}; "
        f"up to {rounds} rounds, of slow systems at least one. Times are medians in seconds; ×n is the "
        f"median over the rounds of the system's time divided by that of Atlas with default options, and {WIN} marks "
        "where a peer is ahead of it. *First* is from the start of the interpreter to the arrays in hand, *into* a "
        "full read into arrays that are kept. Page cache warm. Every first result, and the last one of every round, "
        "was compared to the bit with what was stored."
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


Column = tuple[str, str, str]  # title, operation, series


def columns(records: Sequence[Record]) -> list[Column]:
    """Return the timed columns that these records can fill."""
    operations = list(dict.fromkeys(r["operation"] for r in records))
    found = [("write", "write", "write")] if "write" in operations else []
    for operation in (o for o in operations if o != "write"):
        found.append((operation, operation, "warm"))
        if any("first" in r for r in select(records, operation=operation)):
            found.append((f"{operation}, first", operation, "first"))
    return found


def summary(records: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    """One row a contender: times, size, memory, CPU."""
    timed = columns(records)
    head = ["system", "codec", *(title for title, _, _ in timed), "MB", "files", "peak MB", "CPU s", "write CPU s"]
    rows = []
    unable = {system for systems in lacking(records).values() for system in systems}
    for system, codec in contenders(records):
        if system in unable:
            continue
        mine = {r["operation"]: r for r in select(records, system=system, codec=codec)}
        cells = [
            time_cell(mine.get(operation), ours(select(records, operation=operation)), what)
            for _, operation, what in timed
        ]
        largest = next((mine[o] for o in ("full", "slice") if o in mine and "warm" in mine[o]), {})
        stored: Record = next((r for r in mine.values() if "size" in r), {})
        cells += [
            f"{stored['size'] / 1e6:.1f}" if stored else "–",
            f"{stored['files']:,}" if stored else "–",
            f"{largest['peak'] / 1e6:.0f}" if "peak" in largest else "–",
            f"{median(largest, 'warm cpu') or 0:.2f}" if largest else "–",
            f"{median(stored, 'write cpu') or 0:.2f}" if stored.get("write cpu") else "–",
        ]
        rows.append([f"**{system}**" if system == OURS[0] else system, codec, *cells])
    return head, rows


def lacking(records: Sequence[Record]) -> dict[str, list[str]]:
    """Return the systems whose model has no place for a workload, by what they say of it."""
    found: dict[str, list[str]] = {}
    for system in dict.fromkeys(r["system"] for r in records):
        errors = [r.get("error", "") for r in select(records, system=system) if r["operation"] != INTO]
        if errors and all(NO_PLACE in error for error in errors):
            found.setdefault(errors[0].rpartition(NO_PLACE)[2], []).append(system)
    return found


def left_out(records: Sequence[Record]) -> list[str]:
    """Say which systems have no row in the table, and why."""
    return [f"Not in the table: {', '.join(systems)}; {reason}." for reason, systems in lacking(records).items()]


def contenders(records: Sequence[Record]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((r["system"], r["codec"]) for r in records))


def time_cell(theirs: Record | None, default: Record | None, what: str) -> str:
    """Return a median with its ratio, or why there is none."""
    if theirs is None:
        return "–"
    value = median(theirs, what)
    if value is None:
        return theirs.get("error", "–").removeprefix(NO_PLACE)
    factor = ratio(theirs, default, what)
    if factor is None or theirs is default:
        return seconds(value)
    mark = f" {WIN}" if factor < 1 and theirs["system"] != OURS[0] else ""
    return f"{seconds(value)} ×{shown(factor)}{mark}"


def seconds(value: float) -> str:
    return f"{value:.2f}" if value >= 1 else f"{value:.4f}" if value < 0.1 else f"{value:.3f}"


def spread(records: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    """Minimum, median, quartiles and number of rounds of everything that was timed."""
    head = ["system", "codec", "what", "minimum", "median", "quartiles", "rounds"]
    rows = []
    for title, operation, what in columns(records):
        for record in select(records, operation=operation):
            series = record.get(what)
            if series:
                low, high = quartiles(series)
                middle = median(record, what) or 0.0
                cells = [seconds(min(series)), seconds(middle), f"{seconds(low)} – {seconds(high)}", str(len(series))]
                rows.append([record["system"], record["codec"], title, *cells])
    return head, rows


def swept(records: Sequence[Record], sweep: str) -> tuple[list[str], list[list[str]]]:
    """One row a contender, one column a point of a sweep: warm reads."""
    place = AXES[sweep][0]
    points = list(dict.fromkeys(map(place, records)))
    rows = []
    for system, codec in contenders(records):
        mine = {place(r): r for r in select(records, system=system, codec=codec)}
        by_place = {place(r): r for r in select(records, system=OURS[0], codec=OURS[1])}
        cells = [time_cell(mine.get(point), by_place.get(point), "warm") for point in points]
        rows.append([f"**{system}**" if system == OURS[0] else system, codec, *cells])
    return ["system", "codec", *(f"{point:,g}" for point in points)], rows


def setups(results: dict[str, Any]) -> str:
    """How each system that took part is set up, and in which version."""
    rows = []
    for name, versions in results["versions"].items():
        pinned = [part.partition("==")[0].partition("[")[0] for part in SYSTEMS[name].requirements if "==" in part]
        found = {package.lower(): version for package, version in versions.items()}
        listed = ", ".join(f"{package} {found[package.lower()]}" for package in pinned if package.lower() in found)
        rows.append([name, SYSTEMS[name].setup, listed or "this tree"])
    return table(["system", "set up", "versions"], rows)


# Those that most targets are about; the tables of all are in the report.
_QUOTED = ("gridded-smooth", "profile-smooth", ARGO)


def behind(records: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    """Everything outside of sweeps in which a peer is ahead of Atlas with default options: the nearest first."""
    found = []
    for workload, datasets in collections(records):
        mine = select(records, workload=workload, datasets=datasets, sweep=None)
        for title, operation, what in columns(mine):
            same = select(mine, operation=operation)
            default = ours(same)
            factors = [(ratio(peer, default, what), peer) for peer in same if peer["system"] != OURS[0]]
            ahead = sorted((f, p["system"], p["codec"]) for f, p in factors if f is not None and f < 1)
            if ahead:
                who = ", ".join(f"{system} {codec} ×{shown(factor)}" for factor, system, codec in ahead)
                found.append([workload, title, seconds(median(default, what) or 0.0), who])
    return ["work", "what", "Atlas", "of its time"], found


def highlights(results: dict[str, Any]) -> str:
    """What the documentation quotes: the targets, and the tables that most of them are about."""
    records = results["records"]
    parts = [header(results), table(*target_rows(records)), "**Where others are ahead**", table(*behind(records))]
    for workload, datasets in collections([r for r in records if r["workload"] in _QUOTED]):
        mine = select(records, workload=workload, datasets=datasets, sweep=None)
        parts += [
            f"**{workload}**" if workload == ARGO else f"**{workload}, {datasets:,} datasets**",
            table(*summary(mine)),
            *left_out(mine),
        ]
    return "\n\n".join(parts)


# What the README says in brief: of which works, beside which systems with their densest codec.
_BRIEF_WORKS = [
    ("gridded-smooth", "slice"),
    ("gridded-smooth", "full"),
    ("profile-smooth", "slice"),
    ("profile-smooth", "full"),
    ("gridded-smooth", "write"),
]
_BRIEF_SYSTEMS = ("atlas", "tensorstore", "zarr+dask", "atlas-0.14")


def brief(results: dict[str, Any]) -> str:
    """What the README quotes: a few works, beside a few systems and whoever was the fastest."""
    rows = []
    for workload, operation in _BRIEF_WORKS:
        what = "write" if operation == "write" else "warm"
        same = select(results["records"], workload=workload, operation=operation, sweep=None)
        mine = ours(same)
        if mine is None:
            continue
        by_system = {record["system"]: record for record in select(same, codec="zstd")}
        peers = [r for r in same if r["system"] != OURS[0] and median(r, what) is not None]
        best = min(peers, key=lambda r: median(r, what) or 0.0, default=None)
        cells = [time_cell(by_system.get(system), mine, what) for system in _BRIEF_SYSTEMS]
        fastest = f"{best['system']} {best['codec']}: {time_cell(best, mine, what)}" if best else "–"
        rows.append([f"{workload} ×{mine['datasets']:,}, {operation}", *cells, fastest])
    return table(["seconds", *_BRIEF_SYSTEMS, "the fastest other, with any codec or none"], rows)
