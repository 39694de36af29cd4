"""Integers behind a DequantizeLinear, as passes of floating precision see them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir.program import add_constant, constant, where
from goldfold.exporter.passes.rewriting.grid import Grid
from goldfold.exporter.passes.rewriting.pattern import producer
from goldfold.exporter.passes.rewriting.writer import Writer


def multiplies_integers(node: ir.Node) -> bool:
    """Whether `node` is a matrix product of integer weights and of an input rounded to 8 bits."""
    if node.domain or node.op_type not in ("MatMul", "Gemm"):
        return False
    x, weight = (producer(value, "DequantizeLinear") for value in node.inputs[:2])
    return (
        weight is not None and x is not None and producer(x.inputs[0], "QuantizeLinear") is not None
    )


def dequantized(value: ir.Value | None) -> tuple[ir.Node, np.ndarray] | None:
    """The DequantizeLinear of constant scale that makes `value`, and that scale; None if there is
    none."""
    node = producer(value, "DequantizeLinear")
    if node is None or any(v is not None and v.const_value is None for v in node.inputs[1:]):
        return None
    scale = constant(node.inputs[1])
    return None if scale is None else (node, scale)


def reach_of(value: ir.Value | None) -> float:
    """The largest possible magnitude of dequantized integers, 0 for any other value."""
    found = dequantized(value)
    if found is None:
        return 0.0
    numbers = found[0].inputs[0]
    bits = numbers.dtype.bitwidth if numbers is not None and numbers.dtype is not None else 8
    return float(np.abs(found[1]).max(initial=0.0)) * -Grid(bits).low


def in_half(node: ir.Node, scale: np.ndarray, value: ir.Value, before: ir.Node) -> ir.Value:
    """The result `value` of `node` again, with scales and results in fp16."""
    graph = before.graph
    assert graph is not None
    half = add_constant(graph, f"{node.inputs[1].name}", scale.astype(np.float16))  # type: ignore[union-attr]
    return Writer(before, module=where(before))(
        "DequantizeLinear", node.inputs[0], half, *node.inputs[2:], name=f"{value.name}.half",
        type=ir.TensorType(ir.DataType.FLOAT16), shape=value.shape, **node.attributes,
    )  # fmt: skip
