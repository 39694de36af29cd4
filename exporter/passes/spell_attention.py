"""spell-attention: BandAttention becomes ONNX's own `Attention`, for compilers that have a kernel
for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from goldfold.exporter.ir import dialect
from goldfold.exporter.passes.base import Equality, Pass
from goldfold.exporter.passes.rewriting.attention import Emitter
from goldfold.exporter.passes.rewriting.writer import take_over


@dataclass(frozen=True)
class SpellAttention(Pass):
    """`goldfold.BandAttention` becomes ONNX's `Attention` with an added mask.

    The window, the padding and a bias go into one finite mask for all layers that share them. A
    mask of booleans would be shorter, but a row that sees no token is NaN with it. Grouped
    key/value heads stay grouped.

    holds:
        Attention(q, k, v, b + m) = softmax(s q kᵀ + (b + m)) v, with m = 0 where token i sees token
        j and −3e4 elsewhere

    needs:
        no softcap: opset 23 caps the scores after the mask is added, BandAttention before

    before:
        f (float[B,4,T,8] q, float[B,1,T,8] k, float[B,1,T,8] v, bool[B,T] padding)
            => (float[B,4,T,8] y)
        {
            y = goldfold.BandAttention
                <scale: float = 0.25, window: int = 3, causal: int = 0, softcap: float = 0.0>
                (q, k, v, padding)
        }

    after: only where there are no more goldfold ops
        none

    before: causal, two groups
        f (float[B,6,T,8] q, float[B,2,T,8] k, float[B,2,T,8] v, bool[B,T] padding)
            => (float[B,6,T,8] y)
        {
            y = goldfold.BandAttention
                <scale: float = 0.0625, window: int = 0, causal: int = 1, softcap: float = 0.0>
                (q, k, v, padding)
        }

    after: causal, two groups
        none

    before: with a bias
        f (float[B,2,T,8] q, float[B,2,T,8] k, bool[B,T] padding, float[1,2,T,T] bias)
            => (float[B,2,T,8] y)
        {
            y = goldfold.BandAttention:biased
                <scale: float = 1.0, window: int = 0, causal: int = 0, softcap: float = 0.0>
                (q, k, k, padding, bias)
        }

    after: with a bias
        f (float[B,2,T,8] q, float[B,2,T,8] k, bool[B,T] padding, float[1,2,T,T] bias)
            => (float[B,2,T,8] y)
        {
            middle = Constant <value_ints: ints = [1, 2]> ()
            real = Unsqueeze(padding, middle)
            zero = Constant <value_float: float = 0.0> ()
            hidden = Constant <value_float: float = -30000.0> ()
            mask = Where(real, zero, hidden)
            sum = Add(bias, mask)
            y = Attention <scale: float = 1.0> (q, k, k, sum)
        }

    refuses: the scores are capped
        # says opset 23's Attention caps the scores after the mask, this one before it
        f (float[B,2,T,8] q, float[B,2,T,8] k, float[B,2,T,8] v, bool[B,T] padding)
            => (float[B,2,T,8] y)
        {
            y = goldfold.BandAttention
                <scale: float = 0.5, window: int = 0, causal: int = 0, softcap: float = 5.0>
                (q, k, v, padding)
        }
    """

    equality: ClassVar[Equality] = Equality.REAL

    def match(self, node: ir.Node) -> ir.Node | None:
        return node if dialect.is_band_attention(node) else None

    def refuses(self, match: ir.Node) -> str | None:
        if dialect.Band.of(match).softcap:
            return "opset 23's Attention caps the scores after the mask, this one before it"
        return None

    def construct(self, match: ir.Node, memo: dict) -> None:
        band = dialect.Band.of(match)
        emit = Emitter(match, memo)
        q, k, v, padding = match.inputs[:4]
        assert q is not None and k is not None and v is not None and padding is not None
        bias = dialect.bias_of(match)
        # ONNX Runtime's kernel needs a row per query, even if all rows are equal.
        made = emit.square_mask if bias is None else emit.mask
        mask = emit.biased(made(q, padding, band), bias)
        # softmax(s q kᵀ + b + m) v
        y = emit("Attention", q, k, v, mask, scale=band.scale, name="attended")
        take_over(match.outputs[0], y)
