"""sink-linear-past-mean: a linear op runs once per text instead of once per token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir.program import add_constant, constant
from goldfold.exporter.passes.base import Equality, Pass
from goldfold.exporter.passes.rewriting.linear import Linear, linear_ending_at, scale_input
from goldfold.exporter.passes.rewriting.pattern import gain_of, producer
from goldfold.exporter.passes.rewriting.writer import append, swap_names


@dataclass(frozen=True)
class Mean:
    """Σ_t [m_t] y_t / count, and the producer of y."""

    node: ir.Node
    """The division."""
    total: ir.Node
    """ReduceSum over tokens."""
    select: ir.Node
    """Where(mask, y, 0)."""
    weights_sum_to_one: bool
    linear: Linear | None
    """y = x W + b, if a linear map is the producer of y."""
    norm: ir.Node | None
    """The norm whose gain (and shift) makes y, if a norm is the producer."""


@dataclass(frozen=True)
class SinkLinearPastMean(Pass):
    """A linear map, or a norm's gain, just before mean pooling moves behind it.

    The map then works on one vector per text instead of one per token, and joins the dense layers
    there: with fuse-identity-dense, EmbeddingGemma's gain · mean · 768→3072→768 becomes one 768×768
    matrix.

    holds:
        Σ a_t (x_t W + b) = (Σ a_t x_t) W + b, where the weights a_t sum to one;
        Σ a_t (n_t · g) = (Σ a_t n_t) · g, whatever the a_t sum to

    needs:
        only the pooling reads the moved op's result. A bias moves only behind a true mean: the
        divisor is the number of selected tokens (at least one, as the contract promises). The
        weight is constant.

    before: a norm's gain meets a dense layer
        f (float[B,T,6] x, bool[B,T] mask, float[6] g, float[6,4] w) => (float[B,4] y)
        {
            n = RMSNormalization <axis: int = -1, epsilon: float = 1e-6> (x, g)
            last = Constant <value_ints: ints = [-1]> ()
            tokens = Constant <value_ints: ints = [1]> ()
            zero = Constant <value_float: float = 0.0> ()
            one = Constant <value_float: float = 1.0> ()
            m = Unsqueeze(mask, last)
            s = Where(m, n, zero)
            t = ReduceSum <keepdims: int = 0> (s, tokens)
            f = Cast <to: int = 1> (mask)
            c = ReduceSum <keepdims: int = 1> (f, tokens)
            d = Clip(c, one)
            p = Div(t, d)
            y = Gemm(p, w)
        }

    after: a norm's gain meets a dense layer
        f (float[B,T,6] x, bool[B,T] mask, float[6] ones, float[6,4] w) => (float[B,4] y)
        {
            n = RMSNormalization <axis: int = -1, epsilon: float = 1e-6> (x, ones)
            last = Constant <value_ints: ints = [-1]> ()
            tokens = Constant <value_ints: ints = [1]> ()
            zero = Constant <value_float: float = 0.0> ()
            one = Constant <value_float: float = 1.0> ()
            m = Unsqueeze(mask, last)
            s = Where(m, n, zero)
            t = ReduceSum <keepdims: int = 0> (s, tokens)
            f = Cast <to: int = 1> (mask)
            c = ReduceSum <keepdims: int = 1> (f, tokens)
            d = Clip(c, one)
            p = Div(t, d)
            y = Gemm(p, w)
        }

    before: a linear map a token
        f (float[B,T,4] x, bool[B,T] mask, float[4,6] w, float[6] b) => (float[B,6] y)
        {
            h = MatMul(x, w)
            n = Add(h, b)
            last = Constant <value_ints: ints = [-1]> ()
            tokens = Constant <value_ints: ints = [1]> ()
            zero = Constant <value_float: float = 0.0> ()
            one = Constant <value_float: float = 1.0> ()
            m = Unsqueeze(mask, last)
            s = Where(m, n, zero)
            t = ReduceSum <keepdims: int = 0> (s, tokens)
            f = Cast <to: int = 1> (mask)
            c = ReduceSum <keepdims: int = 1> (f, tokens)
            d = Clip(c, one)
            y = Div(t, d)
        }

    after: a linear map a token
        f (float[B,T,4] x, bool[B,T] mask, float[4,6] w, float[6] b) => (float[B,6] y)
        {
            last = Constant <value_ints: ints = [-1]> ()
            tokens = Constant <value_ints: ints = [1]> ()
            zero = Constant <value_float: float = 0.0> ()
            one = Constant <value_float: float = 1.0> ()
            m = Unsqueeze(mask, last)
            s = Where(m, x, zero)
            t = ReduceSum <keepdims: int = 0> (s, tokens)
            f = Cast <to: int = 1> (mask)
            c = ReduceSum <keepdims: int = 1> (f, tokens)
            d = Clip(c, one)
            p = Div(t, d)
            h = MatMul(p, w)
            y = Add(h, b)
        }

    refuses: the bias would be weighted
        # says its bias would be weighted: the divisor is not the number of selected tokens
        f (float[B,T,4] x, bool[B,T] mask, float[4,6] w, float[6] b) => (float[B,6] y)
        {
            h = MatMul(x, w)
            n = Add(h, b)
            last = Constant <value_ints: ints = [-1]> ()
            tokens = Constant <value_ints: ints = [1]> ()
            zero = Constant <value_float: float = 0.0> ()
            one = Constant <value_float: float = 1.0> ()
            m = Unsqueeze(mask, last)
            s = Where(m, n, zero)
            t = ReduceSum <keepdims: int = 0> (s, tokens)
            f = Cast <to: int = 1> (mask)
            c = ReduceSum <keepdims: int = 1> (f, tokens)
            d = Clip(c, one)
            r = Sqrt(d)
            y = Div(t, r)
        }

    refuses: something else reads the tokens' vectors
        # says n is read by more than the pooling
        f (float[B,T,4] x, bool[B,T] mask, float[4,6] w) => (float[B,6] y, float[B,T,6] n)
        {
            n = MatMul(x, w)
            last = Constant <value_ints: ints = [-1]> ()
            tokens = Constant <value_ints: ints = [1]> ()
            zero = Constant <value_float: float = 0.0> ()
            one = Constant <value_float: float = 1.0> ()
            m = Unsqueeze(mask, last)
            s = Where(m, n, zero)
            t = ReduceSum <keepdims: int = 0> (s, tokens)
            f = Cast <to: int = 1> (mask)
            c = ReduceSum <keepdims: int = 1> (f, tokens)
            d = Clip(c, one)
            y = Div(t, d)
        }
    """

    equality: ClassVar[Equality] = Equality.REAL

    def match(self, node: ir.Node) -> Mean | None:
        if node.op_type != "Div" or node.domain:
            return None
        total = producer(node.inputs[0], "ReduceSum")
        select = producer(total.inputs[0], "Where") if total is not None else None
        if total is None or select is None or not _over_tokens(total, keepdims=False):
            return None
        zero = constant(select.inputs[2])
        if zero is None or zero.any():
            return None
        made_by = select.inputs[1].producer() if select.inputs[1] is not None else None
        linear = linear_ending_at(made_by)
        norm = made_by if made_by is not None and gain_of(made_by) is not None else None
        if linear is None and norm is None:
            return None
        counts = _counts(node.inputs[1], select.inputs[0])
        return Mean(node, total, select, counts, linear, norm)

    def refuses(self, match: Mean) -> str | None:
        moved = match.select.inputs[1]
        for value in (moved, match.select.outputs[0], match.total.outputs[0]):
            assert value is not None
            if value.is_graph_output() or len(value.uses()) != 1:
                return f"{value.name} is read by more than the pooling"
        biased = match.linear.bias is not None if match.linear else len(match.norm.inputs) > 2  # type: ignore
        if biased and not match.weights_sum_to_one:
            return "its bias would be weighted: the divisor is not the number of selected tokens"
        if match.norm is not None and constant(match.norm.inputs[1]).ndim != 1:  # type: ignore
            return "its gain is not one number a channel"
        return None

    def construct(self, match: Mean, memo: dict) -> None:
        if match.linear is not None:
            self._sink_linear(match, match.linear)
        else:
            self._sink_gain(match, memo)

    def _sink_linear(self, match: Mean, linear: Linear) -> None:
        graph, pooled = match.node.graph, match.node.outputs[0]
        assert graph is not None and pooled.name is not None
        match.select.replace_input_with(1, linear.x)
        match.select.outputs[0].shape = linear.x.shape
        width = linear.weight.shape[0]
        # (Σ a x) W + b
        weight = linear.product.inputs[1]
        assert weight is not None
        name = pooled.name
        bias = None
        if linear.bias is not None:
            bias = add_constant(graph, f"{name}.bias", linear.bias)
        end = append(pooled, "MatMul", weight, name=f"{name}.sunk")
        if bias is not None:
            end = append(end, "Add", bias, name=f"{name}.biased")
        swap_names(pooled, end, f"{name}.mean")
        pooled.shape = ir.Shape([pooled.shape[0], width]) if pooled.shape is not None else None
        match.total.outputs[0].shape = pooled.shape

    def _sink_gain(self, match: Mean, memo: dict) -> None:
        norm, graph, pooled = match.norm, match.node.graph, match.node.outputs[0]
        assert norm is not None and graph is not None
        gain = constant(norm.inputs[1])
        shift = constant(norm.inputs[2]) if len(norm.inputs) > 2 else None
        assert gain is not None
        key = ("ones", gain.size, gain.dtype)
        if key not in memo:
            memo[key] = add_constant(graph, f"ones_{gain.size}", np.ones_like(gain))
        norm.replace_input_with(1, memo[key])
        if shift is not None:
            norm.resize_inputs(2)
        readers = [linear_ending_at(node) for node, _ in pooled.uses()]
        if readers and all(r is not None and r.x is pooled for r in readers):
            # (p · g + c) W + b = p (diag(g) W) + (c W + b)
            for reader in readers:
                assert reader is not None
                scale_input(reader, gain, shift)
            return
        name, factors = pooled.name, add_constant(graph, f"{pooled.name}.gain", gain)
        end = append(pooled, "Mul", factors, name=f"{name}.scaled")
        if shift is not None:
            summands = add_constant(graph, f"{name}.shift", shift)
            end = append(end, "Add", summands, name=f"{name}.shifted")
        swap_names(pooled, end, f"{name}.mean")


def _over_tokens(node: ir.Node, keepdims: bool) -> bool:
    """Whether this ReduceSum sums over axis 1 alone."""
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    keep = node.attributes.get("keepdims")
    kept = True if keep is None else bool(keep.value)
    return axes is not None and axes.tolist() == [1] and kept == keepdims


def _counts(divisor: ir.Value | None, selected: ir.Value | None) -> bool:
    """Whether `divisor` is max(number of true entries of the mask behind `selected`, 1)."""
    clip = producer(divisor, "Clip")
    least = constant(clip.inputs[1]) if clip is not None and len(clip.inputs) > 1 else None
    total = producer(clip.inputs[0], "ReduceSum") if clip is not None else None
    if total is None or least is None or float(least) != 1.0 or not _over_tokens(total, True):
        return False
    cast, unsqueeze = producer(total.inputs[0], "Cast"), producer(selected, "Unsqueeze")
    if cast is None or unsqueeze is None:
        return False
    mask = cast.inputs[0]
    return mask is unsqueeze.inputs[0] and mask is not None and mask.dtype == ir.DataType.BOOL
