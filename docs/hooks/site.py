"""mkdocs: the pages that live outside docs/, so that nothing is said twice.

README.md becomes the front page. Links between it and docs/ are turned round on the way: what works
on a code host works on the site.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
"""A file beside docs/ → its place in the site."""
_LINK = re.compile(r"(?<=\]\()([^)\s#]*)(#[^)\s]*)?(?=\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside."""
    root = Path(config.docs_dir).parent
    for source, place in OUTSIDE.items():
        text = moved_in((root / source).read_text(encoding="utf-8"))
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Point links that leave docs/ at the pages that were taken in. Commands without a prompt are
    `bash` to the highlighter, which would print a `console` of theirs in grey."""
    return _LINK.sub(_pointed_in, markdown).replace("```console\n", "```bash\n")


def moved_in(markdown: str) -> str:
    """A page of the root's, as if it lay in docs/."""
    return _LINK.sub(_without_docs, markdown)


def _without_docs(found: re.Match[str]) -> str:
    place = OUTSIDE.get(found[1], found[1].removeprefix("docs/"))
    return place + (found[2] or "")


def _pointed_in(found: re.Match[str]) -> str:
    outside = found[1].removeprefix("../")
    place = OUTSIDE[outside] if found[1].startswith("../") and outside in OUTSIDE else found[1]
    return place + (found[2] or "")
