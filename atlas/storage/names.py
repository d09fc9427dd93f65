"""What things in a store are called: the directories of arrays, those of the store itself, and the files of commits."""

from __future__ import annotations

import re
import uuid
from collections.abc import Set

import xxhash

# The store's own directories: of table files and records, of files that older readers may still need, of what
# repairs replaced, and of objects that only show whether a server honours conditions, or what time it has.
CATALOG, RETIRED, DAMAGED, PROBES = "_catalog", "_retired", "_damaged", "_probe"

_ID = "[0-9a-f]{32}"
_RECORD = rf"commit-{_ID}\.ar"
_FILE = rf"data-{_ID}\.af|table-{_ID}\.at|{_RECORD}"
_FILE_NAME, _RECORD_NAME = re.compile(_FILE), re.compile(_RECORD)
_FILE_KEY = re.compile(rf"[^/\0]+/({_FILE})")
_PROBE_KEY = re.compile(f"{PROBES}/{_ID}")

_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_+ .")
_DEVICES = {"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(10))}
_LONGEST = 180


def array_directory(name: str, taken: Set[str] = frozenset()) -> str:
    """Return the directory of a new array: readable, and safe on every file system.

    Bytes of the UTF-8 name other than letters, digits and ``-_+ .`` are percent-encoded, as are
    leading and trailing dots and spaces, and the first character of names that belong to a device
    or to the store itself. A hash is added to names that are too long, or differ only by case from
    a directory in `taken` (case-folded).

    Examples
    --------
    >>> array_directory("sea water/°C")
    'sea water%2F%C2%B0C'
    """
    encoded = "".join(chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in name.encode("utf-8"))
    body = encoded.strip(". ")
    start = encoded.index(body) if body else len(encoded)
    edges = (encoded[:start], encoded[start + len(body) :])
    leading, trailing = ("".join(f"%{ord(char):02X}" for char in edge) for edge in edges)
    directory = leading + body + trailing
    folded = directory.casefold()
    # A device keeps its meaning with any ending, so it is the beginning that must change.
    is_device = folded.split(".")[0].rstrip(" ") in _DEVICES
    if is_device or folded.startswith("atlas.") or folded in (CATALOG, RETIRED, DAMAGED, PROBES):
        directory = f"%{ord(directory[0]):02X}{directory[1:]}"
    if len(directory) > _LONGEST or directory.casefold() in taken:
        digest = xxhash.xxh3_64_hexdigest(name.encode("utf-8"))
        directory = f"{directory[:100]}%{digest}"
    return directory


# ── files ────────────────────────────────────────────────────────────────────────────────────────


def data_key(directory: str, file_id: uuid.UUID) -> str:
    """Return where a data file of an array is."""
    return f"{directory}/data-{file_id.hex}.af"


def table_key(file_id: uuid.UUID) -> str:
    """Return where a table file is."""
    return f"{CATALOG}/table-{file_id.hex}.at"


def record_key(commit: str) -> str:
    """Return where the record of a commit is."""
    return f"{CATALOG}/commit-{commit}.ar"


def new_probe_key() -> str:
    """Return where nothing is yet, for an object that goes again at once."""
    return f"{PROBES}/{uuid.uuid4().hex}"


def name_of(key: str) -> str:
    """Return the name of a file: it keeps that wherever it is put, and no other file has it."""
    return key.rsplit("/", 1)[-1]


def is_file_of_a_commit(key: str) -> bool:
    """Return whether a file, which may belong to no state, is of the kind that commits write: those never change."""
    return _FILE_NAME.fullmatch(name_of(key)) is not None and not key.startswith(f"{DAMAGED}/")


def is_record(name: str) -> bool:
    """Return whether a file of this name is the record of a commit."""
    return _RECORD_NAME.fullmatch(name) is not None


def is_key_of_a_file(key: str) -> bool:
    """Return whether this is a place where commits put files."""
    return _FILE_KEY.fullmatch(key) is not None


def is_probe(key: str) -> bool:
    """Return whether an object is one that only shows something of the server."""
    return _PROBE_KEY.fullmatch(key) is not None
