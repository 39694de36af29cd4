"""`goldfold sign`: the signature of an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from goldfold.exporter.cli.console import open_console


def sign(
    folder: Annotated[Path, typer.Argument(help="An artifact folder.")],
    key: Annotated[Path, typer.Option(help="Private elliptic-curve key, in PEM.")],
    signature: Annotated[
        Path | None, typer.Option(help="File to write; by default FOLDER.sig.")
    ] = None,
    builder: Annotated[
        str | None,
        typer.Option(help="URI of who ran the export, for the provenance; as a workflow's."),
    ] = None,
) -> None:
    """Sign an artifact with your own key. The signature covers everything but the verdict; beside
    it lie the signed provenance and verdict (.intoto.jsonl)."""
    from goldfold.exporter.artifact import sign as signing

    for place in signing.sign_all(folder, key, signature, builder):
        open_console().print(Text(str(place)), soft_wrap=True)
