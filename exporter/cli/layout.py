"""`goldfold layout`: artifacts laid out for a server or for another library."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from goldfold.exporter.cli.console import open_console


def layout(
    folders: Annotated[
        list[Path],
        typer.Argument(
            help="An artifact folder; for transformers.js several of one model, the first of which "
            "is the default.",
            metavar="ARTIFACT...",
        ),
    ],
    server: Annotated[
        str,
        typer.Option(
            "--for",
            help="ovms or sentence-transformers (openvino); web, transformers.js, fastembed or "
            "vespa (onnxruntime).",
        ),
    ],
    out: Annotated[Path, typer.Option(help="New folder for the layout.")],
    node_modules: Annotated[
        Path | None,
        typer.Option(help="Folder of npm's packages for web, instead of an installation."),
    ] = None,
) -> None:
    """Lay an artifact out for a server, for browsers, or for a library that is not goldfold."""
    if node_modules is not None:
        os.environ["GOLDFOLD_NODE_MODULES"] = str(node_modules)
    from goldfold.exporter.artifact.layout import lay_out

    done = lay_out(folders[0], server, out, folders[1:])
    console = open_console()
    console.print(Text(str(done.path)), soft_wrap=True)
    for note in done.notes:
        console.print(Text(f"  {note}", "dim"), soft_wrap=True)
