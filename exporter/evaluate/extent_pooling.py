"""Bounds of a division that undoes a sum: x / ‖x‖, means over the tokens that a text has, and the
shares of a token's experts.

The divisor of each depends on the same value as what it divides, so the quotient of their bounds
says nothing: a mean of vectors in a box lies in the box, whatever their number.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from goldfold.exporter.evaluate.extent import Ball, Extent
from goldfold.exporter.evaluate.extent_known import Known
from goldfold.exporter.passes.rewriting.pattern import attribute, integers, producer, scalar

_CARRIES = ("Cast", "Unsqueeze", "Squeeze", "Expand", "Reshape", "Identity")
_AT_LEAST = (*_CARRIES, "Clip", "Max")
"""Ops between a sum and the division by it: the divisor is at least the sum."""
_OFF = 1 + 2.0**-8
"""Both operands of these divisions are rounded, to bf16 at worst: each is off by 2^-9 of itself."""


def pooled(node: ir.Node, known: Known) -> Extent | None:
    """The bound of a division of one of these forms, else None. A divisor in fp16 may be rounded
    to 0, and has none."""
    below = node.inputs[1]
    if below is None or below.dtype == ir.DataType.FLOAT16:
        return None
    root = _back(below, _AT_LEAST)
    squared = producer(root, "Sqrt")
    summed = producer(_back(squared.inputs[0], _AT_LEAST) if squared else root, "ReduceSum")
    if summed is None and squared is None:
        summed = _raised_sum(root)
    share = None if summed is None or squared else _share(node, summed, known)
    if share is not None:
        return share
    if summed is not None:
        return _mean(node, summed, known, square_root=squared is not None)
    length = producer(root, "ReduceL2")
    return None if length is None else _normalized(node, length, known)


def _normalized(node: ir.Node, length: ir.Node, known: Known) -> Extent | None:
    # x / max(‖x‖, ε) is no longer than 1
    x = node.inputs[0]
    if _back(length.inputs[0], ("Cast", "Identity")) is not _back(x, ("Cast", "Identity")):
        return None
    rank = known.rank(x)
    axes = integers(length.inputs[1]) if len(length.inputs) > 1 else attribute(length, "axes", None)
    if rank is None or axes is None or [a % rank for a in axes] != [rank - 1]:
        return None
    one = np.full((1,) * rank, _OFF)
    return Extent(-one, one, Ball(-1, one * 0, one, one, one * 0))


def _raised_sum(value: ir.Value | None) -> ir.Node | None:
    """The sum in (sum + ε), with a constant ε ≥ 0."""
    added = producer(value, "Add")
    for place in (0, 1) if added is not None else ():
        epsilon = scalar(added.inputs[1 - place])  # type: ignore[union-attr]
        if epsilon is not None and epsilon >= 0:
            return producer(_back(added.inputs[place], _AT_LEAST), "ReduceSum")  # type: ignore[union-attr]
    return None


def _share(node: ir.Node, summed: ir.Node, known: Known) -> Extent | None:
    # x / Σx lies between 0 and 1 for x ≥ 0, where the sum is not 0
    whole = _back(node.inputs[0], ("Cast", "Identity"))
    if _back(summed.inputs[0], ("Cast", "Identity")) is not whole:
        return None
    x, below = known.of(node.inputs[0]), known.of(node.inputs[1])
    chosen = producer(whole, "TopK")
    # Of the parts of 1, the largest is no smaller than 1 / their number.
    parts = chosen is not None and producer(chosen.inputs[0], "Softmax") is not None
    if (x.lo < 0).any() or not ((below.lo > 0).all() or parts):
        return None
    return Extent(np.zeros_like(x.lo), np.full_like(x.hi, _OFF), over=x.over)


def _mean(node: ir.Node, summed: ir.Node, known: Known, square_root: bool) -> Extent | None:
    # Σ over seen tokens of x / their number lies among the x; over its root, √(tokens) times as far
    above = producer(_back(node.inputs[0], ("Cast", "Identity")), "ReduceSum")
    if above is None:
        return None
    masked = producer(_back(above.inputs[0], ("Cast", "Identity")), "Where")
    if masked is None or _seen(masked.inputs[0]) is not _seen(summed.inputs[0]):
        return None
    zero = known.of(masked.inputs[2])
    sizes, axes = known.sizes(above.inputs[0]), integers(above.inputs[1])
    if not zero.known or zero.size.any() or sizes is None or axes is None or len(axes) != 1:
        return None
    axis, rank = axes[0] % len(sizes), len(sizes)
    if sizes[axis] != known.tokens:
        return None
    x, keep = known.of(above.inputs[0]), bool(attribute(above, "keepdims", 1))
    factor = _OFF * (known.count(sizes[axis]) ** 0.5 if square_root else 1.0)

    def one(array: np.ndarray, least: bool = False) -> np.ndarray:
        found = array.min(axis, keepdims=True) if least else array.max(axis, keepdims=True)
        return (found if keep else found.squeeze(axis)) * factor

    ball = x.ball
    if ball is not None and ball.axis % rank != axis:
        place = ball.axis % rank
        to = ball.axis if keep else place - (axis < place) - (rank - 1)
        scaled = ball.centered()
        unit = scaled.scale.max(axis, keepdims=True)
        ball = Ball(to, one(scaled.center), unit if keep else unit.squeeze(axis),
                    one(scaled.radius), one(scaled.rest))  # fmt: skip
    else:
        ball = None
    return Extent(one(x.lo, least=True), one(x.hi), ball, over=x.over)


def _back(value: ir.Value | None, ops: tuple[str, ...]) -> ir.Value | None:
    """The value behind all of these ops."""
    while (node := producer(value, *ops)) is not None:
        value = node.inputs[0]
    return value


def _seen(value: ir.Value | None) -> ir.Value | None:
    """The value that says which tokens are seen, whatever its type and shape became."""
    return _back(value, _CARRIES)
