"""share-constants: equal arrays become one constant."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir.program import constant
from goldfold.exporter.passes.base import Equality, Pass

_LOOK = 64
"""Numbers compared before a large array is read whole: different weights differ in them."""


@dataclass(frozen=True)
class Doubles:
    node: ir.Node
    repeats: tuple[tuple[int, ir.Value], ...]
    """(index of the input, the earlier constant that equals it)"""


@dataclass(frozen=True)
class ShareConstants(Pass):
    """Two constants with the same type, shape and bytes become one.

    holds:
        a = b, so f(a) = f(b)

    needs:
        the same bits: −0 is not 0, and a NaN equals a NaN of the same bits. Names do not
        count.

    before:
        f (float[B,4] x, float[4,4] w) => (float[B,4] y)
        {
            a = Constant <value_float: float = 2.0> ()
            b = Constant <value_float: float = 2.0> ()
            p = Mul(x, a)
            q = MatMul(p, w)
            y = Mul(q, b)
        }

    after:
        f (float[B,4] x, float[4,4] w) => (float[B,4] y)
        {
            a = Constant <value_float: float = 2.0> ()
            p = Mul(x, a)
            q = MatMul(p, w)
            y = Mul(q, a)
        }

    ignores: they differ
        f (float[B,4] x) => (float[B,4] y)
        {
            a = Constant <value_float: float = 0.0> ()
            b = Constant <value_float: float = -0.0> ()
            p = Max(x, a)
            y = Max(p, b)
        }
    """

    equality: ClassVar[Equality] = Equality.EXACT

    def match(self, node: ir.Node) -> Doubles | None:
        repeats = []
        for index, value in enumerate(node.inputs):
            if value is not None and value.is_initializer() and value.graph is not None:
                first = _first_equal(value, value.graph)
                if first is not value:
                    repeats.append((index, first))
        return Doubles(node, tuple(repeats)) if repeats else None

    def refuses(self, match: Doubles) -> str | None:
        return None  # equal bits suffice, and match has compared them

    def construct(self, match: Doubles, memo: dict) -> None:
        for index, first in match.repeats:
            match.node.replace_input_with(index, first)


def _first_equal(value: ir.Value, graph: ir.Graph) -> ir.Value:
    """The first constant of the graph with the same bits; `value` itself if it is the first."""
    key = _key(value)
    for other in graph.initializers.values():
        if other is value:
            return value
        if _key(other) == key and _same_bits(other, value):
            return other
    return value


def _key(value: ir.Value) -> tuple | None:
    """Type, shape and a digest of the first numbers: cheap, and unequal for almost all unequal
    arrays."""
    tensor = value.const_value
    if tensor is None:
        return None
    known = value.meta.get("goldfold.key")
    if known is None or known[0] is not tensor:
        array = tensor.numpy()
        head = np.ascontiguousarray(array.reshape(-1)[:_LOOK]).tobytes()
        digest = hashlib.sha256(head).digest()
        known = (tensor, (tensor.dtype, tuple(tensor.shape), digest))
        value.meta["goldfold.key"] = known
    return known[1]


def _same_bits(one: ir.Value, other: ir.Value) -> bool:
    a, b = constant(one), constant(other)
    if a is None or b is None:
        return False
    return a is b or np.array_equal(_bits(a), _bits(b))


def _bits(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
