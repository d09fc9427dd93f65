"""What a dataset says of itself: its schema, statistics and attributes, and changing the last."""

from __future__ import annotations

from typing import Any

from atlas.attributes import check_key, decode_attributes, encode_named
from atlas.display import dataset_html
from atlas.schema import ArraySchema, DatasetRecord
from atlas.session import Session
from atlas.statistics import fill_statistics


class Described:
    """The part of :class:`atlas.DatasetView` that tells what there is, and keeps attributes."""

    def __init__(self, session: Session, name: str) -> None:
        self._session = session
        self._name = name

    @property
    def name(self) -> str:
        """The dataset's name.

        Examples
        --------
        >>> import atlas
        >>> atlas.Atlas.create("fleet").create_dataset("buoy").name
        'buoy'
        """
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
        return self._session.array(self._name, array)

    def list_arrays(self) -> list[str]:
        """Return the names of the dataset's arrays, in order of definition.

        Returns
        -------
        list of str

        Examples
        --------
        >>> import atlas
        >>> view = atlas.Atlas.create("fleet").create_dataset("buoy")
        >>> view.define_array("t", "float32", ["hour"], [24])
        >>> view.list_arrays()
        ['t']
        """
        return list(self._record().arrays)

    def array_meta(self, name: str) -> dict[str, Any] | None:
        """Return what an array was declared as.

        Parameters
        ----------
        name : str

        Returns
        -------
        dict or None
            ``{"dtype", "shape", "chunk_shape", "dimension_names"}``; ``None`` if the dataset lacks the array.

        Examples
        --------
        >>> import atlas
        >>> view = atlas.Atlas.create("fleet").create_dataset("buoy")
        >>> view.define_array("t", "f32", ["hour"], [24])
        >>> view.array_meta("t")
        {'dtype': 'float32', 'shape': [24], 'chunk_shape': [24], 'dimension_names': ['hour']}
        """
        found = self._find(name)
        return None if found is None else found.meta()

    def array_fill_value(self, name: str) -> Any:
        """Return the fill value that an array was declared with.

        Parameters
        ----------
        name : str

        Returns
        -------
        scalar or None
            ``None`` if none was declared, or if the dataset lacks the array.

        Examples
        --------
        >>> import atlas
        >>> view = atlas.Atlas.create("fleet").create_dataset("buoy")
        >>> view.define_array("quality", "int8", ["hour"], [24], fill_value=-1)
        >>> view.array_fill_value("quality")
        -1
        """
        found = self._find(name)
        return None if found is None else found.fill

    def array_stats(self, name: str) -> dict[str, Any] | None:
        """Return what is known of an array's cells without reading them, as of the last flush.

        Parameters
        ----------
        name : str

        Returns
        -------
        dict or None
            ``{"row_count", "null_count", "min", "max"}``. ``row_count`` counts cells, ``null_count`` those that
            equal the fill value, which cells that were never written do; ``min`` and ``max`` leave these and NaN
            out. They are ``bytes`` for text, ``int`` nanoseconds (or the type's unit) for times, and ``None`` where
            no cell counts. ``None`` if the dataset lacks the array, or if it has changes that are not flushed.

        Examples
        --------
        >>> import atlas, numpy as np
        >>> with atlas.Atlas.create("fleet") as store:
        ...     view = store.create_dataset("buoy")
        ...     view.define_array("t", "float32", ["hour"], [3], fill_value=-99)
        ...     view.write_array("t", [0], np.array([12.5, 13.0], "float32"))
        >>> view.array_stats("t")
        {'row_count': 3, 'null_count': 1, 'min': 12.5, 'max': 13.0}
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

    # ── attributes ───────────────────────────────────────────────────────────────────────────

    def set_attribute(self, key: str, value: Any, dtype: str | None = None) -> None:
        """Set an attribute of the dataset, by the next flush.

        Parameters
        ----------
        key : str
        value : bool, int, float, str, bytes, flat list, NumPy scalar or 1-D array
        dtype : str, optional
            A narrower type (``"int8"``), or ``"timestamp_nanoseconds"``.

        Raises
        ------
        DataTypeError, ValueOutOfRange, InvalidArgument
        TypeMismatch
            If the type cannot merge with the collection's and the policy is ``"error"``.

        Examples
        --------
        >>> import atlas
        >>> view = atlas.Atlas.create("fleet").create_dataset("buoy")
        >>> view.set_attribute("platform", "Argo float")
        >>> view.set_attribute("cycles", 3, dtype="int8")
        >>> view.attributes()
        {'platform': 'Argo float', 'cycles': 3}
        """
        encoded = encode_named(key, value, dtype)
        with self._session.lock:
            self._session.writable()
            self._session.merge_attribute(None, key, encoded[0])
            self._session.change(self._name).attributes[key] = encoded

    def get_attribute(self, key: str) -> Any:
        """Return an attribute of the dataset.

        Parameters
        ----------
        key : str

        Returns
        -------
        bool, int, float, str, bytes, list or None
            ``None`` if there is none of that key.

        Examples
        --------
        >>> import atlas
        >>> view = atlas.Atlas.create("fleet").create_dataset("buoy")
        >>> view.set_attribute("depths", [10, 20, 50])
        >>> view.get_attribute("depths")
        [10, 20, 50]
        """
        return self.attributes().get(check_key(key))

    def attributes(self) -> dict[str, Any]:
        """Return all attributes of the dataset.

        Returns
        -------
        dict
            By key, in the order in which they were set.

        Examples
        --------
        >>> import atlas
        >>> view = atlas.Atlas.create("fleet").create_dataset("buoy")
        >>> view.set_attribute("lat", 48.5)
        >>> view.attributes()
        {'lat': 48.5}
        """
        with self._session.lock:
            return decode_attributes(self._record().attributes)

    def set_array_attribute(self, array: str, key: str, value: Any, dtype: str | None = None) -> None:
        """Set an attribute of one array, by the next flush.

        Parameters
        ----------
        array : str
        key : str
        value, dtype : see :meth:`set_attribute`

        Raises
        ------
        ArrayNotFound, DataTypeError, ValueOutOfRange, InvalidArgument, TypeMismatch

        Examples
        --------
        >>> import atlas
        >>> view = atlas.Atlas.create("fleet").create_dataset("buoy")
        >>> view.define_array("t", "float32", ["hour"], [24])
        >>> view.set_array_attribute("t", "units", "degC")
        >>> view.array_attributes("t")
        {'units': 'degC'}
        """
        encoded = encode_named(key, value, dtype, array)
        with self._session.lock:
            self._session.writable()
            self._schema(array)
            self._session.merge_attribute(array, key, encoded[0])
            self._session.change(self._name).array_attributes.setdefault(array, {})[key] = encoded

    def get_array_attribute(self, array: str, key: str) -> Any:
        """Return an attribute of one array.

        Parameters
        ----------
        array, key : str

        Returns
        -------
        bool, int, float, str, bytes, list or None
            ``None`` if there is none of that key, or no such array.

        Examples
        --------
        >>> import atlas
        >>> view = atlas.Atlas.create("fleet").create_dataset("buoy")
        >>> view.define_array("t", "float32", ["hour"], [24])
        >>> view.set_array_attribute("t", "units", "degC")
        >>> view.get_array_attribute("t", "units")
        'degC'
        """
        return self.array_attributes(array).get(check_key(key))

    def array_attributes(self, array: str) -> dict[str, Any]:
        """Return all attributes of one array.

        Parameters
        ----------
        array : str

        Returns
        -------
        dict
            By key; empty for an array that the dataset lacks.

        Examples
        --------
        >>> import atlas
        >>> view = atlas.Atlas.create("fleet").create_dataset("buoy")
        >>> view.define_array("t", "float32", ["hour"], [24])
        >>> view.array_attributes("t")
        {}
        """
        with self._session.lock:
            record = self._record()
            return decode_attributes(record.array_attributes.get(array, {})) if self._find(array) else {}
