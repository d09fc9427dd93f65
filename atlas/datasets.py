"""What a store's handle does with one dataset: make, open, delete, rename and copy it."""

from __future__ import annotations

from atlas.copying import copy_dataset
from atlas.schema import check_name
from atlas.session import Session
from atlas.view import DatasetView


class Datasets:
    """The part of :class:`atlas.Atlas` that keeps datasets by name."""

    _session: Session

    def create_dataset(self, name: str) -> DatasetView:
        """Make a new, empty dataset.

        Parameters
        ----------
        name : str
            Not empty, without ``/`` and NUL, not ``.`` or ``..``, and not beginning with ``_``.

        Returns
        -------
        DatasetView

        Raises
        ------
        DatasetAlreadyExists, InvalidName

        Examples
        --------
        >>> import atlas
        >>> atlas.Atlas.create("fleet").create_dataset("jan")
        <DatasetView name="jan" arrays=0>
        """
        with self._session.lock:
            self._session.writable()
            name = check_name(name, "dataset")
            self._session.create(name)
            return DatasetView(self._session, name)

    def open_dataset(self, name: str) -> DatasetView:
        """Return a view of a dataset, without any I/O.

        Parameters
        ----------
        name : str

        Returns
        -------
        DatasetView

        Raises
        ------
        DatasetNotFound

        Examples
        --------
        >>> import atlas
        >>> store = atlas.Atlas.create("fleet")
        >>> store.create_dataset("jan").set_attribute("month", 1)
        >>> store.open_dataset("jan").get_attribute("month")
        1
        """
        self._session.require(name)
        return DatasetView(self._session, name)

    def delete_dataset(self, name: str) -> None:
        """Delete a dataset; :meth:`flush` makes it last, :meth:`compact` reclaims the space.

        Parameters
        ----------
        name : str

        Raises
        ------
        DatasetNotFound

        Examples
        --------
        >>> import atlas
        >>> store = atlas.Atlas.create("fleet")
        >>> store.create_dataset("jan").set_attribute("month", 1)
        >>> store.delete_dataset("jan")
        >>> store.list_datasets()
        []
        """
        with self._session.lock:
            self._session.delete(name)

    def rename_dataset(self, old: str, new: str) -> None:
        """Give a dataset another name by the next flush; no data moves, and it keeps its place and its ordinal.

        A :class:`DatasetView` of the old name finds no dataset any more.

        Parameters
        ----------
        old, new : str

        Raises
        ------
        DatasetNotFound, DatasetAlreadyExists, InvalidName

        Examples
        --------
        >>> import atlas
        >>> store = atlas.Atlas.create("fleet")
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

        Parameters
        ----------
        source, target : str

        Returns
        -------
        DatasetView
            Of the copy.

        Raises
        ------
        DatasetNotFound, DatasetAlreadyExists, InvalidName, CorruptStore
            Nothing was recorded then.

        Examples
        --------
        >>> import atlas
        >>> store = atlas.Atlas.create("fleet")
        >>> store.create_dataset("jan").set_attribute("month", 1)
        >>> store.copy_dataset("jan", "copy").attributes()
        {'month': 1}
        """
        copy_dataset(self._session, source, target)
        return DatasetView(self._session, target)
