"""Worker processes, forks, kills: right results, and nothing left behind."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from torture import concurrency

import atlas
from atlas import Atlas, arena, executor, worker
from atlas.forks import cached_property
from atlas.storage import locks

SHAPE = (40, 50, 24)
NAMES = [f"d{i}" for i in range(60)]

needs_memfd = pytest.mark.skipif(not arena.shares_memory(), reason="this platform cannot share unnamed memory")


@pytest.fixture(scope="module")
def big(tmp_path_factory) -> Path:
    """Enough data that a read is worth several workers: 60 datasets, 11.5 MB."""
    place = tmp_path_factory.mktemp("big") / "store"
    rng = np.random.default_rng(0)
    with Atlas.create(place) as store:
        for name in NAMES:
            view = store.create_dataset(name)
            view.define_array("t", "float32", ["z", "y", "x"], SHAPE, (20, 25, 24))
            view.write_array("t", [0, 0, 0], np.round(rng.normal(10, 1, SHAPE), 2).astype("f4"))
    yield place
    executor.shutdown()


def semaphores(pid: int) -> list[str]:
    """What a process has in /dev/shm."""
    there = os.listdir("/dev/shm") if os.path.isdir("/dev/shm") else []
    return [name for name in there if f"-{pid}-" in name]


def run_script(text: str, *arguments: object, wait: bool = True) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(text), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    if wait:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert err == ""
        process.output = out
    return process


@needs_memfd
def test_results_are_the_same_whichever_way_they_are_computed(big):
    expected = Atlas.open(big, workers=1).read_array_across_stacked("t", NAMES)
    for mode in ("serial", "threads", "processes", None):
        for workers in (1, 2, 3):
            store = Atlas.open(big, workers=workers, executor=mode)
            found = store.read_array_across_stacked("t", NAMES)
            assert found.tobytes() == expected.tobytes(), (mode, workers)
            assert found.flags.writeable
            part = store.read_array_across_stacked("t", NAMES[::-1], [3, 20, 5], [30, 20, 3])
            assert part.tobytes() == expected[::-1, 3:33, 20:40, 5:8].tobytes()


@needs_memfd
def test_results_give_their_memory_back_for_reuse(big):
    store = Atlas.open(big)
    result = store.read_array_across_stacked("t", NAMES)
    view = result[3, 5:, ::2]
    copy = view.copy()
    own = arena.shared_arena()
    before = own.free_bytes
    del result
    gc.collect()
    assert own.free_bytes == before, "a view keeps its memory"
    other = store.read_array_across_stacked("t", NAMES)
    np.testing.assert_array_equal(view, copy)
    held = own.free_bytes
    del view
    gc.collect()
    assert own.free_bytes > held
    del other
    gc.collect()
    kept = own.free_bytes
    again = store.read_array_across_stacked("t", NAMES)
    assert own.free_bytes < kept, "freed memory serves the next read"
    del again


@needs_memfd
def test_memory_is_shared_only_where_other_processes_are_to_write():
    own = arena.Arena(64 << 20)
    private, shared = own.allocate(8 << 20, share=False), own.allocate(8 << 20)
    assert (private.handle, shared.handle is None) == (None, False)
    private.array[:], shared.array[:] = 1, 2
    assert own.handle_of(private.array) is None
    place, other = private.array.ctypes.data, shared.array.ctypes.data
    del private
    gc.collect()
    assert own.free_bytes == 8 << 20
    # What is free and private does not serve those that want to share, but the next that does not.
    third = own.allocate(8 << 20)
    assert third.array.ctypes.data not in (place, other)
    assert own.allocate(8 << 20, share=False).array.ctypes.data == place


@needs_memfd
def test_workers_start_for_chunks_that_are_decompressed_one_by_one(tmp_path, monkeypatch, setting):
    monkeypatch.setattr(executor, "_THREADS_UP_TO", 1000)
    setting("pool_threshold", 1 << 20)
    setting("parallel_threshold", 1 << 20)
    executor.shutdown()
    noted = []
    monkeypatch.setattr(executor._pool, "note", lambda calls, workers: noted.append(calls))
    decimals = np.round(np.random.default_rng(0).normal(10, 1, (40, 300, 300)), 2).astype("f4")
    for packing in (True, False):
        place = tmp_path / str(packing)
        with Atlas.create(place, config=atlas.StoreConfig(packing=packing)) as store:
            array = {"dims": ["y", "x"], "chunk_shape": [30, 30], "data": decimals}
            store.create_datasets([f"d{i}" for i in range(40)], {"t": array})
        found = Atlas.open(place, workers=2).read_array_across_stacked("t", [f"d{i}" for i in range(40)])
        np.testing.assert_array_equal(found, decimals)
    assert noted == [0, 100 * len(decimals)]


def test_without_shared_memory_threads_do_the_work(big, monkeypatch):
    monkeypatch.setattr(arena, "_arena", arena.Arena(1 << 30, shared=False))
    found = Atlas.open(big, workers=2, executor="processes").read_array_across_stacked("t", NAMES)
    assert found.tobytes() == Atlas.open(big, workers=1).read_array_across_stacked("t", NAMES).tobytes()


def test_without_posix_locks_commits_still_work(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "has_flock", False)
    monkeypatch.setattr(locks, "has_ofd_locks", False)
    store = Atlas.create(tmp_path / "s")
    for i in range(2):
        view = store.create_dataset(f"d{i}")
        view.define_array("v", "int8", ["x"], [2])
        view.write_array("v", [0], np.array([i, 2], np.int8))
        store.flush()
    reader = Atlas.open(tmp_path / "s")
    store.compact()
    assert reader.read_array_across_stacked("v", ["d1", "d0"]).tolist() == [[1, 2], [0, 2]]
    assert Atlas.open(tmp_path / "s").read_array_across_stacked("v", ["d1", "d0"]).tolist() == [[1, 2], [0, 2]]


@needs_memfd
def test_a_killed_worker_costs_a_retry_not_the_read(big):
    store = Atlas.open(big, workers=2, executor="processes")
    expected = store.read_array_across_stacked("t", NAMES)
    for _ in range(3):
        victims = list(executor._pool._executor._processes)
        killer = threading.Timer(0.005, lambda pids=victims: [os.kill(pid, signal.SIGKILL) for pid in pids[:1]])
        killer.start()
        for _ in range(5):
            assert store.read_array_across_stacked("t", NAMES).tobytes() == expected.tobytes()
        killer.join()


def test_a_script_without_a_main_guard(big):
    process = run_script(
        """
        import sys, atlas
        store = atlas.Atlas.open(sys.argv[1], workers=2, executor="processes")
        names = store.list_datasets()
        a = store.read_array_across_stacked("t", names)
        b = atlas.Atlas.open(sys.argv[1], workers=1).read_array_across_stacked("t", names)
        print("equal", a.tobytes() == b.tobytes())
        """,
        big,
    )
    assert process.output.split("\n")[0] == "equal True"
    assert "equal" not in process.output.split("\n")[1:], "the script ran once"


def _read_in_child(place: str, queue) -> None:
    store = Atlas.open(place, workers=2)
    result = store.read_array_across_stacked("t", store.list_datasets())
    queue.put((float(result.sum(dtype="f8")), executor._pool._executor is None))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("daemon", [True, False])
def test_inside_another_pools_worker_reads_stay_in_process(big, method, daemon):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=_read_in_child, args=(str(big), queue), daemon=daemon)
    child.start()
    total, in_process = queue.get(timeout=60)
    child.join()
    store = Atlas.open(big, workers=1)
    assert total == float(store.read_array_across_stacked("t", NAMES).sum(dtype="f8"))
    assert in_process


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_reads_and_writes_through_the_parents_handle(tmp_path, big):
    store = Atlas.open(big, workers=2)
    expected = store.read_array_across_stacked("t", NAMES)
    other = Atlas.create(tmp_path / "s")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            same = store.read_array_across_stacked("t", NAMES).tobytes() == expected.tobytes()
            other.create_dataset("from_child")
            other.flush()
            status = 0 if same else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    other.create_dataset("from_parent")
    other.flush()
    assert Atlas.open(tmp_path / "s").list_datasets() == ["from_child", "from_parent"]
    assert store.read_array_across_stacked("t", NAMES).tobytes() == expected.tobytes()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_does_not_wait_for_the_parents_threads(big):
    """It is forked while another thread holds whatever a read needs."""
    store = Atlas.open(big, workers=1)
    held = [store._session.lock, store._session.snapshot._lock, worker._maps._lock]
    taken, over = threading.Event(), threading.Event()

    def hold() -> None:
        with held[0], held[1], held[2]:
            taken.set()
            over.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    taken.wait()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(20)
            status = 0 if len(store.read_array_across_stacked("t", NAMES[:2])) == 2 else 2
        finally:
            os._exit(status)
    over.set()
    holder.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_values_are_computed_once_and_without_a_lock():
    """Until Python 3.11 the one of functools has a lock, which a forked child may find taken for ever."""

    class Once:
        calls = 0

        @cached_property
        def value(self) -> int:
            """Doc."""
            self.calls += 1
            return self.calls

    once = Once()
    assert (once.value, once.value, Once().value) == (1, 1, 1)
    assert Once.value.__doc__ == "Doc."
    assert not hasattr(Once.value, "lock")


def test_exit_with_results_alive_is_silent_and_what_waits_can_still_be_flushed(big, tmp_path):
    run_script(
        """
        import atexit, sys
        atexit.register(lambda: last.flush())
        import atlas, numpy as np
        store = atlas.Atlas.open(sys.argv[1], workers=2, executor="processes")
        kept = [store.read_array_across_stacked("t", store.list_datasets()) for _ in range(3)]
        last = atlas.Atlas.create(sys.argv[2], pending_bytes=0)
        for name in ("a", "b"):
            view = last.create_dataset(name)
            view.define_array("t", "int64", ["x"], [50_000])
            view.write_array("t", [0], np.arange(50_000))
        """,
        big,
        tmp_path / "s",
    )
    assert Atlas.open(tmp_path / "s").open_dataset("a").read_array("t", [49_999]).tolist() == [49_999]


def test_where_no_thread_can_be_started_reads_do_without_workers(monkeypatch):
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pool = executor._Pool()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    pool.note(1 << 40, 2)
    assert (pool._starting, pool._executor) == (False, None)


@needs_memfd
def test_kill_9_of_the_coordinator_leaves_nothing(big):
    process = run_script(
        """
        import sys, atlas
        from atlas import executor
        store = atlas.Atlas.open(sys.argv[1], workers=2, executor="processes")
        names = store.list_datasets()
        store.read_array_across_stacked("t", names)
        print(*executor._pool._executor._processes, flush=True)
        while True:
            store.read_array_across_stacked("t", names)
        """,
        big,
        wait=False,
    )
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 2
    assert semaphores(process.pid)
    time.sleep(0.1)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (semaphores(process.pid) or any(map(alive, workers))):
        time.sleep(0.02)
    assert not any(map(alive, workers))
    assert semaphores(process.pid) == []


def test_the_process_that_removes_semaphores_is_there_before_the_first(tmp_path):
    """A process that is killed while it starts workers would leave one otherwise."""
    run_script(
        """
        import sys
        from atlas import executor
        from loky.backend.resource_tracker import _resource_tracker

        there = []
        def watch(frame, event, argument):
            if event == "call" and frame.f_code.co_qualname == "SemLock._make_name":
                there.append(_resource_tracker._fd is not None)

        sys.setprofile(watch)
        executor.new_pool(1).shutdown()
        sys.setprofile(None)
        assert there and all(there), there
        """,
        tmp_path,
    )


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def generation(place: Path) -> int:
    return Atlas.open(place, mode="r", workers=1).info()["generation"]


def test_kill_9_during_flush_and_compact_leaves_one_whole_state(tmp_path):
    concurrency.turning_store(tmp_path / "s")
    rng = np.random.default_rng(0)
    for _ in range(12):
        before = generation(tmp_path / "s")
        writer = concurrency.start(lambda: concurrency.turn(tmp_path / "s"))
        try:
            while generation(tmp_path / "s") == before:
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.1))
        finally:
            os.kill(writer, signal.SIGKILL)
            os.waitpid(writer, 0)
        store = Atlas.open(tmp_path / "s")
        seen = {store.open_dataset(name).get_attribute("turn") for name in concurrency.NAMES}
        for array in concurrency.ARRAYS:
            seen |= set(np.unique(store.read_array_across_stacked(array, concurrency.NAMES)).tolist())
        assert len(seen) == 1, seen
    store.open_dataset("a").set_attribute("after", True)
    store.flush()
    store.compact()
    left = [f.name for f in (tmp_path / "s").rglob("*") if f.is_file()]
    assert sorted(name for name in left if name.endswith(".af")) == sorted(
        Path(file.key).name for files in store._session.snapshot.root.arrays.values() for file in files.files
    )
    assert not [name for name in left if ".tmp-" in name]
