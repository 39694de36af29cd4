"""What a pass is: one file, one law, one frozen dataclass whose fields are its options.

A pass says three things apart: `match` (is this my pattern? silent if not), `refuses` (mine, but
illegal here: a sentence that goes to the log) and `construct` (the rewrite). The loop that drives
them is here and nowhere else.

A pass's docstring is its law and its test (`exporter/passes/docstring.py` reads it): `before:` and
`after:` in ONNX text, `holds:` the algebra, `needs:` the legality, `refuses:` examples that must be
left alone and are logged with the reason that is given, `ignores:` such that are none of its own.
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
    """How equal a pass leaves the program. The tolerance of its test follows from this word."""

    EXACT = "the same bits in f32, where nothing over- or underflows"
    REAL = "the same function over the real numbers; tested in f64"
    BOUND = "within the bound that the pass states"


@dataclass(frozen=True)
class Refusal:
    """Why a pass left alone a place that looks like its pattern."""

    pass_name: str
    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.pass_name}: refused at {self.place}: {self.reason}"


@dataclass
class Log:
    """What one run of one pass did. `budget` ends it after so many applications."""

    budget: int | None = None
    applied: list[str] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)

    @property
    def spent(self) -> bool:
        return self.budget is not None and len(self.applied) >= self.budget


class Pass(ir.passes.InPlacePass):
    """Base of every law. Subclasses are frozen dataclasses and set `equality`."""

    equality: ClassVar[Equality]
    required: ClassVar[bool] = False
    """Whether nothing runs without it, so that it can be neither skipped nor bisected away."""
    bound: ClassVar[str] = ""
    """Of a BOUND pass without a `unit`: the test that holds it to its own bound, file::name."""

    @property
    def name(self) -> str:
        """`FuseIdentityDense` → `fuse-identity-dense`."""
        return re.sub(r"(?<!^)(?=[A-Z])", "-", type(self).__name__).lower()

    def unit(self) -> float | None:
        """The unit roundoff of the type that a BOUND pass rounds to: its bound is what rounding
        every value to that type may move. None where `bound` names a test of its own instead."""
        return None

    @abstractmethod
    def match(self, node: ir.Node) -> Any | None:
        """The pattern with `node` as its last op, or None if it is not this pass's."""

    @abstractmethod
    def refuses(self, match: Any) -> str | None:
        """None if the rewrite is legal here, else the reason in words. Changes nothing."""

    @abstractmethod
    def construct(self, match: Any, memo: dict[Any, ir.Value]) -> None:
        """Rewrite in place. Called only where `refuses` said None.

        `memo` lives for one sweep: what one rewrite made, a later one may read instead of making it
        again, since the sweep follows the graph's order.
        """

    def rewrite(self, model: ir.Model, log: Log | None = None) -> Log:
        """Sweep the graph once in order; what one rewrite makes, a later one may match."""
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
