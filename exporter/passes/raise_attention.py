"""raise-attention: attention that a model spells by hand becomes BandAttention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir import dialect
from goldfold.exporter.ir.program import add_constant, insert_before, unique_name
from goldfold.exporter.passes.base import Equality, Log, Pass
from goldfold.exporter.passes.rewriting.masks import condition_of
from goldfold.exporter.passes.rewriting.pattern import (
    attribute,
    last_axis,
    producer,
    read_elsewhere,
    same_size,
)
from goldfold.exporter.passes.rewriting.spelt_attention import Spelt, collect
from goldfold.exporter.passes.rewriting.writer import Writer, take_over


@dataclass(frozen=True)
class RaiseAttention(Pass):
    """Softmax of a product, a bias and a mask, times values, becomes BandAttention with a bias.

    MPNet and T5 write their attention out, since it adds a bias for the distance of two tokens.
    What reads attention's masks and heads by their meaning can then read theirs, a target spells
    them as it spells others, and the bias stays one value for all layers. The pattern is a sum in
    any order: one summand is the product of queries and keys, one or more hide tokens, the rest is
    bias. What a mask hides follows from how it is computed (rewriting/masks.py), not from its name.

    holds:
        softmax(s q kᵀ + b + m) v = BandAttention(q, k, v, p, b) with the scale s, for m = 0 where
        p is true of a key and m ≤ −1e4 where it is not: a weight of e^(m + …) is 0

    needs:
        Each text has a real token, and scores with their bias differ by less than 3e4 − 745. The
        mask shows each real token to all, as q and k have the same tokens. Numbers of heads are
        fixed. Only the pattern itself reads the scores and the weights. The scale is kept as f32,
        at most 2^-24 of itself away.

    before: as MPNet spells it, the bias expanded to all texts
        f (float[B,T,2,8] x, float[B,2,T,8] v, bool[B,T] mask, float[1,2,T,T] bias)
            => (float[B,2,T,8] y)
        {
            gain = Constant <value_floats: floats = [1.0, 0.5, 2.0, 1.0, -1.0, 1.0, 3.0, 1.0]> ()
            n = RMSNormalization <axis: int = -1> (x, gain)
            q = Transpose <perm: ints = [0, 2, 1, 3]> (n)
            k = Transpose <perm: ints = [0, 2, 3, 1]> (n)
            product = MatMul(q, k)
            four = Constant <value_float: float = 4.0> ()
            scores = Div(product, four)
            b = Shape <start: int = 0, end: int = 1> (mask)
            t = Shape <start: int = 1, end: int = 2> (mask)
            heads = Constant <value_ints: ints = [2]> ()
            sizes = Concat <axis: int = 0> (b, heads, t, t)
            spread = Expand(bias, sizes)
            biased = Add(scores, spread)
            middle = Constant <value_ints: ints = [1, 2]> ()
            keys = Unsqueeze(mask, middle)
            zero = Constant <value_float: float = 0.0> ()
            lowest = Constant <value_float: float = -1e30> ()
            m = Where(keys, zero, lowest)
            masked = Add(biased, m)
            weights = Softmax <axis: int = -1> (masked)
            y = MatMul(weights, v)
        }

    after: as MPNet spells it, the bias expanded to all texts
        f (float[B,T,2,8] x, float[B,2,T,8] v, bool[B,T] mask, float[1,2,T,T] bias)
            => (float[B,2,T,8] y)
        {
            gain = Constant <value_floats: floats = [1.0, 0.5, 2.0, 1.0, -1.0, 1.0, 3.0, 1.0]> ()
            n = RMSNormalization <axis: int = -1> (x, gain)
            q = Transpose <perm: ints = [0, 2, 1, 3]> (n)
            k = Transpose <perm: ints = [0, 2, 1, 3]> (n)
            y = goldfold.BandAttention:biased
                <scale: float = 0.25, window: int = 0, causal: int = 0, softcap: float = 0.0>
                (q, k, v, mask, bias)
        }

    before: as T5 spells it, without a scale, its mask looked up by indices
        f (float[B,2,T,8] q, float[B,2,8,T] k, float[B,2,T,8] v, bool[B,T] padding,
           float[1,2,T,T] bias) => (float[B,2,T,8] y) <int64[T] tokens, int64[B] texts>
        {
            scores = MatMul(q, k)
            biased = Add(scores, bias)
            n = Shape <start: int = 1, end: int = 2> (padding)
            b = Shape <start: int = 0, end: int = 1> (padding)
            nn = Squeeze(n)
            bb = Squeeze(b)
            zero = Constant <value: tensor = int64 {0}> ()
            one = Constant <value: tensor = int64 {1}> ()
            tokens = Range(zero, nn, one)
            texts = Range(zero, bb, one)
            last = Constant <value_ints: ints = [-1]> ()
            behind = Constant <value_ints: ints = [1, 2, 3]> ()
            front = Constant <value_ints: ints = [0, 1, 2]> ()
            around = Constant <value_ints: ints = [0, 1, 3]> ()
            t4 = Unsqueeze(texts, behind)
            k4 = Unsqueeze(tokens, front)
            q4 = Unsqueeze(tokens, around)
            both = Max(t4, k4)
            sizes = Shape(both)
            ts = Expand(t4, sizes)
            ks = Expand(k4, sizes)
            t5 = Unsqueeze(ts, last)
            k5 = Unsqueeze(ks, last)
            pairs = Concat <axis: int = -1> (t5, k5)
            real = GatherND(padding, pairs)
            always = GreaterOrEqual(q4, zero)
            seen = And(always, real)
            nothing = Constant <value_float: float = 0.0> ()
            hidden = Constant <value_float: float = -30000.0> ()
            m = Where(seen, nothing, hidden)
            masked = Add(biased, m)
            weights = Softmax <axis: int = -1> (masked)
            y = MatMul(weights, v)
        }

    after: as T5 spells it, without a scale, its mask looked up by indices
        f (float[B,2,T,8] q, float[B,2,8,T] k, float[B,2,T,8] v, bool[B,T] padding,
           float[1,2,T,T] bias) => (float[B,2,T,8] y)
        {
            keys = Transpose <perm: ints = [0, 1, 3, 2]> (k)
            y = goldfold.BandAttention:biased
                <scale: float = 1.0, window: int = 0, causal: int = 0, softcap: float = 0.0>
                (q, keys, v, padding, bias)
        }

    before: hidden scores are replaced, two biases, of which one has no axis of texts
        f (float[B,2,T,8] q, float[B,2,8,T] k, float[B,2,T,8] v, bool[B,T] padding,
           float[2,T,T] near, float[1,1,T,T] far) => (float[B,2,T,8] y)
        {
            product = MatMul(q, k)
            half = Constant <value_float: float = 0.5> ()
            scores = Mul(half, product)
            one = Add(near, scores)
            two = Add(one, far)
            middle = Constant <value_ints: ints = [1, 2]> ()
            keys = Unsqueeze(padding, middle)
            none = Not(keys)
            nothing = Constant <value_float: float = 0.0> ()
            hidden = Constant <value_float: float = -30000.0> ()
            m = Where(none, hidden, nothing)
            masked = Add(m, two)
            weights = Softmax <axis: int = -1> (masked)
            y = MatMul(weights, v)
        }

    after: hidden scores are replaced, two biases, of which one has no axis of texts
        f (float[B,2,T,8] q, float[B,2,8,T] k, float[B,2,T,8] v, bool[B,T] padding,
           float[2,T,T] near, float[1,1,T,T] far) => (float[B,2,T,8] y)
        {
            first = Constant <value_ints: ints = [0]> ()
            ranked = Unsqueeze(near, first)
            bias = Add(ranked, far)
            keys = Transpose <perm: ints = [0, 1, 3, 2]> (k)
            y = goldfold.BandAttention:biased
                <scale: float = 0.5, window: int = 0, causal: int = 0, softcap: float = 0.0>
                (q, keys, v, padding, bias)
        }

    refuses: a mask with a window
        # says which tokens its mask hides does not follow from one mask of padding
        f (float[B,2,T,8] q, float[B,2,8,T] k, float[B,2,T,8] v, bool[B,T] padding, bool[T,T] near)
            => (float[B,2,T,8] y)
        {
            scores = MatMul(q, k)
            middle = Constant <value_ints: ints = [1, 2]> ()
            first = Constant <value_ints: ints = [0, 1]> ()
            keys = Unsqueeze(padding, middle)
            band = Unsqueeze(near, first)
            seen = And(keys, band)
            nothing = Constant <value_float: float = 0.0> ()
            hidden = Constant <value_float: float = -30000.0> ()
            m = Where(seen, nothing, hidden)
            masked = Add(scores, m)
            weights = Softmax <axis: int = -1> (masked)
            y = MatMul(weights, v)
        }

    refuses: no mask
        # says nothing hides its padding
        f (float[B,2,T,8] q, float[B,2,8,T] k, float[B,2,T,8] v, float[1,2,T,T] bias)
            => (float[B,2,T,8] y)
        {
            scores = MatMul(q, k)
            biased = Add(scores, bias)
            weights = Softmax <axis: int = -1> (biased)
            y = MatMul(weights, v)
        }

    refuses: keys of another text
        # says its queries and keys have other tokens
        f (float[B,2,T,8] q, float[B,2,8,S] k, float[B,2,S,8] v, bool[B,S] padding)
            => (float[B,2,T,8] y)
        {
            scores = MatMul(q, k)
            middle = Constant <value_ints: ints = [1, 2]> ()
            keys = Unsqueeze(padding, middle)
            nothing = Constant <value_float: float = 0.0> ()
            hidden = Constant <value_float: float = -30000.0> ()
            m = Where(keys, nothing, hidden)
            masked = Add(scores, m)
            weights = Softmax <axis: int = -1> (masked)
            y = MatMul(weights, v)
        }

    refuses: the weights are an output
        # says weights, inside the pattern, is an output of the graph
        f (float[B,2,T,8] q, float[B,2,8,T] k, float[B,2,T,8] v, bool[B,T] padding)
            => (float[B,2,T,8] y, float[B,2,T,T] weights)
        {
            scores = MatMul(q, k)
            middle = Constant <value_ints: ints = [1, 2]> ()
            keys = Unsqueeze(padding, middle)
            nothing = Constant <value_float: float = 0.0> ()
            hidden = Constant <value_float: float = -30000.0> ()
            m = Where(keys, nothing, hidden)
            masked = Add(scores, m)
            weights = Softmax <axis: int = -1> (masked)
            y = MatMul(weights, v)
        }

    ignores: a mixture whose weights are no products
        f (float[B,2,T,T] s, float[B,2,T,8] v) => (float[B,2,T,8] y)
        {
            weights = Softmax <axis: int = -1> (s)
            y = MatMul(weights, v)
        }
    """

    equality: ClassVar[Equality] = Equality.REAL

    def match(self, node: ir.Node) -> Spelt | None:
        softmax = producer(node.inputs[0], "Softmax") if node.op_type == "MatMul" else None
        if node.domain or softmax is None or not last_axis(attribute(softmax, "axis", -1), 4):
            return None
        spelt = Spelt(node, [softmax])
        collect(softmax.inputs[0], spelt)
        if not spelt.products:
            return None
        spelt.fault = _fault(spelt)
        return spelt

    def refuses(self, match: Spelt) -> str | None:
        return match.fault or read_elsewhere(match.inner, {*match.inner, match.node})

    def construct(self, match: Spelt, memo: dict) -> None:
        node, (product, scale) = match.node, match.products[0]
        emit = Writer(node, match.node.name or "attention")
        padding, bias = _boolean(match, memo), _bias(match, memo)
        k = _keys(product.inputs[1], emit)
        inputs = [product.inputs[0], k, node.inputs[1], padding]
        band = {"scale": float(scale), "window": 0, "causal": 0, "softcap": 0.0}
        made = ir.node(
            dialect.BAND_ATTENTION,
            [*inputs, *([] if bias is None else [bias])],
            band,
            domain=dialect.DOMAIN,
            overload="" if bias is None else dialect.BIASED,
        )
        value = made.outputs[0]
        assert node.graph is not None
        value.name = made.name = unique_name(node.graph, f"{node.name}.BandAttention")
        insert_before(node, [made])
        take_over(node.outputs[0], value)

    def rewrite(self, model: ir.Model, log: Log | None = None) -> Log:
        log = super().rewrite(model, log)
        if log.applied:
            dialect.define(model)
        return log


def _fault(spelt: Spelt) -> str:
    """The reason why it is no BandAttention, or ""; finds the padding."""
    if spelt.fault:
        return spelt.fault
    if len(spelt.products) > 1:
        return "its scores are the sum of two products"
    product = spelt.products[0][0]
    q, k, v, y = *product.inputs, spelt.node.inputs[1], spelt.node.outputs[0]
    assert q is not None and k is not None and q.shape is not None and k.shape is not None
    if v is None or v.shape is None or len(v.shape) != 4 or y.shape is None:
        return "the shape of its values is not known"
    if not isinstance(q.shape[1], int) or not q.shape[1] == k.shape[1] == v.shape[1]:
        return f"its heads are {q.shape[1]}, {k.shape[1]}, {v.shape[1]}, not one fixed number"
    if not (same_size(q.shape[2], k.shape[3]) and same_size(q.shape[2], v.shape[2])):
        return "its queries and keys have other tokens"
    if not same_size(q.shape[3], v.shape[3]):
        return f"its queries are {q.shape[3]} wide, its values {v.shape[3]}"
    if not spelt.masks:
        return "nothing hides its padding"
    spelt.padding = _padding(spelt, q.shape)
    if spelt.padding is None:
        return "which tokens its mask hides does not follow from one mask of padding"
    for bias in spelt.biases:
        if not _is_bias(bias, q.shape):
            return f"its summand {bias.name} has shape {bias.shape}, no row a token"
    return ""


def _padding(spelt: Spelt, q: ir.Shape) -> ir.Value | None:
    """[batch, tokens] that all masks read, by key."""
    sources = set()
    for given, hides in spelt.masks:
        negation = producer(given, "Not") if hides else None
        if hides and negation is None:
            return None
        found = condition_of(given if negation is None else negation.inputs[0])
        if found is None or found.rank != 4:
            return None
        if any(atom.axes != (0, 3) for atom in found.atoms):
            return None
        sources |= {atom.source for atom in found.atoms}
    if len(sources) != 1:
        return None
    (source,) = sources
    assert source.shape is not None
    texts, tokens = source.shape
    return source if same_size(texts, q[0]) and same_size(tokens, q[2]) else None


def _is_bias(bias: ir.Value, q: ir.Shape) -> bool:
    """Whether a summand has a number for each pair of tokens, of one text or each, of one head or
    each."""
    shape = bias.shape
    if shape is None or not 2 <= len(shape) <= 4 or bias.dtype is None:
        return False
    sizes = [1] * (4 - len(shape)) + [*shape]
    texts = sizes[0] == 1 or same_size(sizes[0], q[0])
    tokens = all(same_size(size, q[2]) for size in sizes[2:])
    return texts and tokens and sizes[1] in (1, q[1])


def _boolean(spelt: Spelt, memo: dict) -> ir.Value:
    """The padding as booleans, once for all layers."""
    padding = spelt.padding
    assert padding is not None
    if padding.dtype == ir.DataType.BOOL:
        return padding
    cast = producer(padding, "Cast")
    source = cast.inputs[0] if cast is not None else None
    if source is not None and source.dtype == ir.DataType.BOOL:
        return source
    if padding not in memo:
        kind = ir.DataType.BOOL
        memo[padding] = Writer(spelt.node, "attention", "attention")(
            "Cast", padding, name="padding", type=ir.TensorType(kind), shape=padding.shape,
            to=kind.value,
        )  # fmt: skip
    return memo[padding]


def _bias(spelt: Spelt, memo: dict) -> ir.Value | None:
    """The sum of the biases, of rank 4, once for all layers."""
    key = tuple(spelt.biases)
    if not key or key in memo:
        return memo.get(key)
    emit = Writer(spelt.node, "attention", "attention")
    product = spelt.products[0][0].outputs[0]
    whole = [None, *(product.shape or (None,) * 4)[1:]]
    ranked = []
    for bias in spelt.biases:
        rank = len(bias.shape or ())
        if rank < 4:
            axes = np.arange(4 - rank, dtype=np.int64)
            given = add_constant(emit.graph, "attention.bias_axes", axes)
            shape = [1] * (4 - rank) + [*(bias.shape or ())]
            bias = emit("Unsqueeze", bias, given, name="bias", type=bias.type, shape=shape)
        ranked.append(bias)
    memo[key] = ranked[0]
    for bias in ranked[1:]:
        memo[key] = emit("Add", memo[key], bias, name="bias", type=bias.type, shape=whole)
    return memo[key]


def _keys(transposed: ir.Value | None, emit: Writer) -> ir.Value:
    """Keys [batch, heads, tokens, width], from what the product reads."""
    assert transposed is not None and transposed.shape is not None
    source, perm = transposed, [0, 1, 3, 2]
    turn = producer(transposed, "Transpose")
    if turn is not None and turn.inputs[0] is not None:
        first = [*attribute(turn, "perm", (3, 2, 1, 0))]
        source, perm = turn.inputs[0], [first[axis] for axis in perm]
    if perm == [0, 1, 2, 3]:
        return source
    shape = [transposed.shape[axis] for axis in (0, 1, 3, 2)]
    return emit("Transpose", source, name="keys", type=transposed.type, shape=shape, perm=perm)
