"""specialize-shape: windows that no text of the promised length reaches are removed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from goldfold.exporter.ir import dialect
from goldfold.exporter.passes.base import Equality, Pass


@dataclass(frozen=True)
class SpecializeShape(Pass):
    """A window at least as long as the longest text is removed.

    Layers with and without a window then have the same band, and share one mask: EmbeddingGemma's
    do at 257 tokens and fewer.

    holds:
        |i − j| ≤ L − 1 < w for all i, j < L, so a window w ≥ L hides no token

    needs:
        no text has more than `max_length` tokens, which the contract promises

    options:
        max_length: 8

    before:
        f (float[B,2,T,8] q, float[B,2,T,8] k, float[B,2,T,8] v, bool[B,T] padding)
            => (float[B,2,T,8] y)
        {
            y = goldfold.BandAttention
                <scale: float = 0.25, window: int = 8, causal: int = 1, softcap: float = 0.0>
                (q, k, v, padding)
        }

    after:
        f (float[B,2,T,8] q, float[B,2,T,8] k, float[B,2,T,8] v, bool[B,T] padding)
            => (float[B,2,T,8] y)
        {
            y = goldfold.BandAttention
                <scale: float = 0.25, window: int = 0, causal: int = 1, softcap: float = 0.0>
                (q, k, v, padding)
        }

    options: the longest text feels it
        max_length: 8

    ignores: the longest text feels it
        f (float[B,2,T,8] q, float[B,2,T,8] k, float[B,2,T,8] v, bool[B,T] padding)
            => (float[B,2,T,8] y)
        {
            y = goldfold.BandAttention
                <scale: float = 0.25, window: int = 7, causal: int = 0, softcap: float = 0.0>
                (q, k, v, padding)
        }
    """

    equality: ClassVar[Equality] = Equality.EXACT
    max_length: int = 0
    """The most tokens a text may have; 0 if that is not known."""

    def match(self, node: ir.Node) -> ir.Node | None:
        if not dialect.is_band_attention(node) or not self.max_length:
            return None
        return node if dialect.Band.of(node).window >= self.max_length else None

    def refuses(self, match: ir.Node) -> str | None:
        return None

    def construct(self, match: ir.Node, memo: dict) -> None:
        match.attributes["window"] = ir.AttrInt64("window", 0)
