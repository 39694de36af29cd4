"""docs/troubleshooting.md quotes the program: every message in it is one that the code can say."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from goldfold.exporter import errors

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
QUOTED = [found[1] for found in re.findall(r"^- (`+)(.+)\1 *$", PAGE, re.MULTILINE)]


@cache
def said() -> frozenset[str]:
    """Every string of the packages, what is filled in written as …"""
    found = set()
    for package in ("exporter", "targets", "golden"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = [v.value if isinstance(v, ast.Constant) else "…" for v in node.values]
                    found.add("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.add(node.value)
    return frozenset(found)


def test_the_page_quotes_messages() -> None:
    assert len(QUOTED) > 60 and len(set(QUOTED)) == len(QUOTED)


@pytest.mark.parametrize("message", QUOTED)
def test_the_code_says_so(message: str) -> None:
    assert message in said(), f"no message of the code reads {message!r}"


def test_every_exit_code_has_its_section() -> None:
    kinds = [getattr(errors, name) for name in dir(errors)]
    codes = {kind.code for kind in kinds if isinstance(kind, type) and hasattr(kind, "code")}
    assert {int(code) for code in re.findall(r"^## (\d+):", PAGE, re.MULTILINE)} == codes
