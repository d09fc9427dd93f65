"""Running one job in ranges: in the calling thread, in threads, or in a private pool of processes."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from itertools import islice
from typing import Any

from atlas import kernels
from atlas.arena import SegmentGone
from atlas.config import choice, settings
from atlas.threads import insist, take_turns

Task = Callable[[Any, int, int], Any]
Range = tuple[int, int]

MODES = ("serial", "threads", "processes")

_WORKER_MARK = "ATLAS_WORKER_PROCESS"
_IDLE_SECONDS = 300
_WATCH_SECONDS = 0.5

# Threads are faster in all that lets go of the interpreter. Below so many calls that hold it, what processes save is
# lost in telling them, and in memory that they share.
_THREADS_UP_TO = 8192

# About what is decompressed in the time that such a call takes.
CALL_BYTES = 16 << 10

_log = logging.getLogger("atlas")


def run(
    task: Task,
    job: Any,
    ranges: Sequence[Range],
    mode: str | None = None,
    workers: int = 1,
    cost: int = 0,
    calls: int = 0,
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
    calls : int
        Chunks that are decoded by calls from Python which hold the interpreter, so that threads wait for each other.

    Notes
    -----
    When it returns or raises, no task is running any more. The error of the lowest range is raised.
    """
    chosen = (mode and choice(mode, MODES, "executor")) or _choose(workers, len(ranges), cost, calls)
    if chosen == "serial" or workers == 1 or len(ranges) < 2 or is_nested():
        return [task(job, low, high) for low, high in ranges]
    may_share = bool(getattr(job, "shareable", False)) and _pool.is_usable
    if chosen == "processes" and may_share:
        return _pool.run(task, job, ranges, workers)
    results = _run_threads(task, job, ranges, workers)
    if mode is None and _pool.is_usable:
        _pool.note(calls, workers)
    return results


def _choose(workers: int, ranges: int, cost: int, calls: int) -> str:
    if workers == 1 or ranges < 2 or cost < settings().parallel_threshold:
        return "serial"
    return "processes" if _are_worth_while(calls) else "threads"


def _are_worth_while(calls: int) -> bool:
    return calls > _THREADS_UP_TO and _pool.is_warm


def may_use_processes(mode: str | None, workers: int, calls: int) -> bool:
    """Return whether :func:`run` would have other processes do a job."""
    is_wanted = mode == "processes" or (mode is None and _are_worth_while(calls))
    return is_wanted and workers > 1 and _pool.is_usable and not is_nested()


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


def in_order(task: Callable[..., Any], items: Iterable[Any], workers: int) -> Iterator[Any]:
    """Yield what a task makes of each item, in order; done a few ahead by a private pool of processes."""
    waiting, pool = iter(items), new_pool(workers)
    try:
        ahead = deque(pool.submit(task, item) for item in islice(waiting, 2 * workers))
        while ahead:
            result = ahead.popleft().result()
            ahead.extend(pool.submit(task, item) for item in islice(waiting, 1))
            yield result
    finally:
        _end(pool)


def new_pool(workers: int) -> Any:
    """Return a private loky pool; the reusable one is the user's.

    loky's own start method does not import the main module again, so scripts need no main guard.
    """
    from loky.backend import resource_tracker
    from loky.backend.context import get_context
    from loky.process_executor import ProcessPoolExecutor

    # It removes the semaphores of a process that is killed. loky would start it after making the first one, and a
    # process that is killed meanwhile would leave that for ever.
    resource_tracker.ensure_running()
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
        initializer=_begin_worker,
        initargs=(os.getpid(),),
    )


def _begin_worker(parent: int) -> None:
    """Leave Ctrl-C to the parent, and end soon after it: it may be killed without a word."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="atlas-watch-parent", daemon=True).start()


# How many threads each reading thread keeps busy, itself among them. Only ever changed in one step: no lock.
_at_work: dict[int, int] = {}


def _run_threads(task: Task, job: Any, ranges: Sequence[Range], workers: int) -> list[Any]:
    """Run ranges in the calling thread and in helping ones."""
    results: list[Any] = [None] * len(ranges)

    def run_one(number: int) -> None:
        results[number] = task(job, *ranges[number])

    # Threads of some other pool may be reading at the same time: together they are not to be more than the cores.
    helpers = max(min(workers - sum(list(_at_work.values())), len(ranges)) - 1, 0)
    _at_work[threading.get_ident()] = 1 + helpers
    try:
        take_turns(run_one, range(len(ranges)), helpers)
    finally:
        _at_work.pop(threading.get_ident(), None)
    return results


def _settle(futures: Sequence[Future[Any]]) -> None:
    """Wait until no task runs; an interrupt is raised after that, and cancels what has not begun."""
    try:
        wait(futures)
    except BaseException:
        insist(lambda: _end_all(futures))
        raise


def _end_all(futures: Sequence[Future[Any]]) -> None:
    for future in futures:
        future.cancel()
    wait(futures)


class _Pool:
    """The private loky pool of this process. Started late, kept, replaced when a worker dies."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._executor: Any = None
        self._workers = 0
        self._warm = False
        self._starting = False
        self._decoded = 0
        self._inherited: list[Any] = []
        self.is_usable = True

    @property
    def is_warm(self) -> bool:
        """Whether workers are up with their kernels loaded."""
        return self._warm and self.is_usable

    def note(self, calls: int, workers: int) -> None:
        """Count chunks that held the interpreter, and start the workers in the background once it is worth it."""
        with self._lock:
            self._decoded += calls * CALL_BYTES
            if self._decoded < settings().pool_threshold or self._executor is not None or self._starting:
                return
            self._starting = True
        try:
            # Not a daemon: an interpreter that ends meanwhile waits for it, and loky can clean up.
            threading.Thread(target=self._start_in_background, args=(workers,), name="atlas-start-pool").start()
        except RuntimeError as error:
            _log.debug("no more threads here (%s); the calling one does the work", error)
            self._starting = False

    def _start_in_background(self, workers: int) -> None:
        try:
            self._ready(workers)
        except (RuntimeError, OSError) as error:
            _log.debug("worker processes could not start: %s", error)
        finally:
            self._starting = False

    def _ready(self, workers: int) -> Any:
        with self._lock:
            if self._executor is None or self._workers < workers:
                self._start(workers)
            return self._executor

    def _start(self, workers: int) -> None:
        executor, smaller = new_pool(workers), self._executor
        try:
            pending = [executor.submit(_warm_worker) for _ in range(workers)]
        except BaseException:
            _end(executor)
            raise
        self._executor, self._workers, self._warm = executor, workers, False
        pending[-1].add_done_callback(lambda future: self._became_warm(executor, future))
        if smaller is not None:
            # Another thread's tasks may be running there: it ends after them.
            smaller.shutdown(wait=False)

    def _became_warm(self, executor: Any, future: Future[Any]) -> None:
        if self._executor is executor and not future.cancelled():
            self._warm = future.exception() is None

    def run(self, task: Task, job: Any, ranges: Sequence[Range], workers: int) -> list[Any]:
        """Run ranges in the workers; what a dying worker leaves undone is done again, here at the latest."""
        done: dict[int, Future[Any]] = {}
        for attempt in range(2):
            left = [number for number in range(len(ranges)) if number not in done]
            try:
                executor = self._ready(workers)
            except (RuntimeError, OSError) as error:
                _log.debug("worker processes could not start: %s", error)
                break
            done |= self._attempt(executor, task, job, ranges, left)
            if len(done) == len(ranges) or not self.is_usable:
                break
            _log.warning("a worker process died (attempt %d); its share is done again", attempt + 1)
            self._discard(executor)
        return [done[n].result() if n in done else task(job, *item) for n, item in enumerate(ranges)]

    def _attempt(
        self, executor: Any, task: Task, job: Any, ranges: Sequence[Range], left: Sequence[int]
    ) -> dict[int, Future[Any]]:
        """Return the futures that ran to an end of their own, once none runs any more."""
        futures: dict[int, Future[Any]] = {}
        try:
            try:
                for number in left:
                    futures[number] = executor.submit(task, job, *ranges[number])
            except (RuntimeError, OSError) as error:
                # The pool broke or was shut down, or the interpreter is ending.
                _log.debug("no more tasks can be submitted: %s", error)
            wait(futures.values())
        except BaseException:
            # Workers could still write into the output: they end before the interrupt is heard.
            insist(lambda: self._discard(executor))
            raise
        return {number: future for number, future in futures.items() if not self._is_lost(future)}

    def _is_lost(self, future: Future[Any]) -> bool:
        from concurrent.futures.process import BrokenProcessPool

        from loky.process_executor import ShutdownExecutorError

        if future.cancelled():
            return True
        error = future.exception()
        if isinstance(error, SegmentGone):
            _log.warning("worker processes cannot map result memory (%s); threads do the work from now on", error)
            self.is_usable = False
        return isinstance(error, (BrokenProcessPool, ShutdownExecutorError, SegmentGone))

    def _discard(self, executor: Any) -> None:
        """End this executor, and wait for it, also when another thread has begun to."""
        with self._lock:
            _end(executor)
            if self._executor is executor:
                self._executor, self._warm = None, False

    def after_fork(self) -> None:
        """Make the child begin without a pool."""
        # Never collected: its finalizers would speak to the parent's workers.
        self._inherited.append(self._executor)
        self._lock = threading.Lock()
        self._executor, self._warm, self._starting, self._decoded = None, False, False, 0

    def shutdown(self) -> None:
        """End the workers; the next large read starts new ones."""
        with self._lock:
            executor, self._decoded = self._executor, 0
        if executor is not None:
            self._discard(executor)

    def warm_up(self, workers: int) -> None:
        """Start the workers and wait until they are ready."""
        executor = self._ready(workers)
        futures = [executor.submit(_warm_worker) for _ in range(workers)]
        _settle(futures)
        self._became_warm(executor, futures[-1])


def _end(executor: Any) -> None:
    from multiprocessing import active_children

    executor.shutdown(wait=True, kill_workers=True)
    # Loky joins none that died by itself, and the semaphore of one that nobody joined stays in /dev/shm. This does.
    active_children()


def _warm_worker() -> int:
    from importlib import import_module

    # By name: the worker room stands above this one.
    import_module("atlas.worker")
    kernels.load()
    return os.getpid()


_pool = _Pool()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.after_fork)
    os.register_at_fork(after_in_child=_at_work.clear)


def shutdown() -> None:
    """End the worker processes of this process, if there are any; they start again when they are needed.

    Examples
    --------
    >>> import atlas
    >>> atlas.shutdown()
    """
    _pool.shutdown()


def warm_up(workers: int | None = None) -> None:
    """Load the kernels, compiled if they never were, and start the workers: the first large read finds both ready.

    Parameters
    ----------
    workers : int, optional
        How many processes; the cores this process may use by default.

    Examples
    --------
    >>> import atlas
    >>> atlas.warm_up(workers=1)
    >>> atlas.shutdown()
    """
    # Here first: workers that find nothing compiled would each do it.
    kernels.load()
    if not is_nested():
        _pool.warm_up(workers or settings().workers)
