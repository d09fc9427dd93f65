"""The protocol: what is asked of the contenders, in which order, and what is kept of the answers."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from perf.bench.contenders import Contender, bring_in, remove, send_out, size
from perf.bench.process import Worker, WorkerFailed
from perf.bench.usage import PeakMemory, cpu_seconds

# Reads are repeated within a round, short ones more often. The first one finds caches that others have filled
# meanwhile, which can be most of its time: it counts where there is no other, since it took so long.
_REPEATS = 6
_REPEAT_SECONDS = 0.5
_ONCE_SECONDS = 4.0

# What begins the error of a system that returned something else than was stored.
UNEQUAL = "unequal"

# Told what is being done, to show it.
Notice = Callable[[str], None]


class Source(Protocol):
    """A collection of datasets: what workers are asked for, and what they must answer."""

    key: str
    bytes: int

    def make(self) -> None: ...

    def write_request(self, place: Path, codec: str, joined: bool) -> dict[str, Any]: ...

    def read_request(self, fraction: float) -> dict[str, Any]: ...

    def into_request(self) -> dict[str, Any]: ...

    def truth(self, fraction: float) -> dict[str, str]: ...


@dataclass(frozen=True)
class Pace:
    """How long to measure.

    Parameters
    ----------
    rounds : int
        How often each call is timed.
    budget : float
        Seconds after which a slow contender takes no part in further rounds; it always has one.
    limit : float
        Seconds after which a call is given up.
    """

    rounds: int
    budget: float
    limit: float


@dataclass
class Cell:
    """One contender's measurements of one operation."""

    contender: Contender
    measured: dict[str, Any] = field(default_factory=dict)
    error: str | None = None

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Keep what a system could not do as its result."""
        try:
            yield
        except WorkerFailed as failure:
            self.error = str(failure)

    def record(self) -> dict[str, Any]:
        who = {"system": self.contender.system.name, "codec": self.contender.codec}
        if self.error is None:
            return who | self.measured
        # Times of what is wrong say nothing; a system that fails in a later round keeps those that it had.
        return who | ({} if self.error.startswith(UNEQUAL) else self.measured) | {"error": self.error}


class Runner:
    """Measures the contenders side by side.

    Every round visits all contenders in a new order, so that whatever drifts on the machine hits all alike, and the
    times of one round can be compared pair by pair.
    """

    def __init__(self, contenders: Sequence[Contender], pace: Pace, notice: Notice) -> None:
        self.contenders = contenders
        self.pace = pace
        self.notice = notice
        # What could not be stored, by contender and collection: it is not tried again for every read.
        self._unstored: dict[tuple[str, str], str] = {}

    def write(self, source: Source) -> list[dict[str, Any]]:
        """Measure storing the collection, durable when the clock stops, in a fresh process each time."""
        cells = [Cell(contender) for contender in self.contenders]
        self._rounds(source, "write", cells, lambda cell: self._write(cell, source))
        for cell in cells:
            if cell.error is None and sum(cell.measured["write"]) < self.pace.budget:
                with cell.failing():
                    self._write(cell, source, sample=True)
        return [cell.record() for cell in cells]

    def _write(self, cell: Cell, source: Source, sample: bool = False) -> dict[str, float]:
        place = cell.contender.store(source.key)
        remove(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        request = source.write_request(place, cell.contender.codec, cell.contender.system.joined)
        for path in [*request.get("arrays", {}).values(), *request.get("files", ())]:
            bring_in(Path(path))
        with cell.contender.start() as worker, ExitStack() as stack:
            worker.ask(self.pace.limit, {"do": "forget"})  # the adapter is imported now
            peak = stack.enter_context(PeakMemory(worker.pid)) if sample else None
            before = cpu_seconds(worker.pid)
            seconds = self._store(cell, worker, source, request)["seconds"]
            used = cpu_seconds(worker.pid) - before
        cell.measured |= size(place)
        send_out(place)
        if peak:
            cell.measured["write peak"] = peak.own
        return {"write": seconds, "write cpu": used}

    def _store(self, cell: Cell, worker: Worker, source: Source, request: dict[str, Any]) -> dict[str, Any]:
        try:
            return worker.ask(self.pace.limit, request)
        except WorkerFailed as failure:
            remove(cell.contender.store(source.key))  # half a store must not be read later
            self._unstored[cell.contender.label, source.key] = f"not stored: {failure}"
            raise

    def read(
        self, source: Source, fraction: float, workers: int | None = None, into: bool = False
    ) -> list[dict[str, Any]]:
        """Measure a stacked read: repeated in one process, and as the first call of a fresh one.

        Or, `into` arrays that are kept, only the former.
        """
        cells = [Cell(contender) for contender in self.contenders]
        request = source.into_request() if into else source.read_request(fraction)
        truth = source.truth(fraction)
        for cell in cells:
            cell.error = self._unstored.get((cell.contender.label, source.key))
            if workers is not None and not cell.contender.system.workers:
                cell.error = "takes no number of workers"
            if cell.error:
                continue
            if not cell.contender.store(source.key).exists():
                self.notice(f"{cell.contender.label}: store")
                with cell.failing():
                    self._write(cell, source)
        with ExitStack() as stack:
            running = {}
            for cell in [cell for cell in cells if cell.error is None]:
                self.notice(f"{cell.contender.label}: check")
                with cell.failing():
                    worker = stack.enter_context(cell.contender.start())
                    running[cell.contender.label] = worker
                    self._open(cell, worker, source, workers)
                    self._warm_up(cell, worker, request, truth)
            self._rounds(
                source,
                "warm",
                cells,
                lambda cell: self._again(cell, running[cell.contender.label], source, request, truth),
            )
        if not into:
            self._rounds(source, "first", cells, lambda cell: self._first(cell, source, workers, request, truth))
        return [cell.record() for cell in cells]

    def _open(self, cell: Cell, worker: Worker, source: Source, workers: int | None) -> None:
        place = str(cell.contender.store(source.key))
        worker.ask(self.pace.limit, {"do": "open", "place": place, "workers": workers})

    def _warm_up(self, cell: Cell, worker: Worker, request: dict[str, Any], truth: dict[str, str]) -> None:
        """Check the first result; know the memory of the first reads."""
        with PeakMemory(worker.pid) as peak:
            spent = worker.ask(self.pace.limit, request)["seconds"]
        peaks = [peak]
        self._check(worker, truth)
        if spent < self.pace.budget / 2:
            with PeakMemory(worker.pid) as peak:
                worker.ask(self.pace.limit, request)
            peaks.append(peak)
        worker.ask(self.pace.limit, {"do": "release"})
        cell.measured["peak"] = max(peak.own for peak in peaks)
        cell.measured["peak with files"] = max(peak.whole for peak in peaks)

    def _check(self, worker: Worker, truth: dict[str, str]) -> None:
        found = worker.ask(10 * self.pace.limit, {"do": "digest"})["digests"]
        wrong = [array for array in truth if found.get(array) != truth[array]]
        if wrong:
            raise WorkerFailed(f"{UNEQUAL}: {', '.join(wrong)} is not what was stored")

    def _again(
        self, cell: Cell, worker: Worker, source: Source, request: dict[str, Any], truth: dict[str, str]
    ) -> dict[str, float]:
        place = cell.contender.store(source.key)
        bring_in(place)
        if request["do"] == "read_into":
            # The first fills memory that is new.
            self._once(worker, request)
        found = [self._once(worker, request)]
        while (total := sum(times["warm"] for times in found)) < _REPEAT_SECONDS or (
            len(found) == 1 and total < _ONCE_SECONDS
        ):
            worker.ask(self.pace.limit, {"do": "forget"})
            found.append(self._once(worker, request))
            if len(found) == _REPEATS:
                break
        self._check(worker, truth)
        worker.ask(self.pace.limit, {"do": "release"})
        send_out(place)
        counted = found[1:] or found
        # The processor's clock ticks a hundred times a second: a mean of several reads says more than one of them.
        return {
            "warm": statistics.median(times["warm"] for times in counted),
            "warm cpu": statistics.fmean(times["warm cpu"] for times in counted),
        }

    def _once(self, worker: Worker, request: dict[str, Any]) -> dict[str, float]:
        before = cpu_seconds(worker.pid)
        seconds = worker.ask(self.pace.limit, request)["seconds"]
        return {"warm": seconds, "warm cpu": cpu_seconds(worker.pid) - before}

    def _first(
        self, cell: Cell, source: Source, workers: int | None, request: dict[str, Any], truth: dict[str, str]
    ) -> dict[str, float]:
        place = cell.contender.store(source.key)
        # Nor are the libraries read from the disk by some and not by others.
        bring_in(cell.contender.environment.folder)
        bring_in(place)
        with cell.contender.start() as worker:
            self._open(cell, worker, source, workers)
            answer = worker.ask(self.pace.limit, request)
            self._check(worker, truth)
            send_out(place)
            return {"first": answer["at"] - worker.started}

    def _rounds(
        self, source: Source, what: str, cells: Sequence[Cell], measure: Callable[[Cell], dict[str, float]]
    ) -> None:
        """Call `measure` once a round for every cell, and append what it returns to the cell's lists."""
        for number in range(self.pace.rounds):
            order = list(cells)
            random.Random(f"{source.key} {what} {number}").shuffle(order)
            for cell in order:
                times = cell.measured.get(what, [])
                if cell.error or (times and sum(times) > self.pace.budget):
                    continue
                self.notice(f"{cell.contender.label}: {what} {number + 1}/{self.pace.rounds}")
                with cell.failing():
                    for name, value in measure(cell).items():
                        cell.measured.setdefault(name, []).append(value)
