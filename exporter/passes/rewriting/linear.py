"""A linear map in the graph, read and written: MatMul, MatMul + Add, or Gemm with a constant
weight."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir.program import add_constant, constant, where
from goldfold.exporter.passes.rewriting.pattern import attribute
from goldfold.exporter.passes.rewriting.writer import Writer, supplant


@dataclass(frozen=True)
class Linear:
    """y[…,N] = x[…,K] W + b, as it stands in the graph.

    `node` is the last op; `product` the MatMul or Gemm, which is `node` itself unless an Add
    follows.
    """

    node: ir.Node
    product: ir.Node
    x: ir.Value
    weight: np.ndarray
    """[K, N]; a view, transposed where Gemm stores it so."""
    bias: np.ndarray | None
    """[N], or None."""

    @property
    def output(self) -> ir.Value:
        return self.node.outputs[0]

    @property
    def parameters(self) -> int:
        return self.weight.size + (0 if self.bias is None else self.bias.size)


def linear_ending_at(node: ir.Node | None) -> Linear | None:
    """The linear map whose last op is `node`, or None. A MatMul whose only reader is an Add of a
    constant ends at that Add, so it is not reported at the MatMul."""
    if node is None or node.domain:
        return None
    if node.op_type == "Gemm":
        return _gemm(node)
    if node.op_type == "MatMul" and bias_add(node) is None:
        return _matmul(node, node, None)
    if node.op_type == "Add":
        for index in (0, 1):
            summand = node.inputs[index]
            product = summand.producer() if summand is not None else None
            if product is not None and product.op_type == "MatMul" and bias_add(product) is node:
                return _matmul(node, product, constant(node.inputs[1 - index]))
    return None


def bias_add(matmul: ir.Node) -> ir.Node | None:
    """The Add of a constant [N] that is the only reader of this MatMul, or None."""
    output = matmul.outputs[0]
    if output.is_graph_output() or len(output.uses()) != 1:
        return None
    reader, index = next(iter(output.uses()))
    if reader.op_type != "Add" or reader.domain:
        return None
    bias, weight = constant(reader.inputs[1 - index]), constant(matmul.inputs[1])
    if bias is None or weight is None or weight.ndim != 2 or bias.shape != weight.shape[1:]:
        return None
    return reader


def _matmul(node: ir.Node, product: ir.Node, bias: np.ndarray | None) -> Linear | None:
    weight = constant(product.inputs[1])
    x = product.inputs[0]
    if weight is None or weight.ndim != 2 or x is None:
        return None
    return Linear(node, product, x, weight, bias)


def _gemm(node: ir.Node) -> Linear | None:
    weight, x = constant(node.inputs[1]), node.inputs[0]
    scaled = any(attribute(node, name, 1.0) != 1.0 for name in ("alpha", "beta"))
    if weight is None or x is None or scaled or attribute(node, "transA", 0):
        return None
    if attribute(node, "transB", 0):
        weight = weight.T
    given = node.inputs[2] if len(node.inputs) > 2 else None
    bias = constant(given)
    if given is not None:
        # [M,1] or [M,N] would be a bias for each row, even where M happens to be N.
        if bias is None or bias.ndim > 2 or (bias.ndim == 2 and bias.shape[0] != 1):
            return None
        bias = np.broadcast_to(bias.reshape(-1), weight.shape[1:])
    return Linear(node, node, x, weight, bias)


def write_linear(
    old: Linear, x: ir.Value, weight: np.ndarray, bias: np.ndarray | None, name: str
) -> None:
    """Replace `old` by x·weight + bias (weight [K,N], bias [N] or None) in the same spelling.

    The new output takes over the old one's name, readers and place among the graph's outputs.
    """
    graph = old.node.graph
    assert graph is not None
    inputs = [x, add_constant(graph, f"{name}.weight", weight)]
    if bias is not None:
        inputs.append(add_constant(graph, f"{name}.bias", bias))
    if old.product.op_type == "Gemm" or bias is None:
        supplant(old.output, old.product.op_type, *inputs)
        return
    *factors, summand = inputs
    product = Writer(old.node)(
        "MatMul", *factors, name=f"{name}.product", type=old.output.type, shape=old.output.shape
    )
    supplant(old.output, "Add", product, summand)


def scale_input(linear: Linear, gain: np.ndarray, shift: np.ndarray | None) -> None:
    """Let `linear` read x in place of x·gain + shift: (x·g + c) W + b = x (diag(g) W) +
    (c W + b)."""
    # The f32 product is the exact one, rounded once.
    weight = gain[:, None] * linear.weight
    bias = linear.bias
    if shift is not None and shift.any():
        moved = shift.astype(np.float64) @ linear.weight.astype(np.float64)
        bias = moved if bias is None else moved + bias
        bias = bias.astype(linear.weight.dtype)
    write_linear(linear, linear.x, weight, bias, where(linear.product))
