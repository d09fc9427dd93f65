"""Reads of one committed state: plans are run, errors get names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas.arena import shared_arena
from atlas.chunks import Box, Integers
from atlas.codecs import element_of
from atlas.columnfile import DataFile
from atlas.columns import group_members
from atlas.config import settings
from atlas.dtypes import DType, fill_cell
from atlas.errors import CorruptChunk, CorruptIndex, CorruptStore
from atlas.executor import may_use_processes, run
from atlas.fetching import balanced, decode_fetched, fetched
from atlas.indexes import Indexed
from atlas.kernels.layout import Stored
from atlas.kernels.sealed import is_whole
from atlas.plan import ReadPlan, Wanted, plan_reads
from atlas.residency import was_touched
from atlas.root import Root
from atlas.schema import ArraySchema
from atlas.storage import Pin, Storage
from atlas.text import decode_text
from atlas.worker import DecodeJob, Kept, Source, decode_one, decode_range, pack_layout, unpack_tables

# Reads of results from this size on leave no file mapped page by page behind them: mapped pages count like memory,
# and next to a large result they soon are as much again.
_LET_GO_ABOVE = 128 << 20

# Results from this size on are written past the caches if their memory is not new: of 61 MB of float64 it made no
# difference, of 123 MB reading took two thirds and reading and adding up four fifths of the time; smaller ones are
# still in the cache when they are used.
_STREAM_FROM = 64 << 20

_ALIGNMENT = 64

# A larger chunk is left to a plan, behind which no file is mapped page by page.
_LARGEST_ALONE = 64 << 20

# More bytes than there are anywhere, and so few that sums of them do not wrap around.
_MOST_BYTES = 1 << 50

# Chunks of text up to this size are looked at for whether another dataset has the same.
_REPEATED_TEXT = 4096

# What is to be read of the arrays of one rank.
Planned = tuple[ReadPlan, Sequence[Wanted]]


class Snapshot(Indexed):
    """One committed state of a store, readable by many threads at once.

    Parameters
    ----------
    storage : Storage
    root : Root
    workers : int
        Tasks that may run at once.
    mode : str or None
        How tasks run: ``"serial"``, ``"threads"``, ``"processes"``, or ``None`` to choose by size.
    pin : Pin, optional
        Keeps the files of the state from being removed for as long as the snapshot lives.
    before : Snapshot, optional
        An earlier state; the indexes of files that are still the same are taken from it.
    maps : bool
        Whether local files may be mapped, and what is decompressed be kept for other reads: not where it is the disk
        that is looked at.
    """

    def __init__(
        self,
        storage: Storage,
        root: Root,
        workers: int,
        mode: str | None = None,
        pin: Pin | None = None,
        before: Snapshot | None = None,
        maps: bool = True,
    ) -> None:
        super().__init__(storage, root, before)
        self._maps = maps and storage.is_local
        self.workers = workers
        self.mode = mode
        self.pin = pin
        self._paths: dict[str, str | None] = {}

    def read_box(self, schema: ArraySchema, ordinal: int, box: Box, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return a box of one dataset's array, in `out`, which is in one piece, if that is given."""
        number = self.only_chunk(schema, box)
        found = None if number is None else self._read_in_chunk(schema, ordinal, number, box, out)
        if found is None:
            wanted = Wanted(schema, box, np.array([0]), np.array([ordinal]))
            found = self.read_boxes(schema.name, schema.dtype, [wanted])[0]
            if out is not None:
                out[...] = found
        return found if out is None else out

    def only_chunk(self, schema: ArraySchema, box: Box) -> int | None:
        """Return the number of the chunk that a box is read from without a plan; ``None`` where one is better made."""
        number = schema.grid.only_chunk(box)
        if number is None or schema.dtype.is_text or not self._maps:
            return None
        return number if schema.grid.chunk_cells * schema.dtype.itemsize <= _LARGEST_ALONE else None

    def _read_in_chunk(
        self,
        schema: ArraySchema,
        ordinal: int,
        number: int,
        box: Box,
        out: NDArray[Any] | None,
    ) -> NDArray[Any] | None:
        """Return a box of one chunk without the cost of a plan, or ``None`` to leave it to one.

        Chunks that are absent or damaged are left: a plan deals with them, and names what is wrong.
        """
        index, dtype = self.index(schema.name), schema.dtype
        row = index.locate_one(ordinal, number)
        extent = schema.grid.extent(number)
        raw = extent.cells * dtype.itemsize
        if row < 0 or raw != index.columns["raw_length"][row]:
            return None
        columns = ("file", "offset", "length", "pipeline", "checksum")
        file, *stored = (int(index.columns[name][row]) for name in columns)
        start = tuple(first - begin for first, begin in zip(box.start, extent.start, strict=True))
        if out is None:
            out = self._allocate(box.cells * dtype.itemsize, ()).view(dtype.numpy).reshape(box.shape)
        try:
            part = extent.shape, start, box.shape
            decode_one(self._source(index.files[file]), Stored(*stored), raw, dtype.storage, part, out)
        except CorruptChunk:
            return None
        return out

    def read_boxes(self, array: str, dtype: DType, wanted: Sequence[Wanted]) -> list[NDArray[Any]]:
        """Return boxes of many datasets, by position.

        Parameters
        ----------
        array : str
        dtype : DType
            The type of all of them.
        wanted : sequence of (schema, box, positions, ordinals)
            Positions are 0 … n-1 over all items together.

        Raises
        ------
        MemoryError
            If there cannot be room for them.
        """
        order = np.concatenate([positions for _, _, positions, _ in wanted])
        total, item = len(order), dtype.itemsize
        sizes = np.empty(total, np.int64)
        sizes[order] = np.repeat([box.cells * item for _, box, *_ in wanted], [len(w.positions) for w in wanted])
        _require_room(sizes.sum(dtype=np.float64))
        padded = -(-sizes // _ALIGNMENT) * _ALIGNMENT
        bases = np.cumsum(padded) - padded
        if dtype.is_text:
            return self._text_boxes(array, dtype, wanted, total)
        plans = self._plans(array, dtype, wanted, bases)
        buffer = self._allocate(int(padded.sum()), plans)
        results: list[Any] = [None] * total
        kind, begins = dtype.numpy, bases.tolist()
        for _, box, positions, _ in wanted:
            for position in positions.tolist():
                results[position] = np.ndarray(box.shape, kind, buffer, begins[position])
        self._fill_and_run(array, dtype, plans, buffer, results)
        return results

    def read_stacked(
        self,
        array: str,
        dtype: DType,
        wanted: Sequence[Wanted],
        out: NDArray[Any] | None,
        count: int,
    ) -> NDArray[Any]:
        """Return equal boxes of many datasets as rows of one array.

        `out`, when given, is a C-contiguous array of the right shape and type.
        """
        shape = wanted[0].box.shape
        row = wanted[0].box.cells * dtype.itemsize
        _require_room(row * count)
        if dtype.is_text:
            result = np.empty((count, *shape), object) if out is None else out
            rows = self._text_boxes(array, dtype, wanted, count)
            for position, cells in enumerate(rows):
                result[position, ...] = cells
            return result
        plans = self._plans(array, dtype, wanted, np.arange(count, dtype=np.int64) * row)
        if out is None:
            buffer = self._allocate(row * count, plans)
            out = buffer.view(dtype.numpy).reshape((count, *shape))
        else:
            buffer = out.reshape(-1).view(np.uint8)
        self._fill_and_run(array, dtype, plans, buffer, out)
        return out

    def _allocate(self, size: int, plans: Sequence[Planned]) -> NDArray[np.uint8]:
        if size < settings().parallel_threshold:
            return np.empty(size, np.uint8)
        share = any(may_use_processes(self.mode, self.workers, self._calls(plan)) for plan, _ in plans)
        return shared_arena().allocate(size, share).array

    def _calls(self, plan: ReadPlan) -> int:
        """Return how many chunks are worth other processes; those have no way to data that was fetched."""
        return plan.calls if self.storage.local_path is not None else 0

    def _fill_and_run(
        self,
        array: str,
        dtype: DType,
        plans: Sequence[Planned],
        buffer: NDArray[np.uint8],
        results: Any,
    ) -> None:
        for plan, group in plans:
            if len(plan.incomplete):
                _fill(dtype, group, plan.incomplete, results)
            if plan.tasks:
                self._run(array, dtype, plan, buffer)

    def _plans(
        self,
        array: str,
        dtype: DType,
        wanted: Sequence[Wanted],
        bases: Integers,
    ) -> list[Planned]:
        ranks = sorted({len(schema.shape) for schema, *_ in wanted})
        plans: list[Planned] = []
        for rank in ranks:
            group = wanted if len(ranks) == 1 else [item for item in wanted if len(item.schema.shape) == rank]
            try:
                plans.append((plan_reads(self.index(array), dtype, group, bases), group))
            except CorruptIndex as error:
                raise CorruptIndex(f"array {array!r} in {self.storage.describe()}: {error}") from None
        return plans

    def _run(self, array: str, dtype: DType, plan: ReadPlan, buffer: NDArray[np.uint8]) -> None:
        try:
            if self._maps:
                self._decode_mapped(array, dtype, plan, buffer)
            else:
                files = self.index(array).files
                decode_fetched(self.storage, files, plan, dtype, buffer, self.mode, self.workers)
        except CorruptChunk as error:
            raise self._named(error, array, plan) from None

    def _decode_mapped(self, array: str, dtype: DType, plan: ReadPlan, buffer: NDArray[np.uint8]) -> None:
        job = DecodeJob(
            tuple(map(self._source, self.index(array).files)),
            dtype.itemsize,
            element_of(dtype.storage),
            buffer,
            plan.tables,
            lets_go=len(buffer) > _LET_GO_ABOVE,
            streams=len(buffer) >= _STREAM_FROM and was_touched(buffer),
        )
        shared = self._shared(job) if may_use_processes(self.mode, self.workers, self._calls(plan)) else None
        if shared is not None:
            job = shared
        elif 0 < plan.kept_bytes <= settings().decoded_bytes:
            job = replace(job, kept=Kept.of(job.sources, job.tables))
        cost = plan.cost - (plan.saved(job.kept.found) if job.kept.found else 0)
        ranges = balanced(plan.columns["raw_length"], cost, self.mode, self.workers)
        run(decode_range, job, ranges, self.mode, self.workers, cost, self._calls(plan))

    def _shared(self, job: DecodeJob) -> DecodeJob | None:
        """Return a job for other processes; ``None`` where its files or its output are of this one alone."""
        output = shared_arena().handle_of(job.output)
        if output is None or any(source.path is None for source in job.sources):
            return None
        layout, needed = pack_layout(job.tables)
        lease = shared_arena().allocate(needed)
        for name, table in unpack_tables(lease.array, layout).items():
            table[...] = job.tables[name]
        if lease.handle is None:
            return None
        return replace(job, output=output, tables=(lease.handle, layout), shareable=True)

    def _source(self, file: DataFile) -> Source:
        # Where compaction by another process puts the file aside later on, whoever maps it looks there, too.
        path = self._paths.get(file.key)
        if path is None:
            path = self._paths[file.key] = self.storage.data_path(file.key)
        return Source(file.key, path, file.length)

    def _named(self, error: CorruptChunk, array: str, plan: ReadPlan) -> CorruptStore:
        if error.row < 0:
            return CorruptChunk(f"array {array!r} in {self.storage.describe()}: {error}")
        file = self.index(array).files[int(plan.columns["file"][error.row])]
        # What a repair could not bring back takes no bytes.
        state = f"is damaged: {error}" if plan.columns["length"][error.row] else "is lost: its file was damaged"
        return _DamagedChunk(
            f"chunk {plan.numbers[error.row]} of array {array!r} in {file.key} of {self.storage.describe()} {state}",
            int(plan.owners[error.row]),
        )

    # ── text ─────────────────────────────────────────────────────────────────────────────────

    def _text_boxes(
        self,
        array: str,
        dtype: DType,
        wanted: Sequence[Wanted],
        total: int,
    ) -> list[NDArray[Any]]:
        results: list[Any] = [None] * total
        for schema, box, positions, _ in wanted:
            cell = fill_cell(dtype, schema.fill)
            for position in positions.tolist():
                results[position] = np.empty(box.shape, object)
                results[position].fill(cell)
        for plan, _ in self._plans(array, dtype, wanted, np.zeros(total, np.int64)):
            if plan.tasks:
                self._read_text(array, dtype, plan, results)
        return results

    def _read_text(self, array: str, dtype: DType, plan: ReadPlan, results: list[NDArray[Any]]) -> None:
        boxes, files = _text_places(plan), self.index(array).files
        # What many datasets say alike is unpacked once.
        seen: dict[_TextKey, NDArray[Any]] = {}

        def unpack(rows: Integers, data: Any, offsets: Integers) -> None:
            view = memoryview(data)
            columns = (
                plan.columns[n][rows].tolist() for n in ("length", "raw_length", "pipeline", "checksum", "geometry")
            )
            # Lists, since taking single numbers from arrays is slow.
            numbers = zip(rows.tolist(), plan.owners[rows].tolist(), offsets.tolist(), *columns, strict=True)
            for row, owner, offset, length, raw, pipeline, checksum, at in numbers:
                shape, source, target = boxes[at]
                key = bytes(view[offset : offset + length]), raw, pipeline, checksum, shape
                try:
                    results[owner][target] = _text_cells(seen, dtype, key)[source]
                except CorruptChunk as error:
                    raise CorruptChunk(str(error), row) from None

        try:
            if not self._maps:
                for found in fetched(self.storage, files, plan.columns):
                    found.use(lambda found: unpack(found.rows, found.data, found.offsets))
                return
            for number, rows in group_members(plan.columns["file"]):
                unpack(rows, self._source(files[number]).bytes(), plan.columns["offset"][rows])
        except CorruptChunk as error:
            raise self._named(error, array, plan) from None


def _require_room(size: float) -> None:
    """Raise MemoryError if there cannot be room for so many bytes."""
    if size > _MOST_BYTES:
        raise MemoryError(f"cells of {size:.3g} bytes are asked for")


def _fill(dtype: DType, group: Sequence[Wanted], incomplete: Integers, results: Any) -> None:
    """Write the fill value to the results that have cells which were never written."""
    for schema, _, positions, _ in group:
        places = positions[np.isin(positions, incomplete)]
        cell = fill_cell(dtype, schema.fill)
        if isinstance(results, np.ndarray):
            results[places] = cell
            continue
        for position in places.tolist():
            results[position][...] = cell


def _text_places(plan: ReadPlan) -> list[tuple[tuple[int, ...], tuple[slice, ...], tuple[slice, ...]]]:
    """Return, for each row of a plan's geometry, a chunk's shape, the cells wanted of it, and where they go."""
    tables = plan.chunk_extent, plan.block_start, plan.target_start, plan.block_extent
    return [
        (
            tuple(shape),
            tuple(slice(first, first + size) for first, size in zip(start, extent, strict=True)),
            tuple(slice(first, first + size) for first, size in zip(target, extent, strict=True)),
        )
        for shape, start, target, extent in zip(*(table.tolist() for table in tables), strict=True)
    ]


# Bytes of a chunk of text, how many they decode to, pipeline, checksum, and the chunk's shape.
_TextKey = tuple[bytes, int, int, int, tuple[int, ...]]


def _text_cells(seen: dict[_TextKey, NDArray[Any]], dtype: DType, key: _TextKey) -> NDArray[Any]:
    """Return the cells of a chunk of text, not to be changed: small ones are remembered in `seen`."""
    cells = seen.get(key)
    if cells is None:
        payload, raw, pipeline, checksum, shape = key
        if not is_whole(payload, pipeline, checksum):
            raise CorruptChunk("its checksum does not match")
        cells = decode_text(payload, pipeline, raw, dtype, shape)
        if raw <= _REPEATED_TEXT:
            seen[key] = cells
    return cells


class _DamagedChunk(CorruptChunk):
    """A damaged chunk with the position of its dataset among those asked for; the store names it."""


class naming:
    """Adds the dataset's name to the error of a damaged chunk."""

    def __init__(self, names: list[str], places: Integers) -> None:
        self._names = names
        self._places = places

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, CorruptChunk) and error.row >= 0:
            name = self._names[int(self._places[error.row])]
            raise CorruptChunk(f"dataset {name!r}: {error}") from None
