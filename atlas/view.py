"""`DatasetView`: one dataset of a store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas.attributes import decode_attribute, encode_attribute
from atlas.chunks import resolve_selection
from atlas.display import dataset_html
from atlas.dtypes import as_elements, require_utf8
from atlas.errors import ArrayAlreadyExists, ArrayNotFound, InvalidArgument
from atlas.resizing import appended_shape, resize, whole_or_not
from atlas.schema import ArraySchema, Attributes, DatasetRecord, make_array_schema
from atlas.session import Session, naming
from atlas.statistics import fill_statistics
from atlas.writer import PendingArray


class DatasetView:
    """One dataset of a store. Many views of one dataset are fine; all see pending changes at once.

    Attributes
    ----------
    name : str
    """

    def __init__(self, session: Session, name: str) -> None:
        self._session = session
        self._name = name

    @property
    def name(self) -> str:
        """The dataset's name."""
        return self._name

    def __repr__(self) -> str:
        return f'<DatasetView name="{self._name}" arrays={len(self.list_arrays())}>'

    def _repr_html_(self) -> str:
        return dataset_html(self._name, self._record())

    # ── records ──────────────────────────────────────────────────────────────────────────────

    def _record(self) -> DatasetRecord:
        return self._session.record(self._name)

    def _find(self, array: str) -> ArraySchema | None:
        return self._record().arrays.get(array) if isinstance(array, str) else None

    def _schema(self, array: str) -> ArraySchema:
        found = self._find(array)
        if found is None:
            raise ArrayNotFound(f"array not found: {array!r} in dataset {self._name!r}")
        return found

    def list_arrays(self) -> list[str]:
        """Return the names of the dataset's arrays, in order of definition."""
        return list(self._record().arrays)

    def array_meta(self, name: str) -> dict[str, Any] | None:
        """Return ``{"dtype", "shape", "chunk_shape", "dimension_names"}``, or ``None`` if absent."""
        found = self._find(name)
        return None if found is None else found.meta()

    def array_fill_value(self, name: str) -> Any:
        """Return the declared fill value; ``None`` without one, or if the array is absent."""
        found = self._find(name)
        return None if found is None else found.fill

    def array_stats(self, name: str) -> dict[str, Any] | None:
        """Return ``{"row_count", "null_count", "min", "max"}`` as of the last flush.

        ``None`` if the array is absent, or has changes that are not flushed. Cells that were never written hold the
        fill value. min and max are ``bytes`` for strings, ``int`` nanoseconds (or the type's unit) for times.
        """
        session = self._session
        with session.lock:
            found = self._find(name)
            ordinal = session.ordinal(self._name)
            if found is None or ordinal < 0:
                return None
            if session.pending.array(self._name, name) is not None:
                return None
            snapshot = session.snapshot
        statistics = snapshot.statistics(name, found.dtype, ordinal)
        return (statistics or fill_statistics(found.dtype, found.fill, found.cells)).to_dict()

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
        session = self._session
        with session.lock:
            session.writable()
            if name in self._record().arrays:
                raise ArrayAlreadyExists(f"array already exists: {name!r} in dataset {self._name!r}")
            clash = session.merged_schema().add_array(schema.name, schema.dtype, schema.dims)
            if clash is not None:
                session.mismatch(f"array {name!r}", clash.name, schema.dtype.name)
            # Only now is there a change: one that was refused must not reach the next flush.
            session.change(self._name).arrays[schema.name] = schema
            session.pending.arrays.setdefault(self._name, {})[schema.name] = PendingArray(schema, reset=True)

    def delete_array(self, name: str) -> None:
        """Delete an array of this dataset.

        Raises
        ------
        ArrayNotFound
        """
        with self._session.lock:
            self._session.writable()
            self._schema(name)
            record = self._session.change(self._name)
            del record.arrays[name]
            record.array_attributes.pop(name, None)
            self._session.pending.arrays.get(self._name, {}).pop(name, None)
            self._session.forget_schema()

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
        session = self._session
        with session.lock:
            session.writable()
            schema = self._schema(name)
            cells = as_elements(schema.dtype, data, f"array {name!r}")
            first = (0,) * len(schema.shape) if start is None else start
            box = resolve_selection(schema.shape, first, cells.shape, f"array {name!r}")
            self._session.change(self._name)
            arrays = session.pending.arrays.setdefault(self._name, {})
            pending = arrays.setdefault(name, PendingArray(schema, reset=False))
            snapshot, config = session.snapshot, session.snapshot.root.config
            session.pending.make_room(cells.nbytes, config, snapshot.workers)
            read_chunk = partial(self._stored_chunk, schema, pending)
            pending.write(box, cells, read_chunk, session.pending.heap, config, snapshot.workers)
            session.pending.note(pending, cells.nbytes)

    def _stored_chunk(self, schema: ArraySchema, pending: PendingArray, number: int) -> NDArray[Any]:
        session, box = self._session, schema.grid.extent(number)
        return session.pending_box(session.snapshot, schema, PendingArray(schema, pending.reset), self._name, box)

    def resize(self, name: str, shape: Sequence[int]) -> None:
        """Give an array another shape, with the same number of axes, by the next flush.

        Cells that are new hold the fill value; those that are cut off are gone. Chunks keep their shape, and
        only those that the old or the new edge cuts are written anew. An array without cells that was declared without
        a chunk shape is one chunk of its new shape.

        Parameters
        ----------
        name : str
        shape : sequence of int

        Raises
        ------
        ArrayNotFound, InvalidArgument
        CorruptStore
            If a chunk that must be written anew is damaged; nothing is changed then.

        Examples
        --------
        >>> import atlas, tempfile
        >>> view = atlas.Atlas.create(tempfile.mkdtemp()).create_dataset("buoy")
        >>> view.define_array("t", "float32", ["time"], [2], chunk_shape=[100], fill_value=-1)
        >>> view.resize("t", [3])
        >>> view.read_array("t")
        array([-1., -1., -1.], dtype=float32)
        """
        resize(self._session, self._name, name, shape)

    def append(self, name: str, data: Any, axis: int = 0) -> tuple[int, ...]:
        """Add cells at the end of an axis, by the next flush; see :meth:`resize`.

        Parameters
        ----------
        name : str
        data : array_like
            Of the declared type, and of the array's shape along all other axes.
        axis : int

        Returns
        -------
        tuple of int
            The array's new shape.

        Raises
        ------
        ArrayNotFound, DataTypeError, ShapeMismatch, InvalidArgument, CorruptStore
            Nothing is changed then.

        Examples
        --------
        >>> import atlas, numpy as np, tempfile
        >>> view = atlas.Atlas.create(tempfile.mkdtemp()).create_dataset("buoy")
        >>> view.define_array("t", "float32", ["time"], [0], chunk_shape=[100])
        >>> view.append("t", np.array([12.5, 13.0], "float32"))
        (2,)
        """
        with self._session.lock:
            self._session.writable()
            shape, cells = appended_shape(self._session, self._name, name, data, axis)
            start = tuple(old if n != old else 0 for n, old in zip(shape, self._schema(name).shape, strict=True))
            with whole_or_not(self._session, self._name):
                resize(self._session, self._name, name, shape)
                self.write_array(name, start, cells)
        return shape

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
        session = self._session
        with session.lock:
            schema = self._find(name)
            if schema is None:
                return None
            snapshot = session.snapshot
            pending = session.pending.array(self._name, name)
        box = resolve_selection(schema.shape, start, shape, f"array {name!r} of {self._name!r}")
        with naming([self._name], np.zeros(1, np.int64)):
            return session.pending_box(snapshot, schema, pending, self._name, box)

    def read_arrays(
        self, names: Iterable[str], start: Sequence[int] | None = None, shape: Sequence[int] | None = None
    ) -> dict[str, NDArray[Any] | None]:
        """Read the same box of several arrays; ``None`` for those the dataset lacks."""
        if isinstance(names, (str, bytes)) or not isinstance(names, Iterable):
            raise InvalidArgument(f"names must be a sequence of array names, not {names!r}")
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
        encoded = encode_attribute(value, dtype, f"attribute {check_key(key)!r}")
        with self._session.lock:
            self._session.writable()
            self._merge_attribute(None, key, encoded[0])
            self._session.change(self._name).attributes[key] = encoded

    def get_attribute(self, key: str) -> Any:
        """Return an attribute of the dataset, or ``None``."""
        return self.attributes().get(check_key(key))

    def attributes(self) -> dict[str, Any]:
        """Return all attributes of the dataset."""
        with self._session.lock:
            return _decoded(self._record().attributes)

    def set_array_attribute(self, array: str, key: str, value: Any, dtype: str | None = None) -> None:
        """Set an attribute of one array; see :meth:`set_attribute`.

        Raises
        ------
        ArrayNotFound
        """
        encoded = encode_attribute(value, dtype, f"attribute {check_key(key)!r} of array {array!r}")
        with self._session.lock:
            self._session.writable()
            self._schema(array)
            self._merge_attribute(array, key, encoded[0])
            self._session.change(self._name).array_attributes.setdefault(array, {})[key] = encoded

    def get_array_attribute(self, array: str, key: str) -> Any:
        """Return an attribute of one array, or ``None``."""
        return self.array_attributes(array).get(check_key(key))

    def array_attributes(self, array: str) -> dict[str, Any]:
        """Return all attributes of one array; none for an array the dataset lacks."""
        with self._session.lock:
            record = self._record()
            return _decoded(record.array_attributes.get(array, {})) if self._find(array) else {}

    def _merge_attribute(self, array: str | None, key: str, tag: str) -> None:
        known = self._session.merged_schema().add_attribute(array, key, tag)
        if known is not None:
            self._session.mismatch(f"attribute {key!r}" + (f" of array {array!r}" if array else ""), known, tag)


def _decoded(attributes: Attributes) -> dict[str, Any]:
    return {key: decode_attribute(tag, value) for key, (tag, value) in attributes.items()}


def check_key(key: Any) -> str:
    """Return an attribute's key that the store accepts."""
    if not isinstance(key, str):
        raise InvalidArgument(f"attribute keys are strings, not {type(key).__name__}")
    return require_utf8(key, "attribute key")
