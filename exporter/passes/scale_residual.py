"""scale-residual: values beyond fp16's range are scaled down, and results stay exact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir import dialect
from goldfold.exporter.ir.program import add_constant, constant, where
from goldfold.exporter.passes.base import Equality, Pass
from goldfold.exporter.passes.rewriting.headroom import (
    FP16_MAX,
    LEAST,
    LEAST_WEIGHT,
    Demand,
    calibrated,
    demands,
)
from goldfold.exporter.passes.rewriting.scaling import (
    NOTHING,
    Plan,
    backward,
    follows,
    forward,
    uneven,
)
from goldfold.exporter.passes.rewriting.writer import Writer

EXPONENT = "goldfold.exponent"
"""The key in a value's metadata for the power of two that it is scaled down by; it also keeps the
pass from applying twice."""


@dataclass(frozen=True)
class ScaleResidual(Pass):
    """Values too large for fp16 are computed at 2^-k of their size, without a change in any result.

    The residual stream of EmbeddingGemma reaches 133,816 where fp16 ends at 65,504. Every summand
    of the stream is scaled by s = 2^-k: in the constants that make it (a norm's gain, a
    projection's weight, the factor behind the embedding), or by a multiplication where there is no
    such constant. The norms that read the stream remove the scale, if their epsilon is scaled by
    s².

    holds:
        rms(s x; s² ε) = s x / sqrt(s² mean(x²) + s² ε) = rms(x; ε), and likewise for LayerNorm.
        Multiplying by a power of two is exact, so in f32 all results are the same bits.

        x / max(‖x‖, ε) is free of scale in the same way.

    needs:
        every reader of a scaled value is a norm, or is homogeneous (exporter/ir/dialect.py) and is
        scaled in turn; no value that reaches an output of the graph is scaled. An epsilon that is
        not scaled costs cosine 0.957 on real texts.

    k is the least for which 2^-k of the value has room. A bound that holds for every text chooses
    it where there is one (`bounds`); the largest magnitude on calibration texts (`peaks`), with
    8× headroom, does elsewhere, and where a bound's k would cost digits.

    options: a post-norm model
        peaks: h = 100000

    before: a post-norm model
        f (float[B,6] x, float[6,6] w, float[6] g, float[6] m, float[6] n, float[6,5] v)
            => (float[B,5] y)
        {
            e = Mul(x, m)
            p = MatMul(x, w)
            a = RMSNormalization <axis: int = -1, epsilon: float = 1e-6> (p, g)
            h = Add(e, a)
            o = RMSNormalization <axis: int = -1, epsilon: float = 1e-6> (h, n)
            y = MatMul(o, v)
        }

    after: a post-norm model
        f (float[B,6] x, float[6,6] w, float[6] g, float[6] m, float[6] n, float[6,5] v)
            => (float[B,5] y)
        {
            e = Mul(x, m)
            p = MatMul(x, w)
            a = RMSNormalization <axis: int = -1, epsilon: float = 1e-6> (p, g)
            h = Add(e, a)
            o = RMSNormalization <axis: int = -1, epsilon: float = 3.90625e-09> (h, n)
            y = MatMul(o, v)
        }

    options: a pre-norm model, whose projections write the stream
        peaks: h = 20000

    before: a pre-norm model, whose projections write the stream
        f (float[B,6] x, float[6] n, float[6,6] w, float[6] b, float[6,5] v) => (float[B,5] y)
        {
            a = RMSNormalization <axis: int = -1, epsilon: float = 1e-6> (x, n)
            p = MatMul(a, w)
            q = Add(p, b)
            h = Add(x, q)
            o = LayerNormalization <axis: int = -1, epsilon: float = 1e-6> (h, n)
            y = MatMul(o, v)
        }

    after: a pre-norm model, whose projections write the stream
        none

    options: a factor on the stream itself
        peaks: h = 100000, m = 200000, i = 200000

    before: a factor on the stream itself
        f (float[B,6] x, float[6,6] w, float[1] c, float[6] n, float[6,5] v) => (float[B,5] y)
        {
            p = MatMul(x, w)
            h = Add(x, p)
            m = Mul(h, c)
            a = RMSNormalization <axis: int = -1, epsilon: float = 1e-6> (m, n)
            i = Add(m, a)
            o = RMSNormalization <axis: int = -1, epsilon: float = 1e-6> (i, n)
            y = MatMul(o, v)
        }

    after: a factor on the stream itself
        none

    options: a bound on a projection that a norm reads
        peaks: p = 30000, q = 900
        bounds: p = 200000, q = 36000

    before: a bound on a projection that a norm reads
        f (float[B,6] x, float[B,6] q, float[6,6] w, float[6] n) => (float[B,6] y)
        {
            u = Mul(x, q)
            p = MatMul(u, w)
            y = RMSNormalization <axis: int = -1, epsilon: float = 1e-6> (p, n)
        }

    after: a bound on a projection that a norm reads
        f (float[B,6] x, float[B,6] q, float[6,6] v, float[6] n) => (float[B,6] y)
        {
            u = Mul(x, q)
            p = MatMul(u, v)
            y = RMSNormalization <axis: int = -1, epsilon: float = 6.25e-08> (p, n)
        }

    options: integer weights, scaled in their scales
        peaks: p = 30000
        bounds: p = 200000

    before: integer weights, scaled in their scales
        f (float[B,6] x, int8[6,6] w, float[6] s, float[6] n) => (float[B,6] y)
        {
            d = DequantizeLinear <axis: int = 1> (w, s)
            p = MatMul(x, d)
            y = RMSNormalization <axis: int = -1, epsilon: float = 1e-6> (p, n)
        }

    after: integer weights, scaled in their scales
        f (float[B,6] x, int8[6,6] w, float[6] t, float[6] n) => (float[B,6] y)
        {
            d = DequantizeLinear <axis: int = 1> (w, t)
            p = MatMul(x, d)
            y = RMSNormalization <axis: int = -1, epsilon: float = 6.25e-08> (p, n)
        }

    options: a product too large to be scaled, so that a factor is
        peaks: m = 60000
        bounds: m = 300000

    before: a product too large to be scaled, so that a factor is
        f (float[B,6] x, float[6,6] a, float[6,6] b, float[6,6] w, float[6] n) => (float[B,6] y)
        {
            g = MatMul(x, a)
            h = Gelu(g)
            u = MatMul(x, b)
            m = Mul(h, u)
            p = MatMul(m, w)
            y = RMSNormalization <axis: int = -1, epsilon: float = 1e-6> (p, n)
        }

    after: a product too large to be scaled, so that a factor is
        f (float[B,6] x, float[6,6] a, float[6,6] c, float[6,6] w, float[6] n) => (float[B,6] y)
        {
            g = MatMul(x, a)
            h = Gelu(g)
            u = MatMul(x, c)
            m = Mul(h, u)
            p = MatMul(m, w)
            y = RMSNormalization <axis: int = -1, epsilon: float = 1.5625e-08> (p, n)
        }

    options: a vector that is divided by its length
        peaks: g = 30000
        bounds: g = 200000

    before: a vector that is divided by its length
        f (float[B,6] x, float[6,6] w, float[6] b) => (float[B,6] y)
        {
            axes = Constant <value_ints: ints = [-1]> ()
            least = Constant <value_float: float = 1e-6> ()
            g = Gemm(x, w, b)
            l = ReduceL2(g, axes)
            c = Clip(l, least)
            y = Div(g, c)
        }

    after: a vector that is divided by its length
        none

    options: something reads it that is not free of scale
        peaks: h = 100000
        bounds: h = 900000

    refuses: something reads it that is not free of scale
        # says Tanh (Tanh) reads it and is not free of scale
        f (float[B,6] x, float[6,6] w) => (float[B,6] y)
        {
            p = MatMul(x, w)
            h = Add(x, p)
            y = Tanh(h)
        }
    """

    equality: ClassVar[Equality] = Equality.EXACT
    peaks: tuple[tuple[str, float], ...] = ()
    """The largest magnitude of values by name, as `exporter/evaluate/ranges.py` records it."""
    bounds: tuple[tuple[str, float], ...] = ()
    """Bounds on values by name that hold for every text (exporter/evaluate/bounds.py). They choose
    the exponent where there are some; calibration does elsewhere."""

    @cached_property
    def _demands(self) -> dict[str, Demand]:
        return demands(dict(self.peaks), dict(self.bounds))

    @cached_property
    def _calibrated(self) -> dict[str, Demand]:
        return {name: calibrated(peak) for name, peak in self.peaks}

    def match(self, node: ir.Node) -> Plan | None:
        for value in node.outputs:
            name = value.name or ""
            if EXPONENT in value.metadata_props or not self._demands.get(name, NOTHING).exponent:
                continue
            plan = self._plan(value, self._demands)
            if plan.fault and self._calibrated.get(name, NOTHING).exponent:
                other = self._plan(value, self._calibrated)
                return plan if other.fault else other
            return plan
        return None

    def refuses(self, match: Plan) -> str | None:
        return match.fault

    def _plan(self, seed: ir.Value, demands: Mapping[str, Demand]) -> Plan:
        plan = Plan(seed, demands)
        waiting = [seed]
        while waiting and plan.fault is None:
            value = waiting.pop()
            if value in plan.scaled:
                continue
            if EXPONENT in value.metadata_props:
                plan.fault = f"{value.name} is scaled already, by another amount"
            plan.scaled[value] = None
            if value.is_graph_output():
                plan.fault = f"{value.name} is an output of the graph"
            for node, index in value.uses():
                waiting += forward(plan, node, index)
            waiting += backward(plan, value)
        plan.exponent = max((plan.demand(value).exponent for value in plan.scaled), default=0)
        # A value that was scaled after its edge was planned is not scaled at the edge again.
        for node, index in [edge for edge in plan.edges if edge[0].inputs[edge[1]] in plan.scaled]:
            del plan.edges[node, index]
        for value in [v for v in plan.sources if follows(plan, v)]:
            del plan.sources[value]
        plan.fault = plan.fault or uneven(plan)
        for value in plan.sources:
            if plan.demand(value).reach > FP16_MAX and plan.fault is None:
                plan.fault = f"{value.name} is too large before it can be scaled"
        plan.fault = plan.fault or self._faint(plan)
        return plan

    def _faint(self, plan: Plan) -> str | None:
        """The reason why a bound's exponent would cost digits, where calibration asks for less."""
        peaks, scale = dict(self.peaks), 2.0**-plan.exponent
        asked = [self._calibrated.get(value.name or "", NOTHING).exponent for value in plan.scaled]
        if plan.exponent <= max(asked, default=0):
            return None
        for value in plan.scaled:
            peak = peaks.get(value.name or "")
            if peak is not None and 0 < peak * scale < LEAST:
                return f"{value.name} would lose digits at 2^-{plan.exponent} of its size"
        for node, index in plan.constants:
            array, op = constant(node.inputs[index]), dialect.op_of(node)
            if array is None or op in (*dialect.NORMS, *dialect.JOINT) or index == 2:
                continue  # gains stay in f32; summands are as large as what they are added to
            numbers = np.abs(array.astype(np.float64).reshape(-1))
            least, size = LEAST_WEIGHT, float((numbers**2).mean() ** 0.5)
            if op == "DequantizeLinear":  # fp16 holds a recipe's scales exactly, until 2^-14
                least, size = LEAST_WEIGHT / 2, float(numbers[numbers > 0].min(initial=np.inf))
            if 0 < size * scale < least:
                return f"weights of {where(node)} would lose digits at 2^-{plan.exponent}"
        return None

    def construct(self, match: Plan, memo: dict) -> None:
        scale = 2.0**-match.exponent
        for node, index in match.constants:
            old = node.inputs[index]
            assert old is not None and node.graph is not None
            if (old, scale) not in memo:
                array = constant(old)
                assert array is not None
                scaled = (array * array.dtype.type(scale)).astype(array.dtype)
                memo[old, scale] = add_constant(node.graph, f"{old.name}.scaled", scaled)
            node.replace_input_with(index, memo[old, scale])
        for node, index in match.edges:
            value = node.inputs[index]
            assert value is not None
            node.replace_input_with(index, _times(value, scale, node, memo))
        for value in match.sources:
            readers = list(value.uses())
            small = _times(value, scale, readers[0][0], memo)
            small.metadata_props[EXPONENT] = str(match.exponent)
            for reader, index in readers:
                reader.replace_input_with(index, small)
        for node in match.norms:
            epsilon = node.attributes.get("epsilon")
            old_epsilon = 1e-5 if epsilon is None else epsilon.value
            node.attributes["epsilon"] = ir.AttrFloat32("epsilon", old_epsilon * scale * scale)
        for value in match.scaled:
            if value not in match.sources:
                value.metadata_props[EXPONENT] = str(match.exponent)


def _behind(node: ir.Node) -> ir.Node:
    """The next node in the graph's order; there is one, since some node reads `node`."""
    after = iter(node.graph or ())
    for other in after:
        if other is node:
            break
    return next(after)


def _times(value: ir.Value, scale: float, reader: ir.Node, memo: dict) -> ir.Value:
    """value · scale, made once per sweep, right behind the producer: every reader comes later."""
    if (value, scale, "times") not in memo:
        graph, producer = reader.graph, value.producer()
        assert graph is not None
        before = graph[0] if producer is None else _behind(producer)
        assert before.graph is not None
        kind = value.dtype.numpy() if value.dtype is not None else np.dtype(np.float32)
        factor = add_constant(before.graph, f"{value.name}.scale", np.array(scale, dtype=kind))
        memo[value, scale, "times"] = Writer(before, module=where(before))(
            "Mul", value, factor, name=f"{value.name}.times", type=value.type, shape=value.shape
        )
    return memo[value, scale, "times"]
