"""A dense program has its integers multiplied out, as runtimes without integer kernels compute. It
is much faster where the scale would be applied at every call."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir.program import Program, add_constant, constant, drop_unused
from goldfold.exporter.passes.rewriting.pattern import attribute


def dense(program: Program) -> Program:
    """A copy in which every DequantizeLinear of constants is a constant of its type. Rounding of
    activations stays."""
    copy = program.copy()
    for node in list(copy.graph):
        array = values(node)
        if array is None:
            continue
        name = f"{node.outputs[0].name}.dense"
        node.outputs[0].replace_all_uses_with(add_constant(copy.graph, name, array))
        copy.graph.remove(node, safe=True)
    drop_unused(copy.model)
    return copy


def values(node: ir.Node | None) -> np.ndarray | None:
    """The result of a DequantizeLinear of constants; None for any other node."""
    if node is None or node.op_type != "DequantizeLinear" or node.domain:
        return None
    numbers, scale = constant(node.inputs[0]), constant(node.inputs[1])
    zero = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if numbers is None or scale is None:
        return None
    kind, block = scale.dtype, int(attribute(node, "block_size", 0))
    axis = int(attribute(node, "axis", 1)) % max(numbers.ndim, 1)

    def spread(array: np.ndarray) -> np.ndarray:
        if block:
            return np.repeat(array, block, axis=axis)
        sizes = [-1 if at == axis else 1 for at in range(numbers.ndim)]
        return array.reshape(sizes) if array.ndim == 1 else array

    found = numbers.astype(np.float32)
    if zero is not None:
        found = found - spread(zero.astype(np.float32))
    return (found * spread(scale.astype(np.float32))).astype(kind)
