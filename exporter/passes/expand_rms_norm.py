"""expand-rms-norm: RMSNormalization in the ops of opset 17."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from goldfold.exporter.passes.base import Equality, Pass
from goldfold.exporter.passes.rewriting.older import Spelling
from goldfold.exporter.passes.rewriting.pattern import attribute
from goldfold.exporter.passes.rewriting.writer import take_over

_EPSILON = float(np.float32(1e-5))
"""The default: an attribute is f32."""


@dataclass(frozen=True)
class ExpandRmsNorm(Pass):
    """RMSNormalization, which opset 23 brought, becomes the division of x by the root of its mean
    square, for older opsets. ONNX Runtime finds the norm again and has a kernel for it.

    holds:
        RMSNormalization(x, g; ε) = x / √(mean(x²) + ε) · g over the axes from `axis` on

    needs:
        the last axis, or a known rank; half precision is normalised in f32, as stash_type 1 says

    before: over the last axis
        f (float[B,T,6] x, float[6] g) => (float[B,T,6] y)
        {
            y = RMSNormalization <axis: int = -1, epsilon: float = 1e-6> (x, g)
        }

    after: over the last axis
        f (float[B,T,6] x, float[6] g, float e) => (float[B,T,6] y)
        {
            two = Constant <value: tensor = int64 {2}> ()
            last = Constant <value_ints: ints = [-1]> ()
            square = Pow(x, two)
            mean = ReduceMean(square, last)
            sum = Add(mean, e)
            root = Sqrt(sum)
            unit = Div(x, root)
            y = Mul(unit, g)
        }

    before: over two axes
        f (float[B,T,2,3] x, float[2,3] g) => (float[B,T,2,3] y)
        {
            y = RMSNormalization <axis: int = 2> (x, g)
        }

    after: over two axes
        none

    refuses: half precision without f32 inside
        # says it is normalised in FLOAT16 itself
        f (float16[B,T,6] x, float16[6] g) => (float16[B,T,6] y)
        {
            y = RMSNormalization <axis: int = -1, stash_type: int = 10> (x, g)
        }
    """

    equality: ClassVar[Equality] = Equality.REAL
    required: ClassVar[bool] = True

    def match(self, node: ir.Node) -> ir.Node | None:
        return node if not node.domain and node.op_type == "RMSNormalization" else None

    def refuses(self, match: ir.Node) -> str | None:
        x = match.inputs[0]
        if x is None or x.dtype is None:
            return "the type of x is not known"
        if attribute(match, "stash_type", 1) != ir.DataType.FLOAT.value:
            return f"it is normalised in {x.dtype} itself"
        if attribute(match, "axis", -1) != -1 and x.shape is None:
            return "the rank of x is not known"
        return None

    def construct(self, match: ir.Node, memo: dict) -> None:
        x, gain = match.inputs[:2]
        assert x is not None and gain is not None
        write = Spelling(match, memo)
        wide = write.widened(x)
        axis, rank = attribute(match, "axis", -1), 0 if x.shape is None else len(x.shape)
        axes = [-1] if axis in (-1, rank - 1) else list(range(axis % rank, rank))
        # x / √(mean(x²) + ε), in the spelling that ONNX Runtime fuses
        square = write("Pow", wide, write.ints(2), name="square")
        mean = write("ReduceMean", square, write.ints(axes), name="mean")
        epsilon = write.number(attribute(match, "epsilon", _EPSILON), wide)
        root = write("Sqrt", write("Add", mean, epsilon, name="sum"), name="root")
        unit = write.as_before(write("Div", wide, root, name="unit"), x)
        take_over(match.outputs[0], write("Mul", unit, gain, name="scaled"))
