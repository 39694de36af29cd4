"""Bounds through arithmetic, activations, comparisons and reductions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from goldfold.exporter.evaluate.extent import (
    Ball,
    Extent,
    between,
    flat,
    hull,
    product,
    unbounded,
)
from goldfold.exporter.evaluate.extent_gates import gated
from goldfold.exporter.evaluate.extent_known import Known
from goldfold.exporter.evaluate.extent_pooling import pooled
from goldfold.exporter.passes.rewriting.pattern import attribute, integers

Rule = Callable[[ir.Node, "Known"], Extent]

GELU_LEAST = -0.1701
"""Below both GELUs: x Φ(x) is never less than −0.16998, its tanh form never less than −0.17005."""


def _two(node: ir.Node, known: Known) -> tuple[Extent, Extent]:
    return known.of(node.inputs[0]), known.of(node.inputs[1])


def _over(*extents: Extent) -> str:
    return next((e.over for e in extents if e.over), "")


def add(node: ir.Node, known: Known) -> Extent:
    a, b = _two(node, known)
    if node.op_type == "Sub":
        b = _negated(b)
    ball = _sum(a, b, known.rank(node.outputs[0]))
    return Extent(a.lo + b.lo, a.hi + b.hi, ball, None, a.known and b.known, _over(a, b))


def _sum(a: Extent, b: Extent, rank: int | None) -> Ball | None:
    """The ball of a sum; a summand without a ball is a center and a rest."""
    if a.ball is None:
        a, b = b, a
    ball, other = a.ball, b.ball
    if ball is None or rank is None:
        return None
    if other is not None and other.axis == ball.axis:
        return Ball(
            ball.axis,
            ball.center + other.center,
            np.maximum(ball.scale, other.scale),
            ball.radius + other.radius,
            ball.rest + other.rest,
        )
    if not (np.isfinite(b.lo).all() and np.isfinite(b.hi).all()):
        return None
    middle, reach = (b.lo + b.hi) / 2, (b.hi - b.lo) / 2
    return replace(ball, center=ball.center + middle, rest=ball.rest + reach)


def _negated(x: Extent) -> Extent:
    ball = x.ball and replace(x.ball, center=-x.ball.center)
    return Extent(-x.hi, -x.lo, ball, x.mass, x.known, x.over)


def neg(node: ir.Node, known: Known) -> Extent:
    return _negated(known.of(node.inputs[0]))


def mul(node: ir.Node, known: Known) -> Extent:
    a, b = _two(node, known)
    if node.inputs[0] is node.inputs[1]:
        return _squared(a)
    lo, hi = product(a, b)
    most = gated(node, known)
    if most is not None:
        lo, hi = np.maximum(lo, -most), np.minimum(hi, most)
    ball = mass = None
    for x, y in ((a, b), (b, a)):
        if x.ball is not None and np.isfinite(y.size).all():
            ball = x.ball.times(y.lo) if y.known else x.ball.centered().times(y.size)
            break
    for x, y in ((a, b), (b, a)):
        if x.mass is not None:
            mass = x.mass * y.size.max()
            break
    return Extent(lo, hi, ball, mass, a.known and b.known, _over(a, b))


def _squared(x: Extent) -> Extent:
    least = np.where((x.lo <= 0) & (x.hi >= 0), 0.0, np.minimum(abs(x.lo), abs(x.hi)))
    return Extent(least**2, x.size**2, over=x.over)


def div(node: ir.Node, known: Known) -> Extent:
    found = pooled(node, known)
    if found is not None:
        return found
    a, b = _two(node, known)
    if ((b.lo <= 0) & (b.hi >= 0)).any():
        return unbounded(f"{b.over or 'a division by what may be 0'}")
    inverse = Extent(1 / b.hi, 1 / b.lo, known=b.known)
    lo, hi = product(a, inverse)
    ball = None
    if a.ball is not None:
        ball = a.ball.times(inverse.lo) if b.known else a.ball.centered().times(inverse.size)
    mass = None if a.mass is None else a.mass * inverse.size.max()
    return Extent(lo, hi, ball, mass, a.known and b.known, _over(a, b))


def where(node: ir.Node, known: Known) -> Extent:
    a, b = known.of(node.inputs[1]), known.of(node.inputs[2])
    found = hull(a, b)
    for x, y in ((a, b), (b, a)):
        if y.known and not y.size.any():  # x or 0
            ball = None if x.ball is None else x.ball.centered()
            return replace(found, ball=ball, mass=x.mass)
    return found


def extremum(node: ir.Node, known: Known) -> Extent:
    parts = [known.of(value) for value in node.inputs if value is not None]
    most = np.minimum if node.op_type == "Min" else np.maximum
    lo, hi = parts[0].lo, parts[0].hi
    for part in parts[1:]:
        lo, hi = most(lo, part.lo), most(hi, part.hi)
    return Extent(lo, hi, over=_over(*parts))


def clip(node: ir.Node, known: Known) -> Extent:
    x = known.of(node.inputs[0])
    lo, hi = x.lo, x.hi
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        least = known.of(node.inputs[1])
        lo, hi = np.maximum(lo, least.lo), np.maximum(hi, least.hi)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        most = known.of(node.inputs[2])
        lo, hi = np.minimum(lo, most.lo), np.minimum(hi, most.hi)
    over = x.over if not (np.isfinite(lo).all() and np.isfinite(hi).all()) else ""
    return Extent(lo, hi, over=over)


def growing(function: Callable[[np.ndarray], np.ndarray], least: float = -math.inf,
            most: float = math.inf) -> Rule:  # fmt: skip
    """The rule of a function that never falls, and that stays between `least` and `most`."""

    def rule(node: ir.Node, known: Known) -> Extent:
        x = known.of(node.inputs[0])
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            lo, hi = function(x.lo).clip(least, most), function(x.hi).clip(least, most)
        over = "" if np.isfinite(lo).all() and np.isfinite(hi).all() else x.over or "no bound"
        return Extent(lo, hi, over=over)

    return rule


def relu(node: ir.Node, known: Known) -> Extent:
    """Relu shrinks every vector: a ball around 0 stays one."""
    x = known.of(node.inputs[0])
    ball = None if x.ball is None else x.ball.centered()
    return Extent(x.lo.clip(0), x.hi.clip(0), ball, over=x.over)


def gelu(node: ir.Node, known: Known) -> Extent:
    """x Φ(x) is between max(−0.1701, min(x, 0)) and max(x, 0)."""
    x = known.of(node.inputs[0])
    lo = np.maximum(np.minimum(x.lo, 0.0), GELU_LEAST)
    ball = None if x.ball is None else x.ball.centered()
    return Extent(lo, x.hi.clip(0), ball, over=x.over)


def absolute(node: ir.Node, known: Known) -> Extent:
    x = known.of(node.inputs[0])
    least = np.where((x.lo <= 0) & (x.hi >= 0), 0.0, np.minimum(abs(x.lo), abs(x.hi)))
    ball = None if x.ball is None else x.ball.centered()
    return Extent(least, x.size, ball, x.mass, x.known, x.over)


def erf(node: ir.Node, known: Known) -> Extent:
    x = known.of(node.inputs[0])
    return Extent(np.where(x.lo >= 0, 0.0, -1.0), np.where(x.hi <= 0, 0.0, 1.0))


def bent(node: ir.Node, known: Known) -> Extent:
    """LeakyRelu, Elu: x where it is positive, else some part of it or of an exponential."""
    x = known.of(node.inputs[0])
    alpha = float(attribute(node, "alpha", 0.01 if node.op_type == "LeakyRelu" else 1.0))
    least = x.lo.clip(max=0) * abs(alpha)
    if node.op_type == "Elu":
        least = least.clip(-abs(alpha))
    most = np.maximum(x.hi.clip(0), -least if alpha < 0 else 0.0)
    return Extent(least if alpha >= 0 else np.zeros_like(least), most, over=x.over)


def power(node: ir.Node, known: Known) -> Extent:
    x, given = _two(node, known)
    exponent = float(given.lo.reshape(-1)[0]) if given.known and given.lo.size == 1 else None
    if exponent == 2:
        return _squared(x)
    if exponent is None or exponent < 0 or ((x.lo < 0).any() and exponent != int(exponent)):
        return unbounded("a power of unknown exponent or sign")
    size = x.size**exponent
    return Extent(np.where(x.lo < 0, -size, 0.0), size, over=x.over)


def softmax(node: ir.Node, known: Known) -> Extent:
    """Weights of a mixture: between 0 and 1, and 1 together. Their sum in f32 is off by at most
    n·2^-24 of itself, and each of them is one division further off."""
    x = known.of(node.inputs[0])
    sizes = known.sizes(node.inputs[0])
    axis = int(attribute(node, "axis", -1))
    off = 1 + (known.keys(None if sizes is None else sizes[axis]) + 8) * 2.0**-23
    last = sizes is not None and axis in (-1, len(sizes) - 1)
    lo, hi = np.zeros((1,) * x.lo.ndim), np.full((1,) * x.lo.ndim, off)
    holds = np.isneginf(x.lo).any() and not x.over
    return Extent(lo, hi, mass=hi if last else None,
                  over="a row of nothing but −inf is not a number" if holds else "")  # fmt: skip


def reduce(node: ir.Node, known: Known) -> Extent:
    x, sizes = known.of(node.inputs[0]), known.sizes(node.inputs[0])
    given = integers(node.inputs[1]) if len(node.inputs) > 1 else attribute(node, "axes", None)
    if given is None and node.op_type in ("ReduceMax", "ReduceMin", "ReduceMean"):
        return flat(x)
    if sizes is None or not x.lo.ndim or given is None:
        return unbounded(f"{node.op_type} of a value of unknown shape")
    rank, keep = len(sizes), bool(attribute(node, "keepdims", 1))
    axes = tuple(int(a) % rank for a in given)
    lo, hi = x.lo, x.hi
    if node.op_type == "ReduceL2" and len(axes) == 1:
        hi = x.norm(axes[0] - rank, known.count(sizes[axes[0]]))
        lo = np.zeros_like(hi)
    elif node.op_type in ("ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare"):
        if node.op_type in ("ReduceL2", "ReduceSumSquare"):
            lo, hi = _squared(x).lo, _squared(x).hi
        if node.op_type == "ReduceL1":
            lo, hi = np.zeros_like(x.size), x.size
        for axis in axes:
            lo, hi = _summed(lo, hi, axis, sizes[axis], known)
        if node.op_type == "ReduceL2":
            lo, hi = np.sqrt(lo.clip(0)), np.sqrt(hi)
    else:  # ReduceMean, ReduceMax, ReduceMin: between the least and the largest
        for axis in axes:
            lo, hi = lo.min(axis, keepdims=True), hi.max(axis, keepdims=True)
    if not keep:
        lo, hi = lo.squeeze(axes), hi.squeeze(axes)
    over = x.over or ("" if np.isfinite(hi).all() else f"a sum over {', '.join(map(str, sizes))}")
    ball = _reduced_ball(x, axes, keep, node.op_type)
    return Extent(lo, hi, ball, over="" if np.isfinite(hi).all() and not x.over else over)


def _summed(
    lo: np.ndarray, hi: np.ndarray, axis: int, size: int | str | None, known: Known
) -> tuple[np.ndarray, np.ndarray]:
    """The bounds of a sum along one axis, of one element at least where the text says how many.
    In f32 it is off by at most n·2^-24 of the sum of magnitudes."""
    most = known.count(size)
    fewest = float(size) if isinstance(size, int) else 1.0
    off = most * 2.0**-24 * np.maximum(-lo, hi)
    if lo.shape[axis] == 1:
        with np.errstate(invalid="ignore"):
            off = np.nan_to_num(off * most, nan=0.0, posinf=math.inf)
            low = np.where(lo < 0, lo * most, lo * fewest)
            high = np.where(hi > 0, hi * most, np.where(hi == 0, 0.0, hi * fewest))
        return low - np.where(lo >= 0, off.clip(max=low.clip(0)), off), high + off
    total = off.sum(axis, keepdims=True)
    return lo.sum(axis, keepdims=True) - total, hi.sum(axis, keepdims=True) + total


def _reduced_ball(x: Extent, axes: tuple[int, ...], keep: bool, op: str) -> Ball | None:
    """A mean over tokens of vectors in a ball lies in the ball."""
    rank = x.lo.ndim
    if x.ball is None or op != "ReduceMean" or x.ball.axis % rank in axes:
        return None
    place = x.ball.axis % rank
    axis = x.ball.axis if keep else place - sum(a < place for a in axes) - (rank - len(axes))
    ball = x.ball.centered()
    return ball.each(lambda a: a.max(axes, keepdims=keep), axis)


def truth(node: ir.Node, known: Known) -> Extent:
    return between(0, 1)


def turning(node: ir.Node, known: Known) -> Extent:
    return between(-1, 1)


def cast(node: ir.Node, known: Known) -> Extent:
    x = known.of(node.inputs[0])
    to = ir.DataType(attribute(node, "to", 1))
    if to == ir.DataType.BOOL:
        return between(0, 1)
    if not to.is_floating_point():
        limit = 2.0 ** (to.bitwidth - 1)
        return Extent(np.floor(x.lo).clip(-limit), np.ceil(x.hi).clip(max=limit))
    return replace(x, known=False)


def counting(node: ir.Node, known: Known) -> Extent:
    """Shape, Size, Range, CumSum: whole numbers that a text's length bounds."""
    if node.op_type in ("Shape", "Size"):
        sizes = known.sizes(node.inputs[0]) or [None]
        cut = slice(attribute(node, "start", 0), attribute(node, "end", None))
        most = [known.count(size) for size in (sizes[cut] if node.op_type == "Shape" else sizes)]
        return between(0, max(most, default=0) if node.op_type == "Shape" else math.prod(most))
    if node.op_type == "Range":
        ends = [known.of(value).largest for value in node.inputs[:2]]
        return between(min(0.0, float(known.of(node.inputs[0]).lo.min())), max(ends))
    sizes = known.sizes(node.inputs[0]) or [None]
    most = max(known.count(size) for size in sizes) * flat(known.of(node.inputs[0])).largest
    return between(-most, most)


_TRUTH = ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or", "Not", "Xor",
          "IsNaN", "IsInf")  # fmt: skip


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x.clip(-700, 700)))


RULES: dict[str, Rule] = {
    "Add": add,
    "Sub": add,
    "Neg": neg,
    "Mul": mul,
    "Div": div,
    "Where": where,
    "Min": extremum,
    "Max": extremum,
    "Clip": clip,
    "Relu": relu,
    "Gelu": gelu,
    "Abs": absolute,
    "LeakyRelu": bent,
    "Elu": bent,
    "Pow": power,
    "Softmax": softmax,
    "Tanh": growing(np.tanh, -1, 1),
    "Erf": erf,
    "Sigmoid": growing(_sigmoid, 0, 1),
    "Softplus": growing(lambda x: np.logaddexp(0, x), 0),
    "Exp": growing(np.exp, 0),
    "Log": growing(lambda x: np.log(np.where(x > 0, x, 0.0))),
    "Sqrt": growing(lambda x: np.sqrt(x.clip(0)), 0),
    "Floor": growing(np.floor),
    "Ceil": growing(np.ceil),
    "Round": growing(np.round),
    "Sign": growing(np.sign, -1, 1),
    "Sin": turning,
    "Cos": turning,
    "Cast": cast,
    "Shape": counting,
    "Size": counting,
    "Range": counting,
    "CumSum": counting,
    **dict.fromkeys(("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2",
                     "ReduceSumSquare"), reduce),
    **dict.fromkeys(_TRUTH, truth),
}  # fmt: skip
