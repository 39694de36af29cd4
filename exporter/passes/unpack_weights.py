"""unpack-weights: integers become floats in plain arithmetic, which a runtime does once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir.program import add_constant, constant
from goldfold.exporter.passes.base import Equality, Pass
from goldfold.exporter.passes.rewriting.integers import multiplies_integers
from goldfold.exporter.passes.rewriting.pattern import attribute
from goldfold.exporter.passes.rewriting.writer import Writer, take_over


@dataclass(frozen=True)
class UnpackWeights(Pass):
    """A constant matrix behind DequantizeLinear is spelled in Cast and Mul, which ONNX Runtime
    folds when it opens the file: the weights are integers on disk and floats in memory.

    DequantizeLinear in front of a product it keeps, and multiplies in a kernel of its own
    (MatMulNBits) that takes 1.1 to 5 times as long as the product of floats, and that rounds the
    other operand to 8 bits unless an option of the session forbids it. After this pass a session
    without any option computes what was verified.

    holds:
        s · Q is rounded once on both sides

    needs:
        integers and scales are constants, and there is no zero

    before: a scale per channel
        f (float[B,T,6] x, int8[6,4] w, float[4] s) => (float[B,T,4] y)
        {
            d = DequantizeLinear <axis: int = 1> (w, s)
            y = MatMul(x, d)
        }

    after: a scale per channel
        f (float[B,T,6] x, int8[6,4] w, float[4] s) => (float[B,T,4] y)
        {
            numbers = Cast <to: int = 1> (w)
            d = Mul(numbers, s)
            y = MatMul(x, d)
        }

    before: a scale per block of inputs
        f (float[B,T,6] x, int8[6,4] w, float[2,4] s) => (float[B,T,4] y)
        {
            d = DequantizeLinear <axis: int = 0, block_size: int = 3> (w, s)
            y = MatMul(x, d)
        }

    after: a scale per block of inputs
        none

    before: channels in rows
        f (float[B,6] x, int4[4,6] w, float[4,3] s) => (float[B,4] y)
        {
            d = DequantizeLinear <axis: int = 1, block_size: int = 2> (w, s)
            y = Gemm <transB: int = 1> (x, d)
        }

    after: channels in rows
        none

    refuses: a zero
        # says its integers have a zero
        f (float[B,T,6] x, uint8[6,4] w, float[4] s, uint8[4] z) => (float[B,T,4] y)
        {
            d = DequantizeLinear <axis: int = 1> (w, s, z)
            y = MatMul(x, d)
        }

    ignores: an input of fixed steps
        f (float[B,T,6] x, int8[6,4] w, float[4] s, float step) => (float[B,T,4] y)
        {
            zero = Constant <value: tensor = int8 {0}> ()
            n = QuantizeLinear(x, step, zero)
            x8 = DequantizeLinear(n, step, zero)
            d = DequantizeLinear <axis: int = 1> (w, s)
            y = MatMul(x8, d)
        }

    ignores: an activation
        f (float[B,T,6] x, float s) => (float[B,T,6] y)
        {
            zero = Constant <value: tensor = int8 {0}> ()
            n = QuantizeLinear(x, s, zero)
            y = DequantizeLinear(n, s, zero)
        }
    """

    equality: ClassVar[Equality] = Equality.EXACT

    def match(self, node: ir.Node) -> ir.Node | None:
        if node.domain or node.op_type != "DequantizeLinear":
            return None
        numbers = node.inputs[0]
        if numbers is None or numbers.const_value is None:
            return None
        if any(multiplies_integers(reader) for reader, _ in node.outputs[0].uses()):
            return None  # beside a rounded input, which makes it a product of integers
        return node

    def refuses(self, match: ir.Node) -> str | None:
        numbers, scale = match.inputs[:2]
        if any(value is not None for value in match.inputs[2:]):
            return "its integers have a zero"
        if scale is None or constant(scale) is None:
            return "its scale is no constant"
        if numbers is None or numbers.shape is None or len(numbers.shape) != 2:
            return "it is no matrix"
        if attribute(match, "output_dtype", 0) not in (0, scale.dtype):
            return "it gives another type than its scale's"
        return None

    def construct(self, match: ir.Node, memo: dict) -> None:
        numbers, scale = match.inputs[:2]
        assert numbers is not None and scale is not None and numbers.shape is not None
        array = constant(scale)
        assert array is not None and scale.dtype is not None and match.graph is not None
        rows, columns = (int(size) for size in numbers.shape)  # type: ignore[arg-type]
        axis, block = attribute(match, "axis", 1) % 2, attribute(match, "block_size", 0)
        write = Writer(match, match.outputs[0].name or "")

        def put(op: str, *inputs: ir.Value, name: str, **attributes: Any) -> ir.Value:
            return write(op, *inputs, name=name, type=ir.TensorType(scale.dtype), **attributes)  # type: ignore[arg-type]

        value = put("Cast", numbers, name="numbers", to=scale.dtype.value)
        if block:
            cut = [rows // block, block, columns] if axis == 0 else [rows, columns // block, block]
            value = put("Reshape", value, self._sizes(match, "cut", cut), name="blocks")
            array = array[:, None, :] if axis == 0 else array[:, :, None]
        elif array.ndim and axis == 0:
            array = array[:, None]
        held = add_constant(match.graph, f"{scale.name}", array)  # type: ignore[arg-type]
        value = put("Mul", value, held, name="unpacked")
        if block:
            value = put(
                "Reshape", value, self._sizes(match, "whole", [rows, columns]), name="whole"
            )
        take_over(match.outputs[0], value)

    @staticmethod
    def _sizes(match: ir.Node, name: str, sizes: list[int]) -> ir.Value:
        held = np.array(sizes, np.int64)
        return add_constant(match.graph, f"{match.outputs[0].name}.{name}", held)  # type: ignore[arg-type]
