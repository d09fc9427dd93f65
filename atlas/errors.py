"""The exceptions Atlas raises.

Every class derives from :class:`AtlasError` *and* from the built-in that a caller would
already catch::

    AtlasError
    ├── DatasetNotFound, ArrayNotFound          (KeyError)
    ├── DatasetAlreadyExists, ArrayAlreadyExists,
    │   StoreAlreadyExists                      (FileExistsError)
    ├── StoreNotFound                           (FileNotFoundError)
    ├── InvalidName, InvalidArgument            (ValueError)
    │   └── TypeMismatch
    ├── SelectionError                          (IndexError, ValueError)
    ├── DataTypeError                           (TypeError)
    ├── ValueOutOfRange                         (OverflowError)
    ├── ShapeMismatch                           (ValueError)
    ├── UnsupportedDataType                     (NotImplementedError, TypeError)
    ├── ReadOnlyStore                           (PermissionError)
    ├── SnapshotExpired                         (RuntimeError)
    ├── ConflictError                           (RuntimeError)
    ├── StorageError                            (OSError)
    │   ├── CommitUnknownError
    │   └── UnsafeStorage
    ├── MissingDependency                       (ImportError)
    └── CorruptStore                            (RuntimeError)
        ├── CorruptRoot
        ├── CorruptIndex
        └── CorruptChunk
"""

from __future__ import annotations

from collections.abc import Iterable


class AtlasError(Exception):
    """Base class of every error that Atlas raises on purpose."""


class _LookupFailure(AtlasError, KeyError):
    # KeyError quotes its message as if it were a key; users want the sentence.
    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class DatasetNotFound(_LookupFailure):
    """The store has no dataset of that name."""


class ArrayNotFound(_LookupFailure):
    """The dataset (or the whole store) has no array of that name."""


class DatasetAlreadyExists(AtlasError, FileExistsError):
    """A dataset of that name is already there."""


class ArrayAlreadyExists(AtlasError, FileExistsError):
    """The dataset already has an array of that name."""


class StoreAlreadyExists(AtlasError, FileExistsError):
    """There is already a store at that place; pass ``overwrite=True`` to replace it."""


class StoreNotFound(AtlasError, FileNotFoundError):
    """There is no Atlas store at that place."""


class InvalidName(AtlasError, ValueError):
    """A dataset or array name that the store does not accept."""


class InvalidArgument(AtlasError, ValueError):
    """An argument whose value makes no sense for the call."""


class TypeMismatch(InvalidArgument):
    """A type that cannot be merged with the collection's type of that name."""


class SelectionError(AtlasError, IndexError, ValueError):
    """A region that lies outside the array or has the wrong number of axes."""


class DataTypeError(AtlasError, TypeError):
    """Data, a fill value or an attribute of the wrong type."""


class ValueOutOfRange(AtlasError, OverflowError):
    """An integer that does not fit the declared type."""


class ShapeMismatch(AtlasError, ValueError):
    """Datasets that cannot be stacked because their shapes or types differ."""


# NotImplementedError is what scripts of the older package catch.
class UnsupportedDataType(AtlasError, NotImplementedError, TypeError):
    """A NumPy data type that Atlas cannot store."""


class ReadOnlyStore(AtlasError, PermissionError):
    """The store was opened for reading, or its place cannot be written."""


class SnapshotExpired(AtlasError, RuntimeError):
    """The files of this handle's snapshot are gone; call ``refresh()``."""


class ConflictError(AtlasError, RuntimeError):
    """Another writer committed changes to the same datasets first.

    Attributes
    ----------
    datasets : tuple of str
        The datasets that both writers changed.
    """

    def __init__(self, message: str, datasets: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.datasets = tuple(datasets)


class StorageError(AtlasError, OSError):
    """The file system or object store failed; nothing was committed."""


class CommitUnknownError(StorageError):
    """A commit to an object store may have happened or not: no answer came, and the root cannot be read.

    The changes are still pending. The next flush finds out, and commits them if they are not there.
    """


class UnsafeStorage(StorageError):
    """The object store cannot keep two writers apart; pass ``single_writer=True`` if there is only one."""


class MissingDependency(AtlasError, ImportError):
    """A package that this call needs and that Atlas does not require is not installed."""


class CorruptStore(AtlasError, RuntimeError):
    """Stored bytes that are damaged, truncated or forged."""


class CorruptRoot(CorruptStore):
    """The root object cannot be trusted."""


class CorruptIndex(CorruptStore):
    """The index of a data file cannot be trusted."""


class CorruptChunk(CorruptStore):
    """One chunk cannot be decoded; others are not affected.

    Attributes
    ----------
    row : int
        Position of the chunk in the task table that was being decoded, or -1.
    """

    def __init__(self, message: str, row: int = -1) -> None:
        super().__init__(message, row)
        self.row = row

    def __str__(self) -> str:
        return str(self.args[0])
