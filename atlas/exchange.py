"""What a store's handle does with xarray datasets: in, out, and many as one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from atlas.maintained import Maintained

if TYPE_CHECKING:
    import xarray as xr

    from atlas.store import Atlas


class Exchange(Maintained):
    """The part of :class:`atlas.Atlas` that gives datasets to xarray and takes them from it."""

    def add_xarray_dataset(
        self,
        ds: xr.Dataset,
        name: str,
        chunks: Mapping[str, Sequence[int]] | None = None,
        fill_value: Any = None,
        *,
        encoding: Mapping[str, Mapping[str, Any]] | None = None,
        mode: Literal["w-", "w", "a"] | None = None,
        append_dim: str | None = None,
        unlimited_dims: str | Iterable[str] | None = None,
    ) -> None:
        """Add an :class:`xarray.Dataset` as a new dataset; nothing is flushed. When it fails, nothing of it stays.

        Values are stored as they are in memory, with their encoding beside them: packing and units of time do not
        change what is read back, and come back for whoever writes the dataset to a file.

        Parameters
        ----------
        ds : xarray.Dataset
            Dask-backed variables are computed and written a few blocks at a time.
        name : str
        chunks : mapping of str to sequence of int, optional
            Chunk shape by variable; dask chunks, or the whole array, otherwise.
        fill_value : scalar or dict, optional
            Fill value of all numeric arrays, or by variable; ``None`` in the dict means none.
        encoding : mapping of str to mapping, optional
            As :meth:`xarray.Dataset.to_netcdf` takes it, over the variables' own: ``dtype``, ``scale_factor``,
            ``units``, ``chunksizes`` …
        mode : {"w-", "w", "a"}, optional
            As :meth:`xarray.Dataset.to_zarr` has it. ``"w-"``, the default: that the dataset is there is an error.
            ``"w"``: it is replaced. ``"a"``: what is written of variables and attributes takes the place of those that
            it has, others stay. Where there is none, all three create it.
        append_dim : str, optional
            With ``"a"``, which is the default then: variables along this dimension get their cells behind those that
            are there, and keep their attributes, chunks and encoding: others that are given are an error.
        unlimited_dims : str or sequence of str, optional
            As :meth:`xarray.Dataset.to_netcdf` takes it, instead of the encoding's. Every array can grow; they are
            kept for files that are exported.

        Raises
        ------
        UnsupportedDataType
            If a variable has a type that cannot be stored.
        DataTypeError, ShapeMismatch
            If what is appended is of another type, or a dimension would have two sizes.
        DatasetAlreadyExists, InvalidName, InvalidArgument, ArrayNotFound
        MissingDependency
            If xarray is not installed.

        Examples
        --------
        >>> import atlas, xarray as xr
        >>> with atlas.Atlas.create("fleet") as store:
        ...     store.add_xarray_dataset(xr.Dataset({"t": ("x", [1.5, 2.5])}), "jan", chunks={"t": [1]})
        >>> store.open_dataset("jan").array_meta("t")
        {'dtype': 'float64', 'shape': [2], 'chunk_shape': [1], 'dimension_names': ['x']}

        Cells may come bit by bit.

        >>> import numpy as np
        >>> store = atlas.Atlas.open("fleet")
        >>> for day in range(3):
        ...     hours = xr.Dataset({"t": ("time", np.full(24, 15.0 + day))}, {"time": np.arange(24) + 24 * day})
        ...     store.add_xarray_dataset(hours, "buoy", chunks={"t": [240], "time": [240]}, append_dim="time")
        >>> store.open_as_xarray_dataset("buoy")["t"].shape
        (72,)
        """
        from atlas.xarray import add_xarray_dataset

        add_xarray_dataset(
            cast("Atlas", self), ds, name, chunks, fill_value, encoding, mode, append_dim, unlimited_dims
        )

    def open_as_xarray_dataset(self, name: str) -> xr.Dataset:
        """Return a dataset as an :class:`xarray.Dataset`, changes that are not flushed yet included.

        Parameters
        ----------
        name : str

        Returns
        -------
        xarray.Dataset
            What was written, encoding included. Arrays of a single chunk are loaded, others when they are used.

        Raises
        ------
        DatasetNotFound, CorruptStore
        MissingDependency
            If xarray is not installed.

        Examples
        --------
        >>> import atlas, xarray as xr
        >>> store = atlas.Atlas.create("fleet")
        >>> ds = xr.Dataset({"t": ("x", [1.5, 2.5], {"units": "K"})})
        >>> store.add_xarray_dataset(ds, "jan")
        >>> store.open_as_xarray_dataset("jan").identical(ds)
        True
        """
        from atlas.xarray import open_as_xarray_dataset

        return open_as_xarray_dataset(cast("Atlas", self), name)

    def open_as_many_xarray_dataset(
        self,
        names: Iterable[str],
        concat_dim: str = "dataset",
        parallel: bool = True,
        *,
        variables: Iterable[str] | None = None,
        chunks: Any = None,
        on_missing: Literal["raise", "skip", "fill"] = "raise",
        on_shape: Literal["raise", "pad", "ragged"] = "raise",
    ) -> xr.Dataset:
        """Return many datasets as one :class:`xarray.Dataset`, their arrays stacked along a new dimension.

        Parameters
        ----------
        names : iterable of str
            Also a :class:`Selection`.
        concat_dim : str
            The new dimension; its coordinate holds the names.
        parallel : bool
            Kept for scripts of the older package; reads are always parallel.
        variables : iterable of str, optional
            What to read, with the coordinates along its dimensions; everything by default.
        chunks : dict, int or "auto", optional
            Return dask arrays, of which a task reads a block of datasets at once; ``{}`` for blocks of some
            32 MiB. Without it everything is read now.
        on_missing : {"raise", "skip", "fill"}
            Datasets that lack one of the arrays are an error, are left out, or get missing values.
        on_shape : {"raise", "pad", "ragged"}
            Arrays of unequal shapes are an error, are padded with missing values, or are put behind one another
            along a dimension ``obs``, with the number of cells of each dataset in ``rowsize``, as CF's contiguous
            ragged arrays have it.

        Returns
        -------
        xarray.Dataset
            Coordinates that are the same in all datasets stay as they are, others are stacked. Attributes that are the
            same stay attributes; others become coordinates along the new dimension, those of an array under
            ``array:key``. Of encodings, what all have in common is kept.

        Raises
        ------
        DatasetNotFound, ArrayNotFound, ShapeMismatch
        InvalidArgument
            If cells are encoded in ways that cannot be stacked, or `concat_dim` is taken.

        Examples
        --------
        >>> import atlas, numpy as np, xarray as xr
        >>> store = atlas.Atlas.create("fleet")
        >>> for size in (2, 3):
        ...     store.add_xarray_dataset(xr.Dataset({"t": ("z", np.arange(size))}, attrs={"n": size}), f"d{size}")
        >>> many = store.open_as_many_xarray_dataset(["d2", "d3"], on_shape="ragged")
        >>> many["t"].values, many["rowsize"].values, many["n"].values
        (array([0, 1, 0, 1, 2]), array([2, 3]), array([2, 3]))
        """
        from atlas.xarray import open_as_many_xarray_dataset

        return open_as_many_xarray_dataset(
            cast("Atlas", self),
            names,
            concat_dim,
            parallel,
            variables=variables,
            chunks=chunks,
            on_missing=on_missing,
            on_shape=on_shape,
        )

    # Names of the older releases.
    add_xr_dataset = add_xarray_dataset
    to_xarray = open_as_xarray_dataset
    to_xarray_many = open_as_many_xarray_dataset
