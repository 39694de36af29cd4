"""Rows of the op table: ops that move, select and measure, and compute nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from goldfold.targets.coreml.lower.lowering import Emit, Row
from goldfold.targets.coreml.lower.rows_math import kind

BYTES = "iOS17"
"""The first system that looks up bytes, and casts them."""


def is_open(size: Any) -> bool:
    """Returns whether a size of a shape is not fixed (a flexible length)."""
    return not isinstance(size, (int, np.integer))


def is_static(var: Any) -> bool:
    return not any(is_open(size) for size in var.shape)


def fixed(emit: Emit, index: int, what: str) -> np.ndarray:
    """Returns operand `index`, which has to be known while building."""
    array = emit.known(index)
    if array is None:
        raise emit.fault(f"its {what} depends on the text")
    return array


def identity(emit: Emit, node: ir.Node) -> Any:
    return emit.var(0)


def shape(emit: Emit, node: ir.Node) -> Any:
    """A constant where the requested sizes are fixed."""
    x = emit.var(0)
    sizes = x.shape[emit.attribute("start", 0) : emit.attribute("end", None)]
    if not any(is_open(size) for size in sizes):
        return np.array(sizes, dtype=np.int64)
    first = range(len(x.shape))[emit.attribute("start", 0) :].start
    whole = emit("shape", "whole", x=x)
    return emit("slice_by_index", x=whole, begin=[first], end=[first + len(sizes)])


def reshape(emit: Emit, node: ir.Node) -> Any:
    x, wanted = emit.var(0), emit.known(1)
    if wanted is None:
        return emit("reshape", x=x, shape=emit.var(1))
    keep = not emit.attribute("allowzero", 0)
    sizes = [
        x.shape[place] if keep and size == 0 else int(size) for place, size in enumerate(wanted)
    ]
    opened = [place for place, size in enumerate(sizes) if is_open(size)]
    if len(opened) + sizes.count(-1) > 1:
        raise emit.fault("two of its sizes stay open, and MIL can find one")
    for place in opened:
        sizes[place] = -1
    return emit("reshape", x=x, shape=np.array(sizes, dtype=np.int32))


def flatten(emit: Emit, node: ir.Node) -> Any:
    x = emit.var(0)
    axis = emit.attribute("axis", 1)
    axis = axis + len(x.shape) if axis < 0 else axis
    if not is_static(x):
        raise emit.fault("its sizes are open")
    left = int(np.prod(x.shape[:axis], dtype=np.int64))
    return emit("reshape", x=x, shape=np.array([left, -1], dtype=np.int32))


def transpose(emit: Emit, node: ir.Node) -> Any:
    x = emit.var(0)
    perm = emit.attribute("perm", range(len(x.shape))[::-1])
    return emit("transpose", x=x, perm=[int(axis) for axis in perm])


def squeeze(emit: Emit, node: ir.Node) -> Any:
    x = emit.var(0)
    rank = len(x.shape)
    if emit.operand(1) is None:
        axes = [place for place, size in enumerate(x.shape) if size == 1]
    else:
        axes = [int(a) % rank for a in fixed(emit, 1, "list of axes").reshape(-1)]
    return emit("squeeze", x=x, axes=axes) if axes else x


def unsqueeze(emit: Emit, node: ir.Node) -> Any:
    x, axes = emit.var(0), fixed(emit, 1, "list of axes").reshape(-1)
    rank = len(x.shape) + len(axes)
    return emit("expand_dims", x=x, axes=sorted(int(axis) % rank for axis in axes))


def expand(emit: Emit, node: ir.Node) -> Any:
    """A repetition where sizes are fixed; otherwise a multiplication with ones of the wanted
    shape."""
    x, wanted = emit.var(0), emit.known(1)
    if wanted is None or not is_static(x):
        return _expand_open(emit, x)
    rank = max(len(x.shape), len(wanted))
    before = (1,) * (rank - len(x.shape)) + tuple(x.shape)
    after = np.broadcast_shapes(before, tuple(int(size) for size in wanted))
    if len(x.shape) < rank:
        same = before == after
        x = emit("reshape", None if same else "ranked", x=x, shape=np.array(before, np.int32))
    if before == after:
        return x
    repeats = [b // a if a else 1 for a, b in zip(before, after, strict=True)]
    return emit("tile", x=x, reps=repeats)


def _expand_open(emit: Emit, x: Any) -> Any:
    wanted = emit.var(1)
    if kind(x) == "bool":
        ones = emit("fill", "filled", shape=wanted, value=1)
        return emit("logical_and", x=x, y=emit("cast", "ones", x=ones, dtype="bool"))
    one = {"fp16": np.float16, "fp32": np.float32, "int32": np.int32}[kind(x)](1)
    return emit("mul", x=x, y=emit("fill", "ones", shape=wanted, value=one))


def tile(emit: Emit, node: ir.Node) -> Any:
    return emit("tile", x=emit.var(0), reps=[int(n) for n in fixed(emit, 1, "list of repeats")])


def slices(emit: Emit, node: ir.Node) -> Any:
    """Begins and ends are made explicit for axes of fixed size; an open axis keeps its ends where
    ONNX's reach beyond any length."""
    x = emit.var(0)
    rank = len(x.shape)
    starts, ends = fixed(emit, 1, "begin"), emit.known(2)
    axes = emit.known(3) if emit.operand(3) is not None else np.arange(len(starts))
    steps = emit.known(4) if emit.operand(4) is not None else np.ones(len(starts), np.int64)
    if axes is None or steps is None:
        raise emit.fault("its axes or steps depend on the text")
    if (steps <= 0).any():
        raise emit.fault("it runs backwards")
    begin, end, stride = [0] * rank, [0] * rank, [1] * rank
    to_begin, to_end = [True] * rank, [True] * rank
    if ends is None:
        return _slice_open(emit, x, starts, axes, steps)
    for axis, first, last, step in zip(axes, starts, ends, steps, strict=True):
        axis, size = int(axis) % rank, x.shape[int(axis) % rank]
        if is_open(size):
            begin[axis], to_begin[axis] = int(first), False
            to_end[axis] = int(last) >= 2**31 - 1
            end[axis] = 0 if to_end[axis] else int(last)
        else:
            begin[axis], end[axis], _ = slice(int(first), int(last), int(step)).indices(size)
            to_begin[axis] = to_end[axis] = False
        stride[axis] = int(step)
    return emit(
        "slice_by_index",
        x=x,
        begin=begin,
        end=end,
        stride=stride,
        begin_mask=to_begin,
        end_mask=to_end,
    )


def _slice_open(emit: Emit, x: Any, starts: np.ndarray, axes: np.ndarray, steps: np.ndarray) -> Any:
    """Slices one axis from its start, where the number of entries follows from an open length."""
    if len(axes) != 1 or starts[0] != 0 or steps[0] != 1:
        raise emit.fault("its end depends on the length, and it is not a plain beginning")
    rank, axis = len(x.shape), int(axes[0]) % len(x.shape)
    zero = emit.constant(np.zeros(1, np.int32), "zero")
    ends = [emit.var(2) if place == axis else zero for place in range(rank)]
    mask = [place != axis for place in range(rank)]
    end = emit("concat", "end", values=ends, axis=0)
    return emit(
        "slice_by_index", x=x, begin=[0] * rank, end=end, begin_mask=[True] * rank, end_mask=mask
    )


def split(emit: Emit, node: ir.Node) -> Any:
    x = emit.var(0)
    axis = emit.attribute("axis", 0) % len(x.shape)
    if emit.operand(1) is not None:
        sizes = [int(size) for size in fixed(emit, 1, "list of sizes")]
    else:
        parts, whole = len(node.outputs), x.shape[axis]
        if is_open(whole):
            raise emit.fault("it splits an axis whose size is open")
        each = -(-int(whole) // parts)  # all equal, the last may be smaller
        sizes = [min(each, int(whole) - place * each) for place in range(parts)]
    if len(sizes) == 1:
        return x
    return emit("split", x=x, split_sizes=sizes, axis=axis)


def concat(emit: Emit, node: ir.Node) -> Any:
    values = [emit.var(place) for place in range(len(node.inputs))]
    if len(values) == 1:
        return values[0]
    axis = emit.attribute("axis") % len(values[0].shape)
    return emit("concat", values=values, axis=axis)


def _indices(emit: Emit, axis: int) -> Any:
    """Returns operand 1 as indices from the beginning. Indices that depend on the text are token
    ids and token positions, never negative."""
    array, size = emit.known(1), emit.var(0).shape[axis]
    if array is None:
        return emit.var(1)
    if (array < 0).any():
        if is_open(size):
            raise emit.fault("it counts from the end of an open length")
        array = np.where(array < 0, array + size, array)
    return emit.constant(np.asarray(array, dtype=np.int32), "indices")


def _gathering(op: str) -> Row:
    def row(emit: Emit, node: ir.Node) -> Any:
        x = emit.var(0)
        if kind(x) in ("int8", "uint8") and emit.function.system.name < BYTES:
            raise emit.too_old("to look up bytes", BYTES)
        axis = emit.attribute("axis", 0) % len(x.shape)
        return emit(op, x=x, indices=_indices(emit, axis), axis=axis)

    return row


def scatter_elements(emit: Emit, node: ir.Node) -> Any:
    x, axis = emit.var(0), emit.attribute("axis", 0)
    modes = {"none": "update", "add": "add", "mul": "mul", "max": "max", "min": "min"}
    mode = modes[node.attributes.get_string("reduction", "none")]
    axis %= len(x.shape)
    indices, updates = _indices(emit, axis), emit.var(2)
    return emit(
        "scatter_along_axis", data=x, indices=indices, updates=updates, axis=axis, mode=mode
    )


def gather_nd(emit: Emit, node: ir.Node) -> Any:
    batch = emit.attribute("batch_dims", 0)
    x, indices = emit.var(0), emit.var(1)
    if kind(x) == "bool":  # MIL gathers numbers only
        x = emit("cast", "numbers", x=x, dtype="int32")
        gathered = emit("gather_nd", "gathered", x=x, indices=indices, **_batched(batch))
        return emit("cast", x=gathered, dtype="bool")
    return emit("gather_nd", x=x, indices=indices, **_batched(batch))


def _batched(batch: int) -> dict[str, Any]:
    return {"batch_dims": batch} if batch else {}  # a parameter that iOS 16's op lacks


def largest(emit: Emit, node: ir.Node) -> Any:
    """The k largest or smallest, and their places, which MIL counts in int32. Which of equal values
    come first, MIL does not say."""
    count = int(fixed(emit, 1, "number of results").reshape(()))
    x, axis = emit.var(0), emit.attribute("axis", -1)
    return emit("topk", x=x, k=count, axis=axis, ascending=not emit.attribute("largest", 1))


def counted(emit: Emit, node: ir.Node) -> Any:
    start, end, step = (emit.var(place) for place in range(3))
    return emit("range_1d", start=start, end=end, step=step)


ROWS: dict[str, Row] = {
    "Identity": identity, "Shape": shape, "Reshape": reshape, "Flatten": flatten,
    "Transpose": transpose, "Squeeze": squeeze, "Unsqueeze": unsqueeze, "Expand": expand,
    "Tile": tile, "Slice": slices, "Split": split, "Concat": concat, "Gather": _gathering("gather"),
    "GatherElements": _gathering("gather_along_axis"), "GatherND": gather_nd, "Range": counted,
    "ScatterElements": scatter_elements, "TopK": largest,
}  # fmt: skip
"""ONNX op → its row."""
