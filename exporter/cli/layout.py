"""`goldfold layout`: an artifact laid out for a server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from goldfold.exporter.cli.console import open_console


def layout(
    folder: Annotated[Path, typer.Argument(help="An artifact folder.")],
    server: Annotated[str, typer.Option("--for", help="web, ovms or sentence-transformers.")],
    out: Annotated[Path, typer.Option(help="New folder; big files in it are hard links.")],
    node_modules: Annotated[
        Path | None,
        typer.Option(help="Folder of npm's packages for web, instead of an installation."),
    ] = None,
) -> None:
    """Lay an artifact out for browsers, OpenVINO Model Server or sentence-transformers."""
    if node_modules is not None:
        os.environ["GOLDFOLD_NODE_MODULES"] = str(node_modules)
    from goldfold.exporter.artifact.layout import lay_out

    done = lay_out(folder, server, out)
    console = open_console()
    console.print(Text(str(done.path)), soft_wrap=True)
    for note in done.notes:
        console.print(Text(f"  {note}", "dim"), soft_wrap=True)
