"""The ordered tuple of passes, a reason on every line, and the loop that runs them."""

from __future__ import annotations

import time
from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict

from exporter import legality
from exporter.passes.base import Log, Pass
from exporter.passes.fold_norm_gain import FoldNormGain
from exporter.passes.fuse_identity_dense import FuseIdentityDense
from exporter.passes.legalize_rotary import LegalizeRotary
from exporter.passes.static_heads import StaticHeads
from exporter.program import Program

EARLY: tuple[Pass, ...] = (
    StaticHeads(),  # first: grouped heads are illegal for three consumers until this has run
    LegalizeRotary(),  # the traced tables are refused by ONNX Runtime, so nothing runs before this
)
"""What makes a traced graph legal everywhere. Runs for every export."""

COMMON: tuple[Pass, ...] = (
    FuseIdentityDense(),  # before gains are folded: a gain then meets one matrix, not a chain
    FoldNormGain(),  # last: it asks that a norm's readers are linear maps in their final form
)
"""The laws that hold for every target. Runs after EARLY."""


class PassReport(BaseModel):
    """What one pass did to one program; part of the manifest."""

    model_config = ConfigDict(frozen=True)

    name: str
    equality: str
    applied: int
    refused: tuple[str, ...]
    nodes_before: int
    nodes_after: int
    parameters_before: int
    parameters_after: int
    seconds: float


def run(program: Program, passes: Iterable[Pass]) -> list[PassReport]:
    """Apply `passes` in order, with a legality check after each. Changes `program` in place."""
    reports = []
    for law in passes:
        started = time.perf_counter()
        nodes, parameters = len(program.graph), program.parameters()
        log: Log = law.rewrite(program.model)
        legality.check(program, law.name)
        reports.append(
            PassReport(
                name=law.name,
                equality=law.equality.name,
                applied=len(log.applied),
                refused=tuple(str(refusal) for refusal in log.refused),
                nodes_before=nodes,
                nodes_after=len(program.graph),
                parameters_before=parameters,
                parameters_after=program.parameters(),
                seconds=round(time.perf_counter() - started, 3),
            )
        )
    return reports
