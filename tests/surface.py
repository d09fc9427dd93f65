"""Every name that users may use: the package's own, and those of what its calls return."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from importlib import import_module

import atlas

# Classes that users hold and did not have to import.
OTHERS = [
    "accessor.AtlasAccessor",
    "config.Settings",
    "damage.RepairReport",
    "drift.Drift",
    "drift.DriftReport",
    "exporting.ExportReport",
    "garbage.GarbageReport",
    "ingest.IngestReport",
    "storage.IOStats",
    "verify.Problem",
    "verify.VerifyReport",
    "xarray.engine.AtlasBackendEntrypoint",
]

# What conditions are made of; the rest of their methods answers them.
PARTS = [
    *(f"Cells.{name}" for name in ("attr", "between", "exists", "isin", "max", "min", "null_count", "row_count")),
    *(f"Value.{name}" for name in ("between", "exists", "isin")),
    *("Attribute", "Statistic"),
]


def public_names() -> Iterator[str]:
    for name in atlas.__all__:
        if name != "__version__":
            yield from with_members(f"atlas.{name}", getattr(atlas, name))
    for path in OTHERS:
        module, name = path.rsplit(".", 1)
        yield from with_members(f"atlas.{path}", getattr(import_module(f"atlas.{module}"), name))
    yield "atlas.conditions.Condition"
    yield from (f"atlas.query.{name}" for name in PARTS)


def with_members(path: str, thing: object) -> Iterator[str]:
    """Yield a name, and those of what a class defines itself and does not only have because others do."""
    yield path
    if inspect.isclass(thing) and not issubclass(thing, Exception):
        fields = {field.name for field in dataclasses.fields(thing)} if dataclasses.is_dataclass(thing) else set()
        own = {name: m for cls in thing.__mro__ if cls.__module__.startswith("atlas") for name, m in vars(cls).items()}
        # Fields are in the text of their class, and so are constants.
        hidden = fields | {name for name, member in own.items() if isinstance(member, str | bool | tuple)}
        yield from (f"{path}.{name}" for name in sorted(own.keys() - hidden) if not name.startswith("_"))
