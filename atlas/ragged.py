"""Arrays of unequal shapes as one awkward array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas.errors import InvalidArgument, MissingDependency


def to_awkward(array: str, parts: Sequence[NDArray[Any] | None]) -> Any:
    """Return arrays of one rank and type as one, with an axis more; ``None`` stays ``None``.

    Raises
    ------
    MissingDependency
        If awkward is not installed.
    InvalidArgument
        If ranks or types differ, or there is no array at all.
    """
    try:
        import awkward as ak
    except ImportError as error:
        raise MissingDependency(f"this needs awkward ({error}): pip install 'atlas-fleet[awkward]'") from None
    there = [part for part in parts if part is not None]
    forms = {(part.ndim, part.dtype) for part in there}
    if len(forms) != 1:
        told = sorted(f"{dtype} of {rank} axes" for rank, dtype in forms) or ["none"]
        raise InvalidArgument(f"array {array!r} is not the same kind of array in all datasets: {', '.join(told)}")
    flat = np.concatenate([part.reshape(-1) for part in there])
    content = ak.to_layout(flat.tolist() if flat.dtype == object else flat)
    shapes = np.array([part.shape for part in there], np.int64)
    for axis in range(shapes.shape[1] - 1, -1, -1):
        lengths = np.repeat(shapes[:, axis], shapes[:, :axis].prod(axis=1))
        content = ak.contents.ListOffsetArray(ak.index.Index64(np.append(0, np.cumsum(lengths))), content)
    if len(there) == len(parts):
        return ak.Array(content)
    places = np.cumsum([part is not None for part in parts]) - 1
    places[[part is None for part in parts]] = -1
    return ak.Array(ak.contents.IndexedOptionArray(ak.index.Index64(places), content))
