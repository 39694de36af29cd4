"""band-local-attention: attention with a window is computed block by block for long texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from goldfold.exporter.ir import dialect
from goldfold.exporter.ir.program import constant, where
from goldfold.exporter.passes.base import Equality, Pass
from goldfold.exporter.passes.rewriting.attention import Emitter
from goldfold.exporter.passes.rewriting.blocks import Blocks, untouched_by_padding
from goldfold.exporter.passes.rewriting.pattern import attribute
from goldfold.exporter.passes.rewriting.writer import take_over

_HEADS_LAST = (0, 2, 1, 3)
"""[batch, tokens, heads, width] ↔ [batch, heads, tokens, width]"""


@dataclass(frozen=True)
class Windowed:
    """One attention with a window, and the ops that make its queries."""

    node: ir.Node
    band: dialect.Band
    chain: tuple[ir.Node, ...]
    """The ops from [batch, tokens, heads, width] to q, last op first; ends at the Transpose."""
    fault: str


@dataclass(frozen=True)
class BandLocalAttention(Pass):
    """Attention in which a token sees |i − j| < w is computed for blocks of b queries against the
    b + 2(w − 1) keys around them (b + w − 1 if causal), so that its cost grows linearly with the
    length of the text.

    Texts of fewer than `start` tokens stay one block that sees itself, in the same graph: a block's
    length and reach are computed from the text's length. The blocks lie in the batch axis, so that
    a runtime sees an attention that it has a kernel for. At 2,048 tokens and w = 257, blocks of 128
    meet 640 keys: 0.31 of the multiply-adds. Blocks of 256 would meet 768, 0.375 of them, and are
    no faster (docs/experiments.md).

    Ids and mask are padded by less than one token per block, so that blocks are equally long, and
    tables of rotary embeddings get as many more rows. Every consumer of the ids or the mask then
    works on the padded text.

    holds:
        softmax over all j of (s q_i k_jᵀ, −3e4 where |i − j| ≥ w) = softmax over the keys near
        i's block of the same: a weight of e^(−3e4 + …) is 0 in f32 and f64, and leaving out a key
        of weight 0 changes no sum. It requires that i sees some token: only rows of padding may
        differ, and no consumer reads those.

    needs:
        A text has the same meaning whatever padding stands behind it, so no output has an axis of
        tokens, and no table that ends at the longest text is read by position. Scores differ by
        less than 3e4 − 104.

    options:
        max_length: 5
        block: 2
        start: 4

    before: the queries are rotated and normed on the way
        f (int64[B,T] ids, int64[B,T] mask, float[7,16] table, float[5,4] cos, float[5,4] sin)
            => (float[B,16] y)
        {
            z = Gather <axis: int = 0> (table, ids)
            heads = Constant <value_ints: ints = [0, 0, 2, 8]> ()
            split = Reshape(z, heads)
            turned = Transpose <perm: ints = [0, 2, 1, 3]> (split)
            b = Shape <start: int = 0, end: int = 1> (ids)
            n = Shape <start: int = 1, end: int = 2> (ids)
            count = Squeeze(n)
            zero = Constant <value_int: int = 0> ()
            one = Constant <value_int: int = 1> ()
            row = Range(zero, count, one)
            sizes = Concat <axis: int = 0> (b, n)
            places = Expand(row, sizes)
            rotated = RotaryEmbedding <interleaved: int = 0, num_heads: int = 2>
                (turned, cos, sin, places)
            gain = Constant <value_floats: floats = [1.0, 0.5, 2.0, 1.0, -1.0, 1.0, 3.0, 1.0]> ()
            q = RMSNormalization <axis: int = -1> (rotated, gain)
            padding = Cast <to: int = 9> (mask)
            a = goldfold.BandAttention
                <scale: float = 0.25, window: int = 2, causal: int = 0, softcap: float = 0.0>
                (q, q, turned, padding)
            back = Transpose <perm: ints = [0, 2, 1, 3]> (a)
            whole = Constant <value_ints: ints = [0, 0, 16]> ()
            flat = Reshape(back, whole)
            last = Constant <value_ints: ints = [-1]> ()
            weight = Cast <to: int = 1> (padding)
            column = Unsqueeze(weight, last)
            masked = Mul(flat, column)
            axis = Constant <value_ints: ints = [1]> ()
            y = ReduceSum <keepdims: int = 0> (masked, axis)
        }

    after: the queries are rotated and normed on the way
        none

    options:
        max_length: 9
        block: 1
        start: 3

    before: causal, one key/value head, and a window longer than a block
        f (int64[B,T] ids, int64[B,T] mask, float[7,16] table, float[7,8] keys)
            => (float[B,16] y)
        {
            gain = Constant <value_floats: floats = [1.0, 0.5, 2.0, 1.0, -1.0, 1.0, 3.0, 1.0]> ()
            z = Gather <axis: int = 0> (table, ids)
            heads = Constant <value_ints: ints = [0, 0, 2, 8]> ()
            split = Reshape(z, heads)
            turned = Transpose <perm: ints = [0, 2, 1, 3]> (split)
            q = RMSNormalization <axis: int = -1> (turned, gain)
            raw = Gather <axis: int = 0> (keys, ids)
            normed = RMSNormalization <axis: int = -1> (raw, gain)
            first = Constant <value_ints: ints = [1]> ()
            k = Unsqueeze(normed, first)
            padding = Cast <to: int = 9> (mask)
            a = goldfold.BandAttention
                <scale: float = 0.25, window: int = 3, causal: int = 1, softcap: float = 5.0>
                (q, k, k, padding)
            doubled = Add(a, a)
            back = Transpose <perm: ints = [0, 2, 1, 3]> (doubled)
            whole = Constant <value_ints: ints = [0, 0, 16]> ()
            flat = Reshape(back, whole)
            last = Constant <value_ints: ints = [-1]> ()
            weight = Cast <to: int = 1> (padding)
            column = Unsqueeze(weight, last)
            masked = Mul(flat, column)
            y = ReduceSum <keepdims: int = 0> (masked, first)
        }

    after: causal, one key/value head, and a window longer than a block
        none

    options:
        max_length: 9
        block: 2
        start: 4

    refuses: its scores have a bias
        # says its bias has a row of all tokens for each token
        f (float[B,2,T,8] q, bool[B,T] padding, float[1,2,T,T] bias) => (float[B,2,T,8] y)
        {
            y = goldfold.BandAttention:biased <scale: float = 0.25, window: int = 2>
                (q, q, q, padding, bias)
        }

    options:
        max_length: 9
        block: 2
        start: 4

    refuses: an output has an axis of tokens
        # says its inputs are not ids and a mask
        f (float[B,T,16] x, int64[B,T] ids, int64[B,T] mask) => (float[B,2,T,8] y)
        {
            heads = Constant <value_ints: ints = [0, 0, 2, 8]> ()
            split = Reshape(x, heads)
            q = Transpose <perm: ints = [0, 2, 1, 3]> (split)
            padding = Cast <to: int = 9> (mask)
            y = goldfold.BandAttention <scale: float = 0.25, window: int = 2> (q, q, q, padding)
        }
    """

    equality: ClassVar[Equality] = Equality.REAL
    max_length: int = 0
    """The most tokens a text may have; 0 if that is not known."""
    block: int = 128
    """The least number of queries in a block. No target sets `block` or `start`: smaller ones split
    the examples above and the texts that tests draw (tests/fuzz) into several blocks."""
    start: int = 1024
    """Shorter texts stay one block."""

    def match(self, node: ir.Node) -> Windowed | None:
        if not dialect.is_band_attention(node) or self.max_length < self.start:
            return None
        band = dialect.Band.of(node)
        if not band.window:
            return None
        chain, fault = _queries(node.inputs[0])
        return Windowed(node, band, tuple(chain), fault)

    def refuses(self, match: Windowed) -> str | None:
        node = match.node
        q, k, v, padding = node.inputs[:4]
        if dialect.bias_of(node) is not None:
            return "its bias has a row of all tokens for each token"
        for name, value in (("q", q), ("k", k), ("v", v)):
            shape = value.shape if value is not None else None
            if shape is None or not all(isinstance(shape[axis], int) for axis in (1, 3)):
                return f"{name} has shape {shape}; its heads and width must be fixed numbers"
        if q.shape[1] % k.shape[1]:  # type: ignore[union-attr, operator, index]
            return f"{q.shape[1]} heads are no multiple of {k.shape[1]} key/value heads"  # type: ignore
        assert node.graph is not None and padding is not None
        return match.fault or untouched_by_padding(node.graph)

    def construct(self, match: Windowed, memo: dict) -> None:
        node = match.node
        assert node.graph is not None
        if "blocks" not in memo:
            memo["blocks"] = Blocks.of(node.graph, self.block, self.start, self.max_length)
        blocks: Blocks = memo["blocks"]
        emit = Emitter(node, memo)
        q, k, v, padding = node.inputs[:4]
        assert q is not None and k is not None and v is not None and padding is not None
        near = blocks.neighbourhood(emit, match.band)
        queries = self._blocked(match, blocks, emit)
        keys, values = (_windows(x, blocks, near.keys, emit) for x in (k, v))
        mask = blocks.mask(emit, q, padding, near)
        y = emit.attend(queries, keys, values, mask, match.band)
        heads, width = int(q.shape[1]), int(v.shape[3])  # type: ignore[index, arg-type]
        turned = emit("Transpose", y, perm=_HEADS_LAST, name="tokens_first")
        text = emit("Reshape", turned, blocks.rows(emit, heads, width), name="text")
        after = _only_transpose(node.outputs[0])
        if after is not None:
            take_over(after.outputs[0], text)
        else:
            take_over(node.outputs[0], emit("Transpose", text, perm=_HEADS_LAST, name="heads"))

    def _blocked(self, match: Windowed, blocks: Blocks, emit: Emitter) -> ir.Value:
        """The queries as [batch · blocks, heads, block, width], by the ops that make them."""
        *moved, turn = match.chain
        source = turn.inputs[0]
        q = match.node.inputs[0]
        assert source is not None and q is not None
        heads, width = int(q.shape[1]), int(q.shape[3])  # type: ignore[index, arg-type]
        value = emit("Reshape", source, blocks.split(emit, heads, width), name="blocks")
        for old in (turn, *reversed(moved)):
            inputs = [value, *old.inputs[1:]]
            if old.op_type == "RotaryEmbedding":
                inputs[3] = blocks.places(emit, old.inputs[3])
            value = emit(
                old.op_type, *inputs, name=old.op_type, type=old.outputs[0].type,
                shape=[None, heads, None, width], **old.attributes,
            )  # fmt: skip
        return value


def _queries(q: ir.Value | None) -> tuple[list[ir.Node], str]:
    """The ops from [batch, tokens, heads, width] to `q`, last first, and the reason why blocks are
    impossible; "" if they are possible. Each op works on every token by itself."""
    chain: list[ir.Node] = []
    while True:
        node = q.producer() if q is not None else None
        if node is None:
            return chain, "its queries are an input"
        chain.append(node)
        if node.domain or not _by_token(node):
            fault = f"{where(node)} ({node.op_type}) stands between queries and heads"
            return chain, fault
        if node.op_type == "Transpose":
            return chain, ""
        q = node.inputs[0]


def _by_token(node: ir.Node) -> bool:
    """Whether the op moves heads in front of tokens, or computes [batch, heads, tokens, width]
    token by token from its first input, wherever the token stands."""
    match node.op_type:
        case "Transpose":
            return tuple(attribute(node, "perm", ())) == _HEADS_LAST
        case "RotaryEmbedding":
            return len(node.inputs) == 4 and node.inputs[3] is not None
        case op if op in dialect.NORMS:
            return attribute(node, "axis", -1) in (-1, 3) and len(node.outputs) == 1
        case "Mul" | "Div":
            factor = constant(node.inputs[1])
            return factor is not None and factor.ndim <= 1
        case "Cast" | "Neg":
            return True
    return False


def _windows(x: ir.Value, blocks: Blocks, keys: ir.Value, emit: Emitter) -> ir.Value:
    """x [batch, groups, tokens, width] as [batch · blocks, groups, keys, width]: the neighbourhood
    of each block."""
    groups, width = int(x.shape[1]), int(x.shape[3])  # type: ignore[index, arg-type]
    if groups == 1:
        rows = emit("Reshape", x, blocks.rows(emit, width), name="rows")
        near = emit("Gather", rows, keys, axis=1, name="near")
    else:
        near = emit("Gather", x, keys, axis=2, name="near_5d")
        near = emit("Transpose", near, perm=[0, 2, 1, 3, 4], name="near")
    sizes = blocks.windows(emit, keys, groups, width)
    shape = [None, groups, None, width]
    return emit("Reshape", near, sizes, name="window", type=x.type, shape=shape)


def _only_transpose(value: ir.Value) -> ir.Node | None:
    """The Transpose that brings the heads behind the tokens, if it alone reads `value`."""
    readers = [node for node, _ in value.uses()]
    if len(readers) != 1 or value.is_graph_output():
        return None
    reader = readers[0]
    turns = reader.op_type == "Transpose" and not reader.domain
    return reader if turns and tuple(attribute(reader, "perm", ())) == _HEADS_LAST else None
