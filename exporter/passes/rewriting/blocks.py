"""A text as blocks of equal length, which band-local-attention computes once for all layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir import dialect
from goldfold.exporter.ir.program import add_constant, constant, where
from goldfold.exporter.passes.rewriting.attention import Emitter
from goldfold.exporter.passes.rewriting.writer import Writer

_MODULE = "attention"
_LOOK_UP = ("Gather", "GatherElements", "GatherND", "Slice")
"""Ops that read some rows of their first input; the other inputs decide which."""


@dataclass(frozen=True)
class Neighbourhood:
    """The keys that each block of queries meets."""

    keys: ir.Value
    """int64 [blocks, keys]: the token of each key, clipped to the text."""
    near: ir.Value
    """bool [blocks, block, keys]: whether the token exists, and lies within the band."""


@dataclass(frozen=True)
class Blocks:
    """T tokens as n blocks of b: n = T // block where T ≥ start, and 1 below; b = ⌈T / n⌉.

    All of this is whole-number arithmetic on the text's length, in the graph, so a compiler can
    still see that fixed sizes stay fixed.
    """

    count: ir.Value
    """int64 [1]: n."""
    length: ir.Value
    """int64 [1]: b."""
    long: ir.Value
    """int64 [1]: 1 where n > 1 may be, 0 where a block is the whole text."""
    padded: ir.Value
    """The padded attention mask."""

    @classmethod
    def of(cls, graph: ir.Graph, block: int, start: int, max_length: int) -> Blocks:
        """Pad the graph's inputs to n·b tokens for all their readers, and give tables of rotary
        embeddings the rows that the longest padded text needs."""
        first, mask = next(iter(graph)), graph.inputs[1]
        uses = {value: list(value.uses()) for value in graph.inputs}
        emit = Writer(first, "blocks", _MODULE)

        def number(n: int) -> ir.Value:
            return add_constant(graph, "blocks.number", np.array([n], dtype=np.int64))

        one = number(1)
        tokens = emit("Shape", mask, start=1, end=2, name="tokens")
        long = emit("Min", emit("Div", tokens, number(start), name="starts"), one, name="long")
        wanted = emit("Mul", emit("Div", tokens, number(block), name="whole"), long, name="wanted")
        count = emit("Max", wanted, one, name="count")
        upper = emit("Sub", emit("Add", tokens, count, name="above"), one, name="upper")
        length = emit("Div", upper, count, name="length")
        total = emit("Mul", count, length, name="total")
        extra = emit("Sub", total, tokens, name="extra")
        nothing = add_constant(graph, "blocks.nothing", np.zeros(3, dtype=np.int64))
        pads = emit("Concat", nothing, extra, axis=0, name="pads")
        zero = add_constant(graph, "blocks.zero", np.array(0, dtype=np.int64))
        padded = {}
        for value, readers in uses.items():
            given = {"name": str(value.name), "type": value.type, "shape": value.shape}
            new = emit("Pad", value, pads, zero, **given)
            for reader, place in readers:
                if reader is not tokens.producer():
                    reader.replace_input_with(place, new)
            padded[value] = new
        _lengthen_tables(graph, max_length + max_length // block)
        return cls(count, length, long, padded[mask])

    # --- sizes, each made once for all layers

    def batch(self, emit: Emitter) -> ir.Value:
        return emit.shared("Shape", self.padded, start=0, end=1, name="batch")

    def many(self, emit: Emitter) -> ir.Value:
        """batch · blocks"""
        return emit.shared("Mul", self.batch(emit), self.count, name="many")

    def split(self, emit: Emitter, heads: int, width: int) -> ir.Value:
        """[batch · blocks, block, heads, width]"""
        fixed = emit.ints([heads, width])
        return emit.shared("Concat", self.many(emit), self.length, fixed, axis=0, name="split")

    def rows(self, emit: Emitter, *fixed: int) -> ir.Value:
        """[batch, tokens, fixed …]"""
        rest = emit.ints([-1, *fixed])
        return emit.shared("Concat", self.batch(emit), rest, axis=0, name="rows")

    def windows(self, emit: Emitter, keys: ir.Value, groups: int, width: int) -> ir.Value:
        """[batch · blocks, groups, keys, width]"""
        reach = emit.shared("Shape", keys, start=1, end=2, name="keys")
        parts = (self.many(emit), emit.ints([groups]), reach, emit.ints([width]))
        return emit.shared("Concat", *parts, axis=0, name="windows")

    # --- which block meets which keys

    def places(self, emit: Emitter, ids: ir.Value | None) -> ir.Value:
        """Position ids [batch, tokens] as [batch · blocks, block]."""
        assert ids is not None
        sizes = emit.shared("Concat", self.many(emit), self.length, axis=0, name="places")
        return emit.shared("Reshape", ids, sizes, name="position_ids")

    def neighbourhood(self, emit: Emitter, band: dialect.Band) -> Neighbourhood:
        one, ints = emit.ints([1]), emit.ints
        reach = ints([band.window - 1])
        before = emit.shared("Mul", self.long, reach, name="before")
        around = before if band.causal else emit.shared("Add", before, before, name="around")
        width = emit.shared("Add", self.length, around, name="width")
        number, row, column = (self._range(emit, size) for size in (self.count, self.length, width))
        begins = emit.shared("Mul", number, self.length, name="begins")
        first = emit.shared("Unsqueeze", begins, one, name="first")  # [blocks, 1]
        i = emit.shared("Add", first, row, name="i")  # [blocks, block]
        offset = emit.shared("Sub", column, before, name="offset")
        j = emit.shared("Add", first, offset, name="j")  # [blocks, keys]
        last = emit.shared("Mul", self.count, self.length, name="tokens")
        last = emit.shared("Sub", last, one, name="last")
        clipped = emit.shared("Max", j, ints([0]), name="not_before")
        clipped = emit.shared("Min", clipped, last, name="key")
        token = emit.shared("Equal", j, clipped, name="is_token")
        i3 = emit.shared("Unsqueeze", i, ints([2]), name="i3")
        j3 = emit.shared("Unsqueeze", j, one, name="j3")
        near = emit.band(emit.shared("Sub", i3, j3, name="ahead3"), band)
        token3 = emit.shared("Unsqueeze", token, one, name="is_token3")
        return Neighbourhood(clipped, emit.shared("And", near, token3, name="near3"))

    def mask(self, emit: Emitter, q: ir.Value, padding: ir.Value, near: Neighbourhood) -> ir.Value:
        """[batch · blocks, 1, block, keys]: 0 where seen, HIDDEN where not."""
        one = emit.ints([1])
        real = emit.shared("Gather", padding, near.keys, axis=1, name="real_near")
        real = emit.shared("Unsqueeze", real, emit.ints([2]), name="real4")
        seen = emit.shared("And", real, near.near, name="seen4")  # [batch, blocks, block, keys]
        zero, hidden = emit.number(0.0, q), emit.number(dialect.HIDDEN, q)
        mask = emit.shared("Where", seen, zero, hidden, name="mask4")
        keys = emit.shared("Shape", near.keys, start=1, end=2, name="keys")
        parts = (self.many(emit), one, self.length, keys)
        sizes = emit.shared("Concat", *parts, axis=0, name="mask_sizes")
        return emit.shared("Reshape", mask, sizes, name="block_mask")

    def _range(self, emit: Emitter, size: ir.Value) -> ir.Value:
        end = emit.shared("Squeeze", size, name="end")
        return emit.shared("Range", emit.ints(0), end, emit.ints(1), name="range")


def untouched_by_padding(graph: ir.Graph) -> str | None:
    """The reason why a few more tokens behind every text would change or break the outputs of
    `graph`; None if they would not, given that padding does not change the meaning of its texts."""
    texts = graph.inputs
    if len(texts) < 2 or any(
        v.dtype != ir.DataType.INT64 or v.shape is None or len(v.shape) != 2 for v in texts
    ):
        return "its inputs are not ids and a mask"
    tokens = texts[0].shape[1]  # type: ignore[index]
    for value in graph.outputs:
        if value.shape is None or any(size == tokens for size in value.shape):
            return f"the output {value.name} may have an axis of tokens: its shape is {value.shape}"
    for node in graph:
        if node.op_type not in _LOOK_UP or node.domain or constant(node.inputs[0]) is None:
            continue
        for which in node.inputs[1:]:
            if which is not None and constant(which) is None and not _is_text(which, texts):
                return f"{where(node)} looks positions up in a table that ends at the longest text"
    return None


def _is_text(value: ir.Value | None, texts: Sequence[ir.Value]) -> bool:
    """Whether `value` is the caller's input, token by token: padding is a token like others."""
    node = value.producer() if value is not None else None
    if node is not None and node.op_type in ("Identity", "Cast", "Pad"):
        return _is_text(node.inputs[0], texts)
    return value in texts


def _lengthen_tables(graph: ir.Graph, rows: int) -> None:
    """Repeat the last row of every constant rotary table up to `rows`, for the padding."""
    longer: dict[ir.Value, ir.Value] = {}
    for node in graph:
        if node.op_type != "RotaryEmbedding" or node.domain:
            continue
        for place in (1, 2):
            old = node.inputs[place]
            table = constant(old)
            if old is None or table is None or len(table) >= rows:
                continue
            if old not in longer:
                full = np.concatenate([table, np.repeat(table[-1:], rows - len(table), axis=0)])
                longer[old] = add_constant(graph, str(old.name), full)
            node.replace_input_with(place, longer[old])
