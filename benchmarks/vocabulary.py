"""A cut vocabulary by itself: how many tokens stay, and a million drawn ids in both tokenizers.

    .venv/bin/python -m benchmarks.vocabulary MODEL --scripts latin [--scripts latin,greek ...]
                                              [--count 1000000] [--seed 25]

MODEL is a model's folder, or a tokenizer.json. The texts are drawn as an export draws them
(exporter/frontend/vocabulary_drawn.py), with every token of the source that stands in the set
first; an id that is not the same ends the run with the text.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from goldfold.exporter.errors import GoldfoldError
from goldfold.exporter.frontend import vocabulary, vocabulary_drawn


def main(
    model: Annotated[Path, typer.Argument(help="A model's folder, or a tokenizer.json.")],
    scripts: Annotated[list[str], typer.Option(help="A set of scripts, as latin,greek.")],
    count: Annotated[int, typer.Option(min=1, help="Number of drawn ids.")] = 1_000_000,
    seed: Annotated[int, typer.Option(help="Seed of the drawn texts.")] = 25,
) -> None:
    """Cut the vocabulary to each set, and compare the two tokenizers."""
    file = model / "tokenizer.json" if model.is_dir() else model
    text = file.read_text("utf-8")
    for names in scripts:
        begun = time.perf_counter()
        cut = vocabulary.by_scripts(text, names.split(","))
        made = time.perf_counter()
        same = vocabulary_drawn.compare(text, cut, count, seed)
        print(
            f"{','.join(cut.scripts)}: {len(cut.kept):,} of {cut.of:,} tokens, tokenizer.json "
            f"{len(text.encode()) / 1e6:.1f} to {len(cut.tokenizer.encode()) / 1e6:.1f} MB in "
            f"{made - begun:.0f} s; {same:,} ids are the same, 0 differ "
            f"({time.perf_counter() - made:.0f} s)"
        )
        for note in cut.notes:
            print(f"  {note}")


if __name__ == "__main__":
    try:
        typer.run(main)
    except GoldfoldError as error:
        raise SystemExit(f"error: {error}") from None
