"""Mutants by number: a seed says kind, stage and artifact, and what is done to it."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.mutants import constants, stages, structure, words
from tests.mutants.bases import Base
from tests.mutants.change import Change, Subject
from tests.mutants.graph import Inapplicable

KINDS = {
    "rows": constants.rows,
    "columns": constants.columns,
    "heads": constants.heads,
    "blocks": constants.blocks,
    "scales": constants.scales,
    "zero-points": constants.zero_points,
    "biases": constants.biases,
    "gains": constants.gains,
    "positions": constants.positions,
    "axes": structure.axes,
    "windows": structure.windows,
    "epsilons": structure.epsilons,
    "activations": structure.activations,
    "pooling": structure.pooling,
    "ids": structure.ids,
    "batches": structure.batches,
    "prompts": words.prompts,
    "tokenizer": words.tokenizer,
    "companions": words.companions,
    "contract": words.contract,
}
_TRIES = 60


@dataclass(frozen=True)
class Mutant:
    """One wrong artifact, and what became of it."""

    seed: int
    kind: str
    stage: str
    artifact: str
    """model/target-precision."""
    what: str
    same: str
    """The proof that it is the same function; empty if it is wrong."""
    how: str
    said: str
    seconds: float = field(compare=False)

    @property
    def killed(self) -> bool:
        return self.how in ("missed", "refused")

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def kind_of(seed: int) -> str:
    return list(KINDS)[seed % len(KINDS)]


def stage_of(seed: int) -> str:
    return stages.STAGES[seed // len(KINDS) % len(stages.STAGES)]


def base_of(seed: int, attempt: int, bases: tuple[Base, ...]) -> Base:
    """The artifact of a seed; of the next attempt where the kind found nothing to change in it."""
    rng = np.random.default_rng([seed, attempt])
    weights = np.array([base.weight for base in bases])
    return bases[int(rng.choice(len(bases), p=weights / weights.sum()))]


def applicable(seed: int, bases: tuple[Base, ...], scratch: Path) -> tuple[int, Base]:
    """The first attempt whose artifact has something for this kind to change."""
    for attempt in range(_TRIES):
        base = base_of(seed, attempt, bases)
        try:
            with tempfile.TemporaryDirectory(dir=scratch) as room:
                folder = Path(room) / base.folder.name
                shutil.copytree(base.folder, folder)
                stages.reseal(base, folder, _mutation(seed, attempt))
        except Inapplicable:
            continue
        except Exception:  # it changed something, which nobody takes any more
            return attempt, base
        return attempt, base
    raise SystemExit(f"{kind_of(seed)} (seed {seed}) finds nothing to change in any artifact")


def _mutation(seed: int, attempt: int) -> stages.Mutate:
    mutate = KINDS[kind_of(seed)]

    def work(subject: Subject) -> Change:
        return mutate(np.random.default_rng([seed, attempt, 1]), subject)

    return work


def draw(seed: int, bases: tuple[Base, ...], scratch: Path) -> Mutant:
    """Make the mutant of a seed and run it."""
    attempt, base = applicable(seed, bases, scratch)
    started = time.perf_counter()
    stage, kind = stage_of(seed), kind_of(seed)
    with tempfile.TemporaryDirectory(dir=scratch) as room:
        found = stages.run(stage, kind, base, _mutation(seed, attempt), Path(room))
    change = found.change or Change("nothing was reached that could be changed")
    seconds = round(time.perf_counter() - started, 2)
    return Mutant(
        seed, kind, stage, base.name, change.what, change.same, found.how, found.said, seconds
    )
