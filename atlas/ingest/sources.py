"""Which files are taken, and what their datasets are called."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from stat import S_ISREG
from typing import Any

from atlas.display import reason_of
from atlas.errors import AtlasError, DatasetAlreadyExists, InvalidArgument
from atlas.ingest.work import LEFT_OUT, Source

#: File names that are taken when no pattern is given, in capitals as well.
PATTERNS = ("*.nc", "*.nc4", "*.cdf", "*.netcdf", "*.h5", "*.hdf5", "*.he5", "*.zarr")

Naming = str | Callable[[Path], str]

# Told of each place that cannot be looked at, and why.
Unreadable = Callable[[Path, Exception], None]

_SHORT = {"stem": "{stem}", "path": "{path}"}


def find_sources(
    source: Any,
    pattern: str | Sequence[str] | None = None,
    recursive: bool = True,
    name: Naming = "stem",
    unreadable: dict[str, str] | None = None,
) -> list[Source]:
    """Return the files of a directory that match, sorted, each with the name of its dataset.

    Parameters
    ----------
    source : path or sequence of paths
        A directory, a file or Zarr group, or several of them; `pattern` is for directories.
    pattern : str or sequence of str, optional
        :data:`PATTERNS` by default.
    recursive : bool
    name : str or callable
        ``"stem"``, ``"path"``, a text with ``{stem}``, ``{path}``, ``{parent}`` or ``{suffix}`` in it, or a function
        of the path.
    unreadable : dict of str to str, optional
        Gets the files and directories that cannot be looked at, and why; they are errors otherwise.

    Raises
    ------
    DatasetAlreadyExists
        If two files claim one name.
    InvalidArgument
        If there is no such file or directory, or nothing matches.
    AtlasError
        If one cannot be looked at.
    """

    def tell(path: Path, error: Exception) -> None:
        reason = reason_of(error)
        if unreadable is None:
            raise AtlasError(f"{path}: {reason}; {LEFT_OUT}") from error
        unreadable[str(path)] = reason

    patterns = PATTERNS if pattern is None else (pattern,) if isinstance(pattern, str) else tuple(pattern)
    sought = [_in_any_case(each) for each in patterns] if pattern is None else patterns
    roots = [source] if isinstance(source, (str, os.PathLike)) else list(source)
    found: list[Source] = []
    for root in map(Path, roots):
        is_one_of_many = not isinstance(source, (str, os.PathLike))
        try:
            # One that is not there is then told of alone, when it is read.
            paths = [root] if is_one_of_many and not root.is_dir() else list(_found(root, sought, recursive, tell))
        except OSError as error:
            tell(root, error)
            continue
        for path in paths:
            called = _name(path, root, name)
            if _is_text(called):
                found.append(Source(called, path))
            else:
                tell(path, ValueError("its name is no text in UTF-8; name= (--name) gives it another"))
    if not found and not unreadable:
        shown = ", ".join(patterns)
        raise InvalidArgument(f"no file in {', '.join(map(str, roots))} matches {shown}")
    _refuse_twins(found)
    return found


def _in_any_case(pattern: str) -> str:
    """Return a pattern that also matches names in capitals, as older systems wrote them."""
    return "".join(f"[{letter}{letter.upper()}]" if letter.isalpha() else letter for letter in pattern)


def _found(root: Path, patterns: Sequence[str], recursive: bool, tell: Unreadable) -> Iterator[Path]:
    if root.is_file() or is_zarr_group(root):
        yield from _datasets_of(root)
        return
    if not root.is_dir():
        raise InvalidArgument(f"there is no file or directory {root}")
    matching = {path for each in patterns for path in (root.rglob(each) if recursive else root.glob(each))}
    groups: set[Path] = set()
    for path in sorted(matching):
        if not groups.isdisjoint(path.parents):
            continue  # a part of a hierarchy that is taken as a whole
        try:
            if is_zarr_group(path):
                groups.add(path)
                yield from _datasets_of(path)
            elif S_ISREG(path.stat().st_mode):
                yield path
        except (OSError, ValueError) as error:
            tell(path, error)
    # Looking for what matches passes over directories that cannot be listed.
    for directory, below, _ in os.walk(root, onerror=lambda error: tell(Path(error.filename), error)):
        below[:] = [name for name in below if recursive and Path(directory, name) not in groups]


def _datasets_of(path: Path) -> list[Path]:
    """Return what is one dataset each: a file, or every group of a Zarr hierarchy that has arrays of its own."""
    if path.is_file():
        return [path]
    children = sorted(child for child in path.iterdir() if child.is_dir())
    own = [path] if any(_zarr_node(child) == "array" for child in children) else []
    below = [each for child in children if is_zarr_group(child) for each in _datasets_of(child)]
    # A hierarchy without any array is still the dataset that it was made from.
    return own + below or [path]


def is_zarr_group(path: Path) -> bool:
    """Return whether a directory is a Zarr group, of version 2 or 3."""
    return path.is_dir() and _zarr_node(path) == "group"


def _zarr_node(path: Path) -> str | None:
    if (path / ".zgroup").is_file():
        return "group"
    if (path / ".zarray").is_file():
        return "array"
    try:
        found = json.loads((path / "zarr.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise ValueError(f"zarr.json: {error}") from None
    return str(found.get("node_type")) if isinstance(found, dict) else None


def _name(path: Path, root: Path, naming: Naming) -> str:
    if callable(naming):
        called = naming(path)
        if not isinstance(called, str):
            raise InvalidArgument(f"the name of a dataset is text; of {path}, name= made {called!r}")
        return called
    below = path.relative_to(root) if root in path.parents else Path(path.name)
    parts = [Path(part).stem if part.endswith(".zarr") else part for part in below.parts[:-1]]
    fields = {
        "stem": path.stem,
        "path": ".".join([*parts, path.stem]),
        "parent": path.parent.name,
        "suffix": path.suffix.removeprefix("."),
    }
    try:
        return _SHORT.get(naming, naming).format_map(fields)
    except (KeyError, ValueError, IndexError, AttributeError) as error:
        raise InvalidArgument(
            f"bad name {naming!r} ({error}): use 'stem', 'path', or a text with {{stem}}, {{path}}, {{parent}} or "
            "{suffix} in it"
        ) from None


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _refuse_twins(sources: Sequence[Source]) -> None:
    known: dict[str, Path] = {}
    for name, path in sources:
        if name in known:
            raise DatasetAlreadyExists(
                f"{known[name]} and {path} would both become dataset {name!r}; name=… (--name) makes others, like "
                "'path', which takes directories in"
            )
        known[name] = path
