"""Names, attributes and statistics of all datasets as a pandas DataFrame or an Arrow table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas.attributes import element_type
from atlas.catalog import Catalog
from atlas.columns import Column, Integers, cell_type
from atlas.dtypes import objects, parse_dtype
from atlas.errors import CorruptIndex, MissingDependency
from atlas.pruning import Bounds, array_bounds, attribute_values
from atlas.reader import Snapshot


@dataclass(frozen=True)
class Series:
    """One column of a table.

    Attributes
    ----------
    values : (n,) ndarray
        Of the column's own type; object for text, lists, and types without a common one.
    present : (n,) bool
        Where there is a value.
    """

    values: NDArray[Any]
    present: NDArray[np.bool_]


def columns_of(
    snapshot: Snapshot, arrays: Sequence[str], global_attrs: Sequence[str], array_attrs: Sequence[tuple[str, str]]
) -> dict[str, Series]:
    """Return the columns of the table, a row for each dataset in order of insertion."""
    catalog = snapshot.root.catalog
    every = np.ones(catalog.count, bool)
    columns = {"dataset": Series(objects(catalog.names()), every)}
    for key in global_attrs:
        columns[key] = _attribute(catalog, None, key)
    for array, key in array_attrs:
        columns[f"{array}:{key}"] = _attribute(catalog, array, key)
    snapshot.fetch(arrays)
    for array in arrays:
        columns |= _statistics(snapshot, array)
    return columns


def _attribute(catalog: Catalog, array: str | None, key: str) -> Series:
    present = np.zeros(catalog.columns_length, bool)
    parts: list[tuple[Integers, NDArray[Any]]] = []
    for tag, ordinals, column in catalog.attribute(array, key):
        present[ordinals] = True
        parts.append((ordinals, attribute_cells(tag, column)))
    types = {cells.dtype for _, cells in parts}
    alike = len({dtype.kind for dtype in types}) == 1
    values = np.zeros(catalog.slots, np.result_type(*types) if alike else object)
    for ordinals, cells in parts:
        values[ordinals] = cells
    return Series(values[catalog.ordinals], present[catalog.ordinals])


def attribute_cells(tag: str, column: Column) -> NDArray[Any]:
    """Return attribute values as the type that they were set with."""
    if cell_type(tag) in ("packed", "text"):
        return objects([v.tolist() if isinstance(v, np.ndarray) else v for v in attribute_values(tag, column)])
    return _as_type(np.asarray(column.spread()), element_type(tag))


def _as_type(cells: NDArray[Any], name: str) -> NDArray[Any]:
    dtype = parse_dtype(name)
    return cells.astype(dtype.storage).view(dtype.numpy) if dtype.kind in "Mm" else cells.astype(dtype.numpy)


def _statistics(snapshot: Snapshot, array: str) -> dict[str, Series]:
    bounds, catalog = array_bounds(snapshot, array), snapshot.root.catalog
    templates = [template for template in catalog.live_templates() if array in template.positions]
    types = {template.arrays[template.positions[array]].dtype.name for template in templates}
    name = types.pop() if len(types) == 1 else None
    rows = catalog.ordinals
    columns = {
        f"{array}.row_count": Series(bounds.rows[rows], bounds.present[rows]),
        f"{array}.null_count": Series(bounds.nulls[rows], bounds.present[rows]),
        f"{array}.min": Series(_bound(bounds.minimum, bounds, name)[rows], bounds.valid[rows]),
        f"{array}.max": Series(_bound(bounds.maximum, bounds, name)[rows], bounds.valid[rows]),
    }
    return columns


def _bound(cells: NDArray[Any], bounds: Bounds, name: str | None) -> NDArray[Any]:
    """Return smallest or largest cells as the type of the array."""
    if name is None or not bounds.valid.any():
        return cells
    try:
        if name == "string":
            pairs = zip(cells, bounds.valid, strict=True)
            return objects([cell.decode("utf-8") if there else None for cell, there in pairs])
        return cells.astype(object) if name == "binary" else _as_type(cells, name)
    except (ValueError, TypeError, AttributeError) as error:
        raise CorruptIndex(f"stored statistics do not fit the type {name} of their array: {error}") from None


# ── as what users want ───────────────────────────────────────────────────────────────────────────


def to_pandas(columns: dict[str, Series]) -> Any:
    """Return the columns as a :class:`pandas.DataFrame`."""
    try:
        import pandas as pd
    except ImportError as error:
        raise MissingDependency(f"this needs pandas ({error}): pip install 'atlas-fleet[table]'") from None
    return pd.DataFrame({name: _pandas_column(pd, series) for name, series in columns.items()}, copy=False)


def _pandas_column(pd: Any, series: Series) -> Any:
    values, absent = series.values, ~series.present
    if not absent.any():
        return values
    kind = values.dtype.kind
    # What has no missing value of its own gets pandas' masked arrays: integers stay integers.
    if kind in "iu":
        return pd.arrays.IntegerArray(values, absent)
    if kind == "b":
        return pd.arrays.BooleanArray(values, absent)
    values = values.astype(object) if kind == "S" else values.copy()
    values[absent] = np.array("NaT", values.dtype) if kind in "Mm" else np.nan if kind == "f" else None
    return values


def to_arrow(columns: dict[str, Series]) -> Any:
    """Return the columns as a :class:`pyarrow.Table`."""
    try:
        import pyarrow as pa
    except ImportError as error:
        raise MissingDependency(f"this needs pyarrow ({error}): pip install 'atlas-fleet[table]'") from None
    return pa.table({name: _arrow_column(pa, series) for name, series in columns.items()})


def _arrow_column(pa: Any, series: Series) -> Any:
    if series.values.dtype.kind in "OS":
        return pa.array(list(_shown(series)))
    return pa.array(series.values, mask=~series.present)


def _shown(series: Series) -> Iterator[Any]:
    for value, there in zip(series.values.tolist(), series.present.tolist(), strict=True):
        yield value if there else None
