"""`goldfold passes` and `goldfold explain`: all passes, or one of them."""

from __future__ import annotations

import re
from typing import Annotated

import typer
from rich.text import Text

from goldfold.exporter.cli.console import open_console


def passes() -> None:
    """List the passes in the order in which they run."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from goldfold.exporter.passes import docstring, pipeline

    shown = Table("pass", "equality", "says", box=SIMPLE_HEAD, pad_edge=False)
    for this in pipeline.every():
        says = re.split(r"\.\s", docstring.read(this).summary)[0].replace("\n", " ").rstrip(".")
        shown.add_row(this.name, this.equality.name, Text(f"{says}."))
    open_console().print(shown)


def explain(name: Annotated[str, typer.Argument(help="Name of a pass.")]) -> None:
    """Print one pass: what it preserves, needs and refuses, with its examples."""
    from rich.markdown import Markdown

    from goldfold.exporter.passes import reference_page

    open_console().print(Markdown(reference_page.entry(reference_page.find(name))))
