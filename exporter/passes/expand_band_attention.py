"""expand-band-attention: BandAttention in standard ops, with one mask for all layers that share
it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from goldfold.exporter.ir import dialect
from goldfold.exporter.passes.base import Equality, Pass
from goldfold.exporter.passes.rewriting.attention import Emitter
from goldfold.exporter.passes.rewriting.writer import take_over


@dataclass(frozen=True)
class ExpandBandAttention(Pass):
    """`goldfold.BandAttention` becomes MatMul, Add, Softmax, MatMul, for targets that need these.

    The mask [batch, 1, tokens, tokens] is finite and made once for all layers with the same band:
    two masks for the whole of EmbeddingGemma. A bias is added to it once for all layers that share
    both: in MPNet and T5, the layers add one sum instead of a bias and a mask. Keys and values that
    heads share are never copied: MatMul broadcasts them. Queries of a group's heads as rows of one
    matrix were not faster (docs/experiments.md).

    holds:
        y = softmax(cap(s q kᵀ) + b + m) v, with m = 0 where token i sees token j and −3e4
        elsewhere, and (x + b) + m = x + (b + m)

    needs:
        the numbers of heads and of key/value heads are fixed; the first is a multiple of the
        second. The widths of q and v are fixed as well where several heads share a group.

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

    before: causal, capped, two groups
        f (float[B,6,T,8] q, float[B,2,T,8] k, float[B,2,T,8] v, bool[B,T] padding)
            => (float[B,6,T,8] y)
        {
            y = goldfold.BandAttention
                <scale: float = 0.5, window: int = 0, causal: int = 1, softcap: float = 5.0>
                (q, k, v, padding)
        }

    after: causal, capped, two groups
        none

    before: causal within a window
        f (float[B,2,T,8] q, float[B,2,T,8] k, float[B,2,T,8] v, bool[B,T] padding)
            => (float[B,2,T,8] y)
        {
            y = goldfold.BandAttention
                <scale: float = 0.5, window: int = 2, causal: int = 1, softcap: float = 0.0>
                (q, k, v, padding)
        }

    after: causal within a window
        none

    before: one bias for two layers
        f (float[B,2,T,8] q, float[B,2,T,8] k, bool[B,T] padding, float[1,2,T,T] bias)
            => (float[B,2,T,8] y)
        {
            z = goldfold.BandAttention:biased
                <scale: float = 0.5, window: int = 0, causal: int = 0, softcap: float = 0.0>
                (q, k, k, padding, bias)
            y = goldfold.BandAttention:biased
                <scale: float = 0.5, window: int = 0, causal: int = 0, softcap: float = 0.0>
                (z, k, k, padding, bias)
        }

    after: one bias for two layers
        f (float[B,2,T,8] q, float[B,2,T,8] k, bool[B,T] padding, float[1,2,T,T] bias)
            => (float[B,2,T,8] y)
        {
            half = Constant <value_float: float = 0.5> ()
            middle = Constant <value_ints: ints = [1, 2]> ()
            real = Unsqueeze(padding, middle)
            zero = Constant <value_float: float = 0.0> ()
            hidden = Constant <value_float: float = -30000.0> ()
            mask = Where(real, zero, hidden)
            sum = Add(bias, mask)
            scaled = Mul(q, half)
            keys = Transpose <perm: ints = [0, 1, 3, 2]> (k)
            scores = MatMul(scaled, keys)
            masked = Add(scores, sum)
            weights = Softmax <axis: int = -1> (masked)
            z = MatMul(weights, k)
            scaled2 = Mul(z, half)
            keys2 = Transpose <perm: ints = [0, 1, 3, 2]> (k)
            scores2 = MatMul(scaled2, keys2)
            masked2 = Add(scores2, sum)
            weights2 = Softmax <axis: int = -1> (masked2)
            y = MatMul(weights2, k)
        }

    before: a bias of its own for each text, causal, capped, two groups
        f (float[B,6,T,8] q, float[B,2,T,8] k, bool[B,T] padding, float[B,6,T,T] bias)
            => (float[B,6,T,8] y)
        {
            y = goldfold.BandAttention:biased
                <scale: float = 0.5, window: int = 0, causal: int = 1, softcap: float = 5.0>
                (q, k, k, padding, bias)
        }

    after: a bias of its own for each text, causal, capped, two groups
        none

    before: one bias for all heads of two groups
        f (float[B,4,T,8] q, float[B,2,T,8] k, bool[B,T] padding, float[1,1,T,T] bias)
            => (float[B,4,T,8] y)
        {
            y = goldfold.BandAttention:biased
                <scale: float = 0.5, window: int = 2, causal: int = 0, softcap: float = 0.0>
                (q, k, k, padding, bias)
        }

    after: one bias for all heads of two groups
        none

    refuses: the number of heads is open
        # says q has shape [B,H,T,8]; its heads (axis 1) must be a fixed number
        f (float[B,H,T,8] q, float[B,1,T,8] k, float[B,1,T,8] v, bool[B,T] padding)
            => (float[B,H,T,8] y)
        {
            y = goldfold.BandAttention <scale: float = 0.25> (q, k, v, padding)
        }
    """

    equality: ClassVar[Equality] = Equality.REAL
    required: ClassVar[bool] = True

    def match(self, node: ir.Node) -> ir.Node | None:
        return node if dialect.is_band_attention(node) else None

    def refuses(self, match: ir.Node) -> str | None:
        q, k, v = match.inputs[:3]
        for name, value in (("q", q), ("k", k)):
            shape = value.shape if value is not None else None
            if shape is None or len(shape) != 4 or not isinstance(shape[1], int):
                return f"{name} has shape {shape}; its heads (axis 1) must be a fixed number"
        heads, groups = q.shape[1], k.shape[1]  # type: ignore[union-attr, index]
        if heads % groups:  # type: ignore[operator]
            return f"{heads} heads are no multiple of {groups} key/value heads"
        if groups in (1, heads):
            return None
        for name, value in (("q", q), ("v", v)):
            shape = value.shape if value is not None else None
            if shape is None or len(shape) != 4 or not isinstance(shape[3], int):
                return f"{name} has shape {shape}; its width (axis 3) must be fixed to group heads"
        return None

    def construct(self, match: ir.Node, memo: dict) -> None:
        emit = Emitter(match, memo)
        band = dialect.Band.of(match)
        q, k, v, padding = match.inputs[:4]
        assert q is not None and k is not None and v is not None and padding is not None
        mask = emit.biased(emit.mask(q, padding, band), dialect.bias_of(match))
        take_over(match.outputs[0], emit.attend(q, k, v, mask, band))
