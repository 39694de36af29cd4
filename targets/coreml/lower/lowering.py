"""ONNX program → one MIL function of static length, node by node through the rows of an op table.

The program is evaluated in part during the walk: values that depend on constants and on sizes alone
(positions, masks of bands, rotary tables) are computed here and become constants, so that the
function holds only what depends on the text. A node whose op has no row is a RewriteError that
names the op, the node and the source module.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from goldfold.exporter.errors import GoldfoldError, RewriteError, TargetError
from goldfold.exporter.ir import dialect
from goldfold.exporter.ir.program import Program, constant, where
from goldfold.targets.coreml.lower import integers, vendor
from goldfold.targets.coreml.lower.fold import fold
from goldfold.targets.coreml.lower.vendor import System

_RESERVED = frozenset({
    "any", "bool", "program", "func", "tensor", "list", "dict", "tuple", "true", "false", "string",
    "state", "bf16", "fp16", "fp32", "fp64", "int8", "int16", "int32", "int64", "uint8", "uint16",
    "uint32", "uint64",
})  # fmt: skip
"""Words of MIL's own text form, which cannot name a value."""

_RANKS = 5
"""Maximum dimensions of a Core ML tensor."""

KINDS = {
    ir.DataType.FLOAT: "fp32",
    ir.DataType.FLOAT16: "fp16",
    ir.DataType.INT64: "int32",
    ir.DataType.INT32: "int32",
    ir.DataType.BOOL: "bool",
}
"""MIL's word for an ONNX type. MIL's integers have 32 bits, except for quantized numbers."""

Row = Callable[["Emit", ir.Node], Any]
"""A row writes one node: it returns a MIL var, a list of them, or an array that is now known."""


def spelled(name: str) -> str:
    """Returns the MIL name of an ONNX value called `name`: letters, digits and underscores."""
    word = re.sub(r"[^A-Za-z0-9_]", "_", name)
    if not re.match(r"[A-Za-z]", word):
        word = f"v{word}"
    return f"{word}_" if word.lower() in _RESERVED else word


@dataclass
class Function:
    """A function under construction: the known facts on every ONNX value, and the names in use."""

    program: Program
    system: System
    mb: Any
    rows: dict[str, Row]
    known: dict[ir.Value, np.ndarray] = field(default_factory=dict)
    vars: dict[ir.Value, Any] = field(default_factory=dict)
    integers: dict[ir.Value, integers.Integers] = field(default_factory=dict)
    """Constants that stay integers in the file."""
    done: set[ir.Node] = field(default_factory=set)
    memo: dict[Any, Any] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)

    def free(self, wish: str) -> str:
        """Returns `wish` as a MIL name, with a number behind it if it is taken."""
        word, number = spelled(wish), 2
        while word in self.taken:
            word = f"{spelled(wish)}_{number}"
            number += 1
        self.taken.add(word)
        return word

    def array(self, value: ir.Value | None) -> np.ndarray | None:
        """Returns the numbers of `value` if they are known while building, otherwise None."""
        if value is None:
            return None
        return self.known[value] if value in self.known else constant(value)

    def const(self, array: np.ndarray, label: str, weight: str | None = None) -> Any:
        """Returns a MIL constant; one of more than a few numbers lies in the weight file once,
        whichever functions hold it: as `weight` if given, otherwise by its content. A weight is not
        copied."""
        array = _narrow(array)
        if weight is None:
            held = array.tobytes()
            held = hashlib.sha256(held).hexdigest().encode() if len(held) > 64 else held
            key = (held, array.dtype.str, array.shape)
            weight = f"{key}"
        else:
            key = weight
        if key not in self.memo:
            value = array if array.ndim else array[()]
            made = self.mb.const(val=value, name=self.free(label))
            made.op.weight_id = weight
            self.memo[key] = made
            if weight is not key and array.size > 1:
                self.program.spelled.append((made.name, array))
        return self.memo[key]


@dataclass
class Emit:
    """The tool with which a row writes: one node, its operands, and MIL ops named after it."""

    function: Function
    node: ir.Node

    def known(self, index: int) -> np.ndarray | None:
        """Returns operand `index` as an array if it is known while building."""
        return self.function.array(self.operand(index))

    def integers(self, index: int) -> integers.Integers | None:
        """Returns operand `index` if it is a constant that stays integers."""
        value = self.operand(index)
        return None if value is None else self.function.integers.get(value)

    def operand(self, index: int) -> ir.Value | None:
        """Returns operand `index` as an ONNX value; None if it is left out."""
        inputs = self.node.inputs
        return inputs[index] if index < len(inputs) else None

    def var(self, index: int) -> Any:
        """Returns operand `index` as a MIL var."""
        value = self.operand(index)
        if value is None:
            raise self.fault(f"its input {index} is missing")
        return self.of(value)

    def of(self, value: ir.Value) -> Any:
        """Returns an ONNX value as a MIL var: a constant is written when it is first read."""
        function = self.function
        if value in function.vars:
            return function.vars[value]
        if value in function.integers:
            return integers.opened(self, function.integers[value])
        array = function.array(value)
        if array is None:
            raise self.fault(f"its input {value.name} was never written")
        weight = value.name if value.const_value is not None else None
        return function.const(array, value.name or "constant", weight)

    def constant(self, array: np.ndarray, label: str, weight: str | None = None) -> Any:
        """Returns a MIL constant called after this node and `label`."""
        return self.function.const(array, f"{self.name}.{label}", weight)

    def attribute(self, name: str, default: Any = None) -> Any:
        found = self.node.attributes.get(name)
        return default if found is None else found.value

    @property
    def name(self) -> str:
        return self.node.outputs[0].name or self.node.name or self.node.op_type

    def __call__(self, op: str, part: str | None = None, **inputs: Any) -> Any:
        """Writes the MIL op `op`, named after the node's result; with `part`, an intermediate op
        named after both."""
        maker = getattr(self.function.mb, op, None)
        self._check_system(op)
        assert maker is not None, op
        wish = self.name if part is None else f"{self.name}.{part}"
        try:
            made = maker(**inputs, name=self.function.free(wish))
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise self.fault(f"MIL's {op} refuses it: {reason}") from error
        for var in made if isinstance(made, (list, tuple)) else (made,):
            if len(var.shape) > _RANKS:
                raise self.fault(f"it has {len(var.shape)} dimensions; Core ML takes {_RANKS}")
        return made

    def shared(self, key: Any, make: Callable[[], Any]) -> Any:
        """Returns the result of `make`, written once per function and key: masks that all layers
        share."""
        memo = self.function.memo
        if key not in memo:
            memo[key] = make()
        return memo[key]

    def has(self, op: str) -> bool:
        """Returns whether the system has MIL's `op`."""
        return self._first_with(op) is None

    def fault(self, reason: str) -> RewriteError:
        return cannot_spell(self.node, reason)

    def _check_system(self, op: str) -> None:
        first = self._first_with(op)
        if first is not None:
            raise self.too_old(f"MIL's {op}", first)

    def _first_with(self, op: str) -> str | None:
        """Returns the first system with MIL's `op`, if the present one lacks it."""
        from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

        versions = SSAOpRegistry.core_ops.get(op)
        if not versions or self.function.system.word in versions:
            return None
        return min(versions, key=int).name

    def too_old(self, what: str, first: str) -> TargetError:
        """Returns the error for a feature that only `first` and later systems have."""
        return TargetError(
            f"{dialect.op_of(self.node)} (node {self.node.name}, from {where(self.node)}) "
            f"needs {what}, which {self.function.system.name} does not have; "
            f"give --minimum-target {first}"
        )


def cannot_spell(node: ir.Node, reason: str = "") -> RewriteError:
    """Returns the error for a node that no row can write."""
    why = f": {reason}" if reason else ""
    return RewriteError(
        f"coreml cannot spell {dialect.op_of(node)} (node {node.name}, from {where(node)}){why}"
    )


def check(program: Program, rows: dict[str, Row]) -> None:
    """Raise RewriteError for the first node whose op has no row and is no constant."""
    for node in program.graph:
        if dialect.op_of(node) not in rows and any(
            value is not None and constant(value) is None for value in node.inputs
        ):
            raise cannot_spell(node)


def write(function: Function, inputs: dict[str, Any]) -> list[Any]:
    """Walk the program inside an open MIL function whose placeholders are `inputs`, by name.

    Returns the vars of the graph's outputs, in order, each under its own name. Raises RewriteError
    for a node that no row can write, TargetError for an op that the system does not have.
    """
    graph = function.program.graph
    function.taken |= {spelled(value.name or "") for value in graph.outputs} | set(inputs)
    for value in graph.inputs:
        function.vars[value] = inputs[value.name or ""]
    for node in graph:
        if node not in function.done:
            _one(function, node)
    return [_output(function, value) for value in graph.outputs]


def _one(function: Function, node: ir.Node) -> None:
    emit = Emit(function, node)
    arrays = [function.array(value) for value in node.inputs]
    known = all(a is not None or v is None for a, v in zip(arrays, node.inputs, strict=True))
    opens = dialect.op_of(node) == "DequantizeLinear"  # folded, it would be stored in floats
    if known and not opens:
        for value, array in zip(node.outputs, fold(node, arrays), strict=True):
            function.known[value] = array
        return
    row = function.rows.get(dialect.op_of(node))
    if row is None:
        raise cannot_spell(node)
    try:
        made = row(emit, node)
    except GoldfoldError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise cannot_spell(node, reason) from error
    if made is None:  # the row has set the results itself
        return
    for value, result in zip(
        node.outputs, made if isinstance(made, (list, tuple)) else (made,), strict=False
    ):
        if isinstance(result, np.ndarray):
            function.known[value] = result
        else:
            function.vars[value] = result


def _output(function: Function, value: ir.Value) -> Any:
    producer = value.producer()
    if producer is None:
        raise RewriteError(f"the output {value.name} is an input or a constant of the graph")
    name = spelled(value.name or "")
    return function.mb.identity(x=Emit(function, producer).of(value), name=name)


def _narrow(array: np.ndarray) -> np.ndarray:
    """Returns the array in a type that MIL has: 64-bit numbers in 32 bits where they fit."""
    if array.dtype == np.int64:
        if array.size and (array.min() < -(2**31) or array.max() >= 2**31):
            raise RewriteError(f"a constant reaches {np.abs(array).max()}, beyond 32 bits")
        return array.astype(np.int32)
    return array.astype(np.float32) if array.dtype == np.float64 else array


def opened(program: Program, system: System, rows: dict[str, Row]) -> Function:
    """Returns a Function ready to be written."""
    return Function(program, system, vendor.builder(), rows)
