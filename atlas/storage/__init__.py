"""Where bytes live: the only room that knows about file systems and object stores."""

from atlas.storage.base import MOST_BYTES, ConditionFailed, DataWriter, EarlyWriter, Pin, Storage, Stored
from atlas.storage.local import LocalStorage
from atlas.storage.locks import REPAIRING, WRITING
from atlas.storage.names import array_directory
from atlas.storage.ranges import Range, Requests, coalesce
from atlas.storage.source import open_storage
from atlas.storage.stats import IOStats

__all__ = [
    "ConditionFailed",
    "DataWriter",
    "EarlyWriter",
    "IOStats",
    "MOST_BYTES",
    "REPAIRING",
    "WRITING",
    "LocalStorage",
    "Pin",
    "Range",
    "Requests",
    "Storage",
    "Stored",
    "array_directory",
    "coalesce",
    "open_storage",
]
