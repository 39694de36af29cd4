"""Rows of the op table: arithmetic, comparisons, reductions."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
import onnx_ir as ir

from goldfold.targets.coreml.lower.lowering import KINDS, Emit, Row

_FLOATS = ("fp16", "fp32")


def kind(var: Any) -> str:
    """Returns MIL's word for a var's type: fp16, fp32, int32, bool."""
    from coremltools.converters.mil.mil import types

    return types.builtin_to_string(var.dtype)


def number(var: Any, value: float) -> Any:
    """Returns `value` as a numpy scalar of the var's type."""
    return {"fp16": np.float16, "fp32": np.float32, "int32": np.int32}[kind(var)](value)


def _binary(op: str, bools: bool = False) -> Row:
    """Returns a row for an op of two operands that broadcast. `bools`: MIL's op takes truth
    values."""

    def row(emit: Emit, node: ir.Node) -> Any:
        x, y = emit.var(0), emit.var(1)
        if kind(x) == "bool" and not bools:
            x, y = (emit("cast", f"number{i}", x=v, dtype="int32") for i, v in enumerate((x, y)))
        return emit(op, x=x, y=y)

    return row


def _unary(op: str, **more: Any) -> Row:
    return lambda emit, node: emit(op, x=emit.var(0), **more)


def _variadic(op: str) -> Row:
    def row(emit: Emit, node: ir.Node) -> Any:
        operands = [emit.var(i) for i in range(len(node.inputs))]
        *inner, last = operands
        if not inner:
            return last
        x = reduce(lambda a, b: emit(op, "part", x=a, y=b), inner)
        return emit(op, x=x, y=last)

    return row


def divide(emit: Emit, node: ir.Node) -> Any:
    """Integers are refused: ONNX rounds their quotient towards zero, MIL towards −∞."""
    x, y = emit.var(0), emit.var(1)
    if kind(x) not in _FLOATS:
        raise emit.fault("it divides integers that depend on the text")
    return emit("real_div", x=x, y=y)


def negate(emit: Emit, node: ir.Node) -> Any:
    x = emit.var(0)
    return emit("mul", x=x, y=number(x, -1))


def reciprocal(emit: Emit, node: ir.Node) -> Any:
    x = emit.var(0)
    return emit("real_div", x=number(x, 1), y=x)


def logarithm(emit: Emit, node: ir.Node) -> Any:
    x = emit.var(0)  # MIL adds an epsilon by default
    return emit("log", x=x, epsilon=number(x, 0))


def clip(emit: Emit, node: ir.Node) -> Any:
    """max(x, low) and min(x, high); either bound may be left out."""
    x = emit.var(0)
    low = emit.operand(1) is not None
    high = emit.operand(2) is not None
    if low:
        x = emit("maximum", "low" if high else None, x=x, y=emit.var(1))
    if high:
        x = emit("minimum", x=x, y=emit.var(2))
    return x


def cast(emit: Emit, node: ir.Node) -> Any:
    x = emit.var(0)
    wanted = KINDS.get(ir.DataType(emit.attribute("to")))
    if wanted is None:
        raise emit.fault(f"MIL has no type {ir.DataType(emit.attribute('to')).name}")
    return x if kind(x) == wanted else emit("cast", x=x, dtype=wanted)


def where(emit: Emit, node: ir.Node) -> Any:
    """MIL takes select's shape from its two branches and not from its condition, so one branch must
    have the whole shape."""
    cond = emit.var(0)
    a, b = emit.operand(1), emit.operand(2)
    assert a is not None and b is not None
    branches = [emit.of(a), emit.of(b)]
    if kind(branches[0]) == "bool":
        chosen = emit("logical_and", "chosen", x=cond, y=branches[0])
        refused = emit("logical_not", "refused", x=cond)
        other = emit("logical_and", "other", x=refused, y=branches[1])
        return emit("logical_or", x=chosen, y=other)
    if not _whole(cond, branches):
        arrays = [emit.known(1), emit.known(2)]
        place = 0 if arrays[0] is not None else 1
        array = arrays[place]
        sizes = [var.shape for var in (cond, *branches)]
        if array is not None and all(isinstance(n, int) for shape in sizes for n in shape):
            full = np.broadcast_to(array, np.broadcast_shapes(*sizes))
            branches[place] = emit.constant(full, f"branch{place}")
        else:  # a + 0 · cond
            counted = emit("cast", "counted", x=cond, dtype=kind(branches[0]))
            zeros = emit("mul", "zeros", x=counted, y=number(branches[0], 0))
            branches[0] = emit("add", "branch", x=branches[0], y=zeros)
    return emit("select", cond=cond, a=branches[0], b=branches[1])


def _whole(cond: Any, branches: list[Any]) -> bool:
    """Returns whether the branches broadcast together to the shape that the condition requires."""
    rank = max(len(var.shape) for var in (cond, *branches))
    padded = [(1,) * (rank - len(v.shape)) + tuple(v.shape) for v in (cond, *branches)]
    return all(c == 1 or c in (a, b) for c, a, b in zip(*padded, strict=True)) and rank == max(
        len(var.shape) for var in branches
    )


def axes_of(emit: Emit, rank: int) -> list[int]:
    """Returns the axes that a reduction names, in order, from an input or an attribute; all if
    none."""
    given = emit.known(1) if emit.operand(1) is not None else emit.attribute("axes")
    if emit.operand(1) is not None and given is None:
        raise emit.fault("its axes depend on the text")
    if given is None or not len(given):
        return [] if emit.attribute("noop_with_empty_axes", 0) else list(range(rank))
    return sorted(int(axis) % rank for axis in given)


def _reduction(op: str, integers: bool = True) -> Row:
    def row(emit: Emit, node: ir.Node) -> Any:
        x = emit.var(0)
        axes = axes_of(emit, len(x.shape))
        if not axes:
            return x
        if kind(x) == "bool" or (kind(x) == "int32" and not integers):
            raise emit.fault(f"MIL's {op} takes no {kind(x)}")
        keep = bool(emit.attribute("keepdims", 1))
        return emit(op, x=x, axes=axes, keep_dims=keep)

    return row


def argument(op: str) -> Row:
    """Returns a row for ArgMax or ArgMin: the first of equals."""

    def row(emit: Emit, node: ir.Node) -> Any:
        if emit.attribute("select_last_index", 0):
            raise emit.fault("MIL finds the first of equals, not the last")
        axis, keep = emit.attribute("axis", 0), bool(emit.attribute("keepdims", 1))
        return emit(op, x=emit.var(0), axis=axis, keep_dims=keep)

    return row


def cumulate(emit: Emit, node: ir.Node) -> Any:
    axis = emit.known(1)
    if axis is None:
        raise emit.fault("its axis depends on the text")
    exclusive, backwards = (bool(emit.attribute(n, 0)) for n in ("exclusive", "reverse"))
    x = emit.var(0)
    return emit(
        "cumsum",
        x=x,
        axis=int(axis.reshape(())) % len(x.shape),
        exclusive=exclusive,
        reverse=backwards,
    )


def softmax(emit: Emit, node: ir.Node) -> Any:
    return emit("softmax", x=emit.var(0), axis=emit.attribute("axis", -1))


def gelu(emit: Emit, node: ir.Node) -> Any:
    tanh = emit.attribute("approximate", "none") == "tanh"
    return emit("gelu", x=emit.var(0), mode="TANH_APPROXIMATION" if tanh else "EXACT")


def leaky(emit: Emit, node: ir.Node) -> Any:
    x = emit.var(0)
    return emit("leaky_relu", x=x, alpha=number(x, emit.attribute("alpha", 0.01)))


ROWS: dict[str, Row] = {
    "Add": _binary("add"), "Sub": _binary("sub"), "Mul": _binary("mul"), "Div": divide,
    "Pow": _binary("pow"), "Max": _variadic("maximum"), "Min": _variadic("minimum"),
    "Equal": _binary("equal"), "Less": _binary("less"), "LessOrEqual": _binary("less_equal"),
    "Greater": _binary("greater"), "GreaterOrEqual": _binary("greater_equal"),
    "And": _binary("logical_and", bools=True), "Or": _binary("logical_or", bools=True),
    "Xor": _binary("logical_xor", bools=True), "Not": _unary("logical_not"),
    "Neg": negate, "Reciprocal": reciprocal, "Log": logarithm, "Clip": clip, "Cast": cast,
    "Where": where, "CumSum": cumulate, "Softmax": softmax, "Gelu": gelu, "LeakyRelu": leaky,
    "Abs": _unary("abs"), "Sqrt": _unary("sqrt"), "Exp": _unary("exp"), "Erf": _unary("erf"),
    "Sin": _unary("sin"), "Cos": _unary("cos"), "Tanh": _unary("tanh"), "Sign": _unary("sign"),
    "Sigmoid": _unary("sigmoid"), "Relu": _unary("relu"), "Ceil": _unary("ceil"),
    "Floor": _unary("floor"), "Softplus": _unary("softplus"),
    "ReduceSum": _reduction("reduce_sum"), "ReduceMean": _reduction("reduce_mean", integers=False),
    "ReduceMax": _reduction("reduce_max"), "ReduceMin": _reduction("reduce_min"),
    "ReduceL2": _reduction("reduce_l2_norm", integers=False),
    "ReduceL1": _reduction("reduce_l1_norm", integers=False),
    "ArgMax": argument("reduce_argmax"), "ArgMin": argument("reduce_argmin"),
}  # fmt: skip
"""ONNX op → its row."""
