"""`Atlas` and `DatasetView`: the surface. Thin; the rooms below do the work."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from atlas.attributes import decode_attribute, encode_attribute
from atlas.chunks import Integers, Selection, resolve_selection
from atlas.commit import commit, create_root, discard_root, load_root, overwrite_root, sweep
from atlas.compaction import compact
from atlas.config import MISMATCH_POLICIES, StoreConfig, choice, settings
from atlas.dtypes import DType, as_elements
from atlas.errors import (
    ArrayAlreadyExists,
    ArrayNotFound,
    CorruptChunk,
    DatasetAlreadyExists,
    DatasetNotFound,
    InvalidArgument,
    ReadOnlyStore,
    ShapeMismatch,
    StoreAlreadyExists,
    TypeMismatch,
)
from atlas.reader import Snapshot
from atlas.root import ROOT_KEYS, Root, root_key
from atlas.schema import (
    ArraySchema,
    Attributes,
    DatasetRecord,
    MergedSchema,
    check_name,
    make_array_schema,
    split_record,
)
from atlas.storage import Storage, open_storage
from atlas.writer import Pending, PendingArray, filled

if TYPE_CHECKING:
    import xarray as xr

Mode = Literal["a", "r"]
Wanted = list[tuple[ArraySchema, Selection, Integers, Integers]]


class Atlas:
    """A store of many named datasets of N-dimensional arrays.

    Made by :meth:`create` and :meth:`open`. Changes are kept in memory until :meth:`flush`, the
    single durability boundary; a handle that is dropped before leaves the store as it was. One
    handle may be shared by threads. Pickled, it travels as its location and reopens elsewhere.

    As a context manager it flushes on a clean exit. When the block raises, nothing of the batch is
    committed, and the handle takes no further part in it: the pending changes are dropped.

    Examples
    --------
    >>> import atlas, numpy as np, tempfile
    >>> with atlas.Atlas.create(tempfile.mkdtemp()) as store:
    ...     view = store.create_dataset("jan")
    ...     view.define_array("t", "float32", ["x"], [3])
    ...     view.write_array("t", [0], np.array([1, 2, 3], "float32"))
    >>> store.read_array_across_stacked("t", ["jan", "jan"])
    array([[1., 2., 3.],
           [1., 2., 3.]], dtype=float32)
    """

    def __init__(
        self, storage: Storage, root: Root, on_type_mismatch: str, mode: Mode, workers: int | None, executor: str | None
    ) -> None:
        self._storage = storage
        self._on_type_mismatch = choice(on_type_mismatch, MISMATCH_POLICIES, "on_type_mismatch")
        self._mode = mode
        self._workers = workers
        self._executor = executor
        self._lock = threading.RLock()
        self._pending = Pending()
        self._adopt(root)

    # ── opening and closing ──────────────────────────────────────────────────────────────────

    @staticmethod
    def create(
        source: Any,
        codec: str = "zstd",
        meta_format: str = "json",
        meta_compression: str = "none",
        on_type_mismatch: str = "warn",
        *,
        prefix: str | None = None,
        config: StoreConfig | None = None,
        overwrite: bool = False,
        storage_options: dict[str, Any] | None = None,
        workers: int | None = None,
        executor: str | None = None,
    ) -> Atlas:
        """Make a new store; directories are made like ``mkdir -p``.

        Parameters
        ----------
        source : path, URL or fsspec filesystem
            With a filesystem, `prefix` is the store's place in it.
        codec : {"zstd", "lz4", "none"}
        meta_format : {"json", "msgpack"}
        meta_compression : {"none", "zstd", "lz4"}
        on_type_mismatch : {"warn", "error"}
            What happens when an array or attribute has a type that cannot merge with the
            collection's.
        config : StoreConfig, optional
            All of the layout options at once; the single ones are then not looked at.
        overwrite : bool
            Replace the store that is there.
        workers : int, optional
            Tasks that may run at once; by default the cores this process may use.
        executor : {"serial", "threads", "processes"}, optional
            How large reads run; chosen by size when not given.

        Raises
        ------
        StoreAlreadyExists
            If there is a store and `overwrite` is false.
        InvalidArgument
            If an option is unknown.
        """
        layout = config or StoreConfig(codec, meta_format, meta_compression)
        choice(on_type_mismatch, MISMATCH_POLICIES, "on_type_mismatch")
        storage = open_storage(source, prefix, storage_options, create=True)
        with storage.writer_lock():
            there = any(storage.exists(key) for key in ROOT_KEYS)
            if there and not overwrite:
                raise StoreAlreadyExists(
                    f"there is already a store at {storage.describe()}; open it, or pass overwrite=True to replace it"
                )
            root = overwrite_root(storage, layout) if there else create_root(storage, layout)
        return Atlas(storage, root, on_type_mismatch, "a", workers, executor)

    @staticmethod
    def open(
        source: Any,
        on_type_mismatch: str = "warn",
        *,
        prefix: str | None = None,
        mode: Mode = "a",
        storage_options: dict[str, Any] | None = None,
        workers: int | None = None,
        executor: str | None = None,
    ) -> Atlas:
        """Open an existing store; its format, compression and codec are found out.

        Parameters
        ----------
        mode : {"a", "r"}
            With ``"r"`` every change raises :class:`ReadOnlyStore`.

        Raises
        ------
        StoreNotFound
            If there is no store at that place.
        CorruptStore
            If its root object cannot be trusted.
        """
        if mode not in ("a", "r"):
            raise InvalidArgument(f"unknown mode: {mode!r}; use 'a' or 'r'")
        storage = open_storage(source, prefix, storage_options, create=False)
        return Atlas(storage, load_root(storage), on_type_mismatch, mode, workers, executor)

    @staticmethod
    def create_path(path: Any, config: StoreConfig | None = None) -> Atlas:
        """Make a new store in a local directory."""
        return Atlas.create(path, config=config or StoreConfig())

    @staticmethod
    def open_path(path: Any) -> Atlas:
        """Open the store in a local directory."""
        return Atlas.open(path)

    def _adopt(self, root: Root) -> None:
        """Take a committed state as the one this handle shows."""
        workers = settings().workers if self._workers is None else self._workers
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
            raise InvalidArgument(f"workers must be at least 1, not {workers!r}")
        pin = self._storage.pin(root.generation)
        self._snapshot = Snapshot(self._storage, root, workers, self._executor, pin)
        self._merged: MergedSchema | None = None

    def refresh(self) -> None:
        """Show the newest committed state; pending changes stay pending."""
        with self._lock:
            root = load_root(self._storage)
            if root.commit != self._snapshot.root.commit:
                self._adopt(root)

    def flush(self) -> None:
        """Commit every pending change; when it returns, they are on the disk.

        Raises
        ------
        ConflictError
            If another writer committed changes to the same datasets first; nothing was written.
        StorageError
            If the disk failed; nothing was committed and the changes are still pending.
        """
        with self._lock:
            if self._pending:
                root = commit(self._storage, self._snapshot, self._pending, self._snapshot.workers)
                self._pending = Pending()
                self._adopt(root)

    def close(self) -> None:
        """Flush. The handle stays usable."""
        self.flush()

    def compact(self) -> None:
        """Rewrite every array into one data file without what was deleted or replaced.

        Works on the committed state: pending changes stay pending. Ordinals are renumbered.
        """
        with self._lock:
            self._writable()
            root = compact(self._storage, self._snapshot.workers)
            # Taking the new state up gives the pin on the old one back.
            self._adopt(root)
            sweep(self._storage, root)

    def discard_if_new(self) -> None:
        """Drop the pending changes, and the store itself when nothing was ever committed to it."""
        with self._lock:
            self._pending = Pending()
            self._merged = None
            if self._mode == "a" and self._snapshot.root.generation == 0:
                discard_root(self._storage, self._snapshot.root)

    def __enter__(self) -> Atlas:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            # Half a batch must not become visible by a later close of the same handle.
            with self._lock:
                self._pending = Pending()
                self._merged = None

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            if self._pending:
                raise InvalidArgument("a store with pending changes cannot be pickled; flush it first")
            return {
                "storage": self._storage,
                "generation": self._snapshot.root.generation,
                "options": (self._on_type_mismatch, self._mode, self._workers, self._executor),
            }

    def __setstate__(self, state: dict[str, Any]) -> None:
        storage = state["storage"]
        self.__init__(storage, load_root(storage), *state["options"])  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"<Atlas {self._storage.describe()} datasets={len(self)}>"

    def __len__(self) -> int:
        catalog = self._snapshot.root.catalog
        return len(catalog.ordinals) - len(self._pending.deleted) + len(self._pending.created)

    @property
    def _inner(self) -> Atlas:
        # The older package's handle wrapped another one under this name.
        return self

    def _writable(self) -> None:
        if self._mode == "r":
            raise ReadOnlyStore(f"{self._storage.describe()} was opened with mode='r'; open it with mode='a' to change it")

    # ── datasets ─────────────────────────────────────────────────────────────────────────────

    def create_dataset(self, name: str) -> DatasetView:
        """Make a new, empty dataset.

        Raises
        ------
        DatasetAlreadyExists, InvalidName
        """
        with self._lock:
            self._writable()
            check_name(name, "dataset")
            if self.dataset_exists(name):
                raise DatasetAlreadyExists(f"dataset already exists: {name!r}")
            self._pending.records[name] = DatasetRecord()
            self._pending.created.add(name)
            return DatasetView(self, name)

    def open_dataset(self, name: str) -> DatasetView:
        """Return a view of a dataset, without any I/O.

        Raises
        ------
        DatasetNotFound
        """
        if not self.dataset_exists(name):
            raise DatasetNotFound(f"dataset not found: {name!r} in {self._storage.describe()}")
        return DatasetView(self, name)

    def delete_dataset(self, name: str) -> None:
        """Delete a dataset; :meth:`flush` makes it last, :meth:`compact` reclaims the space.

        Raises
        ------
        DatasetNotFound
        """
        with self._lock:
            self._writable()
            if not self.dataset_exists(name):
                raise DatasetNotFound(f"dataset not found: {name!r} in {self._storage.describe()}")
            created = name in self._pending.created
            self._pending.drop(name)
            if not created:
                self._pending.deleted.add(name)
            self._merged = None

    def dataset_exists(self, name: str) -> bool:
        """Return whether there is a dataset of that name."""
        with self._lock:
            if name in self._pending.records:
                return True
            return name in self._snapshot.root.catalog.ordinals and name not in self._pending.deleted

    __contains__ = dataset_exists

    def list_datasets(self) -> list[str]:
        """Return the names of all datasets, in order of insertion."""
        with self._lock:
            gone = self._pending.deleted
            names = [n for n in self._snapshot.root.catalog.names if n is not None and n not in gone]
            return names + [n for n in self._pending.records if n in self._pending.created]

    def list_arrays(self) -> list[str]:
        """Return the distinct array names of all datasets, sorted."""
        return sorted(self._merged_schema().arrays)

    def array_dtype(self, array: str) -> str | None:
        """Return the collection-wide type of an array, or ``None`` when no dataset has it."""
        found = self._merged_schema().arrays.get(array)
        return None if found is None else found[0].name

    def merged_schema(self) -> dict[str, Any]:
        """Return every array and attribute of the collection with its type widened over all datasets.

        Returns
        -------
        dict
            ``{"arrays": {name: {"dtype", "dimension_names", "attributes"}},
            "global_attributes": {key: dtype}}``. Where types cannot widen, the first seen stays.
        """
        return self._merged_schema().to_dict()

    def _merged_schema(self) -> MergedSchema:
        with self._lock:
            if self._merged is None:
                self._merged = self._merge()
            return self._merged

    def _merge(self) -> MergedSchema:
        merged = MergedSchema()
        catalog = self._snapshot.root.catalog
        overridden = [catalog.ordinals[n] for n in self._hidden() if n in catalog.ordinals]
        if overridden:
            catalog = catalog.with_changes({}, overridden, 0)
        for template in catalog.live_templates():
            merged.add_template(template)
        for record in self._pending.records.values():
            merged.add_template(split_record(record)[0])
        return merged

    def _hidden(self) -> set[str]:
        """Committed datasets that pending changes replace or remove."""
        return self._pending.deleted | set(self._pending.records)

    def dataset_row(self, name: str) -> int | None:
        """Return a dataset's ordinal, stable until :meth:`compact`; ``None`` when there is none."""
        with self._lock:
            if name in self._pending.created:
                order = [n for n in self._pending.records if n in self._pending.created]
                return self._snapshot.root.catalog.slots + order.index(name)
            return self._snapshot.root.catalog.ordinals.get(name) if self.dataset_exists(name) else None

    def row_slots(self) -> int:
        """Return the number of ordinals in use, those of deleted datasets included."""
        with self._lock:
            return self._snapshot.root.catalog.slots + len(self._pending.created)

    def info(self) -> dict[str, Any]:
        """Return a description of the committed state, without I/O.

        Returns
        -------
        dict
            ``location, datasets, row_slots, generation, root, codec, bytes`` and ``arrays``, by name
            ``{"dtype", "dimension_names", "files", "bytes"}``.
        """
        with self._lock:
            root = self._snapshot.root
            merged = self._merged_schema().arrays
        arrays = {}
        for name in sorted(root.arrays):
            dtype, dims = merged.get(name, (None, ()))
            files = root.arrays[name].files
            arrays[name] = {
                "dtype": dtype.name if dtype else "",
                "dimension_names": list(dims),
                "files": len(files),
                "bytes": sum(file.length for file in files),
            }
        return {
            "location": self._storage.describe(),
            "datasets": len(root.catalog.ordinals),
            "row_slots": root.catalog.slots,
            "generation": root.generation,
            "root": root_key(root.config),
            "codec": root.config.codec,
            "bytes": sum(entry["bytes"] for entry in arrays.values()),
            "arrays": arrays,
        }

    # ── bulk reads ───────────────────────────────────────────────────────────────────────────

    def read_array_across(
        self,
        array: str,
        dataset_names: Iterable[str],
        start: Sequence[int] | None = None,
        shape: Sequence[int] | None = None,
    ) -> list[NDArray[Any] | None]:
        """Read the same box of an array from many datasets, whose shapes may differ.

        Returns
        -------
        list of ndarray or None
            One per name, in order; ``None`` where a dataset lacks the array. The arrays of one
            call share their memory block, which is freed when the last of them goes.

        Raises
        ------
        DatasetNotFound, SelectionError, CorruptStore
        InvalidArgument
            If no names are given.
        """
        names = _name_list(dataset_names)
        snapshot, layout, overlays = self._resolve(array, names)
        results: list[NDArray[Any] | None] = [None] * len(names)
        by_type: dict[str, list[tuple[ArraySchema, Integers, Integers]]] = {}
        for schema, positions, ordinals in layout:
            by_type.setdefault(schema.dtype.name, []).append((schema, positions, ordinals))
        for items in by_type.values():
            places = np.concatenate([positions for _, positions, _ in items])
            wanted, first = [], 0
            for schema, positions, ordinals in items:
                box = resolve_selection(schema.shape, start, shape, f"array {array!r} of {names[positions[0]]!r}")
                wanted.append((schema, box, np.arange(first, first + len(positions)), ordinals))
                first += len(positions)
            with _naming(names, places):
                parts = snapshot.read_boxes(array, items[0][0].dtype, wanted)
            for place, part in zip(places.tolist(), parts, strict=True):
                results[place] = part
        for position, (schema, pending) in overlays.items():
            box = resolve_selection(schema.shape, start, shape, f"array {array!r} of {names[position]!r}")
            results[position] = self._pending_box(snapshot, schema, pending, names[position], box)
        return results

    def read_array_across_stacked(
        self,
        array: str,
        dataset_names: Iterable[str],
        start: Sequence[int] | None = None,
        shape: Sequence[int] | None = None,
        *,
        out: NDArray[Any] | None = None,
        on_missing: Literal["raise", "fill"] = "raise",
    ) -> NDArray[Any]:
        """Read the same box of an array from many datasets into one array.

        Parameters
        ----------
        array : str
        dataset_names : iterable of str
            Names may repeat.
        start, shape : sequence of int, optional
            The box, the same in every dataset; the whole array by default.
        out : (len(dataset_names), *box) ndarray, optional
            C-contiguous array of the right type to read into.
        on_missing : {"raise", "fill"}
            Whether datasets without the array are an error, or rows of the fill value.

        Returns
        -------
        (len(dataset_names), *box) ndarray

        Raises
        ------
        ArrayNotFound, DatasetNotFound, SelectionError, CorruptStore
        ShapeMismatch
            If the datasets' shapes or types differ, naming the first two that do.
        """
        names = _name_list(dataset_names)
        if on_missing not in ("raise", "fill"):
            raise InvalidArgument(f"unknown on_missing: {on_missing!r}; use 'raise' or 'fill'")
        snapshot, layout, overlays = self._resolve(array, names)
        schema = _common_schema(array, names, layout, overlays, on_missing)
        box = resolve_selection(schema.shape, start, shape, f"array {array!r}")
        target = _check_out(out, (len(names), *box.shape), schema.dtype)
        wanted = [(s, box, positions, ordinals) for s, positions, ordinals in layout]
        absent = _absent(names, layout, overlays)
        if not wanted:
            wanted = [(schema, box, np.zeros(0, np.int64), np.zeros(0, np.int64))]
        with _naming(names, np.arange(len(names))):
            result = snapshot.read_stacked(array, schema.dtype, wanted, target, len(names))
        for position in absent:
            result[position] = filled(schema, box.shape)
        for position, (own, pending) in overlays.items():
            result[position] = self._pending_box(snapshot, own, pending, names[position], box)
        return result if out is None else out

    def _resolve(
        self, array: str, names: list[str]
    ) -> tuple[Snapshot, list[tuple[ArraySchema, Integers, Integers]], dict[int, tuple[ArraySchema, PendingArray | None]]]:
        """Look the names up: what is committed, by schema, and what pending changes override, by position."""
        with self._lock:
            snapshot, catalog = self._snapshot, self._snapshot.root.catalog
            index = catalog.ordinals
            ordinals = np.fromiter((index.get(name, -1) for name in names), np.int64, len(names))
            overlays: dict[int, tuple[ArraySchema, PendingArray | None]] = {}
            if self._pending:
                hidden = self._hidden()
                for position, name in enumerate(names):
                    if name in hidden:
                        ordinals[position] = -1
                        self._overlay(array, name, position, overlays)
            missing = np.flatnonzero(ordinals < 0)
            for position in missing.tolist():
                if names[position] not in self._pending.records:
                    raise DatasetNotFound(f"dataset not found: {names[position]!r} in {self._storage.describe()}")
        known = np.flatnonzero(ordinals >= 0)
        codes, schemas = catalog.layouts(array, ordinals[known])
        layout = []
        for code, schema in enumerate(schemas):
            positions = known[codes == code]
            layout.append((schema, positions, ordinals[positions]))
        if not layout and not overlays and self.array_dtype(array) is None:
            raise ArrayNotFound(f"array not found: {array!r} in {self._storage.describe()}")
        return snapshot, layout, overlays

    def _overlay(self, array: str, name: str, position: int, overlays: dict[int, Any]) -> None:
        record = self._pending.records.get(name)
        if record is not None and array in record.arrays:
            overlays[position] = (record.arrays[array], self._pending.arrays.get(name, {}).get(array))

    def _pending_box(
        self, snapshot: Snapshot, schema: ArraySchema, pending: PendingArray | None, name: str, box: Selection
    ) -> NDArray[Any]:
        ordinal = snapshot.root.catalog.ordinals.get(name, -1)
        fresh = ordinal < 0 or name in self._pending.created or (pending is not None and pending.reset)
        result = filled(schema, box.shape) if fresh else snapshot.read_box(schema, ordinal, box)
        if pending is not None:
            pending.overlay(box, result)
        return result

    # ── xarray ───────────────────────────────────────────────────────────────────────────────

    def add_xarray_dataset(
        self, ds: xr.Dataset, name: str, chunks: dict[str, Sequence[int]] | None = None, fill_value: Any = None
    ) -> None:
        """Add an :class:`xarray.Dataset` as a new dataset; nothing is flushed.

        Parameters
        ----------
        ds : xarray.Dataset
        name : str
        chunks : dict of str to sequence of int, optional
            Chunk shape by variable; dask chunks, or the whole array, otherwise.
        fill_value : scalar or dict, optional
            Fill value of all numeric arrays, or by variable.
        """
        from atlas.xarray import add_xarray_dataset

        add_xarray_dataset(self, ds, name, chunks, fill_value)

    def open_as_xarray_dataset(self, name: str) -> xr.Dataset:
        """Return a dataset as an :class:`xarray.Dataset`."""
        from atlas.xarray import open_as_xarray_dataset

        return open_as_xarray_dataset(self, name)

    def open_as_many_xarray_dataset(
        self, names: Sequence[str], concat_dim: str = "dataset", parallel: bool = True
    ) -> xr.Dataset:
        """Return many datasets stacked along a new dimension as one :class:`xarray.Dataset`."""
        from atlas.xarray import open_as_many_xarray_dataset

        return open_as_many_xarray_dataset(self, names, concat_dim, parallel)

    # Names of the older releases.
    add_xr_dataset = add_xarray_dataset
    to_xarray = open_as_xarray_dataset
    to_xarray_many = open_as_many_xarray_dataset


class DatasetView:
    """One dataset of a store. Many views of one dataset are fine; all see pending changes at once.

    Attributes
    ----------
    name : str
    """

    def __init__(self, store: Atlas, name: str) -> None:
        self._store = store
        self._name = name

    @property
    def name(self) -> str:
        """The dataset's name."""
        return self._name

    def __repr__(self) -> str:
        return f'<DatasetView name="{self._name}" arrays={len(self.list_arrays())}>'

    # ── records ──────────────────────────────────────────────────────────────────────────────

    def _record(self) -> DatasetRecord:
        store = self._store
        with store._lock:
            record = store._pending.records.get(self._name)
            if record is not None:
                return record
            ordinal = store._snapshot.root.catalog.ordinals.get(self._name)
            if ordinal is None or self._name in store._pending.deleted:
                raise DatasetNotFound(f"dataset not found: {self._name!r} in {store._storage.describe()}")
            return store._snapshot.root.catalog.record(ordinal)

    def _change(self) -> DatasetRecord:
        """Return the record as one that may be changed."""
        self._store._writable()
        record = self._record()
        return self._store._pending.records.setdefault(self._name, record)

    def _schema(self, array: str) -> ArraySchema:
        found = self._record().arrays.get(array)
        if found is None:
            raise ArrayNotFound(f"array not found: {array!r} in dataset {self._name!r}")
        return found

    def list_arrays(self) -> list[str]:
        """Return the names of the dataset's arrays, in order of definition."""
        return list(self._record().arrays)

    def array_meta(self, name: str) -> dict[str, Any] | None:
        """Return ``{"dtype", "shape", "chunk_shape", "dimension_names"}``, or ``None`` if absent."""
        found = self._record().arrays.get(name)
        return None if found is None else found.meta()

    def array_fill_value(self, name: str) -> Any:
        """Return the declared fill value; ``None`` without one, or if the array is absent."""
        found = self._record().arrays.get(name)
        return None if found is None else found.fill

    def array_stats(self, name: str) -> dict[str, Any] | None:
        """Return ``{"row_count", "null_count", "min", "max"}`` as of the last flush.

        ``None`` if the array is absent, was never written, or has changes that are not flushed.
        min and max are ``bytes`` for strings, ``int`` nanoseconds (or the type's unit) for times.
        """
        store = self._store
        with store._lock:
            found = self._record().arrays.get(name)
            ordinal = store._snapshot.root.catalog.ordinals.get(self._name)
            pending = store._pending.arrays.get(self._name, {}).get(name)
            if found is None or ordinal is None or self._name in store._pending.created or pending is not None:
                return None
            snapshot = store._snapshot
        statistics = snapshot.statistics(name, found.dtype, ordinal)
        return None if statistics is None else statistics.to_dict()

    # ── arrays ───────────────────────────────────────────────────────────────────────────────

    def define_array(
        self,
        name: str,
        dtype: Any,
        dims: Sequence[str],
        shape: Sequence[int],
        chunk_shape: Sequence[int] | None = None,
        fill_value: Any = None,
    ) -> None:
        """Declare an array.

        Parameters
        ----------
        name : str
        dtype : str or numpy.dtype
            ``"float32"``, ``"int64"``, ``"string"``, ``"timestamp_nanoseconds"`` …
        dims : sequence of str
            One name per axis.
        shape : sequence of int
        chunk_shape : sequence of int, optional
            Cells per chunk along each axis; one chunk for the whole array by default.
        fill_value : scalar, optional
            What unwritten cells hold; 0, "" or False without one. Must match the type.

        Raises
        ------
        ArrayAlreadyExists, InvalidName, InvalidArgument
        DataTypeError, ValueOutOfRange
            If the fill value does not match the type.
        TypeMismatch
            If the type cannot merge with the collection's and the policy is ``"error"``.
        """
        schema = make_array_schema(name, dtype, dims, shape, chunk_shape, fill_value)
        store = self._store
        with store._lock:
            record = self._change()
            if name in record.arrays:
                raise ArrayAlreadyExists(f"array already exists: {name!r} in dataset {self._name!r}")
            known = store._merged_schema().arrays.get(name)
            if known is not None and store._merged_schema().add_array(name, schema.dtype, schema.dims) is not None:
                self._mismatch(f"array {name!r}", known[0].name, schema.dtype.name)
            elif known is None:
                store._merged_schema().add_array(name, schema.dtype, schema.dims)
            record.arrays[name] = schema
            store._pending.arrays.setdefault(self._name, {})[name] = PendingArray(schema, reset=True)

    def _mismatch(self, what: str, known: str, found: str) -> None:
        message = (
            f"type mismatch for {what}: the collection has {known}, which cannot merge with {found} "
            "(types widen among numbers, and between string and timestamp)"
        )
        if self._store._on_type_mismatch == "error":
            raise TypeMismatch(message)
        warnings.warn(message, UserWarning, stacklevel=4)

    def delete_array(self, name: str) -> None:
        """Delete an array of this dataset.

        Raises
        ------
        ArrayNotFound
        """
        with self._store._lock:
            self._schema(name)
            record = self._change()
            del record.arrays[name]
            record.array_attributes.pop(name, None)
            self._store._pending.arrays.get(self._name, {}).pop(name, None)
            self._store._merged = None

    def write_array(self, name: str, start: Sequence[int] | None, data: Any) -> None:
        """Write a box of cells, to be committed by the next flush.

        Parameters
        ----------
        name : str
        start : sequence of int
            First cell of the box; its extent is that of `data`.
        data : array_like
            Of the declared type; nothing is cast. Any memory order; copied.

        Raises
        ------
        ArrayNotFound, DataTypeError, SelectionError
        """
        store = self._store
        with store._lock:
            schema = self._schema(name)
            store._writable()
            cells = as_elements(schema.dtype, data, f"array {name!r}")
            first = (0,) * len(schema.shape) if start is None else start
            box = resolve_selection(schema.shape, first, cells.shape, f"array {name!r}")
            self._change()
            arrays = store._pending.arrays.setdefault(self._name, {})
            pending = arrays.setdefault(name, PendingArray(schema, reset=False))
            pending.write(box, cells, lambda number: self._stored_chunk(schema, pending, number))

    def _stored_chunk(self, schema: ArraySchema, pending: PendingArray, number: int) -> NDArray[Any]:
        store, box = self._store, schema.grid.extent(number)
        return store._pending_box(store._snapshot, schema, PendingArray(schema, pending.reset), self._name, box)

    def read_array(
        self, name: str, start: Sequence[int] | None = None, shape: Sequence[int] | None = None
    ) -> NDArray[Any] | None:
        """Read an array, or a box of it; ``None`` if the dataset has no such array.

        Raises
        ------
        SelectionError
            If the box leaves the array.
        CorruptStore
            If what is stored is damaged.
        """
        store = self._store
        with store._lock:
            schema = self._record().arrays.get(name)
            snapshot = store._snapshot
            pending = store._pending.arrays.get(self._name, {}).get(name)
        if schema is None:
            return None
        box = resolve_selection(schema.shape, start, shape, f"array {name!r} of {self._name!r}")
        with _naming([self._name], np.zeros(1, np.int64)):
            return store._pending_box(snapshot, schema, pending, self._name, box)

    def read_arrays(
        self, names: Iterable[str], start: Sequence[int] | None = None, shape: Sequence[int] | None = None
    ) -> dict[str, NDArray[Any] | None]:
        """Read the same box of several arrays; ``None`` for those the dataset lacks."""
        return {name: self.read_array(name, start, shape) for name in names}

    # ── attributes ───────────────────────────────────────────────────────────────────────────

    def set_attribute(self, key: str, value: Any, dtype: str | None = None) -> None:
        """Set an attribute of the dataset.

        Parameters
        ----------
        key : str
        value : bool, int, float, str, bytes, flat list, NumPy scalar or 1-D array
        dtype : str, optional
            A narrower type (``"int8"``), or ``"timestamp_nanoseconds"``.

        Raises
        ------
        DataTypeError, ValueOutOfRange, InvalidArgument
        """
        encoded = encode_attribute(value, dtype, f"attribute {_check_key(key)!r}")
        with self._store._lock:
            record = self._change()
            self._merge_attribute(None, key, encoded[0])
            record.attributes[key] = encoded

    def get_attribute(self, key: str) -> Any:
        """Return an attribute of the dataset, or ``None``."""
        return _decoded(self._record().attributes).get(key)

    def attributes(self) -> dict[str, Any]:
        """Return all attributes of the dataset."""
        return _decoded(self._record().attributes)

    def set_array_attribute(self, array: str, key: str, value: Any, dtype: str | None = None) -> None:
        """Set an attribute of one array; see :meth:`set_attribute`.

        Raises
        ------
        ArrayNotFound
        """
        encoded = encode_attribute(value, dtype, f"attribute {_check_key(key)!r} of array {array!r}")
        with self._store._lock:
            self._schema(array)
            record = self._change()
            self._merge_attribute(array, key, encoded[0])
            record.array_attributes.setdefault(array, {})[key] = encoded

    def get_array_attribute(self, array: str, key: str) -> Any:
        """Return an attribute of one array, or ``None``."""
        return self.array_attributes(array).get(key)

    def array_attributes(self, array: str) -> dict[str, Any]:
        """Return all attributes of one array; none for an array the dataset lacks."""
        return _decoded(self._record().array_attributes.get(array, {}))

    def _merge_attribute(self, array: str | None, key: str, tag: str) -> None:
        known = self._store._merged_schema().add_attribute(array, key, tag)
        if known is not None:
            self._mismatch(f"attribute {key!r}" + (f" of array {array!r}" if array else ""), known, tag)


def _decoded(attributes: Attributes) -> dict[str, Any]:
    return {key: decode_attribute(tag, value) for key, (tag, value) in attributes.items()}


def _check_key(key: Any) -> str:
    if not isinstance(key, str):
        raise InvalidArgument(f"attribute keys are strings, not {type(key).__name__}")
    return key


def _name_list(names: Iterable[str]) -> list[str]:
    if isinstance(names, (str, bytes)):
        raise InvalidArgument(f"dataset_names must be a sequence of names, not the single name {names!r}")
    result = list(names)
    if not result:
        raise InvalidArgument("dataset_names is empty")
    return result


def _absent(names: list[str], layout: Any, overlays: dict[int, Any]) -> list[int]:
    present = np.zeros(len(names), bool)
    for _, positions, _ in layout:
        present[positions] = True
    present[list(overlays)] = True
    return [int(i) for i in np.flatnonzero(~present)]


def _common_schema(
    array: str, names: list[str], layout: Any, overlays: dict[int, Any], on_missing: str
) -> ArraySchema:
    absent = _absent(names, layout, overlays)
    if absent and on_missing == "raise":
        raise ArrayNotFound(
            f"dataset {names[absent[0]]!r} has no array {array!r} ({len(absent)} of {len(names)} lack it); "
            "pass on_missing='fill' for rows of the fill value, or use read_array_across"
        )
    found = [(int(positions.min()), schema) for schema, positions, _ in layout]
    found += [(position, schema) for position, (schema, _) in overlays.items()]
    if not found:
        raise ArrayNotFound(f"array not found: none of the {len(names)} datasets has {array!r}")
    found.sort(key=lambda item: item[0])
    first, common = found[0]
    for position, schema in found:
        if (schema.shape, schema.dtype) != (common.shape, common.dtype):
            raise ShapeMismatch(
                f"array {array!r} cannot be stacked: dataset {names[first]!r} has {common.dtype.name} "
                f"{list(common.shape)}, dataset {names[position]!r} has {schema.dtype.name} {list(schema.shape)}; "
                "read_array_across returns them as a list"
            )
    return common


def _check_out(out: Any, shape: tuple[int, ...], dtype: DType) -> NDArray[Any] | None:
    if out is None:
        return None
    if not isinstance(out, np.ndarray) or out.shape != shape or out.dtype != dtype.numpy:
        found = f"{out.dtype} {list(out.shape)}" if isinstance(out, np.ndarray) else type(out).__name__
        raise ShapeMismatch(f"out must be a {dtype.numpy} array of shape {list(shape)}, not {found}")
    if not (out.flags.c_contiguous and out.flags.writeable):
        raise InvalidArgument("out must be C-contiguous and writable")
    return out


class _naming:
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
