"""The texts on which artifacts are measured, and the measurement, in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from goldfold.exporter import registry
from goldfold.exporter.contract import Contract
from goldfold.exporter.frontend.source import Source
from goldfold.exporter.progress import Stages
from goldfold.exporter.verification import unseen as verified
from goldfold.exporter.verification.goldens import obtain_goldens
from goldfold.golden.judging import unseen

SETS = ("goldens", "unseen")


@dataclass(frozen=True)
class Texts:
    """One set of texts: token ids, fp32 embeddings [N, D] and kinds."""

    ids: tuple[tuple[int, ...], ...]
    reference: np.ndarray
    kinds: tuple[str, ...]

    def figures(self, embeddings: np.ndarray) -> dict[str, Any]:
        """Returns the 1−cos of embeddings [N, D], over all texts and by kind."""
        found = unseen.distances(embeddings, self.reference[:, : embeddings.shape[1]])
        read = unseen.figures(found, self.kinds)
        return {
            "texts": read.texts,
            "worst": read.worst,
            "worst_kind": read.worst_kind,
            "worst_number": read.worst_number,
            "mean": read.mean,
            "percentile": read.percentile.value,
            "kinds": {one.kind: [one.texts, one.worst, one.mean] for one in read.kinds},
        }


def texts_of(
    source: Source, contract: Contract, stages: Stages, count: int, longest: int
) -> dict[str, Texts]:
    """Returns the goldens of up to `longest` tokens and `count` unseen texts, by SETS, with
    sentence-transformers' embeddings in fp32."""
    with stages("goldens"):
        goldens = obtain_goldens(source, stages, None, contract.max_length)
    kept = [at for at, case in enumerate(goldens.cases) if len(case.token_ids) <= longest]
    cases = [goldens.cases[at] for at in kept]
    found = {
        "goldens": Texts(
            tuple(tuple(case.token_ids) for case in cases),
            np.asarray(goldens.embeddings, np.float64)[kept],
            tuple(case.kind for case in cases),
        )
    }
    with stages("unseen texts"):
        drawn = unseen.drawn(count, verified.SEED)
        expected = verified.Texts(source, drawn, ()).expected(contract, stages)
    rows = np.asarray(expected.rows, np.float64)
    sound = [bool(np.isfinite(row).all() and row.any()) for row in rows]
    kept = [at for at, ids in enumerate(expected.ids) if ids and sound[at]]
    kinds = tuple(drawn[at].kind for at in kept)
    found["unseen"] = Texts(tuple(expected.ids[at] for at in kept), rows[kept], kinds)
    return found


@dataclass(frozen=True)
class Run:
    """How an artifact's model is run."""

    target: str
    floating: str
    """The precision for which it was built."""
    computed: str
    """The precision in which it is run."""
    threads: int | None = None
    cap: str = ""
    """The value of ONEDNN_MAX_CPU_ISA; "" is none."""
    groups: bool = True
    """Whether activations may be rounded where the file allows it."""


def embedded(
    folder: Path, contract: Contract, run: Run, texts: Mapping[str, Texts]
) -> dict[str, np.ndarray]:
    """Returns the embeddings of every set, each text alone, by a process that has nothing else in
    memory and sees the capped processor. Raises what the runtime raises."""
    ids = {name: one.ids for name, one in texts.items()}
    with (
        _environment("ONEDNN_MAX_CPU_ISA", run.cap),
        ProcessPoolExecutor(1, get_context("spawn")) as pool,
    ):
        return pool.submit(_embed, folder, contract, run, ids).result()


def _embed(
    folder: Path, contract: Contract, run: Run, ids: Mapping[str, Sequence[Sequence[int]]]
) -> dict[str, np.ndarray]:
    if run.target == "openvino" and not run.groups:
        from goldfold.targets.openvino import run as plugin

        call = plugin.load(folder, contract, run.computed, run.threads, groups=False)
    else:
        call = registry.target(run.target).load(folder, contract, run.computed, run.threads)
    found = {}
    for name, rows in ids.items():
        arrays = (np.array([list(row)], np.int64) for row in rows)
        found[name] = np.concatenate([call(array, np.ones_like(array)) for array in arrays])
    return found


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set a variable for the processes that start meanwhile."""
    old = os.environ.get(name)
    if value:
        os.environ[name] = value
    try:
        yield
    finally:
        if value:
            os.environ.pop(name)
            os.environ.update({} if old is None else {name: old})
