"""`goldfold embed`: embeddings of texts by an artifact."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from goldfold.exporter.cli import sparse_rows
from goldfold.exporter.cli.console import warn
from goldfold.exporter.cli.embed_flags import EmbedFlags
from goldfold.exporter.errors import UsageError

if TYPE_CHECKING:
    from goldfold.exporter.artifact.sparse_encoder import SparseEncoder
    from goldfold.exporter.contract import Task


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
            strict_scripts=asked.strict_scripts,
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
