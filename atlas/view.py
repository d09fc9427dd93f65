"""`DatasetView`: one dataset of a store. Thin; the rooms below do the work."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas.chunks import resolve_box
from atlas.described import Described
from atlas.dtypes import as_elements
from atlas.errors import ArrayAlreadyExists, InvalidArgument
from atlas.indexes import side_by_side
from atlas.reader import naming
from atlas.resizing import appended_shape, resize, whole_or_not
from atlas.schema import ArraySchema, make_array_schema
from atlas.writer import Overlay, PendingArray, size_in_memory


class DatasetView(Described):
    """One dataset of a store: made by :meth:`Atlas.create_dataset` and :meth:`Atlas.open_dataset`.

    Many views of one dataset are fine; all of one handle see pending changes at once.

    Attributes
    ----------
    name : str

    Examples
    --------
    >>> import atlas, numpy as np
    >>> store = atlas.Atlas.create("fleet")
    >>> view = store.create_dataset("buoy")
    >>> view.define_array("t", "float32", ["hour"], [3], fill_value=float("nan"))
    >>> view.write_array("t", [1], np.array([12.5, 13.0], "float32"))
    >>> view.read_array("t")
    array([ nan, 12.5, 13. ], dtype=float32)
    >>> view
    <DatasetView name="buoy" arrays=1>
    """

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
            ``"float32"``, ``"int64"``, ``"string"``, ``"timestamp_nanoseconds"``, ``"datetime64[s]"``, ``"bool"``,
            ``"complex64"``, ``"binary"`` …
        dims : sequence of str
            One name per axis.
        shape : sequence of int
            Cells along each axis; ``[]`` for a single cell.
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

        Examples
        --------
        >>> import atlas
        >>> view = atlas.Atlas.create("fleet").create_dataset("model")
        >>> view.define_array("t", "float32", ["depth", "time"], [50, 1000], chunk_shape=[50, 100], fill_value=-99)
        >>> view.read_array("t", [0, 0], [1, 2])
        array([[-99., -99.]], dtype=float32)
        """
        schema = make_array_schema(name, dtype, dims, shape, chunk_shape, fill_value)
        session = self._session
        with session.lock:
            session.writable()
            if name in self._record().arrays:
                raise ArrayAlreadyExists(f"array already exists: {name!r} in dataset {self._name!r}")
            session.merge_array(schema.name, schema.dtype, schema.dims)
            # Only now is there a change: one that was refused must not reach the next flush.
            with session.pending.whole():
                session.change(self._name).arrays[schema.name] = schema
                session.pending.arrays.setdefault(self._name, {})[schema.name] = PendingArray(schema, reset=True)

    def delete_array(self, name: str) -> None:
        """Delete an array of this dataset, by the next flush.

        Parameters
        ----------
        name : str

        Raises
        ------
        ArrayNotFound

        Examples
        --------
        >>> import atlas
        >>> view = atlas.Atlas.create("fleet").create_dataset("buoy")
        >>> view.define_array("t", "float32", ["hour"], [24])
        >>> view.delete_array("t")
        >>> view.list_arrays()
        []
        """
        session = self._session
        with session.lock:
            session.writable()
            self._schema(name)
            with session.pending.whole():
                record = session.change(self._name)
                del record.arrays[name]
                record.array_attributes.pop(name, None)
                session.pending.arrays.get(self._name, {}).pop(name, None)
                session.forget_schema()

    def write_array(self, name: str, start: Sequence[int] | None, data: Any) -> None:
        """Write a box of cells, to be committed by the next flush.

        Parameters
        ----------
        name : str
        start : sequence of int or None
            First cell of the box, whose extent is that of `data`; ``None`` for the first cell of the array.
        data : array_like
            Of the declared type; nothing is cast. Any memory order; copied.

        Raises
        ------
        ArrayNotFound
        DataTypeError
            If the data have another type.
        SelectionError
            If the box leaves the array, or has another number of axes.

        Examples
        --------
        >>> import atlas, numpy as np
        >>> view = atlas.Atlas.create("fleet").create_dataset("model")
        >>> view.define_array("t", "float32", ["y", "x"], [2, 3])
        >>> view.write_array("t", [1, 1], np.array([[8, 9]], "float32"))
        >>> view.read_array("t")
        array([[0., 0., 0.],
               [0., 8., 9.]], dtype=float32)
        """
        session = self._session
        with session.lock:
            session.writable()
            schema = self._schema(name)
            cells = as_elements(schema.dtype, data, f"array {name!r}")
            box = resolve_box(schema.shape, start, cells.shape, f"array {name!r}")
            self._session.change(self._name)
            arrays = session.pending.arrays.setdefault(self._name, {})
            pending = arrays.setdefault(name, PendingArray(schema, reset=False))
            snapshot, config = session.snapshot, session.snapshot.root.config
            session.pending.make_room(size_in_memory(cells), config, snapshot.workers)
            read_chunk = partial(self._stored_chunk, schema, pending)
            # Before and after: cells that nobody has noted are not encoded by the flush; and a few of them may keep a
            # large chunk in memory.
            session.pending.note(pending, 0)
            size = pending.write(box, cells, read_chunk, session.pending.heap, config, snapshot.workers)
            session.pending.note(pending, size)

    def _stored_chunk(self, schema: ArraySchema, pending: PendingArray, number: int) -> NDArray[Any]:
        session = self._session
        stored = Overlay(schema, PendingArray(schema, pending.reset), session.ordinal(self._name))
        return stored.read(session.snapshot, self._name, schema.grid.extent(number), session.lock)

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
        >>> import atlas
        >>> view = atlas.Atlas.create("fleet").create_dataset("buoy")
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
        >>> import atlas, numpy as np
        >>> view = atlas.Atlas.create("fleet").create_dataset("buoy")
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
        """Read an array, or a box of it, pending changes included.

        Parameters
        ----------
        name : str
        start, shape : sequence of int, optional
            First cell and extent of the box; from the first cell, and to the end, by default.

        Returns
        -------
        ndarray or None
            Of shape `shape` and the declared type: times are ``datetime64``, text is ``str`` in an object array. It
            is yours to change. ``None`` if the dataset has no such array.

        Raises
        ------
        SelectionError
            If the box leaves the array.
        CorruptStore
            If what is stored is damaged.

        Examples
        --------
        >>> import atlas, numpy as np
        >>> view = atlas.Atlas.create("fleet").create_dataset("buoy")
        >>> view.define_array("t", "int16", ["hour"], [24])
        >>> view.write_array("t", [0], np.arange(24, dtype="int16"))
        >>> view.read_array("t", [10], [3])
        array([10, 11, 12], dtype=int16)
        >>> view.read_array("salinity") is None
        True
        """
        session = self._session
        with session.lock:
            schema = self._find(name)
            if schema is None:
                return None
            snapshot = session.snapshot
            overlay = Overlay(schema, session.pending.array(self._name, name), session.ordinal(self._name))
        box = resolve_box(schema.shape, start, shape, f"array {name!r} of {self._name!r}")
        with naming([self._name], np.zeros(1, np.int64)):
            return overlay.read(snapshot, self._name, box, session.lock)

    def read_arrays(
        self, names: Iterable[str], start: Sequence[int] | None = None, shape: Sequence[int] | None = None
    ) -> dict[str, NDArray[Any] | None]:
        """Read the same box of several arrays.

        Parameters
        ----------
        names : iterable of str
        start, shape : sequence of int, optional
            As for :meth:`read_array`.

        Returns
        -------
        dict of str to (ndarray or None)
            By name; ``None`` for those that the dataset lacks.

        Raises
        ------
        SelectionError, CorruptStore, InvalidArgument

        Examples
        --------
        >>> import atlas
        >>> view = atlas.Atlas.create("fleet").create_dataset("buoy")
        >>> view.define_array("t", "int16", ["hour"], [2])
        >>> view.read_arrays(["t", "salinity"])
        {'t': array([0, 0], dtype=int16), 'salinity': None}
        """
        if isinstance(names, (str, bytes)) or not isinstance(names, Iterable):
            raise InvalidArgument(f"names must be a sequence of array names, not {names!r}")
        found, wanted = {}, list(names)

        def read(name: str) -> None:
            found[name] = self.read_array(name, start, shape)

        side_by_side(self._session.storage, read, wanted)
        return {name: found[name] for name in wanted}
