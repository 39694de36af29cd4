"""expand-attention: ONNX's own Attention in the ops of opset 17."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir import dialect
from goldfold.exporter.passes.base import Equality, Pass
from goldfold.exporter.passes.rewriting.attention import Emitter
from goldfold.exporter.passes.rewriting.pattern import attribute
from goldfold.exporter.passes.rewriting.writer import take_over

_PLAIN = {"scale", "softcap", "is_causal", "qk_matmul_output_mode", "softmax_precision"}
"""The attributes that may be given, all but the scale as they are by default."""


@dataclass(frozen=True)
class ExpandAttention(Pass):
    """Attention, which opset 23 brought, becomes MatMul, Add, Softmax, MatMul, for older opsets. A
    mask of booleans becomes one of 0 and −∞. Keys and values that heads share are never copied.

    holds:
        Attention(q, k, v, m) = softmax(s q kᵀ + m) v, with s = 1/√width unless it is given

    needs:
        q, k and v of [batch, heads, tokens, width], numbers of heads and the width of q and v
        fixed; no cache, no cap, not causal but by its mask, which is the same for all heads where
        several share a group; one result. A mask of booleans shows each token at least one.

    before: a mask that is added
        f (float[B,2,T,8] q, float[B,2,S,8] k, float[B,2,S,8] v, float[B,1,T,S] m)
            => (float[B,2,T,8] y)
        {
            y = Attention <scale: float = 0.25> (q, k, v, m)
        }

    after: a mask that is added
        f (float[B,2,T,8] q, float[B,2,S,8] k, float[B,2,S,8] v, float[B,1,T,S] m)
            => (float[B,2,T,8] y)
        {
            s = Constant <value_float: float = 0.25> ()
            scaled = Mul(q, s)
            keys = Transpose <perm: ints = [0, 1, 3, 2]> (k)
            scores = MatMul(scaled, keys)
            masked = Add(scores, m)
            weights = Softmax <axis: int = -1> (masked)
            y = MatMul(weights, v)
        }

    before: no mask and no scale, two groups
        f (float[B,4,T,16] q, float[B,2,S,16] k, float[B,2,S,8] v) => (float[B,4,T,8] y)
        {
            y = Attention(q, k, v)
        }

    after: no mask and no scale, two groups
        none

    before: a mask of booleans, two groups
        f (float[B,4,T,16] q, float[B,2,T,16] k, bool[T,T] mask) => (float[B,4,T,16] y)
        {
            y = Attention(q, k, k, mask)
        }

    after: a mask of booleans, two groups
        none

    refuses: causal by an attribute
        # says its is_causal is 1
        f (float[B,2,T,8] q, float[B,2,T,8] k) => (float[B,2,T,8] y)
        {
            y = Attention <is_causal: int = 1> (q, k, k)
        }

    refuses: a mask for each head where heads share keys
        # says its mask has shape [B,4,T,T], and heads share keys
        f (float[B,4,T,8] q, float[B,2,T,8] k, float[B,4,T,T] m) => (float[B,4,T,8] y)
        {
            y = Attention(q, k, k, m)
        }

    refuses: heads in one axis with their widths
        # says q has shape [B,T,16], not [batch, heads, tokens, width] with fixed heads and width
        f (float[B,T,16] q, float[B,T,16] k) => (float[B,T,16] y)
        {
            y = Attention <q_num_heads: int = 2, kv_num_heads: int = 2> (q, k, k)
        }

    refuses: a cache
        # says it reads or makes a cache
        f (float[B,2,T,8] q, float[B,2,T,8] k, float[B,2,P,8] past) => (float[B,2,T,8] y)
        {
            y = Attention(q, k, k, , past, past)
        }
    """

    equality: ClassVar[Equality] = Equality.REAL
    required: ClassVar[bool] = True

    def match(self, node: ir.Node) -> ir.Node | None:
        return node if not node.domain and node.op_type == "Attention" else None

    def refuses(self, match: ir.Node) -> str | None:
        if any(value is not None for value in match.inputs[4:]) or len(match.outputs) > 1:
            return "it reads or makes a cache"
        for name, value in zip("qkv", match.inputs[:3], strict=True):
            shape = None if value is None else value.shape
            fixed = shape is not None and len(shape) == 4
            if not fixed or not all(isinstance(shape[axis], int) for axis in (1, 3)):  # type: ignore[index]
                wanted = "[batch, heads, tokens, width] with fixed heads and width"
                return f"{name} has shape {shape}, not {wanted}"
        for name in sorted(_PLAIN - {"scale"}):
            given = attribute(match, name, 0)
            if given:
                return f"its {name} is {given}"
        heads, groups = _heads(match)
        if heads % groups:
            return f"{heads} heads are no multiple of {groups} key/value heads"
        mask = match.inputs[3] if len(match.inputs) > 3 else None
        if mask is None:
            return None
        if mask.shape is None or mask.dtype is None:
            return "the shape or the type of its mask is not known"
        by_head = len(mask.shape) > 2 and mask.shape[-3] != 1
        if by_head and groups not in (1, heads):
            return f"its mask has shape {mask.shape}, and heads share keys"
        return None

    def construct(self, match: ir.Node, memo: dict) -> None:
        q, k, v = match.inputs[:3]
        mask = match.inputs[3] if len(match.inputs) > 3 else None
        assert q is not None and k is not None and v is not None and q.shape is not None
        emit = Emitter(match, memo)
        missing = 4 - (len(mask.shape) if mask is not None and mask.shape is not None else 0)
        if mask is None:
            mask = emit.number(0.0, q)
        elif mask.dtype == ir.DataType.BOOL:
            hidden = emit.number(-np.inf, q)
            mask = emit.shared("Where", mask, emit.number(0.0, q), hidden, name="mask")
        heads, groups = _heads(match)
        if missing and groups not in (1, heads):
            mask = emit.shared("Unsqueeze", mask, emit.ints(list(range(missing))), name="mask_4d")
        scale = attribute(match, "scale", 0.0) or int(q.shape[3]) ** -0.5  # type: ignore[arg-type]
        band = dialect.Band(scale, window=0, causal=False, softcap=0.0)  # the mask holds the rest
        take_over(match.outputs[0], emit.attend(q, k, v, mask, band))


def _heads(node: ir.Node) -> tuple[int, int]:
    """The numbers of heads of queries, and of keys and values."""
    q, k = (value.shape[1] for value in node.inputs[:2])  # type: ignore[union-attr, index]
    return int(q), int(k)  # type: ignore[arg-type]
