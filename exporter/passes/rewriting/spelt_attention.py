"""Attention that is written out in standard ops: its product, its masks and its biases."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from goldfold.exporter.ir.program import constant
from goldfold.exporter.passes.rewriting.pattern import producer, scalar

_HIDES = -1e4
"""The largest number that is taken to hide a token."""
_DEPTH = 8
"""The most ops between the product of queries and keys and the softmax."""


@dataclass
class Spelt:
    """One attention written out: softmax(s q kᵀ + biases + masks) v."""

    node: ir.Node
    """The product of weights and values."""
    inner: list[ir.Node]
    """All nodes between that and the operands, on the way of the scores."""
    products: list[tuple[ir.Node, float]] = field(default_factory=list)
    """Products of two computed values, and the factor of each."""
    masks: list[tuple[ir.Value, bool]] = field(default_factory=list)
    """Conditions that hide a token: where they are true (True), or where they are not."""
    biases: list[ir.Value] = field(default_factory=list)
    padding: ir.Value | None = None
    """[batch, tokens], not 0 where a token is real."""
    fault: str = ""


def collect(scores: ir.Value | None, spelt: Spelt) -> None:
    """Collect the summands of the scores that a softmax reads."""
    _collect(scores, 1.0, spelt, _DEPTH)


def _collect(value: ir.Value | None, factor: float, spelt: Spelt, depth: int) -> bool:
    """Collect the summands of `value` times `factor`. Returns whether a product or a mask is among
    them; a sum of neither is one bias."""
    node = producer(value)
    if value is None:
        return False
    if node is not None and depth:
        if node.op_type in ("Mul", "Div"):
            place, number = _factor(node)
            if number and _leads_to_product(node.inputs[place], depth):
                spelt.inner.append(node)
                return _collect(node.inputs[place], factor * number, spelt, depth - 1)
        if node.op_type == "Add":
            if factor != 1.0:
                spelt.fault = "it scales scores and bias together"
            before = len(spelt.biases)
            found = [_collect(given, factor, spelt, depth - 1) for given in node.inputs]
            if any(_leads_to_product(given, depth) for given in node.inputs):
                spelt.inner.append(node)
            if any(found):
                return True
            del spelt.biases[before:]
        if node.op_type == "MatMul" and _computes_scores(node):
            spelt.inner.append(node)
            spelt.products.append((node, factor))
            return True
        if node.op_type == "Where":
            hidden = _hiding(node)
            if hidden is not None:
                spelt.masks.append(hidden)
                return True
        if node.op_type == "Expand" and node.inputs[0] is not None:  # the sum spreads it as well
            return _collect(node.inputs[0], factor, spelt, depth - 1)
    spelt.biases.append(value)
    return False


def _leads_to_product(value: ir.Value | None, depth: int) -> bool:
    node = producer(value)
    if node is None or not depth:
        return False
    if node.op_type == "MatMul":
        return _computes_scores(node)
    if node.op_type in ("Add", "Mul", "Div"):
        return any(_leads_to_product(given, depth - 1) for given in node.inputs)
    return False


def _factor(node: ir.Node) -> tuple[int, float | None]:
    """The place of the value that is scaled by a number, and that number."""
    first, second = (scalar(value) for value in node.inputs)
    if node.op_type == "Div":
        return 0, 1.0 / second if second else None
    return (0, second) if second is not None else (1, first)


def _computes_scores(node: ir.Node) -> bool:
    """Whether a product is one of two computed values with heads."""
    return all(
        value is not None and value.shape is not None and len(value.shape) == 4
        and constant(value) is None
        for value in node.inputs
    )  # fmt: skip


def _hiding(node: ir.Node) -> tuple[ir.Value, bool] | None:
    """The condition of a Where that gives 0 or a number that hides, and whether it hides."""
    condition, (one, two) = node.inputs[0], (scalar(value) for value in node.inputs[1:])
    if condition is None or one is None or two is None:
        return None
    if one == 0 and two <= _HIDES:
        return condition, False
    return (condition, True) if two == 0 and one <= _HIDES else None
