"""xarray's own tests of backends, over the engine."""

from __future__ import annotations

import asyncio

import pytest
from xarray.tests.conftest import time_unit, use_dask  # noqa: F401
from xarray.tests.test_backends import CFEncodedBase

from atlas import Atlas

# Text has no null: users are told, and get back what they wrote.
pytestmark = pytest.mark.filterwarnings("ignore:.*missing string cell")

# What xarray asks of files and Atlas does otherwise, and why.
OTHERWISE = {
    "test_write_store": "no AbstractDataStore: a store is written through ds.atlas.write",
    "test_roundtrip_None_variable": "arrays have names",
    "test_invalid_dataarray_names_raise": "they are refused, in words of our own",
    "test_roundtrip_stringdtype_nulls": "nulls come back as None, not as empty text",
    "test_roundtrip_string_with_fill_value_nchar": "files cannot hold it; Atlas can",
    "test_roundtrip_coordinates_with_space": "files lose that it is a coordinate; Atlas does not",
    "test_coordinate_variables_after_dataset_roundtrip": "files lose that bounds are coordinates; Atlas does not",
    "test_string_object_warning": "text of dask arrays is not loaded as a whole, so there is nothing to warn of",
    "test_roundtrip_unsigned[fill_value1-True]": "an encoding that no file can hold comes back as it was given",
    "test_roundtrip_unsigned[255-True]": "the same",
    "test_append_with_invalid_dim_raises": "all along it is replaced with it; the rest is in test_writing_modes.py",
}


@pytest.fixture(autouse=True)
def _what_is_otherwise(request):
    reason = OTHERWISE.get(request.node.name)
    if reason is not None:
        pytest.skip(reason)


class TestAtlasData(CFEncodedBase):
    engine = "atlas"

    def save(self, dataset, path, mode="w", **kwargs):
        with Atlas.open(path) if mode == "a" else Atlas.create(path, overwrite=True) as store:
            dataset.atlas.write(store, "only", mode=mode, **kwargs)

    def test_load_async(self) -> None:
        asyncio.run(super().test_load_async())


def test_what_is_otherwise_is_a_test_of_xarrays():
    assert {name.split("[")[0] for name in OTHERWISE} <= set(dir(CFEncodedBase))
