"""Helpers of the passes that write attention out: nodes in front of one attention, and one finite
mask for all layers with the same band."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir import dialect
from goldfold.exporter.ir.program import add_constant, constant
from goldfold.exporter.passes.rewriting.writer import Writer


def is_lookup(node: ir.Node) -> bool:
    """Whether `node` reads rows of a constant table: an embedding."""
    table = constant(node.inputs[0]) if node.op_type == "Gather" and not node.domain else None
    return table is not None and table.ndim == 2


def computed(node: ir.Node) -> list[ir.Value]:
    """The inputs of `node` that are no constant, in floating point or in integers."""
    return [value for value in node.inputs if value is not None and not _fixed(value)]


def _fixed(value: ir.Value) -> bool:
    maker = value.producer()
    if maker is not None and maker.op_type == "DequantizeLinear":
        return constant(maker.inputs[0]) is not None
    return constant(value) is not None


def sums_computed(node: ir.Node) -> bool:
    """Whether the node is a sum of two computed values, no bias: the residual stream, or, where
    attention is written out, its scores and their summands."""
    return dialect.op_of(node) == "Add" and len(computed(node)) == 2


def serves_attention(node: ir.Node) -> bool:
    """Whether `node` is attention, or a linear map that makes its operands or reads its result, or
    stands between the two."""
    return dialect.is_band_attention(node) or feeds_attention(node) or _reads(node)


def feeds_attention(node: ir.Node) -> bool:
    """Whether the whole result of `node` goes into attention, perhaps moved, biased or normed."""
    readers = [reader for value in node.outputs for reader, _ in value.uses()]
    return bool(readers) and all(
        dialect.is_band_attention(reader)
        or ((_moves(reader) or dialect.op_of(reader) in dialect.NORMS) and feeds_attention(reader))
        for reader in readers
    )


def _reads(node: ir.Node) -> bool:
    """Whether the data of `node` comes from attention: moved, or by one linear map."""
    producer = _source(node)
    if producer is None:
        return False
    if dialect.is_band_attention(producer):
        return True
    if _adds_bias(node):  # behind the one linear map
        return producer.op_type == "MatMul" and _reads(producer)
    return producer.op_type in dialect.MOVES_HEADS and _reads(producer)


def _source(node: ir.Node) -> ir.Node | None:
    """The producer of the only computed value that `node` reads, its precision changed or not."""
    computed = [v for v in node.inputs if v is not None and constant(v) is None]
    producer = computed[0].producer() if len(computed) == 1 else None
    return _source(producer) if producer is not None and producer.op_type == "Cast" else producer


def _moves(node: ir.Node) -> bool:
    return not node.domain and (node.op_type in dialect.MOVES_HEADS or _adds_bias(node))


def _adds_bias(node: ir.Node) -> bool:
    given = [constant(value) is not None for value in node.inputs]
    return node.op_type == "Add" and not node.domain and sum(given) == 1


class Emitter(Writer):
    """Writes nodes in front of one attention node, and shares through the memo those that several
    layers need."""

    def __init__(self, node: ir.Node, memo: dict) -> None:
        stem = (node.outputs[0].name or "attention").removesuffix(".BandAttention")
        super().__init__(node, stem)
        self.memo, self._common = memo, Writer(node, "attention", "attention")

    def shared(self, op: str, *inputs: ir.Value, name: str | None = None, **attributes: Any):
        """A node without a layer of its own, made once per sweep for the same op and inputs."""
        key = (op, inputs, tuple(sorted((k, str(v)) for k, v in attributes.items())))
        if key not in self.memo:
            self.memo[key] = self._common(op, *inputs, name=name or op, **attributes)
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

    def biased(self, mask: ir.Value, bias: ir.Value | None) -> ir.Value:
        """The mask plus a bias [1 or batch, 1 or heads, tokens, tokens], once for all layers."""
        return mask if bias is None else self.shared("Add", bias, mask, name="bias_and_mask")

    def square_mask(self, q: ir.Value, padding: ir.Value, band: dialect.Band) -> ir.Value:
        """The same as [batch, 1, tokens, tokens], for kernels that do not broadcast its rows."""
        mask = self.mask(q, padding, band)
        if band.window or band.causal:
            return mask
        tokens, one = self._tokens(padding), self.ints([1])
        sizes = self.shared("Concat", one, one, tokens, one, name="rows", axis=0)
        return self.shared("Expand", mask, sizes, name="square")

    def attend(
        self,
        q: ir.Value,
        k: ir.Value,
        v: ir.Value,
        mask: ir.Value,
        band: dialect.Band,
    ) -> ir.Value:
        """softmax(cap(s q kᵀ) + m) v in standard ops; the mask may broadcast, and is a sum where it
        holds a bias. Heads are fixed numbers, and widths too where several heads share a group.

        Heads that share keys and values get no copies: MatMul broadcasts a group's keys and values
        over its heads.
        """
        heads, groups = int(q.shape[1]), int(k.shape[1])  # type: ignore[index, arg-type]
        grouped = groups not in (1, heads)
        width, out = (x.shape[3] if x.shape is not None else None for x in (q, v))
        scale, softcap = band.scale, band.softcap
        queries = q if scale == 1.0 else self("Mul", q, self.number(scale, q), name="scaled")
        keys = self("Transpose", k, perm=[0, 1, 3, 2], name="keys")
        if grouped:
            split = self.ints([0, groups, heads // groups, -1, int(width)])  # type: ignore[arg-type]
            queries = self("Reshape", queries, split, name="grouped")
            keys = self("Unsqueeze", keys, self.ints([2]), name="keys_5d")
            v = self("Unsqueeze", v, self.ints([2]), name="values_5d")
            mask = self._by_group(mask, heads, groups)
        scores = self("MatMul", queries, keys, name="scores")
        if softcap:
            cap = self.number(softcap, q)
            ratio = self("Div", scores, cap, name="ratio")
            scores = self("Mul", self("Tanh", ratio, name="bent"), cap, name="capped")
        masked = self("Add", scores, mask, name="masked")
        weights = self("Softmax", masked, axis=-1, name="weights")
        mixed = self("MatMul", weights, v, name="mixed")
        if grouped:
            mixed = self("Reshape", mixed, self.ints([0, heads, -1, int(out)]), name="heads")  # type: ignore
        return mixed

    def _by_group(self, mask: ir.Value, heads: int, groups: int) -> ir.Value:
        """The mask with an axis more: [batch, groups or 1, heads of a group or 1, …]."""
        maker = mask.producer()
        if maker is None or maker.op_type != "Add":  # one for all heads
            return self.shared("Unsqueeze", mask, self.ints([1]))
        # Its bias may have one head or all.
        whole = self.shared("Expand", mask, self.ints([1, heads, 1, 1]), name="mask_by_head")
        sizes = self.shared("Shape", mask, start=2, end=4, name="mask_rows")
        split = self.ints([0, groups, heads // groups])
        sizes = self.shared("Concat", split, sizes, axis=0, name="mask_sizes")
        return self.shared("Reshape", whole, sizes, name="mask_by_group")

    def _tokens(self, padding: ir.Value) -> ir.Value:
        return self.shared("Shape", padding, start=1, end=2, name="tokens")

    def _band(self, padding: ir.Value, band: dialect.Band) -> ir.Value:
        """bool [tokens, tokens]: |i − j| < window, and j ≤ i if causal."""
        count = self.shared("Squeeze", self._tokens(padding), name="count")
        position = self.shared("Range", self.ints(0), count, self.ints(1), name="position")
        i = self.shared("Unsqueeze", position, self.ints([1]), name="i")
        j = self.shared("Unsqueeze", position, self.ints([0]), name="j")
        return self.band(self.shared("Sub", i, j, name="ahead"), band)

    def band(self, ahead: ir.Value, band: dialect.Band) -> ir.Value:
        """bool: |ahead| < window, and ahead ≥ 0 if causal, for ahead = i − j."""
        near = past = None
        if band.window:
            distance = self.shared("Abs", ahead, name="distance")
            near = self.shared("Less", distance, self.ints(band.window), name="near")
        if band.causal:
            past = self.shared("GreaterOrEqual", ahead, self.ints(0), name="past")
        if near is None or past is None:
            return near if past is None else past  # type: ignore[return-value]
        return self.shared("And", near, past, name="band")
