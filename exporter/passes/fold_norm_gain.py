"""fold-norm-gain: a norm's gain moves into the linear maps that read the norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir.program import add_constant, where
from goldfold.exporter.passes.base import Equality, Pass
from goldfold.exporter.passes.rewriting.linear import bias_add, linear_ending_at, scale_input
from goldfold.exporter.passes.rewriting.pattern import gain_of

Policy = Literal["full", "none"]


@dataclass(frozen=True)
class Norm:
    node: ir.Node
    gain: np.ndarray
    """[K]"""
    shift: np.ndarray | None
    """[K], LayerNorm's bias"""
    readers: tuple[ir.Node, ...]
    """The last op of every linear map that reads the norm; other readers themselves."""


@dataclass(frozen=True)
class FoldNormGain(Pass):
    """The gain (and LayerNorm's bias) of a norm moves into the weights of the linear maps that read
    the norm, if no other op reads it.

    `policy` "none" leaves every gain in place, for weights that are to be quantized: folded,
    EmbeddingGemma's gains (up to 378) make outlier columns. balance-channels distributes them.

    holds:
        (n(x) · g + c) W + b = n(x) (diag(g) W) + (c W + b)

    needs:
        every reader of the norm is a linear map with a constant weight; an output of the graph is
        no such reader. The gain is one number per channel of the last axis.

    before:
        f (float[B,6] x, float[6] g, float[6,5] w, float[6,4] v) => (float[B,5] y, float[B,4] z)
        {
            n = RMSNormalization <axis: int = -1, epsilon: float = 1e-6> (x, g)
            y = MatMul(n, w)
            z = MatMul(n, v)
        }

    after:
        f (float[B,6] x, float[6] ones, float[6,5] w, float[6,4] v) => (float[B,5] y, float[B,4] z)
        {
            n = RMSNormalization <axis: int = -1, epsilon: float = 1e-6> (x, ones)
            y = MatMul(n, w)
            z = MatMul(n, v)
        }

    before: with LayerNorm's bias
        f (float[B,6] x, float[6] g, float[6] c, float[6,5] w) => (float[B,5] y)
        {
            n = LayerNormalization <axis: int = -1, epsilon: float = 1e-12> (x, g, c)
            y = MatMul(n, w)
        }

    after: with LayerNorm's bias
        f (float[B,6] x, float[6] ones, float[6,5] w, float[5] b) => (float[B,5] y)
        {
            n = LayerNormalization <axis: int = -1, epsilon: float = 1e-12> (x, ones)
            p = MatMul(n, w)
            y = Add(p, b)
        }

    refuses: a sum also reads the norm
        # says Add (Add) also reads the norm
        f (float[B,6] x, float[6] g, float[6,6] w) => (float[B,6] y)
        {
            n = RMSNormalization <axis: int = -1> (x, g)
            h = MatMul(n, w)
            y = Add(n, h)
        }

    refuses: the norm is an output
        f (float[B,6] x, float[6] g, float[6,6] w) => (float[B,6] n, float[B,6] y)
        {
            n = RMSNormalization <axis: int = -1> (x, g)
            y = MatMul(n, w)
        }
    """

    equality: ClassVar[Equality] = Equality.REAL
    policy: Policy = "full"
    """"none" folds no gain."""

    def match(self, node: ir.Node) -> Norm | None:
        found = None if self.policy == "none" else gain_of(node)
        if found is None:
            return None
        readers = []
        for reader, _ in node.outputs[0].uses():
            readers.append(bias_add(reader) or reader if reader.op_type == "MatMul" else reader)
        return Norm(node, *found, tuple(readers))

    def refuses(self, match: Norm) -> str | None:
        output, given = match.node.outputs[0], (match.gain, match.shift)
        axis = match.node.attributes.get("axis")
        if match.gain.ndim != 1 or (axis is not None and axis.value != -1):
            return "it does not normalise the last axis alone"
        if len(match.node.outputs) > 1 and any(v.uses() for v in match.node.outputs[1:]):
            return "its mean or variance is read as well"
        if output.is_graph_output():
            return "the norm is an output of the graph"
        if not match.readers:
            return "nothing reads it"
        for reader in match.readers:
            linear = linear_ending_at(reader)
            if linear is None or linear.x is not output:
                return f"{where(reader)} ({reader.op_type}) also reads the norm"
            if any(v is not None and v.shape != linear.weight.shape[:1] for v in given):
                return "its gain or its bias is not one number a channel"
        return None

    def construct(self, match: Norm, memo: dict) -> None:
        graph = match.node.graph
        assert graph is not None
        for reader in match.readers:
            linear = linear_ending_at(reader)
            assert linear is not None
            scale_input(linear, match.gain, match.shift)
        key = (match.gain.size, match.gain.dtype)
        if key not in memo:
            memo[key] = add_constant(graph, f"ones_{match.gain.size}", np.ones_like(match.gain))
        match.node.replace_input_with(1, memo[key])
        if match.shift is not None:
            match.node.resize_inputs(2)
