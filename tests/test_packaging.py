"""The project itself: what imports cost, which way they run, and that its files agree."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement

import atlas

ROOT = Path(__file__).parents[1]
CONDA_NAMES = {"msgpack": "msgpack-python", "xxhash": "python-xxhash"}
HEAVY = ("numba", "xarray", "dask", "s3fs", "loky", "fsspec", "typer", "rich")

# Bottom up: a file imports only from files above it in this list, lazy imports included.
ORDER = [
    "errors",
    "checks",
    "forks",
    "threads",
    "config",
    "kernels",
    "dtypes",
    "attributes",
    "chunks",
    "schema",
    "codecs",
    "decoded",
    "text",
    "storage",
    "columns",
    "columnfile",
    "groups",
    "names",
    "layer",
    "table",
    "catalog",
    "root",
    "record",
    "conflicts",
    "segment",
    "residency",
    "arena",
    "executor",
    "plan",
    "worker",
    "statistics",
    "indexes",
    "fetching",
    "reader",
    "roots",
    "pruning",
    "frames",
    "literals",
    "facts",
    "conditions",
    "query",
    "where",
    "selection",
    "encoding",
    "spill",
    "heap",
    "payloads",
    "ahead",
    "writer",
    "nametable",
    "pending",
    "assembly",
    "commitfiles",
    "datafiles",
    "leftovers",
    "commit",
    "garbage",
    "compaction",
    "examine",
    "verify",
    "damage",
    "repair",
    "session",
    "lookup",
    "display",
    "across",
    "members",
    "drift",
    "ragged",
    "copying",
    "resizing",
    "described",
    "view",
    "bulk",
    "prepared",
    "datasets",
    "many",
    "searchable",
    "maintained",
    "exchange",
    "store",
    "accessor",
    "_hooks",
    "xarray",
    "ingest",
    "exporting",
    "cli",
]


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_environment_yml_is_in_step_with_pyproject():
    wanted = {}
    for line in project()["dependencies"]:
        requirement = Requirement(line)
        wanted[CONDA_NAMES.get(requirement.name, requirement.name)] = str(requirement.specifier)
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    found = dict(re.match(r"([A-Za-z0-9-]+)(.*)", item).groups() for item in listed if isinstance(item, str))
    assert {name: found.get(name) for name in wanted} == wanted
    assert found["python"] == project()["requires-python"]


def test_the_package_is_not_named_like_the_older_one():
    assert project()["name"] != "atlas-python"
    assert project()["license"] == "BSD-3-Clause"
    assert {"numba", "numpy", "s3fs", "zstandard", "msgpack", "loky"} <= {
        Requirement(line).name for line in project()["dependencies"]
    }


def test_importing_is_quick_and_loads_nothing_heavy():
    code = f"""
import sys, time
began = time.perf_counter()
import atlas
print(time.perf_counter() - began, *(name for name in {HEAVY!r} if name in sys.modules))
"""
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(7)
    ]
    assert runs[0][1:] == []
    assert min(float(run[0]) for run in runs) < 0.15


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    tree = ast.parse(path.read_text())
    tree.body = [n for n in tree.body if not (isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test))]
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"atlas.{alias.name}" for alias in node.names] if node.module == "atlas" else [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("atlas.")}
    return rooms


def test_imports_run_one_way():
    files = {path.relative_to(ROOT / "atlas").parts[0].removesuffix(".py") for path in (ROOT / "atlas").glob("*.py")}
    files |= {path.parent.name for path in (ROOT / "atlas").glob("*/__init__.py")}
    outside = {"__init__", "__main__", "_atlas"}
    assert files - outside == set(ORDER)
    for path in (ROOT / "atlas").rglob("*.py"):
        room = path.relative_to(ROOT / "atlas").parts[0].removesuffix(".py")
        if room not in outside:
            allowed = set(ORDER[: ORDER.index(room) + 1])
            # The store hands on to the xarray door, which only uses the store.
            doors = {"xarray"} if room == "exchange" else set()
            assert imported_rooms(path) - {"__version__"} <= allowed | doors, path


def test_the_readme_says_what_every_room_is_for():
    _, table = (ROOT / "README.md").read_text().split("## The package")
    rooms = re.findall(r"`(\w+)/?`", "".join(re.findall(r"^\|(.*?)\|", table, re.MULTILINE)))
    assert sorted(rooms) == sorted(ORDER)


def test_the_public_surface_is_documented():
    for name in atlas.__all__:
        assert hasattr(atlas, name)
        assert name == "__version__" or getattr(atlas, name).__doc__, name
    for cls in (atlas.Atlas, atlas.DatasetView):
        for name, member in inspect.getmembers(cls):
            assert name.startswith("_") or member.__doc__, f"{cls.__name__}.{name}"


def test_nothing_is_computed_under_a_lock_that_a_child_could_find_taken():
    for path in (ROOT / "atlas").rglob("*.py"):
        if path.name != "forks.py":
            assert "from functools import cached_property" not in path.read_text(), path
