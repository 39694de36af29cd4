"""round-weights: integer weights of a linear map, multiplied out, are rounded to bf16."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from goldfold.exporter.ir.program import constant
from goldfold.exporter.passes.base import Equality, Pass
from goldfold.exporter.passes.quantize_weights import dynamic_group
from goldfold.exporter.passes.rewriting.integers import multiplies_integers
from goldfold.exporter.passes.rewriting.pattern import attribute, chooses, producer
from goldfold.exporter.passes.rewriting.writer import Writer


@dataclass(frozen=True)
class RoundWeights(Pass):
    """A constant matrix behind DequantizeLinear is rounded to bf16 before a linear map reads it.

    OpenVINO's CPU plugin keeps integers that it finds behind a linear map, and where it computes in
    bf16 it multiplies and rounds them at every call. Between two Casts it does not find them: it
    works the matrix out when it compiles, and holds it in bf16, two bytes a weight, which it
    multiplies as fast as weights that were never integers (docs/quantization.md). The numbers that
    are multiplied are the same.

    Where the other operand is rounded as well, integers are multiplied with integers, and that map
    stays as it is. The scores by which a router chooses experts are computed in f32 there.

    holds:
        bf16(s · Q) = s · Q · (1 + e), |e| ≤ 2^-8

    needs:
        integers and scales are constants

    before: a scale per channel
        f (float[B,T,6] x, int8[6,4] w, float[4] s) => (float[B,T,4] y)
        {
            d = DequantizeLinear <axis: int = 1> (w, s)
            y = MatMul(x, d)
        }

    after: a scale per channel
        f (float[B,T,6] x, int8[6,4] w, float[4] s) => (float[B,T,4] y)
        {
            d = DequantizeLinear <axis: int = 1> (w, s)
            half = Cast <to: int = 16> (d)
            wide = Cast <to: int = 1> (half)
            y = MatMul(x, wide)
        }

    before: one matrix of 4 bits, read twice
        f (float[B,6] x, float[B,6] z, int4[4,6] w, float[4,3] s) => (float[B,4] y, float[B,4] v)
        {
            d = DequantizeLinear <axis: int = 1, block_size: int = 2> (w, s)
            y = Gemm <transB: int = 1> (x, d)
            v = Gemm <transB: int = 1> (z, d)
        }

    after: one matrix of 4 bits, read twice
        f (float[B,6] x, float[B,6] z, int4[4,6] w, float[4,3] s) => (float[B,4] y, float[B,4] v)
        {
            d = DequantizeLinear <axis: int = 1, block_size: int = 2> (w, s)
            half = Cast <to: int = 16> (d)
            wide = Cast <to: int = 1> (half)
            y = Gemm <transB: int = 1> (x, wide)
            v = Gemm <transB: int = 1> (z, wide)
        }

    ignores: a table
        f (int64[B,T] ids, int8[5,6] table, float[5] s) => (float[B,T,6] y)
        {
            d = DequantizeLinear <axis: int = 0> (table, s)
            y = Gather(d, ids)
        }

    refuses: a scale that depends on the text
        # says its scale is no constant
        f (float[B,T,6] x, int8[6,4] w) => (float[B,T,4] y)
        {
            axes = Constant <value_ints: ints = [0, 1, 2]> ()
            s = ReduceMax <keepdims: int = 0> (x, axes)
            d = DequantizeLinear(w, s)
            y = MatMul(x, d)
        }

    ignores: integers multiplied with integers
        f (float[B,T,6] x, int8[6,4] w, float[4] s, float step) => (float[B,T,4] y)
        {
            zero = Constant <value: tensor = int8 {0}> ()
            n = QuantizeLinear(x, step, zero)
            x8 = DequantizeLinear(n, step, zero)
            d = DequantizeLinear <axis: int = 1> (w, s)
            y = MatMul(x8, d)
        }

    ignores: the scores of a choice
        f (float[B,T,4] x, int8[4,6] w, float[6] s) => (int64[B,T,2] chosen)
        {
            d = DequantizeLinear <axis: int = 1> (w, s)
            h = MatMul(x, d)
            p = Softmax <axis: int = -1> (h)
            k = Constant <value_ints: ints = [2]> ()
            best, chosen = TopK(p, k)
        }
    """

    equality: ClassVar[Equality] = Equality.BOUND

    def unit(self) -> float:
        return 2.0**-8

    def match(self, node: ir.Node) -> ir.Node | None:
        if node.domain or node.op_type not in ("MatMul", "Gemm") or chooses(node):
            return None
        dequantize = producer(node.inputs[1], "DequantizeLinear")
        if dequantize is None or node.inputs[1].dtype != ir.DataType.FLOAT:  # type: ignore[union-attr]
            return None
        if dequantize.inputs[0] is None or dequantize.inputs[0].const_value is None:
            return None  # an activation
        return None if _multiplies_integers(node, dequantize) else node

    def refuses(self, match: ir.Node) -> str | None:
        dequantize = producer(match.inputs[1])
        assert dequantize is not None
        if any(value is not None and constant(value) is None for value in dequantize.inputs[1:]):
            return "its scale is no constant"
        return None

    def construct(self, match: ir.Node, memo: dict) -> None:
        value = match.inputs[1]
        assert value is not None
        if value not in memo:
            maker = value.producer()
            assert maker is not None
            write = Writer(match, value.name or "")
            half, wide = ir.DataType.BFLOAT16, ir.DataType.FLOAT
            rounded = write(
                "Cast",
                value,
                name="half",
                type=ir.TensorType(half),
                shape=value.shape,
                to=half.value,
            )
            memo[value] = write(
                "Cast", rounded, name="wide", type=value.type, shape=value.shape, to=wide.value
            )
        match.replace_input_with(1, memo[value])


def _multiplies_integers(node: ir.Node, dequantize: ir.Node) -> bool:
    """Whether a linear map multiplies integers with integers, or may: with fixed steps, or where a
    runtime may round its input, which it does beside a scale per channel alone."""
    if multiplies_integers(node):
        return True
    assert node.graph is not None
    return bool(dynamic_group(node.graph)) and not attribute(dequantize, "block_size", 0)  # type: ignore[arg-type]
