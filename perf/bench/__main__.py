"""The command line: ``python -m perf.bench``."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from perf.bench.argo import ARGO, ArgoFiles
from perf.bench.contenders import Contender, chosen, remove
from perf.bench.environments import here, prepare
from perf.bench.plan import INTO, OPERATIONS, PRESETS, SWEEPS, Part, Step, narrowed
from perf.bench.publish import publish
from perf.bench.results import Finished, Record, document
from perf.bench.runner import Runner, Source
from perf.bench.systems import REPOSITORY
from perf.bench.workloads import WORKLOADS, Data

console = Console(stderr=True)


def main(
    preset: Annotated[str, typer.Option(help=f"What to measure: {', '.join(PRESETS)}.")] = "full",
    quick: Annotated[bool, typer.Option("--quick", help="Short for --preset quick: a few minutes.")] = False,
    systems: Annotated[str, typer.Option(help="Such as atlas,zarr:lz4; all codecs when none is named.")] = "",
    workloads: Annotated[str, typer.Option(help=f"Of {', '.join((*WORKLOADS, ARGO))}.")] = "",
    operations: Annotated[str, typer.Option(help=f"Of {', '.join(OPERATIONS)}.")] = ",".join(OPERATIONS),
    sweeps: Annotated[str | None, typer.Option(help=f"Of {', '.join(SWEEPS)}; an empty text for none.")] = None,
    datasets: Annotated[int | None, typer.Option(min=1, help="In every workload, instead of its own number.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="How often each call is timed.")] = None,
    budget: Annotated[float | None, typer.Option(help="Seconds after which a slow system skips rounds.")] = None,
    limit: Annotated[float | None, typer.Option(help="Seconds after which a call is given up.")] = None,
    seed: Annotated[int, typer.Option(help="Of the data.")] = 0,
    work: Annotated[Path, typer.Option(help="Environments, data, stores and finished steps.")] = REPOSITORY / ".bench",
    results: Annotated[
        Path | None, typer.Option(help="Where the report goes; perf/results/PRESET if not given.")
    ] = None,
    argo: Annotated[Path, typer.Option(help="The Argo files, if present.")] = REPOSITORY.parent / "shared/data/argo",
    in_place: Annotated[bool, typer.Option("--in-place", help="Run the systems with this interpreter.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure finished steps again.")] = False,
    keep_stores: Annotated[bool, typer.Option("--keep-stores", help="Keep what the systems wrote.")] = False,
    report_only: Annotated[bool, typer.Option("--report-only", help="Rebuild tables and plots from the JSON.")] = False,
) -> None:
    """Compare Atlas with other systems: each in its own process and environment, every result checked to the bit.

    An interrupted run goes on where it stopped.
    """
    preset = "quick" if quick else preset
    if preset not in PRESETS:
        raise typer.BadParameter(f"unknown preset {preset!r}; use {', '.join(PRESETS)}")
    target = results or REPOSITORY / "perf" / "results" / preset
    if report_only:
        publish(json.loads((target / "results.json").read_text()), target)
        return
    timing = {"rounds": rounds, "budget": budget, "limit": limit}
    parts = [
        replace(
            part,
            contenders=tuple(split(systems)) or part.contenders,
            workloads={name: datasets or own for name, own in part.workloads.items()},
            pace=replace(part.pace, **{name: value for name, value in timing.items() if value}),
        )
        for part in asked(PRESETS[preset], split(workloads), None if sweeps is None else split(sweeps), argo)
    ]
    work.mkdir(parents=True, exist_ok=True)
    versions: dict[str, dict[str, str]] = {}
    records: list[Record] = []
    with (work / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs at once would disturb each other's times and stores
        for number, part in enumerate(parts, 1):
            contenders = enlist(part.contenders, work, in_place)
            versions |= {contender.system.name: contender.environment.versions for contender in contenders}
            finished = Finished(work, contenders, part.pace, seed)
            todo = part.steps(split(operations))
            if fresh:
                finished.forget(todo)
            console.print(f"Part {number} of {len(parts)}")
            with console.status("starting") as status:
                runner = Runner(contenders, part.pace, status.update)
                records += run(todo, finished, runner, lambda step: source_of(step, seed, work, argo), keep_stores)
    publish(document(versions, [part.pace for part in parts], seed, records), target)
    console.print(f"The report is in {os.path.relpath(target)}.")


def asked(parts: Sequence[Part], workloads: list[str], sweeps: list[str] | None, argo: Path) -> list[Part]:
    """Return the parts of a preset with what the command line asks for, or all of it."""
    names = present(workloads or [name for part in parts for name in part.workloads], argo)
    points = [sweep for part in parts for sweep in part.sweeps] if sweeps is None else sweeps
    for sweep in points:
        if sweep not in SWEEPS:
            raise typer.BadParameter(f"unknown sweep {sweep!r}; use {', '.join(SWEEPS)}")
    return narrowed(parts, names, points)


def run(
    todo: list[Step], finished: Finished, runner: Runner, source_of: Callable[[Step], Source], keep_stores: bool
) -> list[Record]:
    """Measure what is not finished yet; return the records of all steps."""
    records: list[Record] = []
    for number, step in enumerate(todo, 1):
        known = finished.get(step)
        if known is None:
            known = finished.put(step, measure(step, source_of(step), runner))
        records += known
        console.print(f"[{number}/{len(todo)}] {step}: done")
        last_of_collection = number == len(todo) or todo[number].collection != step.collection
        if last_of_collection and not keep_stores:
            for contender in runner.contenders:
                remove(contender.store(step.collection))
    return records


def split(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def present(names: Iterable[str], argo: Path) -> list[str]:
    """Return the workloads, without the Argo files where there are none."""
    for name in names:
        if name not in (*WORKLOADS, ARGO):
            raise typer.BadParameter(f"unknown workload {name!r}; use {', '.join((*WORKLOADS, ARGO))}")
    if ARGO in names and not argo.is_dir():
        console.print(f"{argo} is not there: the Argo files are left out")
        return [name for name in names if name != ARGO]
    return list(names)


def enlist(wanted: Sequence[str], work: Path, in_place: bool) -> list[Contender]:
    """Return the contenders, their environments made."""
    try:
        found = chosen(wanted)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    environments = {}
    for system, _ in found:
        if system.name not in environments:
            environments[system.name] = here() if in_place else prepare(system, work, console.print)
    return [Contender(system, codec, environments[system.name], work) for system, codec in found]


def source_of(step: Step, seed: int, work: Path, argo: Path) -> Data | ArgoFiles:
    return ArgoFiles(argo, work) if step.workload is None else Data(step.workload, seed, work)


def measure(step: Step, source: Source, runner: Runner) -> list[Record]:
    runner.notice(f"{step}: making the data")
    source.make()
    if step.operation == "write":
        return runner.write(source)
    return runner.read(source, step.fraction, step.workers, into=step.operation == INTO)


if __name__ == "__main__":
    typer.run(main)
