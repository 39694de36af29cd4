"""legalize-rotary: rotary tables get the shape that ONNX defines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir.program import add_constant
from goldfold.exporter.passes.base import Equality, Pass
from goldfold.exporter.passes.rewriting.writer import Writer


@dataclass(frozen=True)
class LegalizeRotary(Pass):
    """RotaryEmbedding's tables lose a batch axis of 1 that the operator does not allow.

    torch writes tables of shape [1, tokens, width] for x of any batch; ONNX wants [batch, tokens,
    width], or a 2-D table with `position_ids`. ONNX Runtime and TensorRT refuse the first.

    holds:
        row t of the table turns token t of every text: table[0, t] = squeeze(table)[position_ids[b,
        t]] with position_ids[b, t] = t

    needs:
        x is [batch, heads, tokens, width]; both tables are [1, tokens, width/2] and none is indexed
        yet

    before:
        f (float[B,2,T,8] x, float[T,4] angles) => (float[B,2,T,8] y)
        {
            axis = Constant <value_ints: ints = [0]> ()
            table = Unsqueeze(angles, axis)
            cos = Cos(table)
            sin = Sin(table)
            y = RotaryEmbedding <interleaved: int = 0, num_heads: int = 2> (x, cos, sin)
        }

    after:
        f (float[B,2,T,8] x, float[T,4] angles) => (float[B,2,T,8] y)
        {
            axis = Constant <value_ints: ints = [0]> ()
            table = Unsqueeze(angles, axis)
            cos = Cos(table)
            sin = Sin(table)
            first = Constant <value: tensor = int64[1] {0}> ()
            cos2 = Squeeze(cos, first)
            sin2 = Squeeze(sin, first)
            zero = Constant <value: tensor = int64 {0}> ()
            one = Constant <value: tensor = int64 {1}> ()
            batch = Shape <start: int = 0, end: int = 1> (x)
            tokens = Shape <start: int = 2, end: int = 3> (x)
            count = Squeeze(tokens)
            row = Range(zero, count, one)
            shape = Concat <axis: int = 0> (batch, tokens)
            ids = Expand(row, shape)
            y = RotaryEmbedding <interleaved: int = 0, num_heads: int = 2> (x, cos2, sin2, ids)
        }

    refuses: the tables differ from text to text
        # says its table cos has shape [B,T,4], not [1, tokens, width/2]
        f (float[B,2,T,8] x, float[B,T,4] cos, float[B,T,4] sin) => (float[B,2,T,8] y)
        {
            y = RotaryEmbedding <interleaved: int = 0, num_heads: int = 2> (x, cos, sin)
        }
    """

    equality: ClassVar[Equality] = Equality.EXACT
    required: ClassVar[bool] = True

    def match(self, node: ir.Node) -> ir.Node | None:
        if node.domain or node.op_type != "RotaryEmbedding":
            return None
        indexed = len(node.inputs) > 3 and node.inputs[3] is not None
        return None if indexed else node

    def refuses(self, match: ir.Node) -> str | None:
        x, cos, sin = match.inputs[:3]
        assert x is not None
        if x.shape is None or len(x.shape) != 4:
            return f"x has shape {x.shape}, not [batch, heads, tokens, width]"
        for table in (cos, sin):
            assert table is not None
            if table.shape is None or len(table.shape) != 3 or table.shape[0] != 1:
                return f"its table {table.name} has shape {table.shape}, not [1, tokens, width/2]"
        return None

    def construct(self, match: ir.Node, memo: dict) -> None:
        x, cos, sin = match.inputs[:3]
        assert x is not None and cos is not None and sin is not None
        tables = [_two_d(match, table, memo) for table in (cos, sin)]
        ids = _position_ids(match, x, memo)
        match.resize_inputs(4)
        for index, value in enumerate((*tables, ids), start=1):
            match.replace_input_with(index, value)


def _two_d(node: ir.Node, table: ir.Value, memo: dict) -> ir.Value:
    """The table without its first axis; made once for all readers."""
    if table not in memo:
        graph = node.graph
        assert graph is not None and table.shape is not None
        if "axis" not in memo:
            memo["axis"] = add_constant(graph, "axis_0", np.array([0], dtype=np.int64))
        memo[table] = Writer(node, table.name or "")(
            "Squeeze", table, memo["axis"], name="table", type=table.type, shape=table.shape[1:]
        )
    return memo[table]


def _position_ids(node: ir.Node, x: ir.Value, memo: dict) -> ir.Value:
    """int64 [batch, tokens] with position_ids[b, t] = t; made once for all x of the same sizes."""
    assert node.graph is not None and x.shape is not None
    batch_size, token_count = x.shape[0], x.shape[2]
    # Without symbols two sizes are not known to be the same.
    known = "None" not in (str(batch_size), str(token_count))
    key = ("ids", str(batch_size), str(token_count)) if known else ("ids", x)
    if key not in memo:
        sized = _sized_alike(node.graph, batch_size, token_count) if known else None
        sized, axis = (x, 2) if sized is None else (sized, 1)
        write, int64 = Writer(node, "position_ids"), ir.TensorType(ir.DataType.INT64)

        def size(axis: int, name: str) -> ir.Value:
            return write("Shape", sized, start=axis, end=axis + 1, name=name, type=int64, shape=[1])

        batch, tokens = size(0, "batch"), size(axis, "tokens")
        count = write("Squeeze", tokens, name="count", type=int64, shape=[])
        zero = add_constant(node.graph, "position_ids.zero", np.array(0, dtype=np.int64))
        one = add_constant(node.graph, "position_ids.one", np.array(1, dtype=np.int64))
        limits = (zero, count, one)
        row = write("Range", *limits, name="row", type=int64, shape=[token_count])
        shape = write("Concat", batch, tokens, axis=0, name="shape", type=int64, shape=[2])
        memo[key] = Writer(node)(
            "Expand", row, shape, name="position_ids", type=int64, shape=[batch_size, token_count]
        )
    return memo[key]


def _sized_alike(graph: ir.Graph, batch: object, tokens: object) -> ir.Value | None:
    """An input of the graph [batch, tokens] of these sizes: its sizes are known before any node
    runs, and whatever passes do to x."""
    for value in graph.inputs:
        if value.shape is not None and [str(d) for d in value.shape] == [str(batch), str(tokens)]:
            return value
    return None
