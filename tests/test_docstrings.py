"""The docstrings of what is public: each says what goes in and comes out, and its examples run."""

from __future__ import annotations

import doctest
import inspect
import logging
import pydoc
from importlib import import_module

import pytest
from documents import ROOT
from numpydoc.validate import validate
from surface import public_names

# Nothing is undocumented: no parameter, no type of one, nothing that is returned or yielded.
ASKED = {"GL08", "PR01", "PR02", "PR03", "PR04", "PR06", "RT01", "YD01", "EX01"}

MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "atlas").rglob("*.py")
    if ">>> " in path.read_text()
)


# xarray calls what the engine has, and explains it.
ELSEWHERE = "atlas.xarray.engine.AtlasBackendEntrypoint."


def asked(name: str) -> set[str]:
    """Return what the docstring of a name must have."""
    thing = pydoc.locate(name)
    if inspect.isclass(thing):
        # Calls make these; how is nobody's business.
        return ASKED - {"PR01"} - ({"EX01"} if issubclass(thing, Exception) else set())
    return ASKED


@pytest.mark.parametrize("name", [name for name in public_names() if not name.startswith(ELSEWHERE)])
def test_a_public_name_is_explained(name):
    assert [error for error in validate(name)["errors"] if error[0] in asked(name)] == []


@pytest.mark.parametrize("module", MODULES)
def test_examples_run_and_show_what_they_say(module, tmp_path, monkeypatch):
    examples = [test for test in doctest.DocTestFinder().find(import_module(module)) if test.examples]
    assert examples
    # One of them turns the log on.
    monkeypatch.setattr(logging.getLogger("atlas"), "handlers", [])
    monkeypatch.setattr(logging.getLogger("atlas"), "level", logging.NOTSET)
    for number, example in enumerate(examples):
        place = tmp_path / str(number)
        place.mkdir()
        monkeypatch.chdir(place)
        doctest.DocTestRunner().run(example, out=pytest.fail)
