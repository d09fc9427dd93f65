"""`Atlas`: the store. Thin; the rooms below do the work."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Literal

from atlas.commit import discard_root, overwrite_root
from atlas.config import MISMATCH_POLICIES, StoreConfig, choice
from atlas.damage import RepairReport
from atlas.display import store_html
from atlas.errors import CorruptRoot, InvalidArgument, StoreAlreadyExists
from atlas.exchange import Exchange
from atlas.leftovers import recover
from atlas.repair import repair
from atlas.root import ROOT_KEYS, Root
from atlas.roots import create_root, emptied, has_root, is_lost, load_root
from atlas.session import Mode, Session, version_token
from atlas.storage import Storage, open_storage


class Atlas(Exchange):
    """A store of many named datasets of N-dimensional arrays.

    Made by :meth:`create` and :meth:`open`. Changes are kept in memory until :meth:`flush`, the
    single durability boundary; a handle that is dropped before leaves the store as it was. One
    handle may be shared by threads. Pickled, it travels as its location and reopens elsewhere.

    As a context manager it flushes on a clean exit. When the block raises, nothing of the batch is
    committed, and the handle takes no further part in it: the pending changes are dropped.
    ``len(store)`` is the number of datasets, ``name in store`` says whether there is one.

    Examples
    --------
    >>> import atlas, numpy as np
    >>> with atlas.Atlas.create("fleet") as store:
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
        single_writer: bool = False,
        workers: int | None = None,
        executor: str | None = None,
        pending_bytes: int | None = None,
    ) -> Atlas:
        """Make a new store; directories are made like ``mkdir -p``.

        Parameters
        ----------
        source : path, URL or fsspec filesystem
            With a filesystem, `prefix` is the store's place in it.
        codec, meta_format, meta_compression : see :class:`StoreConfig`
        on_type_mismatch : {"warn", "error"}
            What happens when an array or attribute has a type that cannot merge with the
            collection's.
        prefix : str, optional
            The store's place in `source`, where that is a filesystem.
        config : StoreConfig, optional
            All of the layout options at once; the single ones are then not looked at.
        overwrite : bool or "at flush"
            Replace the store that is there: now, or by the first flush, so that the old store stays
            whole should anything fail before. A damaged one is only replaced at once.
        storage_options : dict, optional
            What the fsspec file system of a URL is told: credentials, endpoint, ``anon``. Never stored.
        single_writer : bool
            Vouches that nobody else writes meanwhile: for object stores that do not honour conditional puts.
        workers : int, optional
            Tasks that may run at once; by default the cores this process may use.
        executor : {"serial", "threads", "processes"}, optional
            How large reads run; chosen by size when not given.
        pending_bytes : int, optional
            How much of what waits for a flush may be in memory, 512 MiB by default; the rest waits in files
            without names, and so do arrays that have much to say.

        Returns
        -------
        Atlas

        Raises
        ------
        StoreAlreadyExists
            If there is a store and `overwrite` is false, or one whose root is lost and it is not true.
        CorruptRoot
            If it is to be replaced by the first flush, and is damaged.
        InvalidArgument
            If an option is unknown.
        UnsafeStorage
            If it is an object store that does not honour conditional puts, without `single_writer`.

        Examples
        --------
        >>> import atlas
        >>> with atlas.Atlas.create("data/fleet") as store:
        ...     store.create_dataset("jan").set_attribute("month", 1)
        >>> len(atlas.Atlas.open("data/fleet"))
        1
        """
        layout = StoreConfig(codec, meta_format, meta_compression) if config is None else config
        if not isinstance(layout, StoreConfig):
            raise InvalidArgument(f"config must be a StoreConfig, not {type(layout).__name__}")
        choice(on_type_mismatch, MISMATCH_POLICIES, "on_type_mismatch")
        storage = open_storage(source, prefix, storage_options, single_writer)
        seen = storage.begin_creating(list(ROOT_KEYS))
        with storage.writer_lock() as interrupted:
            there = has_root(storage) if storage.is_local else seen
            if not there and overwrite is not True and is_lost(storage):
                raise StoreAlreadyExists(
                    f"there is a store at {storage.describe()} whose root is lost; Atlas.repair brings it back, "
                    "overwrite=True begins a new one"
                )
            if there and not overwrite:
                raise _already_there(storage)
            replaced = _intact_root(storage) if overwrite == "at flush" and there else None
            if replaced is not None:
                root = emptied(replaced, layout)
            else:
                root = overwrite_root(storage, layout) if there else _create_root(storage, layout, overwrite)
            if interrupted:
                recover(storage, load_root(storage), interrupted)
        session = Session(storage, root, on_type_mismatch, "a", workers, executor, pending_bytes)
        session.pending.layout = None if replaced is None else layout
        return Atlas(session)

    @staticmethod
    def open(
        source: Any,
        on_type_mismatch: str = "warn",
        *,
        prefix: str | None = None,
        mode: Mode = "a",
        storage_options: dict[str, Any] | None = None,
        single_writer: bool = False,
        workers: int | None = None,
        executor: str | None = None,
        pending_bytes: int | None = None,
    ) -> Atlas:
        """Open an existing store; its format, compression and codec are found out.

        Parameters
        ----------
        source, on_type_mismatch, prefix : see :meth:`create`
        mode : {"a", "r"}
            With ``"r"`` every change raises :class:`ReadOnlyStore`.
        storage_options, single_writer, workers, executor, pending_bytes : see :meth:`create`

        Returns
        -------
        Atlas

        Raises
        ------
        StoreNotFound
            If there is no store at that place.
        CorruptStore
            If its root object cannot be trusted.

        Examples
        --------
        >>> import atlas
        >>> with atlas.Atlas.create("fleet") as store:
        ...     store.create_dataset("jan").set_attribute("month", 1)
        >>> atlas.Atlas.open("fleet", mode="r").list_datasets()
        ['jan']
        """
        choice(mode, ("a", "r"), "mode")
        storage = open_storage(source, prefix, storage_options, single_writer)
        return Atlas(Session.load(storage, on_type_mismatch, mode, workers, executor, pending_bytes))

    @staticmethod
    def create_path(path: Any, config: StoreConfig | None = None) -> Atlas:
        """Make a new store in a local directory: :meth:`create` under the name that the Rust library gives it.

        Parameters
        ----------
        path : path
        config : StoreConfig, optional

        Returns
        -------
        Atlas

        Examples
        --------
        >>> import atlas
        >>> len(atlas.Atlas.create_path("fleet"))
        0
        """
        return Atlas.create(path, config=StoreConfig() if config is None else config)

    @staticmethod
    def open_path(path: Any) -> Atlas:
        """Open the store in a local directory: :meth:`open` under the name that the Rust library gives it.

        Parameters
        ----------
        path : path

        Returns
        -------
        Atlas

        Examples
        --------
        >>> import atlas
        >>> atlas.Atlas.create("fleet").close()
        >>> len(atlas.Atlas.open_path("fleet"))
        0
        """
        return Atlas.open(path)

    def refresh(self) -> None:
        """Show the newest committed state; pending changes stay pending.

        If another writer has committed changes to the same datasets, the flush says so.

        Examples
        --------
        >>> import atlas
        >>> writer = atlas.Atlas.create("fleet")
        >>> reader = atlas.Atlas.open("fleet", mode="r")
        >>> writer.create_dataset("jan").set_attribute("month", 1)
        >>> writer.flush()
        >>> reader.list_datasets()
        []
        >>> reader.refresh()
        >>> reader.list_datasets()
        ['jan']
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

        Examples
        --------
        >>> import atlas
        >>> store = atlas.Atlas.create("fleet")
        >>> store.create_dataset("jan").set_attribute("month", 1)
        >>> atlas.Atlas.open("fleet").list_datasets()
        []
        >>> store.flush()
        >>> atlas.Atlas.open("fleet").list_datasets()
        ['jan']
        """
        self._session.flush()

    def close(self) -> None:
        """Flush. The handle stays usable.

        Examples
        --------
        >>> import atlas
        >>> store = atlas.Atlas.create("fleet")
        >>> store.create_dataset("jan").set_attribute("month", 1)
        >>> store.close()
        >>> store.list_datasets()
        ['jan']
        """
        self.flush()

    @staticmethod
    def repair(
        source: Any,
        *,
        dry_run: bool = False,
        drop_lost: bool = False,
        prefix: str | None = None,
        storage_options: dict[str, Any] | None = None,
        single_writer: bool = False,
    ) -> RepairReport:
        """Bring a damaged store back: its root, the indexes of its files, and every chunk that is intact.

        A lost or damaged root comes back from the records that commits leave, and so do the indexes of
        data files that are damaged, cut short or gone. What is replaced is kept in ``_damaged/`` within the
        store, for you to remove. An older root in the place of a newer one gives way, unless commits were made on top
        of it: then these stay, and the newer state goes there, too, as a store of its own that can be repaired. Chunks
        that are lost read as errors until they are written anew or their
        arrays are deleted. A repair is one commit, and as safe from crashes; a store without damage is
        not changed.

        Parameters
        ----------
        source : path, URL or fsspec filesystem
        dry_run : bool
            Write nothing, and say what would be done.
        drop_lost : bool
            Delete the arrays that lost chunks from the datasets concerned, in a commit of its own.
        prefix, storage_options, single_writer : see :meth:`create`

        Returns
        -------
        RepairReport
            ``ok``, ``actions``, ``lost``, ``dropped`` and ``kept``.

        Raises
        ------
        StoreNotFound
            If there is neither a root nor a file of a commit.
        CorruptStore
            If there is nothing to bring the root or the dataset table back from.

        Examples
        --------
        >>> import atlas, os
        >>> with atlas.Atlas.create("fleet") as store:
        ...     store.create_dataset("a").set_attribute("k", 1)
        >>> os.remove("fleet/atlas.json")
        >>> atlas.Atlas.repair("fleet").ok, atlas.Atlas.open("fleet").list_datasets()
        (True, ['a'])
        """
        storage = open_storage(source, prefix, storage_options, single_writer)
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
        """Drop the pending changes, and the store itself when nothing was ever committed to it.

        Examples
        --------
        >>> import atlas, os
        >>> store = atlas.Atlas.create("fleet")
        >>> store.create_dataset("jan").set_attribute("month", 1)
        >>> store.discard_if_new()
        >>> os.path.exists("fleet/atlas.json")
        False
        """
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

    def _repr_html_(self) -> str:
        return store_html(self._session)

    def __len__(self) -> int:
        return self._session.count()

    def __dask_tokenize__(self) -> Any:
        return version_token(self._session)

    @property
    def _inner(self) -> Atlas:
        # The older package's handle wrapped another one under this name.
        return self


def _already_there(storage: Storage) -> StoreAlreadyExists:
    return StoreAlreadyExists(
        f"there is already a store at {storage.describe()}; open it, or overwrite=True (--overwrite) replaces it"
    )


def _create_root(storage: Storage, layout: StoreConfig, overwrite: Any) -> Root:
    try:
        return create_root(storage, layout)
    except FileExistsError:
        # Somebody else was faster: on object stores no lock keeps them away.
        if not overwrite:
            raise _already_there(storage) from None
        return overwrite_root(storage, layout)


def _intact_root(storage: Storage) -> Root:
    try:
        return load_root(storage)
    except CorruptRoot as error:
        raise CorruptRoot(
            f"{error}; a store whose root is damaged cannot be replaced by a flush: Atlas.repair brings it back, "
            "overwrite=True replaces it now"
        ) from None
