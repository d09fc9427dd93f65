"""Atlas: the store for thousands to millions of similar N-dimensional datasets.

A store holds named datasets, each a set of named, chunked, compressed N-dimensional arrays with
attributes. Data is laid out variable first: one data file per array name holds that array of every
dataset, so the same slice of thousands of datasets is one call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from atlas import _hooks
from atlas.errors import (
    ArrayAlreadyExists,
    ArrayNotFound,
    AtlasError,
    CommitUnknownError,
    ConflictError,
    CorruptChunk,
    CorruptIndex,
    CorruptRoot,
    CorruptStore,
    DatasetAlreadyExists,
    DatasetNotFound,
    DataTypeError,
    InvalidArgument,
    InvalidName,
    MissingDependency,
    ReadOnlyStore,
    SelectionError,
    ShapeMismatch,
    SnapshotExpired,
    StorageError,
    StoreAlreadyExists,
    StoreNotFound,
    TypeMismatch,
    UnsafeStorage,
    UnsupportedDataType,
    ValueOutOfRange,
)

if TYPE_CHECKING:
    from atlas.config import StoreConfig
    from atlas.executor import shutdown, warm_up
    from atlas.exporting import export
    from atlas.ingest import append, create
    from atlas.query import box, col
    from atlas.selection import Selection
    from atlas.store import Atlas
    from atlas.view import DatasetView

__version__ = "0.1.0"

__all__ = [
    "ArrayAlreadyExists",
    "ArrayNotFound",
    "Atlas",
    "AtlasError",
    "CommitUnknownError",
    "ConflictError",
    "CorruptChunk",
    "CorruptIndex",
    "CorruptRoot",
    "CorruptStore",
    "DataTypeError",
    "DatasetAlreadyExists",
    "DatasetNotFound",
    "DatasetView",
    "InvalidArgument",
    "InvalidName",
    "MissingDependency",
    "ReadOnlyStore",
    "Selection",
    "SelectionError",
    "ShapeMismatch",
    "SnapshotExpired",
    "StorageError",
    "StoreAlreadyExists",
    "StoreConfig",
    "StoreNotFound",
    "TypeMismatch",
    "UnsafeStorage",
    "UnsupportedDataType",
    "ValueOutOfRange",
    "__version__",
    "append",
    "box",
    "col",
    "create",
    "export",
    "init_tracing",
    "shutdown",
    "warm_up",
]

# Loaded when first asked for: importing the package costs next to nothing, not even NumPy.
_LAZY = {
    "Atlas": "store",
    "DatasetView": "view",
    "Selection": "selection",
    "StoreConfig": "config",
    "append": "ingest",
    "box": "query",
    "col": "query",
    "create": "ingest",
    "export": "exporting",
    "shutdown": "executor",
    "warm_up": "executor",
}


def __getattr__(name: str) -> Any:
    import os
    from importlib import import_module

    if name not in _LAZY:
        # Importing a module of the package asks here first, and is not to wait for an explanation.
        place = os.path.join(os.path.dirname(__file__), name)
        if os.path.isdir(place) or os.path.exists(f"{place}.py"):
            raise AttributeError(name)
        raise AttributeError(f"module 'atlas' has no attribute {name!r}{_clash()}")
    value = globals()[name] = getattr(import_module(f"atlas.{_LAZY[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _clash() -> str:
    """Explain a missing name when the older package of the same import name is installed as well."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        older = version("atlas-python")
    except PackageNotFoundError:
        return ""
    return (
        f"; atlas-python {older} is installed too and shares this import name, so their files are mixed up: "
        "pip uninstall atlas-python, then pip install --force-reinstall atlas-fleet"
    )


def init_tracing(filter: str | None = None) -> None:
    """Write the library's log to stderr, as the older package's function of that name did.

    Without it the library logs by the logger ``atlas`` and installs no handler.

    Parameters
    ----------
    filter : str, optional
        A level, or ``"atlas=level"``; ``$ATLAS_LOG`` or ``"info"`` without one.

    Raises
    ------
    InvalidArgument
        If the level is unknown.

    Examples
    --------
    >>> import atlas, logging
    >>> atlas.init_tracing("debug")
    >>> logging.getLogger("atlas").level == logging.DEBUG
    True
    """
    import logging
    import os

    level = (filter or os.environ.get("ATLAS_LOG") or "info").rsplit("=", 1)[-1]
    number = {"trace": logging.DEBUG, "warn": logging.WARNING}.get(level, logging.getLevelName(level.upper()))
    if not isinstance(number, int):
        raise InvalidArgument(f"unknown log level {level!r}; use error, warn, info, debug or trace")
    logger = logging.getLogger("atlas")
    logger.setLevel(number)
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler())


_hooks.install()
