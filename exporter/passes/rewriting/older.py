"""Nodes in ops of older opsets: what the passes that write out a newer op share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir.program import add_constant
from goldfold.exporter.passes.rewriting.writer import Writer

_HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


class Spelling(Writer):
    """Writes the nodes that stand for one node, in front of it; small constants are shared through
    the memo of the sweep. A value has the type of its first input unless another is given."""

    def __init__(self, node: ir.Node, memo: dict[Any, ir.Value]) -> None:
        super().__init__(node, node.outputs[0].name or node.op_type)
        self.memo = memo

    def __call__(self, op: str, *inputs: ir.Value | None, name: str, **more: Any) -> ir.Value:
        assert inputs[0] is not None
        return super().__call__(op, *inputs, name=name, **{"type": inputs[0].type, **more})

    def split(self, x: ir.Value, sizes: ir.Value, names: Sequence[str]) -> Sequence[ir.Value]:
        """Parts of these sizes of the last axis of x."""
        into = [f"{self.stem}.{name}" for name in names]
        made = self.parts("Split", x, sizes, name=f"{names[0]}.split", into=into, axis=-1)
        for value in made:
            value.type = x.type
        return made

    def common(self, name: str) -> Writer:
        """Writes at the same place what has no layer of its own."""
        assert self.before is not None
        return Writer(self.before, name, name)

    def array(self, array: np.ndarray, name: str) -> ir.Value:
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.memo:
            self.memo[key] = add_constant(self.graph, f"older.{name}", array)
        return self.memo[key]

    def ints(self, numbers: list[int] | int) -> ir.Value:
        return self.array(np.array(numbers, np.int64), "sizes")

    def number(self, number: float, like: ir.Value) -> ir.Value:
        assert like.dtype is not None
        return self.array(np.array(number, like.dtype.numpy()), "number")

    def widened(self, x: ir.Value) -> ir.Value:
        """x, in f32 if it is in half precision: the ops that are written out compute so inside, and
        their parts would round, or overflow, where the whole does not."""
        if x.dtype not in _HALF:
            return x
        wide = ir.TensorType(ir.DataType.FLOAT)
        return self("Cast", x, name="wide", to=ir.DataType.FLOAT.value, type=wide)

    def as_before(self, value: ir.Value, x: ir.Value) -> ir.Value:
        """The value in the type of x again, which `widened` may have changed."""
        if value.dtype == x.dtype:
            return value
        assert x.dtype is not None
        return self("Cast", value, name="narrow", to=x.dtype.value, type=x.type)
