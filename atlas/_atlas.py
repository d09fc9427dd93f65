"""The older package's extension module, for scripts that import from it by name."""

from atlas import __version__, init_tracing
from atlas.store import Atlas
from atlas.view import DatasetView

__all__ = ["Atlas", "DatasetView", "__version__", "init_tracing"]
