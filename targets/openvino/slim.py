"""Constant folding and sharing before a model is saved: constants are computed, and equal ops are
merged.

OpenVINO's ONNX frontend spells one op in many: the axes of an RMS norm are a range between three
constants, the shape of a weight is asked for at run time, and each of these constants is made anew.
The plugin folds all this when it compiles; saved as it is, it is a good part of the `.xml`, which
every load reads.

Weights keep their numbers and change only their shape: the plugin must see the ops that read an
integer matrix.
"""

from __future__ import annotations

import math

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from goldfold.targets.openvino.memory import constant

_FEW = 64
"""Maximum numbers in a small constant: an axis, a shape, an epsilon, and no weight."""

_SHARED = frozenset({"Convert", "Gather", "Unsqueeze", "Reshape", "ShapeOf", "Concat", "Multiply"})
"""Ops that are equal if their sources and attributes are. Not all ops are: OpenVINO's Python lists
neither the bodies of an If nor every attribute of every op."""


def slim(model: ov.Model) -> list[ov.Node]:
    """Fold and share ops in place; every op computes the same as before.

    The returned constants own memory that the model reads: keep them as long as the model.
    """
    held: list[ov.Node] = []
    for op in model.get_ordered_ops():
        known = _folded(op)
        if known is not None:
            held += [op.input_value(0).get_node()] if op.get_type_name() == "Reshape" else []
            op.output(0).replace(known.output(0))
    _share_constants(model)
    _share_results(model)
    model.validate_nodes_and_infer_types()
    return held


def _folded(op: ov.Node) -> ov.Node | None:
    """Returns the constant for an op that has one output and always the same result; None for
    others."""
    kind = op.get_type_name()
    if kind in ("Constant", "Parameter") or op.get_output_size() != 1 or _is_result(op):
        return None
    if kind == "ShapeOf":
        shape = op.get_input_partial_shape(0)
        width = op.get_output_element_type(0).to_dtype()
        return None if shape.is_dynamic else ops.constant(np.array(shape.to_shape(), width))
    sources = [op.input_value(place).get_node() for place in range(op.get_input_size())]
    if kind == "Unsqueeze" and _is_stored_half(sources[0], op):
        # The scales of blocks, stored in half precision.
        stored = sources[0].input_value(0).get_node().data
        return ops.convert(ops.constant(stored.reshape(op.get_output_shape(0))), "f32")
    if kind == "Reshape" and _is_weight(sources[0]) and _is_small(sources[1]):
        shape = list(op.get_output_shape(0))
        return constant(sources[0].data, shape, op.get_output_element_type(0))
    if not sources or not all(map(_is_small, sources)):
        return None
    if not all(source.get_output_element_type(0).is_integral() for source in sources):
        return None  # numpy has no bf16
    if op.get_output_partial_shape(0).is_dynamic or not op.get_output_element_type(0).is_integral():
        return None
    result = ov.Tensor(op.get_output_element_type(0), op.get_output_shape(0))
    if result.size > _FEW or not op.evaluate([result], [ov.Tensor(s.data) for s in sources]):
        return None
    return ops.constant(result.data.copy())


def _share_constants(model: ov.Model) -> None:
    """Share one constant among all that are small and equal. Constants that the program named keep
    their own."""
    first: dict[tuple[str, tuple[int, ...], bytes], ov.Node] = {}
    for op in model.get_ordered_ops():
        if not _is_small(op) or op.output(0).get_names():
            continue
        shape = tuple(op.get_output_shape(0))
        key = (op.get_output_element_type(0).get_type_name(), shape, op.data.tobytes())
        same = first.setdefault(key, op)
        if same is not op:
            op.output(0).replace(same.output(0))


def _share_results(model: ov.Model) -> None:
    """Share one op among all equal ops on equal inputs, such as each layer's lookup of its angles.
    Ops that the program named stay."""
    first: dict[tuple, ov.Node] = {}
    for op in model.get_ordered_ops():
        kind = op.get_type_name()
        if kind not in _SHARED or op.get_output_size() != 1 or op.output(0).get_names():
            continue
        sources = tuple(
            (source.get_node().get_name(), source.get_index())
            for source in (op.input_value(place) for place in range(op.get_input_size()))
        )
        said = tuple(sorted((name, str(value)) for name, value in op.get_attributes().items()))
        same = first.setdefault((kind, sources, said), op)
        if same is not op:
            op.output(0).replace(same.output(0))


def _is_small(op: ov.Node) -> bool:
    if op.get_type_name() != "Constant":
        return False
    whole = op.get_output_element_type(0).get_bitwidth() >= 8
    return whole and math.prod(op.get_output_shape(0)) <= _FEW


def _is_weight(op: ov.Node) -> bool:
    """Returns whether an op holds a matrix of integers."""
    return op.get_type_name() == "Constant" and op.get_output_element_type(0).is_integral()


def _is_stored_half(op: ov.Node, reader: ov.Node) -> bool:
    if op.get_type_name() != "Convert" or reader.get_output_element_type(0) != ov.Type.f32:
        return False
    source = op.input_value(0)
    return (
        source.get_node().get_type_name() == "Constant"
        and source.get_element_type() == ov.Type.f16
        and len(source.get_target_inputs()) == 1
    )


def _is_result(op: ov.Node) -> bool:
    return any(i.get_node().get_type_name() == "Result" for i in op.output(0).get_target_inputs())
