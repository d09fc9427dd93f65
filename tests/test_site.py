"""The site: it is built without a warning, leaves nothing public out, and leads nowhere that is not there."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from documents import ROOT, pages
from surface import public_names


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
