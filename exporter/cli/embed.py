"""`goldfold embed`: embeddings of texts by an artifact."""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from goldfold.exporter.cli import sparse_rows
from goldfold.exporter.cli.console import warn
from goldfold.exporter.cli.flags import AsJson, Threads
from goldfold.exporter.errors import UsageError

if TYPE_CHECKING:
    from goldfold.exporter.artifact.sparse_encoder import SparseEncoder
    from goldfold.exporter.contract import Task


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
    top_k: Annotated[
        int | None, typer.Option(help="Of sparse vectors: the most weights of a text.")
    ] = None
    threshold: Annotated[
        float | None, typer.Option(help="Of sparse vectors: show weights above this number.")
    ] = None
    threads: Threads = None
    as_json: AsJson = False


def embed(
    folder: Annotated[Path, typer.Argument(help="An artifact folder.")], asked: EmbedFlags
) -> None:
    """Embed texts with an artifact."""
    import numpy as np

    from goldfold.exporter.artifact.encoder import load
    from goldfold.exporter.system.writing import check_file, write_file

    if not asked.texts:
        raise UsageError("give at least one text, or - to read lines from standard input")
    if asked.save is not None:
        check_file(asked.save, "--save")
    texts = read_texts(asked.texts)
    encoder = load(folder, threads=asked.threads)
    if encoder.contract.task == "sparse":
        sparse_rows.show(cast("SparseEncoder", encoder), texts, asked)
        return
    sparse_rows.check_dense(asked)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        rows = encoder.embed(
            texts,
            asked.prompt,
            asked.dims,
            asked.batch_size,
            asked.output,
            task=cast("Task", asked.task),
            errors=asked.errors,
        )
    for one in said:
        warn(str(one.message))
    if asked.save is not None:
        write_file(asked.save, lambda file: np.save(file, rows, allow_pickle=False))
        return
    if asked.as_json:
        found = [None if np.isnan(row).any() else row.tolist() for row in rows]
        print(json.dumps(found))
        return
    for row in rows:
        print(" ".join(f"{number:.7g}" for number in row))


def read_texts(texts: list[str]) -> list[str]:
    """Returns the texts themselves, or the lines of standard input where `-` stands for them."""
    if "-" in texts and len(texts) > 1:
        raise UsageError("- reads all texts from standard input; give it alone")
    if texts != ["-"]:
        return texts
    if sys.stdin is None:
        raise UsageError("standard input is closed; give the texts, or open it")
    return [line.rstrip("\n") for line in sys.stdin]
