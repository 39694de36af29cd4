"""Bounds through linear maps, products of two values, attention, norms, and rounding to integers.

    linear map   |W x − W c|_i ≤ min(Σ|W_ij| r_j, ‖W_i ⊙ s‖₂ ρ + Σ|W_ij| t_j)   box, ball
    product      |q·k| ≤ ‖q‖₂ ‖k‖₂;   |Σ p_j v_j| ≤ max|v_j| Σ|p_j|
    norm         x̂ = (x − m) / √(mean((x − m)²) + ε) has ‖x̂‖₂ ≤ √d and |x̂_i| ≤ √d, for every m

Sums of n products are taken to be accumulated in f32 or better, in any order: off by at most
(n + 2)·2^-24 of the sum of magnitudes. Norms are computed in f32, the mean before the variance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from goldfold.exporter.evaluate.extent import (
    SLACK,
    Ball,
    Extent,
    between,
    flat,
    hull,
    product,
    unbounded,
)
from goldfold.exporter.evaluate.extent_known import Known
from goldfold.exporter.ir import dialect
from goldfold.exporter.passes.rewriting.pattern import attribute, producer

Rule = Callable[[ir.Node, "Known"], Extent]

_PART = 1 << 21
"""Numbers of a matrix that are computed with at once, in f64."""


def _off(terms: float) -> float:
    return (terms + 2) * 2.0**-24 + SLACK


def linear(x: Extent, weight: np.ndarray, rounding: tuple[float, float]) -> Extent:
    """x[…, K] · weight[K, N]; the weights may be rounded by a unit and half a step of `rounding`
    before they are used."""
    inner, outer = weight.shape
    lead = x.lo.shape[:-1]

    def rows(array: np.ndarray) -> np.ndarray:
        shape = (*np.broadcast_shapes(array.shape[:-1], lead), inner)
        return np.broadcast_to(array, shape).reshape(-1, inner)

    if not (np.isfinite(x.lo).all() and np.isfinite(x.hi).all()):
        return unbounded(x.over or "a linear map of what has no bound")
    middle, reach, size = rows((x.lo + x.hi) / 2), rows((x.hi - x.lo) / 2), rows(x.size)
    ball = x.ball if x.ball is not None and x.ball.axis == -1 else None
    off = _off(inner) + rounding[0]
    step = max(1, _PART // inner)
    lows, highs = [], []
    for start in range(0, outer, step):
        part = weight[:, start : start + step].astype(np.float64)
        absolute = abs(part)
        error = off * (size @ absolute) + rounding[1] * size.sum(-1, keepdims=True)
        center, around = middle @ part, reach @ absolute
        low, high = center - around - error, center + around + error
        if ball is not None:
            center = rows(ball.center) @ part
            radius = np.broadcast_to(ball.radius, (*lead, 1)).reshape(-1, 1)
            around = np.sqrt((rows(ball.scale) ** 2) @ part**2) * radius
            around = around * (1 + SLACK) + rows(ball.rest) @ absolute
            low = np.maximum(low, center - around - error)
            high = np.minimum(high, center + around + error)
        lows.append(low)
        highs.append(high)
    shape = (*lead, outer)
    return Extent(np.concatenate(lows, -1).reshape(shape), np.concatenate(highs, -1).reshape(shape))


def matmul(node: ir.Node, known: Known) -> Extent:
    a, b = node.inputs[:2]
    weight, x = known.matrix(b), known.of(a)
    if weight is not None and x.lo.ndim and weight.shape[0] == known.width(a):
        return linear(_wide(x, weight.shape[0]), weight, known.weights(b))
    return _products(node, known)


def gemm(node: ir.Node, known: Known) -> Extent:
    weight = known.matrix(node.inputs[1])
    x = known.of(node.inputs[0])
    if weight is None or attribute(node, "transA", 0) or not x.lo.ndim:
        return unbounded("Gemm of two computed values")
    weight = weight.T if attribute(node, "transB", 0) else weight
    found = linear(_wide(x, weight.shape[0]), weight, known.weights(node.inputs[1]))
    alpha, beta = float(attribute(node, "alpha", 1.0)), float(attribute(node, "beta", 1.0))
    lo, hi = product(found, between(alpha, alpha))
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        more = product(known.of(node.inputs[2]), between(beta, beta))
        lo, hi = lo + more[0], hi + more[1]
    return Extent(lo, hi, over=found.over)


def _wide(x: Extent, size: int) -> Extent:
    """The extent with all its columns."""
    if x.lo.shape[-1] == size:
        return x
    shape = (*x.lo.shape[:-1], size)
    return replace(x, lo=np.broadcast_to(x.lo, shape), hi=np.broadcast_to(x.hi, shape))


def _products(node: ir.Node, known: Known) -> Extent:
    """A product of two computed values: the least of three bounds."""
    a, b = known.of(node.inputs[0]), known.of(node.inputs[1])
    sizes = known.sizes(node.inputs[0]), known.sizes(node.inputs[1])
    if sizes[0] is None or sizes[1] is None or not (a.lo.ndim > 1 and b.lo.ndim > 1):
        return unbounded("a product of values of unknown shape")
    inner = known.count(sizes[0][-1])
    off = 1 + _off(min(inner, known.keys(sizes[1][-2])))
    ball = None
    most = a.norm(-1, inner) * b.norm(-2, inner)  # |q·k| ≤ ‖q‖ ‖k‖
    if a.mass is not None:  # |Σ p v| ≤ Σ|p| max|v|
        mixed = a.mass * b.size.max(-2, keepdims=True)
        most = np.minimum(np.nan_to_num(most, nan=math.inf), mixed)
        ball = _mixed(b.ball, a.mass)
    if a.size.shape[-1] > 1 or b.size.shape[-2] > 1:
        with np.errstate(invalid="ignore"):
            most = np.minimum(most, np.nan_to_num(a.size @ b.size, nan=math.inf))
    most = most * off
    if not np.isfinite(most).all():
        return unbounded(a.over or b.over or "a product of what has no bound")
    positive = bool((a.lo >= 0).all()) and a.mass is not None
    lo, hi = -most, most
    if positive:  # a mixture lies between the least and the largest, and 0
        share = a.mass * off  # type: ignore[operator]
        lo = np.maximum(lo, np.minimum(b.lo.min(-2, keepdims=True), 0) * share)
        hi = np.minimum(hi, np.maximum(b.hi.max(-2, keepdims=True), 0) * share)
    return Extent(lo, hi, ball)


def _mixed(ball: Ball | None, mass: np.ndarray) -> Ball | None:
    """The ball of Σ p_j v_j, the v_j being in one ball along the last axis."""
    if ball is None or ball.axis != -1:
        return None
    ball = ball.centered()
    tokens = ball.each(lambda a: a.max(-2, keepdims=True), -1)
    return replace(tokens, radius=tokens.radius * mass, rest=tokens.rest * mass)


def band_attention(node: ir.Node, known: Known) -> Extent:
    """A mixture of value rows: each element lies among those of its channel, each vector in their
    ball. Softmax's weights are off by 2^-11 each where they are rounded to fp16, and none is
    negative."""
    v = known.of(node.inputs[2])
    sizes = known.sizes(node.inputs[0]), known.sizes(node.inputs[2])
    if v.lo.ndim != 4 or sizes[0] is None or sizes[1] is None:
        return unbounded("attention of values of unknown shape")
    heads, groups = sizes[0][1], sizes[1][1]
    if groups != heads and isinstance(heads, int) and isinstance(groups, int):
        share = heads // groups

        def spread(array: np.ndarray) -> np.ndarray:
            return array.repeat(share, 1) if array.shape[1] > 1 else array

        v = v.each(spread, v.ball and v.ball.axis)
    tokens = known.count(known.tokens)
    unit, tiny = known.rounding(node.outputs[0])
    off = np.full((1,) * 4, 1 + unit + tokens * (tiny + 2.0**-23))
    low, high = np.minimum(v.lo * off, v.lo), np.maximum(v.hi * off, v.hi)
    return Extent(np.minimum(low, 0), np.maximum(high, 0), _mixed(v.ball, off), over=v.over)


def scores(node: ir.Node, known: Known) -> float:
    """The bound on the scores inside a BandAttention: |q| |k| times the scale, before a softcap,
    and the largest bias."""
    band, bias = dialect.Band.of(node), dialect.bias_of(node)
    q, k = known.of(node.inputs[0]), known.of(node.inputs[1])
    width = known.count(known.width(node.inputs[0]))
    if q.lo.ndim != 4 or k.lo.ndim != 4:
        return math.inf
    a, b = q.norm(-1, width), k.norm(-1, width)
    if b.shape[1] > 1 and a.shape[1] > 1:
        b = b.repeat(a.shape[1] // b.shape[1], 1)
    added = 0.0 if bias is None else float(known.of(bias).size.max())
    return float((a * b).max()) * abs(band.scale) * (1 + _off(width)) + added


def conv(node: ir.Node, known: Known) -> Extent:
    """Σ_{c,k} w[d,c,k] · x[c,t+k] along one axis, where padding counts as 0; `n` terms in f32 are
    off by at most n·2^-24 of the sum of their magnitudes."""
    x, w = known.of(node.inputs[0]), known.constant(node.inputs[1])
    sizes, groups = known.sizes(node.inputs[0]), int(attribute(node, "group", 1))
    if w is None or w.ndim != 3 or sizes is None or not isinstance(sizes[1], int):
        return unbounded("Conv of another kind")
    weight = w.astype(np.float64).reshape(groups, -1, *w.shape[1:])
    unit, tiny = known.weights(node.inputs[1])

    def grouped(array: np.ndarray) -> np.ndarray:
        array = np.broadcast_to(array.reshape(-1), (sizes[1],))  # type: ignore[arg-type]
        return array.reshape(groups, 1, -1, 1)

    lo, hi = grouped(np.minimum(x.lo, 0)), grouped(np.maximum(x.hi, 0))
    terms = np.sort(np.stack([weight * lo, weight * hi]), axis=0)
    least, most = (part.sum((2, 3)).reshape(1, -1, 1) for part in terms)
    size = np.maximum(-lo, hi)
    off = (abs(weight) * unit + tiny + abs(weight) * w[0].size * 2.0**-23) * size
    off = off.sum((2, 3)).reshape(1, -1, 1) * (1 + SLACK)
    found = Extent(least - off, most + off, over=x.over)
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return found
    bias = known.of(node.inputs[2])
    shift = [part.reshape(1, -1, 1) for part in (bias.lo, bias.hi)]
    return Extent(found.lo + shift[0], found.hi + shift[1], over=x.over or bias.over)


def attention(node: ir.Node, known: Known) -> Extent:
    """ONNX's Attention, as spell-attention writes it: a mixture of rows of the third input."""
    v = known.of(node.inputs[2])
    if v.lo.ndim != 4:
        return flat(hull(v, between(0, 0)))
    tokens = known.count(known.tokens)
    unit, tiny = known.rounding(node.outputs[0])
    off = 1 + unit + tokens * (tiny + 2.0**-23)
    column = v.each(lambda a: a.max(1, keepdims=True))
    lo = np.minimum(v.lo.min(1, keepdims=True), 0) * off
    return Extent(lo, np.maximum(column.hi, 0) * off, over=v.over)


def norm(node: ir.Node, known: Known) -> Extent:
    """x̂ ⊙ gain + shift, with x̂ in the ball of radius √d."""
    x = node.inputs[0]
    width, rank = known.width(x), known.rank(x)
    axis = int(attribute(node, "axis", -1))
    if not isinstance(width, int) or rank is None or axis not in (-1, rank - 1):
        return unbounded(f"{node.op_type} over more than its last axis")
    gain = known.of(node.inputs[1])
    radius = math.sqrt(width) * (1 + (width + 8) * 2.0**-24)
    shift = between(0, 0)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        shift = known.of(node.inputs[2])

    def wide(array: np.ndarray) -> np.ndarray:
        array = np.broadcast_to(array, np.broadcast_shapes(array.shape, (width,)))
        return array.reshape((1,) * (rank - array.ndim) + array.shape)

    size = wide(gain.size)
    middle, rest = wide((shift.lo + shift.hi) / 2), wide((shift.hi - shift.lo) / 2)
    one = np.ones((1,) * rank)
    return Extent(
        middle - rest - size * radius,
        middle + rest + size * radius,
        Ball(-1, middle, size, one * radius, rest),
        over="" if np.isfinite(size).all() else gain.over,
    )


def quantize(node: ir.Node, known: Known) -> Extent:
    """QuantizeLinear: within its type, and within half a step of what it read."""
    x, scale = known.of(node.inputs[0]), known.of(node.inputs[1])
    lo, hi = known.whole(node.outputs[0])
    if (scale.lo > 0).all() and scale.lo.size == 1:
        zero = (
            known.of(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else between(0, 0)
        )
        step = float(scale.lo.min())
        least = x.lo / step - 0.5 + flat(zero).lo - 1e-3 * abs(x.lo / step)
        most = x.hi / step + 0.5 + flat(zero).hi + 1e-3 * abs(x.hi / step)
        return Extent(least.clip(lo, hi), most.clip(lo, hi))
    return between(lo, hi)


def dequantize(node: ir.Node, known: Known) -> Extent:
    """(q − zero) · scale; behind a QuantizeLinear of the same step, the value that was rounded,
    half a step off, and clipped."""
    q, scale = known.of(node.inputs[0]), known.of(node.inputs[1])
    zero = known.of(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else between(0, 0)
    if scale.lo.size > 1 or zero.lo.size > 1:
        scale, zero = flat(scale), flat(zero)
    moved = Extent(q.lo - zero.hi, q.hi - zero.lo)
    lo, hi = product(moved, scale)
    rounded = producer(node.inputs[0], "QuantizeLinear")
    if rounded is None or rounded.inputs[1] is None or not scale.known:
        return Extent(lo, hi, over=q.over or scale.over)
    x, before = known.of(rounded.inputs[0]), known.of(rounded.inputs[1])
    ball = x.ball
    if ball is None or before.lo.size != 1 or flat(before).hi != flat(scale).hi:
        return Extent(lo, hi)
    step = float(flat(scale).hi)
    # Clipping towards 0 shortens each part of a vector around 0.
    ball = ball.centered()
    return Extent(lo, hi, replace(ball, rest=ball.rest * (1 + 1e-3) + step / 2 * (1 + SLACK),
                                  radius=ball.radius * (1 + 1e-3)))  # fmt: skip


RULES: dict[str, Rule] = {
    "MatMul": matmul,
    "Gemm": gemm,
    "Conv": conv,
    "goldfold.BandAttention": band_attention,
    "Attention": attention,
    "RMSNormalization": norm,
    "LayerNormalization": norm,
    "QuantizeLinear": quantize,
    "DequantizeLinear": dequantize,
}
