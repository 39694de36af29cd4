"""The fenced blocks of a page of Markdown, and what a comment before one says of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^```(\w*)\s*$")
_MARK = re.compile(r"^<!-- test: (.+?) -->$")


@dataclass(frozen=True)
class Block:
    """One block: `mark` is what `<!-- test: … -->` in the line above says, "" without one."""

    page: str
    line: int
    language: str
    text: str
    mark: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """Every fenced block of a page, in order."""
    return list(_blocks(page))


def _blocks(page: Path) -> Iterator[Block]:
    name = page.relative_to(ROOT).as_posix()
    language, start, held, mark, last = "", 0, [], "", ""
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if not start and fence:
            found = _MARK.match(last)
            language, start, held, mark = fence[1], number, [], found[1] if found else ""
        elif start and line.rstrip() == "```":
            yield Block(name, start, language, "\n".join(held) + "\n", mark)
            start = 0
        elif start:
            held.append(line)
        if line.strip():
            last = line.strip()
    assert not start, f"{name}:{start}: the block has no end"
