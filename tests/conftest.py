from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from objectstore import Place, places

import atlas
from atlas import config
from atlas.cli import main

# A machine may stop for as long as it likes: what takes long has not failed.
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What forks hundreds of children comes first: each is a copy of this process, which grows from test to test."""
    items.sort(key=lambda item: "torture" not in item.path.parts)


@pytest.fixture(autouse=True)
def settings_are_read_anew() -> Iterator[None]:
    """What a test sets in the environment ends with it."""
    yield
    config.settings.cache_clear()


@pytest.fixture
def setting(monkeypatch) -> Callable[[str, object], None]:
    """Makes a setting, such as ``part_bytes``, what a test wants it to be."""

    def make(name: str, value: object) -> None:
        monkeypatch.setenv(f"ATLAS_{name.upper()}", str(value))
        config.settings.cache_clear()

    return make


@pytest.fixture
def parts_of_5_mib(setting) -> None:
    """Has objects of twice that put in parts."""
    setting("part_bytes", 5 << 20)


@contextmanager
def deadline(seconds: int) -> Iterator[None]:
    """Give requests up after so long: those that are broken, and no others, which may take their time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATLAS_REQUEST_SECONDS", str(seconds))
        config.settings.cache_clear()
        yield
    config.settings.cache_clear()


@pytest.fixture
def shared_data() -> Path:
    """The real data that is handed out beside the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"the real data is not at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def s3_places(tmp_path_factory) -> Iterator[dict[str, Place]]:
    """Two S3 servers behind proxies: moto, which honours conditional puts, and rclone, which does not."""
    with places(tmp_path_factory.mktemp("rclone")) as found:
        yield found


@pytest.fixture(params=["moto", "rclone"])
def s3(request, s3_places) -> Iterator[Place]:
    """An empty prefix on each of the servers."""
    with s3_places[request.param].anew() as place:
        yield place


@pytest.fixture
def moto(s3_places) -> Iterator[Place]:
    """An empty prefix on the server that honours conditions."""
    with s3_places["moto"].anew() as place:
        yield place


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def fleet(place: Path) -> Path:
    """Twenty datasets with a chunked float array, a text array and attributes."""
    with atlas.Atlas.create(place) as store:
        for i in range(20):
            view = add_fields(store, f"d{i:02d}", i)
            view.define_array("label", "string", ["y"], [3])
            view.write_array("label", [0], np.array(["a", "ü" * i, "c"], dtype=object))
            view.set_attribute("number", i)
            view.set_array_attribute("t", "units", "K")
    return place


class Terminal:
    """The command in this process: what it prints, and its exit status."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
        self._patch, self._capsys = monkeypatch, capsys
        monkeypatch.setenv("COLUMNS", "80")

    def __call__(self, *arguments: object, status: int = 0) -> str:
        self._patch.setattr(sys, "argv", ["atlas", *map(str, arguments)])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, self.errors = self._capsys.readouterr()
        assert ended.value.code == status, self.errors
        return out


@pytest.fixture
def terminal(monkeypatch, capsys) -> Terminal:
    return Terminal(monkeypatch, capsys)


def field(i: int) -> np.ndarray:
    return (np.arange(120, dtype=np.float32).reshape(10, 12) * 0.5) + i


def add_fields(store: atlas.Atlas, name: str, number: int, *arrays: str) -> atlas.DatasetView:
    """Add a dataset with arrays that are the field of a number."""
    view = store.create_dataset(name)
    for array in arrays or ("t",):
        view.define_array(array, "float32", ["y", "x"], [10, 12], [4, 5], float("nan"))
        view.write_array(array, [0, 0], field(number))
    return view
