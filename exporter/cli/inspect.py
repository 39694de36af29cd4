"""`goldfold inspect`: an artifact's manifest and verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from goldfold.exporter.cli.console import open_console
from goldfold.exporter.cli.flags import AsJson


def inspect(
    folder: Annotated[Path, typer.Argument(help="An artifact folder.")],
    census: Annotated[
        bool, typer.Option("--census", help="Compile it and count the runtime's ops.")
    ] = False,
    bounds: Annotated[
        bool, typer.Option("--bounds", help="List the bound of every value in fp16.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print an artifact's description, its build and its measurements."""
    from goldfold.exporter.report import inspection

    found = inspection.inspect(folder, census, bounds)
    if as_json:
        print(json.dumps(found.to_json(), indent=1))
        return
    console = open_console()
    for part in found.tables():
        console.print(part)
