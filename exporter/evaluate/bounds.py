"""Bounds on every floating value of a Program that hold for every text: any ids of the vocabulary,
any length up to the contract's, any padding, any batch.

Each op has a rule that turns bounds on its inputs into bounds on its result (extent_*.py). Nothing
is run and nothing is drawn: the weights alone decide. Rounding to each value's declared type is
part of it, and so are the errors of sums. An op without a rule has no bound, and the reason says
so.

The bounds hold in the order of the graph. A rule may hold for every finite input and no other (a
norm has its ball whatever it reads); the first value of a run that is not finite is therefore one
that has no bound below its type's end here, and where there is none, every value is finite.

Assumed, not proved: sums of products are accumulated in f32 or better, activations, softmax and
norms are computed in f32 and rounded once, as in exporter/evaluate/emulate.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from goldfold.exporter.evaluate import extent_arithmetic, extent_moves, extent_products
from goldfold.exporter.evaluate.extent import (
    SINGLE,
    Extent,
    fitted,
    of_constant,
    unbounded,
)
from goldfold.exporter.evaluate.extent_known import Known
from goldfold.exporter.evaluate.ranges import SCORES
from goldfold.exporter.ir import dialect
from goldfold.exporter.ir.program import Program, constant, infer_shapes

RULES = {**extent_moves.RULES, **extent_arithmetic.RULES, **extent_products.RULES}
"""The rule of each op that has one result."""
_SEVERAL = {"Split": extent_moves.split, "TopK": extent_moves.largest}
_EXACT = frozenset(extent_moves.RULES) - {"RotaryEmbedding"} | {
    *_SEVERAL, "Shape", "Size", "Range"
}  # fmt: skip
"""Ops whose results are numbers of their inputs."""
_END = float(np.finfo(np.float32).max)
_INSIDE = 4
"""Roundings to f32 that an op may make inside before its result is rounded to its type: library
functions of f32 are off by less than two units in the last place, which are four roundings."""


@dataclass(frozen=True)
class Bounds:
    """Bounds on |x| by the name of a floating value, and the reasons why others have none."""

    largest: dict[str, float]
    """Infinite where there is no bound. `OUTPUT.scores` bounds the scores inside a
    BandAttention."""
    over: dict[str, str]
    """The reason by value, where there is no bound."""


def of(program: Program, half: bool = False) -> Bounds:
    """Bounds on all values of `program`, which is left alone. With `half`, every f32 value and
    weight is taken to be rounded to fp16 as well: for a program that is about to be."""
    copy = program.copy()
    infer_shapes(copy.model)
    known = _Walk(copy, half)
    largest: dict[str, float] = {}
    over: dict[str, str] = {}
    for node in copy.graph:
        for value, extent in zip(node.outputs, known.after(node), strict=False):
            if not value.name or value.dtype is None or not value.dtype.is_floating_point():
                continue
            largest[value.name] = found = extent.largest
            if not math.isfinite(found):
                over[value.name] = extent.over or f"{node.op_type} has no bound here"
        if dialect.is_band_attention(node) and node.outputs[0].name:
            largest[f"{node.outputs[0].name}{SCORES}"] = extent_products.scores(node, known)
    return Bounds(largest, over)


class _Walk(Known):
    """The walk through a graph, node by node."""

    def after(self, node: ir.Node) -> list[Extent]:
        """The extents of a node's results, which are known from now on."""
        op = dialect.op_of(node)
        if op in _SEVERAL:
            found = _SEVERAL[op](node, self)
        elif op == "Constant":
            array = constant(node.outputs[0])
            found = [unbounded("a Constant of no numbers") if array is None else of_constant(array)]
        elif op in RULES:
            found = [RULES[op](node, self)]
        else:
            found = [unbounded(f"{op} has no rule")]
        found += [unbounded(f"a further result of {op}")] * (len(node.outputs) - len(found))
        for place, value in enumerate(node.outputs):
            extent = fitted(found[place], self.sizes(value))
            self.extents[value] = found[place] = self._rounded(value, op, extent)
        return found

    def _rounded(self, value: ir.Value, op: str, extent: Extent) -> Extent:
        if value.dtype is None or not value.dtype.is_floating_point() or op == "Constant":
            return extent
        lookup = self.half and op in ("Gather", "DequantizeLinear")
        if op in _EXACT and not lookup:
            return extent
        rounding = self.rounding_of(value)
        if op != "Cast":
            extent = SINGLE.of(extent, _INSIDE)
        found = rounding.of(extent)
        if value.dtype != ir.DataType.FLOAT16 and found.largest > _END:
            return fitted(unbounded(found.over or f"{op} may leave f32"), self.sizes(value))
        if extent.mass is not None:
            count = self.keys(self.width(value))
            found = Extent(
                found.lo, found.hi, found.ball,
                extent.mass * (1 + rounding.unit) + rounding.tiny * count, False, found.over,
            )  # fmt: skip
        return found
