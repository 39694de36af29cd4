"""The amplification of a model whose artifact of integers missed its gate: where every text that is
looked at amplifies the rounding of activations beyond the gate, no recipe that rounds them can hold
it, and the analysis says where."""

from __future__ import annotations

from dataclasses import replace

from goldfold.exporter.diagnose.amplification import Amplification, amplification, hopeless
from goldfold.exporter.diagnose.failure import Suspect
from goldfold.exporter.ir.program import Program
from goldfold.exporter.passes.pipeline import Pipeline
from goldfold.exporter.progress import Stages
from goldfold.golden.gate import limits
from goldfold.golden.tasks import EMBEDDING

_TEXTS, _LEAST = 3, 8
"""So many texts, the shortest of so many tokens and more: a text takes up to minutes."""
_SITES = 3
"""Maps whose tokens are looked at one by one: the sentence names one place."""


def sentence(suspect: Suspect, stages: Stages) -> str:
    """Returns why rounded activations cannot hold the gate; "" where they may, where none are
    rounded, and of models that give no single embedding."""
    if not suspect.made.rounds or suspect.goldens.task != EMBEDDING:
        return ""
    cases = [case for case in suspect.goldens.cases if len(case.token_ids) >= _LEAST]
    cases = sorted(cases, key=lambda case: len(case.token_ids))[:_TEXTS]
    if not cases:
        return ""
    exact, gate = _before(suspect), limits(suspect.made.gate, suspect.goldens)
    found: Amplification | None = None
    for case in cases:
        stages.detail(f"the amplification of {case.id}")
        one = amplification(exact, {case.id: case.token_ids}, 1, sites=_SITES)
        if hopeless(one, gate) is None:
            return ""  # one text that holds is enough
        found = one if found is None else found.with_(texts=(*found.texts, *one.texts))
    said = None if found is None else hopeless(found, gate)
    return "" if said is None else f"{said}."


def _before(suspect: Suspect) -> Program:
    """Returns the program as it is before anything becomes an integer. It shares its weights."""
    pipeline = suspect.made.pipeline
    assert pipeline.before is not None
    program = pipeline.before.copy()
    again = Pipeline(replace(pipeline.options, dump=None))
    for pass_ in pipeline.ran:
        if pass_.name.startswith("quantize"):
            break
        again.run(program, [pass_])
    return program
