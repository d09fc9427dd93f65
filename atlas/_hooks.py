"""Gives :class:`xarray.Dataset` its ``atlas`` accessor without importing xarray.

Importing xarray takes most of a second, and many users of this package never do. So the accessor
is registered when xarray is imported, before or after this package.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType


class _Loader(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _register()


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "xarray":
            return None
        # Only the first import is watched; the finder takes itself out before it asks the others.
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


def _register() -> None:
    from atlas.accessor import register

    register()


def install() -> None:
    """Register the accessor now if xarray is there, else once it is imported."""
    if "xarray" in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _Finder())
