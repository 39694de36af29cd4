"""What sentence-transformers itself scores in fp32 on the Lee corpus and on code retrieval, and
what int8 and binary embeddings cost of it.

    .venv/bin/python -m benchmarks.judging MODEL_FOLDER [--pairs 3000]

The fp32 embeddings are made once and kept where `goldfold judge` keeps them, so this also prepares
that command. Rank agreement is left out: a reference agrees with itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import typer

from goldfold.exporter.cli.console import listening, open_console
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.progress import Stages
from goldfold.golden import store
from goldfold.golden.judging import lee, pairs, reference
from goldfold.golden.judging.judge import Sets, judge
from goldfold.golden.judging.report import table


def main(
    model: Annotated[str, typer.Argument(help="A SentenceTransformer folder with stored goldens.")],
    count: Annotated[int, typer.Option("--pairs", help="Docstrings and functions.")] = 3000,
) -> None:
    """Judge the reference against itself."""
    with listening(quiet=False) as listener:
        stages = Stages(listener)
        source = open_model(model)
        found = store.fingerprint({k: v for k, v in source.digests.items() if store.defines(k)})
        folder = store.find(found)
        if folder is None:
            raise typer.BadParameter(f"no goldens of {source.name}: goldfold golden make {model}")
        goldens = store.load(folder)
        with stages("retrieval pairs"):
            retrieval = pairs.collect(count)
            stages.note(f"digest {retrieval.digest[:12]}")
        fp32 = reference.cached(
            found, reference.sentence_transformer(source.path), step=stages.step
        )
        rows = dict(
            zip((c.prompt + c.text for c in goldens.cases), goldens.embeddings, strict=True)
        )

        def embed(texts: Sequence[str], kind: str) -> np.ndarray:
            stored = all(text in rows for text in texts)
            return np.stack([rows[text] for text in texts]) if stored else fp32(texts, kind)

        with stages("judge"):
            judgement = judge(
                embed, fp32, Sets(goldens, lee.load(), retrieval), notice=stages.detail
            )
    open_console().print(table(f"{source.name}, fp32", judgement))


if __name__ == "__main__":
    typer.run(main)
