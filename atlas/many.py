"""What a store's handle does with many datasets at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from numpy.typing import NDArray

from atlas.across import read_list, read_stacked
from atlas.bulk import create_datasets, delete_datasets, write_stacked
from atlas.datasets import Datasets
from atlas.drift import DriftReport, drift_report
from atlas.members import Members
from atlas.ragged import to_awkward


class Many(Datasets):
    """The part of :class:`atlas.Atlas` that reads, writes, creates and deletes many datasets by one call."""

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
            ``(len(names), *shape)`` array that is written at once and that type and shape follow from.
        attributes : mapping, optional
            By key. A single value is for all datasets; a list, an array or a pandas column holds
            one value for each name.

        Raises
        ------
        DatasetAlreadyExists, InvalidName, ShapeMismatch, InvalidArgument, DataTypeError
            Nothing was recorded then.

        Examples
        --------
        >>> import atlas, numpy as np
        >>> store = atlas.Atlas.create("fleet")
        >>> store.create_datasets(
        ...     ["a", "b"],
        ...     {"t": {"dims": ["hour"], "data": np.arange(48.0).reshape(2, 24)}},
        ...     {"lat": [12.5, 13.0], "kind": "buoy"},
        ... )
        >>> store.open_dataset("b").attributes()
        {'lat': 13.0, 'kind': 'buoy'}
        """
        create_datasets(self._session, names, arrays, attributes)

    def delete_datasets(self, names: Iterable[str]) -> None:
        """Delete many datasets, by one look-up; see :meth:`delete_dataset`.

        Parameters
        ----------
        names : iterable of str

        Raises
        ------
        DatasetNotFound
            Nothing was deleted then.

        Examples
        --------
        >>> import atlas
        >>> store = atlas.Atlas.create("fleet")
        >>> store.create_datasets(["a", "b", "c"])
        >>> store.delete_datasets(["a", "c"])
        >>> store.list_datasets()
        ['b']
        """
        delete_datasets(self._session, names)

    def read_array_across(
        self,
        array: str,
        dataset_names: Iterable[str],
        start: Sequence[int] | None = None,
        shape: Sequence[int] | None = None,
    ) -> list[NDArray[Any] | None]:
        """Read the same box of an array from many datasets, whose shapes may differ.

        Parameters
        ----------
        array : str
        dataset_names : iterable of str
            Names may repeat. Also a :class:`Selection`.
        start, shape : sequence of int, optional
            First cell and extent of the box, the same in every dataset; without `shape` it ends where each array does.

        Returns
        -------
        list of ndarray or None
            One per name, in order, each of its own dataset's type and shape; ``None`` where a dataset lacks the
            array. The arrays of one call share their memory block, which is freed when the last of them goes.

        Raises
        ------
        DatasetNotFound, SelectionError, CorruptStore
        InvalidArgument
            If no names are given.

        Examples
        --------
        >>> import atlas, numpy as np
        >>> store = atlas.Atlas.create("fleet")
        >>> for name, depths in (("a", 2), ("b", 3)):
        ...     view = store.create_dataset(name)
        ...     view.define_array("t", "int16", ["depth"], [depths])
        >>> store.read_array_across("t", ["a", "b"])
        [array([0, 0], dtype=int16), array([0, 0, 0], dtype=int16)]
        """
        return read_list(self._session, array, dataset_names, start, shape)

    def read_array_across_awkward(
        self,
        array: str,
        dataset_names: Iterable[str],
        start: Sequence[int] | None = None,
        shape: Sequence[int] | None = None,
    ) -> Any:
        """Read the same box of an array from many datasets, whose shapes may differ, into one awkward array.

        Parameters
        ----------
        array, dataset_names, start, shape : see :meth:`read_array_across`

        Returns
        -------
        awkward.Array
            An entry per name, ``None`` where a dataset lacks the array.

        Raises
        ------
        DatasetNotFound, SelectionError, CorruptStore
        MissingDependency
            If awkward is not installed.
        InvalidArgument
            If no names are given, or number of axes or type differ.

        Examples
        --------
        >>> import atlas, numpy as np
        >>> store = atlas.Atlas.create("fleet")
        >>> for name, depths in (("a", 2), ("b", 3)):
        ...     view = store.create_dataset(name)
        ...     view.define_array("t", "int16", ["depth"], [depths])
        >>> store.read_array_across_awkward("t", ["a", "b"]).tolist()
        [[0, 0], [0, 0, 0]]
        """
        return to_awkward(array, read_list(self._session, array, dataset_names, start, shape))

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
            Names may repeat. Also a :class:`Selection`.
        start, shape : sequence of int, optional
            First cell and extent of the box, the same in every dataset; the whole array by default.
        out : ndarray, optional
            To read into: C-contiguous, of the array's type and of the shape of the result.
        on_missing : {"raise", "fill"}
            Whether datasets without the array are an error, or rows of the fill value.

        Returns
        -------
        ndarray
            Of shape ``(len(dataset_names), *box)`` and of the array's type, a row per name, in order.

        Raises
        ------
        ArrayNotFound, DatasetNotFound, SelectionError, CorruptStore
        ShapeMismatch
            If the datasets' shapes or types differ, naming the first two that do.
        InvalidArgument
            If no names are given, or `out` does not fit.

        Examples
        --------
        >>> import atlas, numpy as np
        >>> store = atlas.Atlas.create("fleet")
        >>> store.create_datasets(["a", "b"], {"t": {"dims": ["hour"], "data": np.arange(6.0).reshape(2, 3)}})
        >>> store.read_array_across_stacked("t", ["b", "a"], [1], [2])
        array([[4., 5.],
               [1., 2.]])
        """
        return read_stacked(self._session, array, dataset_names, start, shape, out, on_missing)

    def drift_report(self, names: Iterable[str] | None = None, arrays: Iterable[str] | None = None) -> DriftReport:
        """Say in what datasets differ that should be alike, and which they are; no cell is read.

        Parameters
        ----------
        names : iterable of str, optional
            All datasets by default.
        arrays : iterable of str, optional
            Look at these alone, and not at the attributes of the datasets.

        Returns
        -------
        DriftReport
            A sequence of differences, each with its ``array``, ``aspect``, ``groups`` and ``outliers``; as text, a line
            for each.

        Raises
        ------
        DatasetNotFound, InvalidArgument

        Examples
        --------
        >>> import atlas
        >>> store = atlas.Atlas.create("fleet")
        >>> for name, units in (("a", "K"), ("b", "K"), ("c", "degC")):
        ...     view = store.create_dataset(name)
        ...     view.define_array("t", "float32", ["x"], [3])
        ...     view.set_array_attribute("t", "units", units)
        >>> print(store.drift_report())
        3 datasets, 1 differences
          t: attribute units: K in 2 (a, …); degC in 1 (c)
        >>> store.drift_report()[0].outliers
        ['c']
        """
        members = Members.all(self._session) if names is None else Members.of(self._session, names)
        return drift_report(members, None if arrays is None else list(arrays))

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
        data : array_like
            Of shape ``(len(dataset_names), *box)`` and of the declared type; nothing is cast.
        start : sequence of int, optional
            First cell of the box, the same in every dataset.

        Raises
        ------
        DatasetNotFound, ArrayNotFound, DataTypeError, SelectionError, ShapeMismatch
            Nothing was recorded then.

        Examples
        --------
        >>> import atlas, numpy as np
        >>> store = atlas.Atlas.create("fleet")
        >>> store.create_datasets(["a", "b"], {"t": {"dims": ["hour"], "dtype": "int8", "shape": [3]}})
        >>> store.write_stacked("t", ["a", "b"], np.array([[1], [2]], "int8"), start=[2])
        >>> store.read_array_across_stacked("t", ["a", "b"])
        array([[0, 0, 1],
               [0, 0, 2]], dtype=int8)
        """
        write_stacked(self._session, array, dataset_names, data, start)
