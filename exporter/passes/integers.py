"""Reading integers in the graph: weights behind DequantizeLinear, and what is multiplied with
them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporter.passes.grid import Grid
from exporter.passes.pattern import producer
from exporter.program import constant


def multiplies_integers(node: ir.Node) -> bool:
    """Whether `node` is a matrix product of integer weights and of what was rounded to 8 bits."""
    if node.domain or node.op_type not in ("MatMul", "Gemm"):
        return False
    x, weight = (producer(value, "DequantizeLinear") for value in node.inputs[:2])
    return (
        weight is not None and x is not None and producer(x.inputs[0], "QuantizeLinear") is not None
    )


def dequantized(value: ir.Value | None) -> tuple[ir.Node, np.ndarray] | None:
    """The DequantizeLinear of constants that makes `value`, and its scale; None if there is
    none."""
    node = producer(value, "DequantizeLinear")
    if node is None or any(v is not None and v.const_value is None for v in node.inputs):
        return None
    scale = constant(node.inputs[1])
    return None if scale is None else (node, scale)


def reach(value: ir.Value | None) -> float:
    """The most that dequantized weights can be, 0 for anything else."""
    found = dequantized(value)
    if found is None:
        return 0.0
    numbers = found[0].inputs[0]
    bits = numbers.dtype.bitwidth if numbers is not None and numbers.dtype is not None else 8
    return float(np.abs(found[1]).max(initial=0.0)) * -Grid(bits).low
