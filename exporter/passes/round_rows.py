"""round-rows: a row of activations is rounded to 8 bits with its own step, and multiplied as
integers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir.derivation import Expr, literal
from goldfold.exporter.ir.program import add_constant, constant
from goldfold.exporter.passes.base import Equality, Pass
from goldfold.exporter.passes.quantize_weights import FINER, dynamic_group
from goldfold.exporter.passes.rewriting.grid import paired
from goldfold.exporter.passes.rewriting.pattern import attribute, producer
from goldfold.exporter.passes.rewriting.writer import Writer, module_of, take_over

_TINY = 1e-30
"""The least size of a row: a row of zeros has no step of its own."""
_FLOAT, _BYTE, _INT, _INT8 = (
    ir.TensorType(kind)
    for kind in (ir.DataType.FLOAT, ir.DataType.UINT8, ir.DataType.INT32, ir.DataType.INT8)
)


@dataclass(frozen=True)
class Product:
    """A matrix product of x with integers [inputs, channels] and a scale per channel."""

    node: ir.Node
    x: ir.Value
    numbers: ir.Value
    scale: ir.Value
    dequantize: ir.Node


@dataclass(frozen=True)
class Row:
    """A rounded value: near = x / step as floats, `bytes` the nearest numbers + 128."""

    near: ir.Value
    bytes: ir.Value
    step: ir.Value
    kept: ir.Value | None
    """The channels that are not rounded."""
    places: ir.Value | None


@dataclass(frozen=True)
class RoundRows(Pass):
    """The input of an integer linear map is rounded to 8 bits at run time, each row (the channels
    of one token) with a step of its own, so that no token depends on another, on neighbours in the
    batch or on padding. The product is of bytes and 8-bit weights, in ONNX's own MatMulInteger.

    Channels that are far larger than the others would set the step of every row: a few of them,
    found on calibration texts, stay floating point and are multiplied with the same integers. Where
    8 bits of a value are too few, it has two parts: what the first rounding left is rounded again,
    254 times as fine.

    ONNX Runtime multiplies bytes with the instructions of VNNI where a processor has them. Without
    (AVX2) it adds products of two neighbouring inputs in 16 bits, where a sum above 32,767 is cut:
    so two neighbouring weights of one sign may not exceed 128 together, since 255 · 128 = 32,640.

    holds:
        x = r · (n + e) + k, r = max|x − k| / 127, |e| ≤ 1/2, or 1/508 in two parts; n the integers,
        k the channels that are kept. The sums of n · Q are exact integers, so that every processor
        gives the same

    needs:
        a recipe that lets activations be rounded (`dynamic`); weights of 8 bits, a scale per
        channel, neighbours of one sign that are at most 128 together

    options: rows of their own steps
        always: 1

    before: rows of their own steps
        # w: -64 to 64
        f (float[B,T,6] x, int8[6,4] w, float[4] s) => (float[B,T,4] y)
        {
            d = DequantizeLinear <axis: int = 1> (w, s)
            y = MatMul(x, d)
        }

    after: rows of their own steps
        f (float[B,T,6] x, int8[6,4] w, float[4] s) => (float[B,T,4] y)
        {
            last = Constant <value_ints: ints = [-1]> ()
            tiny = Constant <value: tensor = float {1e-30}> ()
            most = Constant <value: tensor = float {127}> ()
            one = Constant <value: tensor = float {1}> ()
            middle = Constant <value: tensor = uint8 {128}> ()
            sizes = Abs(x)
            reach = ReduceMax(sizes, last)
            size = Max(reach, tiny)
            finer = Div(most, size)
            step = Div(size, most)
            near = Mul(x, finer)
            n = QuantizeLinear(near, one, middle)
            sums = MatMulInteger(n, w, middle)
            product = Cast <to: int = 1> (sums)
            stepped = Mul(product, step)
            y = Mul(stepped, s)
        }

    options: a channel is kept
        always: 1
        kept: x = 3

    before: a channel is kept
        # w: -64 to 64
        f (float[B,T,6] x, int8[6,4] w, float[4] s) => (float[B,T,4] y)
        {
            d = DequantizeLinear <axis: int = 1> (w, s)
            y = MatMul(x, d)
        }

    after: a channel is kept
        none

    options: two maps, one of two parts
        always: 1
        parts: v = 2

    before: two maps, one of two parts
        # w: -64 to 64
        # v: -64 to 64
        f (float[B,T,6] x, int8[6,4] w, float[4] s, int8[6,4] v, float[4] r)
            => (float[B,T,4] y, float[B,T,4] z)
        {
            a = DequantizeLinear <axis: int = 1> (w, s)
            y = MatMul(x, a)
            b = DequantizeLinear <axis: int = 1> (v, r)
            z = MatMul(x, b)
        }

    after: two maps, one of two parts
        none

    options: an input that stays floating point
        always: 1
        parts: w = 0

    ignores: an input that stays floating point
        f (float[B,T,6] x, int8[6,4] w, float[4] s) => (float[B,T,4] y)
        {
            d = DequantizeLinear <axis: int = 1> (w, s)
            y = MatMul(x, d)
        }

    options: blocks
        always: 1

    refuses: blocks
        # says a channel has more than one scale
        f (float[B,T,6] x, int8[6,4] w, float[2,4] s) => (float[B,T,4] y)
        {
            d = DequantizeLinear <axis: int = 0, block_size: int = 3> (w, s)
            y = MatMul(x, d)
        }

    options: large neighbours
        always: 1

    refuses: large neighbours
        # says two neighbouring weights exceed 128 together
        f (float[B,T,2] x, float[1] s) => (float[B,T,1] y)
        {
            w = Constant <value: tensor = int8[2,1] {100, 60}> ()
            d = DequantizeLinear <axis: int = 1> (w, s)
            y = MatMul(x, d)
        }

    ignores: nothing lets it round
        f (float[B,T,6] x, int8[6,4] w, float[4] s) => (float[B,T,4] y)
        {
            d = DequantizeLinear <axis: int = 1> (w, s)
            y = MatMul(x, d)
        }
    """

    equality: ClassVar[Equality] = Equality.BOUND
    bound: ClassVar[str] = (
        "tests/exporter/quantize/test_laws.py::test_integers_are_within_half_a_step"
    )
    always: bool | int = False
    """Whether to round although the graph does not say that it may (DYNAMIC)."""
    kept: Any = field(default=(), compare=False)
    """Channels that stay floating point, by the name of the value, as pairs or a mapping; those
    that the graph names (FINER) are kept as well."""
    parts: Any = field(default=(), compare=False)
    """Parts of the input of integers, by their name, as pairs or a mapping: 2, or 0 where it is not
    rounded; likewise."""

    def match(self, node: ir.Node) -> Product | None:
        if node.domain or node.op_type != "MatMul" or node.graph is None:
            return None
        dequantize = producer(node.inputs[1], "DequantizeLinear")
        x = node.inputs[0]
        if dequantize is None or x is None or x.dtype != ir.DataType.FLOAT:
            return None
        if not (self.always or dynamic_group(_main(node))):  # type: ignore[arg-type]
            return None
        numbers, scale = dequantize.inputs[:2]
        if numbers is None or scale is None or constant(numbers) is None:
            return None
        if self._finer(node)[1].get(numbers.name or "") == 0:
            return None
        return Product(node, x, numbers, scale, dequantize)

    def refuses(self, match: Product) -> str | None:
        node, numbers = match.dequantize, constant(match.numbers)
        assert numbers is not None
        if match.numbers.dtype != ir.DataType.INT8 or numbers.ndim != 2:
            return f"its weights are of {match.numbers.dtype}, not a matrix of 8 bits"
        if any(value is not None for value in node.inputs[2:]):
            return "its weights have a zero"
        if attribute(node, "block_size", 0) or attribute(node, "axis", 1) not in (1, -1):
            return "a channel has more than one scale"
        if match.x.shape is None or match.x.shape[-1] != numbers.shape[0]:
            return "the size of its rows is not known"
        if not np.array_equal(paired(np.asarray(numbers).T), np.asarray(numbers).T):
            return "two neighbouring weights exceed 128 together: 16 bits may not hold their sums"
        return None

    def construct(self, match: Product, memo: dict) -> None:
        node = match.node
        kept, parts = self._finer(node)
        write = _Rows(match, memo)
        row = write.row(kept.get(match.x.name or "", ()))
        product = write.product(row.bytes, "sums")
        if parts.get(match.numbers.name or "") == 2:
            finest = write.constant("1/254", np.float32(1 / 254))
            rest = write.product(write.rest(row), "rest")
            product = write("Add", product, write("Mul", rest, finest, name="small"), name="both")
        value = write("Mul", product, row.step, name="stepped")
        if row.kept is not None:
            rows = write("Gather", match.numbers, row.places, name="kept.rows", axis=0, type=_INT8)
            whole = write("Cast", rows, name="kept.weights", to=ir.DataType.FLOAT.value)
            value = write("Add", value, write("MatMul", row.kept, whole, name="kept"), name="sum")
        take_over(node.outputs[0], write("Mul", value, match.scale, name="scaled"))

    def _finer(self, node: ir.Node) -> tuple[dict[str, Any], dict[str, int]]:
        """The channels that are kept, by value, and the parts of what integers meet, by theirs."""
        text = _main(node).metadata_props.get(FINER)
        kept, parts = _parsed(text) if text else ({}, {})
        return {**kept, **dict(self.kept)}, {**parts, **dict(self.parts)}


def _main(node: ir.Node) -> ir.Graph:
    assert node.graph is not None
    return node.graph  # type: ignore[return-value]


@lru_cache(maxsize=4)
def _parsed(text: str) -> tuple[dict[str, list[int]], dict[str, int]]:
    found = json.loads(text)
    return found["kept"], found["parts"]


class _Rows(Writer):
    """Writes in front of one product; what several products read is made once."""

    def __init__(self, match: Product, memo: dict) -> None:
        super().__init__(match.node, match.node.outputs[0].name or "", module_of(match.x))
        self.match, self.memo = match, memo

    def __call__(self, op: str, *inputs: Any, name: str, **attributes: Any) -> ir.Value:
        kind = attributes.pop("type", _FLOAT)
        return super().__call__(op, *inputs, name=name, type=kind, **attributes)

    def constant(self, name: str, array: np.ndarray | np.generic) -> ir.Value:
        if name not in self.memo:
            self.memo[name] = add_constant(self.graph, f"rows.{name}", np.asarray(array))
        return self.memo[name]

    def product(self, given: ir.Value, name: str) -> ir.Value:
        middle = self.constant("middle", np.uint8(128))
        sums = self("MatMulInteger", given, self.match.numbers, middle, name=name, type=_INT)
        return self("Cast", sums, name=f"{name}.float", to=ir.DataType.FLOAT.value)

    def row(self, channels: Any) -> Row:
        """The input of the product, rounded."""
        x, name = self.match.x, self.match.x.name or ""
        if x in self.memo:
            return self.memo[x]  # type: ignore[return-value]
        self.stem, own = name, self.stem
        kept = places = None
        wide, width = x, x.shape[-1]  # type: ignore[index]
        if channels := sorted({channels} if isinstance(channels, float | int) else channels):
            at = np.array(channels, np.int64)
            places = add_constant(self.graph, f"{name}.kept.channels", at)
            kept = self("Gather", x, places, name="kept.channel", axis=-1)
            mask, how = _mask(at, int(width))  # type: ignore[arg-type]
            wide = self("Mul", x, add_constant(self.graph, f"{name}.mask", mask, how), name="wide")
        last, most = self.constant("last", np.array([-1])), self.constant("most", np.float32(127))
        reach = self("ReduceMax", self("Abs", wide, name="sizes"), last, name="reach")
        size = self("Max", reach, self.constant("tiny", np.float32(_TINY)), name="size")
        near = self("Mul", wide, self("Div", most, size, name="finer"), name="near")
        found = Row(
            near, self.bytes(near, 1.0, "bytes"), self("Div", size, most, name="step"), kept, places
        )
        self.stem, self.memo[x] = own, found  # type: ignore[assignment]
        return found

    def bytes(self, near: ir.Value, step: float, name: str) -> ir.Value:
        size, middle = self.constant(f"{step:g}", np.float32(step)), np.uint8(128)
        middle = self.constant("middle", middle)
        return self("QuantizeLinear", near, size, middle, name=name, type=_BYTE)

    def rest(self, row: Row) -> ir.Value:
        """The second part: what the first left, 254 times as fine."""
        if row not in self.memo:
            self.stem, own = self.match.x.name or "", self.stem
            one, middle = self.constant("1", np.float32(1)), self.constant("middle", np.uint8(128))
            back = self("DequantizeLinear", row.bytes, one, middle, name="first")
            left = self("Sub", row.near, back, name="left")
            self.memo[row] = self.bytes(left, 1 / 254, "left.bytes")
            self.stem = own
        return self.memo[row]


def _mask(channels: np.ndarray, width: int) -> tuple[np.ndarray, Expr]:
    """f32 [width], 0 at `channels` and 1 elsewhere, and its derivation, run by run."""
    mask = np.ones(width, np.float32)
    mask[channels] = 0
    edges = np.flatnonzero(np.diff(mask)) + 1
    runs = np.split(mask, edges)
    how = [literal(run) for run in runs]
    return mask, how[0] if len(how) == 1 else Expr("concat", (0, *how))
