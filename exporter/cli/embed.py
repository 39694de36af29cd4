"""`goldfold embed`: embeddings of texts by an artifact."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from goldfold.exporter.cli import sparse_rows
from goldfold.exporter.cli.console import warn
from goldfold.exporter.cli.embed_flags import EmbedFlags
from goldfold.exporter.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from goldfold.exporter.artifact.encoder import Encoder
    from goldfold.exporter.artifact.sparse_encoder import SparseEncoder


def embed(
    folder: Annotated[Path, typer.Argument(help="An artifact folder.")], asked: EmbedFlags
) -> None:
    """Embed texts with an artifact."""
    from goldfold.exporter.artifact.encoder import load
    from goldfold.exporter.system.writing import check_file

    if not asked.texts:
        raise UsageError("give at least one text, or - to read lines from standard input")
    if asked.save is not None:
        check_file(asked.save, "--save")
    streamed = asked.texts == ["-"]
    texts = read_lines() if streamed else read_texts(asked.texts)
    encoder = load(folder, threads=asked.threads)
    if encoder.contract.task == "sparse":
        sparse_rows.show(cast("SparseEncoder", encoder), list(texts), asked)
        return
    sparse_rows.check_dense(asked)
    how: dict[str, Any] = {
        "prompt": asked.prompt,
        "dims": asked.dims,
        "batch_size": asked.batch_size,
        "output": asked.output,
        "task": asked.task,
        "errors": asked.errors,
        "strict_scripts": asked.strict_scripts,
    }
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        if streamed:
            _stream(encoder, texts, how, asked)
        else:
            _show([encoder.embed(cast("list[str]", texts), **how)], asked)
    for one in said:
        warn(str(one.message))


def _stream(encoder: Encoder, texts: Iterable[str], how: dict[str, Any], asked: EmbedFlags) -> None:
    """Embed texts as they are read, with a line of progress on standard error."""
    from goldfold.exporter.artifact.progress_line import ProgressLine

    line = ProgressLine()
    alone = asked.save is not None or not sys.stdout.isatty()  # rows would run into the live line
    made = encoder.embed_stream(texts, progress=line if alone else None, **how)
    try:
        _show(made, asked, encoder.embed([], **how))
    finally:
        line.close()


def _show(
    parts: Iterable[np.ndarray], asked: EmbedFlags, nothing: np.ndarray | None = None
) -> None:
    """Save or print rows. `nothing` has none of them, in their type and width."""
    import numpy as np

    from goldfold.exporter.cli import text_lines

    if asked.save is not None:
        if nothing is None:
            parts = list(parts)
            nothing = parts[0][:0]
        text_lines.save(asked.save, parts, nothing)
        return
    if asked.as_json:
        found = [None if np.isnan(row).any() else row.tolist() for rows in parts for row in rows]
        print(json.dumps(found))
        return
    for rows in parts:
        for row in rows:
            print(" ".join(f"{number:.7g}" for number in row))


def read_texts(texts: list[str]) -> list[str]:
    """Returns the texts themselves, or the lines of standard input where `-` stands for them."""
    if "-" in texts and len(texts) > 1:
        raise UsageError("- reads all texts from standard input; give it alone")
    if texts != ["-"]:
        return texts
    return list(read_lines())


def read_lines() -> Iterator[str]:
    """Returns an iterator over the lines of standard input."""
    from goldfold.exporter.cli import text_lines

    return text_lines.lines()
