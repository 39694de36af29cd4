"""Precise layers: the residual stream, and the rows of a quantized table, stay in fp32 where the
rest is computed in bf16.

Each layer adds small values to the stream, and bf16 has eight bits: most of what 48 additions add
is rounded away. The additions are a thousandth of the arithmetic. OpenVINO's CPU plugin computes a
layer in fp32, whatever the hint says, if the file marks it as precise; Python has no name for that
mark, so it is written into the `.xml`.

So are the scores by which a router chooses experts: rounded, they choose others.

Norms cannot be marked: the plugin makes one kernel of each, and the mark is lost on the way.
"""

from __future__ import annotations

import math

import openvino as ov

MARK = "precise"

EARLY = 0.25
"""The share of the stream that is worth marking where integers meet rounded activations: errors of
the first layers are carried through all the others, and beyond these layers there is no visible
gain (docs/quantization.md)."""


def stream(model: ov.Model, share: float = 1.0) -> set[str]:
    """Returns the names of the additions of two computed values [batch, tokens, hidden]; the first
    `share` of them."""
    found: list[str] = []
    for op in model.get_ordered_ops():
        if op.get_type_name() != "Add" or not op.get_output_element_type(0).is_real():
            continue
        shape = op.get_output_partial_shape(0)
        if shape.rank.is_dynamic or len(shape) != 3 or shape[2].is_dynamic:
            continue
        terms = [op.input_value(place).get_node() for place in (0, 1)]
        if not any(term.get_type_name() == "Constant" for term in terms):
            found.append(op.get_friendly_name())
    return set(found[: math.ceil(share * len(found))])


def lookups(model: ov.Model) -> set[str]:
    """Returns the names of the layers that make numbers of a table's rows: type conversions of rows
    looked up in a constant, and their products. Marked, a row of 8 bits is rounded once, when it
    leaves fp32; unmarked, its scale is rounded before, as it still is in a packed table."""
    found: set[str] = set()
    for op in model.get_ordered_ops():
        kind = op.get_type_name()
        if kind == "Convert" and _is_looked_up(op.input_value(0).get_node()):
            found.add(op.get_friendly_name())
        elif kind == "Multiply":
            terms = [_before_reshape(op.input_value(place).get_node()) for place in (0, 1)]
            if all(term.get_friendly_name() in found for term in terms):
                found.add(op.get_friendly_name())
    return found


def choices(model: ov.Model) -> set[str]:
    """Returns the names of the layers that lead from a linear map to a choice of experts."""
    found: set[str] = set()
    tops = [op for op in model.get_ordered_ops() if op.get_type_name() == "TopK"]
    waiting = [op.input_value(0).get_node() for op in tops]
    while waiting:
        op = waiting.pop()
        if op.get_type_name() in ("Constant", "Parameter") or op.get_friendly_name() in found:
            continue
        found.add(op.get_friendly_name())
        if op.get_type_name() != "MatMul":
            waiting += [op.input_value(place).get_node() for place in range(op.get_input_size())]
    return found


def _is_looked_up(op: ov.Node) -> bool:
    gathers = op.get_type_name() == "Gather"
    return gathers and op.input_value(0).get_node().get_type_name() == "Constant"


def _before_reshape(op: ov.Node) -> ov.Node:
    return op.input_value(0).get_node() if op.get_type_name() == "Reshape" else op
