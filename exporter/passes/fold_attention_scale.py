"""fold-attention-scale: the factor of the scores moves to the producer of the queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir import dialect
from goldfold.exporter.ir.program import add_constant, constant, where
from goldfold.exporter.passes.base import Equality, Pass
from goldfold.exporter.passes.rewriting.columns import columns, moves
from goldfold.exporter.passes.rewriting.linear import Linear, linear_ending_at, write_linear


@dataclass
class Scaled:
    node: ir.Node
    scale: float
    maker: Linear | ir.Node | None = None
    """The linear map, or the norm, that takes the factor."""
    part: frozenset[int] | None = None
    """The columns of a fused linear map that make the queries; None if all do."""
    fault: str | None = None


@dataclass(frozen=True)
class FoldAttentionScale(Pass):
    """The scale of an attention's scores moves into the weights, or the norm's gain, behind its
    queries.

    Each layer has one multiplication less, and the factor is rounded once, with the weight, where a
    compiler that folds it later rounds in half precision. Where one linear map makes queries, keys
    and values, the factor goes into the columns of the queries alone.

    holds:
        softmax(s (x W + b) kᵀ + m) v = softmax((x (s W) + s b) kᵀ + m) v
        softmax(s (n(x) · g) kᵀ + m) v = softmax((n(x) · (s g)) kᵀ + m) v

    needs:
        only the attention reads the queries and the values between them and the linear map or norm
        that makes them, except for sizes and for other columns; the ops between move values, or
        rotate them

    before:
        f (float[B,T,8] x, float[8,8] w, float[8] b, float[B,1,T,8] k, float[B,1,T,8] v,
           bool[B,T] padding) => (float[B,1,T,8] y)
        {
            p = MatMul(x, w)
            a = Add(p, b)
            axis = Constant <value_ints: ints = [1]> ()
            q = Unsqueeze(a, axis)
            y = goldfold.BandAttention
                <scale: float = 0.25, window: int = 3, causal: int = 0, softcap: float = 0.0>
                (q, k, v, padding)
        }

    after:
        f (float[B,T,8] x, float[8,8] w, float[8] b, float[B,1,T,8] k, float[B,1,T,8] v,
           bool[B,T] padding) => (float[B,1,T,8] y)
        {
            p = MatMul(x, w)
            a = Add(p, b)
            axis = Constant <value_ints: ints = [1]> ()
            q = Unsqueeze(a, axis)
            y = goldfold.BandAttention
                <scale: float = 1.0, window: int = 3, causal: int = 0, softcap: float = 0.0>
                (q, k, v, padding)
        }

    before: queries that are normed
        f (float[B,1,T,8] x, float[8] g, float[B,1,T,8] k, float[B,1,T,8] v, bool[B,T] padding)
            => (float[B,1,T,8] y)
        {
            q = RMSNormalization <axis: int = -1, epsilon: float = 1e-6> (x, g)
            y = goldfold.BandAttention
                <scale: float = 0.5, window: int = 0, causal: int = 1, softcap: float = 5.0>
                (q, k, v, padding)
        }

    after: queries that are normed
        f (float[B,1,T,8] x, float[8] g, float[B,1,T,8] k, float[B,1,T,8] v, bool[B,T] padding)
            => (float[B,1,T,8] y)
        {
            q = RMSNormalization <axis: int = -1, epsilon: float = 1e-6> (x, g)
            y = goldfold.BandAttention
                <scale: float = 1.0, window: int = 0, causal: int = 1, softcap: float = 5.0>
                (q, k, v, padding)
        }

    before: one map for queries, keys and values
        f (float[B,T,8] x, float[8,24] w, float[24] b, bool[B,T] padding) => (float[B,2,T,4] y)
        {
            p = MatMul(x, w)
            a = Add(p, b)
            q, k, v = Split <axis: int = -1, num_outputs: int = 3> (a)
            heads = Constant <value_ints: ints = [0, 0, 2, 4]> ()
            q4 = Reshape(q, heads)
            k4 = Reshape(k, heads)
            v4 = Reshape(v, heads)
            qt = Transpose <perm: ints = [0, 2, 1, 3]> (q4)
            kt = Transpose <perm: ints = [0, 2, 1, 3]> (k4)
            vt = Transpose <perm: ints = [0, 2, 1, 3]> (v4)
            y = goldfold.BandAttention
                <scale: float = 0.5, window: int = 0, causal: int = 0, softcap: float = 0.0>
                (qt, kt, vt, padding)
        }

    after: one map for queries, keys and values
        f (float[B,T,8] x, float[8,24] w, float[24] b, bool[B,T] padding) => (float[B,2,T,4] y)
        {
            p = MatMul(x, w)
            a = Add(p, b)
            q, k, v = Split <axis: int = -1, num_outputs: int = 3> (a)
            heads = Constant <value_ints: ints = [0, 0, 2, 4]> ()
            q4 = Reshape(q, heads)
            k4 = Reshape(k, heads)
            v4 = Reshape(v, heads)
            qt = Transpose <perm: ints = [0, 2, 1, 3]> (q4)
            kt = Transpose <perm: ints = [0, 2, 1, 3]> (k4)
            vt = Transpose <perm: ints = [0, 2, 1, 3]> (v4)
            y = goldfold.BandAttention
                <scale: float = 1.0, window: int = 0, causal: int = 0, softcap: float = 0.0>
                (qt, kt, vt, padding)
        }

    refuses: the queries are the keys, too
        # says q has another reader
        f (float[B,1,T,8] x, float[8] g, float[B,1,T,8] v, bool[B,T] padding)
            => (float[B,1,T,8] y)
        {
            q = RMSNormalization <axis: int = -1, epsilon: float = 1e-6> (x, g)
            y = goldfold.BandAttention
                <scale: float = 0.5, window: int = 0, causal: int = 0, softcap: float = 0.0>
                (q, q, v, padding)
        }

    refuses: columns of the queries are read elsewhere
        # says z has columns of the queries, too
        f (float[B,T,8] x, float[8,24] w, bool[B,T] padding) => (float[B,1,T,8] y, float[B,T,6] z)
        {
            p = MatMul(x, w)
            q, k, v = Split <axis: int = -1, num_outputs: int = 3> (p)
            start = Constant <value_ints: ints = [4]> ()
            end = Constant <value_ints: ints = [10]> ()
            last = Constant <value_ints: ints = [2]> ()
            z = Slice(p, start, end, last)
            axis = Constant <value_ints: ints = [1]> ()
            q1 = Unsqueeze(q, axis)
            k1 = Unsqueeze(k, axis)
            v1 = Unsqueeze(v, axis)
            y = goldfold.BandAttention
                <scale: float = 0.5, window: int = 0, causal: int = 0, softcap: float = 0.0>
                (q1, k1, v1, padding)
        }

    refuses: queries that no linear map makes
        # says its queries come from Tanh (Tanh), no linear map
        f (float[B,1,T,8] x, float[B,1,T,8] k, float[B,1,T,8] v, bool[B,T] padding)
            => (float[B,1,T,8] y)
        {
            q = Tanh(x)
            y = goldfold.BandAttention
                <scale: float = 0.5, window: int = 0, causal: int = 0, softcap: float = 0.0>
                (q, k, v, padding)
        }
    """

    equality: ClassVar[Equality] = Equality.REAL

    def match(self, node: ir.Node) -> Scaled | None:
        if not dialect.is_band_attention(node):
            return None
        found = Scaled(node, dialect.Band.of(node).scale)
        if found.scale == 1.0:
            return None
        value, beside = node.inputs[0], []
        while value is not None:
            readers = [n for n, _ in value.uses() if n.op_type != "Shape"]
            parts = all(n.op_type in dialect.PARTS and moves(n) for n in readers)
            if value.is_graph_output() or not (len(readers) == 1 or (readers and parts)):
                found.fault = f"{value.name} has another reader"
                return found
            # Other values here must come from other columns: checked once the columns are known.
            beside += [v for n in readers if parts for v in n.outputs]
            producer = value.producer()
            if producer is None:
                found.fault = "its queries are an input of the graph"
                return found
            found.maker = linear_ending_at(producer) or _norm(producer)
            if found.maker is not None:
                return _in_part(found, beside) if beside else found
            if not moves(producer):
                op = dialect.op_of(producer)
                found.fault = f"its queries come from {where(producer)} ({op}), no linear map"
                return found
            value = producer.inputs[0]
        return found

    def refuses(self, match: Scaled) -> str | None:
        return match.fault

    def construct(self, match: Scaled, memo: dict) -> None:
        maker = match.maker
        assert maker is not None
        if isinstance(maker, Linear):
            scale = np.full(maker.weight.shape[1], match.scale)
            if match.part is not None:
                scale = np.where(np.isin(np.arange(len(scale)), list(match.part)), scale, 1.0)
            bias = None if maker.bias is None else _times(maker.bias, scale)
            weight = _times(maker.weight, scale)
            write_linear(maker, maker.x, weight, bias, where(maker.product))
        else:
            for index in range(1, len(maker.inputs)):
                old = maker.inputs[index]
                array = constant(old)
                if old is None or array is None or maker.graph is None:
                    continue
                scaled = _times(array, match.scale)
                wish = f"{old.name}.scaled"
                maker.replace_input_with(index, add_constant(maker.graph, wish, scaled))
        match.node.attributes["scale"] = ir.AttrFloat32("scale", 1.0)


def _in_part(found: Scaled, beside: list[ir.Value]) -> Scaled:
    """`found` with the columns that make its queries. The values `beside` them must come from other
    columns."""
    queries, maker = found.node.inputs[0], found.maker
    if not isinstance(maker, Linear) or queries is None:
        found.fault = "its queries are a part of what no linear map makes"
        return found
    found.part = columns(queries, maker.output)
    if found.part is None:
        found.fault = f"which columns of {where(maker.product)} make its queries is not known"
        return found
    for value in beside:
        if not _leads(value, queries):
            others = columns(value, maker.output)
            if others is None or others & found.part:
                found.fault = f"{value.name} has columns of the queries, too"
                return found
    return found


def _leads(value: ir.Value, to: ir.Value) -> bool:
    """Whether movers lead from `value` to `to`."""
    while to is not value:
        node = to.producer()
        if node is None or not moves(node) or node.inputs[0] is None:
            return False
        to = node.inputs[0]
    return True


def _times(array: np.ndarray, scale: float | np.ndarray) -> np.ndarray:
    """s·a, formed in f64 and rounded once."""
    return (array.astype(np.float64) * scale).astype(array.dtype)


def _norm(node: ir.Node) -> ir.Node | None:
    """`node` if it is a norm whose gain and shift are constants."""
    if dialect.op_of(node) not in dialect.NORMS:
        return None
    given = [value for value in node.inputs[1:] if value is not None]
    return node if given and all(constant(value) is not None for value in given) else None
