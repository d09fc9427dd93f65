"""How each system writes and reads; one module a system, run by `worker.py` in that system's environment.

An adapter has

- ``write(place, arrays, layout, codec)``: store `arrays`, a dict of name to (datasets, *shape) array, at `place`;
- ``open_store(place, workers)``: return a handle; `workers` is a number, or ``None`` for the system's own choice;
- ``read(handle, array, shape)``: return a (datasets, *shape) array, the first `shape` cells of every dataset, or all
  cells when `shape` is ``None``;

where it can do so,

- ``read_into(handle, array, out)``: read all cells into a (datasets, *shape) array that the caller keeps;

and, for files of unequal datasets,

- ``ingest(place, files, codec)``: store NetCDF `files`;
- ``read_each(handle, array)``: return the whole of one array from every dataset, as a list in the order of the files.

`layout` has ``"chunks"``, the workload's chunk of one dataset, ``"stacked"``, by array the chunk of a stacked array,
and ``"names"``, of the datasets.
"""
