"""merge-parallel-matmuls: maps that read the same value are one map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir.program import add_constant, constant, where
from goldfold.exporter.passes.base import Equality, Pass
from goldfold.exporter.passes.rewriting.attention import serves_attention
from goldfold.exporter.passes.rewriting.linear import Linear, bias_add, linear_ending_at
from goldfold.exporter.passes.rewriting.pattern import producer
from goldfold.exporter.passes.rewriting.writer import Writer, emit, take_over


@dataclass(frozen=True)
class Parallel:
    x: ir.Value
    products: tuple[ir.Node, ...]
    """The MatMuls that read x, in the graph's order; their weights are constants, or quantized."""


@dataclass(frozen=True)
class MergeParallelMatmuls(Pass):
    """Linear maps that read the same value become one, whose columns are all of theirs, and a
    Split: q, k and v, or gate and up.

    No target's tail holds it: it does not pay. One product reads x once, but the Split copies what
    it made, which costs the more the more tokens there are. EmbeddingGemma-300M, q/k/v, gate and up
    merged, against neither, in processor time of one thread, at 1 × 16, 1 × 128, 8 × 128, 1 × 512
    and 32 × 64 tokens (benchmarks/merge_matmuls.py): OpenVINO bf16 1.02, 1.03, 1.05, 1.06, 1.03,
    f32 1.01, 1.05, 0.94, 1.00, 1.01; ONNX Runtime f32 0.94, 0.98, 1.00, 0.91, 1.01. What either
    pair alone gains in one row, 0.85 at best, does not hold in the next.

    The concatenated weights are a copy in memory, where they may have been mapped from a file
    (0.26 GB for that model in f32); each is made once, and the old ones go at the sweep's end.

    holds:
        x [W | V] + [b | c] = [x W + b | x V + c]; a map without a bias has one of zeros

    needs:
        constant weights; nobody else reads them, or they would be stored twice. Real, not exact:
        how a matrix product adds up depends on its width.

    before:
        f (float[B,T,6] x, float[6,4] w, float[6,2] v, float[6,2] u)
            => (float[B,T,4] q, float[B,T,2] k, float[B,T,2] y)
        {
            q = MatMul(x, w)
            k = MatMul(x, v)
            t = MatMul(x, u)
            y = Relu(t)
        }

    after:
        f (float[B,T,6] x, float[6,8] w) => (float[B,T,4] q, float[B,T,2] k, float[B,T,2] y)
        {
            sizes = Constant <value_ints: ints = [4, 2, 2]> ()
            all = MatMul(x, w)
            q, k, t = Split <axis: int = -1> (all, sizes)
            y = Relu(t)
        }

    before: with biases, where they are
        f (float[B,6] x, float[6,3] w, float[3] b, float[6,2] v) => (float[B,3] y, float[B,2] z)
        {
            p = MatMul(x, w)
            z = MatMul(x, v)
            y = Add(b, p)
        }

    after: with biases, where they are
        f (float[B,6] x, float[6,5] w, float[5] b) => (float[B,3] y, float[B,2] z)
        {
            sizes = Constant <value_ints: ints = [3, 2]> ()
            p = MatMul(x, w)
            all = Add(p, b)
            y, z = Split <axis: int = -1> (all, sizes)
        }

    before: layers that share their weights share the merged ones
        f (float[B,6] x, float[6,3] w, float[6,3] v) => (float[B,3] y)
        {
            p = MatMul(x, w)
            q = MatMul(x, v)
            pq = Concat <axis: int = -1> (p, q)
            r = MatMul(pq, w)
            s = MatMul(pq, v)
            y = Add(r, s)
        }

    after: layers that share their weights share the merged ones
        f (float[B,6] x, float[6,6] w) => (float[B,3] y)
        {
            sizes = Constant <value_ints: ints = [3, 3]> ()
            one = MatMul(x, w)
            p, q = Split <axis: int = -1> (one, sizes)
            pq = Concat <axis: int = -1> (p, q)
            two = MatMul(pq, w)
            r, s = Split <axis: int = -1> (two, sizes)
            y = Add(r, s)
        }

    options: attention's operands alone
        part: attention

    before: attention's operands alone
        f (float[B,T,4] x, float[B,T,4] h, float[4,8] w, float[4,4] v, float[4,6] u, float[4,6] g,
           bool[B,T] padding) => (float[B,2,T,4] y, float[B,T,6] z)
        {
            q = MatMul(x, w)
            k = MatMul(x, v)
            hq = Constant <value_ints: ints = [0, 0, 2, 4]> ()
            hk = Constant <value_ints: ints = [0, 0, 1, 4]> ()
            q4 = Reshape(q, hq)
            k4 = Reshape(k, hk)
            qh = Transpose <perm: ints = [0, 2, 1, 3]> (q4)
            kh = Transpose <perm: ints = [0, 2, 1, 3]> (k4)
            y = goldfold.BandAttention
                <scale: float = 0.5, window: int = 0, causal: int = 0, softcap: float = 0.0>
                (qh, kh, kh, padding)
            a = MatMul(h, u)
            b = MatMul(h, g)
            z = Mul(a, b)
        }

    after: attention's operands alone
        f (float[B,T,4] x, float[B,T,4] h, float[4,12] w, float[4,6] u, float[4,6] g,
           bool[B,T] padding) => (float[B,2,T,4] y, float[B,T,6] z)
        {
            sizes = Constant <value_ints: ints = [8, 4]> ()
            all = MatMul(x, w)
            q, k = Split <axis: int = -1> (all, sizes)
            hq = Constant <value_ints: ints = [0, 0, 2, 4]> ()
            hk = Constant <value_ints: ints = [0, 0, 1, 4]> ()
            q4 = Reshape(q, hq)
            k4 = Reshape(k, hk)
            qh = Transpose <perm: ints = [0, 2, 1, 3]> (q4)
            kh = Transpose <perm: ints = [0, 2, 1, 3]> (k4)
            y = goldfold.BandAttention
                <scale: float = 0.5, window: int = 0, causal: int = 0, softcap: float = 0.0>
                (qh, kh, kh, padding)
            a = MatMul(h, u)
            b = MatMul(h, g)
            z = Mul(a, b)
        }

    refuses: a weight is quantized
        # says the weight d is quantized
        f (float[B,6] x, int8[6,3] w, float[3] s, float[6,3] v) => (float[B,3] y, float[B,3] z)
        {
            d = DequantizeLinear <axis: int = 1> (w, s)
            y = MatMul(x, d)
            z = MatMul(x, v)
        }

    refuses: a table is a weight as well
        # says Gather (Gather) also reads the weight w
        f (int64[B,T] ids, float[B,T,3] x, float[3,3] w, float[3,3] v)
            => (float[B,T,3] y, float[B,T,3] z, float[B,T,3] e)
        {
            y = MatMul(x, w)
            z = MatMul(x, v)
            e = Gather(w, ids)
        }
    """

    equality: ClassVar[Equality] = Equality.REAL
    part: Literal["all", "attention", "rest"] = "all"
    """"attention", for maps of what attention's operands are made of; "rest", for others."""

    def match(self, node: ir.Node) -> Parallel | None:
        if node.op_type != "MatMul" or node.domain or node.graph is None:
            return None
        x = node.inputs[0]
        products = _products(x, node.graph)
        if x is None or len(products) < 2 or products[0] is not node or not self._takes(products):
            return None
        return Parallel(x, products)

    def refuses(self, match: Parallel) -> str | None:
        weights = [product.inputs[1] for product in match.products]
        for value in weights:
            assert value is not None and match.products[0].graph is not None
            if constant(value) is None:
                return f"the weight {value.name} is quantized"
            for reader, index in value.uses():
                others = _products(reader.inputs[0], reader.graph) if index == 1 else ()
                if [product.inputs[1] for product in others] != weights:
                    return f"{where(reader)} ({reader.op_type}) also reads the weight {value.name}"
        return None

    def construct(self, match: Parallel, memo: dict) -> None:
        first, x = match.products[0], match.x
        graph = first.graph
        assert graph is not None
        maps = [one for p in match.products if (one := linear_ending_at(bias_add(p) or p))]
        widths = [one.weight.shape[1] for one in maps]
        like, place = maps[0].output, where(first)
        shape = None if like.shape is None else [*list(like.shape)[:-1], sum(widths)]
        weight = _columns(maps, memo, graph, place)
        value = emit(first, "MatMul", [x, weight], f"{place}.merged", like, shape)
        bias = _biases(maps, memo, graph, place)
        if bias is not None:
            value = emit(first, "Add", [value, bias], f"{place}.biased", like, shape)
        sizes = _once(memo, graph, f"{place}.widths", np.array(widths, dtype=np.int64))
        into = [f"{one.output.name}.part" for one in maps]
        parts = Writer(first).parts(
            "Split", value, sizes, name=f"{value.name}.split", into=into, axis=-1
        )
        for one, part in zip(maps, parts, strict=True):
            take_over(one.output, part)
            if one.product is not one.node:
                graph.remove(one.product, safe=True)

    def _takes(self, products: tuple[ir.Node, ...]) -> bool:
        # Any, not all: what asks for the shape of one of them says nothing about the others.
        return self.part == "all" or any(map(serves_attention, products)) == (
            self.part == "attention"
        )


def _products(x: ir.Value | None, graph: ir.Graph | None) -> tuple[ir.Node, ...]:
    """The MatMuls of x by a weight, in the graph's order."""
    found = {n for n, index in x.uses() if index == 0 and _is_weight(n)} if x is not None else set()
    return tuple(n for n in graph or () if n in found) if len(found) > 1 else tuple(found)


def _is_weight(product: ir.Node) -> bool:
    """Whether this multiplies by a matrix that no text changes."""
    if product.op_type != "MatMul" or product.domain:
        return False
    value = product.inputs[1]
    array = constant(value)
    if array is None:
        return producer(value, "DequantizeLinear") is not None
    return array.ndim == 2


def _columns(maps: list[Linear], memo: dict, graph: ir.Graph, place: str) -> ir.Value:
    """[W | V | …], the same value for the same weights."""
    key = tuple(one.product.inputs[1] for one in maps)
    if key not in memo:
        columns = np.concatenate([one.weight for one in maps], axis=1)
        memo[key] = add_constant(graph, f"{place}.columns", columns)
    return memo[key]


def _biases(maps: list[Linear], memo: dict, graph: ir.Graph, place: str) -> ir.Value | None:
    """[b | c | …], with zeros for a map without a bias; None if none has one."""
    if all(one.bias is None for one in maps):
        return None
    kind = maps[0].weight.dtype
    parts = [np.zeros(one.weight.shape[1], kind) if one.bias is None else one.bias for one in maps]
    return _once(memo, graph, f"{place}.biases", np.concatenate(parts))


def _once(memo: dict, graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    key = (array.dtype.str, array.tobytes())
    if key not in memo:
        memo[key] = add_constant(graph, name, array)
    return memo[key]
