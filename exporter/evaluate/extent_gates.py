"""Bounds on products of two linear maps of the same value: a gated MLP's.

    g = a·u, p = b·u, ‖u‖₂ ≤ ρ   ⇒   |g p| ≤ ρ² (‖a‖‖b‖ + |a·b|) / 2

The matrix (a bᵀ + b aᵀ)/2 has the eigenvalues (a·b ± ‖a‖‖b‖)/2, so this is the largest that the
product gets. Two bounds multiplied say ‖a‖‖b‖ρ², twice as much where a and b are far from parallel.
An activation between with |act(g)| ≤ |g| changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from goldfold.exporter.evaluate.extent import SLACK
from goldfold.exporter.evaluate.extent_known import Known
from goldfold.exporter.ir.program import constant
from goldfold.exporter.passes.rewriting.pattern import attribute, integers, producer

_SHRINKING = ("Gelu", "Relu")
"""Activations with |act(x)| ≤ |x|; x·Sigmoid(x) is one as well."""
_ROUNDED = 16
"""Roundings between the linear maps and the product, at most, each off by its type's unit."""
_PART = 1 << 21


@dataclass(frozen=True)
class _Form:
    """|value| ≤ |x W + bias|"""

    x: ir.Value
    weight: np.ndarray
    bias: np.ndarray | float


def gated(node: ir.Node, known: Known) -> np.ndarray | None:
    """The bound on |g p| by column, or None where the factors are no such maps."""
    forms = [_form(value, known) for value in node.inputs[:2]]
    a, b = forms
    if a is None or b is None or a.x is not b.x or a.weight.shape != b.weight.shape:
        return None
    x = known.of(a.x)
    ball = x.ball
    if ball is None or ball.axis != -1 or any(n > 1 for n in x.lo.shape[:-1]):
        return None
    inner, outer = a.weight.shape
    center, scale, rest = (
        np.broadcast_to(part.max(tuple(range(part.ndim - 1))), inner)
        for part in (ball.center, ball.scale, ball.rest)
    )
    radius, size = float(ball.radius.max()), np.broadcast_to(x.size.reshape(-1), inner)
    unit, tiny = known.rounding(node.outputs[0])
    step, found = max(1, _PART // inner), []
    for start in range(0, outer, step):
        cut = slice(start, start + step)
        lengths, others, parts = [], [], []
        for form in (a, b):
            part = form.weight[:, cut].astype(np.float64)
            bias = form.bias if not isinstance(form.bias, np.ndarray) else form.bias[cut]
            off = (inner + 2) * 2.0**-24 + SLACK + known.weights(None)[0]
            other = abs(center @ part + bias) + rest @ abs(part) + off * (size @ abs(part))
            others.append(other + tiny * (1 + size.sum()))
            parts.append(part * scale[:, None])
            lengths.append(np.linalg.norm(parts[-1], axis=0) * radius)
        between = abs((parts[0] * parts[1]).sum(0)) * radius**2
        most = (lengths[0] * lengths[1] + between) / 2
        most = most + lengths[0] * others[1] + others[0] * lengths[1] + others[0] * others[1]
        found.append(most * (1 + _ROUNDED * unit + SLACK))
    return np.concatenate(found).reshape((1,) * (x.lo.ndim - 1) + (outer,))


def _form(value: ir.Value | None, known: Known) -> _Form | None:
    """The linear map that bounds `value`, or None."""
    node = producer(value)
    if node is None or value is None:
        return None
    if node.op_type in ("Cast", "Identity", *_SHRINKING):
        return _form(node.inputs[0], known)
    if node.op_type == "MatMul":
        weight, x = known.matrix(node.inputs[1]), node.inputs[0]
        return None if weight is None or x is None else _Form(x, weight, 0.0)
    if node.op_type == "Mul":
        for x, gate in (node.inputs[:2], node.inputs[1::-1]):
            sigmoid = producer(_uncast(gate), "Sigmoid")
            if sigmoid is not None and _uncast(sigmoid.inputs[0]) is _uncast(x):
                return _form(x, known)
        return None
    if node.op_type == "Add":
        for x, bias in (node.inputs[:2], node.inputs[1::-1]):
            array, form = constant(bias), _form(x, known)
            if array is None or form is None or producer(x, "MatMul", "Cast") is None:
                continue
            if array.shape != (form.weight.shape[1],) or isinstance(form.bias, np.ndarray):
                return None
            return _Form(form.x, form.weight, array.astype(np.float64))
        return None
    return _columns(node, value, known)


def _columns(node: ir.Node, value: ir.Value, known: Known) -> _Form | None:
    """The columns that a Split or a Slice of the last axis takes of a linear map."""
    rank = known.rank(node.inputs[0])
    if rank is None:
        return None
    if node.op_type == "Split":
        widths = [known.width(output) for output in node.outputs]
        if int(attribute(node, "axis", 0)) % rank != rank - 1:
            return None
        if not all(isinstance(width, int) for width in widths):
            return None
        place = node.outputs.index(value)
        start = sum(int(w) for w in widths[:place])  # type: ignore[arg-type]
        cut = slice(start, start + int(widths[place]))  # type: ignore[arg-type]
    elif node.op_type == "Slice" and len(node.inputs) == 4:
        start, end, axes = (integers(v) for v in node.inputs[1:4])
        if start is None or end is None or axes is None or [a % rank for a in axes] != [rank - 1]:
            return None
        cut = slice(start[0], end[0])
    else:
        return None
    if producer(node.inputs[0], "MatMul", "Add", "Cast") is None:
        return None
    form = _form(node.inputs[0], known)
    if form is None:
        return None
    bias = form.bias if not isinstance(form.bias, np.ndarray) else form.bias[cut]
    return _Form(form.x, form.weight[:, cut], bias)


def _uncast(value: ir.Value | None) -> ir.Value | None:
    while (node := producer(value, "Cast")) is not None:
        value = node.inputs[0]
    return value
