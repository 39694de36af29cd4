"""balance-channels: a channel's size moves between the producer of a value and the linear maps that
read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir import dialect
from goldfold.exporter.ir.program import add_constant, constant, where
from goldfold.exporter.passes.base import Equality, Pass
from goldfold.exporter.passes.rewriting.linear import (
    Linear,
    bias_add,
    linear_ending_at,
    scale_input,
    write_linear,
)

_NONE = 2.0**-60
"""The share of the largest channel below which a channel is as good as zeros: f32 would not hold
the factor of a subnormal one."""


@dataclass(frozen=True)
class Maker:
    """The producer of a value's channels, which can produce them at other sizes."""

    norm: ir.Node | None
    """A norm, whose gain and shift are divided …"""
    linear: Linear | None
    """… or a linear map, whose columns are."""
    channels: int
    tie: np.ndarray
    """int [K]: the producer's channel behind each channel of the value."""


@dataclass
class Balance:
    x: ir.Value
    readers: list[Linear]
    maker: Maker | None = None
    fault: str = ""


@dataclass(frozen=True)
class BalanceChannels(Pass):
    """The pass makes the channels that linear maps read equally hard to quantize, at no cost.

    A channel j of x is divided by t_j where x is produced, and row j of the weights that read x is
    multiplied by t_j. The factor goes into the gain of a norm, into the columns of the map behind a
    product with a gate, or into those of the map that makes attention's values (which several heads
    may share).

    `alpha` distributes the spread: t_j = peak_jᵅ / reach_j¹⁻ᵅ, with reach_j = max |W_j| over all
    readers and peak_j the largest |x_j| on calibration texts (`peaks`, by value). At 0, and without
    peaks, all rows of the weights have the same reach; at 1 all channels of x. The exponent is
    SmoothQuant's (Xiao and others, 2022), with the norms' gains left in place for it.

    holds:
        n(x) · g W = n(x) · (g/t) (diag(t) W); (a ∘ (x V)) W = (a ∘ (x V diag(1/t))) (diag(t) W);
        (A (x V)) W = (A (x V diag(1/t))) (diag(t) W) for attention's weights A; t has no
        zeros

    needs:
        every reader of x is a linear map with a constant weight; no other node reads the values
        between x and its producer

    before: behind a norm
        f (float[B,6] x, float[6] g, float[6,5] w, float[6,4] v) => (float[B,5] y, float[B,4] z)
        {
            n = RMSNormalization <axis: int = -1, epsilon: float = 1e-6> (x, g)
            y = MatMul(n, w)
            z = MatMul(n, v)
        }

    after: behind a norm
        f (float[B,6] x, float[6] g, float[6,5] w, float[6,4] v) => (float[B,5] y, float[B,4] z)
        {
            n = RMSNormalization <axis: int = -1, epsilon: float = 1e-6> (x, g)
            y = MatMul(n, w)
            z = MatMul(n, v)
        }

    before: behind a gate
        f (float[B,4] x, float[4,6] g, float[4,6] u, float[6] b, float[6,4] d) => (float[B,4] y)
        {
            a = MatMul(x, g)
            s = Sigmoid(a)
            p = MatMul(x, u)
            q = Add(p, b)
            m = Mul(s, q)
            y = MatMul(m, d)
        }

    after: behind a gate
        f (float[B,4] x, float[4,6] g, float[4,6] u, float[6] b, float[6,4] d) => (float[B,4] y)
        {
            a = MatMul(x, g)
            s = Sigmoid(a)
            p = MatMul(x, u)
            q = Add(p, b)
            m = Mul(s, q)
            y = MatMul(m, d)
        }

    before: behind attention, two heads of one group
        f (float[B,T,6] x, float[B,2,T,4] q, float[B,1,T,4] k, bool[B,T] padding, float[6,4] v,
           float[8,6] o) => (float[B,T,6] y)
        {
            p = MatMul(x, v)
            shape = Constant <value_ints: ints = [0, 0, 1, 4]> ()
            r = Reshape(p, shape)
            t = Transpose <perm: ints = [0, 2, 1, 3]> (r)
            a = goldfold.BandAttention
                <scale: float = 0.5, window: int = 0, causal: int = 0, softcap: float = 0.0>
                (q, k, t, padding)
            m = Transpose <perm: ints = [0, 2, 1, 3]> (a)
            flat = Constant <value_ints: ints = [0, 0, 8]> ()
            c = Reshape(m, flat)
            y = MatMul(c, o)
        }

    after: behind attention, two heads of one group
        f (float[B,T,6] x, float[B,2,T,4] q, float[B,1,T,4] k, bool[B,T] padding, float[6,4] v,
           float[8,6] o) => (float[B,T,6] y)
        {
            p = MatMul(x, v)
            shape = Constant <value_ints: ints = [0, 0, 1, 4]> ()
            r = Reshape(p, shape)
            t = Transpose <perm: ints = [0, 2, 1, 3]> (r)
            a = goldfold.BandAttention
                <scale: float = 0.5, window: int = 0, causal: int = 0, softcap: float = 0.0>
                (q, k, t, padding)
            m = Transpose <perm: ints = [0, 2, 1, 3]> (a)
            flat = Constant <value_ints: ints = [0, 0, 8]> ()
            c = Reshape(m, flat)
            y = MatMul(c, o)
        }

    refuses: a sum also reads the norm
        # says Add (Add) also reads it
        f (float[B,6] x, float[6] g, float[6,6] w) => (float[B,6] y)
        {
            n = RMSNormalization <axis: int = -1> (x, g)
            h = MatMul(n, w)
            y = Add(n, h)
        }

    refuses: the gated map has another reader
        # says MatMul, which is gated, has another reader
        f (float[B,4] x, float[4,6] g, float[4,6] u, float[6,6] d) => (float[B,6] y)
        {
            a = MatMul(x, g)
            s = Sigmoid(a)
            p = MatMul(x, u)
            m = Mul(s, p)
            h = MatMul(m, d)
            y = Add(h, p)
        }
    """

    equality: ClassVar[Equality] = Equality.REAL
    alpha: float = 0.0
    """0 … 1: the share of the spread that the weights take over from x."""
    peaks: Mapping[str, np.ndarray] = field(default_factory=dict, compare=False)
    """f32 [K] by value: the largest |x_j| on calibration texts."""

    def match(self, node: ir.Node) -> Balance | None:
        # The match is at the value's first reader: all readers are rewritten together.
        linear = linear_ending_at(node)
        if linear is None:
            return None
        x = linear.x
        products = [reader for reader, index in x.uses() if _reads(reader, index)]
        if not products or products[0] is not linear.product:
            return None
        found = Balance(x, [])
        for reader, index in x.uses():
            other = linear_ending_at(bias_add(reader) or reader) if _reads(reader, index) else None
            if other is not None:
                found.readers.append(other)
            elif reader.op_type not in ("Shape", "Size"):
                found.fault = f"{where(reader)} ({reader.op_type}) also reads it"
        if x.is_graph_output():
            found.fault = f"{x.name} is an output of the graph"
        maker = _maker(x)
        if maker is None:
            return None  # no producer can take the factors, so the pattern is not this pass's
        if isinstance(maker, str):
            found.fault = found.fault or maker
        else:
            found.maker = maker
        return None if not found.fault and self._is_balanced(found) else found

    def refuses(self, match: Balance) -> str | None:
        return match.fault or None

    def construct(self, match: Balance, memo: dict) -> None:
        maker = match.maker
        assert maker is not None
        share = self._factors(match)
        for reader in match.readers:
            scale_input(reader, share[maker.tie].astype(reader.weight.dtype), None)
        if maker.linear is not None:
            old = maker.linear
            weight = (old.weight / share).astype(old.weight.dtype)
            bias = None if old.bias is None else (old.bias / share).astype(old.bias.dtype)
            write_linear(old, old.x, weight, bias, where(old.product))
            return
        norm = maker.norm
        assert norm is not None and norm.graph is not None
        for index in range(1, len(norm.inputs)):
            held = constant(norm.inputs[index])
            if held is not None:
                fresh = (held / share).astype(held.dtype)
                name = f"{where(norm)}.balanced"
                norm.replace_input_with(index, add_constant(norm.graph, name, fresh))

    def _factors(self, match: Balance) -> np.ndarray:
        """t, f64 [channels of the maker]; 1 where a channel is all zeros, or as good as that."""
        maker = match.maker
        assert maker is not None
        reach = np.zeros(maker.channels)
        weights = [np.abs(reader.weight).max(axis=1) for reader in match.readers]
        np.maximum.at(reach, maker.tie, np.max(weights, axis=0).astype(np.float64))
        peak = np.ones(maker.channels)
        given = self.peaks.get(match.x.name or "")
        alpha = self.alpha if given is not None else 0.0
        if given is not None:
            peak = np.zeros(maker.channels)
            np.maximum.at(peak, maker.tie, np.asarray(given, np.float64))
        share = np.ones(maker.channels)
        live = (reach > _NONE * reach.max(initial=0)) & (peak > _NONE * peak.max(initial=0))
        if live.any():
            wish = alpha * np.log(peak[live]) - (1 - alpha) * np.log(reach[live])
            share[live] = np.exp(wish - wish.mean())
        return share

    def _is_balanced(self, match: Balance) -> bool:
        """Whether the channels are balanced up to the rounding of f32 (2^-20 leaves room). With
        peaks, which do not follow the rewrite, only a value without a measured peak is."""
        if match.x.name in self.peaks:
            return False
        share = self._factors(match)
        return bool(share.max() <= share.min() * (1 + 2.0**-20))


def _reads(reader: ir.Node, index: int) -> bool:
    """Whether `reader` multiplies its input at `index` by a constant matrix."""
    if reader.domain or reader.op_type not in ("MatMul", "Gemm") or index != 0:
        return False
    weight = constant(reader.inputs[1])
    return weight is not None and weight.ndim == 2


def _maker(x: ir.Value) -> Maker | str | None:
    """The producer that can take the factors of x; a sentence if there is one that must not; None
    if there is none."""
    node = x.producer()
    if node is None:
        return None
    if dialect.op_of(node) in dialect.NORMS:
        return _norm(node)
    if node.op_type == "Mul" and not node.domain:
        return _gated(node)
    return _attended(x)


def _norm(node: ir.Node) -> Maker | str | None:
    gain = constant(node.inputs[1])
    shift = node.inputs[2] if len(node.inputs) > 2 else None
    if gain is None or (shift is not None and constant(shift) is None):
        return None
    axis = node.attributes.get("axis")
    if gain.ndim != 1 or (axis is not None and axis.value != -1):
        return "the norm is not of the last axis alone"
    if len(node.outputs) > 1 and any(v.uses() for v in node.outputs[1:]):
        return "the norm's mean or variance is read as well"
    return Maker(node, None, gain.size, np.arange(gain.size))


def _gated(product: ir.Node) -> Maker | str | None:
    """The linear map that is one operand of a product, if there is one."""
    for operand in product.inputs:
        if operand is None or constant(operand) is not None:
            continue
        made = linear_ending_at(operand.producer())
        if made is None:
            continue
        if operand.is_graph_output() or len(operand.uses()) != 1:
            return f"{where(made.product)}, which is gated, has another reader"
        width = made.weight.shape[1]
        return Maker(None, made, width, np.arange(width))
    return None


def _attended(x: ir.Value) -> Maker | str | None:
    """The linear map that makes the values of the attention whose result, moved, is x."""
    if x.shape is None or not isinstance(x.shape[-1], int):
        return None
    width, node = x.shape[-1], _behind_movers(x)
    if node is None or not dialect.is_band_attention(node):
        return None
    result, values = node.outputs[0], node.inputs[2]
    if values is None or values.shape is None or result.shape is None:
        return None
    sizes = (result.shape[1], values.shape[1], values.shape[3])
    heads, groups, depth = (size if isinstance(size, int) else 0 for size in sizes)
    if not heads or not groups or not depth:
        return None
    if heads * depth != width or len(result.uses()) != 1:
        return None
    carrier: ir.Value | None = values
    while carrier is not None:
        if carrier.is_graph_output() or len(_readers(carrier)) != 1:
            return "attention's values have another reader"
        maker = carrier.producer()
        made = linear_ending_at(maker)
        if made is not None:
            if made.weight.shape[1] != groups * depth:
                return None
            head, channel = np.divmod(np.arange(heads * depth), depth)
            tie = head // (heads // groups) * depth + channel
            return Maker(None, made, groups * depth, tie)
        if maker is None or maker.domain or maker.op_type not in dialect.REARRANGES:
            return None
        carrier = maker.inputs[0]
    return None


def _behind_movers(value: ir.Value) -> ir.Node | None:
    node = value.producer()
    while node is not None and not node.domain and node.op_type in dialect.REARRANGES:
        source = node.inputs[0]
        if source is None or len(_readers(source)) != 1:
            return None
        node = source.producer()
    return node


def _readers(value: ir.Value) -> list[ir.Node]:
    return [reader for reader, _ in value.uses() if reader.op_type not in ("Shape", "Size")]
