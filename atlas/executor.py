"""Running one job in ranges: in the calling thread, in threads, or in a private pool of processes."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from atlas.config import settings
from atlas.errors import InvalidArgument

Task = Callable[[Any, int, int], Any]
Range = tuple[int, int]

MODES = ("serial", "threads", "processes")

_WORKER_MARK = "ATLAS_WORKER_PROCESS"
_IDLE_SECONDS = 300
_WATCH_SECONDS = 0.5

_log = logging.getLogger("atlas")


def run(
    task: Task, job: Any, ranges: Sequence[Range], mode: str | None = None, workers: int = 1, cost: int = 0
) -> list[Any]:
    """Run ``task(job, low, high)`` for every range and return the results in order.

    Parameters
    ----------
    task : callable
        A module-level function.
    job : object
        With a true attribute ``shareable``, it may travel to other processes.
    mode : {"serial", "threads", "processes"}, optional
        Chosen by `cost` when not given.
    workers : int
        Tasks that run at once.
    cost : int
        Bytes that the job decodes, for the choice.

    Notes
    -----
    When it returns or raises, no task is running any more. The error of the lowest range is raised.
    """
    if mode is not None and mode not in MODES:
        raise InvalidArgument(f"unknown executor: {mode!r}; use one of {', '.join(map(repr, MODES))}")
    chosen = mode or _choose(workers, len(ranges), cost)
    if chosen == "processes" and not (getattr(job, "shareable", False) and may_start_processes()):
        chosen = "threads"
    if is_nested() and mode is None:
        chosen = "serial"
    if chosen == "serial" or workers == 1 or len(ranges) < 2:
        return [task(job, low, high) for low, high in ranges]
    if chosen == "processes":
        return _pool.run(task, job, ranges, workers)
    results = _run_threads(task, job, ranges, workers)
    if mode is None and getattr(job, "shareable", False) and may_start_processes():
        _pool.note(cost, workers)
    return results


def _choose(workers: int, ranges: int, cost: int) -> str:
    if workers == 1 or ranges < 2 or cost < settings().parallel_threshold:
        return "serial"
    return "processes" if _pool.is_warm else "threads"


def is_nested() -> bool:
    """Return whether this process is itself a worker of some pool, where more tasks would only crowd it."""
    if _WORKER_MARK in os.environ:
        return True
    if "multiprocessing" in sys.modules:
        import multiprocessing

        if multiprocessing.current_process().daemon or multiprocessing.parent_process() is not None:
            return True
    return _in_dask_worker()


def _in_dask_worker() -> bool:
    worker = sys.modules.get("distributed.worker")
    if worker is None:
        return False
    try:
        worker.get_worker()
    except ValueError:
        return False
    return True


def may_start_processes() -> bool:
    """Return whether a pool of processes may be used here."""
    return not is_nested()


def new_pool(workers: int) -> Any:
    """Return a private loky pool; the reusable one is the user's.

    loky's own start method does not import the main module again, so scripts need no main guard.
    """
    from loky.backend.context import get_context
    from loky.process_executor import ProcessPoolExecutor

    environment = {
        # loky takes mapped shared memory for a leak and would restart workers all the time.
        "LOKY_MAX_MEMORY_LEAK_SIZE": str(1 << 50),
        _WORKER_MARK: "1",
        "OMP_NUM_THREADS": "1",
        "NUMBA_NUM_THREADS": "1",
    }
    return ProcessPoolExecutor(
        workers,
        timeout=_IDLE_SECONDS,
        env=environment,
        context=get_context("loky"),
        initializer=_watch_parent,
        initargs=(os.getpid(),),
    )


def _watch_parent(parent: int) -> None:
    """Make this worker end soon after its parent, which may be killed without a word."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="atlas-watch-parent", daemon=True).start()


def _run_threads(task: Task, job: Any, ranges: Sequence[Range], workers: int) -> list[Any]:
    with ThreadPoolExecutor(workers, "atlas") as pool:
        futures = [pool.submit(task, job, low, high) for low, high in ranges]
        _settle(futures)
    return [future.result() for future in futures]


def _settle(futures: Sequence[Future[Any]]) -> None:
    """Wait until no task runs, also when this thread is interrupted meanwhile."""
    try:
        wait(futures)
    except BaseException:
        for future in futures:
            future.cancel()
        wait(futures)
        raise


class _Pool:
    """The private loky pool of this process. Started late, kept, replaced when a worker dies."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._executor: Any = None
        self._workers = 0
        self._warm = False
        self._decoded = 0
        self._pid = os.getpid()

    @property
    def is_warm(self) -> bool:
        """Whether workers are up with their kernels loaded."""
        return self._warm and self._pid == os.getpid()

    def note(self, cost: int, workers: int) -> None:
        """Count decoded bytes, and start the workers in the background once it is worth it."""
        with self._lock:
            self._decoded += cost
            if self._decoded < settings().pool_threshold or self._executor is not None:
                return
            self._start(workers)

    def _start(self, workers: int) -> Any:
        self._executor = new_pool(workers)
        self._workers = workers
        pending = [self._executor.submit(_warm_worker) for _ in range(workers)]
        pending[-1].add_done_callback(self._became_warm)
        return self._executor

    def _became_warm(self, future: Future[Any]) -> None:
        self._warm = future.exception() is None

    def run(self, task: Task, job: Any, ranges: Sequence[Range], workers: int) -> list[Any]:
        """Run ranges in the workers; what a dying worker leaves undone is done again, here at the latest."""
        from concurrent.futures.process import BrokenProcessPool

        results: dict[Range, Any] = {}
        for attempt in range(2):
            left = [item for item in ranges if item not in results]
            try:
                futures = {item: self._ready(workers).submit(task, job, *item) for item in left}
            except BrokenProcessPool:
                self._discard()
                continue
            _settle(list(futures.values()))
            errors = [future.exception() for future in futures.values()]
            broken = [error for error in errors if isinstance(error, BrokenProcessPool)]
            results |= {item: f.result() for item, f in futures.items() if f.exception() is None}
            if not broken:
                return [results[item] if item in results else futures[item].result() for item in ranges]
            _log.warning("a worker process died (attempt %d); its share is done again", attempt + 1)
            self._discard()
        return [results[item] if item in results else task(job, *item) for item in ranges]

    def _ready(self, workers: int) -> Any:
        with self._lock:
            if self._pid != os.getpid():
                self._forget()
            if self._executor is None or self._workers < workers:
                self._stop()
                self._start(workers)
            return self._executor

    def _discard(self) -> None:
        with self._lock:
            self._stop()

    def _stop(self) -> None:
        executor, self._executor, self._warm = self._executor, None, False
        if executor is not None:
            executor.shutdown(wait=True, kill_workers=True)

    def _forget(self) -> None:
        self._executor, self._warm, self._decoded, self._pid = None, False, 0, os.getpid()

    def after_fork(self) -> None:
        """Make the child begin without a pool."""
        self._lock = threading.Lock()
        self._forget()

    def shutdown(self) -> None:
        """End the workers; the next large read starts new ones."""
        with self._lock:
            if self._pid == os.getpid():
                self._stop()
            self._decoded = 0

    def warm_up(self, workers: int) -> None:
        """Start the workers and wait until they are ready."""
        executor = self._ready(workers)
        _settle([executor.submit(_warm_worker) for _ in range(workers)])
        self._warm = True


def _warm_worker() -> int:
    from importlib import import_module

    # By name: the worker room stands above this one.
    import_module("atlas.worker").warm()
    return os.getpid()


_pool = _Pool()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.after_fork)


def shutdown() -> None:
    """End the worker processes of this process, if there are any."""
    _pool.shutdown()


def warm_up(workers: int | None = None) -> None:
    """Start the worker processes now, so that the first large read finds them ready."""
    if may_start_processes():
        _pool.warm_up(workers or settings().workers)
