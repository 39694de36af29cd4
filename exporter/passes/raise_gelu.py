"""raise-gelu: the Gaussian error linear unit becomes one op."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from goldfold.exporter.ir.program import constant
from goldfold.exporter.passes.base import Equality, Pass
from goldfold.exporter.passes.rewriting.pattern import producer, read_elsewhere, scalar
from goldfold.exporter.passes.rewriting.writer import supplant

Polynomial = dict[tuple[int, int], float]
"""(i, j) → c stands for a sum of c · xⁱ · bⁱ, where b is the result of the Tanh or Erf."""

_ROOT = math.sqrt(2.0 / math.pi)
ARGUMENTS: dict[str, Polynomial] = {
    "Tanh": {(1, 0): _ROOT, (3, 0): _ROOT * 0.044715},
    "Erf": {(1, 0): math.sqrt(0.5)},
}
"""The argument of ONNX's Gelu, by the op that bends it."""
GELU: Polynomial = {(1, 0): 0.5, (1, 1): 0.5}
"""x/2 + x·b/2: these constants are exact in any float."""

ROUNDING = 2.0**-22
"""The largest relative distance of a coefficient from the defined one.

A constant of the graph is a real number rounded to f32, so off by at most 2^-24 of itself, and no
coefficient here is a product of more than three of them; the fourth part is for the f64 arithmetic.
"""

ARITHMETIC = ("Mul", "Div", "Add", "Sub", "Neg")

_REACH = 8
"""The most nodes on one way between x and the result; the longest known spelling has five."""


@dataclass(frozen=True)
class Bent:
    node: ir.Node
    x: ir.Value
    bend: ir.Node
    """The Tanh or Erf."""
    argument: Polynomial
    inner: frozenset[ir.Node]
    """All nodes between x and `node`."""


@dataclass(frozen=True)
class RaiseGelu(Pass):
    """Arithmetic around a tanh or an erf that computes a GELU becomes Gelu.

    The pattern is not a list of spellings: result and argument are multiplied out as polynomials of
    x and of the result of the tanh or erf, and the polynomials are compared. ALBERT and T5 write
    `gelu_new` out. The examples are in f64, and have √(2/π) and 0.044715 as ONNX's own definition
    of Gelu has them, from f32.

    holds:
        x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³))) = Gelu(x; tanh) and
        x/2 · (1 + erf(x/√2)) = Gelu(x; none)

    needs:
        each coefficient is the number above, as three roundings to f32 may leave it: within 2^-22
        of itself. That moves the result by at most 2^-24 |x|, since |u| sech²(u) and |u| erf′(u)
        are below 1/2. Only the pattern itself reads the values between x and the result.

    before: as ALBERT and T5 spell it
        f (double[B,T,6] x) => (double[B,T,6] y)
        {
            half = Constant <value: tensor = double {0.5}> ()
            one = Constant <value: tensor = double {1.0}> ()
            three = Constant <value: tensor = int64 {3}> ()
            c = Constant <value: tensor = double {0.044714998453855515}> ()
            root = Constant <value: tensor = double {0.7978845447087116}> ()
            h = Mul(x, half)
            p = Pow(x, three)
            q = Mul(p, c)
            s = Add(x, q)
            u = Mul(s, root)
            t = Tanh(u)
            v = Add(t, one)
            y = Mul(h, v)
        }

    after: as ALBERT and T5 spell it
        f (double[B,T,6] x) => (double[B,T,6] y)
        {
            y = Gelu <approximate: string = "tanh"> (x)
        }

    before: with x · x · x, another order, and the half last
        f (double[B,6] x) => (double[B,6] y)
        {
            half = Constant <value: tensor = double {0.5}> ()
            one = Constant <value: tensor = double {1.0}> ()
            c = Constant <value: tensor = double {0.044714998453855515}> ()
            root = Constant <value: tensor = double {0.7978845447087116}> ()
            a = Mul(x, root)
            b = Mul(c, x)
            d = Mul(b, x)
            e = Add(one, d)
            u = Mul(a, e)
            t = Tanh(u)
            v = Add(one, t)
            w = Mul(v, x)
            y = Mul(half, w)
        }

    after: with x · x · x, another order, and the half last
        f (double[B,6] x) => (double[B,6] y)
        {
            y = Gelu <approximate: string = "tanh"> (x)
        }

    before: with erf
        f (double[B,6] x) => (double[B,6] y)
        {
            half = Constant <value: tensor = double {0.5}> ()
            one = Constant <value: tensor = double {1.0}> ()
            root = Constant <value: tensor = double {1.4142135623730951}> ()
            u = Div(x, root)
            e = Erf(u)
            v = Add(e, one)
            h = Mul(half, v)
            y = Mul(x, h)
        }

    after: with erf
        f (double[B,6] x) => (double[B,6] y)
        {
            y = Gelu(x)
        }

    refuses: the tanh's factor is 0.8
        # says its tanh is of 0.8 x + 0.035772 x^3, not of 0.797885 x + 0.0356774 x^3
        f (double[B,6] x) => (double[B,6] y)
        {
            half = Constant <value: tensor = double {0.5}> ()
            one = Constant <value: tensor = double {1.0}> ()
            three = Constant <value: tensor = int64 {3}> ()
            c = Constant <value: tensor = double {0.044714998453855515}> ()
            root = Constant <value: tensor = double {0.8}> ()
            h = Mul(x, half)
            p = Pow(x, three)
            q = Mul(p, c)
            s = Add(x, q)
            u = Mul(s, root)
            t = Tanh(u)
            v = Add(t, one)
            y = Mul(h, v)
        }

    refuses: x is squared, not cubed
        # says its tanh is of 0.797885 x + 0.0356774 x^2, not of 0.797885 x + 0.0356774 x^3
        f (double[B,6] x) => (double[B,6] y)
        {
            half = Constant <value: tensor = double {0.5}> ()
            one = Constant <value: tensor = double {1.0}> ()
            c = Constant <value: tensor = double {0.044714998453855515}> ()
            root = Constant <value: tensor = double {0.7978845447087116}> ()
            h = Mul(x, half)
            p = Mul(x, x)
            q = Mul(p, c)
            s = Add(x, q)
            u = Mul(s, root)
            t = Tanh(u)
            v = Add(t, one)
            y = Mul(h, v)
        }

    refuses: the erf is an output as well
        # says e, inside the pattern, is an output of the graph
        f (double[B,6] x) => (double[B,6] y, double[B,6] e)
        {
            half = Constant <value: tensor = double {0.5}> ()
            one = Constant <value: tensor = double {1.0}> ()
            root = Constant <value: tensor = double {1.4142135623730951}> ()
            u = Div(x, root)
            e = Erf(u)
            v = Add(e, one)
            h = Mul(half, v)
            y = Mul(x, h)
        }
    """

    equality: ClassVar[Equality] = Equality.REAL

    def match(self, node: ir.Node) -> Bent | None:
        if node.domain or node.op_type not in ("Mul", "Div", "Add"):
            return None
        bends = {n for n in _behind(node) if n.op_type in ARGUMENTS}
        if len(bends) != 1:
            return None
        (bend,) = bends
        argument = bend.inputs[0]
        assert argument is not None
        for x in _values_behind(argument):
            inner: set[ir.Node] = {bend}
            bent = _expand(argument, {x: (1, 0)}, inner)
            result = _expand(node.outputs[0], {x: (1, 0), bend.outputs[0]: (0, 1)}, inner)
            if bent is not None and result == GELU:
                return Bent(node, x, bend, bent, frozenset(inner - {node}))
        return None

    def refuses(self, match: Bent) -> str | None:
        wanted, op = ARGUMENTS[match.bend.op_type], match.bend.op_type.lower()
        if not _close(match.argument, wanted):
            return f"its {op} is of {_words(match.argument)}, not of {_words(wanted)}"
        return read_elsewhere(match.inner, {*match.inner, match.node})

    def construct(self, match: Bent, memo: dict) -> None:
        approximate = "tanh" if match.bend.op_type == "Tanh" else "none"
        supplant(match.node.outputs[0], "Gelu", match.x, approximate=approximate)


def _behind(node: ir.Node, depth: int = 4) -> set[ir.Node]:
    """`node`, and the nodes that it is computed from by arithmetic alone."""
    found = {node}
    if depth and node.op_type in ARITHMETIC:
        for value in node.inputs:
            made = producer(value, *ARITHMETIC, *ARGUMENTS)
            if made is not None:
                found |= _behind(made, depth - 1)
    return found


def _values_behind(value: ir.Value) -> list[ir.Value]:
    """Candidates for the x of which `value` is a polynomial, nearest first."""
    found = [value]
    for current in found:
        if len(found) > 2 * _REACH:
            break
        node = producer(current, *ARITHMETIC, "Pow")
        for given in node.inputs if node is not None else ():
            if given is not None and given not in found and constant(given) is None:
                found.append(given)
    return found


def _expand(
    value: ir.Value | None,
    atoms: dict[ir.Value, tuple[int, int]],
    inner: set[ir.Node],
    depth: int = _REACH,
) -> Polynomial | None:
    """`value` multiplied out over the atoms, or None if it is no polynomial of them.

    Adds the nodes in between to `inner`.
    """
    if value in atoms:
        return {atoms[value]: 1.0}
    number = scalar(value)
    if number is not None:
        return {(0, 0): number}
    node = producer(value)
    if node is None or depth == 0:
        return None
    inner.add(node)
    parts: list[Polynomial] = []
    for given in node.inputs:
        part = _expand(given, atoms, inner, depth - 1)
        if part is None:
            return None
        parts.append(part)
    last = scalar(node.inputs[-1])
    match node.op_type:
        case "Mul":
            return _product(*parts)
        case "Add":
            return _sum(*parts)
        case "Sub":
            return _sum(parts[0], _product(parts[1], {(0, 0): -1.0}))
        case "Neg":
            return _product(parts[0], {(0, 0): -1.0})
        case "Div" if last:
            return _product(parts[0], {(0, 0): 1.0 / last})
        case "Pow" if last == 2.0:
            return _product(parts[0], parts[0])
        case "Pow" if last == 3.0:
            return _product(parts[0], _product(parts[0], parts[0]))
    return None


def _sum(a: Polynomial, b: Polynomial) -> Polynomial:
    return {k: a.get(k, 0.0) + b.get(k, 0.0) for k in a.keys() | b.keys()}


def _product(a: Polynomial, b: Polynomial) -> Polynomial:
    total: Polynomial = {}
    for (i, j), c in a.items():
        for (k, m), d in b.items():
            total = _sum(total, {(i + k, j + m): c * d})
    return total


def _close(found: Polynomial, wanted: Polynomial) -> bool:
    return found.keys() == wanted.keys() and all(
        abs(found[k] - wanted[k]) <= ROUNDING * abs(wanted[k]) for k in wanted
    )


def _words(argument: Polynomial) -> str:
    """`0.797885 x + 0.0356774 x^3`"""
    terms = [(power, c) for (power, _), c in sorted(argument.items()) if c]
    return " + ".join(f"{c:g} x^{p}" if p > 1 else f"{c:g} x" if p else f"{c:g}" for p, c in terms)
