"""Where bytes live: the only room that knows about file systems and object stores."""

from atlas.storage.base import DataWriter, Pin, Storage
from atlas.storage.local import LocalStorage
from atlas.storage.names import array_directory
from atlas.storage.remote import FsspecStorage
from atlas.storage.source import open_storage

__all__ = ["DataWriter", "FsspecStorage", "LocalStorage", "Pin", "Storage", "array_directory", "open_storage"]
