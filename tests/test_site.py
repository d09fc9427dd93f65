"""The site: it is built without a warning, leaves nothing public out, and leads nowhere that is not there."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from documents import ROOT, pages

import atlas

# Classes that users hold and did not have to import.
OTHERS = [
    "accessor.AtlasAccessor",
    "config.Settings",
    "damage.RepairReport",
    "drift.Drift",
    "drift.DriftReport",
    "exporting.ExportReport",
    "garbage.GarbageReport",
    "ingest.IngestReport",
    "storage.IOStats",
    "verify.Problem",
    "verify.VerifyReport",
    "xarray.engine.AtlasBackendEntrypoint",
]

# What conditions are made of; the rest of their methods answers them.
PARTS = [
    *(f"Cells.{name}" for name in ("attr", "between", "exists", "isin", "max", "min", "null_count", "row_count")),
    *(f"Value.{name}" for name in ("between", "exists", "isin")),
    *("Attribute", "Condition", "Statistic"),
]


class Page(HTMLParser):
    """What a page can be led to, and where it leads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        own = dict(attrs)
        self.ids.add(own.get("id") or "")
        self.links += [own[key] or "" for key in ("href", "src") if key in own]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> dict[Path, Page]:
    """Every page of the site, built as ``make docs`` builds it."""
    recipe = (ROOT / "Makefile").read_text()
    (options,) = re.findall(r"-m sphinx (.*) docs build/site\n", recipe)
    place = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", *options.split(), "-d", place / "trees", ROOT / "docs", place / "site"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=place)
    assert (done.returncode, done.stderr) == (0, "")
    return {path: Page(path) for path in (place / "site").rglob("*.html")}


def public_names() -> Iterator[str]:
    for name in atlas.__all__:
        if name != "__version__":
            yield from with_members(f"atlas.{name}", getattr(atlas, name))
    for path in OTHERS:
        module, name = path.rsplit(".", 1)
        yield from with_members(f"atlas.{path}", getattr(import_module(f"atlas.{module}"), name))
    yield from (f"atlas.query.{name}" for name in PARTS)


def with_members(path: str, thing: object) -> Iterator[str]:
    """Yield a name, and those of what a class defines itself and does not only have because others do."""
    yield path
    if inspect.isclass(thing) and not issubclass(thing, Exception):
        fields = {field.name for field in dataclasses.fields(thing)} if dataclasses.is_dataclass(thing) else set()
        own = {name: m for cls in thing.__mro__ if cls.__module__.startswith("atlas") for name, m in vars(cls).items()}
        # Fields are in the text of their class, and so are constants.
        hidden = fields | {name for name, member in own.items() if isinstance(member, str | bool | tuple)}
        yield from (f"{path}.{name}" for name in sorted(own.keys() - hidden) if not name.startswith("_"))


def test_every_public_name_is_in_the_reference(site):
    there = {name for path, page in site.items() if path.parent.name == "reference" for name in page.ids}
    assert [name for name in public_names() if name not in there] == []


def test_every_link_leads_somewhere(site):
    root = next(path for path in site if path.name == "index.html" and path.parent.name == "site").parent
    for path, page in site.items():
        for link in page.links:
            target = urlsplit(link)
            if target.scheme or target.netloc:
                continue
            found = (path.parent / unquote(target.path)).resolve() if target.path else path
            assert found.is_relative_to(root), f"{path.name}: {link}"
            assert found.exists(), f"{path.name}: {link}"
            if target.fragment and found in site:
                assert unquote(target.fragment) in site[found].ids, f"{path.name}: {link}"


@pytest.mark.parametrize("name", pages())
def test_pages_lead_somewhere_as_plain_text_too(name):
    path = ROOT / name
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        target = urlsplit(link)
        if not target.scheme and target.path:
            assert (path.parent / target.path).exists(), link
