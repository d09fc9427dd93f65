"""What an installation brings: kernels for the machine that it was made on, left alone where they are of no use."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import xxhash

from atlas import kernels

ROOT = Path(__file__).resolve().parents[1]

# What the first large read of a process does, with nothing in the user's cache.
LOAD = """
import sys
import numpy as np
from atlas import kernels
from atlas.kernels import compile, native
assert compile.__file__.startswith(sys.argv[1])
assert compile.may_be_compiled()
code = compile._installed()
if code:
    kernels.load()
    assert native.digest(np.arange(99, dtype=np.uint8), np.zeros(1, np.int64), np.full(1, 99)).shape == (1,)
    assert "numba" not in sys.modules
print(code is not None)
"""


def wheel(folder: Path, **environment: str) -> tuple[Path, str]:
    """Build a wheel as pip does; return it, and what was said meanwhile."""
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    (path,) = folder.glob("*.whl")
    return path, done.stdout + done.stderr


def brings_kernels(installed: Path, cache: Path) -> bool:
    environment = {**os.environ, "PYTHONPATH": str(installed), "ATLAS_CACHE_DIR": str(cache)}
    command = [sys.executable, "-c", LOAD, installed]
    done = subprocess.run(command, cwd=cache, env=environment, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    assert not list(cache.iterdir())
    return done.stdout == "True\n"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    kernels.load()  # what is cached is not compiled again
    folder = tmp_path_factory.mktemp("wheel")
    path, _ = wheel(folder)
    assert path.stem.split("-")[2:4] == ["py3", "none"]
    assert not path.stem.endswith("-any")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def test_an_installation_brings_its_kernels(installed, tmp_path):
    assert brings_kernels(installed, tmp_path)


@pytest.mark.parametrize("what", ["another processor", "damage"])
def test_kernels_that_are_of_no_use_here_are_left_alone(installed, tmp_path, what):
    (place,) = (installed / "atlas" / "kernels").glob("*.o")
    before = place.read_bytes()
    content = b"an-instruction-that-nobody-has " + before[8:] if what == "another processor" else before[8:-1]
    digest = xxhash.xxh3_64_digest(content) if what == "another processor" else before[:8]
    place.write_bytes(digest + content)
    try:
        assert not brings_kernels(installed, tmp_path)
    finally:
        place.write_bytes(before)


def test_without_a_compiler_the_wheel_is_for_any_machine_and_says_why(tmp_path):
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba" / "__init__.py").write_text("raise ImportError('no compiler today')")
    path, said = wheel(tmp_path, PYTHONPATH=str(tmp_path))
    assert path.stem.endswith("py3-none-any")
    assert "the kernels were not compiled" in said
    assert "no compiler today" in said
    with zipfile.ZipFile(path) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".o")]
