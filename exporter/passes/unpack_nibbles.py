"""unpack-nibbles: numbers of 4 bits lie two to a byte, for runtimes that cannot open them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir.program import add_constant, constant
from goldfold.exporter.passes.base import Equality, Pass
from goldfold.exporter.passes.rewriting.nibbles import NIBBLES, opened, pairs
from goldfold.exporter.passes.rewriting.older import Spelling
from goldfold.exporter.passes.rewriting.writer import take_over


@dataclass(frozen=True)
class UnpackNibbles(Pass):
    """A constant matrix of 4 bits that a Cast turns into floats becomes bytes of two numbers each,
    which Floor, Mul and Sub take apart: as many bytes as before. ONNX Runtime does so once, when it
    opens the file.

    The type is of opset 21, and ONNX Runtime casts it from 1.23 on: releases 1.18 to 1.22 know the
    opset and refuse the Cast.

    holds:
        b = 16 h + l with 0 ≤ l < 16 gives h = ⌊b / 16⌋ and l = b − 16 h; all of them are whole
        numbers below 2⁸, which every floating type holds

    needs:
        a constant matrix whose rows have an even number of numbers

    before: with a sign
        f (float[B,6] x, int4[6,4] w) => (float[B,4] y)
        {
            d = Cast <to: int = 1> (w)
            y = MatMul(x, d)
        }

    after: with a sign
        f (float[B,6] x, uint8[6,2] bytes) => (float[B,4] y)
        {
            part = Constant <value_float: float = 0.0625> ()
            size = Constant <value_float: float = 16.0> ()
            last = Constant <value_ints: ints = [-1]> ()
            shape = Constant <value_ints: ints = [6, 4]> ()
            middle = Constant <value_float: float = 8.0> ()
            both = Cast <to: int = 1> (bytes)
            parts = Mul(both, part)
            high = Floor(parts)
            above = Mul(high, size)
            low = Sub(both, above)
            l = Unsqueeze(low, last)
            h = Unsqueeze(high, last)
            nibbles = Concat <axis: int = -1> (l, h)
            whole = Reshape(nibbles, shape)
            d = Sub(whole, middle)
            y = MatMul(x, d)
        }

    before: without a sign
        f (float[B,6] x, uint4[6,4] w) => (float[B,4] y)
        {
            d = Cast <to: int = 1> (w)
            y = MatMul(x, d)
        }

    after: without a sign
        none

    refuses: two rows share a byte
        # says rows of odd width share a byte
        f (float[B,6] x, int4[6,5] w) => (float[B,5] y)
        {
            d = Cast <to: int = 1> (w)
            y = MatMul(x, d)
        }

    ignores: a byte for each number
        f (float[B,6] x, int8[6,4] w) => (float[B,4] y)
        {
            d = Cast <to: int = 1> (w)
            y = MatMul(x, d)
        }
    """

    equality: ClassVar[Equality] = Equality.EXACT
    required: ClassVar[bool] = True

    def match(self, node: ir.Node) -> ir.Node | None:
        numbers = node.inputs[0] if node.op_type == "Cast" and not node.domain else None
        if numbers is None or numbers.dtype not in NIBBLES or constant(numbers) is None:
            return None
        return node

    def refuses(self, match: ir.Node) -> str | None:
        numbers = constant(match.inputs[0])
        assert numbers is not None
        if not ir.DataType(match.attributes["to"].value).is_floating_point():
            return "its numbers become other integers"
        if numbers.ndim != 2:
            return f"it has {numbers.ndim} axes, not 2"
        return "rows of odd width share a byte" if numbers.shape[1] % 2 else None

    def construct(self, match: ir.Node, memo: dict) -> None:
        numbers, to = match.inputs[0], ir.DataType(match.attributes["to"].value)
        assert numbers is not None and numbers.const_value is not None
        write, kind = Spelling(match, memo), ir.TensorType(to)
        held = add_constant(write.graph, f"{numbers.name}.pairs", *pairs(numbers))
        both = write("Cast", held, name="both", to=to.value, type=kind)
        sizes = [int(size) for size in numbers.const_value.shape]  # type: ignore[arg-type]
        nibbles = opened(write, both, to.numpy(), lambda name, array: write.array(array, name))
        whole = write("Reshape", nibbles, write.ints(sizes), name="whole")
        if numbers.dtype == ir.DataType.INT4:
            whole = write("Sub", whole, write.array(np.array(8, to.numpy()), "8"), name="signed")
        take_over(match.outputs[0], whole)
