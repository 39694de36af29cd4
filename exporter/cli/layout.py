"""`goldfold layout`: an artifact laid out for a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from goldfold.exporter.cli.console import open_console


def layout(
    folder: Annotated[Path, typer.Argument(help="An artifact folder.")],
    server: Annotated[str, typer.Option("--for", help="ovms or sentence-transformers.")],
    out: Annotated[Path, typer.Option(help="New folder; big files in it are hard links.")],
) -> None:
    """Lay an artifact out for OpenVINO Model Server or for sentence-transformers."""
    from goldfold.exporter.artifact.layout import lay_out

    done = lay_out(folder, server, out)
    console = open_console()
    console.print(Text(str(done.path)), soft_wrap=True)
    for note in done.notes:
        console.print(Text(f"  {note}", "dim"), soft_wrap=True)
