"""An artifact that missed its gate, and the one golden text on which it is looked into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from goldfold.exporter.diagnose.pass_drift import is_half
from goldfold.exporter.evaluate import emulate, interpret
from goldfold.exporter.evaluate.batches import pad
from goldfold.exporter.frontend.source import Source
from goldfold.exporter.ir.program import Program
from goldfold.exporter.options import Options
from goldfold.exporter.passes.pipeline import Pipeline
from goldfold.golden.compare import Measurement, TextRow, mixed_batches, reading
from goldfold.golden.gate import GATES
from goldfold.golden.store import SHORT, Goldens

if TYPE_CHECKING:
    from goldfold.exporter.contract import Run
    from goldfold.targets.base import Target

NOISE = {"fp32": 1e-12}
"""1−cos between two layers that rounding alone explains; of the other precisions HALF_NOISE. In
f32 a relative error of 2^-23 a value, however correlated, is 1−cos of 1e-14; a hundred times
that."""
HALF_NOISE = 1e-6
"""Likewise with 2^-11: (5e-4)²/2 is 1e-7; ten times that. bf16 is not told apart from a fault by
this number but by its program in f32."""


@dataclass(frozen=True)
class Made:
    """How an artifact came to be."""

    source: Source
    pipeline: Pipeline
    """With the program before its first pass, and the passes that ran."""
    final: Program
    """What the target was given, before it was used up; with the artifact's contract."""
    emulable: Program | None
    """The program whose rounded run was judged as well, where it was."""
    target: Target
    precision: str
    """What is computed in around integers, if there are any."""
    asked: str
    """The precision by its own name, a recipe's as well."""
    gate: str
    """The precision whose gate it is held to."""
    options: Options
    trusts: bool = False
    """Whether code that comes with the model may run."""


@dataclass(frozen=True)
class Suspect:
    """What missed its gate: how it was made, and what was measured."""

    made: Made
    goldens: Goldens
    measurement: Measurement
    proof: Measurement | None
    """Of `made.emulable`."""

    @property
    def limit(self) -> float:
        return GATES[self.made.gate].worst

    @property
    def noise(self) -> float:
        return NOISE.get(self.made.precision, HALF_NOISE)


@dataclass(frozen=True)
class Probe:
    """One golden text as it is looked at."""

    row: TextRow
    ids: np.ndarray
    mask: np.ndarray
    golden: np.ndarray
    padded: bool

    @property
    def tokens(self) -> int:
        return self.row.tokens

    def distance(self, run: Run) -> float:
        return reading(
            np.asarray(run(self.ids, self.mask))[0].astype(np.float64), self.golden
        ).distance

    def of(self, program: Program) -> float:
        """1−cos of what `program` makes of the text; rounded to its types if it has half ones."""
        return self.distance((emulate.runner if is_half(program) else interpret.runner)(program))


def pick(suspect: Suspect) -> Probe | None:
    """The worst text over the limit; of the short ones if one of them is, since looking costs."""
    known = {case.id for case in suspect.goldens.cases}
    for measurement in (suspect.measurement, suspect.proof):
        ranked = () if measurement is None else measurement.ranked
        rows = [row for row in ranked if _over(row, suspect) and row.id in known]
        if rows:
            row = next((r for r in rows if r.tokens <= SHORT), rows[0])
            return _probe(suspect, row)
    return None


def _over(row: TextRow, suspect: Suspect) -> bool:
    return not max(row.alone.distance, row.padded.distance) <= suspect.limit


def _probe(suspect: Suspect, row: TextRow) -> Probe:
    goldens = suspect.goldens
    lengths = [len(case.token_ids) for case in goldens.cases]
    index = next(i for i, case in enumerate(goldens.cases) if case.id == row.id)
    padded = row.alone.distance <= suspect.limit
    width = lengths[index]
    if padded:  # as wide as the batch in which it failed
        batch = next(batch for batch in mixed_batches(lengths) if index in batch)
        width = max(lengths[i] for i in batch)
    contract = suspect.made.final.contract
    ids, mask = pad([goldens.cases[index].token_ids], contract.pad_id, width)
    golden = goldens.embeddings[index].astype(np.float64)[: contract.dim]
    return Probe(row, ids, mask, golden, padded)
