"""`goldfold golden make`: golden embeddings of a model, made with sentence-transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from goldfold.exporter.cli.console import listening, open_console
from goldfold.exporter.cli.flags import Column, MaxLength, Model, Quiet, Route, Texts, Trust

golden_app = typer.Typer(help="Golden embeddings: the reference's outputs.", no_args_is_help=True)


@golden_app.command()
def make(
    model: Model,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; default: golden/store.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model.")] = None,
    max_length: MaxLength = None,
    route: Route = None,
    texts: Texts = None,
    column: Column = None,
    trust_remote_code: Trust = False,
    quiet: Quiet = False,
) -> None:
    """Make golden embeddings of MODEL with sentence-transformers, and store them."""
    from goldfold.exporter.driver.storing import Wanted, store_goldens

    wanted = Wanted(name, max_length, route, trust_remote_code, texts or (), column)
    with listening(quiet) as listener:
        folder = store_goldens(model, out, wanted, listener=listener)
    open_console().print(Text(str(folder)), soft_wrap=True)
