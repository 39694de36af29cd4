"""raise-rms-norm: root-mean-square normalisation becomes one op."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir.program import add_constant, constant
from goldfold.exporter.passes.base import Equality, Pass
from goldfold.exporter.passes.rewriting.pattern import (
    attribute,
    integers,
    last_axis,
    producer,
    read_elsewhere,
    scalar,
)
from goldfold.exporter.passes.rewriting.writer import supplant


@dataclass(frozen=True)
class Root:
    """(mean + epsilon)^exponent, followed back to the mean."""

    mean: ir.Node
    square: ir.Node
    exponent: float
    epsilon: ir.Value | None
    inside: bool
    """Whether epsilon is added to the mean itself, not to a root of the mean."""
    nodes: tuple[ir.Node, ...]
    """From the mean's power of x to the root."""


@dataclass(frozen=True)
class Rms:
    node: ir.Node
    """The product of x and the root, or the quotient."""
    x: ir.Value
    root: Root
    gains: tuple[tuple[ir.Node, ir.Value], ...]
    """Every Mul of the result by one constant per channel, and that gain."""
    bare: bool
    """Whether a consumer reads the result without a gain."""


@dataclass(frozen=True)
class RaiseRmsNorm(Pass):
    """The division of x by the root of its mean square becomes an RMSNormalization, with its gain.

    torch's exporter knows the norm written with rsqrt (Gemma 3, Qwen 3, T5, EuroBERT). Gemma 4 and
    EmbeddingGemma 2 write (mean + ε)^−½ as a power, so no later pass would find their norms.

    holds:
        x · (mean(x²) + ε)^−½ · g = RMSNormalization(x, g; ε) over the last axis; without a
        gain g = 1

    needs:
        the mean is over the last axis alone and keeps it; ε is one number, added to the mean
        itself. Only the pattern reads the values between x and the root. A reader that multiplies
        by a constant of one number per channel takes that as its gain; g may be written 1 + w.

    before: as Gemma 4 spells it
        f (float[B,T,6] x, float[6] g) => (float[B,T,6] y)
        {
            two = Constant <value: tensor = int64 {2}> ()
            axis = Constant <value_ints: ints = [-1]> ()
            eps = Constant <value: tensor = float {1e-6}> ()
            root = Constant <value: tensor = float {-0.5}> ()
            s = Pow(x, two)
            m = ReduceMean <keepdims: int = 1> (s, axis)
            v = Add(m, eps)
            r = Pow(v, root)
            n = Mul(x, r)
            y = Mul(n, g)
        }

    after: as Gemma 4 spells it
        f (float[B,T,6] x, float[6] g) => (float[B,T,6] y)
        {
            y = RMSNormalization <axis: int = -1, epsilon: float = 1e-6> (x, g)
        }

    before: the norm of Gemma 4's values has no gain
        f (float[B,2,T,6] x) => (float[B,2,T,6] y)
        {
            two = Constant <value: tensor = int64 {2}> ()
            axis = Constant <value_ints: ints = [-1]> ()
            eps = Constant <value: tensor = float {1e-6}> ()
            root = Constant <value: tensor = float {-0.5}> ()
            s = Pow(x, two)
            m = ReduceMean <keepdims: int = 1> (s, axis)
            v = Add(m, eps)
            r = Pow(v, root)
            y = Mul(x, r)
        }

    after: the norm of Gemma 4's values has no gain
        f (float[B,2,T,6] x, float[6] ones) => (float[B,2,T,6] y)
        {
            y = RMSNormalization <axis: int = -1, epsilon: float = 1e-6> (x, ones)
        }

    before: one norm under two gains, and read bare
        f (float[B,6] x, float[6] g, float[1,6] h) => (float[B,6] a, float[B,6] b, float[B,6] c)
        {
            two = Constant <value: tensor = int64 {2}> ()
            axis = Constant <value_ints: ints = [1]> ()
            eps = Constant <value: tensor = float {1e-5}> ()
            s = Pow(x, two)
            m = ReduceMean(s, axis)
            v = Add(eps, m)
            d = Sqrt(v)
            n = Div(x, d)
            a = Mul(g, n)
            b = Mul(n, h)
            c = Neg(n)
        }

    after: one norm under two gains, and read bare
        f (float[B,6] x, float[6] g, float[6] h, float[6] ones)
            => (float[B,6] a, float[B,6] b, float[B,6] c)
        {
            a = RMSNormalization <axis: int = -1, epsilon: float = 1e-5> (x, g)
            b = RMSNormalization <axis: int = -1, epsilon: float = 1e-5> (x, h)
            n = RMSNormalization <axis: int = -1, epsilon: float = 1e-5> (x, ones)
            c = Neg(n)
        }

    before: a reciprocal, x · x, and a gain that is still a sum
        f (float[B,6] x, float[6] w) => (float[B,6] y)
        {
            one = Constant <value: tensor = float {1.0}> ()
            axis = Constant <value_ints: ints = [-1]> ()
            eps = Constant <value: tensor = float[1] {1e-6}> ()
            s = Mul(x, x)
            m = ReduceMean(s, axis)
            v = Add(m, eps)
            d = Sqrt(v)
            r = Reciprocal(d)
            n = Mul(r, x)
            g = Add(one, w)
            y = Mul(n, g)
        }

    after: a reciprocal, x · x, and a gain that is still a sum
        f (float[B,6] x, float[6] g) => (float[B,6] y)
        {
            y = RMSNormalization <axis: int = -1, epsilon: float = 1e-6> (x, g)
        }

    refuses: epsilon is added to the root, not to the mean
        f (float[B,6] x) => (float[B,6] y)
        {
            axis = Constant <value_ints: ints = [-1]> ()
            eps = Constant <value: tensor = float {1e-6}> ()
            s = Mul(x, x)
            m = ReduceMean(s, axis)
            d = Sqrt(m)
            v = Add(d, eps)
            y = Div(x, v)
        }

    refuses: epsilon is one number per channel
        # says its epsilon is not one constant number
        f (float[B,6] x, float[6] eps) => (float[B,6] y)
        {
            axis = Constant <value_ints: ints = [-1]> ()
            s = Mul(x, x)
            m = ReduceMean(s, axis)
            v = Add(m, eps)
            d = Sqrt(v)
            y = Div(x, d)
        }

    refuses: the exponent is not two
        # says it takes the mean of x^4.0, not of x²
        f (float[B,6] x) => (float[B,6] y)
        {
            four = Constant <value: tensor = float {4.0}> ()
            axis = Constant <value_ints: ints = [-1]> ()
            eps = Constant <value: tensor = float {1e-6}> ()
            s = Pow(x, four)
            m = ReduceMean(s, axis)
            v = Add(m, eps)
            d = Sqrt(v)
            y = Div(x, d)
        }

    refuses: the root is another one
        # says its mean is raised to -0.25, not to -0.5
        f (float[B,6] x) => (float[B,6] y)
        {
            axis = Constant <value_ints: ints = [-1]> ()
            eps = Constant <value: tensor = float {1e-6}> ()
            root = Constant <value: tensor = float {-0.25}> ()
            s = Mul(x, x)
            m = ReduceMean(s, axis)
            v = Add(m, eps)
            r = Pow(v, root)
            y = Mul(x, r)
        }

    refuses: the mean is over the tokens
        # says its mean is over the axes [1], not over the last alone
        f (float[B,T,6] x) => (float[B,T,6] y)
        {
            axis = Constant <value_ints: ints = [1]> ()
            eps = Constant <value: tensor = float {1e-6}> ()
            s = Mul(x, x)
            m = ReduceMean(s, axis)
            v = Add(m, eps)
            d = Sqrt(v)
            y = Div(x, d)
        }

    refuses: the mean square is an output as well
        # says m, inside the pattern, is an output of the graph
        f (float[B,6] x) => (float[B,6] y, float[B,1] m)
        {
            axis = Constant <value_ints: ints = [-1]> ()
            eps = Constant <value: tensor = float {1e-6}> ()
            s = Mul(x, x)
            m = ReduceMean(s, axis)
            v = Add(m, eps)
            d = Sqrt(v)
            y = Div(x, d)
        }
    """

    equality: ClassVar[Equality] = Equality.REAL

    def match(self, node: ir.Node) -> Rms | None:
        if node.domain or node.op_type not in ("Mul", "Div"):
            return None
        for index in (0, 1) if node.op_type == "Mul" else (0,):
            x = node.inputs[index]
            root = _read_root(node.inputs[1 - index])
            if x is None or root is None or root.square.inputs[0] is not x:
                continue
            readers = [reader for reader, _ in node.outputs[0].uses()]
            width = _width(x)
            gains = tuple((r, g) for r in readers if (g := _gain(r, node, width)) is not None)
            bare = len(gains) < len(readers) or node.outputs[0].is_graph_output()
            return Rms(node, x, root, gains, bare)
        return None

    def refuses(self, match: Rms) -> str | None:
        x, root = match.x, match.root
        power = 2.0 if root.square.op_type == "Mul" else scalar(root.square.inputs[1])
        if power != 2.0:
            return f"it takes the mean of x^{power or 'no constant'}, not of x²"
        wanted = -0.5 if match.node.op_type == "Mul" else 0.5
        if root.exponent != wanted:
            return f"its mean is raised to {root.exponent:g}, not to {wanted:g}"
        if not root.inside:
            return "epsilon is added to the root, not to the mean"
        if root.epsilon is not None and scalar(root.epsilon) is None:
            return "its epsilon is not one constant number"
        axes = integers(root.mean.inputs[1]) if len(root.mean.inputs) > 1 else None
        rank = len(x.shape) if x.shape is not None else 0
        if axes is None or len(axes) != 1 or not last_axis(axes[0], rank):
            return f"its mean is over the axes {axes}, not over the last alone"
        if not attribute(root.mean, "keepdims", 1):
            return "its mean drops the axis"
        if match.bare and _width(x) is None:
            return f"the size of x's last axis is not known: {x.shape}"
        return read_elsewhere(root.nodes, {*root.nodes, match.node})

    def construct(self, match: Rms, memo: dict) -> None:
        graph, x = match.node.graph, match.x
        assert graph is not None
        epsilon = scalar(match.root.epsilon) or 0.0
        for reader, gain in match.gains:
            array = _evaluate(gain)
            assert array is not None
            if constant(gain) is None or array.ndim != 1:
                gain = add_constant(graph, f"{gain.name}.gain", array.reshape(-1))
            _write(reader, x, gain, epsilon)
        if match.bare:
            width = _width(x)
            assert width is not None and x.dtype is not None
            key = (width, x.dtype)
            if key not in memo:
                ones = np.ones(width, dtype=x.dtype.numpy())
                memo[key] = add_constant(graph, f"ones_{width}", ones)
            _write(match.node, x, memo[key], epsilon)


def _read_root(value: ir.Value | None) -> Root | None:
    """Follow roots, reciprocals and one sum back to the mean of a power; None if there is none."""
    exponent, epsilon, inside = 1.0, None, True
    nodes: list[ir.Node] = []
    node = producer(value)
    while node is not None and node.op_type != "ReduceMean":
        nodes.append(node)
        following = node.inputs[0]
        if node.op_type == "Reciprocal":
            exponent *= -1.0
        elif node.op_type == "Div" and scalar(node.inputs[0]) == 1.0:
            exponent, following = -exponent, node.inputs[1]
        elif node.op_type == "Sqrt":
            exponent *= 0.5
        elif node.op_type == "Pow" and (power := scalar(node.inputs[1])) is not None:
            exponent *= power
        elif node.op_type == "Add" and epsilon is None:
            known = [constant(v) is not None for v in node.inputs]
            if known.count(True) != 1:
                return None
            epsilon, following = node.inputs[known.index(True)], node.inputs[known.index(False)]
        else:
            return None
        # A root between the mean and epsilon: (mean^a + ε)^b.
        inside = inside and (epsilon is None or node.op_type == "Add")
        node = producer(following)
    if node is None:
        return None
    square = producer(node.inputs[0], "Pow", "Mul")
    if square is None or (square.op_type == "Mul" and square.inputs[0] is not square.inputs[1]):
        return None
    return Root(node, square, exponent, epsilon, inside, (square, node, *reversed(nodes)))


def _width(x: ir.Value) -> int | None:
    """The fixed size of x's last axis, or None."""
    size = x.shape[-1] if x.shape else None
    return size if isinstance(size, int) else None


def _gain(reader: ir.Node, norm: ir.Node, width: int | None) -> ir.Value | None:
    """The constant, one number per channel, that `reader` multiplies the norm by, or None."""
    if reader.domain or reader.op_type != "Mul" or width is None:
        return None
    other = reader.inputs[0 if reader.inputs[1] is norm.outputs[0] else 1]
    array, rank = _evaluate(other), len(norm.outputs[0].shape or ())
    if array is None or not 1 <= array.ndim <= rank:
        return None
    return other if array.shape == (1,) * (array.ndim - 1) + (width,) else None


def _evaluate(value: ir.Value | None) -> np.ndarray | None:
    """The array of a constant, or of a sum of two: 1 + w is still a sum where w is large."""
    array = constant(value)
    added = producer(value, "Add")
    if array is not None or added is None:
        return array
    one, two = (constant(v) for v in added.inputs)
    return None if one is None or two is None else one + two


def _write(old: ir.Node, x: ir.Value, gain: ir.Value, epsilon: float) -> None:
    given = {"axis": -1, "epsilon": epsilon, "stash_type": 1}
    supplant(old.outputs[0], "RMSNormalization", x, gain, **given)
