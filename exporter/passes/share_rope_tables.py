"""share-rope-tables: the angles of rotary embeddings are computed before any text is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir

from goldfold.exporter.ir.derivation import Derived
from goldfold.exporter.ir.program import add_constant, constant
from goldfold.exporter.passes.base import Equality, Pass
from goldfold.exporter.passes.rewriting.angles import table_of_angles

_SIZES = frozenset({"Shape", "Size"})


@dataclass(frozen=True)
class Tables:
    node: ir.Node
    found: tuple[np.ndarray, ...] | None
    """cos and sin, [max_length, width/2] each; None if they could not be computed."""
    fault: str


@dataclass(frozen=True)
class ShareRopeTables(Pass):
    """A rotary table that only depends on positions becomes a constant of `max_length` rows.

    Torch computes cosines and sines of all positions at every call. They are the same for every
    text, so one table per base is kept, and `position_ids` picks its rows. EmbeddingGemma has two
    bases: 4 MB in f32.

    holds:
        table[position_ids[b, t]] = cos(position_ids[b, t] · frequency)

    needs:
        the table is computed from sizes and constants alone, and its rows do not depend on their
        number (they do where a frequency changes with the text's length): the table is computed for
        every halving of the length, and compared.

    options:
        max_length: 8

    before:
        f (float[B,2,T,8] x, float[4] frequency) => (float[B,2,T,8] y)
        {
            b = Shape <start: int = 0, end: int = 1> (x)
            n = Shape <start: int = 2, end: int = 3> (x)
            count = Squeeze(n)
            zero = Constant <value_int: int = 0> ()
            one = Constant <value_int: int = 1> ()
            row = Range(zero, count, one)
            shape = Concat <axis: int = 0> (b, n)
            ids = Expand(row, shape)
            position = Cast <to: int = 1> (row)
            last = Constant <value_ints: ints = [1]> ()
            column = Unsqueeze(position, last)
            angles = Mul(column, frequency)
            c = Cos(angles)
            s = Sin(angles)
            y = RotaryEmbedding <interleaved: int = 0, num_heads: int = 2> (x, c, s, ids)
        }

    after:
        f (float[B,2,T,8] x, float[8,4] c, float[8,4] s) => (float[B,2,T,8] y)
        {
            b = Shape <start: int = 0, end: int = 1> (x)
            n = Shape <start: int = 2, end: int = 3> (x)
            count = Squeeze(n)
            zero = Constant <value_int: int = 0> ()
            one = Constant <value_int: int = 1> ()
            row = Range(zero, count, one)
            shape = Concat <axis: int = 0> (b, n)
            ids = Expand(row, shape)
            y = RotaryEmbedding <interleaved: int = 0, num_heads: int = 2> (x, c, s, ids)
        }

    options: the frequencies depend on the text
        max_length: 8

    refuses: the frequencies depend on the text
        # says its table depends on the input angles
        f (float[B,2,T,8] x, int64[B,T] ids, float[T,4] angles) => (float[B,2,T,8] y)
        {
            c = Cos(angles)
            s = Sin(angles)
            y = RotaryEmbedding <interleaved: int = 0, num_heads: int = 2> (x, c, s, ids)
        }
    """

    equality: ClassVar[Equality] = Equality.REAL
    max_length: int = 0
    """The most tokens a text may have; the number of rows."""

    def match(self, node: ir.Node) -> Tables | None:
        if node.op_type != "RotaryEmbedding" or node.domain or not self.max_length:
            return None
        cos, sin = node.inputs[1], node.inputs[2]
        indexed = len(node.inputs) > 3 and node.inputs[3] is not None
        if not indexed or cos is None or sin is None or cos.producer() is None:
            return None
        values = [cos, sin]
        fault = next((f for v in values if (f := _depends(v))), "")
        if fault:
            return Tables(node, None, fault)
        found, fault = self._compute(values)
        return Tables(node, found, fault)

    def refuses(self, match: Tables) -> str | None:
        return match.fault or None

    def construct(self, match: Tables, memo: dict) -> None:
        node = match.node
        assert node.graph is not None and match.found is not None
        angles = _angles(node)
        for index, name, table in zip((1, 2), ("cos", "sin"), match.found, strict=True):
            key = (name, table.tobytes())
            if key not in memo:
                how = table_of_angles(table, *angles)
                memo[key] = add_constant(node.graph, f"rotary.{name}", table, how)
            old = node.inputs[index]
            assert old is not None
            # All layers with this table at once, so that it is computed once.
            for reader, place in list(old.uses()):
                if reader.op_type == "RotaryEmbedding" and place == index:
                    reader.replace_input_with(index, memo[key])

    def _compute(self, values: list[ir.Value]) -> tuple[tuple[np.ndarray, ...] | None, str]:
        try:
            full = _evaluate(values, self.max_length)
            # Halving down to one finds a frequency that changes beyond some length.
            lengths = [self.max_length >> k for k in range(1, self.max_length.bit_length())]
            parts = [_evaluate(values, length) for length in lengths]
        except Exception as error:
            return None, f"its table cannot be computed here ({type(error).__name__})"
        for whole in full:
            if whole.ndim != 2 or len(whole) != self.max_length:
                return None, f"its table has shape {whole.shape}, not one row a position"
        for part in parts:
            for whole, rows in zip(full, part, strict=True):
                if not np.array_equal(whole[: len(rows)], rows):
                    return None, "its rows depend on how many there are"
        return tuple(full), ""


def _cone(values: list[ir.Value]) -> tuple[list[ir.Node], set[ir.Value]]:
    """The nodes that compute `values`, in the graph's order, and the graph inputs whose size they
    read."""
    nodes: set[ir.Node] = set()
    sized: set[ir.Value] = set()
    waiting = [v.producer() for v in values]
    while waiting:
        node = waiting.pop()
        if node is None or node in nodes:
            continue
        nodes.add(node)
        for value in node.inputs:
            if value is not None and node.op_type in _SIZES:
                sized.add(value)
            elif value is not None:
                waiting.append(value.producer())
    graph = values[0].producer().graph  # type: ignore[union-attr]
    return [n for n in graph if n in nodes], sized  # type: ignore[union-attr]


def _angles(node: ir.Node) -> tuple[list[Derived], list[Derived]]:
    """The floating constants that a node's tables are computed from: vectors, and single
    numbers."""
    nodes, _ = _cone([value for value in node.inputs[1:3] if value is not None])
    read = dict.fromkeys(value for one in nodes for value in one.inputs if value is not None)
    found = [array for value in read if (array := constant(value)) is not None]
    floating = [array for array in found if array.dtype.kind == "f"]
    return [a for a in floating if a.size > 1], [a for a in floating if a.size == 1]


def _depends(value: ir.Value) -> str:
    """The reason why `value` depends on more than sizes; "" if it does not."""
    nodes, _ = _cone([value])
    for node in nodes:
        if node.op_type in _SIZES:
            continue
        for read in node.inputs:
            if read is not None and read.producer() is None and read.const_value is None:
                return f"its table depends on the input {read.name}"
    return ""


def _evaluate(values: list[ir.Value], length: int) -> list[np.ndarray]:
    """`values` for texts of `length` tokens, in the graph's own f32."""
    nodes, sized = _cone(values)
    constants = {
        v.name: v for n in nodes for v in n.inputs if v is not None and v.const_value is not None
    }
    graph = onnx.helper.make_graph(
        [ir.to_proto(node) for node in nodes],
        "tables",
        [
            onnx.helper.make_tensor_value_info(
                str(v.name), onnx.TensorProto.INT64, [None] * len(v.shape or ())
            )
            for v in sized
        ],
        [
            onnx.helper.make_tensor_value_info(str(v.name), onnx.TensorProto.FLOAT, None)
            for v in values
        ],
        [onnx.numpy_helper.from_array(v.const_value.numpy(), k) for k, v in constants.items()],  # type: ignore
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)])
    feeds = {}
    for value in sized:
        dims = [
            d if isinstance(d, int) else 1 if axis == 0 else length
            for axis, d in enumerate(value.shape or ())
        ]
        feeds[value.name] = np.zeros(dims, dtype=np.int64)
    # The type of a value whose size is read does not matter; zeros stand for it.
    return [np.asarray(v) for v in onnx.reference.ReferenceEvaluator(model).run(None, feeds)]
