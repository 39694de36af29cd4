"""narrow-linear: a linear map computes only the outputs that are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from goldfold.exporter.ir.program import where
from goldfold.exporter.passes.base import Equality, Pass
from goldfold.exporter.passes.rewriting.linear import (
    Linear,
    linear_ending_at,
    write_linear,
)
from goldfold.exporter.passes.rewriting.pattern import integers
from goldfold.exporter.passes.rewriting.writer import take_over


@dataclass(frozen=True)
class Narrowed:
    node: ir.Node
    linear: Linear
    width: int


@dataclass(frozen=True)
class NarrowLinear(Pass):
    """A slice of a linear map's leading outputs becomes a smaller linear map.

    This is Matryoshka truncation: `--dims 256` alone keeps a third of EmbeddingGemma's head.

    holds:
        (x W + b)[…, :d] = x W[:, :d] + b[:d]

    needs:
        only the slice reads the whole; the slice begins at 0, goes by ones, along the last axis

    before:
        f (float[B,6] x, float[6,8] w, float[8] b) => (float[B,3] y)
        {
            zero = Constant <value_ints: ints = [0]> ()
            end = Constant <value_ints: ints = [3]> ()
            axis = Constant <value_ints: ints = [-1]> ()
            h = Gemm(x, w, b)
            y = Slice(h, zero, end, axis)
        }

    after:
        f (float[B,6] x, float[6,3] w, float[3] b) => (float[B,3] y)
        {
            y = Gemm(x, w, b)
        }

    refuses: the whole is read as well
        f (float[B,6] x, float[6,8] w) => (float[B,3] y, float[B,8] z)
        {
            zero = Constant <value_ints: ints = [0]> ()
            end = Constant <value_ints: ints = [3]> ()
            axis = Constant <value_ints: ints = [-1]> ()
            h = MatMul(x, w)
            y = Slice(h, zero, end, axis)
            z = Relu(h)
        }

    refuses: the slice does not begin at 0
        # says the slice is not of the leading outputs, one by one
        f (float[B,6] x, float[6,8] w) => (float[B,3] y)
        {
            start = Constant <value_ints: ints = [1]> ()
            end = Constant <value_ints: ints = [4]> ()
            axis = Constant <value_ints: ints = [-1]> ()
            h = MatMul(x, w)
            y = Slice(h, start, end, axis)
        }
    """

    equality: ClassVar[Equality] = Equality.REAL

    def match(self, node: ir.Node) -> Narrowed | None:
        if node.op_type != "Slice" or node.domain or len(node.inputs) < 4:
            return None
        whole = node.inputs[0]
        linear = linear_ending_at(whole.producer()) if whole is not None else None
        ends, axes = integers(node.inputs[2]), integers(node.inputs[3])
        if whole is None or linear is None or whole.shape is None or ends is None:
            return None
        if axes not in ([-1], [len(whole.shape) - 1]):
            return None
        return Narrowed(node, linear, min(ends[0], linear.weight.shape[1]))

    def refuses(self, match: Narrowed) -> str | None:
        starts = integers(match.node.inputs[1])
        steps = integers(match.node.inputs[4]) if len(match.node.inputs) > 4 else [1]
        if starts != [0] or steps != [1] or match.width < 1:
            return "the slice is not of the leading outputs, one by one"
        whole = match.linear.output
        if whole.is_graph_output() or len(whole.uses()) != 1:
            return "the whole is read as well"
        return None

    def construct(self, match: Narrowed, memo: dict) -> None:
        linear, width = match.linear, match.width
        sliced, whole = match.node.outputs[0], linear.output
        bias = None if linear.bias is None else linear.bias[:width]
        # (x W + b)[…, :d] = x W[:, :d] + b[:d]
        write_linear(linear, linear.x, linear.weight[:, :width], bias, where(linear.product))
        narrow = match.node.inputs[0]
        assert narrow is not None and whole.shape is not None
        narrow.shape = sliced.shape
        take_over(sliced, narrow)
