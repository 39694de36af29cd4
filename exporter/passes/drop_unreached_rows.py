"""drop-unreached-rows: a table ends with the last row that a text of the promised length needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir import dialect
from goldfold.exporter.ir.program import TOKENS, add_constant, constant
from goldfold.exporter.passes.base import Equality, Pass
from goldfold.exporter.passes.rewriting.pattern import attribute, integers, producer

Span = tuple[int, int]
"""The least and the largest value of whole numbers."""


@dataclass(frozen=True)
class Lookup:
    node: ir.Node
    span: Span | None
    """The rows that a lookup can reach; None if they are not known."""


@dataclass(frozen=True)
class DropUnreachedRows(Pass):
    """A table of learned positions ends at the length of the longest text.

    With `--max-length 512`, bge-m3's 8,194 positions of 1,024 numbers become 514: 31 MB less in
    f32. A table of token types whose ids are all 0 keeps one row.

    holds:
        T[i] = (T[:m])[i] for 0 ≤ i < m

    needs:
        ids that are computed from sizes, constants, comparisons and their running sums alone, so
        that their span follows from `max_length`, which the contract promises. The span of an input
        is not known: tables that `input_ids` looks up stay whole.

    options:
        max_length: 6

    before:
        f (int64[batch,tokens] x, float[9,4] positions) => (float[1,tokens,4] y)
        {
            all = Constant <value: tensor = int64[1,9] {0, 1, 2, 3, 4, 5, 6, 7, 8}> ()
            zero = Constant <value_ints: ints = [0]> ()
            one = Constant <value_ints: ints = [1]> ()
            n = Shape <start: int = 1, end: int = 2> (x)
            ids = Slice(all, zero, n, one, one)
            y = Gather(positions, ids)
        }

    after:
        f (int64[batch,tokens] x, float[6,4] positions) => (float[1,tokens,4] y)
        {
            all = Constant <value: tensor = int64[1,9] {0, 1, 2, 3, 4, 5, 6, 7, 8}> ()
            zero = Constant <value_ints: ints = [0]> ()
            one = Constant <value_ints: ints = [1]> ()
            n = Shape <start: int = 1, end: int = 2> (x)
            ids = Slice(all, zero, n, one, one)
            y = Gather(positions, ids)
        }

    options: positions counted from 2, where there is a token
        max_length: 6

    before: positions counted from 2, where there is a token
        f (int64[batch,tokens] x, float[12,4] positions) => (float[batch,tokens,4] y)
        {
            pad = Constant <value_int: int = 1> ()
            axis = Constant <value_int: int = 1> ()
            is_pad = Equal(x, pad)
            is_real = Not(is_pad)
            real = Cast <to: int = 7> (is_real)
            sum = CumSum(real, axis)
            place = Mul(sum, real)
            ids = Add(place, pad)
            y = Gather(positions, ids)
        }

    after: positions counted from 2, where there is a token
        f (int64[batch,tokens] x, float[8,4] positions) => (float[batch,tokens,4] y)
        {
            pad = Constant <value_int: int = 1> ()
            axis = Constant <value_int: int = 1> ()
            is_pad = Equal(x, pad)
            is_real = Not(is_pad)
            real = Cast <to: int = 7> (is_real)
            sum = CumSum(real, axis)
            place = Mul(sum, real)
            ids = Add(place, pad)
            y = Gather(positions, ids)
        }

    options: the ids are computed from an input
        max_length: 6

    refuses: the ids are computed from an input
        # says which rows of positions it looks up does not follow from the length
        f (int64[batch,tokens] x, float[9,4] positions) => (float[batch,tokens,4] y)
        {
            one = Constant <value_int: int = 1> ()
            ids = Add(x, one)
            y = Gather(positions, ids)
        }

    options: they may be counted from the end
        max_length: 6

    refuses: they may be counted from the end
        # says its ids may count from the end
        f (int64[batch,tokens] x, float[9,4] positions) => (float[1,4] y)
        {
            two = Constant <value_int: int = 2> ()
            n = Shape <start: int = 1, end: int = 2> (x)
            ids = Sub(n, two)
            y = Gather(positions, ids)
        }

    options: another op reads the table
        max_length: 6

    refuses: another op reads the table
        # says another op reads positions, too
        f (int64[batch,tokens] x, float[9,4] positions) => (float[1,4] y, float[9,4] z)
        {
            n = Shape <start: int = 1, end: int = 2> (x)
            y = Gather(positions, n)
            z = Relu(positions)
        }

    options: the text is long enough for every row
        max_length: 9

    ignores: the text is long enough for every row
        f (int64[batch,tokens] x, float[9,4] positions) => (float[tokens,4] y)
        {
            zero = Constant <value_int: int = 0> ()
            one = Constant <value_int: int = 1> ()
            n = Shape <start: int = 1, end: int = 2> (x)
            count = Squeeze(n)
            ids = Range(zero, count, one)
            y = Gather(positions, ids)
        }
    """

    equality: ClassVar[Equality] = Equality.EXACT
    max_length: int = 0
    """The most tokens a text may have; 0 if that is not known."""

    def match(self, node: ir.Node) -> Lookup | None:
        if node.op_type != "Gather" or node.domain or not self.max_length:
            return None
        table = constant(node.inputs[0])
        if table is None or table.ndim != 2 or attribute(node, "axis", 0) != 0:
            return None
        if producer(node.inputs[1]) is None:
            return None  # ids are an input or a constant
        span = _span(node.inputs[1], self.max_length)
        if span is not None and span[1] + 1 >= len(table):
            return None
        return Lookup(node, span)

    def refuses(self, match: Lookup) -> str | None:
        table = match.node.inputs[0]
        assert table is not None
        if match.span is None:
            return f"which rows of {table.name} it looks up does not follow from the length"
        if match.span[0] < 0:
            return "its ids may count from the end"
        if len(table.uses()) != 1:
            return f"another op reads {table.name}, too"
        return None

    def construct(self, match: Lookup, memo: dict) -> None:
        table = match.node.inputs[0]
        array = constant(table)
        assert match.node.graph is not None and match.span is not None
        assert table is not None and array is not None
        # T[i] = (T[:m])[i]; leading rows are a view of the table's memory.
        kept = array[: match.span[1] + 1]
        name = f"{table.name}.reached"
        match.node.replace_input_with(0, add_constant(match.node.graph, name, kept))


def _span(value: ir.Value | None, length: int) -> Span | None:
    """The span of a value's whole numbers, for texts of up to `length` tokens; None if it is not
    known."""
    array = constant(value)
    if array is not None:
        return (int(array.min()), int(array.max())) if array.size and array.dtype != "O" else None
    if value is not None and value.dtype == ir.DataType.BOOL:
        return 0, 1
    node = producer(value)
    if node is None:
        return None
    match node.op_type:
        case "Shape":
            return _sizes(node, length)
        case "Slice":
            return _slice(node, length)
        case "Range":
            start, end = (_span(read, length) for read in node.inputs[:2])
            steps = integers(node.inputs[2])
            return (start[0], end[1] - 1) if start and end and steps == [1] else None
        case "CumSum":
            return _running_sum(node, length)
        case "Add" | "Sub" | "Mul" | "Where":
            one, other = (_span(read, length) for read in node.inputs[-2:])
            return _combine(node.op_type, one, other) if one and other else None
        case "Cast":
            whole = value is not None and value.dtype in (ir.DataType.INT64, ir.DataType.INT32)
            return _span(node.inputs[0], length) if whole else None
        case op if op in dialect.GIVES_ITS_OWN:
            return _span(node.inputs[0], length)
    return None


def _combine(op: str, one: Span, other: Span) -> Span:
    match op:
        case "Add":
            return one[0] + other[0], one[1] + other[1]
        case "Sub":
            return one[0] - other[1], one[1] - other[0]
        case "Where":
            return min(one[0], other[0]), max(one[1], other[1])
    products = [a * b for a in one for b in other]
    return min(products), max(products)


def _size(value: ir.Value | None, axis: int, length: int) -> Span | None:
    """The span of one size of a value's shape."""
    if value is None or value.shape is None:
        return None
    size = value.shape[axis]
    if isinstance(size, int):
        return size, size
    return (0, length) if size.value == TOKENS else None


def _sizes(node: ir.Node, length: int) -> Span | None:
    value = node.inputs[0]
    if value is None or value.shape is None:
        return None
    axes = range(len(value.shape))[attribute(node, "start", 0) : attribute(node, "end", None)]
    spans = [_size(value, axis, length) for axis in axes]
    known = [span for span in spans if span is not None]
    if len(known) < len(spans) or not known:
        return None
    return min(span[0] for span in known), max(span[1] for span in known)


def _slice(node: ir.Node, length: int) -> Span | None:
    """The span of leading numbers of a constant along one axis; else the whole input's span."""
    array, starts = constant(node.inputs[0]), integers(node.inputs[1])
    ends = _span(node.inputs[2], length)
    axes = (integers(node.inputs[3]) if len(node.inputs) > 3 else None) or []
    steps = integers(node.inputs[4]) if len(node.inputs) > 4 else [1]
    leading = starts == [0] and steps == [1] and len(axes) == 1
    if array is None or ends is None or ends[0] < 0 or not leading:
        return _span(node.inputs[0], length)
    first = np.take(array, range(min(max(ends[1], 1), array.shape[axes[0]])), axis=axes[0])
    return (int(first.min()), int(first.max())) if first.size else None


def _running_sum(node: ir.Node, length: int) -> Span | None:
    axis, terms = integers(node.inputs[1]), _span(node.inputs[0], length)
    if axis is None or len(axis) != 1 or terms is None or terms[0] < 0:
        return None
    count = _size(node.inputs[0], axis[0], length)
    return None if count is None else (0, terms[1] * count[1])
