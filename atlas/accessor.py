"""``Dataset.atlas``: writing from the dataset's side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from atlas.errors import InvalidArgument

if TYPE_CHECKING:
    import xarray as xr

    from atlas.store import Atlas


class AtlasAccessor:
    """What an :class:`xarray.Dataset` can do with a store: ``ds.atlas``.

    Examples
    --------
    >>> import atlas, xarray as xr
    >>> with atlas.Atlas.create("fleet") as store:
    ...     xr.Dataset({"t": ("x", [1.5, 2.5])}).atlas.write(store, "jan")
    >>> store.list_datasets()
    ['jan']
    """

    def __init__(self, ds: xr.Dataset) -> None:
        self._ds = ds

    def write(
        self,
        store: Atlas,
        name: str,
        chunks: Mapping[str, Sequence[int]] | None = None,
        fill_value: Any = None,
        *,
        encoding: Mapping[str, Mapping[str, Any]] | None = None,
        mode: Literal["w-", "w", "a"] | None = None,
        append_dim: str | None = None,
        unlimited_dims: str | Iterable[str] | None = None,
    ) -> None:
        """Add the dataset to `store` as `name`; nothing is on the disk before the store is flushed.

        Parameters
        ----------
        store : Atlas
        name : str
        chunks, fill_value, encoding, mode, append_dim, unlimited_dims : see :meth:`atlas.Atlas.add_xarray_dataset`

        Examples
        --------
        >>> import atlas, xarray as xr
        >>> store = atlas.Atlas.create("fleet")
        >>> packed = {"t": {"dtype": "int16", "scale_factor": 0.01}}
        >>> xr.Dataset({"t": ("x", [1.5, 2.5])}).atlas.write(store, "jan", encoding=packed)
        >>> store.to_xarray("jan")["t"].encoding["dtype"]
        dtype('int16')
        """
        if not hasattr(store, "add_xarray_dataset"):
            raise InvalidArgument(f"store must be an open atlas.Atlas, not {store!r}; atlas.Atlas.open(place) is")
        store.add_xarray_dataset(
            self._ds,
            name,
            chunks,
            fill_value,
            encoding=encoding,
            mode=mode,
            append_dim=append_dim,
            unlimited_dims=unlimited_dims,
        )


def register() -> None:
    """Register the accessor, once."""
    import xarray

    if getattr(xarray.Dataset, "atlas", None) is not AtlasAccessor:
        xarray.register_dataset_accessor("atlas")(AtlasAccessor)
