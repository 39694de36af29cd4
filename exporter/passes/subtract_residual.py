"""subtract-residual: the addition in front of a layer norm becomes a subtraction, for ONNX
Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from goldfold.exporter.ir.program import add_constant, constant
from goldfold.exporter.passes.base import Equality, Pass
from goldfold.exporter.passes.rewriting.linear import Linear, linear_ending_at
from goldfold.exporter.passes.rewriting.writer import supplant
from goldfold.exporter.passes.sum_residual import SumResidual


@dataclass(frozen=True)
class Residual:
    node: ir.Node
    stream: ir.Value
    """The summand that is kept."""
    linear: Linear
    """The linear map that makes the other."""


@dataclass(frozen=True)
class SubtractResidual(Pass):
    """x + (a W + b) in front of a LayerNormalization becomes x − (a (−W) + (−b)).

    ONNX Runtime fuses Add and LayerNormalization into `SkipLayerNormalization`, whose kernel is
    slower on CPUs than the two are by themselves (docs/onnxruntime.md). It does not look for Sub,
    which has all of its threads. sum-residual does the same where no weight can be negated.

    holds:
        x + (a W + b) = x − (a (−W) + (−b)): the sign is no part of any rounding

    needs:
        W and b are floating constants, and only the addition reads the map's result

    before: a map with a bias, and one without
        f (float[B,T,6] x, float[B,T,4] a, float[4,6] w, float[6] b, float[6,6] u, float[6] g)
            => (float[B,T,6] z)
        {
            p = MatMul(a, w)
            m = Add(p, b)
            s = Add(m, x)
            y = LayerNormalization <axis: int = -1, epsilon: float = 1e-5> (s, g)
            n = MatMul(y, u)
            t = Add(y, n)
            z = LayerNormalization <axis: int = -1, epsilon: float = 1e-5> (t, g)
        }

    after: a map with a bias, and one without
        f (float[B,T,6] x, float[B,T,4] a, float[4,6] w, float[6] b, float[6,6] u, float[6] g)
            => (float[B,T,6] z)
        {
            p = MatMul(a, w)
            m = Add(p, b)
            s = Sub(x, m)
            y = LayerNormalization <axis: int = -1, epsilon: float = 1e-5> (s, g)
            n = MatMul(y, u)
            t = Sub(y, n)
            z = LayerNormalization <axis: int = -1, epsilon: float = 1e-5> (t, g)
        }

    before: Gemm
        f (float[M,6] x, float[M,4] a, float[4,6] w, float[6] b, float[6] g) => (float[M,6] z)
        {
            m = Gemm(a, w, b)
            s = Add(x, m)
            z = LayerNormalization <axis: int = -1, epsilon: float = 1e-5> (s, g)
        }

    after: Gemm
        f (float[M,6] x, float[M,4] a, float[4,6] w, float[6] b, float[6] g) => (float[M,6] z)
        {
            m = Gemm(a, w, b)
            s = Sub(x, m)
            z = LayerNormalization <axis: int = -1, epsilon: float = 1e-5> (s, g)
        }

    ignores: another reader of the map
        f (float[B,T,6] x, float[B,T,4] a, float[4,6] w, float[6] g)
            => (float[B,T,6] z, float[B,T,6] c)
        {
            m = MatMul(a, w)
            s = Add(x, m)
            z = LayerNormalization <axis: int = -1, epsilon: float = 1e-5> (s, g)
            c = Neg(m)
        }

    ignores: a weight that is computed
        f (float[B,T,6] x, float[B,T,4] a, float[B,4,6] w, float[6] g) => (float[B,T,6] z)
        {
            m = MatMul(a, w)
            s = Add(x, m)
            z = LayerNormalization <axis: int = -1, epsilon: float = 1e-5> (s, g)
        }
    """

    equality: ClassVar[Equality] = Equality.EXACT

    def match(self, node: ir.Node) -> Residual | None:
        if SumResidual().match(node) is None:
            return None
        for index in (1, 0):
            value, stream = node.inputs[index], node.inputs[1 - index]
            linear = linear_ending_at(None if value is None else value.producer())
            if value is None or stream is None or linear is None:
                continue
            if len(value.uses()) == 1 and not value.is_graph_output():
                return Residual(node, stream, linear)
        return None

    def refuses(self, match: Residual) -> str | None:
        return None

    def construct(self, match: Residual, memo: dict) -> None:
        for node in dict.fromkeys((match.linear.product, match.linear.node)):
            for index, value in enumerate(node.inputs):
                numbers = constant(value)
                if value is None or numbers is None:
                    continue
                if value not in memo:  # layers may share their weights
                    graph = node.graph
                    assert graph is not None
                    memo[value] = add_constant(graph, f"{value.name}.negated", -numbers)
                node.replace_input_with(index, memo[value])
        m = match.linear.output
        supplant(match.node.outputs[0], "Sub", match.stream, m)
