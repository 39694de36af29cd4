"""Texts of what is installed: docstrings, the metadata of packages, and manual pages.

They are real texts, and other ones on every machine. Docstrings are those of modules and classes:
the judge retrieves functions by theirs (judging/pairs.py). Files are read as text, and no code is
imported or run.
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from itertools import islice
from pathlib import Path

_MANUAL = Path("/usr/share/man")
_SECTIONS = ("man1", "man3", "man5", "man7", "man8")
_LETTERS = 800
"""A text is cut after this many characters: about 250 tokens of prose."""
_WORDS = 4
_LARGEST = 1 << 20
"""The most bytes of a file that is read; larger files are tables."""
_SPARE = 4
"""Texts that are read for each one that is taken."""
_SKIPPED = {"test", "tests", "idlelib", "lib2to3", "turtledemo", "site-packages", "dist-packages"}

_MARKUP = re.compile(r"\\f(?:\[[^]]*\]|\(..|.)|\\s[-+]?\d|\\[&/,|^c]|\\\*(?:\[[^]]*\]|\(..|.)")
_CHARACTERS = {"\\-": "-", "\\e": "\\", "\\ ": " ", "\\(aq": "'", "\\(cq": "'", "\\(bu": "•"}

Place = tuple[str, Callable[[], Iterator[str]]]
"""The name of a file, and the reading of its texts."""


def texts(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Returns at most `count` texts with their kinds, the same ones for the same installation.

    Each kind has a like share, where enough of it is installed. Files are read in an order that
    follows from `seed` and their names, until there are enough texts to choose among.
    """
    kinds = {"docstrings": _modules(), "metadata": _packages(), "manual": _pages()}
    found: list[tuple[str, str]] = []
    for done, (kind, places) in enumerate(kinds.items()):
        share = (count - len(found)) // (len(kinds) - done)
        found += ((kind, text) for text in _some(places, share, seed))
    return found


def _some(places: Iterable[Place], count: int, seed: int) -> list[str]:
    order = sorted(places, key=lambda place: _digest(seed, place[0]))
    every = (text for _, read in order for text in read())
    read = dict.fromkeys(islice(every, _SPARE * count))
    return sorted(read, key=lambda text: _digest(seed, text))[:count]


def _digest(seed: int, text: str) -> str:
    return hashlib.sha256(f"{seed} {text}".encode("utf-8", "replace")).hexdigest()


def _modules() -> Iterator[Place]:
    root = Path(sysconfig.get_path("stdlib"))
    for file in root.rglob("*.py"):
        inside = file.relative_to(root)
        if not _SKIPPED & set(inside.parts):
            yield inside.as_posix(), lambda file=file: _docstrings(file)


def _docstrings(file: Path) -> Iterator[str]:
    text = _text(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about other people's backslashes
            tree = ast.parse(text)
    except (ValueError, SyntaxError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef)):
            yield from _paragraphs(ast.get_docstring(node) or "")


def _packages() -> Iterator[Place]:
    for one in metadata.distributions():
        yield one.metadata["Name"] or "", lambda one=one: _description(one)


def _description(one: metadata.Distribution) -> Iterator[str]:
    whole = one.read_text("METADATA") or one.read_text("PKG-INFO") or ""
    yield from _paragraphs(whole.partition("\n\n")[2])


def _pages() -> Iterator[Place]:
    for section in _SECTIONS:
        for file in (_MANUAL / section).glob("*"):
            yield file.name, lambda file=file: _paragraphs(_plain(_text(file)))


def _plain(page: str) -> str:
    """Returns the prose of a manual page: a line of macros ends a paragraph."""
    lines = ("" if line[:1] in (".", "'") else _MARKUP.sub("", line) for line in page.splitlines())
    text = "\n".join(lines)
    for spelt, character in _CHARACTERS.items():
        text = text.replace(spelt, character)
    return text


def _paragraphs(text: str) -> Iterator[str]:
    for part in re.split(r"\n\s*\n", text):
        part = part.strip()
        if len(part.split()) >= _WORDS:
            yield part[:_LETTERS].strip()


def _text(file: Path) -> str:
    """Returns the text of a file; "" of one that is too large, or no text."""
    try:
        if file.stat().st_size > _LARGEST:
            return ""
        raw = file.read_bytes()
        return (gzip.decompress(raw) if file.suffix == ".gz" else raw).decode()
    except (OSError, EOFError, ValueError):
        return ""
