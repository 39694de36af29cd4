"""scale-residual: values beyond fp16's range are scaled down, and results stay exact."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir import dialect
from goldfold.exporter.ir.program import add_constant, constant, where
from goldfold.exporter.passes.base import Equality, Pass
from goldfold.exporter.passes.rewriting.writer import Writer

FP16_MAX = 65504.0
HEADROOM = 8.0
"""The factor by which a value's largest magnitude on calibration texts must stay below fp16's
limit: other texts reach further."""
EXPONENT = "goldfold.exponent"
"""The key in a value's metadata for the power of two that it is scaled down by; it also keeps the
pass from applying twice."""
_COPY_LIMIT = 1 << 24
"""A constant of more numbers than this is not copied to scale it; the op that reads it is scaled
instead."""


@dataclass
class Plan:
    """All changes of one application, collected before any of them is made."""

    seed: ir.Value
    peaks: dict[str, float]
    scaled: dict[ir.Value, None] = field(default_factory=dict)
    constants: dict[tuple[ir.Node, int], None] = field(default_factory=dict)
    edges: dict[tuple[ir.Node, int], None] = field(default_factory=dict)
    sources: dict[ir.Value, None] = field(default_factory=dict)
    norms: dict[ir.Node, None] = field(default_factory=dict)
    fault: str | None = None
    exponent: int = 0


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

    needs:
        every reader of a scaled value is a norm, or is homogeneous (exporter/ir/dialect.py) and is
        scaled in turn; no value that reaches an output of the graph is scaled. An epsilon that is
        not scaled costs cosine 0.957 on real texts.

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

    options: something reads it that is not free of scale
        peaks: h = 100000

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

    def match(self, node: ir.Node) -> Plan | None:
        peaks = dict(self.peaks)
        for value in node.outputs:
            if _exponent(peaks.get(value.name or "", 0.0)) and EXPONENT not in value.metadata_props:
                return self._plan(value, peaks)
        return None

    def refuses(self, match: Plan) -> str | None:
        return match.fault

    def _plan(self, seed: ir.Value, peaks: dict[str, float]) -> Plan:
        plan = Plan(seed, peaks)
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
                waiting += _forward(plan, node, index)
            waiting += _backward(plan, value)
        reached = [peaks.get(value.name or "", 0.0) for value in plan.scaled]
        plan.exponent = max(map(_exponent, reached), default=0)
        # A value that was scaled after its edge was planned is not scaled at the edge again.
        for node, index in [edge for edge in plan.edges if edge[0].inputs[edge[1]] in plan.scaled]:
            del plan.edges[node, index]
        for value in [v for v in plan.sources if _follows(plan, v)]:
            del plan.sources[value]
        plan.fault = plan.fault or _uneven(plan)
        for value in plan.sources:
            if peaks.get(value.name or "", 0.0) > FP16_MAX and plan.fault is None:
                plan.fault = f"{value.name} is too large before it can be scaled"
        return plan

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


def _exponent(peak: float) -> int:
    """The least k ≥ 0 with peak · 2^-k · HEADROOM ≤ FP16_MAX."""
    if not 0 < peak < math.inf:
        return 0  # no power of two makes an infinity finite; a mask's −inf is selected away later
    return max(0, math.ceil(math.log2(peak * HEADROOM / FP16_MAX)))


def _follows(plan: Plan, value: ir.Value) -> bool:
    """Whether `value` is scaled already because its producer reads a scaled value."""
    node = value.producer()
    if node is None:
        return False
    inputs = dialect.HOMOGENEOUS.get(dialect.op_of(node), ())
    return any(node.inputs[index] in plan.scaled for index in inputs)


def _uneven(plan: Plan) -> str | None:
    """The reason why the plan scales a product twice or a sum in part; None if it does neither."""
    nodes = {n: None for v in plan.scaled for n, _ in v.uses()}
    nodes |= {p: None for v in plan.scaled if (p := v.producer()) is not None}
    for node in nodes:
        touched = {
            index
            for index, value in enumerate(node.inputs)
            if value in plan.scaled
            or (node, index) in plan.constants
            or (node, index) in plan.edges
        }
        op = dialect.op_of(node)
        made = node.outputs[0] in plan.scaled and node.outputs[0] not in plan.sources
        if op in dialect.HOMOGENEOUS and made and len(touched) != 1:
            return f"{where(node)} ({op}) would be scaled {len(touched)} times"
        if op in dialect.JOINT and made:
            present = {i for i in dialect.JOINT[op] if i < len(node.inputs) and node.inputs[i]}
            if touched != present:
                return f"{where(node)} ({op}) would be scaled in part"
        if op in dialect.JOINT and not made and touched:
            return f"{where(node)} ({op}) would be scaled in part"
    return None


def _forward(plan: Plan, node: ir.Node, index: int) -> list[ir.Value]:
    """The values that must be scaled because `node` reads a scaled value at `index`."""
    op = dialect.op_of(node)
    if op in dialect.NORMS and index == 0:
        plan.norms[node] = None
        return []
    if op in dialect.JOINT and index in dialect.JOINT[op]:
        return [node.outputs[0]]  # _backward finds the other operands from the output
    if index in dialect.HOMOGENEOUS.get(op, ()):
        return list(node.outputs)
    plan.fault = plan.fault or f"{where(node)} ({op}) reads it and is not free of scale"
    return []


def _backward(plan: Plan, value: ir.Value) -> list[ir.Value]:
    """The values that must be scaled so that `value` is computed at scale."""
    node = value.producer()
    if node is None:
        plan.sources[value] = None
        return []
    op = dialect.op_of(node)
    if op in dialect.JOINT:
        more = []
        for index in dialect.JOINT[op]:
            if index < len(node.inputs) and node.inputs[index] is not None:
                more += _operand(plan, node, index)
        return more
    if op in dialect.NORMS and all(_is_constant(v) for v in node.inputs[1:] if v is not None):
        for index in range(1, len(node.inputs)):
            if node.inputs[index] is not None:
                plan.constants[node, index] = None
        return []
    if op == "Gemm" and all(_is_constant(v) for v in node.inputs[1:] if v is not None):
        for index in range(1, len(node.inputs)):
            plan.constants[node, index] = None
        return []
    inputs = dialect.HOMOGENEOUS.get(op, ())
    if any(node.inputs[index] in plan.scaled for index in inputs):
        return []
    for index in inputs:
        # An operand too large itself is part of the stream: it is scaled where it is made, and so
        # the result is scaled too.
        read = node.inputs[index]
        if read is not None and _exponent(plan.peaks.get(read.name or "", 0.0)):
            return [read]
    for index in reversed(inputs):
        if _is_constant(node.inputs[index]):
            plan.constants[node, index] = None
            return []
    plan.sources[value] = None
    return []


def _operand(plan: Plan, node: ir.Node, index: int) -> list[ir.Value]:
    """Scale one operand of a sum: the value itself if only sums and norms read it, else the
    edge."""
    value = node.inputs[index]
    assert value is not None
    if value in plan.scaled:
        return []
    if ir.convenience.get_const_tensor(value) is not None:
        plan.constants[node, index] = None
        return []
    free = not value.is_graph_output() and value.producer() is not None
    for reader, place in value.uses():
        op = dialect.op_of(reader)
        free = free and (op in dialect.JOINT or (op in dialect.NORMS and place == 0))
    if free:
        return [value]
    plan.edges[node, index] = None
    return []


def _behind(node: ir.Node) -> ir.Node:
    """The next node in the graph's order; there is one, since some node reads `node`."""
    after = iter(node.graph or ())
    for other in after:
        if other is node:
            break
    return next(after)


def _is_constant(value: ir.Value | None) -> bool:
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return tensor is not None and tensor.size <= _COPY_LIMIT and tensor.dtype.is_floating_point()


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
