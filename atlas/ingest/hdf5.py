"""HDF5 files on which the NetCDF library crashes: those with floats of other sizes than its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

MAGIC = b"\x89HDF"

# A file that the NetCDF library wrote says so near its beginning, and is safe with it.
_HEAD_BYTES = 4096

_FLOAT_BYTES = (4, 8)

# Reads them.
OTHER_READER = {"engine": "h5netcdf", "phony_dims": "sort"}


def crashes_netcdf(path: Path) -> bool:
    """Return whether the NetCDF library would take this process with it."""
    with open(path, "rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head.startswith(MAGIC) or b"_NCProperties" in head:
        return False
    try:
        import h5py
    except ImportError:
        return False

    def is_odd(name: str, node: Any) -> bool | None:
        kind = node.id.get_type() if isinstance(node, h5py.Dataset) else None
        return (isinstance(kind, h5py.h5t.TypeFloatID) and kind.get_size() not in _FLOAT_BYTES) or None

    try:
        with h5py.File(path, "r") as source:
            return bool(source.visititems(is_odd))
    except (OSError, RuntimeError):
        return False  # damaged: the library says so
