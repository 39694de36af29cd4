"""The columns of a linear map that a value holds, where the ops between only move numbers, or
rotate them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir import dialect
from goldfold.exporter.ir.program import BATCH, TOKENS, constant
from goldfold.exporter.passes.rewriting.pattern import attribute, integers

_SIZES = {BATCH: 2, TOKENS: 3}
"""Sizes for moving numbers; any other axis of rows has as many as both together."""


def moves(node: ir.Node) -> bool:
    """Whether `node` moves or rotates the numbers of its first input, a part of them or all."""
    if node.domain or node.op_type not in dialect.MOVES_COLUMNS:
        return False
    return node.op_type != "Gather" or constant(node.inputs[1]) is not None


def columns(value: ir.Value, source: ir.Value) -> frozenset[int] | None:
    """The columns of `source` [batch, tokens, N] or [batch·tokens, N] that `value` is made of; None
    where another op stands between them, or sizes are not known."""
    try:
        found = _moved(value, source)
    except (ValueError, IndexError):
        return None  # sizes that do not fit: the graph's differ from _SIZES
    return None if found is None else frozenset(np.unique(found).tolist())


def _moved(value: ir.Value | None, source: ir.Value) -> np.ndarray | None:
    """The column that each number of `value` comes from, at small sizes."""
    if value is None:
        return None
    if value is source:
        width = source.shape[-1] if source.shape else None
        rows = {2: (6,), 3: (2, 3)}.get(len(source.shape or ()))
        if rows is None or not isinstance(width, int):
            return None
        return np.broadcast_to(np.arange(width), (*rows, width))
    node = value.producer()
    if node is None or not moves(node):
        return None
    x = _moved(node.inputs[0], source)
    if x is None or node.op_type == "RotaryEmbedding":
        return x  # rotated numbers stay within their head
    if node.op_type == "Reshape":
        shape = _sizes(node, value, x)
        return None if shape is None else x.reshape(shape)
    if node.op_type == "Transpose":
        return x.transpose(attribute(node, "perm", None))
    if node.op_type == "Split":
        return _split(node, x, value.index() or 0)
    if node.op_type == "Slice":
        return _slice(node, x)
    given = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if given is None:
        return None
    if node.op_type == "Gather":
        return np.take(x, given, axis=attribute(node, "axis", 0))
    spread = np.expand_dims if node.op_type == "Unsqueeze" else np.squeeze
    return spread(x, tuple(given.reshape(-1).tolist()))


def _sizes(node: ir.Node, value: ir.Value, x: np.ndarray) -> list[int] | None:
    """The shape that a Reshape gives at _SIZES; None if more than one size is not known."""
    given = integers(node.inputs[1])
    if given is not None:
        if 0 in given and attribute(node, "allowzero", 0):
            return None
        return [x.shape[axis] if size == 0 else size for axis, size in enumerate(given)]
    if value.shape is None:
        return None
    sizes = [d if isinstance(d, int) else _SIZES.get(str(d.value), -1) for d in value.shape]
    return sizes if sizes.count(-1) < 2 else None


def _split(node: ir.Node, x: np.ndarray, index: int) -> np.ndarray | None:
    axis = attribute(node, "axis", 0)
    sizes = integers(node.inputs[1]) if len(node.inputs) > 1 else None
    if sizes is None:
        if len(node.inputs) > 1 or x.shape[axis] % len(node.outputs):
            return None
        sizes = [x.shape[axis] // len(node.outputs)] * len(node.outputs)
    return np.split(x, np.cumsum(sizes)[:-1], axis=axis)[index]


def _slice(node: ir.Node, x: np.ndarray) -> np.ndarray | None:
    starts, ends = integers(node.inputs[1]), integers(node.inputs[2])
    axes, steps = (integers(v) for v in (*node.inputs[3:5], None, None)[:2])
    if starts is None or ends is None:
        return None
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    at = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        at[axis] = slice(start, end, step)
    return x[tuple(at)]
