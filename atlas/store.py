"""`Atlas`: the store. Thin; the rooms below do the work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

from atlas.across import read_list, read_stacked
from atlas.bulk import create_datasets, delete_datasets, write_stacked
from atlas.commit import create_root, discard_root, emptied, load_root, overwrite_root, recover, sweep
from atlas.compaction import compact
from atlas.config import MISMATCH_POLICIES, StoreConfig, choice
from atlas.copying import copy_dataset
from atlas.damage import RepairReport
from atlas.errors import (
    CorruptRoot,
    InvalidArgument,
    StoreAlreadyExists,
)
from atlas.frames import columns_of, to_arrow, to_pandas
from atlas.pruning import array_bounds, attribute_bounds, pruning_index
from atlas.query import Condition, all_of
from atlas.repair import repair
from atlas.root import ROOT_KEYS, root_key
from atlas.schema import check_name
from atlas.selection import Selection, matching
from atlas.session import Mode, Session
from atlas.storage import Storage, open_storage
from atlas.verify import Progress, VerifyReport, verify
from atlas.view import DatasetView
from atlas.where import parse_condition

if TYPE_CHECKING:
    import xarray as xr


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

    def __init__(self, session: Session) -> None:
        self._session = session

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
        overwrite: bool | Literal["at flush"] = False,
        storage_options: dict[str, Any] | None = None,
        workers: int | None = None,
        executor: str | None = None,
        pending_bytes: int | None = None,
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
        overwrite : bool or "at flush"
            Replace the store that is there: now, or by the first flush, so that the old store stays
            whole should anything fail before.
        workers : int, optional
            Tasks that may run at once; by default the cores this process may use.
        executor : {"serial", "threads", "processes"}, optional
            How large reads run; chosen by size when not given.
        pending_bytes : int, optional
            How much of what waits for a flush is kept in memory, 512 MiB by default; the rest waits in
            a file without a name.

        Raises
        ------
        StoreAlreadyExists
            If there is a store and `overwrite` is false.
        InvalidArgument
            If an option is unknown.
        """
        layout = StoreConfig(codec, meta_format, meta_compression) if config is None else config
        if not isinstance(layout, StoreConfig):
            raise InvalidArgument(f"config must be a StoreConfig, not {type(layout).__name__}")
        choice(on_type_mismatch, MISMATCH_POLICIES, "on_type_mismatch")
        storage = open_storage(source, prefix, storage_options, create=True)
        with storage.writer_lock() as interrupted:
            there = any(storage.exists(key) for key in ROOT_KEYS)
            if there and not overwrite:
                raise StoreAlreadyExists(
                    f"there is already a store at {storage.describe()}; open it, or pass overwrite=True to replace it"
                )
            later = overwrite == "at flush" and there and _is_intact(storage)
            if later:
                root = emptied(load_root(storage), layout)
            else:
                root = overwrite_root(storage, layout) if there else create_root(storage, layout)
            if interrupted:
                recover(storage, load_root(storage))
        session = Session(storage, root, on_type_mismatch, "a", workers, executor, pending_bytes)
        session.pending.layout = layout if later else None
        return Atlas(session)

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
        pending_bytes: int | None = None,
    ) -> Atlas:
        """Open an existing store; its format, compression and codec are found out.

        Parameters
        ----------
        mode : {"a", "r"}
            With ``"r"`` every change raises :class:`ReadOnlyStore`.
        workers, executor, pending_bytes
            As for :meth:`create`.

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
        return Atlas(Session.load(storage, on_type_mismatch, mode, workers, executor, pending_bytes))

    @staticmethod
    def create_path(path: Any, config: StoreConfig | None = None) -> Atlas:
        """Make a new store in a local directory."""
        return Atlas.create(path, config=StoreConfig() if config is None else config)

    @staticmethod
    def open_path(path: Any) -> Atlas:
        """Open the store in a local directory."""
        return Atlas.open(path)

    def refresh(self) -> None:
        """Show the newest committed state; pending changes stay pending.

        If another writer has committed changes to the same datasets, the flush says so.
        """
        self._session.refresh()

    def flush(self) -> None:
        """Commit every pending change; when it returns, they are on the disk.

        Raises
        ------
        ConflictError
            If another writer committed changes to the same datasets first; nothing was written.
        StorageError
            If the disk failed; nothing was committed and the changes are still pending.
        """
        self._session.flush()

    def close(self) -> None:
        """Flush. The handle stays usable."""
        self.flush()

    def compact(self) -> None:
        """Rewrite every array into one data file without what was deleted or replaced.

        Works on the committed state: pending changes stay pending. Ordinals are renumbered.
        """
        with self._session.lock:
            self._session.writable()
            root = compact(self._session.storage, self._session.snapshot.workers)
            # Taking the new state up gives the pin on the old one back.
            self._session.follow(root)
            sweep(self._session.storage, root)

    def verify(self, progress: Progress | None = None) -> VerifyReport:
        """Read and decode everything of the committed state, and say what is damaged.

        Parameters
        ----------
        progress : callable, optional
            Called with what is done, what there is, and the array, once per dataset and array.

        Returns
        -------
        VerifyReport
            ``ok``, ``datasets``, ``chunks``, and ``problems``, each with ``array, dataset, chunk,
            message``. Damage is reported, not raised; a damaged root already raises when the store is opened.

        Examples
        --------
        >>> import tempfile
        >>> Atlas.create(tempfile.mkdtemp()).verify().ok
        True
        """
        return verify(self._session.snapshot, progress)

    @staticmethod
    def repair(
        source: Any,
        *,
        dry_run: bool = False,
        drop_lost: bool = False,
        prefix: str | None = None,
        storage_options: dict[str, Any] | None = None,
    ) -> RepairReport:
        """Bring a damaged store back: its root, the indexes of its files, and every chunk that is intact.

        A lost or damaged root comes back from the records that commits leave, and so do the indexes of
        data files that are damaged, cut short or gone. What is replaced is kept in ``_damaged/`` within the
        store, for you to remove. Chunks that are lost read as errors until they are written anew or their
        arrays are deleted. A repair is one commit, and as safe from crashes; a store without damage is
        not changed.

        Parameters
        ----------
        source, prefix, storage_options
            As for :meth:`open`.
        dry_run : bool
            Write nothing, and say what would be done.
        drop_lost : bool
            Delete the arrays that lost chunks from the datasets concerned, in a commit of its own.

        Returns
        -------
        RepairReport
            ``ok``, ``actions``, ``lost``, ``dropped`` and ``kept``.

        Raises
        ------
        StoreNotFound
            If there is neither a root nor a record.
        CorruptStore
            If there is nothing to bring the root or the dataset table back from.

        Examples
        --------
        >>> import os, tempfile
        >>> place = tempfile.mkdtemp()
        >>> with Atlas.create(place) as store:
        ...     store.create_dataset("a").set_attribute("k", 1)
        >>> os.remove(f"{place}/atlas.json")
        >>> Atlas.repair(place).ok, Atlas.open(place).list_datasets()
        (True, ['a'])
        """
        storage = open_storage(source, prefix, storage_options, create=False)
        report = repair(storage, dry_run)
        if drop_lost and not dry_run and report.lost:
            store = Atlas(Session.load(storage, "warn", "a", None, None))
            report.dropped = store._delete_lost(report)
            # Files without an index are in nobody's way now.
            report.actions += repair(storage).actions
            report.lost = []
        return report

    def _delete_lost(self, report: RepairReport) -> list[tuple[str, str]]:
        views = {name: self.open_dataset(name) for name in self.list_datasets()}
        lost = dict.fromkeys((name, p.array) for p in report.lost for name in ([p.dataset] if p.dataset else views))
        dropped = [(name, array) for name, array in lost if array in views[name].list_arrays()]
        for name, array in dropped:
            views[name].delete_array(array)
        self.flush()
        return dropped

    def discard_if_new(self) -> None:
        """Drop the pending changes, and the store itself when nothing was ever committed to it."""
        with self._session.lock:
            self._session.drop_pending()
            if self._session.pending.layout is not None:
                return
            if self._session.mode == "a" and self._session.snapshot.root.generation == 0:
                discard_root(self._session.storage, self._session.snapshot.root)

    def __enter__(self) -> Atlas:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            # Half a batch must not become visible by a later close of the same handle.
            self._session.drop_pending()

    def __repr__(self) -> str:
        return f"<Atlas {self._session.storage.describe()} datasets={len(self)}>"

    def __len__(self) -> int:
        return self._session.count()

    @property
    def _inner(self) -> Atlas:
        # The older package's handle wrapped another one under this name.
        return self

    # ── datasets ─────────────────────────────────────────────────────────────────────────────

    def create_dataset(self, name: str) -> DatasetView:
        """Make a new, empty dataset.

        Raises
        ------
        DatasetAlreadyExists, InvalidName
        """
        with self._session.lock:
            self._session.writable()
            name = check_name(name, "dataset")
            self._session.create(name)
            return DatasetView(self._session, name)

    def create_datasets(
        self,
        names: Iterable[str],
        arrays: Mapping[str, Mapping[str, Any]] | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Make many datasets of one schema, by column.

        Parameters
        ----------
        names : iterable of str
        arrays : mapping, optional
            By array name, the arguments of :meth:`DatasetView.define_array`: ``dtype``, ``dims``,
            ``shape``, ``chunk_shape``, ``fill_value``; also ``attributes``, and ``data``, a
            (len(names), *shape) array that is written at once and that type and shape follow from.
        attributes : mapping, optional
            By key. A single value is for all datasets; a list, an array or a pandas column holds
            one value for each name.

        Raises
        ------
        DatasetAlreadyExists, InvalidName, ShapeMismatch, InvalidArgument, DataTypeError
            Nothing was recorded then.

        Examples
        --------
        >>> import numpy as np, tempfile
        >>> store = Atlas.create(tempfile.mkdtemp())
        >>> store.create_datasets(
        ...     ["a", "b"],
        ...     {"t": {"dims": ["hour"], "data": np.arange(48.0).reshape(2, 24)}},
        ...     {"lat": [12.5, 13.0], "kind": "buoy"},
        ... )
        >>> store.open_dataset("b").attributes()
        {'lat': 13.0, 'kind': 'buoy'}
        """
        create_datasets(self._session, names, arrays, attributes)

    def open_dataset(self, name: str) -> DatasetView:
        """Return a view of a dataset, without any I/O.

        Raises
        ------
        DatasetNotFound
        """
        self._session.require(name)
        return DatasetView(self._session, name)

    def delete_dataset(self, name: str) -> None:
        """Delete a dataset; :meth:`flush` makes it last, :meth:`compact` reclaims the space.

        Raises
        ------
        DatasetNotFound
        """
        with self._session.lock:
            self._session.delete(name)

    def delete_datasets(self, names: Iterable[str]) -> None:
        """Delete many datasets, by one look-up; see :meth:`delete_dataset`.

        Raises
        ------
        DatasetNotFound
            Nothing was deleted then.
        """
        delete_datasets(self._session, names)

    def rename_dataset(self, old: str, new: str) -> None:
        """Give a dataset another name by the next flush; no data moves, and it keeps its place and its ordinal.

        A :class:`DatasetView` of the old name finds no dataset any more.

        Raises
        ------
        DatasetNotFound, DatasetAlreadyExists, InvalidName

        Examples
        --------
        >>> import tempfile
        >>> store = Atlas.create(tempfile.mkdtemp())
        >>> store.create_dataset("jan").set_attribute("month", 1)
        >>> store.rename_dataset("jan", "january")
        >>> store.list_datasets()
        ['january']
        """
        with self._session.lock:
            self._session.writable()
            self._session.rename(old, check_name(new, "dataset"))

    def copy_dataset(self, source: str, target: str) -> DatasetView:
        """Create a dataset that is what another one is now, pending changes included.

        Stored chunks are copied as they are encoded.

        Raises
        ------
        DatasetNotFound, DatasetAlreadyExists, InvalidName, CorruptStore
            Nothing was recorded then.

        Examples
        --------
        >>> import tempfile
        >>> store = Atlas.create(tempfile.mkdtemp())
        >>> store.create_dataset("jan").set_attribute("month", 1)
        >>> store.copy_dataset("jan", "copy").attributes()
        {'month': 1}
        """
        copy_dataset(self._session, source, target)
        return DatasetView(self._session, target)

    def dataset_exists(self, name: str) -> bool:
        """Return whether there is a dataset of that name."""
        return self._session.exists(name)

    __contains__ = dataset_exists

    def list_datasets(self) -> list[str]:
        """Return the names of all datasets, in order of insertion."""
        return self._session.names()

    def list_arrays(self) -> list[str]:
        """Return the distinct array names of all datasets, sorted."""
        return sorted(self._session.merged_schema().arrays)

    def array_dtype(self, array: str) -> str | None:
        """Return the collection-wide type of an array, or ``None`` when no dataset has it."""
        found = self._session.merged_schema().arrays.get(array)
        return None if found is None else found[0].name

    def merged_schema(self) -> dict[str, Any]:
        """Return every array and attribute of the collection with its type widened over all datasets.

        Returns
        -------
        dict
            ``{"arrays": {name: {"dtype", "dimension_names", "attributes"}},
            "global_attributes": {key: dtype}}``. Where types cannot widen, the first seen stays.
        """
        return self._session.merged_schema().to_dict()

    def dataset_row(self, name: str) -> int | None:
        """Return a dataset's ordinal, stable until :meth:`compact`; ``None`` when there is none."""
        with self._session.lock:
            catalog, new = self._session.snapshot.root.catalog, self._session.pending.created_names()
            if name in new:
                return catalog.slots + new.index(name)
            return self._session.ordinal(name) if self.dataset_exists(name) else None

    def row_slots(self) -> int:
        """Return the number of ordinals in use, those of deleted datasets included."""
        with self._session.lock:
            return self._session.snapshot.root.catalog.slots + self._session.pending.created_count()

    def info(self) -> dict[str, Any]:
        """Return a description of the committed state, without I/O.

        Returns
        -------
        dict
            ``location, datasets, row_slots, generation, root, codec, bytes`` and ``arrays``, by name
            ``{"dtype", "dimension_names", "files", "bytes"}``.
        """
        with self._session.lock:
            root = self._session.snapshot.root
            merged = self._session.merged_schema().arrays
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
            "location": self._session.storage.describe(),
            "datasets": root.catalog.count,
            "row_slots": root.catalog.slots,
            "generation": root.generation,
            "root": root_key(root.config),
            "codec": root.config.codec,
            "bytes": sum(entry["bytes"] for entry in arrays.values()),
            "arrays": arrays,
        }

    # ── statistics and queries ───────────────────────────────────────────────────────────────

    def select(self, *conditions: Condition | str, confirm: bool = False) -> Selection:
        """Return the datasets that satisfy conditions, as of the last flush, without reading a chunk.

        Parameters
        ----------
        *conditions : Condition or str
            All of them must be true. Made with :data:`atlas.col` and :func:`atlas.box`, or text as on
            the command line.
        confirm : bool
            Read the cells of the datasets that could match but need not; without, they are in the
            result and not in its ``certain``.

        Returns
        -------
        Selection
            A sequence of names, in order of insertion.

        Raises
        ------
        ArrayNotFound, InvalidArgument
            If no dataset has what is asked about.
        DataTypeError
            If a value cannot be compared with it.

        Examples
        --------
        >>> from atlas import Atlas, col
        >>> import tempfile
        >>> store = Atlas.create(tempfile.mkdtemp())
        >>> for name, height in (("hill", 300), ("mountain", 4000)):
        ...     store.create_dataset(name).set_attribute("height", height)
        >>> store.flush()
        >>> list(store.select(col.attr("height") > 1000))
        ['mountain']
        """
        if not conditions:
            raise InvalidArgument("select needs a condition, such as atlas.col('temperature').max() > 25")
        parsed = [parse_condition(part) if isinstance(part, str) else part for part in conditions]
        snapshot = self._session.snapshot
        return Selection(self, snapshot, *matching(snapshot, all_of(parsed), confirm))

    def pruning_index(
        self,
        arrays: Sequence[str] | None = None,
        global_attrs: Sequence[str] | None = None,
        array_attrs: Sequence[tuple[str, str]] | None = None,
    ) -> dict[str, Any]:
        """Return statistics and attributes of all datasets by column, as of the last flush.

        Parameters
        ----------
        arrays, global_attrs : sequence of str, optional
        array_attrs : sequence of (array, key), optional
            Only what is asked for is fetched; everything when nothing is named at all.

        Returns
        -------
        dict
            ``{"rows", "datasets", "live", "columns"}``. Row *i* is the dataset of ordinal *i*:
            ``datasets[i]`` its name, ``None`` for a deleted one. ``columns`` holds, by array name,
            attribute key or ``"array:key"``, arrays over all rows: ``present``, ``stats_valid``,
            ``min``, ``max``, ``row_count``, ``null_count``. min and max are int64, uint64 or float64
            arrays, or a list of ``bytes | None`` for text; of an attribute both are its value.
        """
        return pruning_index(self._session.snapshot, *self._wanted(arrays, global_attrs, array_attrs))

    def table(
        self,
        arrays: Sequence[str] | None = None,
        global_attrs: Sequence[str] | None = None,
        array_attrs: Sequence[tuple[str, str]] | None = None,
        *,
        kind: Literal["pandas", "arrow"] = "pandas",
    ) -> Any:
        """Return names, attributes and statistics of all datasets as a table, as of the last flush.

        Parameters
        ----------
        arrays, global_attrs, array_attrs
            As for :meth:`pruning_index`.
        kind : {"pandas", "arrow"}

        Returns
        -------
        pandas.DataFrame or pyarrow.Table
            A row for each dataset, in order of insertion: ``dataset``, its name; attributes, by ``key`` or
            ``"array:key"``, in the types that they were set with; and ``"array.row_count"``, ``".null_count"``, ``".min"``, ``".max"`` of
            each array. What a dataset lacks is missing.

        Raises
        ------
        MissingDependency
            If that package is not installed.

        Examples
        --------
        >>> import tempfile
        >>> store = Atlas.create(tempfile.mkdtemp())
        >>> store.create_datasets(["hill", "mountain"], attributes={"height": [300, 4000]})
        >>> store.flush()
        >>> store.table().set_index("dataset").height["mountain"].item()
        4000
        """
        convert = {"pandas": to_pandas, "arrow": to_arrow}[choice(kind, ("pandas", "arrow"), "kind")]
        return convert(columns_of(self._session.snapshot, *self._wanted(arrays, global_attrs, array_attrs)))

    def _wanted(
        self,
        arrays: Sequence[str] | None,
        global_attrs: Sequence[str] | None,
        array_attrs: Sequence[tuple[str, str]] | None,
    ) -> tuple[Sequence[str], Sequence[str], Sequence[tuple[str, str]]]:
        if arrays is None and global_attrs is None and array_attrs is None:
            merged = self._session.merged_schema()
            return sorted(merged.arrays), list(merged.attributes), merged.pairs()
        return arrays or (), global_attrs or (), array_attrs or ()

    def column_summaries(self) -> dict[str, dict[str, Any]]:
        """Return ``{column: {"min", "max", "present_count"}}`` over all datasets, as of the last flush."""
        merged, snapshot = self._session.merged_schema(), self._session.snapshot
        catalog = snapshot.root.catalog
        summaries = {name: array_bounds(snapshot, name).summary() for name in sorted(merged.arrays)}
        summaries |= {key: attribute_bounds(catalog, None, key).summary() for key in merged.attributes}
        pairs = {f"{array}:{key}": attribute_bounds(catalog, array, key) for array, key in merged.pairs()}
        return summaries | {name: bounds.summary() for name, bounds in pairs.items()}

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
        return read_list(self._session, array, dataset_names, start, shape)

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
        return read_stacked(self._session, array, dataset_names, start, shape, out, on_missing)

    def write_stacked(
        self, array: str, dataset_names: Iterable[str], data: Any, start: Sequence[int] | None = None
    ) -> None:
        """Write the same box of an array of many datasets from one array.

        The inverse of :meth:`read_array_across_stacked`; what it does is what :meth:`DatasetView.write_array`
        for one name after another does, without an object for each.

        Parameters
        ----------
        array : str
        dataset_names : iterable of str
            Of a name that repeats, the last row counts.
        data : (len(dataset_names), *box) array_like
            Of the declared type; nothing is cast.
        start : sequence of int, optional
            First cell of the box, the same in every dataset.

        Raises
        ------
        DatasetNotFound, ArrayNotFound, DataTypeError, SelectionError, ShapeMismatch
            Nothing was recorded then.
        """
        write_stacked(self._session, array, dataset_names, data, start)

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


def _is_intact(storage: Storage) -> bool:
    try:
        load_root(storage)
    except CorruptRoot:
        return False
    return True
