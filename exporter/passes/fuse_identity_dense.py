"""fuse-identity-dense: two linear maps in sequence are one linear map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir.program import where
from goldfold.exporter.passes.base import Equality, Pass
from goldfold.exporter.passes.rewriting.linear import Linear, linear_ending_at, write_linear


@dataclass(frozen=True)
class Chain:
    inner: Linear
    outer: Linear


@dataclass(frozen=True)
class FuseIdentityDense(Pass):
    """Two dense layers with an identity activation between them become one dense layer.

    holds:
        (x W1 + b1) W2 + b2 = x (W1 W2) + (b1 W2 + b2)

    The product is formed in f64 and rounded once. A chain of any length is fused link by link.

    needs:
        only the second layer reads the middle value, and the product has no more numbers than its
        factors

    before:
        f (float[B,6] x, float[6,16] w1, float[16] b1, float[16,6] w2, float[6] b2)
            => (float[B,6] y)
        {
            h = Gemm(x, w1, b1)
            y = Gemm(h, w2, b2)
        }

    after:
        f (float[B,6] x, float[6,6] w, float[6] b) => (float[B,6] y)
        {
            y = Gemm(x, w, b)
        }

    refuses: the product is larger
        # says the product would hold 36 numbers, its factors hold 24
        f (float[B,6] x, float[6,2] w1, float[2,6] w2) => (float[B,6] y)
        {
            h = MatMul(x, w1)
            y = MatMul(h, w2)
        }

    refuses: the middle value has another use
        # says Relu also reads the value between the two
        f (float[B,6] x, float[6,16] w1, float[16,6] w2) => (float[B,6] y, float[B,16] z)
        {
            h = MatMul(x, w1)
            y = MatMul(h, w2)
            z = Relu(h)
        }
    """

    equality: ClassVar[Equality] = Equality.REAL

    def match(self, node: ir.Node) -> Chain | None:
        outer = linear_ending_at(node)
        inner = linear_ending_at(outer.x.producer()) if outer is not None else None
        return None if outer is None or inner is None else Chain(inner, outer)

    def refuses(self, match: Chain) -> str | None:
        inner, outer = match.inner, match.outer
        middle = inner.output
        if middle.is_graph_output():
            return "the value between the two is an output of the graph"
        others = [where(n) for n, _ in middle.uses() if n is not outer.product]
        if others:
            return f"{others[0]} also reads the value between the two"
        fused = inner.weight.shape[0] * outer.weight.shape[1]
        if fused > inner.weight.size + outer.weight.size:
            return (
                f"the product would hold {fused:,} numbers, "
                f"its factors hold {inner.weight.size + outer.weight.size:,}"
            )
        return None

    def construct(self, match: Chain, memo: dict) -> None:
        inner, outer = match.inner, match.outer
        # W1 W2
        second = outer.weight.astype(np.float64)
        weight = inner.weight.astype(np.float64) @ second
        # b1 W2 + b2
        bias = None
        if inner.bias is not None or outer.bias is not None:
            given = outer.bias
            bias = np.zeros(weight.shape[1]) if given is None else given.astype(np.float64)
            if inner.bias is not None:
                bias = bias + inner.bias.astype(np.float64) @ second
        kind = outer.weight.dtype
        write_linear(
            outer,
            inner.x,
            weight.astype(kind),
            None if bias is None else bias.astype(kind),
            f"{where(inner.node)}.fused",
        )
