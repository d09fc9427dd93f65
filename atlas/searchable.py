"""What a store's handle says of the whole collection without reading a chunk: schema, statistics, queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from atlas.conditions import Condition, all_of
from atlas.config import choice
from atlas.errors import InvalidArgument
from atlas.frames import columns_of, to_arrow, to_pandas
from atlas.many import Many
from atlas.pruning import array_bounds, attribute_bounds, pruning_index
from atlas.root import root_key
from atlas.selection import Selection, matching
from atlas.where import parse_condition


class Searchable(Many):
    """The part of :class:`atlas.Atlas` that describes and searches the collection."""

    def dataset_exists(self, name: str) -> bool:
        """Return whether there is a dataset of that name; ``name in store`` says the same.

        Parameters
        ----------
        name : str

        Returns
        -------
        bool

        Examples
        --------
        >>> import atlas
        >>> store = atlas.Atlas.create("fleet")
        >>> store.create_datasets(["jan", "feb"])
        >>> store.dataset_exists("jan"), "march" in store
        (True, False)
        """
        return self._session.exists(name)

    __contains__ = dataset_exists

    def list_datasets(self) -> list[str]:
        """Return the names of all datasets, pending ones included.

        Returns
        -------
        list of str
            In order of insertion.

        Examples
        --------
        >>> import atlas
        >>> store = atlas.Atlas.create("fleet")
        >>> store.create_datasets(["jan", "feb"])
        >>> store.list_datasets()
        ['jan', 'feb']
        """
        return self._session.names()

    def list_arrays(self) -> list[str]:
        """Return the distinct array names of all datasets.

        Returns
        -------
        list of str
            Sorted.

        Examples
        --------
        >>> import atlas
        >>> store = atlas.Atlas.create("fleet")
        >>> store.create_dataset("a").define_array("t", "float32", ["x"], [3])
        >>> store.create_dataset("b").define_array("salt", "float32", ["x"], [3])
        >>> store.list_arrays()
        ['salt', 't']
        """
        return sorted(self._session.merged_schema().arrays)

    def array_dtype(self, array: str) -> str | None:
        """Return the collection-wide type of an array, widened over all datasets.

        Parameters
        ----------
        array : str

        Returns
        -------
        str or None
            ``None`` when no dataset has the array.

        Examples
        --------
        >>> import atlas
        >>> store = atlas.Atlas.create("fleet")
        >>> store.create_dataset("a").define_array("t", "int16", ["x"], [3])
        >>> store.create_dataset("b").define_array("t", "int32", ["x"], [3])
        >>> store.array_dtype("t")
        'int32'
        """
        found = self._session.merged_schema().arrays.get(array)
        return None if found is None else found[0].name

    def merged_schema(self) -> dict[str, Any]:
        """Return every array and attribute of the collection with its type widened over all datasets.

        Returns
        -------
        dict
            ``{"arrays": {name: {"dtype", "dimension_names", "attributes"}},
            "global_attributes": {key: dtype}}``. Where types cannot widen, the first seen stays.

        Examples
        --------
        >>> import atlas
        >>> store = atlas.Atlas.create("fleet")
        >>> view = store.create_dataset("a")
        >>> view.define_array("t", "int16", ["x"], [3])
        >>> view.set_attribute("lat", 48.5)
        >>> store.merged_schema()["arrays"]["t"]["dtype"], store.merged_schema()["global_attributes"]
        ('int16', {'lat': 'float64'})
        """
        return self._session.merged_schema().to_dict()

    def dataset_row(self, name: str) -> int | None:
        """Return a dataset's ordinal: its row in :meth:`pruning_index`, stable until :meth:`compact`.

        Parameters
        ----------
        name : str

        Returns
        -------
        int or None
            ``None`` when there is no such dataset.

        Examples
        --------
        >>> import atlas
        >>> store = atlas.Atlas.create("fleet")
        >>> store.create_datasets(["jan", "feb"])
        >>> store.dataset_row("feb")
        1
        """
        with self._session.lock:
            catalog, new = self._session.snapshot.root.catalog, self._session.pending.created_names()
            if name in new:
                return catalog.slots + new.index(name)
            return self._session.ordinal(name) if self._session.exists(name) else None

    def row_slots(self) -> int:
        """Return the number of ordinals in use, those of deleted datasets included.

        Returns
        -------
        int

        Examples
        --------
        >>> import atlas
        >>> store = atlas.Atlas.create("fleet")
        >>> store.create_datasets(["jan", "feb"])
        >>> store.flush()
        >>> store.delete_dataset("jan")
        >>> store.flush()
        >>> len(store), store.row_slots()
        (1, 2)
        """
        with self._session.lock:
            return self._session.snapshot.root.catalog.slots + self._session.pending.created_count()

    def info(self) -> dict[str, Any]:
        """Return a description of the committed state, without I/O.

        Returns
        -------
        dict
            ``location, datasets, row_slots, generation, root, codec, bytes`` and ``arrays``, by name
            ``{"dtype", "dimension_names", "files", "bytes"}``.

        Examples
        --------
        >>> import atlas
        >>> store = atlas.Atlas.create("fleet")
        >>> store.create_datasets(["a"], {"t": {"dims": ["x"], "data": [[1.5, 2.5]]}})
        >>> store.flush()
        >>> info = store.info()
        >>> info["datasets"], info["codec"], info["arrays"]["t"]["dtype"], info["arrays"]["t"]["files"]
        (1, 'zstd', 'float64', 1)
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
        >>> store = Atlas.create("fleet")
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

        Raises
        ------
        ArrayNotFound, InvalidArgument
            If no dataset has what is asked for.

        Examples
        --------
        >>> import atlas
        >>> store = atlas.Atlas.create("fleet")
        >>> store.create_datasets(["a", "b"], {"t": {"dims": ["x"], "data": [[1.5, 2.5], [3.5, 4.5]]}})
        >>> store.flush()
        >>> index = store.pruning_index(["t"])
        >>> index["datasets"], index["columns"]["t"]["max"]
        (['a', 'b'], array([2.5, 4.5]))
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
        arrays, global_attrs, array_attrs : see :meth:`pruning_index`
        kind : {"pandas", "arrow"}

        Returns
        -------
        pandas.DataFrame or pyarrow.Table
            A row for each dataset, in order of insertion: ``dataset``, its name; attributes, by ``key`` or
            ``"array:key"``, in the types that they were set with; and ``"array.row_count"``, ``".null_count"``,
            ``".min"`` and ``".max"`` of each array. What a dataset lacks is missing.

        Raises
        ------
        MissingDependency
            If that package is not installed.

        Examples
        --------
        >>> import atlas
        >>> store = atlas.Atlas.create("fleet")
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
        """Return the extremes of every column of :meth:`pruning_index`, as of the last flush.

        Returns
        -------
        dict
            ``{column: {"min", "max", "present_count"}}`` over all datasets. ``min`` and ``max`` are ``None`` where
            nothing is known, or where some datasets have text and others numbers.

        Examples
        --------
        >>> import atlas
        >>> store = atlas.Atlas.create("fleet")
        >>> store.create_datasets(["a", "b"], {"t": {"dims": ["x"], "data": [[1.5], [2.5]]}})
        >>> store.flush()
        >>> store.column_summaries()["t"]
        {'min': 1.5, 'max': 2.5, 'present_count': 2}
        """
        merged, snapshot = self._session.merged_schema(), self._session.snapshot
        catalog = snapshot.root.catalog
        snapshot.fetch(merged.arrays)
        summaries = {name: array_bounds(snapshot, name).summary() for name in sorted(merged.arrays)}
        summaries |= {key: attribute_bounds(catalog, None, key).summary() for key in merged.attributes}
        pairs = {f"{array}:{key}": attribute_bounds(catalog, array, key) for array, key in merged.pairs()}
        return summaries | {name: bounds.summary() for name, bounds in pairs.items()}
