"""The flags of `goldfold embed`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from goldfold.exporter.cli.flags import AsJson, Threads


@dataclass(frozen=True)
class EmbedFlags:
    """The texts and the options of `goldfold embed`."""

    texts: Annotated[list[str] | None, typer.Argument(help="Texts; - reads lines from stdin.")] = (
        None
    )
    prompt: Annotated[str | None, typer.Option(help="Name of one of the model's prompts.")] = None
    dims: Annotated[int | None, typer.Option(help="Number of leading dimensions to keep.")] = None
    save: Annotated[Path | None, typer.Option(help="Write a .npy file instead of printing.")] = None
    batch_size: Annotated[int, typer.Option(min=1)] = 32
    output: Annotated[str, typer.Option(help="float32, int8, uint8, binary or ubinary.")] = (
        "float32"
    )
    task: Annotated[
        str, typer.Option(help="query or document: selects prompt and maximum length.")
    ] = ""
    errors: Annotated[
        str, typer.Option(help="For texts that cannot be embedded: raise, or nan (a row of NaN).")
    ] = "raise"
    strict_scripts: Annotated[
        bool,
        typer.Option(
            "--strict-scripts",
            help="Refuse texts outside of the scripts to which the vocabulary was cut.",
        ),
    ] = False
    top_k: Annotated[
        int | None, typer.Option(help="Of sparse vectors: the most weights of a text.")
    ] = None
    threshold: Annotated[
        float | None, typer.Option(help="Of sparse vectors: show weights above this number.")
    ] = None
    threads: Threads = None
    as_json: AsJson = False
