"""`goldfold demo`: a first export, and a first use of what it wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from goldfold.exporter.cli.console import listening, open_console
from goldfold.exporter.cli.flags import Quiet
from goldfold.exporter.cli.results import exported

if TYPE_CHECKING:
    from goldfold.exporter.artifact.result import Result


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the artifact folders.")] = Path("demo"),
    quiet: Quiet = False,
) -> None:
    """Export a small real model (all-MiniLM-L6-v2, from PyPI) for every target that works here."""
    from rich.table import Table

    from goldfold.exporter.driver import example

    ready = example.prepare()
    for name, reason in ready.missing.items():
        open_console(stderr=True).print(Text(f"without {name}: {reason}"), soft_wrap=True)

    def run() -> list[Result]:
        with listening(quiet) as listener:
            return ready.export(out, listener)

    results = exported(run, as_json=False)
    title = f"similarity to “{example.QUESTION}”"
    shown = Table(title, "", title="Try it", title_justify="left")
    for text, similarity in example.similarities(results[0].path).items():
        shown.add_row(text, f"{similarity:.3f}")
    open_console().print(shown)
