"""`goldfold report`: what a folder of artifacts comes to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from exporter.console import open_console


def report(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders that hold artifacts, or artifacts.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write into; the first one by default.")
    ] = None,
) -> None:
    """Write report.html, report.json and junit.xml about artifacts. Measures nothing."""
    from exporter.reporting import write

    found, page = write(folders, out)
    good = sum(artifact.state == "passed" for artifact in found.artifacts)
    verdict = ("PASS", "bold green") if found.passed else ("FAIL", "bold red")
    line = Text.assemble(verdict, f" {good} of {len(found.artifacts)} artifacts: {page}")
    open_console().print(line, soft_wrap=True)


def add_to(app: typer.Typer) -> None:
    """Make `report` a command of `app`."""
    app.command()(report)
