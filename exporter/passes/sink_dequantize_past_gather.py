"""sink-dequantize-past-gather: only the looked-up rows are dequantized."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir.program import constant
from goldfold.exporter.passes.base import Equality, Pass
from goldfold.exporter.passes.rewriting.lookups import Lookup, RowWriter
from goldfold.exporter.passes.rewriting.nibbles import NIBBLES, opened, pairs
from goldfold.exporter.passes.rewriting.pattern import attribute, producer
from goldfold.exporter.passes.rewriting.writer import take_over

BYTES = (ir.DataType.INT8, ir.DataType.UINT8)


@dataclass(frozen=True)
class SinkDequantizePastGather(Pass):
    """Rows of a quantized table are looked up first and dequantized then.

    ONNX Runtime dequantizes the whole table at every call: EmbeddingGemma's 262,144 rows of 768
    cost a text of 128 tokens 46 ms in int8 with a scale per row, and 360 ms in blocks of 32. After
    this pass they cost 0.2 ms and 0.3 ms (docs/experiments.md). OpenVINO has a kernel for the pair;
    where it computes in bf16 it truncates half of the values: all are 1.4e-3 too small on average.
    TensorRT allows a quantized constant in front of DequantizeLinear alone, so its export does not
    use this pass.

    The arithmetic is written in Cast, Sub and Mul: DequantizeLinear takes a scale per row along one
    axis, and looked-up rows have two. ONNX gathers no 4-bit numbers, so their bytes are gathered
    and taken apart. Scales that fp16 holds are stored in fp16.

    holds:
        ((T − z) · s)[i] = (T[i] − z[i]) · s[i]; the difference of two 8-bit numbers is exact, and
        the product is rounded once on both sides

    needs:
        rows are looked up (axis 0) in a table of 8 or 4 bits with constant scales of 11 bits or
        more: one for the table, a row, a column, or a block of a row. 4-bit rows of even width.

    before: a scale per row
        f (int64[B,T] ids, int8[5,6] table, float[5] s) => (float[B,T,6] y)
        {
            d = DequantizeLinear <axis: int = 0> (table, s)
            y = Gather(d, ids)
        }

    after: a scale per row
        f (int64[B,T] ids, int8[5,6] table, float[5,1] s) => (float[B,T,6] y)
        {
            rows = Gather(table, ids)
            numbers = Cast <to: int = 1> (rows)
            scales = Gather(s, ids)
            y = Mul(numbers, scales)
        }

    before: a scale and a zero per row
        f (int64[B,T] ids, uint8[5,6] table, float[5] s, uint8[5] z) => (float[B,T,6] y)
        {
            d = DequantizeLinear <axis: int = 0> (table, s, z)
            y = Gather(d, ids)
        }

    after: a scale and a zero per row
        f (int64[B,T] ids, uint8[5,6] table, uint8[5,1] z, float[5,1] s) => (float[B,T,6] y)
        {
            rows = Gather(table, ids)
            numbers = Cast <to: int = 1> (rows)
            zeros = Gather(z, ids)
            from = Cast <to: int = 1> (zeros)
            moved = Sub(numbers, from)
            scales = Gather(s, ids)
            y = Mul(moved, scales)
        }

    before: a scale for all, in half precision behind
        f (int64[B,T] ids, int8[5,6] table, float s) => (float16[B,T,6] y)
        {
            d = DequantizeLinear(table, s)
            h = Cast <to: int = 10> (d)
            y = Gather(h, ids)
        }

    after: a scale for all, in half precision behind
        f (int64[B,T] ids, int8[5,6] table, float s) => (float16[B,T,6] y)
        {
            rows = Gather(table, ids)
            numbers = Cast <to: int = 1> (rows)
            d = Mul(numbers, s)
            y = Cast <to: int = 10> (d)
        }

    before: a scale per column
        f (int64[B] ids, int8[5,6] table, float[6] s) => (float[B,6] y)
        {
            d = DequantizeLinear <axis: int = 1> (table, s)
            y = Gather(d, ids)
        }

    after: a scale per column
        f (int64[B] ids, int8[5,6] table, float[6] s) => (float[B,6] y)
        {
            rows = Gather(table, ids)
            numbers = Cast <to: int = 1> (rows)
            y = Mul(numbers, s)
        }

    before: a scale per block
        f (int64[B,T] ids, int8[5,6] table, float[5,2] s) => (float[B,T,6] y)
        {
            d = DequantizeLinear <axis: int = 1, block_size: int = 3> (table, s)
            y = Gather(d, ids)
        }

    after: a scale per block
        f (int64[B,T] ids, int8[5,6] table, float[5,2,1] s) => (float[B,T,6] y)
        {
            blocks = Constant <value_ints: ints = [0, 0, 2, 3]> ()
            whole = Constant <value_ints: ints = [0, 0, 6]> ()
            rows = Gather(table, ids)
            numbers = Cast <to: int = 1> (rows)
            parts = Reshape(numbers, blocks)
            scales = Gather(s, ids)
            scaled = Mul(parts, scales)
            y = Reshape(scaled, whole)
        }

    before: a scale per block, in f32, of numbers that fp16 holds
        f (int64[B,T] ids, int8[5,6] table) => (float[B,T,6] y)
        {
            s = Constant <value: tensor = float[5,2] {1,2,3,4,5,6,7,0.5,0.25,9}> ()
            d = DequantizeLinear <axis: int = 1, block_size: int = 3> (table, s)
            y = Gather(d, ids)
        }

    after: a scale per block, in f32, of numbers that fp16 holds
        none

    before: four bits, a scale and a zero per block
        f (int64[B,T] ids, int4[5,8] table, float[5,2] s, int4[5,2] z) => (float[B,T,8] y)
        {
            d = DequantizeLinear <axis: int = 1, block_size: int = 4> (table, s, z)
            y = Gather(d, ids)
        }

    after: four bits, a scale and a zero per block
        none

    before: two lookups, one of a row
        f (int64[B,T] ids, int64[B] first, int8[5,6] table, float[5,2] s)
            => (float[B,T,6] y, float[B,6] z)
        {
            d = DequantizeLinear <axis: int = 1, block_size: int = 3> (table, s)
            y = Gather(d, ids)
            z = Gather(d, first)
        }

    after: two lookups, one of a row
        none

    before: four bits, a scale per row
        f (int64[B,T] ids, uint4[5,6] table, float[5] s) => (float[B,T,6] y)
        {
            d = DequantizeLinear <axis: int = 0> (table, s)
            y = Gather(d, ids)
        }

    after: four bits, a scale per row
        none

    refuses: columns are looked up
        # says it does not look up rows
        f (int64[B] ids, int8[5,6] table, float[5] s) => (float[5,B] y)
        {
            d = DequantizeLinear <axis: int = 0> (table, s)
            y = Gather <axis: int = 1> (d, ids)
        }

    refuses: a block is several rows high
        f (int64[B] ids, int8[6,6] table, float[2,6] s) => (float[B,6] y)
        {
            d = DequantizeLinear <axis: int = 0, block_size: int = 3> (table, s)
            y = Gather(d, ids)
        }

    refuses: two rows share a byte
        # says rows of odd width share a byte
        f (int64[B] ids, int4[5,5] table, float[5] s) => (float[B,5] y)
        {
            d = DequantizeLinear <axis: int = 0> (table, s)
            y = Gather(d, ids)
        }

    refuses: the scale depends on the text
        # says its scale or its zero is no constant
        f (int64[B] ids, int8[5,6] table, float[B,5] t) => (float[B,6] y)
        {
            axes = Constant <value_ints: ints = [0]> ()
            s = ReduceMax <keepdims: int = 0> (t, axes)
            d = DequantizeLinear <axis: int = 0> (table, s)
            y = Gather(d, ids)
        }
    """

    equality: ClassVar[Equality] = Equality.EXACT

    def match(self, node: ir.Node) -> Lookup | None:
        if node.op_type != "Gather" or node.domain:
            return None
        cast = producer(node.inputs[0], "Cast")
        dequantize = producer(cast.inputs[0] if cast else node.inputs[0], "DequantizeLinear")
        return None if dequantize is None else Lookup(node, dequantize, cast)

    def refuses(self, match: Lookup) -> str | None:
        node, (table, scale) = match.dequantize, match.dequantize.inputs[:2]
        if attribute(match.gather, "axis", 0) != 0:
            return "it does not look up rows"
        sizes = _sizes(table)
        if table is None or sizes is None:
            return "its table is no constant matrix"
        if table.dtype not in (*BYTES, *NIBBLES):
            return f"its table is of {table.dtype}, not of 8 or 4 bits"
        if match.gather.inputs[1] is None or match.gather.inputs[1].shape is None:
            return "the shape of its indices is not known"
        if any(value is not None and constant(value) is None for value in node.inputs[1:]):
            return "its scale or its zero is no constant"
        if scale is None or scale.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
            return "its scale has no room for the difference of two 8-bit numbers"
        if attribute(node, "output_dtype", 0) not in (0, scale.dtype):
            return "it gives another type than its scale's"
        block = attribute(node, "block_size", 0)
        if block and attribute(node, "axis", 1) not in (1, -1):
            return "a block is several rows high"
        if block and sizes[1] % block:
            return "a row is no whole number of blocks"
        if table.dtype in NIBBLES and sizes[1] % 2:
            return "rows of odd width share a byte"
        return None

    def construct(self, match: Lookup, memo: dict) -> None:
        node, write = match.dequantize, _Rows(match, memo)
        table, scale = node.inputs[0], constant(node.inputs[1])
        assert table is not None and scale is not None
        _, width = _sizes(table) or (0, 0)
        block = int(attribute(node, "block_size", 0))
        by_row = bool(block) or attribute(node, "axis", 1) in (0, -2)
        value = write.numbers(table)
        if block:
            value = write.reshape(value, [width // block, block], "blocks")
        # (T[i] − z[i]) · s[i]
        zero = _zero(node, table)
        if zero is not None:
            moved = write.each("zero", zero, by_row, scale.dtype)
            value = write("Sub", value, moved, name="moved")
        value = write("Mul", value, write.each("scale", scale, by_row, scale.dtype), name="scaled")
        if block:
            value = write.reshape(value, [width], "whole")
        if match.cast is not None:
            value = write("Cast", value, name="cast", to=match.cast.attributes["to"].value)
        take_over(match.gather.outputs[0], value)


def _sizes(table: ir.Value | None) -> tuple[int, int] | None:
    """Rows and columns of a constant matrix."""
    tensor = None if table is None else table.const_value
    sizes = [] if tensor is None else [size for size in tensor.shape if isinstance(size, int)]
    return (sizes[0], sizes[1]) if len(sizes) == 2 else None


def _zero(node: ir.Node, table: ir.Value) -> np.ndarray | None:
    """The number to subtract from the gathered numbers, of one byte each; None if 0."""
    given = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    zero = np.zeros((), np.int16) if given is None else given.astype(np.int16)
    if table.dtype == ir.DataType.INT4:
        zero = zero + 8
    kept = np.int8 if table.dtype == ir.DataType.INT8 else np.uint8
    return zero.astype(kept) if zero.any() else None


class _Rows(RowWriter):
    def __init__(self, match: Lookup, memo: dict) -> None:
        super().__init__(match, match.dequantize.name or "", memo)
        scale = match.dequantize.inputs[1]
        assert scale is not None and scale.dtype is not None
        self.kind = scale.dtype

    def numbers(self, table: ir.Value) -> ir.Value:
        """The looked-up rows, in the type of the scale; of 4 bits, 0 … 15."""
        sizes = _sizes(table)
        assert sizes is not None
        if table.dtype in BYTES:
            return self.cast(self.gather(table, "rows"), "numbers")
        both = self.cast(self.gather(self.constant("pairs", *pairs(table)), "pairs"), "both")
        whole = opened(self, both, self.kind.numpy(), self.constant)
        return self.reshape(whole, [sizes[1]], "numbers")

    def cast(self, value: ir.Value, name: str) -> ir.Value:
        return self("Cast", value, name=name, to=self.kind.value)

    def each(self, name: str, array: np.ndarray, by_row: bool, kind: np.dtype) -> ir.Value:
        """The part of `array` for the looked-up rows where it has a number per row or block; else
        the whole array."""
        if array.size == 1 or (array == array.flat[0]).all():
            return self.constant(name, array.flat[0].astype(kind))
        if not by_row:
            return self.constant(name, array.astype(kind))
        with np.errstate(over="ignore"):
            half = array.astype(np.float16)
        if array.dtype == np.float32 and (half == array).all():
            array = half
        found = self.gather(self.constant(name, array[..., None]), f"{name}.rows")
        return found if array.dtype == kind else self.cast(found, f"{name}.numbers")
