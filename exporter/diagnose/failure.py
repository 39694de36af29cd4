"""The context of a missed gate: the artifact that failed, and the one golden text that is
examined."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from goldfold.exporter.diagnose.pass_drift import is_half
from goldfold.exporter.evaluate import emulate, interpret
from goldfold.exporter.frontend.source import Source
from goldfold.exporter.ir.program import Program
from goldfold.exporter.options import Options
from goldfold.exporter.passes.pipeline import Pipeline
from goldfold.golden.batching import mixed_batches, tokens_of
from goldfold.golden.compare import Measurement, Reading, TextRow, reading_for
from goldfold.golden.gate import limits
from goldfold.golden.padding import batch_of
from goldfold.golden.store import SHORT, Goldens

if TYPE_CHECKING:
    from goldfold.exporter.contract import Run
    from goldfold.targets.base import Target

NOISE = {"fp32": 1e-12}
"""1−cos between two layers that rounding alone explains in fp32; the other precisions have
HALF_NOISE. In fp32 a relative error of 2^-23 per value, however correlated, is 1−cos of 1e-14; this
is a hundred times that."""
HALF_NOISE = 1e-6
"""The same for a relative error of 2^-11: (5e-4)²/2 is 1e-7; ten times that. For bf16 this number
does not tell rounding from a fault; its program in fp32 does."""


@dataclass(frozen=True)
class Made:
    """The build of an artifact: its inputs and its programs."""

    source: Source
    pipeline: Pipeline
    """The pipeline, with the program before its first pass, and the passes that ran."""
    final: Program
    """The program that the target was given, before it was used up; with the artifact's
    contract."""
    emulable: Program | None
    """The program whose rounded run was judged as well, where there was one."""
    target: Target
    precision: str
    """The floating-point precision, which also applies around integers."""
    asked: str
    """The precision by its own name, which may be a recipe's."""
    gate: str
    """The precision whose gate applies."""
    options: Options
    rounds: bool = False
    """Whether its recipe lets a runtime round activations to integers."""
    trusts: bool = False
    """Whether code that comes with the model may run."""


@dataclass(frozen=True)
class Suspect:
    """An artifact that missed its gate: its build and its measurements."""

    made: Made
    goldens: Goldens
    measurement: Measurement
    proof: Measurement | None
    """The measurement of `made.emulable`."""

    @property
    def limit(self) -> float:
        return limits(self.made.gate, self.goldens).worst

    @property
    def noise(self) -> float:
        return NOISE.get(self.made.precision, HALF_NOISE)


@dataclass(frozen=True)
class Probe:
    """The golden text that is examined."""

    row: TextRow
    ids: np.ndarray
    mask: np.ndarray
    golden: np.ndarray
    padded: bool
    read: Callable[[np.ndarray, np.ndarray], Reading]

    @property
    def tokens(self) -> int:
        return self.row.tokens

    def distance(self, run: Run) -> float:
        return self.read(
            np.asarray(run(self.ids, self.mask))[0].astype(np.float64), self.golden
        ).distance

    def of(self, program: Program) -> float:
        """Returns 1−cos of `program`'s embedding of the text; rounded to the program's types if it
        has half-precision ones."""
        return self.distance((emulate.runner if is_half(program) else interpret.runner)(program))


def pick(suspect: Suspect) -> Probe | None:
    """Returns the worst text over the limit; a short text if one of them is over, since examination
    is slow."""
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
        batches = mixed_batches(lengths, most=tokens_of(goldens))
        batch = next(batch for batch in batches if index in batch)
        width = max(lengths[i] for i in batch)
    contract = suspect.made.final.contract
    ids, mask = batch_of([goldens.cases[index]], contract.pad_id, width)
    golden = goldens.row(index).astype(np.float64)[..., : contract.dim]
    return Probe(row, ids, mask, golden, padded, reading_for(goldens))
