"""The plan of a scaling: all values that must be scaled together, and the places where the scale
comes in and goes out again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from goldfold.exporter.ir import dialect
from goldfold.exporter.ir.program import constant, where
from goldfold.exporter.passes.rewriting.headroom import FP16_MAX, Demand, calibrated
from goldfold.exporter.passes.rewriting.integers import dequantized
from goldfold.exporter.passes.rewriting.pattern import producer

NOTHING = calibrated(0.0)
"""The demand of a value that nothing is known of."""
_COPY_LIMIT = 1 << 24
"""A constant of more numbers than this is not copied to scale it; the op that reads it is scaled
instead."""


@dataclass
class Plan:
    """All changes of one application, collected before any of them is made."""

    seed: ir.Value
    demands: Mapping[str, Demand]
    scaled: dict[ir.Value, None] = field(default_factory=dict)
    constants: dict[tuple[ir.Node, int], None] = field(default_factory=dict)
    edges: dict[tuple[ir.Node, int], None] = field(default_factory=dict)
    sources: dict[ir.Value, None] = field(default_factory=dict)
    norms: dict[ir.Node, None] = field(default_factory=dict)
    fault: str | None = None
    exponent: int = 0

    def demand(self, value: ir.Value) -> Demand:
        return self.demands.get(value.name or "", NOTHING)


def follows(plan: Plan, value: ir.Value) -> bool:
    """Whether `value` is scaled already because its producer reads a scaled value."""
    node = value.producer()
    if node is None:
        return False
    inputs = dialect.HOMOGENEOUS.get(dialect.op_of(node), ())
    return any(node.inputs[index] in plan.scaled for index in inputs)


def uneven(plan: Plan) -> str | None:
    """The reason why the plan scales a product twice or a sum in part; None if it does neither."""
    nodes = {n: None for v in plan.scaled for n, _ in v.uses()}
    nodes |= {p: None for v in plan.scaled if (p := v.producer()) is not None}
    for node in nodes:
        touched = {
            index
            for index, value in enumerate(node.inputs)
            if value in plan.scaled
            or factor(node, index) in plan.constants
            or (node, index) in plan.edges
        }
        op = dialect.op_of(node)
        made = node.outputs[0] in plan.scaled and node.outputs[0] not in plan.sources
        if _cancels(node) and not made:
            if len(touched) == 1:
                return f"{where(node)} ({op}) would be scaled in part"
            continue
        if op == "Gemm":
            touched -= {2}  # its bias goes with either
        if (op in dialect.HOMOGENEOUS or op == "Gemm") and made and len(touched) != 1:
            return f"{where(node)} ({op}) would be scaled {len(touched)} times"
        if op in dialect.JOINT and made:
            present = {i for i in dialect.JOINT[op] if i < len(node.inputs) and node.inputs[i]}
            if touched != present:
                return f"{where(node)} ({op}) would be scaled in part"
        if op in dialect.JOINT and not made and touched:
            return f"{where(node)} ({op}) would be scaled in part"
    return None


def forward(plan: Plan, node: ir.Node, index: int) -> list[ir.Value]:
    """The values that must be scaled because `node` reads a scaled value at `index`."""
    op = dialect.op_of(node)
    if op in dialect.NORMS and index == 0:
        plan.norms[node] = None
        return []
    if op in dialect.JOINT and index in dialect.JOINT[op]:
        return [node.outputs[0]]  # _backward finds the other operands from the output
    if _cancels(node):
        return []  # s x / max(‖s x‖, s ε) = x / max(‖x‖, ε)
    if index in dialect.HOMOGENEOUS.get(op, ()):
        return list(node.outputs)
    if op == "Gemm" and index == 0 and all(_is_constant(v) for v in node.inputs[2:] if v):
        for place in range(2, len(node.inputs)):
            if node.inputs[place] is not None:
                plan.constants[node, place] = None
        return list(node.outputs)
    plan.fault = plan.fault or f"{where(node)} ({op}) reads it and is not free of scale"
    return []


def backward(plan: Plan, value: ir.Value) -> list[ir.Value]:
    """The values that must be scaled so that `value` is computed at scale."""
    node = value.producer()
    if node is None:
        plan.sources[value] = None
        return []
    op = dialect.op_of(node)
    if op in dialect.JOINT:
        more = []
        for index in dialect.JOINT[op]:
            if index < len(node.inputs) and node.inputs[index] is not None:
                more += _operand(plan, node, index)
        return more
    if op in dialect.NORMS and all(_is_constant(v) for v in node.inputs[1:] if v is not None):
        for index in range(1, len(node.inputs)):
            if node.inputs[index] is not None:
                plan.constants[node, index] = None
        return []
    if op == "Gemm" and node.inputs[0] in plan.scaled:
        return []
    if op == "Gemm" and all(_is_constant(v) for v in node.inputs[1:] if v is not None):
        for index in range(1, len(node.inputs)):
            plan.constants[node, index] = None
        return []
    inputs = dialect.HOMOGENEOUS.get(op, ())
    if any(node.inputs[index] in plan.scaled for index in inputs):
        return []
    for index in inputs:
        # An operand too large itself is part of the stream: it is scaled where it is made, and so
        # the result is scaled too.
        read = node.inputs[index]
        if read is not None and plan.demand(read).exponent:
            return [read]
    for index in reversed(inputs):
        place = factor(node, index)
        if place is not None:
            plan.constants[place] = None
            return []
    if plan.demand(value).reach > FP16_MAX:  # too late to scale it: scale what it is made of
        own = [v for index in inputs if (v := node.inputs[index]) is not None and v.producer()]
        alone = [v for v in own if len(v.uses()) == 1]
        if alone:
            return [max(alone, key=_ends_in_factor)]
    plan.sources[value] = None
    return []


def factor(node: ir.Node, index: int) -> tuple[ir.Node, int] | None:
    """The input that holds the constant operand `index` of a product, whose scale scales the
    result: the constant itself, or the scales of integers that nothing else reads."""
    value = node.inputs[index]
    if _is_constant(value):
        return node, index
    found = dequantized(value)
    if value is None or found is None or len(value.uses()) != 1:
        return None
    return (found[0], 1) if constant(found[0].inputs[0]) is not None else None


def _ends_in_factor(value: ir.Value) -> bool:
    """Whether a constant makes `value`, so that scaling it costs no op."""
    node = value.producer()
    inputs = dialect.HOMOGENEOUS.get(dialect.op_of(node), ()) if node is not None else ()
    return node is not None and any(factor(node, index) is not None for index in inputs)


def _cancels(node: ir.Node) -> bool:
    """Whether `node` divides a value by its own 2-norm, by way of ops that are free of scale."""
    if dialect.op_of(node) != "Div":
        return False
    below = node.inputs[1]
    while (step := producer(below, "Clip", "Expand", "Unsqueeze", "Reshape")) is not None:
        below = step.inputs[0]
    length = producer(below, "ReduceL2")
    return length is not None and length.inputs[0] is node.inputs[0]


def _operand(plan: Plan, node: ir.Node, index: int) -> list[ir.Value]:
    """Scale one operand of a sum: the value itself if only sums and norms read it, else the
    edge."""
    value = node.inputs[index]
    assert value is not None
    if value in plan.scaled:
        return []
    if ir.convenience.get_const_tensor(value) is not None:
        plan.constants[node, index] = None
        return []
    free = not value.is_graph_output() and value.producer() is not None
    for reader, place in value.uses():
        op = dialect.op_of(reader)
        free = free and (op in dialect.JOINT or (op in dialect.NORMS and place == 0))
    if free:
        return [value]
    plan.edges[node, index] = None
    return []


def _is_constant(value: ir.Value | None) -> bool:
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return tensor is not None and tensor.size <= _COPY_LIMIT and tensor.dtype.is_floating_point()
