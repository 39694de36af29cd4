"""fuse-attention-projections: queries, keys and values of one input, and their attention, become
ONNX Runtime's own op."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir import contrib, dialect
from goldfold.exporter.ir.program import add_constant, insert_before, unique_name
from goldfold.exporter.passes.base import Equality, Log, Pass
from goldfold.exporter.passes.rewriting.linear import Linear, linear_ending_at
from goldfold.exporter.passes.rewriting.pattern import (
    attribute,
    integers,
    producer,
    read_elsewhere,
)
from goldfold.exporter.passes.rewriting.writer import Writer, take_over


@dataclass(frozen=True)
class Projected:
    """BandAttention between linear maps; `node` is the Reshape that joins its heads."""

    node: ir.Node
    attention: ir.Node
    inner: tuple[ir.Node, ...]
    """Every node between the maps' input and `node`; their values are the pattern's own."""
    maps: tuple[Linear, ...]
    """The maps of queries, keys and values."""
    heads: int
    fault: str = ""


@dataclass(frozen=True)
class FuseAttentionProjections(Pass):
    """Three linear maps of one input and the attention between their results become
    `com.microsoft.Attention`, whose kernel makes one product of the three.

    ONNX Runtime's kernel needs neither a mask of numbers nor a copy of the heads. The op is defined
    in the file in standard ops (`exporter/ir/contrib.py`), so that any runtime computes it.

    holds:
        Attention(x, [Wq Wk Wv], [bq bk bv], p) = softmax(s q kᵀ + m) v for q = x Wq + bq,
        k = x Wk + bk, v = x Wv + bv, with m = 0 where p is true and −3e4 where it is not

    needs:
        x has three axes. There are as many heads of keys as of queries. The weights are constants,
        and not in half precision. No window, no cap, not causal, no bias. Only the pattern reads
        what is inside it.

    before:
        f (float[B,T,6] x, float[6,8] wq, float[6,8] wk, float[6,8] wv, float[8] bq, float[8] bv,
           bool[B,T] padding) => (float[B,T,8] y)
        {
            q = MatMul(x, wq)
            qb = Add(q, bq)
            k = MatMul(x, wk)
            v = MatMul(x, wv)
            vb = Add(bv, v)
            apart = Constant <value_ints: ints = [0, 0, 2, 4]> ()
            qh = Reshape(qb, apart)
            kh = Reshape(k, apart)
            vh = Reshape(vb, apart)
            qt = Transpose <perm: ints = [0, 2, 1, 3]> (qh)
            kt = Transpose <perm: ints = [0, 2, 1, 3]> (kh)
            vt = Transpose <perm: ints = [0, 2, 1, 3]> (vh)
            mixed = goldfold.BandAttention
                <scale: float = 0.5, window: int = 0, causal: int = 0, softcap: float = 0.0>
                (qt, kt, vt, padding)
            back = Transpose <perm: ints = [0, 2, 1, 3]> (mixed)
            flat = Constant <value_ints: ints = [0, 0, 8]> ()
            y = Reshape(back, flat)
        }

    after:
        f (float[B,T,6] x, float[6,24] w, float[24] b, bool[B,T] padding) => (float[B,T,8] y)
        {
            real = Cast <to: int = 6> (padding)
            y = com.microsoft.Attention
                <num_heads: int = 2, scale: float = 0.5, mask_filter_value: float = -30000.0>
                (x, w, b, real)
        }

    refuses: a window
        # says it has a window
        f (float[B,T,6] x, float[6,8] w, bool[B,T] padding) => (float[B,T,8] y)
        {
            q = MatMul(x, w)
            k = MatMul(x, w)
            v = MatMul(x, w)
            apart = Constant <value_ints: ints = [0, 0, 2, 4]> ()
            qh = Reshape(q, apart)
            kh = Reshape(k, apart)
            vh = Reshape(v, apart)
            qt = Transpose <perm: ints = [0, 2, 1, 3]> (qh)
            kt = Transpose <perm: ints = [0, 2, 1, 3]> (kh)
            vt = Transpose <perm: ints = [0, 2, 1, 3]> (vh)
            mixed = goldfold.BandAttention
                <scale: float = 0.5, window: int = 3, causal: int = 0, softcap: float = 0.0>
                (qt, kt, vt, padding)
            back = Transpose <perm: ints = [0, 2, 1, 3]> (mixed)
            flat = Constant <value_ints: ints = [0, 0, 8]> ()
            y = Reshape(back, flat)
        }

    refuses: keys of another input
        # says its keys are not a linear map of the input of its queries
        f (float[B,T,6] x, float[B,T,6] z, float[6,8] w, bool[B,T] padding) => (float[B,T,8] y)
        {
            q = MatMul(x, w)
            k = MatMul(z, w)
            v = MatMul(x, w)
            apart = Constant <value_ints: ints = [0, 0, 2, 4]> ()
            qh = Reshape(q, apart)
            kh = Reshape(k, apart)
            vh = Reshape(v, apart)
            qt = Transpose <perm: ints = [0, 2, 1, 3]> (qh)
            kt = Transpose <perm: ints = [0, 2, 1, 3]> (kh)
            vt = Transpose <perm: ints = [0, 2, 1, 3]> (vh)
            mixed = goldfold.BandAttention
                <scale: float = 0.5, window: int = 0, causal: int = 0, softcap: float = 0.0>
                (qt, kt, vt, padding)
            back = Transpose <perm: ints = [0, 2, 1, 3]> (mixed)
            flat = Constant <value_ints: ints = [0, 0, 8]> ()
            y = Reshape(back, flat)
        }

    refuses: something else reads the queries
        # says also reads the inner
        f (float[B,T,6] x, float[6,8] w, float[6,8] u, bool[B,T] padding)
            => (float[B,T,8] y, float[B,T,8] z)
        {
            q = MatMul(x, w)
            z = Neg(q)
            k = MatMul(x, u)
            v = MatMul(x, w)
            apart = Constant <value_ints: ints = [0, 0, 2, 4]> ()
            qh = Reshape(q, apart)
            kh = Reshape(k, apart)
            vh = Reshape(v, apart)
            qt = Transpose <perm: ints = [0, 2, 1, 3]> (qh)
            kt = Transpose <perm: ints = [0, 2, 1, 3]> (kh)
            vt = Transpose <perm: ints = [0, 2, 1, 3]> (vh)
            mixed = goldfold.BandAttention
                <scale: float = 0.5, window: int = 0, causal: int = 0, softcap: float = 0.0>
                (qt, kt, vt, padding)
            back = Transpose <perm: ints = [0, 2, 1, 3]> (mixed)
            flat = Constant <value_ints: ints = [0, 0, 8]> ()
            y = Reshape(back, flat)
        }

    ignores: heads that stay apart
        f (float[B,2,T,4] q, float[B,2,T,4] k, float[B,2,T,4] v, bool[B,T] padding)
            => (float[B,2,T,4] y)
        {
            y = goldfold.BandAttention
                <scale: float = 0.5, window: int = 0, causal: int = 0, softcap: float = 0.0>
                (q, k, v, padding)
        }
    """

    equality: ClassVar[Equality] = Equality.REAL

    def match(self, node: ir.Node) -> Projected | None:
        if node.domain or node.op_type != "Reshape":
            return None
        back = _swapped(node.inputs[0])
        attention = None if back is None or back.inputs[0] is None else back.inputs[0].producer()
        if back is None or attention is None or not dialect.is_band_attention(attention):
            return None
        return _projected(node, back, attention)

    def refuses(self, match: Projected) -> str | None:
        return match.fault or read_elsewhere(match.inner, {*match.inner, match.node})

    def construct(self, match: Projected, memo: dict) -> None:
        node, graph = match.node, match.node.graph
        assert graph is not None
        name = match.attention.name or "attention"
        weight = np.concatenate([one.weight for one in match.maps], axis=1)
        none = np.zeros(match.maps[0].weight.shape[1], match.maps[0].weight.dtype)
        bias = np.concatenate([none if one.bias is None else one.bias for one in match.maps])
        padding = match.attention.inputs[3]
        assert padding is not None
        if padding not in memo:
            memo[padding] = Writer(node)(
                "Cast", padding, name="real", type=ir.TensorType(ir.DataType.INT32),
                shape=padding.shape, to=ir.DataType.INT32.value,
            )  # fmt: skip
        made = ir.node(
            contrib.ATTENTION,
            [
                match.maps[0].x,
                add_constant(graph, f"{name}.weight", weight),
                add_constant(graph, f"{name}.bias", bias),
                memo[padding],
            ],
            {
                "num_heads": match.heads,
                "scale": dialect.Band.of(match.attention).scale,
                "mask_filter_value": dialect.HIDDEN,
            },
            domain=contrib.DOMAIN,
        )
        value = made.outputs[0]
        value.name = made.name = unique_name(graph, f"{name}.fused")
        insert_before(node, [made])
        take_over(node.outputs[0], value)

    def rewrite(self, model: ir.Model, log: Log | None = None) -> Log:
        log = super().rewrite(model, log)
        if log.applied:
            dialect.define(model)
            contrib.define(model)
        return log


def _swapped(value: ir.Value | None) -> ir.Node | None:
    """The node that makes `value` by swapping heads and tokens."""
    node = producer(value, "Transpose")
    return node if node is not None and attribute(node, "perm", None) == (0, 2, 1, 3) else None


def _projected(node: ir.Node, back: ir.Node, attention: ir.Node) -> Projected:
    """The pattern around an attention, with the reason why it is none, if there is one."""
    band = dialect.Band.of(attention)
    has = {
        "a window": band.window,
        "a direction": band.causal,
        "a cap": band.softcap,
        "a bias": dialect.bias_of(attention),
    }
    faults = [f"it has {said}" for said, there in has.items() if there]
    if (integers(node.inputs[1]) or [])[:2] != [0, 0]:
        faults.append("its heads are not joined token by token")
    inner, maps, heads = [back, attention], list[Linear](), set[tuple[int, ...]]()
    for value, name in zip(attention.inputs[:3], ("queries", "keys", "values"), strict=True):
        swap = _swapped(value)
        split = producer(swap.inputs[0], "Reshape") if swap is not None else None
        source = None if split is None else split.inputs[0]
        linear = linear_ending_at(None if source is None else source.producer())
        if swap is None or split is None or linear is None:
            faults.append(f"its {name} are not a linear map with a constant weight")
            break
        if maps and linear.x is not maps[0].x:
            faults.append(f"its {name} are not a linear map of the input of its queries")
        elif linear.weight.dtype.itemsize < 4:
            faults.append(f"it is in {linear.weight.dtype}, and the kernel in f32")
        elif linear.x.shape is None or len(linear.x.shape) != 3:
            faults.append("its input has not three axes")
        inner += [swap, split, linear.node, *({linear.product} - {linear.node})]
        heads.add(tuple(integers(split.inputs[1]) or ()))
        maps.append(linear)
    if len(heads) > 1 or any(len(one) != 4 or one[:2] != (0, 0) or one[2] < 1 for one in heads):
        faults.append("its queries, keys and values have not one fixed number of heads")
    if len({one.weight.shape for one in maps}) > 1:
        faults.append("its queries, keys and values have not one width")
    count = next(iter(heads))[2] if heads and not faults else 0
    return Projected(node, attention, tuple(inner), tuple(maps), count, *faults[:1])
