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
) -> None:
    """Sign an artifact with your own key. The signature covers everything but the verdict."""
    from goldfold.exporter.artifact import sign as signing

    open_console().print(Text(str(signing.sign(folder, key, signature))), soft_wrap=True)
