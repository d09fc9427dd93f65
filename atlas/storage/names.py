"""Directory names for arrays: readable, and safe on every file system."""

from __future__ import annotations

from collections.abc import Set

import xxhash

_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_+ .")
_OWN = {"_retired", "_catalog", "_damaged", "_probe"}
_DEVICES = {"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(10))}
_LONGEST = 180


def array_directory(name: str, taken: Set[str] = frozenset()) -> str:
    """Return the directory of a new array.

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
    if folded.split(".")[0].rstrip(" ") in _DEVICES or folded.startswith("atlas.") or folded in _OWN:
        directory = f"%{ord(directory[0]):02X}{directory[1:]}"
    if len(directory) > _LONGEST or directory.casefold() in taken:
        digest = xxhash.xxh3_64_hexdigest(name.encode("utf-8"))
        directory = f"{directory[:100]}%{digest}"
    return directory
