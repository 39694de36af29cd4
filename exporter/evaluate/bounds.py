"""Bounds on every floating value of a Program that hold for every text: any ids of the vocabulary,
any length up to the contract's, any padding, any batch.

Each op has a rule that turns bounds on its inputs into bounds on its result (extent_*.py). Nothing
is run and nothing is drawn: the weights alone decide. Rounding to each value's declared type is
part of it, and so are the errors of sums. An op without a rule has no bound, and the reason says
so.

The bounds hold in the order of the graph. A rule may hold for every finite input and no other (a
norm has its ball whatever it reads); the first value of a run that is not finite is therefore one
that has no bound below its type's end here, and where there is none, every value is finite.

Assumed, not proved: sums of products are accumulated in f32 or better, activations, softmax and
norms are computed in f32 and rounded once, as in exporter/evaluate/emulate.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from goldfold.exporter.contract import ATTENTION_MASK, INPUT_IDS
from goldfold.exporter.evaluate import extent_arithmetic, extent_moves, extent_products
from goldfold.exporter.evaluate.extent import (
    BRAIN,
    EXACT,
    HALF,
    SINGLE,
    Extent,
    Rounding,
    Sizes,
    between,
    fitted,
    of_constant,
    unbounded,
)
from goldfold.exporter.evaluate.ranges import SCORES
from goldfold.exporter.ir import dialect
from goldfold.exporter.ir.program import TOKENS, Program, constant, infer_shapes
from goldfold.exporter.passes.rewriting.pattern import attribute, producer

RULES = {**extent_moves.RULES, **extent_arithmetic.RULES, **extent_products.RULES}
"""The rule of each op; `Split` alone has several results and stands in extent_moves.py."""
_EXACT = frozenset(extent_moves.RULES) - {"RotaryEmbedding"} | {"Split", "Shape", "Size", "Range"}
"""Ops whose results are numbers of their inputs."""
_ROUNDINGS = {
    ir.DataType.FLOAT: SINGLE,
    ir.DataType.FLOAT16: HALF,
    ir.DataType.BFLOAT16: BRAIN,
}
_END = float(np.finfo(np.float32).max)
_INSIDE = 4
"""Roundings to f32 that an op may make inside before its result is rounded to its type: library
functions of f32 are off by less than two units in the last place, which are four roundings."""


@dataclass(frozen=True)
class Bounds:
    """Bounds on |x| by the name of a floating value, and the reasons why others have none."""

    largest: dict[str, float]
    """Infinite where there is no bound. `OUTPUT.scores` bounds the scores inside a
    BandAttention."""
    over: dict[str, str]
    """The reason by value, where there is no bound."""


def of(program: Program, half: bool = False) -> Bounds:
    """Bounds on all values of `program`, which is left alone. With `half`, every f32 value and
    weight is taken to be rounded to fp16 as well: for a program that is about to be."""
    copy = program.copy()
    infer_shapes(copy.model)
    known = Known(copy, half)
    largest: dict[str, float] = {}
    over: dict[str, str] = {}
    for node in copy.graph:
        for value, extent in zip(node.outputs, known.after(node), strict=False):
            if not value.name or value.dtype is None or not value.dtype.is_floating_point():
                continue
            largest[value.name] = found = extent.largest
            if not math.isfinite(found):
                over[value.name] = extent.over or f"{node.op_type} has no bound here"
        if dialect.is_band_attention(node) and node.outputs[0].name:
            largest[f"{node.outputs[0].name}{SCORES}"] = extent_products.scores(node, known)
    return Bounds(largest, over)


class Known:
    """All that is known of a graph so far. The rules read it."""

    tokens = TOKENS

    def __init__(self, program: Program, half: bool) -> None:
        self._half, self._longest = half, float(program.contract.max_length)
        self._extents: dict[ir.Value, Extent] = {}
        self._tables: dict[int, tuple[np.ndarray, np.ndarray, float]] = {}
        last = max(program.contract.vocab_size - 1, 1)
        for value in program.graph.inputs:
            named = {INPUT_IDS: between(0, last), ATTENTION_MASK: between(0, 1)}
            found = named.get(value.name or "")
            self._extents[value] = fitted(
                found or unbounded(f"the input {value.name}"), self.sizes(value)
            )

    def after(self, node: ir.Node) -> list[Extent]:
        """The extents of a node's results, which are known from now on."""
        op = dialect.op_of(node)
        if op == "Split":
            found = extent_moves.split(node, self)
        elif op == "Constant":
            array = constant(node.outputs[0])
            found = [unbounded("a Constant of no numbers") if array is None else of_constant(array)]
        elif op in RULES:
            found = [RULES[op](node, self)]
        else:
            found = [unbounded(f"{op} has no rule")]
        found += [unbounded(f"a further result of {op}")] * (len(node.outputs) - len(found))
        for place, value in enumerate(node.outputs):
            extent = fitted(found[place], self.sizes(value))
            self._extents[value] = found[place] = self._rounded(value, op, extent)
        return found

    def _rounded(self, value: ir.Value, op: str, extent: Extent) -> Extent:
        if value.dtype is None or not value.dtype.is_floating_point() or op == "Constant":
            return extent
        lookup = self._half and op in ("Gather", "DequantizeLinear")
        if op in _EXACT and not lookup:
            return extent
        rounding = self._rounding(value)
        if op != "Cast":
            extent = SINGLE.of(extent, _INSIDE)
        found = rounding.of(extent)
        if value.dtype != ir.DataType.FLOAT16 and found.largest > _END:
            return fitted(unbounded(found.over or f"{op} may leave f32"), self.sizes(value))
        if extent.mass is not None:
            count = self.keys(self.width(value))
            found = Extent(
                found.lo, found.hi, found.ball,
                extent.mass * (1 + rounding.unit) + rounding.tiny * count, False, found.over,
            )  # fmt: skip
        return found

    def _rounding(self, value: ir.Value) -> Rounding:
        found = _ROUNDINGS.get(value.dtype or ir.DataType.FLOAT, EXACT)
        return HALF if self._half and found is SINGLE else found

    # --- what rules ask

    def of(self, value: ir.Value | None) -> Extent:
        """The extent of a value."""
        if value is None:
            return between(0, 0)
        if value not in self._extents:
            array = constant(value)
            found = unbounded("a value of no node") if array is None else of_constant(array)
            self._extents[value] = fitted(found, self.sizes(value))
        return self._extents[value]

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
        found = self._rounding(value)
        return found.unit, found.tiny

    def weights(self, value: ir.Value | None) -> tuple[float, float]:
        """The same of weights that are still to be rounded; zeros where they are as they are."""
        array = constant(value)
        rounds = self._half and (array is None or array.dtype == np.float32)
        return (HALF.unit, HALF.tiny) if rounds else (0.0, 0.0)

    def constant(self, value: ir.Value | None) -> np.ndarray | None:
        """The numbers of a constant."""
        return constant(value)

    def table(self, value: ir.Value, table: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Least and largest number of each column, and the length of the longest row."""
        key = id(value.const_value)
        if key not in self._tables:
            self._tables[key] = extent_moves.table_facts(table)
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
