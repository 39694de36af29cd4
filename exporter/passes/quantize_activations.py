"""quantize-activations: inputs of linear maps are rounded to 8 bits with a fixed scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir.program import add_constant
from goldfold.exporter.passes.base import Equality, Pass
from goldfold.exporter.passes.rewriting.writer import Writer


@dataclass(frozen=True)
class Reading:
    node: ir.Node
    x: ir.Value
    scale: float


@dataclass(frozen=True)
class QuantizeActivations(Pass):
    """The input of an integer linear map passes QuantizeLinear and DequantizeLinear, int8 with one
    scale and no zero-point: runtimes that see the pair in front of integer weights multiply
    integers.

    `scales` comes from calibration texts; values beyond 127 of a scale are clipped. All maps that
    read a value share the pair.

    holds:
        x = s · round(x / s) + e with |e| ≤ s/2 for |x| ≤ 127 s; the golden texts measure the effect
        of e on the result

    needs:
        integer weights, without which the pair would round for no gain

    options: two maps read one value
        scales: x = 0.05

    before: two maps read one value
        f (float[B,T,6] x, int8[6,4] w, float[4] s, int8[6,4] v, float[4] r)
            => (float[B,T,4] y, float[B,T,4] z)
        {
            a = DequantizeLinear <axis: int = 1> (w, s)
            y = MatMul(x, a)
            b = DequantizeLinear <axis: int = 1> (v, r)
            z = MatMul(x, b)
        }

    after: two maps read one value
        f (float[B,T,6] x, int8[6,4] w, float[4] s, int8[6,4] v, float[4] r, float step, int8 zero)
            => (float[B,T,4] y, float[B,T,4] z)
        {
            q = QuantizeLinear(x, step, zero)
            x8 = DequantizeLinear(q, step, zero)
            a = DequantizeLinear <axis: int = 1> (w, s)
            y = MatMul(x8, a)
            b = DequantizeLinear <axis: int = 1> (v, r)
            z = MatMul(x8, b)
        }

    options: floating weights
        scales: x = 0.05

    refuses: floating weights
        # says its weights are no integers
        f (float[B,T,6] x, float[6,4] w) => (float[B,T,4] y)
        {
            y = MatMul(x, w)
        }
    """

    equality: ClassVar[Equality] = Equality.BOUND
    bound: ClassVar[str] = (
        "tests/exporter/quantize/test_laws.py::test_integers_are_within_half_a_step"
    )
    scales: tuple[tuple[str, float], ...] | Mapping[str, float] = field(default=(), compare=False)
    """The step of values by name."""

    def match(self, node: ir.Node) -> Reading | None:
        if node.domain or node.op_type not in ("MatMul", "Gemm"):
            return None
        x = node.inputs[0]
        scale = dict(self.scales).get(x.name or "") if x is not None else None
        return None if x is None or scale is None else Reading(node, x, scale)

    def refuses(self, match: Reading) -> str | None:
        weight = match.node.inputs[1]
        maker = None if weight is None else weight.producer()
        if maker is None or maker.op_type != "DequantizeLinear":
            return "its weights are no integers"
        return None

    def construct(self, match: Reading, memo: dict) -> None:
        graph, x = match.node.graph, match.x
        assert graph is not None and x.dtype is not None
        if x not in memo:
            step = np.array(match.scale, x.dtype.numpy())
            given = [
                add_constant(graph, f"{x.name}.step", step),
                add_constant(graph, f"{x.name}.zero", np.array(0, np.int8)),
            ]
            write, int8 = Writer(match.node, x.name or ""), ir.TensorType(ir.DataType.INT8)
            down = write("QuantizeLinear", x, *given, name="int8", type=int8, shape=x.shape)
            memo[x] = write(
                "DequantizeLinear", down, *given, name="stepped", type=x.type, shape=x.shape
            )
        match.node.replace_input_with(0, memo[x])
