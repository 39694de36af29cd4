"""expand-band-attention: our attention in standard ops, with one mask for all layers that share
it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from exporter import dialect
from exporter.passes.base import Equality, Pass
from exporter.passes.linear import take_over
from exporter.program import add_constant, insert_before, unique_name


@dataclass(frozen=True)
class Attention:
    node: ir.Node
    band: dialect.Band
    heads: int
    groups: int
    width: int


@dataclass(frozen=True)
class ExpandBandAttention(Pass):
    """`goldfold.BandAttention` becomes MatMul, Add, Softmax, MatMul, for targets that spell it so.

    The mask [batch, 1, tokens, tokens] is finite and made once for all layers that see alike: two
    for the whole of EmbeddingGemma. One key/value head is broadcast by MatMul, never copied.

    holds:
        y = softmax(cap(s q kᵀ) + m) v, with m = 0 where token i sees token j and −3e4 elsewhere

    needs:
        the numbers of heads and of key/value heads are fixed; the first is a multiple of the
        second. The widths of q and v are fixed as well where several heads share one of several
        groups.

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
        emit = _Emitter(match, memo)
        band = dialect.Band.of(match)
        q, k, v, padding = match.inputs
        assert q is not None and k is not None and v is not None and padding is not None
        heads, groups = int(q.shape[1]), int(k.shape[1])  # type: ignore[index, arg-type]
        grouped = groups not in (1, heads)

        # softmax(cap(s q kᵀ) + m) v
        queries = emit("Mul", q, emit.number(band.scale, q), name="scaled")
        keys = emit("Transpose", k, perm=[0, 1, 3, 2], name="keys")
        mask = emit.mask(q, padding, band)
        if grouped:
            split = emit.ints([0, groups, heads // groups, -1, int(q.shape[3])])  # type: ignore
            queries = emit("Reshape", queries, split, name="grouped")
            keys = emit("Unsqueeze", keys, emit.ints([2]), name="keys_5d")
            v = emit("Unsqueeze", v, emit.ints([2]), name="values_5d")
            mask = emit.shared("Unsqueeze", mask, emit.ints([1]))
        scores = emit("MatMul", queries, keys, name="scores")
        if band.softcap:
            cap = emit.number(band.softcap, q)
            ratio = emit("Div", scores, cap, name="ratio")
            scores = emit("Mul", emit("Tanh", ratio, name="bent"), cap, name="capped")
        masked = emit("Add", scores, mask, name="masked")
        weights = emit("Softmax", masked, axis=-1, name="weights")
        mixed = emit("MatMul", weights, v, name="mixed")
        if grouped:
            width = match.inputs[2].shape[3]  # type: ignore[union-attr, index]
            mixed = emit("Reshape", mixed, emit.ints([0, heads, -1, int(width)]), name="heads")  # type: ignore
        take_over(match.outputs[0], mixed)


class _Emitter:
    """Writes nodes in front of one attention node, and shares through the memo what layers
    share."""

    def __init__(self, node: ir.Node, memo: dict) -> None:
        assert node.graph is not None
        self.node, self.graph, self.memo = node, node.graph, memo
        self.stem = (node.outputs[0].name or "attention").removesuffix(".BandAttention")

    def __call__(self, op: str, *inputs: ir.Value, name: str, **attributes: Any) -> ir.Value:
        node = ir.node(op, list(inputs), attributes)
        node.name = node.outputs[0].name = unique_name(self.graph, f"{self.stem}.{name}")
        insert_before(self.node, [node])
        return node.outputs[0]

    def shared(self, op: str, *inputs: ir.Value, name: str | None = None, **attributes: Any):
        """A node without a layer of its own, made once a sweep for the same op and inputs."""
        key = (op, inputs, tuple(sorted((k, str(v)) for k, v in attributes.items())))
        if key not in self.memo:
            node = ir.node(op, list(inputs), attributes)
            wish = f"attention.{name or op}"
            node.name = node.outputs[0].name = unique_name(self.graph, wish)
            insert_before(self.node, [node], module="attention")
            self.memo[key] = node.outputs[0]
        return self.memo[key]

    def array(self, array: np.ndarray, name: str) -> ir.Value:
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.memo:
            self.memo[key] = add_constant(self.graph, f"attention.{name}", array)
        return self.memo[key]

    def ints(self, numbers: list[int] | int) -> ir.Value:
        return self.array(np.array(numbers, dtype=np.int64), "sizes")

    def number(self, number: float, like: ir.Value) -> ir.Value:
        kind = like.dtype.numpy() if like.dtype is not None else np.dtype(np.float32)
        return self.array(np.array(number, dtype=kind), "number")

    def mask(self, q: ir.Value, padding: ir.Value, band: dialect.Band) -> ir.Value:
        """[batch, 1, 1 or tokens, tokens]: 0 where seen, HIDDEN where not."""
        seen = self.shared("Unsqueeze", padding, self.ints([1, 2]), name="real")
        if band.window or band.causal:
            seen = self.shared("And", seen, self._band(padding, band), name="seen")
        zero, hidden = self.number(0.0, q), self.number(dialect.HIDDEN, q)
        return self.shared("Where", seen, zero, hidden, name="mask")

    def _band(self, padding: ir.Value, band: dialect.Band) -> ir.Value:
        """bool [tokens, tokens]: |i − j| < window, and j ≤ i if causal."""
        tokens = self.shared("Shape", padding, start=1, end=2, name="tokens")
        count = self.shared("Squeeze", tokens, name="count")
        position = self.shared("Range", self.ints(0), count, self.ints(1), name="position")
        i = self.shared("Unsqueeze", position, self.ints([1]), name="i")
        j = self.shared("Unsqueeze", position, self.ints([0]), name="j")
        ahead = self.shared("Sub", i, j, name="ahead")
        near = past = None
        if band.window:
            distance = self.shared("Abs", ahead, name="distance")
            near = self.shared("Less", distance, self.ints(band.window), name="near")
        if band.causal:
            past = self.shared("GreaterOrEqual", ahead, self.ints(0), name="past")
        if near is None or past is None:
            return near if past is None else past  # type: ignore[return-value]
        return self.shared("And", near, past, name="band")
