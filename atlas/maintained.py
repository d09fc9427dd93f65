"""What keeps a store in good order: compaction, collecting garbage, verification; and what all of it costs."""

from __future__ import annotations

from atlas.compaction import compact
from atlas.garbage import GarbageReport, collect
from atlas.leftovers import known_to_newer, sweep
from atlas.searchable import Searchable
from atlas.storage import IOStats
from atlas.verify import Progress, VerifyReport, verify


class Maintained(Searchable):
    """The part of :class:`atlas.Atlas` that looks after its files."""

    @property
    def io_stats(self) -> IOStats:
        """The requests to an object store that this handle has made so far, and their bytes.

        Returns
        -------
        IOStats
            ``requests`` by kind, ``bytes_asked``, ``bytes_used`` and ``bytes_written``. The difference
            of two says what happened in between. A local store makes no requests.

        Examples
        --------
        >>> import atlas
        >>> store = atlas.Atlas.create("memory://an-example")
        >>> before = store.io_stats
        >>> store.create_dataset("a").set_attribute("k", 1)
        >>> store.flush()
        >>> (store.io_stats - before).requests
        {'conditional_put': 1}
        """
        return self._session.storage.io_stats

    def compact(self) -> None:
        """Rewrite every array into one data file without what was deleted or replaced.

        Works on the committed state: pending changes stay pending. Ordinals are renumbered. Readers of older states
        keep what they opened.

        Raises
        ------
        ReadOnlyStore, ConflictError, StorageError
        CorruptStore
            If an index is damaged, or something cannot be read; nothing is changed then. A chunk whose bytes are
            damaged is copied as it is, with the checksum that they do not have: reading it stays an error.

        Examples
        --------
        >>> import atlas
        >>> store = atlas.Atlas.create("fleet")
        >>> store.create_datasets(["jan", "feb"])
        >>> store.flush()
        >>> store.delete_dataset("jan")
        >>> store.flush()
        >>> store.compact()
        >>> store.row_slots()
        1
        """
        with self._session.lock:
            self._session.writable()
            storage = self._session.storage
            root = compact(storage, self._session.snapshot.workers)
            # Taking the new state up gives the pin on the old one back.
            self._session.follow(root)
            if storage.is_local:
                sweep(storage, root, known_to_newer(storage, root))

    def gc(
        self, *, grace: float | None = None, unfinished: float | None = None, dry_run: bool = False
    ) -> GarbageReport:
        """Remove files that no state of the store needs.

        On object stores nothing else removes them, and readers never do. Locally the next writer does the same.

        Parameters
        ----------
        grace : float, optional
            For so many seconds, by default 900, files that were replaced are kept for those who still read
            them: a handle that is older gets :class:`SnapshotExpired` and may ``refresh()``.
        unfinished : float, optional
            Objects that nothing refers to are garbage after so many seconds, by default a day; younger ones
            may be of a commit that is under way. Give less only when nobody writes.
        dry_run : bool
            Only say what would be removed.

        Returns
        -------
        GarbageReport
            ``removed``, ``bytes``, ``uploads`` and ``waiting``.

        Examples
        --------
        >>> import atlas
        >>> atlas.Atlas.create("fleet").gc().removed
        []
        """
        with self._session.lock:
            self._session.writable()
            report = collect(self._session.storage, grace, unfinished, dry_run)
            if report.removed and not dry_run:
                self._session.refresh()
            return report

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
        >>> import atlas
        >>> atlas.Atlas.create("fleet").verify().ok
        True
        """
        return verify(self._session.snapshot, progress)
