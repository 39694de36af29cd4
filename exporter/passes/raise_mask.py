"""raise-mask: arithmetic on a mask of zeros and ones becomes a choice between two numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from goldfold.exporter.contract import ATTENTION_MASK
from goldfold.exporter.ir.program import add_constant, constant, where
from goldfold.exporter.passes.base import Equality, Pass
from goldfold.exporter.passes.rewriting.columns import moves
from goldfold.exporter.passes.rewriting.pattern import producer
from goldfold.exporter.passes.rewriting.writer import emit, take_over

_HIDES = 1000.0
"""A number this far below zero hides a token and is never computed with: e^-1000 is 0."""
_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide,
}  # fmt: skip
_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE)
_KINDS = (*_FLOATS, ir.DataType.INT64, ir.DataType.INT32)


@dataclass(frozen=True)
class TwoValued:
    """A value that is `one` where `source` is `seen`, and `other` elsewhere."""

    source: ir.Value
    """The two-valued value itself, or booleans."""
    seen: Any
    """1 for booleans."""
    one: Any
    other: Any


@dataclass(frozen=True)
class Hiding:
    node: ir.Node
    made: TwoValued


@dataclass(frozen=True)
class RaiseMask(Pass):
    """(1 − m)·c, for a mask m of zeros and ones, becomes a choice between 0 and c.

    c is a number that hides a token, down to the lowest there is. A compiler that knows the rules
    of arithmetic rewrites the product to c − c·m, and where a bias b is added, to (c + b) − c·m: it
    computes the sum once, and there c swallows the digits of b. OpenVINO does that to ALiBi and to
    relative positions where lengths are fixed. A choice cannot be multiplied out.

    holds:
        (1 − m)·c = c where m = 0, 0 where m = 1, and neither is rounded

    needs:
        m was made of booleans, or of the attention mask, which holds zeros and ones; one of the two
        numbers is below −1,000, and both are finite

    before:
        f (bool[B,T] padding, float[B,H,T,T] s) => (float[B,H,T,T] y)
        {
            m = Cast <to: int = 1> (padding)
            axes = Constant <value_ints: ints = [1, 2]> ()
            wide = Unsqueeze(m, axes)
            one = Constant <value_float: float = 1.0> ()
            hidden = Sub(one, wide)
            lowest = Constant <value_float: float = -1e30> ()
            mask = Mul(hidden, lowest)
            y = Add(s, mask)
        }

    after:
        f (bool[B,T] padding, float[B,H,T,T] s) => (float[B,H,T,T] y)
        {
            m = Cast <to: int = 1> (padding)
            axes = Constant <value_ints: ints = [1, 2]> ()
            wide = Unsqueeze(m, axes)
            condition = Cast <to: int = 9> (wide)
            zero = Constant <value_float: float = 0.0> ()
            lowest = Constant <value_float: float = -1e30> ()
            mask = Where(condition, zero, lowest)
            y = Add(s, mask)
        }

    before: a mask that was chosen before, and arithmetic behind it
        f (bool[B,T] padding, float[B,T] s) => (float[B,T] y)
        {
            two = Constant <value_float: float = 2.0> ()
            one = Constant <value_float: float = 1.0> ()
            m = Where(padding, two, one)
            less = Sub(m, two)
            large = Constant <value_float: float = 8192.0> ()
            mask = Mul(less, large)
            y = Add(s, mask)
        }

    after: a mask that was chosen before, and arithmetic behind it
        f (bool[B,T] padding, float[B,T] s) => (float[B,T] y)
        {
            zero = Constant <value_float: float = 0.0> ()
            lowest = Constant <value_float: float = -8192.0> ()
            mask = Where(padding, zero, lowest)
            y = Add(s, mask)
        }

    before: a number with axes of its own
        f (bool[B,T] padding, float[B,T] s) => (float[B,T] y)
        {
            m = Cast <to: int = 1> (padding)
            one = Constant <value_floats: floats = [1.0]> ()
            hidden = Sub(one, m)
            lowest = Constant <value_floats: floats = [-1e30]> ()
            mask = Mul(hidden, lowest)
            y = Add(s, mask)
        }

    after: a number with axes of its own
        f (bool[B,T] padding, float[B,T] s) => (float[B,T] y)
        {
            zero = Constant <value_float: float = 0.0> ()
            lowest = Constant <value_float: float = -1e30> ()
            mask = Where(padding, zero, lowest)
            y = Add(s, mask)
        }

    ignores: a mask of numbers
        f (float[B,T] m, float[B,T] s) => (float[B,T] y)
        {
            one = Constant <value_float: float = 1.0> ()
            hidden = Sub(one, m)
            lowest = Constant <value_float: float = -1e30> ()
            mask = Mul(hidden, lowest)
            y = Add(s, mask)
        }

    ignores: numbers to compute with
        f (bool[B,T] padding, float[B,T] s) => (float[B,T] y)
        {
            m = Cast <to: int = 1> (padding)
            one = Constant <value_float: float = 1.0> ()
            hidden = Sub(one, m)
            weight = Constant <value_float: float = -10.0> ()
            mask = Mul(hidden, weight)
            y = Add(s, mask)
        }
    """

    equality: ClassVar[Equality] = Equality.REAL

    def match(self, node: ir.Node) -> Hiding | None:
        made = _made(node)
        if made is None or min(made.one, made.other) > -_HIDES:
            return None
        floating = node.outputs[0].dtype in _FLOATS
        if not floating or not np.isfinite([made.one, made.other]).all():
            return None
        readers = [reader for reader, _ in node.outputs[0].uses()]
        if readers and all(_made(reader) is not None for reader in readers):
            return None  # the last of a chain is the choice
        return Hiding(node, made)

    def refuses(self, match: Hiding) -> str | None:
        return None

    def construct(self, match: Hiding, memo: dict) -> None:
        node, made = match.node, match.made
        graph, old = node.graph, node.outputs[0]
        assert graph is not None
        stem = old.name or where(node)

        def number(value: Any, name: str) -> ir.Value:
            return add_constant(graph, f"{stem}.{name}", np.array(value) + 0)  # no −0

        condition = made.source
        if condition.dtype != ir.DataType.BOOL:
            given, op, to = [condition], "Cast", {"to": ir.DataType.BOOL.value}
            if not _is_binary(condition):
                given, op, to = [condition, number(made.seen, "one")], "Equal", {}
            condition = emit(node, op, given, f"{stem}.seen", condition, condition.shape, **to)
            condition.type = ir.TensorType(ir.DataType.BOOL)
        numbers = [number(made.one, "real"), number(made.other, "hidden")]
        choice = emit(node, "Where", [condition, *numbers], f"{stem}.choice", old, old.shape)
        take_over(old, choice)


def _made(node: ir.Node) -> TwoValued | None:
    """The two numbers that result from arithmetic on a mask and a number."""
    kind = node.outputs[0].dtype
    if node.domain or kind not in _KINDS or kind is None:
        return None
    if node.op_type == "Neg":
        found = _two_valued(node.inputs[0])
        return found and replace(found, one=-found.one, other=-found.other)
    if node.op_type not in _ARITHMETIC:
        return None
    for index in (0, 1):
        number = constant(node.inputs[1 - index])
        if number is None or not _single(number, node.inputs[index]):
            continue
        found = _two_valued(node.inputs[index])
        if found is None:
            continue
        single = number.reshape(())
        with np.errstate(all="ignore"):
            ends = (
                _ARITHMETIC[node.op_type](*((end, single[()]) if index == 0 else (single[()], end)))
                for end in (found.one, found.other)
            )
            one, other = (np.asarray(end).astype(kind.numpy())[()] for end in ends)
        return replace(found, one=one, other=other)
    return None


def _two_valued(value: ir.Value | None) -> TwoValued | None:
    if value is None or value.const_value is not None or value.dtype is None:
        return None
    node, kind = producer(value), value.dtype.numpy()
    found = None if node is None else _made(node)
    if node is not None and node.op_type == "Cast":
        found = _two_valued(node.inputs[0])
        found = found and replace(
            found, one=np.asarray(found.one, kind)[()], other=np.asarray(found.other, kind)[()]
        )
    if found is not None:
        return found
    if _is_binary(value):
        return TwoValued(value, kind.type(1), kind.type(1), kind.type(0))
    if node is not None and node.op_type == "Where":
        one, other = (constant(v) for v in node.inputs[1:])
        condition = node.inputs[0]
        if one is None or other is None or condition is None:
            return None
        if not (_single(one, condition) and _single(other, condition)):
            return None
        return TwoValued(condition, 1, one.reshape(())[()], other.reshape(())[()])
    found = _two_valued(node.inputs[0]) if node is not None and moves(node) else None
    return found and TwoValued(value, found.one, found.one, found.other)  # of another shape


def _single(number: np.ndarray, beside: ir.Value | None) -> bool:
    """Whether a constant is one number, and has no more axes than the value beside it, whose shape
    is then the result's."""
    axes = None if beside is None or beside.shape is None else len(beside.shape)
    return number.size == 1 and (number.ndim == 0 or (axes is not None and number.ndim <= axes))


def _is_binary(value: ir.Value | None) -> bool:
    """Whether a value holds only zeros and ones."""
    if value is None:
        return False
    array = constant(value)
    if array is not None:
        return bool(np.isin(array, (0, 1)).all())
    if value.dtype == ir.DataType.BOOL or (value.name == ATTENTION_MASK and not value.producer()):
        return True
    node = producer(value)
    if node is None:
        return False
    if node.op_type in ("Cast", "Expand", "Identity") or moves(node):
        return _is_binary(node.inputs[0])
    if node.op_type == "Sub":
        array = constant(node.inputs[0])
        return array is not None and bool((array == 1).all()) and _is_binary(node.inputs[1])
    return node.op_type in ("Mul", "Min", "Max") and all(map(_is_binary, node.inputs))
