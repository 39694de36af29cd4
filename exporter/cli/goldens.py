"""`goldfold golden make`: golden embeddings of a model, made with sentence-transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from goldfold.exporter.cli.console import listening, open_console
from goldfold.exporter.cli.flags import (
    Column,
    MaxLength,
    Model,
    Quiet,
    Route,
    Texts,
    Trust,
    flagged,
)

golden_app = typer.Typer(help="Golden embeddings: the reference's outputs.", no_args_is_help=True)


@dataclass(frozen=True)
class MakeFlags:
    """The options of `goldfold golden make`."""

    out: Annotated[Path | None, typer.Option(help="Folder to write; default: golden/store.")] = None
    name: Annotated[str | None, typer.Option(help="Name of the model.")] = None
    max_length: MaxLength = None
    route: Route = None
    texts: Texts = None
    column: Column = None
    trust_remote_code: Trust = False
    quiet: Quiet = False


def make(model: Model, asked: MakeFlags) -> None:
    """Make golden embeddings of MODEL with sentence-transformers, and store them."""
    from goldfold.exporter.driver.storing import Wanted, store_goldens

    wanted = Wanted(
        asked.name,
        asked.max_length,
        asked.route,
        asked.trust_remote_code,
        asked.texts or (),
        asked.column,
    )
    with listening(asked.quiet) as listener:
        folder = store_goldens(model, asked.out, wanted, listener=listener)
    open_console().print(Text(str(folder)), soft_wrap=True)


golden_app.command()(flagged(make))
