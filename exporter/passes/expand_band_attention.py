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
    two masks for the whole of EmbeddingGemma. Keys and values that heads share are never copied:
    MatMul broadcasts them. Queries of a group's heads as rows of one matrix were not faster
    (docs/experiments.md).

    holds:
        y = softmax(cap(s q kᵀ) + m) v, with m = 0 where token i sees token j and −3e4 elsewhere

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
        q, k, v, padding = match.inputs
        assert q is not None and k is not None and v is not None and padding is not None
        mask = emit.mask(q, padding, band)
        take_over(match.outputs[0], emit.attend(q, k, v, mask, band))
