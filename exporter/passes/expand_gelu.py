"""expand-gelu: Gelu in the ops of opset 17."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from goldfold.exporter.passes.base import Equality, Pass
from goldfold.exporter.passes.rewriting.older import Spelling
from goldfold.exporter.passes.rewriting.pattern import attribute
from goldfold.exporter.passes.rewriting.writer import take_over

_ROOT = math.sqrt(np.float32(2.0 / math.pi))
_CUBE = float(np.float32(0.044715))
"""The constants of ONNX's own definition, which has 2/π and 0.044715 as f32."""


@dataclass(frozen=True)
class ExpandGelu(Pass):
    """Gelu, which opset 20 brought, becomes arithmetic around an erf or a tanh, for older opsets.
    ONNX Runtime finds the one with an erf again, and has a kernel for it.

    holds:
        Gelu(x; none) = x/2 · (1 + erf(x/√2)) and
        Gelu(x; tanh) = x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))

    needs:
        half precision is computed in f32, where x³ has room

    before: with an erf
        f (float[B,T,6] x) => (float[B,T,6] y)
        {
            y = Gelu(x)
        }

    after: with an erf
        f (float[B,T,6] x) => (float[B,T,6] y)
        {
            root = Constant <value_float: float = 1.4142135> ()
            one = Constant <value_float: float = 1.0> ()
            half = Constant <value_float: float = 0.5> ()
            part = Div(x, root)
            bent = Erf(part)
            more = Add(bent, one)
            both = Mul(x, more)
            y = Mul(both, half)
        }

    before: with a tanh
        f (float[B,T,6] x) => (float[B,T,6] y)
        {
            y = Gelu <approximate: string = "tanh"> (x)
        }

    after: with a tanh
        f (float[B,T,6] x) => (float[B,T,6] y)
        {
            c = Constant <value_float: float = 0.044715> ()
            root = Constant <value_float: float = 0.7978845> ()
            one = Constant <value_float: float = 1.0> ()
            half = Constant <value_float: float = 0.5> ()
            square = Mul(x, x)
            cube = Mul(square, x)
            little = Mul(cube, c)
            sum = Add(x, little)
            part = Mul(sum, root)
            bent = Tanh(part)
            more = Add(bent, one)
            halved = Mul(x, half)
            y = Mul(halved, more)
        }

    refuses: an approximation that ONNX has no name for
        # says it knows no approximation 'sigmoid'
        f (float[B,T,6] x) => (float[B,T,6] y)
        {
            y = Gelu <approximate: string = "sigmoid"> (x)
        }
    """

    equality: ClassVar[Equality] = Equality.REAL
    required: ClassVar[bool] = True

    def match(self, node: ir.Node) -> ir.Node | None:
        return node if not node.domain and node.op_type == "Gelu" else None

    def refuses(self, match: ir.Node) -> str | None:
        kind, x = attribute(match, "approximate", "none"), match.inputs[0]
        if kind not in ("none", "tanh"):
            return f"it knows no approximation {kind!r}"
        return "the type of x is not known" if x is None or x.dtype is None else None

    def construct(self, match: ir.Node, memo: dict) -> None:
        x = match.inputs[0]
        assert x is not None
        write = Spelling(match, memo)
        wide = write.widened(x)
        half, one = write.number(0.5, wide), write.number(1.0, wide)
        if attribute(match, "approximate", "none") == "tanh":
            # x/2 · (1 + tanh(√(2/π) · (x + c x³)))
            cube = write("Mul", write("Mul", wide, wide, name="square"), wide, name="cube")
            little = write("Mul", cube, write.number(_CUBE, wide), name="little")
            sum_ = write("Add", wide, little, name="sum")
            part = write("Mul", sum_, write.number(_ROOT, wide), name="part")
            more = write("Add", write("Tanh", part, name="bent"), one, name="more")
            value = write("Mul", write("Mul", wide, half, name="half"), more, name="bend")
        else:
            # x/2 · (1 + erf(x/√2))
            part = write("Div", wide, write.number(math.sqrt(2.0), wide), name="part")
            more = write("Add", write("Erf", part, name="bent"), one, name="more")
            value = write("Mul", write("Mul", wide, more, name="both"), half, name="bend")
        take_over(match.outputs[0], write.as_before(value, x))
