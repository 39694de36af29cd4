"""drop-scale-before-normalize: a norm cancels a factor of its input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir import dialect
from goldfold.exporter.ir.program import add_constant, constant
from goldfold.exporter.passes.base import Equality, Pass
from goldfold.exporter.passes.rewriting.pattern import floor_of


@dataclass(frozen=True)
class Scaled:
    node: ir.Node
    """The norm, or the division that ends an L2 normalisation."""
    scale: ir.Node
    x: ir.Value
    factor: float
    floor: ir.Node | None
    """The Clip of an L2 normalisation."""


@dataclass(frozen=True)
class DropScaleBeforeNormalize(Pass):
    """A positive factor in front of an RMS norm, a LayerNorm or an L2 normalisation vanishes into
    its epsilon.

    holds:
        rms(c x; ε) = rms(x; ε / c²), likewise LayerNorm;  c x / max(‖c x‖, ε) = x / max(‖x‖, ε / c)

    needs:
        the factor is one positive constant, and only this norm reads the scaled value

    before:
        f (float[B,6] x, float[6] g) => (float[B,6] y)
        {
            c = Constant <value_float: float = 4.0> ()
            s = Mul(x, c)
            y = RMSNormalization <axis: int = -1, epsilon: float = 0.0001> (s, g)
        }

    after:
        f (float[B,6] x, float[6] g) => (float[B,6] y)
        {
            y = RMSNormalization <axis: int = -1, epsilon: float = 6.25e-06> (x, g)
        }

    before: L2
        f (float[B,6] x) => (float[B,6] y)
        {
            c = Constant <value_float: float = 0.5> ()
            floor = Constant <value_float: float = 1e-12> ()
            last = Constant <value_ints: ints = [-1]> ()
            s = Mul(x, c)
            n = ReduceL2(s, last)
            m = Clip(n, floor)
            y = Div(s, m)
        }

    after: L2
        f (float[B,6] x) => (float[B,6] y)
        {
            floor = Constant <value_float: float = 2e-12> ()
            last = Constant <value_ints: ints = [-1]> ()
            n = ReduceL2(x, last)
            m = Clip(n, floor)
            y = Div(x, m)
        }

    refuses: the factor is negative
        # says the factor -4 is not positive
        f (float[B,6] x, float[6] g) => (float[B,6] y)
        {
            c = Constant <value_float: float = -4.0> ()
            s = Mul(x, c)
            y = RMSNormalization <axis: int = -1> (s, g)
        }

    refuses: a sum also reads it
        # says the scaled value is read by more than the norm
        f (float[B,6] x, float[6] g) => (float[B,6] y)
        {
            c = Constant <value_float: float = 4.0> ()
            s = Mul(x, c)
            n = RMSNormalization <axis: int = -1> (s, g)
            y = Add(s, n)
        }
    """

    equality: ClassVar[Equality] = Equality.REAL

    def match(self, node: ir.Node) -> Scaled | None:
        floor = None
        if dialect.op_of(node) == "Div":
            floor = floor_of(node)
            if floor is None:
                return None
        elif dialect.op_of(node) not in dialect.NORMS:
            return None
        scaled = node.inputs[0]
        scale = scaled.producer() if scaled is not None else None
        if scale is None or scale.op_type != "Mul" or scale.domain:
            return None
        for index in (0, 1):
            factor, x = constant(scale.inputs[index]), scale.inputs[1 - index]
            # A factor of more axes would add axes to x.
            if factor is not None and factor.shape in ((), (1,)) and x is not None:
                return Scaled(node, scale, x, float(factor.reshape(())), floor)
        return None

    def refuses(self, match: Scaled) -> str | None:
        if not match.factor > 0:
            return f"the factor {match.factor:g} is not positive"
        if len(match.node.outputs) > 1 and any(v.uses() for v in match.node.outputs[1:]):
            return "the norm's mean or variance is read as well"
        scaled = match.scale.outputs[0]
        mine = {match.node}
        if match.floor is not None and match.floor.inputs[0] is not None:
            length = match.floor.inputs[0].producer()
            mine |= {length} if length is not None else set()
        if scaled.is_graph_output() or any(reader not in mine for reader, _ in scaled.uses()):
            return "the scaled value is read by more than the norm"
        return None

    def construct(self, match: Scaled, memo: dict) -> None:
        match.scale.outputs[0].replace_all_uses_with(match.x)
        if match.floor is None:
            old = match.node.attributes.get("epsilon")
            epsilon = (1e-5 if old is None else old.value) / match.factor**2
            match.node.attributes["epsilon"] = ir.AttrFloat32("epsilon", epsilon)
            return
        assert match.floor.graph is not None
        least = constant(match.floor.inputs[1])
        assert least is not None
        moved = np.array(float(least) / match.factor, dtype=least.dtype)
        name = f"{match.floor.inputs[1].name}.moved"  # type: ignore[union-attr]
        match.floor.replace_input_with(1, add_constant(match.floor.graph, name, moved))
