"""What other tools' files of a model lose in retrieval, on the very pairs of `goldfold judge`.

    .venv/bin/python -m benchmarks.peer_retrieval MODEL_FOLDER --peer st-qint8 --peer 'llama.cpp-Q*'

Each peer (benchmarks/speed/roster.py) gets the token ids that sentence-transformers makes of the
texts, and its embeddings are held against sentence-transformers in fp32. Prints a table, and the
lines for exporter/search/peers.toml.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.speed import roster
from benchmarks.speed.client import Worker, WorkerError
from goldfold.exporter.frontend.source import open_model
from goldfold.golden.judging import pairs, reference
from goldfold.golden.judging.judge import Sets, judge
from goldfold.golden.metrics import RETRIEVAL

BATCH = 16
"""Texts of similar length in one call."""


def main(
    model: Annotated[Path, typer.Argument(help="A SentenceTransformer folder.")],
    peer: Annotated[list[str], typer.Option(help="Names of peers, * allowed; repeatable.")],
    count: Annotated[int, typer.Option("--pairs", help="Docstrings and functions.")] = 3000,
    threads: Annotated[int, typer.Option(help="Threads of each peer.")] = 1,
) -> None:
    """Print a row a peer, as soon as it is measured."""
    source = open_model(str(model))
    theirs = reference.Model(source.path)
    width = len(theirs.embed(["width"], "plain")[0])
    fp32 = reference.cached(source.fingerprint, theirs.embed)
    found = pairs.collect(count)
    entries, absent = roster.peers_of(roster.Model(model.resolve(), threads, width), peer)
    for sentence in absent:
        print(f"not measured: {sentence}", file=sys.stderr)
    print(f"{count} pairs of digest {found.digest[:12]}\n")
    print("| | MB | loss | at most |\n|---|---|---|---|")
    lines = [f'[[model]]\nfingerprint = "{source.fingerprint}"']
    with tempfile.TemporaryDirectory() as scratch:
        for entry in entries:
            try:
                with Worker(entry.spec, Path(scratch) / "worker.log") as worker:
                    rows = judge(
                        _embed(worker, theirs), fp32, Sets(None, None, found), dims=(width,)
                    )
            except WorkerError as error:
                print(f"not measured: {error}", file=sys.stderr)
                continue
            one = next(metric for metric in rows.metrics if metric.name == RETRIEVAL)
            size = entry.size / 1e6
            print(f"| {entry.label} | {size:.1f} | {one.loss:.2%} | {one.upper:.2%} |", flush=True)
            lines.append(
                f'[[model.peer]]\nname = "{entry.label}"\nmb = {size:.1f}\n'
                f'metric = "{RETRIEVAL}"\nloss = {one.loss:.5f}\nat_most = {one.upper:.5f}\n'
                f'source = "measured: benchmarks.peer_retrieval, {count} pairs of digest '
                f'{found.digest[:12]}"'
            )
    print("\n" + "\n\n".join(lines))


def _embed(worker: Worker, theirs: reference.Model) -> reference.Embed:
    """Returns a peer in the form that the judge takes."""

    def embed(texts: Sequence[str], kind: str) -> np.ndarray:
        ids, found = theirs.token_ids(texts, kind), {}
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            longest = max(len(ids[row]) for row in rows)
            padded = [[*ids[row], *[0] * (longest - len(ids[row]))] for row in rows]
            mask = [[1] * len(ids[row]) + [0] * (longest - len(ids[row])) for row in rows]
            answer = worker.ask("embed", ids=padded, mask=mask, texts=[texts[r] for r in rows])
            found.update(zip(rows, answer["embeddings"], strict=True))
        return np.array([found[row] for row in range(len(texts))], np.float32)

    return embed


if __name__ == "__main__":
    typer.run(main)
