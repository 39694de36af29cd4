"""Links of README and docs lead somewhere, on a code host; the built site is whole and offline."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


@cache
def anchors(page: Path) -> frozenset[str]:
    """What a code host calls the page's headings."""
    text = _FENCED.sub("", page.read_text("utf-8"))
    found = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-"))
    return frozenset(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = _FENCED.sub("", page.read_text("utf-8"))
    for link in _LINK.findall(text):
        place, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", place):
            assert place.startswith("https://"), f"{page.name}: {link}"
            continue
        file = (page.parent / place).resolve() if place else page
        assert file.is_relative_to(ROOT) and file.is_file(), f"{page.name}: {link} leads nowhere"
        if anchor:
            assert anchor in anchors(file), f"{page.name}: {link}: no such heading"


def test_every_picture_is_shown() -> None:
    said = "\n".join(page.read_text("utf-8") for page in PAGES)
    for picture in (ROOT / "docs" / "pictures").iterdir():
        assert f"pictures/{picture.name})" in said, picture


# The site -----------------------------------------------------------------------------------------


class Fetched(HTMLParser):
    """What a page makes a browser fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "link" and given.get("rel") in ("canonical", "prev", "next"):
            return
        place = given.get("src") or (given.get("href") if tag == "link" else None)
        if place:
            self.places.append(place)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    out = tmp_path_factory.mktemp("site")
    subprocess.run([ROOT / ".ci" / "house"], check=True)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", out]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr.strip(), done.stderr
    return out


def test_the_site_has_every_page(site: Path) -> None:
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")}
    built = {page.stem for page in site.glob("*.html")}
    assert pages | {"index", "changelog", "contributing"} <= built
    front = (site / "index.html").read_text("utf-8")
    assert "What it guarantees" in front and 'src="pictures/report.png"' in front
    assert (site / "schema" / "manifest.schema.json").is_file()
    assert not (site / "hooks").exists()


def test_the_site_fetches_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        reader = Fetched()
        reader.feed(page.read_text("utf-8"))
        assert reader.places, page
        for place in reader.places:
            assert not re.match(r"(https?:)?//", place), f"{page.name} fetches {place}"


def test_the_api_page_holds_what_is_public(site: Path) -> None:
    page = (site / "api.html").read_text("utf-8")
    for name in (
        "exporter.artifact.encoder.load",
        "exporter.artifact.encoder.Encoder.embed",
        "exporter.driver.exporting.export",
        "exporter.verification.verifying.verify",
        "targets.coreml.options.CoreMlOptions",
    ):
        assert f'id="goldfold.{name}"' in page, name
    for words in ("keep so many leading dimensions", "Raises:", "a SentenceTransformer folder"):
        assert words in page, words
