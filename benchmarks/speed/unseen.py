"""Unseen texts for a comparison of tools: ids, texts, and the source's embeddings in fp32."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.client import Worker
from goldfold.exporter.cli.console import listening
from goldfold.exporter.contract import Contract
from goldfold.exporter.errors import GoldfoldError
from goldfold.exporter.frontend.readiness import ready
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.progress import Stages
from goldfold.exporter.system.cache import open_cache
from goldfold.exporter.verification import unseen as verified
from goldfold.golden.errors import GoldenError
from goldfold.golden.judging import unseen


@dataclass(frozen=True)
class Unseen:
    """`texts` have their prompt; `reference` is [N, D]."""

    ids: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...]
    kinds: tuple[str, ...]
    reference: np.ndarray

    def figures(self, worker: Worker) -> dict[str, Any]:
        """1−cos of a side to the source, each text alone. Raises WorkerError."""
        rows = []
        for ids, text in zip(self.ids, self.texts, strict=True):
            answer = worker.ask("embed", ids=[ids], mask=[[1] * len(ids)], texts=[text])
            rows.append(answer["embeddings"][0])
        read = unseen.figures(unseen.distances(np.array(rows), self.reference), self.kinds)
        return {"texts": read.texts, "worst": read.worst, "mean": read.mean}


def unseen_of(
    model: Path, fingerprint: str, contract: Contract, count: int, longest: int
) -> Unseen:
    """The first `count` unseen texts of at most `longest` tokens. SystemExit, with a sentence,
    where the model is not the artifacts' or cannot be read."""
    try:
        with listening(quiet=False) as listener:
            stages = Stages(listener)
            source = ready(open_model(str(model)), stages, open_cache())
            if source.fingerprint != fingerprint:
                raise SystemExit(f"error: {model} is not the model of the artifacts")
            drawn = unseen.drawn(min(2 * count, unseen.MOST), verified.SEED)
            with stages("unseen texts"):
                expected = verified.Texts(source, drawn, ()).expected(contract, stages)
    except (GoldfoldError, GoldenError) as error:
        raise SystemExit(f"error: {error}") from None
    fits = (at for at, ids in enumerate(expected.ids) if 0 < len(ids) <= longest)
    kept = [at for at, _ in zip(fits, range(count), strict=False)]
    return Unseen(
        tuple(expected.ids[at] for at in kept),
        tuple(contract.prompts.get(expected.prompts[at], "") + drawn[at].text for at in kept),
        tuple(drawn[at].kind for at in kept),
        np.asarray(expected.rows, np.float64)[kept],
    )
