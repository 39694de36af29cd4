"""Command lines of the documentation, held against the command's own parser without being run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import typer

from goldfold.exporter.cli.app import app
from tests.docs.blocks import blocks

_INLINE = re.compile(r"(?<!`)`(goldfold [^`]+)`(?!`)")
_FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def lines_of(text: str) -> list[str]:
    """The commands of a block, without comments and continuation marks."""
    joined = text.replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.split("#")[0].strip()]


def commands(page: Path) -> Iterator[tuple[str, str]]:
    """(where, line) of every `goldfold …` in the blocks of a page."""
    for block in blocks(page):
        if block.language in ("console", ""):
            lines = lines_of(block.text)
            yield from ((str(block), line) for line in lines if line.startswith("goldfold "))


def mentions(page: Path) -> list[str]:
    """Every `goldfold …` in running text, often without its arguments."""
    return _INLINE.findall(_FENCED.sub("", page.read_text("utf-8")))


def wrong_with(line: str, whole: bool = True) -> str | None:
    """What the program would say of a `goldfold …` line; None if it parses. If not `whole`, what
    is missing at its end is no fault."""
    try:
        _parse(line)
    except Exception as error:
        kinds = [kind.__name__ for kind in type(error).__mro__]
        if "Exit" in kinds:  # --help
            return None
        if not whole and {"MissingParameter", "BadOptionUsage", "NoArgsIsHelpError"} & set(kinds):
            return None
        said = error.format_message() if hasattr(error, "format_message") else str(error)  # type: ignore[attr-defined]
        return said or kinds[0]
    return None


def _parse(line: str) -> None:
    words = shlex.split(line, comments=True)
    assert words[0] == "goldfold", line
    for cut in ("|", "<", ">", "&&"):
        words = words[: words.index(cut)] if cut in words else words
    command = typer.main.get_command(app)
    context = command.make_context("goldfold", words[1:])
    while hasattr(command, "resolve_command"):
        rest = [*getattr(context, "_protected_args", ()), *context.args]
        if not rest:
            return
        name, command, rest = command.resolve_command(context, rest)  # type: ignore[attr-defined]
        context = command.make_context(name, rest, parent=context)
