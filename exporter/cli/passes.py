"""The commands that are about passes: `passes`, `explain` and `bisect`."""

from __future__ import annotations

import re
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

from goldfold.exporter.cli.cache import NoCache
from goldfold.exporter.cli.console import listening, open_console
from goldfold.exporter.cli.golden import MaxLength
from goldfold.exporter.errors import GateMissed


def passes() -> None:
    """List the laws in the order in which they run."""
    from goldfold.exporter.passes import docstring, pipeline

    shown = Table("pass", "equality", "says", box=SIMPLE_HEAD, pad_edge=False)
    for this in pipeline.every():
        says = re.split(r"\.\s", docstring.read(this).summary)[0].replace("\n", " ").rstrip(".")
        shown.add_row(this.name, this.equality.name, Text(f"{says}."))
    open_console().print(shown)


def explain(name: Annotated[str, typer.Argument(help="Name of a pass.")]) -> None:
    """Print one law: what it holds, needs and refuses, with its examples."""
    from goldfold.exporter.passes import reference_page

    open_console().print(Markdown(reference_page.entry(reference_page.find(name))))


def bisect(
    model: Annotated[str, typer.Argument(help="A SentenceTransformer folder, or a hub id.")],
    precision: Annotated[str, typer.Option(help="fp32, fp16 or bf16.")] = "fp32",
    limit: Annotated[
        float | None, typer.Option(help="1−cos to stay below; the precision's gate by default.")
    ] = None,
    max_length: MaxLength = None,
    no_cache: NoCache = False,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q")] = False,
) -> None:
    """Find the one rewrite after which MODEL misses its golden gate."""
    from goldfold.exporter.driver.bisect import search

    with listening(quiet) as listener:
        culprit = search(
            model,
            precision,
            limit,
            max_length=max_length,
            trust_remote_code=trust_remote_code,
            cache=not no_cache,
            listener=listener,
        )
    if culprit is None:
        open_console().print(
            "no rewrite of the common and precision passes goes beyond the limit "
            "on the short golden texts, each alone"
        )
        return
    open_console().print(culprit.sentence(), markup=False, highlight=False)
    raise GateMissed(f"application {culprit.number} of {culprit.total} breaks the gate")


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (passes, explain, bisect):
        app.command()(command)
