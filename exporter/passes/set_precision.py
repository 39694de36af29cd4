"""set-precision: half precision throughout, with islands in f32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir import dialect
from goldfold.exporter.ir.program import TOKENS, add_constant, constant, where
from goldfold.exporter.passes.base import Equality, Pass
from goldfold.exporter.passes.rewriting import integers
from goldfold.exporter.passes.rewriting.attention import is_lookup, serves_attention, sums_computed
from goldfold.exporter.passes.rewriting.headroom import FP16_MAX, HEADROOM
from goldfold.exporter.passes.rewriting.pattern import (
    chooses,
    is_division_of_norm,
    is_positional,
)
from goldfold.exporter.passes.rewriting.writer import Writer, append, swap_names

Kind = Literal["fp16", "bf16"]
Computed = Literal["f32", "half"]

KINDS: dict[Kind, ir.DataType] = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
LOW = frozenset({
    "Add", "Sub", "Mul", "Div", "Neg", "MatMul", "Gemm", "Conv", "Gather", "Gelu", "Tanh",
    "Sigmoid", "Relu", "Erf", "Softmax", "Where", "Reshape", "Transpose", "Squeeze", "Unsqueeze",
    "Slice", "Split", "Concat", "Expand", "goldfold.BandAttention",
})  # fmt: skip
"""Ops that are computed in half precision where they work on tokens. Any other stays in f32."""

_LEAST_FP16 = 2.0**-25
_NORMAL_FP16 = 2.0**-14
_HIDDEN = 3.0e4
"""The replacement for a constant beyond fp16 that only hides tokens (a mask's −3.4e38): its sum
with any score is finite."""


@dataclass(frozen=True)
class Half:
    node: ir.Node
    kind: ir.DataType


@dataclass(frozen=True)
class SetPrecision(Pass):
    """Ops on tokens are computed in fp16 or bf16; ops on positions, and on whole texts, stay in
    f32.

    Islands in f32, by meaning: norms, their gains and epsilon included (rounding the gains alone
    costs EmbeddingGemma 3e-6 on its worst text); rotary embeddings and their tables (5e-6; position
    2,047 times a frequency has no room in 11 bits); the residual stream, where every rounding would
    be carried to the end (6e-5 against 1e-6 on its most sensitive text); pooling's sums and all
    ops behind them, one vector per text; the division of an L2 normalisation, of tokens as well, so
    that a vector has the length 1; the scores by which a router chooses experts, for the choice is
    no smooth function of them. `head` "half" takes the linear maps on whole texts too, for hardware
    whose matrix units have no f32. `part` "attention" is for two kinds in one program.

    Integer weights are dequantized in half precision, with their scales: fp16 holds a recipe's
    scales exactly, so the bits are the same. bf16 does not hold them: there the weights are
    dequantized in f32, and rounded then. Products of integers with integers (where the input of a
    linear map was rounded to 8 bits, too) stay in f32: in fp16, TensorRT stores their sums as
    halves before it multiplies by the scales, and a sum of 768 products reaches far beyond 65,504
    (docs/tensorrt.md). `products` "half" takes them as well, for hardware that multiplies by the
    scales first.

    holds:
        f(x) = f32(f_half(half(x))) up to one rounding per value: 2^-11 of it in fp16, 2^-8 in bf16

    needs:
        no value beyond 65,504 in fp16 (scale-residual ensures that); opset 23

    options: fp16
        kind: fp16

    before: fp16
        f (float[batch,tokens,4] x, float[4,4] w, float[4] b, float[4] g)
            => (float[batch,tokens,4] y)
        {
            h = MatMul(x, w)
            i = Add(h, b)
            n = RMSNormalization <axis: int = -1, epsilon: float = 1e-6> (i, g)
            y = Add(x, n)
        }

    after: fp16
        f (float[batch,tokens,4] x, float16[4,4] w, float16[4] b, float[4] g)
            => (float[batch,tokens,4] y)
        {
            xh = Cast <to: int = 10> (x)
            h = MatMul(xh, w)
            ih = Add(h, b)
            i = Cast <to: int = 1> (ih)
            n = RMSNormalization <axis: int = -1, epsilon: float = 1e-6> (i, g)
            y = Add(x, n)
        }

    options: a head in half precision, too
        kind: fp16
        head: half

    before: a head in half precision, too
        f (float[batch,4] x, float[4,4] w, float[1] c) => (float[batch,4] y)
        {
            h = Div(x, c)
            y = MatMul(h, w)
        }

    after: a head in half precision, too
        f (float[batch,4] x, float16[4,4] w, float[1] c) => (float[batch,4] y)
        {
            h = Div(x, c)
            hh = Cast <to: int = 10> (h)
            yh = MatMul(hh, w)
            y = Cast <to: int = 1> (yh)
        }

    before: a vector for each token
        f (float[batch,tokens,4] x, float[4,4] w, float e) => (float[batch,tokens,4] y)
        {
            h = MatMul(x, w)
            last = Constant <value_ints: ints = [-1]> ()
            n = ReduceL2 <keepdims: int = 1> (h, last)
            c = Clip(n, e)
            y = Div(h, c)
        }

    after: a vector for each token
        f (float[batch,tokens,4] x, float16[4,4] w, float e) => (float[batch,tokens,4] y)
        {
            xh = Cast <to: int = 10> (x)
            hh = MatMul(xh, w)
            h = Cast <to: int = 1> (hh)
            last = Constant <value_ints: ints = [-1]> ()
            n = ReduceL2 <keepdims: int = 1> (h, last)
            c = Clip(n, e)
            y = Div(h, c)
        }

    options: integer weights
        kind: fp16

    before: integer weights
        f (float[batch,tokens,4] x, int8[4,6] w, float[6] s) => (float[batch,tokens,6] y)
        {
            d = DequantizeLinear <axis: int = 1> (w, s)
            y = MatMul(x, d)
        }

    after: integer weights
        f (float[batch,tokens,4] x, int8[4,6] w, float16[6] s) => (float[batch,tokens,6] y)
        {
            xh = Cast <to: int = 10> (x)
            d = DequantizeLinear <axis: int = 1> (w, s)
            yh = MatMul(xh, d)
            y = Cast <to: int = 1> (yh)
        }

    options: attention alone
        kind: fp16
        part: attention

    before: attention alone
        f (float[batch,tokens,4] x, float[4,4] w, float[4] b, float[4,4] v, float[4,4] o,
           float[4] g, float[4,4] up, bool[batch,tokens] padding)
            => (float[batch,tokens,4] y)
        {
            p = MatMul(x, w)
            a = Add(p, b)
            n = RMSNormalization <axis: int = -1, epsilon: float = 1e-6> (a, g)
            one = Constant <value_ints: ints = [1]> ()
            q = Unsqueeze(n, one)
            s = MatMul(x, v)
            k = Unsqueeze(s, one)
            z = goldfold.BandAttention
                <scale: float = 0.25, window: int = 3, causal: int = 0, softcap: float = 0.0>
                (q, k, k, padding)
            m = Squeeze(z, one)
            h = MatMul(m, o)
            y = MatMul(h, up)
        }

    after: attention alone
        f (float[batch,tokens,4] x, float16[4,4] w, float16[4] b, float16[4,4] v, float16[4,4] o,
           float[4] g, float[4,4] up, bool[batch,tokens] padding)
            => (float[batch,tokens,4] y)
        {
            xh = Cast <to: int = 10> (x)
            p = MatMul(xh, w)
            ah = Add(p, b)
            a = Cast <to: int = 1> (ah)
            n = RMSNormalization <axis: int = -1, epsilon: float = 1e-6> (a, g)
            nh = Cast <to: int = 10> (n)
            one = Constant <value_ints: ints = [1]> ()
            q = Unsqueeze(nh, one)
            s = MatMul(xh, v)
            k = Unsqueeze(s, one)
            z = goldfold.BandAttention
                <scale: float = 0.25, window: int = 3, causal: int = 0, softcap: float = 0.0>
                (q, k, k, padding)
            m = Squeeze(z, one)
            hh = MatMul(m, o)
            h = Cast <to: int = 1> (hh)
            y = MatMul(h, up)
        }

    options: too large for fp16 with headroom
        kind: fp16
        peaks: h = 9000

    refuses: too large for fp16 with headroom
        # says h reaches 9,000 on calibration texts
        f (float[batch,tokens,4] x, float[4,4] w) => (float[batch,tokens,4] h)
        {
            h = MatMul(x, w)
        }

    options: integers that reach too far
        kind: fp16

    refuses: integers that reach too far
        # says its weights d may reach 76,200
        f (float[batch,tokens,4] x, int8[4,6] w) => (float[batch,tokens,6] y)
        {
            s = Constant <value_float: float = 600.0> ()
            d = DequantizeLinear(w, s)
            y = MatMul(x, d)
        }

    options: a product of integers
        kind: fp16

    ignores: a product of integers
        f (float[batch,tokens,4] x, int8[4,6] w, float[6] s, float step)
            => (float[batch,tokens,6] y)
        {
            q = QuantizeLinear(x, step)
            r = DequantizeLinear(q, step)
            d = DequantizeLinear <axis: int = 1> (w, s)
            y = MatMul(r, d)
        }

    options: a product of integers, too
        kind: fp16
        products: half

    before: a product of integers, too
        f (float[batch,tokens,4] x, int8[4,6] w, int8 zero, float[6] b)
            => (float[batch,tokens,6] y)
        {
            step = Constant <value_float: float = 0.25> ()
            s = Constant <value_floats: floats = [0.5, 0.25, 1.0, 0.75, 2.0, 1.5]> ()
            q = QuantizeLinear(x, step, zero)
            x8 = DequantizeLinear(q, step, zero)
            d = DequantizeLinear <axis: int = 1> (w, s)
            h = MatMul(x8, d)
            y = Add(h, b)
        }

    after: a product of integers, too
        f (float[batch,tokens,4] x, int8[4,6] w, int8 zero, float16 r, float16[6] s, float16[6] b)
            => (float[batch,tokens,6] y)
        {
            step = Constant <value_float: float = 0.25> ()
            q = QuantizeLinear(x, step, zero)
            x8 = DequantizeLinear(q, r, zero)
            d = DequantizeLinear <axis: int = 1> (w, s)
            h = MatMul(x8, d)
            yh = Add(h, b)
            y = Cast <to: int = 1> (yh)
        }

    options: the scores of a choice
        kind: fp16

    ignores: the scores of a choice
        f (float[batch,tokens,4] x, float[4,6] w) => (int64[batch,tokens,2] chosen)
        {
            h = MatMul(x, w)
            p = Softmax <axis: int = -1> (h)
            k = Constant <value_ints: ints = [2]> ()
            best, chosen = TopK(p, k)
        }

    options: a head on one vector per text
        kind: bf16

    ignores: a head on one vector per text
        f (float[batch,4] x, float[4,4] w) => (float[batch,4] y)
        {
            y = MatMul(x, w)
        }
    """

    equality: ClassVar[Equality] = Equality.BOUND
    kind: Kind = "fp16"
    head: Computed = "f32"
    """The precision of linear maps on whole texts."""
    products: Computed = "f32"
    """The precision of products of integers with integers."""
    part: Literal["all", "attention"] = "all"
    """"attention": attention, the linear maps that make and read its values, and tables of
    embeddings. A second application takes the rest, in another kind."""
    peaks: tuple[tuple[str, float], ...] = ()
    """The largest magnitude of values by name (exporter/evaluate/ranges.py): a value that leaves
    fp16 less than its headroom is refused."""

    def unit(self) -> float:
        return {"fp16": 2.0**-11, "bf16": 2.0**-8}[self.kind]

    def match(self, node: ir.Node) -> Half | None:
        if dialect.op_of(node) not in LOW or node.outputs[0].dtype != ir.DataType.FLOAT:
            return None
        if self.part == "attention" and not (is_lookup(node) or serves_attention(node)):
            return None
        shape = node.outputs[0].shape
        # Whole texts: no axis of tokens, which may be of one size. An unknown shape has one.
        open_ = shape is None or any(str(d) in (TOKENS, "None") for d in shape)
        whole = not open_ and len(shape or ()) < 3
        if whole and not (self.head == "half" and node.op_type in ("MatMul", "Gemm")):
            return None
        # The residual stream, and where attention is written out also its masked scores.
        if sums_computed(node) or is_division_of_norm(node) or chooses(node):
            return None
        if self.products == "f32" and integers.multiplies_integers(node):
            return None
        return None if is_positional(node) else Half(node, KINDS[self.kind])

    def refuses(self, match: Half) -> str | None:
        if match.kind != ir.DataType.FLOAT16:
            return None
        peaks = dict(self.peaks)
        for value in (*match.node.inputs, *match.node.outputs):
            peak = peaks.get(value.name or "", 0.0) if value is not None else 0.0
            if peak * HEADROOM > FP16_MAX:
                return f"{value.name if value else ''} reaches {peak:,.0f} on calibration texts"
        for value in match.node.inputs:
            if (reach := integers.reach_of(value)) > FP16_MAX:
                return f"its weights {value.name if value else ''} may reach {reach:,.0f}"
            array = constant(value)
            if array is None or array.dtype != np.float32 or not array.size:
                continue
            largest = float(max(array.max(), -array.min()))
            hides = array.size == 1 and match.node.op_type in ("Where", "Add", "Mul")
            if largest > FP16_MAX and not hides:
                return f"its constant {value.name if value else ''} reaches beyond fp16's 65,504"
            if 0 < largest < _LEAST_FP16:
                return f"its constant {value.name if value else ''} would be rounded to 0"
            # Below 2^-14 fp16's steps no longer shrink with the number; bf16's do.
            if self.part == "attention" and 0 < _rms(array) < _NORMAL_FP16:
                return f"its constant {value.name if value else ''} is too small for fp16's digits"
        return None

    def construct(self, match: Half, memo: dict) -> None:
        node, kind = match.node, match.kind
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype == ir.DataType.FLOAT:
                node.replace_input_with(index, _half(value, kind, node, memo))
        for value in node.outputs:
            if value.dtype == ir.DataType.FLOAT:
                _widen(value, kind, memo)


def _rms(array: np.ndarray) -> float:
    return float(np.linalg.norm(array.reshape(-1))) / array.size**0.5


def _half(value: ir.Value, kind: ir.DataType, before: ir.Node, memo: dict) -> ir.Value:
    """`value` in half precision: the converted constant, the result of a half node, or a Cast."""
    key = (value, kind)
    if key in memo:
        return memo[key]
    array, held = constant(value), integers.dequantized(value)
    assert before.graph is not None
    if held is not None and kind == ir.DataType.FLOAT16:
        memo[key] = integers.in_half(*held, value, before)
    elif array is not None:
        if kind == ir.DataType.FLOAT16 and float(np.abs(array).max(initial=0)) > FP16_MAX:
            array = np.clip(array, -_HIDDEN, _HIDDEN)  # one number that hides tokens: refuses()
        memo[key] = add_constant(before.graph, f"{value.name}", array.astype(kind.numpy()))
    else:
        # Unique: an earlier application may have used the name.
        memo[key] = Writer(before, module=where(before))(
            "Cast", value, name=f"{value.name}.half", type=ir.TensorType(kind), shape=value.shape,
            to=kind.value,
        )  # fmt: skip
    return memo[key]


def _widen(value: ir.Value, kind: ir.DataType, memo: dict) -> None:
    """Make `value` half and give its readers an f32 copy, which keeps the name; half readers read
    the half one from the memo."""
    wide = append(value, "Cast", name=f"{value.name}.wide", to=ir.DataType.FLOAT.value)
    swap_names(value, wide, f"{value.name}.half")
    value.type = ir.TensorType(kind)
    memo[wide, kind] = value
