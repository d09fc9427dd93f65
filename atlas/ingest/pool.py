"""Batches of files to worker processes, and what they make of them back, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from functools import partial

from atlas.executor import in_order, is_nested
from atlas.ingest.work import Finished, Options, Source, prepare, prepare_in_worker
from atlas.prepared import Prepared

# A batch is decoded together: enough files to share what xarray costs, few enough to spread and to hold in memory.
_FEWEST_FILES, _MOST_FILES = 32, 256
_BATCHES_PER_WORKER = 4
_BYTES_PER_BATCH = 32 << 20

# Starting processes takes longer than reading this many files.
_FILES_ALONE = 24

# What one more process costs, which is mostly loading xarray, is won back from so many files or bytes on: where two
# share a core, 834 small files took 11.3 and 16.2 s with one, 13.9 and 20.1 s with two.
_FILES_PER_WORKER = 1_000
_BYTES_PER_WORKER = 64 << 20

Batch = list[Source]


def _size(source: Source) -> int:
    try:
        return source.path.stat().st_size if source.path.is_file() else _BYTES_PER_BATCH
    except OSError:
        return 0  # it will not be read


def as_many_as_pay(sources: Sequence[Source], workers: int) -> int:
    """Return how many processes files are shared among, of those there may be."""
    return min(workers, 1 + len(sources) // _FILES_PER_WORKER + sum(map(_size, sources)) // _BYTES_PER_WORKER)


def batches(sources: Sequence[Source], workers: int) -> list[Batch]:
    """Split files into batches."""
    most = min(max(len(sources) // (_BATCHES_PER_WORKER * workers), _FEWEST_FILES), _MOST_FILES)
    found: list[Batch] = []
    held = 0
    for source in sources:
        size = _size(source)
        if not found or len(found[-1]) == most or held + size > _BYTES_PER_BATCH:
            found.append([])
            held = 0
        found[-1].append(source)
        held += size
    return found


def finished(tasks: Sequence[Batch], options: Options, workers: int) -> Iterator[tuple[Batch, Finished]]:
    """Yield every batch with what became of it, in order; prepared in other processes when there are many."""
    if workers == 1 or is_nested() or sum(map(len, tasks)) < _FILES_ALONE:
        for task in tasks:
            yield task, prepare(task, options)
        return
    left = deque(tasks)
    workers = as_many_as_pay([source for task in tasks for source in task], workers)
    while left:
        try:
            yield from _pooled(left, options, workers)
        except BrokenProcessPool:
            # A file made its reader crash. Which one of those under way, one process for each tells.
            yield from _isolated(left.popleft(), options)


def _pooled(tasks: deque[Batch], options: Options, workers: int) -> Iterator[tuple[Batch, Finished]]:
    """Prepare batches a few ahead; a batch leaves `tasks` when it is done."""
    for result in in_order(partial(prepare_in_worker, options=options), list(tasks), workers):
        yield tasks.popleft(), result


def _isolated(task: Batch, options: Options) -> Iterator[tuple[Batch, Finished]]:
    """Prepare every file of a batch in a process of its own."""
    for source in task:
        try:
            yield from _pooled(deque([[source]]), options, 1)
        except BrokenProcessPool:
            reason = "the process that read it died: its reader crashed, or memory ran out"
            yield [source], Finished([], Prepared().to_bytes(), {source.name: reason})
