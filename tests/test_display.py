"""What notebooks show of stores and datasets: short, escaped, and nothing is read for it."""

from __future__ import annotations

import awkward as ak
import numpy as np
import pytest
import xarray as xr

import atlas
from atlas import Atlas


def test_a_store_shows_itself(fleet):
    html = Atlas.open(fleet)._repr_html_()
    assert "20 datasets, 2 arrays" in html
    assert ">t<" in html
    assert "pending" not in html


def test_it_is_short_whatever_is_stored(place):
    with Atlas.create(place) as store:
        view = store.create_dataset("<b>" + "long" * 50)
        for i in range(200):
            view.define_array(f"array{i:03d}", "float32", ["x" * 100], [3])
            view.write_array(f"array{i:03d}", [0], np.zeros(3, "f4"))
            view.set_attribute(f"key{i}", "<script>" + "text " * 1000)
        for i in range(2000):
            store.create_dataset(f"d{i}")
        assert "changes are pending" in store._repr_html_()
    for html in (store._repr_html_(), view._repr_html_()):
        assert len(html) < 8000
        assert "180 more" in html
        assert "<script>" not in html
        assert "<b>" not in html
    assert "2,001 datasets" in store._repr_html_()


def test_nothing_is_read_for_it(fleet, monkeypatch):
    from atlas.storage.local import LocalStorage

    store = Atlas.open(fleet)
    view = store.open_dataset("d03")

    def refuse(*args):
        raise AssertionError("a file was read")

    for name in ("read", "read_range", "list_dir"):
        monkeypatch.setattr(LocalStorage, name, refuse)
    assert "20 datasets" in store._repr_html_()
    assert "y: 10, x: 12" in view._repr_html_()
    assert "4 × 5" in view._repr_html_()


def test_lazy_variables_are_ready_to_plot(place):
    ds = xr.Dataset({"t": ("x", np.arange(4.0), {"units": "K", "long_name": "temperature"})}, {"x": np.arange(4)})
    with Atlas.create(place) as store:
        ds.atlas.write(store, "d")
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    (line,) = xr.open_dataset(place, engine="atlas")["t"].plot()
    assert line.axes.get_ylabel() == "temperature [K]"
    assert line.get_ydata().tolist() == [0, 1, 2, 3]


def test_unequal_arrays_are_one_awkward_array(place):
    sizes = [(2, 3), (0, 5), (4, 1)]
    with Atlas.create(place) as store:
        for i, size in enumerate(sizes):
            cells = np.arange(size[0] * size[1], dtype="f4").reshape(size)
            xr.Dataset({"t": (("y", "x"), cells), "s": ((), f"ü{i}")}).atlas.write(store, f"d{i}")
        store.create_dataset("none")
    names = store.list_datasets()
    found = store.read_array_across_awkward("t", names[:3])
    assert str(found.type) == "3 * var * var * float32"
    parts = store.read_array_across("t", names[:3])
    assert found.tolist() == [part.tolist() for part in parts]
    assert ak.num(found).tolist() == [2, 0, 4]
    assert store.read_array_across_awkward("t", ["d0", "none", "d2"])[1] is None
    assert store.read_array_across_awkward("s", names[:2]).tolist() == ["ü0", "ü1"]
    with pytest.raises(atlas.InvalidArgument, match="not the same kind"):
        store.read_array_across_awkward("t", ["none"])
