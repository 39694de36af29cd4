"""The command that embeds texts with an artifact."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.text import Text

from goldfold.exporter.cli.console import open_console
from goldfold.exporter.cli.golden import AsJson, Threads
from goldfold.exporter.contract import Task
from goldfold.exporter.errors import UsageError


def add_to(app: typer.Typer) -> None:
    app.command()(embed)


def embed(
    folder: Annotated[Path, typer.Argument(help="An artifact folder.")],
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts; - reads lines from stdin.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="Name of one of the model's prompts.")] = None,
    dims: Annotated[int | None, typer.Option(help="Keep so many leading dimensions.")] = None,
    save: Annotated[
        Path | None, typer.Option(help="Write a .npy file instead of printing.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    output: Annotated[
        str, typer.Option(help="float32, int8, uint8, binary or ubinary.")
    ] = "float32",
    task: Annotated[
        str, typer.Option(help="query or document: the prompt and the length that go with it.")
    ] = "",
    errors: Annotated[
        str, typer.Option(help="Texts that cannot be embedded: raise, or nan for a row of NaN.")
    ] = "raise",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Embed texts with an artifact."""
    import numpy as np

    from goldfold.exporter.artifact.encoder import load
    from goldfold.exporter.system.writing import check_file, write_file

    if not texts:
        raise UsageError("give at least one text, or - to read lines from standard input")
    if save is not None:
        check_file(save, "--save")
    if "-" in texts and len(texts) > 1:
        raise UsageError("- reads all texts from standard input; give it alone")
    if texts == ["-"]:
        if sys.stdin is None:
            raise UsageError("standard input is closed; give the texts, or open it")
        texts = [line.rstrip("\n") for line in sys.stdin]
    encoder = load(folder, threads=threads)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        rows = encoder.embed(
            texts, prompt, dims, batch_size, output, task=cast(Task, task), errors=errors
        )
    for one in said:
        open_console(stderr=True).print(Text(f"warning: {one.message}"), soft_wrap=True)
    if save is not None:
        write_file(save, lambda file: np.save(file, rows, allow_pickle=False))
        return
    if as_json:
        found = [None if np.isnan(row).any() else row.tolist() for row in rows]
        print(json.dumps(found))
        return
    for row in rows:
        print(" ".join(f"{number:.7g}" for number in row))
