"""expand-rotary: RotaryEmbedding in the ops of opset 17."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from goldfold.exporter.passes.base import Equality, Pass
from goldfold.exporter.passes.rewriting.older import Spelling
from goldfold.exporter.passes.rewriting.pattern import attribute
from goldfold.exporter.passes.rewriting.writer import take_over


@dataclass(frozen=True)
class ExpandRotary(Pass):
    """RotaryEmbedding, which opset 23 brought, becomes products with rows of its tables, for older
    opsets. The rows are looked up once for all layers that share tables and positions.

    holds:
        the pair (a, b) of a head turns into (a cos − b sin, a sin + b cos), by the angle of its
        token and its place in the head; a and b are half a head apart, or neighbours if interleaved

    needs:
        x of [batch, heads, tokens, width] and of a fixed width; an even part of it is turned

    before: half a head apart
        f (float[B,2,T,8] x, float[9,4] cos, float[9,4] sin, int64[B,T] ids) => (float[B,2,T,8] y)
        {
            y = RotaryEmbedding(x, cos, sin, ids)
        }

    after: half a head apart
        f (float[B,2,T,8] x, float[9,4] cos, float[9,4] sin, int64[B,T] ids) => (float[B,2,T,8] y)
        {
            heads = Constant <value_ints: ints = [1]> ()
            sizes = Constant <value_ints: ints = [4, 4]> ()
            c3 = Gather(cos, ids)
            c = Unsqueeze(c3, heads)
            s3 = Gather(sin, ids)
            s = Unsqueeze(s3, heads)
            a, b = Split <axis: int = -1> (x, sizes)
            ac = Mul(a, c)
            bs = Mul(b, s)
            one = Sub(ac, bs)
            as = Mul(a, s)
            bc = Mul(b, c)
            two = Add(as, bc)
            y = Concat <axis: int = -1> (one, two)
        }

    before: neighbours, and a part of the head stays
        f (float[B,2,T,8] x, float[9,2] cos, float[9,2] sin, int64[B,T] ids) => (float[B,2,T,8] y)
        {
            y = RotaryEmbedding <interleaved: int = 1, rotary_embedding_dim: int = 4>
                (x, cos, sin, ids)
        }

    after: neighbours, and a part of the head stays
        none

    before: angles of each text
        f (float[B,2,T,8] x, float[B,T,4] cos, float[B,T,4] sin) => (float[B,2,T,8] y)
        {
            z = RotaryEmbedding(x, cos, sin)
            y = RotaryEmbedding(z, cos, sin)
        }

    after: angles of each text
        none

    refuses: the width is open
        # says x has shape [B,2,T,D], not [batch, heads, tokens, width] of a fixed width
        f (float[B,2,T,D] x, float[9,4] cos, float[9,4] sin, int64[B,T] ids) => (float[B,2,T,D] y)
        {
            y = RotaryEmbedding(x, cos, sin, ids)
        }
    """

    equality: ClassVar[Equality] = Equality.REAL
    required: ClassVar[bool] = True

    def match(self, node: ir.Node) -> ir.Node | None:
        return node if not node.domain and node.op_type == "RotaryEmbedding" else None

    def refuses(self, match: ir.Node) -> str | None:
        x = match.inputs[0]
        shape = None if x is None else x.shape
        if shape is None or len(shape) != 4 or not isinstance(shape[3], int):
            return f"x has shape {shape}, not [batch, heads, tokens, width] of a fixed width"
        turned = attribute(match, "rotary_embedding_dim", 0) or shape[3]
        return f"{turned} of {shape[3]} numbers make no pairs" if turned % 2 else None

    def construct(self, match: ir.Node, memo: dict) -> None:
        x, cosines, sines = match.inputs[:3]
        ids = match.inputs[3] if len(match.inputs) > 3 else None
        assert x is not None and cosines is not None and sines is not None and x.shape is not None
        write = Spelling(match, memo)
        width = int(x.shape[3])  # type: ignore[arg-type]
        size = int(attribute(match, "rotary_embedding_dim", 0)) or width
        turned, rest = x, []
        if size < width:
            ends = write.ints([size, width - size])
            turned, *rest = write.split(x, ends, ("turned", "stays"))
        cos, sin = (_rows(write, table, ids) for table in (cosines, sines))
        near = bool(attribute(match, "interleaved", 0))
        if near:
            pairs = write.ints([0, 0, 0, size // 2, 2])
            turned = write("Reshape", turned, pairs, name="pairs")
            cos, sin = (
                write("Unsqueeze", one, write.ints([-1]), name="each") for one in (cos, sin)
            )
        # (a, b) -> (a cos − b sin, a sin + b cos)
        halves = write.ints([1, 1] if near else [size // 2] * 2)
        a, b = write.split(turned, halves, ("a", "b"))
        ac, bs = (write("Mul", p, t, name=n) for p, t, n in ((a, cos, "ac"), (b, sin, "bs")))
        as_, bc = (write("Mul", p, t, name=n) for p, t, n in ((a, sin, "as"), (b, cos, "bc")))
        one, two = write("Sub", ac, bs, name="one"), write("Add", as_, bc, name="two")
        if near:
            both = write("Concat", one, two, name="both", axis=-1)
            back = write.ints([0, 0, 0, size])
            one, two = write("Reshape", both, back, name="whole"), None
        whole = [part for part in (one, two, *rest) if part is not None]
        value = write("Concat", *whole, name="rotated", axis=-1) if len(whole) > 1 else one
        take_over(match.outputs[0], value)


def _rows(write: Spelling, table: ir.Value, ids: ir.Value | None) -> ir.Value:
    """[batch, 1, tokens, pairs]: a table's row of each token; made once for all readers."""
    key = ("rows", table, ids)
    if key not in write.memo:
        common, kind = write.common("rotary"), table.type
        rows = table if ids is None else common("Gather", table, ids, name="rows", type=kind)
        write.memo[key] = common("Unsqueeze", rows, write.ints([1]), name="heads", type=kind)
    return write.memo[key]
