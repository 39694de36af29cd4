"""All that the analysis of bounds knows of a graph while it walks through it."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from goldfold.exporter.contract import ATTENTION_MASK, INPUT_IDS
from goldfold.exporter.evaluate.extent import (
    BRAIN,
    EXACT,
    HALF,
    SINGLE,
    Extent,
    Rounding,
    Sizes,
    between,
    extremes,
    fitted,
    longest_row,
    of_constant,
    unbounded,
)
from goldfold.exporter.ir.program import TOKENS, Program, constant
from goldfold.exporter.passes.rewriting.pattern import attribute, producer

_ROUNDINGS = {
    ir.DataType.FLOAT: SINGLE,
    ir.DataType.FLOAT16: HALF,
    ir.DataType.BFLOAT16: BRAIN,
}


class Known:
    """All that is known of a graph so far; the rules read it."""

    tokens = TOKENS

    def __init__(self, program: Program, half: bool) -> None:
        self.half, self._longest = half, float(program.contract.max_length)
        self.extents: dict[ir.Value, Extent] = {}
        self._tables: dict[int, tuple[np.ndarray, np.ndarray, float]] = {}
        last = max(program.contract.vocab_size - 1, 1)
        for value in program.graph.inputs:
            named = {INPUT_IDS: between(0, last), ATTENTION_MASK: between(0, 1)}
            found = named.get(value.name or "")
            self.extents[value] = fitted(
                found or unbounded(f"the input {value.name}"), self.sizes(value)
            )

    def rounding_of(self, value: ir.Value) -> Rounding:
        found = _ROUNDINGS.get(value.dtype or ir.DataType.FLOAT, EXACT)
        return HALF if self.half and found is SINGLE else found

    def of(self, value: ir.Value | None) -> Extent:
        """The extent of a value."""
        if value is None:
            return between(0, 0)
        if value not in self.extents:
            array = constant(value)
            found = unbounded("a value of no node") if array is None else of_constant(array)
            self.extents[value] = fitted(found, self.sizes(value))
        return self.extents[value]

    def sizes(self, value: ir.Value | None) -> Sizes | None:
        """The sizes of a value's axes: numbers, or names where the text decides."""
        if value is None or value.shape is None:
            return None
        return [size if isinstance(size, int) else size.value for size in value.shape]

    def rank(self, value: ir.Value | None) -> int | None:
        sizes = self.sizes(value)
        return None if sizes is None else len(sizes)

    def width(self, value: ir.Value | None) -> int | str | None:
        """The size of the last axis."""
        sizes = self.sizes(value)
        return sizes[-1] if sizes else None

    def count(self, size: int | str | None) -> float:
        """The most elements of an axis of this size."""
        if isinstance(size, int):
            return float(size)
        return self._longest if size == TOKENS else math.inf

    def keys(self, size: int | str | None) -> float:
        """The most elements of an axis that a softmax runs over. One of unknown size has a text's
        keys, in blocks: taken to be at most four times the longest text, or 2^16."""
        found = self.count(size)
        return found if math.isfinite(found) else max(4 * self._longest, 2.0**16)

    def rounding(self, value: ir.Value) -> tuple[float, float]:
        """The unit and half the step of subnormals of a value's type."""
        found = self.rounding_of(value)
        return found.unit, found.tiny

    def weights(self, value: ir.Value | None) -> tuple[float, float]:
        """The same of weights that are still to be rounded; zeros where they are as they are."""
        array = constant(value)
        rounds = self.half and (array is None or array.dtype == np.float32)
        return (HALF.unit, HALF.tiny) if rounds else (0.0, 0.0)

    def constant(self, value: ir.Value | None) -> np.ndarray | None:
        """The numbers of a constant."""
        return constant(value)

    def table(self, value: ir.Value, table: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Least and largest number of each column, and the length of the longest row."""
        key = id(value.const_value)
        if key not in self._tables:
            self._tables[key] = _facts(table)
        return self._tables[key]

    def matrix(self, value: ir.Value | None) -> np.ndarray | None:
        """A constant of two axes, which may be transposed, cast, or integers times their scales."""
        array = constant(value)
        if array is None:
            node = producer(value, "Transpose", "Cast", "DequantizeLinear")
            inner = None if node is None else self.matrix(node.inputs[0])
            if node is None or inner is None or inner.ndim != 2:
                return None
            if node.op_type == "DequantizeLinear":
                return _dequantized(node, inner)
            return inner.T if node.op_type == "Transpose" else inner
        return array if array.ndim == 2 else None

    def whole(self, value: ir.Value) -> tuple[float, float]:
        """The least and largest number of an integer type."""
        kind = value.dtype or ir.DataType.INT8
        if kind.is_floating_point():
            return -448.0, 448.0  # fp8 e4m3, saturating
        bits = kind.bitwidth
        signed = kind.name.startswith("INT")
        return (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)

    def repeats_along(self, value: ir.Value, axis: int) -> bool:
        """Whether all elements of `value` along an axis are the same, by an Expand from size 1."""
        node = producer(value, "Expand")
        sizes = None if node is None else self.sizes(node.inputs[0])
        return sizes is not None and len(sizes) >= -axis and sizes[axis] == 1


def _dequantized(node: ir.Node, numbers: np.ndarray) -> np.ndarray | None:
    """f64 [K, N]: (integers − zero) · scale, one scale for all, per index of an axis, or per
    block there; None if the scale is no constant."""
    scale = constant(node.inputs[1])
    zero = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if scale is None or (len(node.inputs) > 2 and node.inputs[2] is not None and zero is None):
        return None
    axis, block = int(attribute(node, "axis", 1)) % 2, int(attribute(node, "block_size", 0))

    def spread(array: np.ndarray) -> np.ndarray:
        array = array.astype(np.float64)
        if not array.ndim or array.size == 1:
            return array.reshape(())
        if block:
            return array.repeat(block, axis).take(range(numbers.shape[axis]), axis)
        return array.reshape((-1, 1) if axis == 0 else (1, -1))

    whole = numbers.astype(np.float64)
    return (whole if zero is None else whole - spread(zero)) * spread(scale)


def _facts(table: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Least and largest number of each column, and the length of the longest row."""
    lo, hi = extremes(table)
    floating = np.issubdtype(table.dtype, np.floating) or table.dtype.kind == "V"
    return lo, hi, longest_row(table) if floating else math.inf
