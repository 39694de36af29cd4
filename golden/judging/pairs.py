"""Code retrieval uses installed packages: the first paragraph of a docstring → its function.

The function's source loses its docstring and its own name, so that no model finds it by copying
words. The standard library and a few packages of pure Python are read as text; no code is imported
or run. The same installation gives the same set, and the set's digest shows that.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
import sysconfig
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from goldfold.golden.errors import GoldenError

LEAST = 3000
PACKAGES = (
    "click",
    "fsspec",
    "huggingface_hub",
    "joblib",
    "networkx",
    "numpy",
    "pydantic",
    "rich",
    "scipy",
    "sklearn",
)
"""Read beside the standard library, where installed. All come with goldfold."""

LETTERS = 400
"""A text is cut after this many characters: about 128 tokens of prose or code."""

NAME = "function"
"""The name of every function in its source."""

_SKIPPED = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "testing",
    "idlelib",
    "lib2to3",
    "turtledemo",
    "_vendor",
    "externals",
    "__pycache__",
}
_WORDS = 4
_BODY = 60
"""The least characters of a body: a shorter one is a stub that any docstring could describe."""

_LARGEST = 1 << 20
"""The most bytes of a file that is read; larger files are tables."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A question (a docstring's first paragraph) and its answer (a function)."""

    query: str
    document: str

    @property
    def key(self) -> str:
        return hashlib.sha256(f"{self.query}\0{self.document}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Pairs:
    """The set, in the order of its digests; `digest` is the sha256 of them all."""

    pairs: tuple[Pair, ...]
    digest: str

    @property
    def queries(self) -> list[str]:
        return [pair.query for pair in self.pairs]

    @property
    def documents(self) -> list[str]:
        return [pair.document for pair in self.pairs]


def collect(count: int = LEAST, roots: tuple[Path, ...] | None = None) -> Pairs:
    """`count` pairs from `roots` (the standard library and PACKAGES): those of the least digests,
    a sample that depends neither on folders nor on the order of files.

    No query and no document occurs twice. Raises GoldenError if there are fewer than `count`.
    """
    every = (pair for root in roots or _roots() for pair in _of_folder(root))
    kept: list[Pair] = []
    seen: set[str] = set()
    for pair in sorted(set(every), key=lambda pair: pair.key):
        sides = {f"query {_plain(pair.query)}", f"document {_plain(pair.document)}"}
        if sides & seen:
            continue
        seen |= sides
        kept.append(pair)
        if len(kept) == count:
            digest = hashlib.sha256("\n".join(pair.key for pair in kept).encode())
            return Pairs(tuple(kept), digest.hexdigest())
    raise GoldenError(f"only {len(kept)} functions with docstrings are installed, not {count}")


def _roots() -> tuple[Path, ...]:
    found = [Path(sysconfig.get_path("stdlib"))]
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        found += [Path(place) for place in (spec and spec.submodule_search_locations) or ()]
    return tuple(found)


def _of_folder(root: Path) -> Iterator[Pair]:
    for file in sorted(root.rglob("*.py")):
        if _SKIPPED & set(file.relative_to(root).parts) or file.stat().st_size > _LARGEST:
            continue
        try:
            source = file.read_text("utf-8")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about other people's backslashes
                tree = ast.parse(source)
        except (OSError, ValueError, SyntaxError, RecursionError):
            continue  # a broken or non-UTF-8 file is no part of the set
        lines = source.splitlines()
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                pair = _pair(node, lines)
                if pair is not None:
                    yield pair


def _pair(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> Pair | None:
    """None where the function is too short, or its docstring shares a line with code."""
    doc = ast.get_docstring(node)
    if doc is None or len(node.body) < 2:
        return None
    query = " ".join(doc.split("\n\n")[0].split())
    first, last = node.body[0].lineno, node.body[0].end_lineno or 0
    if len(query.split()) < _WORDS or first <= node.lineno or node.body[1].lineno <= last:
        return None
    head, body = lines[node.lineno - 1 : first - 1], lines[last : node.end_lineno]
    if len("".join("".join(body).split())) < _BODY:
        return None
    text = textwrap.dedent("\n".join([*head, *body]))
    text = re.sub(rf"\b{re.escape(node.name)}\b", NAME, text)
    return Pair(query[:LETTERS].strip(), text[:LETTERS].strip())


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
