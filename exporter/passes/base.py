"""A pass is one file, one law, and one frozen dataclass whose fields are its options.

A pass has three methods: `match` (is this node its pattern? silent if not), `refuses` (the pattern,
but illegal here: a sentence that goes to the log) and `construct` (the rewrite). One loop, in this
file, drives them all.

A pass's docstring states its law and its test (`exporter/passes/docstring.py` reads it): `before:`
and `after:` in ONNX text, `holds:` the algebra, `needs:` the legality, `refuses:` examples that the
pass must leave alone and log with the given reason, `ignores:` examples that do not match.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar

import onnx_ir as ir

from goldfold.exporter.ir.program import drop_unused, where


class Equality(Enum):
    """The equality that a pass guarantees. The tolerance of its test follows from this word."""

    EXACT = "the same bits in f32, where nothing over- or underflows"
    REAL = "the same function over the real numbers; tested in f64"
    BOUND = "within the bound that the pass states"


@dataclass(frozen=True)
class Refusal:
    """The reason why a pass left alone a place that looks like its pattern."""

    pass_name: str
    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.pass_name}: refused at {self.place}: {self.reason}"


@dataclass
class Log:
    """The record of one run of one pass. `budget` ends the run after so many applications."""

    budget: int | None = None
    applied: list[str] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)

    @property
    def spent(self) -> bool:
        return self.budget is not None and len(self.applied) >= self.budget


class Pass(ir.passes.InPlacePass):
    """Base of every pass. Subclasses are frozen dataclasses and set `equality`."""

    equality: ClassVar[Equality]
    required: ClassVar[bool] = False
    """Whether no runtime works without the pass, so that it is never skipped or bisected away."""
    bound: ClassVar[str] = ""
    """For a BOUND pass without a `unit`: the test that checks its own bound, file::name."""

    @property
    def name(self) -> str:
        """`FuseIdentityDense` → `fuse-identity-dense`."""
        return re.sub(r"(?<!^)(?=[A-Z])", "-", type(self).__name__).lower()

    def unit(self) -> float | None:
        """The unit roundoff of the type that a BOUND pass rounds to: the bound is the change that
        rounding every value to that type may cause. None where `bound` names a test instead."""
        return None

    @abstractmethod
    def match(self, node: ir.Node) -> Any | None:
        """The pattern with `node` as its last op, or None if the pattern is not this pass's."""

    @abstractmethod
    def refuses(self, match: Any) -> str | None:
        """None if the rewrite is legal here, else the reason in words. Changes no node."""

    @abstractmethod
    def construct(self, match: Any, memo: dict[Any, ir.Value]) -> None:
        """Rewrite in place. Called only where `refuses` returned None.

        `memo` lives for one sweep: a rewrite may read a value of an earlier one instead of making
        that value again, since the sweep follows the graph's order.
        """

    def rewrite(self, model: ir.Model, log: Log | None = None) -> Log:
        """Sweep the graph once in order; later matches may use the results of earlier rewrites."""
        log = log or Log()
        memo: dict[Any, ir.Value] = {}
        for node in list(model.graph):
            if log.spent:
                break
            if node.graph is None:
                continue
            match = self.match(node)
            if match is None:
                continue
            reason = self.refuses(match)
            if reason is not None:
                log.refused.append(Refusal(self.name, where(node), reason))
                continue
            log.applied.append(where(node))
            self.construct(match, memo)
        if log.applied:
            drop_unused(model)
        return log

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        log = self.rewrite(model)
        return ir.passes.PassResult(model, modified=bool(log.applied))
