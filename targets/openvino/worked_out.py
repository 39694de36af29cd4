"""Integer weights that the plugin multiplies out once, when it compiles, and holds in bf16.

The plugin keeps integers that it finds behind a linear map, and multiplies them out at every call.
`round-weights` puts two type conversions between (f32 → bf16 → f32), behind which the plugin does
not look for integers: its constant folding works all of it out. Left alone, that ends in f32, four
bytes a weight beside the two that are multiplied. So the conversion back is marked as the
decompression of a constant, which the plugin leaves to the linear map: the constant ends in bf16.
Python has no name for that mark, so it is written into the `.xml`.

The plugin's conversion to bf16 truncates half of the values, which makes them 1.4e-3 too small on
average. So they are rounded in front of it, in arithmetic of f32, and the conversion changes none.
"""

from __future__ import annotations

import numpy as np
import openvino as ov
from openvino import opset13 as ops

MARK = "decompression"


SPLIT = "round-to-bf16"
"""The name of Dekker's factor."""


def spell(model: ov.Model) -> dict[str, np.ndarray]:
    """Round constants in front of their conversion to bf16, to the nearest of 8 bits where f32 has
    24: c − (c − w), c = (2^16 + 1) · w. Returns the constants that were made for it."""
    found = [
        op for op in model.get_ordered_ops() if _is_conversion(op, ov.Type.bf16) and is_constant(op)
    ]
    if not found:
        return {}
    number = np.array(2**16 + 1, np.float32)
    factor = ops.constant(number)
    factor.set_friendly_name(SPLIT)
    for op in found:
        weight = op.input_value(0)
        large = ops.multiply(weight, factor)
        near = ops.subtract(large, ops.subtract(large, weight))
        op.input(0).replace_source_output(near.output(0))
    return {SPLIT: number}


def weights(model: ov.Model) -> set[str]:
    """Returns the names of the type conversions, bf16 → f32, of rounded constants that linear maps
    read."""
    return {
        op.get_friendly_name()
        for op in model.get_ordered_ops()
        if _is_conversion(op, ov.Type.f32)
        and _is_conversion(op.input_value(0).get_node(), ov.Type.bf16)
        and is_constant(op.input_value(0).get_node())
        and all(port.get_node().get_type_name() == "MatMul" for port in _readers(op))
    }


def _readers(op: ov.Node) -> set[ov.Input]:
    return op.output(0).get_target_inputs()


def _is_conversion(op: ov.Node, kind: ov.Type) -> bool:
    return op.get_type_name() == "Convert" and op.get_output_element_type(0) == kind


def is_constant(op: ov.Node) -> bool:
    """Returns whether a node follows from constants alone: a few conversions, sizes and products
    deep."""
    if op.get_type_name() == "Constant":
        return True
    sources = [op.input_value(place).get_node() for place in range(op.get_input_size())]
    return bool(sources) and all(map(is_constant, sources))
