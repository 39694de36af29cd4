"""Helpers that read the meaning of a subgraph."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir import dialect
from goldfold.exporter.ir.program import constant, where


def producer(value: ir.Value | None, *ops: str) -> ir.Node | None:
    """The node of the default domain that makes `value`, if its op is in `ops`; any op if empty."""
    node = None if value is None else value.producer()
    if node is None or node.domain or (ops and node.op_type not in ops):
        return None
    return node


def scalar(value: ir.Value | None) -> float | None:
    """The number of a constant of shape [] or [1], which adds no axis to the other operand."""
    array = constant(value)
    return float(array.reshape(())) if array is not None and array.shape in ((), (1,)) else None


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    given = node.attributes.get(name)
    return default if given is None else given.value


def gain_of(norm: ir.Node) -> tuple[np.ndarray, np.ndarray | None] | None:
    """The constant gain of a norm, and its shift if it has one; None if they change nothing, if
    they are not constant, or if `norm` is no norm."""
    if dialect.op_of(norm) not in dialect.NORMS:
        return None
    gain = constant(norm.inputs[1])
    given = norm.inputs[2] if len(norm.inputs) > 2 else None
    shift = constant(given)
    if gain is None or (given is not None and shift is None):
        return None
    nothing = bool((gain == 1).all()) and (shift is None or not shift.any())
    return None if nothing else (gain, shift)


def integers(value: ir.Value | None) -> list[int] | None:
    """The whole numbers of a constant, in order, or None."""
    array = constant(value)
    return None if array is None else [int(number) for number in array.reshape(-1)]


def read_elsewhere(inner: Iterable[ir.Node], by: Collection[ir.Node]) -> str | None:
    """A reader, outside the pattern `by`, of a value that its `inner` nodes make; None if none."""
    for node in inner:
        for value in node.outputs:
            if value.is_graph_output():
                return f"{value.name}, inside the pattern, is an output of the graph"
            for reader, _ in value.uses():
                if reader not in by:
                    return f"{where(reader)} ({reader.op_type}) also reads the inner {node.op_type}"
    return None


def last_axis(axis: int, rank: int) -> bool:
    return axis in (-1, rank - 1)


def same_size(a: Any, b: Any) -> bool:
    """Whether two sizes of shapes are known to be equal."""
    return a == b and not (isinstance(a, ir.SymbolicDim) and a.value is None)


@dataclass(frozen=True)
class Part:
    """±source[…, start:stop]"""

    source: ir.Value
    start: int
    stop: int
    negated: bool
    nodes: tuple[ir.Node, ...]
    """The Neg, if negated, and the Slice or Split."""


def part_of(value: ir.Value | None) -> Part | None:
    """The slice of the last axis that `value` is, perhaps negated, or None."""
    negation = producer(value, "Neg")
    if negation is not None:
        value = negation.inputs[0]
    node = producer(value, "Slice", "Split")
    source = None if node is None else node.inputs[0]
    if value is None or node is None or source is None or not source.shape:
        return None
    width, rank = source.shape[-1], len(source.shape)
    if not isinstance(width, int):
        return None
    if node.op_type == "Slice":
        span = _slice(node, width, rank)
    else:
        span = _split(node, value.index() or 0, width, rank)
    if span is None:
        return None
    nodes = (node,) if negation is None else (negation, node)
    return Part(source, *span, negation is not None, nodes)


def _slice(node: ir.Node, width: int, rank: int) -> tuple[int, int] | None:
    starts, ends, axes = (integers(v) for v in (*node.inputs[1:4], *(None,) * 3)[:3])
    steps = integers(node.inputs[4]) if len(node.inputs) > 4 else [1]
    if not starts or not ends or not axes or steps != [1]:
        return None
    if len(axes) != 1 or not last_axis(axes[0], rank):
        return None
    start, stop, _ = slice(starts[0], ends[0]).indices(width)
    return start, stop


def _split(node: ir.Node, index: int, width: int, rank: int) -> tuple[int, int] | None:
    if not last_axis(attribute(node, "axis", 0), rank):
        return None
    sizes = integers(node.inputs[1]) if len(node.inputs) > 1 else None
    if len(node.inputs) < 2 and width % len(node.outputs) == 0:
        sizes = [width // len(node.outputs)] * len(node.outputs)
    return None if sizes is None else (sum(sizes[:index]), sum(sizes[: index + 1]))


def floor_of(division: ir.Node) -> ir.Node | None:
    """The Clip in x / [expand] clip(‖x‖₂, ε), if `division` is that and has no other purpose."""
    x, divisor = division.inputs[0], division.inputs[1]
    clip = _only(divisor, "Expand")
    clip = _only(clip.inputs[0] if clip is not None else divisor, "Clip")
    if clip is None or len(clip.inputs) != 2 or constant(clip.inputs[1]) is None:
        return None
    norm = _only(clip.inputs[0], "ReduceL2")
    return clip if norm is not None and norm.inputs[0] is x else None


def _only(value: ir.Value | None, op: str) -> ir.Node | None:
    """The `op` that makes `value`, if `value` has only one reader."""
    node = value.producer() if value is not None else None
    if value is None or node is None or node.op_type != op or node.domain:
        return None
    return None if value.is_graph_output() or len(value.uses()) != 1 else node


def normalised(node: ir.Node | None) -> ir.Value | None:
    """x, if `node` is x / clip(‖x‖₂, ε), its L2 normalisation; else None."""
    division = node is not None and node.op_type == "Div" and not node.domain
    return node.inputs[0] if division and node is not None and floor_of(node) else None


def is_division_of_norm(node: ir.Node) -> bool:
    """Whether `node` is the division of an L2 normalisation, or spreads its divisor."""
    readers = [use.node for use in node.outputs[0].uses() if node.op_type == "Expand"]
    return any(normalised(one) is not None for one in (node, *readers))


def is_positional(node: ir.Node) -> bool:
    """Whether `node` depends on sizes and constants alone: arithmetic on positions."""
    waiting, seen = [node], {node}
    while waiting:
        current = waiting.pop()
        if current.op_type in ("Shape", "Size"):
            continue
        for value in current.inputs:
            if value is None or value.const_value is not None:
                continue
            producer = value.producer()
            if producer is None:
                return False  # an input of the graph
            if producer not in seen:
                seen.add(producer)
                waiting.append(producer)
    return True


_SCORES = frozenset(
    {"Add", "Sub", "Mul", "Div", "Softmax", "Sigmoid", "Cast", "Clip", *dialect.REARRANGES}
)
"""Ops between a router's linear map and its choice."""


def chooses(node: ir.Node) -> bool:
    """Whether a TopK reads the result of `node`, as it is or behind a softmax and the like: a part
    of the scores by which experts are chosen."""
    return any(
        (reader.op_type == "TopK" and place == 0)
        or (dialect.op_of(reader) in _SCORES and chooses(reader))
        for value in node.outputs
        for reader, place in value.uses()
    )
