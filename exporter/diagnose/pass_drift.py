"""The drift of a Program from its goldens after each pass, on short texts, each alone: a quick
measurement.

The gate itself is `verifying.measure`, on all texts of an artifact; this one runs between two
passes, many times over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from goldfold.exporter.evaluate import emulate, interpret
from goldfold.exporter.ir.program import Program
from goldfold.exporter.progress import Stages
from goldfold.exporter.records import Look, PassReport
from goldfold.golden.compare import reading_for
from goldfold.golden.errors import GoldenError
from goldfold.golden.padding import batch_of
from goldfold.golden.store import SHORT, Goldens


def look(program: Program, goldens: Goldens, after: str = "") -> Look:
    """Run the short goldens through `program`; rounded to their types if it has half-precision
    values.

    Raises GoldenError if there is no short golden.
    """
    short = goldens.within(SHORT).pooled()
    if not short.cases:
        raise GoldenError(f"the goldens of {goldens.model} have no text of at most {SHORT} tokens")
    run = (emulate.runner if is_half(program) else interpret.runner)(program)
    read = reading_for(goldens)
    found = [
        read(
            run(*batch_of([case], program.contract.pad_id))[0].astype(np.float64),
            short.row(at).astype(np.float64)[..., : program.contract.dim],
        ).distance
        for at, case in enumerate(short.cases)
    ]
    worst = int(np.argmax(found))
    return Look(
        after=after,
        worst=found[worst],
        mean=float(np.mean(found)),
        worst_id=short.cases[worst].id,
    )


def is_half(program: Program) -> bool:
    """Returns whether any value of the program is declared fp16 or bf16."""
    return any(v.dtype in emulate.HALF for node in program.graph for v in node.outputs)


@dataclass
class Drift:
    """A callback after every pass (Pipeline.after): it measures the drift and records it."""

    goldens: Goldens
    stages: Stages
    looks: list[Look] = field(default_factory=list)
    looker: Callable[[Program, Goldens, str], Look] = look
    cut: Goldens | None = None
    """Those that are read once the vocabulary is cut, under its own ids."""

    def __call__(self, report: PassReport, program: Program) -> None:
        self.stages.detail(f"measuring after {report.name}")
        goldens = self.goldens if program.kept is None or self.cut is None else self.cut
        self.looks.append(self.looker(program, goldens, report.name))
