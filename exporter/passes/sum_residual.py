"""sum-residual: the addition in front of a layer norm becomes `Sum`, for ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from goldfold.exporter.ir.program import constant
from goldfold.exporter.passes.base import Equality, Pass
from goldfold.exporter.passes.rewriting.writer import supplant


@dataclass(frozen=True)
class SumResidual(Pass):
    """An Add of two computed values that a LayerNormalization reads becomes a Sum of two.

    ONNX Runtime fuses Add and LayerNormalization into `SkipLayerNormalization`, whose kernel is
    slower on CPUs than the two are by themselves (docs/onnxruntime.md). It does not look for Sum.

    holds:
        Sum(a, b) = a + b

    needs:
        both summands are computed: the addition of a constant joins the product in front of it

    before:
        f (float[B,T,6] x, float[B,T,6] y, float[6] g, float[6] b) => (float[B,T,6] z)
        {
            s = Add(x, y)
            z = LayerNormalization <axis: int = -1, epsilon: float = 1e-5> (s, g, b)
        }

    after:
        f (float[B,T,6] x, float[B,T,6] y, float[6] g, float[6] b) => (float[B,T,6] z)
        {
            s = Sum(x, y)
            z = LayerNormalization <axis: int = -1, epsilon: float = 1e-5> (s, g, b)
        }

    ignores: a constant
        f (float[B,T,6] x, float[6] y, float[6] g) => (float[B,T,6] z)
        {
            s = Add(x, y)
            z = LayerNormalization <axis: int = -1, epsilon: float = 1e-5> (s, g)
        }

    ignores: no norm
        f (float[B,T,6] x, float[B,T,6] y) => (float[B,T,6] z)
        {
            z = Add(x, y)
        }
    """

    equality: ClassVar[Equality] = Equality.EXACT

    def match(self, node: ir.Node) -> ir.Node | None:
        if (
            node.domain
            or node.op_type != "Add"
            or any(constant(v) is not None for v in node.inputs)
        ):
            return None
        readers = (reader for reader, _ in node.outputs[0].uses())
        norms = (r for r in readers if not r.domain and r.op_type == "LayerNormalization")
        return node if next(norms, None) is not None else None

    def refuses(self, match: ir.Node) -> str | None:
        return None

    def construct(self, match: ir.Node, memo: dict) -> None:
        supplant(match.outputs[0], "Sum", *match.inputs)
