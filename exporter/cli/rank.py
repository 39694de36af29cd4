"""`goldfold rank`: documents ranked for a query by an artifact that scores pairs of texts, or that
compares their tokens."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from goldfold.exporter.cli.console import open_console
from goldfold.exporter.cli.embed import read_texts
from goldfold.exporter.cli.flags import AsJson, Threads
from goldfold.exporter.errors import UsageError


@dataclass(frozen=True)
class RankFlags:
    """The documents and the options of `goldfold rank`."""

    documents: Annotated[
        list[str] | None, typer.Argument(help="Documents; - reads lines from stdin.")
    ] = None
    top_k: Annotated[int | None, typer.Option(help="The most documents to show.")] = None
    batch_size: Annotated[int, typer.Option(min=1)] = 32
    threads: Threads = None
    as_json: AsJson = False


def rank(
    folder: Annotated[Path, typer.Argument(help="An artifact folder.")],
    query: Annotated[str, typer.Argument(help="The query.")],
    asked: RankFlags,
) -> None:
    """Rank documents for a query with the artifact of a reranker or a late-interaction model."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from goldfold.exporter.artifact.encoder import load

    if not asked.documents:
        raise UsageError("give at least one document, or - to read lines from standard input")
    documents = read_texts(asked.documents)
    scorer = load(folder, threads=asked.threads)
    found = scorer.rank(query, documents, asked.top_k, True, asked.batch_size)
    if asked.as_json:
        print(json.dumps(found, ensure_ascii=False))
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("document", overflow="fold")
    for one in found:
        table.add_row(f"{one['score']:.4f}", Text(one["text"]))
    open_console().print(table)
