"""raise-rotary: rotary position embedding becomes one op."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir.program import add_constant
from goldfold.exporter.passes.base import Equality, Pass
from goldfold.exporter.passes.rewriting.pattern import (
    Part,
    attribute,
    integers,
    last_axis,
    part_of,
    producer,
    read_elsewhere,
    same_size,
    scalar,
)
from goldfold.exporter.passes.rewriting.writer import emit, take_over

HEADS_FIRST = [0, 2, 1, 3]
"""The permutation between [batch, tokens, heads, width] and [batch, heads, tokens, width]."""

POINTWISE = ("Cos", "Sin", "Cast", "Neg", "Identity")


@dataclass(frozen=True)
class Rotary:
    node: ir.Node
    x: ir.Value
    width: int
    cos: ir.Value
    sin: ir.Value
    left: Part
    right: Part
    inner: tuple[ir.Node, ...]


@dataclass(frozen=True)
class RaiseRotary(Pass):
    """The rotation of each head's two halves by an angle per position becomes RotaryEmbedding.

    torch's exporter knows the form whose tables are spread over heads at axis 1. Gemma 4 rotates
    before it transposes, [batch, tokens, heads, width], so its tables are spread at axis 2. The
    rotated value may itself be a slice of a wider head (partial rotary). legalize-rotary, the next
    pass, gives tables [1, tokens, width/2] their positions.

    holds:
        x · [c, c] + [−x₂, x₁] · [s, s] = [x₁ c − x₂ s, x₂ c + x₁ s] for x = [x₁, x₂], and
        transpose(turn(x)) = turn(transpose(x))

    needs:
        x has four axes; the slices are its two halves, the second negated and in front; both tables
        are built as Concat(a, a) and pointwise ops on it, have one row per token of x, and are the
        same for all heads. Only the pattern reads the values in between.

    before: as Gemma 4 spells it
        f (float[B,T,2,8] x, float[T,4] angles) => (float[B,2,T,8] y)
        {
            zero = Constant <value_ints: ints = [0]> ()
            two = Constant <value_ints: ints = [2]> ()
            half = Constant <value_ints: ints = [4]> ()
            end = Constant <value_ints: ints = [9223372036854775807]> ()
            last = Constant <value_ints: ints = [3]> ()
            step = Constant <value_ints: ints = [1]> ()
            a = Unsqueeze(angles, zero)
            both = Concat <axis: int = -1> (a, a)
            c = Cos(both)
            s = Sin(both)
            cos = Unsqueeze(c, two)
            sin = Unsqueeze(s, two)
            xc = Mul(x, cos)
            x2 = Slice(x, half, end, last, step)
            n2 = Neg(x2)
            x1 = Slice(x, zero, half, last, step)
            r = Concat <axis: int = -1> (n2, x1)
            rs = Mul(r, sin)
            t = Add(xc, rs)
            y = Transpose <perm: ints = [0, 2, 1, 3]> (t)
        }

    after: as Gemma 4 spells it
        f (float[B,T,2,8] x, float[T,4] angles) => (float[B,2,T,8] y)
        {
            zero = Constant <value_ints: ints = [0]> ()
            a = Unsqueeze(angles, zero)
            c = Cos(a)
            s = Sin(a)
            h = Transpose <perm: ints = [0, 2, 1, 3]> (x)
            y = RotaryEmbedding <num_heads: int = 2> (h, c, s)
        }

    before: a part of each head, tables scaled and doubled last
        f (float[B,2,T,12] x, float[T,4] angles) => (float[B,2,T,12] y)
        {
            eight = Constant <value_ints: ints = [8, 4]> ()
            fours = Constant <value_ints: ints = [4, 4]> ()
            axes = Constant <value_ints: ints = [0, 1]> ()
            k = Constant <value: tensor = float {1.25}> ()
            c1 = Cos(angles)
            s1 = Sin(angles)
            c2 = Concat <axis: int = 1> (c1, c1)
            s2 = Concat <axis: int = 1> (s1, s1)
            c3 = Mul(c2, k)
            s3 = Mul(k, s2)
            cos = Unsqueeze(c3, axes)
            sin = Unsqueeze(s3, axes)
            head, rest = Split <axis: int = -1> (x, eight)
            x1, x2 = Split <axis: int = 3> (head, fours)
            n2 = Neg(x2)
            r = Concat <axis: int = 3> (n2, x1)
            rs = Mul(sin, r)
            xc = Mul(cos, head)
            t = Add(rs, xc)
            y = Concat <axis: int = -1> (t, rest)
        }

    after: a part of each head, tables scaled and doubled last
        f (float[B,2,T,12] x, float[T,4] angles) => (float[B,2,T,12] y)
        {
            eight = Constant <value_ints: ints = [8, 4]> ()
            axes = Constant <value_ints: ints = [0, 1]> ()
            one = Constant <value_ints: ints = [1]> ()
            k = Constant <value: tensor = float {1.25}> ()
            head, rest = Split <axis: int = -1> (x, eight)
            c1 = Cos(angles)
            c3 = Mul(c1, k)
            c4 = Unsqueeze(c3, axes)
            cos = Squeeze(c4, one)
            s1 = Sin(angles)
            s3 = Mul(k, s1)
            s4 = Unsqueeze(s3, axes)
            sin = Squeeze(s4, one)
            t = RotaryEmbedding <num_heads: int = 2> (head, cos, sin)
            y = Concat <axis: int = -1> (t, rest)
        }

    refuses: the table's halves differ
        # says the table cos is not built from two equal halves
        f (float[B,2,T,8] x, float[T,4] a, float[T,4] b) => (float[B,2,T,8] y)
        {
            axes = Constant <value_ints: ints = [0, 1]> ()
            fours = Constant <value_ints: ints = [4, 4]> ()
            ab = Concat <axis: int = -1> (a, b)
            c = Cos(ab)
            s = Sin(ab)
            cos = Unsqueeze(c, axes)
            sin = Unsqueeze(s, axes)
            x1, x2 = Split <axis: int = -1> (x, fours)
            n2 = Neg(x2)
            r = Concat <axis: int = -1> (n2, x1)
            rs = Mul(r, sin)
            xc = Mul(x, cos)
            y = Add(xc, rs)
        }

    refuses: it turns the other way
        f (float[B,2,T,8] x, float[T,4] a) => (float[B,2,T,8] y)
        {
            axes = Constant <value_ints: ints = [0, 1]> ()
            fours = Constant <value_ints: ints = [4, 4]> ()
            aa = Concat <axis: int = -1> (a, a)
            c = Cos(aa)
            s = Sin(aa)
            cos = Unsqueeze(c, axes)
            sin = Unsqueeze(s, axes)
            x1, x2 = Split <axis: int = -1> (x, fours)
            n1 = Neg(x1)
            r = Concat <axis: int = -1> (x2, n1)
            rs = Mul(r, sin)
            xc = Mul(x, cos)
            y = Add(xc, rs)
        }

    refuses: the slices are no halves
        # says it turns [(2, 8, True), (0, 2, False)] of 8 channels, not the two halves
        f (float[B,2,T,8] x, float[T,4] a) => (float[B,2,T,8] y)
        {
            axes = Constant <value_ints: ints = [0, 1]> ()
            sizes = Constant <value_ints: ints = [2, 6]> ()
            aa = Concat <axis: int = -1> (a, a)
            c = Cos(aa)
            s = Sin(aa)
            cos = Unsqueeze(c, axes)
            sin = Unsqueeze(s, axes)
            x1, x2 = Split <axis: int = -1> (x, sizes)
            n2 = Neg(x2)
            r = Concat <axis: int = -1> (n2, x1)
            rs = Mul(r, sin)
            xc = Mul(x, cos)
            y = Add(xc, rs)
        }

    refuses: each head has a table of its own
        # says its tables of shape [B,2,T,8] and [B,2,T,8] are not one row a token of x
        f (float[B,2,T,8] x, float[B,2,T,4] a) => (float[B,2,T,8] y)
        {
            fours = Constant <value_ints: ints = [4, 4]> ()
            aa = Concat <axis: int = -1> (a, a)
            cos = Cos(aa)
            sin = Sin(aa)
            x1, x2 = Split <axis: int = -1> (x, fours)
            n2 = Neg(x2)
            r = Concat <axis: int = -1> (n2, x1)
            rs = Mul(r, sin)
            xc = Mul(x, cos)
            y = Add(xc, rs)
        }

    refuses: the rotated value is an output as well
        # says r, inside the pattern, is an output of the graph
        f (float[B,2,T,8] x, float[T,4] a) => (float[B,2,T,8] y, float[B,2,T,8] r)
        {
            axes = Constant <value_ints: ints = [0, 1]> ()
            fours = Constant <value_ints: ints = [4, 4]> ()
            aa = Concat <axis: int = -1> (a, a)
            c = Cos(aa)
            s = Sin(aa)
            cos = Unsqueeze(c, axes)
            sin = Unsqueeze(s, axes)
            x1, x2 = Split <axis: int = -1> (x, fours)
            n2 = Neg(x2)
            r = Concat <axis: int = -1> (n2, x1)
            rs = Mul(r, sin)
            xc = Mul(x, cos)
            y = Add(xc, rs)
        }
    """

    equality: ClassVar[Equality] = Equality.REAL

    def match(self, node: ir.Node) -> Rotary | None:
        if node.domain or node.op_type != "Add":
            return None
        products = [producer(value, "Mul") for value in node.inputs]
        for straight, turned in (products, reversed(products)):
            if straight is None or turned is None:
                continue
            for index in (0, 1):
                joined = producer(turned.inputs[index], "Concat")
                if joined is None or len(joined.inputs) != 2:
                    continue
                left, right = (part_of(value) for value in joined.inputs)
                if left is None or right is None or left.source is not right.source:
                    continue
                x, sin = left.source, turned.inputs[1 - index]
                if x not in straight.inputs or left.negated == right.negated:
                    continue
                cos = straight.inputs[1 - straight.inputs.index(x)]
                width = x.shape[-1] if x.shape else None
                if cos is None or sin is None or not isinstance(width, int):
                    continue
                inner = (straight, turned, joined, *left.nodes, *right.nodes)
                return Rotary(node, x, width, cos, sin, left, right, inner)
        return None

    def refuses(self, match: Rotary) -> str | None:
        x, half = match.x, match.width // 2
        if x.shape is None or len(x.shape) != 4:
            return f"x has shape {x.shape}, not four axes"
        parts = [(p.start, p.stop, p.negated) for p in (match.left, match.right)]
        if parts == [(half, match.width, False), (0, half, True)]:
            return "it turns the other way"
        if parts != [(half, match.width, True), (0, half, False)]:
            return f"it turns {parts} of {match.width} channels, not the two halves"
        for table in (match.cos, match.sin):
            if not _is_doubled(table):
                return f"the table {table.name} is not built from two equal halves"
        if _heads_axis(match) is None:
            shapes = f"{match.cos.shape} and {match.sin.shape}"
            return f"its tables of shape {shapes} are not one row a token of x {x.shape}"
        return read_elsewhere(match.inner, {*match.inner, match.node})

    def construct(self, match: Rotary, memo: dict) -> None:
        node, x, axis = match.node, match.x, _heads_axis(match)
        out, shape = node.outputs[0], x.shape
        assert axis is not None and shape is not None and out.name is not None
        tables = [_table(value, axis, node, memo) for value in (match.cos, match.sin)]
        if axis == 2:
            shape = ir.Shape([shape[i] for i in HEADS_FIRST])
            x = emit(node, "Transpose", [x], f"{x.name}.heads", x, shape, perm=HEADS_FIRST)
        heads = {"num_heads": shape[1]} if isinstance(shape[1], int) else {}
        turned = emit(
            node, "RotaryEmbedding", [x, *tables], f"{out.name}.rotary", out, shape,
            interleaved=0, **heads,
        )  # fmt: skip
        if axis == 1:
            take_over(out, turned)
            return
        # Back to the original order; a reader that undoes the transpose gets the rotated heads.
        name = f"{out.name}.back"
        back = emit(node, "Transpose", [turned], name, out, out.shape, perm=HEADS_FIRST)
        take_over(out, back)
        for reader, _ in back.uses():
            if reader.op_type == "Transpose" and list(attribute(reader, "perm", ())) == HEADS_FIRST:
                take_over(reader.outputs[0], turned)
                break


def _heads_axis(match: Rotary) -> int | None:
    """1 where both tables are spread over heads at axis 1, 2 where at axis 2, else None."""
    given = match.x.shape
    assert given is not None
    for heads, tokens in ((1, 2), (2, 1)):
        shapes = [table.shape for table in (match.cos, match.sin)]
        if all(
            s is not None
            and len(s) == 4
            and s[heads] == 1
            and s[3] == match.width
            and same_size(s[tokens], given[tokens])
            and (s[0] == 1 or same_size(s[0], given[0]))
            for s in shapes
        ):
            return heads
    return None


def _is_doubled(value: ir.Value | None) -> bool:
    """Whether the last axis of `value` is twice the same half, judged by its producers."""
    node = producer(value, "Concat", "Unsqueeze", "Mul", *POINTWISE)
    if node is None or value is None or value.shape is None:
        return False
    rank = len(value.shape)
    if node.op_type == "Concat":
        twice = len(node.inputs) == 2 and node.inputs[0] is node.inputs[1]
        return twice and last_axis(attribute(node, "axis", 0), rank)
    if node.op_type == "Unsqueeze":
        axes = integers(node.inputs[1])
        if axes is None or any(last_axis(axis, rank) for axis in axes):
            return False
    if node.op_type == "Mul":
        return any(
            _is_doubled(v) and scalar(node.inputs[1 - i]) is not None
            for i, v in enumerate(node.inputs)
        )
    return _is_doubled(node.inputs[0])


def _half(value: ir.Value, before: ir.Node, memo: dict) -> ir.Value:
    """The first half of a doubled table, built from the half that was doubled; made once."""
    node = producer(value)
    assert node is not None and value.shape is not None
    if node.op_type == "Concat":
        (half,) = {*node.inputs}
        assert half is not None
        return half
    if ("half", value) not in memo:
        inputs: list[ir.Value] = []
        for index, given in enumerate(node.inputs):
            assert given is not None
            doubled = _is_doubled(given) and not (node.op_type == "Unsqueeze" and index)
            inputs.append(_half(given, before, memo) if doubled else given)
        sizes = list(value.shape)
        assert isinstance(sizes[-1], int)
        memo["half", value] = emit(
            before, node.op_type, inputs, f"{value.name}.half", value,
            [*sizes[:-1], sizes[-1] // 2],
            **{name: given.value for name, given in node.attributes.items()},
        )  # fmt: skip
    return memo["half", value]


def _table(value: ir.Value, heads: int, before: ir.Node, memo: dict) -> ir.Value:
    """[batch or 1, tokens, width/2] of a table that is spread over heads; made once."""
    spread = producer(value, "Unsqueeze")
    if spread is not None and integers(spread.inputs[1]) == [heads]:
        assert spread.inputs[0] is not None
        return _half(spread.inputs[0], before, memo)
    if ("table", value) not in memo:
        assert before.graph is not None
        half = _half(value, before, memo)
        assert half.shape is not None
        if ("axis", heads) not in memo:
            axis = np.array([heads], dtype=np.int64)
            memo["axis", heads] = add_constant(before.graph, f"axis_{heads}", axis)
        sizes = [size for index, size in enumerate(half.shape) if index != heads]
        memo["table", value] = emit(
            before, "Squeeze", [half, memo["axis", heads]], f"{value.name}.table", half, sizes
        )
    return memo["table", value]
