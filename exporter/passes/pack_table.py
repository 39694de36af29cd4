"""pack-table: a table of 7, 6 or 5 bits takes no more bytes than it needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir import derivation
from goldfold.exporter.ir.derivation import Expr
from goldfold.exporter.ir.program import constant
from goldfold.exporter.passes.base import Equality, Pass
from goldfold.exporter.passes.rewriting.lookups import Lookup, RowWriter
from goldfold.exporter.passes.rewriting.packed import PACKED
from goldfold.exporter.passes.rewriting.pattern import attribute, producer, read_elsewhere
from goldfold.exporter.passes.rewriting.writer import take_over

_CHUNK = 1 << 24
"""Bytes that are packed at once."""


@dataclass(frozen=True)
class Layout:
    """The places of a row's numbers. The first numbers, carriers, have a byte each, and use its
    lower `bits`. The other numbers are riders: the upper bits of a few carriers together hold one.
    Rider r has its lowest piece above carrier r, the next above carrier r + riders, …"""

    bits: int
    width: int
    """Numbers per row."""

    @property
    def spare(self) -> int:
        return 8 - self.bits

    @property
    def pieces(self) -> int:
        """Carriers per rider: 7 bits fill seven pieces of one bit, 5 bits two of three."""
        return -(-self.bits // self.spare)

    @property
    def riders(self) -> int:
        return self.width // (self.pieces + 1)

    @property
    def carriers(self) -> int:
        """Bytes per row."""
        return self.width - self.riders

    @property
    def offsets(self) -> np.ndarray:
        """f32 [width]: the offsets that unpacking subtracts from the joined pieces."""
        half, low = 1 << (self.bits - 1), 1 << (self.spare - 1)
        rider = half - sum(low << (self.spare * j) for j in range(self.pieces))
        return np.repeat(np.array([half, rider], np.float32), [self.carriers, self.riders])

    def pack(self, numbers: np.ndarray) -> np.ndarray:
        """int8 [rows, width] → int8 [rows, carriers]. `numbers` are read in parts."""
        packed = np.empty((len(numbers), self.carriers), np.uint8)
        step = max(1, _CHUNK // self.width)
        half, low = 1 << (self.bits - 1), 1 << (self.spare - 1)
        for start in range(0, len(numbers), step):
            codes = (numbers[start : start + step] + np.int8(half)).view(np.uint8)
            part = packed[start : start + step]
            part[:] = codes[:, : self.carriers]
            for piece in range(self.pieces):
                lent = codes[:, self.carriers :] >> (self.spare * piece) & (2 * low - 1)
                above = slice(piece * self.riders, (piece + 1) * self.riders)
                part[:, above] |= (lent ^ low) << self.bits  # − low, in two's complement
        return packed.view(np.int8)


@dataclass(frozen=True)
class PackTable(Pass):
    """A table whose integers need 7, 6 or 5 bits is stored in bytes that are all used, and
    unpacked behind the lookup. ONNX has no such types, so the rows are unpacked by Floor, Mul and
    Sub, which every runtime has: a few operations on the rows of a text, next to none of its time.

    With 6 bits, three bytes hold four numbers: three in their lower six bits, the fourth in the
    bits above. With 7 bits, seven bytes hold eight; with 5 bits, two hold three, and one bit is
    lost.

    holds:
        b = 2^n p + c with 0 ≤ c < 2^n gives p = ⌊b / 2^n⌋ and c = b − 2^n p; all of them are whole
        numbers below 2⁸, which every floating type holds, and the product with the scale is the
        one that was there before

    needs:
        rows are looked up (axis 0) in a constant table of 8-bit integers, none of which needs more
        than 7 bits, with constant scales, one per row or per block of a row, and no zero-points;
        no other op reads the table

    before: five bits, a scale per row
        f (int64[B,T] ids, int8[5,6] table, float[5] s) => (float[B,T,6] y)
        {
            d = DequantizeLinear <axis: int = 0> (table, s)  # table: -16 to 15
            y = Gather(d, ids)
        }

    after: five bits, a scale per row
        f (int64[B,T] ids, int8[5,4] bytes, float[2,1] places, float[6] less, float[5,1] s)
            => (float[B,T,6] y)
        {
            one = Constant <value_float: float = 1.0> ()
            size = Constant <value_float: float = 32.0> ()
            part = Constant <value_float: float = 0.03125> ()
            shape = Constant <value_ints: ints = [0, 0, 2, 2]> ()
            axis = Constant <value_ints: ints = [-2]> ()
            d = DequantizeLinear(bytes, one)
            b = Gather(d, ids)
            parts = Mul(b, part)
            p = Floor(parts)
            above = Mul(p, size)
            c = Sub(b, above)
            pieces = Reshape(p, shape)
            placed = Mul(pieces, places)
            riders = ReduceSum <keepdims: int = 0> (placed, axis)
            codes = Concat <axis: int = -1> (c, riders)
            n = Sub(codes, less)
            scales = Gather(s, ids)
            y = Mul(n, scales)
        }

    before: six bits, a scale per block
        f (int64[B,T] ids, int8[5,8] table, float[5,2] s) => (float[B,T,8] y)
        {
            d = DequantizeLinear <axis: int = 1, block_size: int = 4> (table, s)
            y = Gather(d, ids)  # table: -32 to 31
        }

    after: six bits, a scale per block
        none

    before: seven bits, and a row is no whole number of parts
        f (int64[B] ids, int8[5,21] table, float[5] s) => (float[B,21] y)
        {
            d = DequantizeLinear <axis: int = 0> (table, s)  # table: -64 to 63
            y = Gather(d, ids)
        }

    after: seven bits, and a row is no whole number of parts
        none

    before: two lookups, one of a row
        f (int64[B,T] ids, int64[B] first, int8[5,6] table, float[5] s)
            => (float[B,T,6] y, float[B,6] z)
        {
            d = DequantizeLinear <axis: int = 0> (table, s)  # table: -16 to 15
            y = Gather(d, ids)
            z = Gather(d, first)
        }

    after: two lookups, one of a row
        none

    refuses: columns are looked up as well
        # says it does not look up rows
        f (int64[B,T] ids, int8[5,6] table, float[5] s) => (float[B,T,6] y, float[5,B,T] z)
        {
            d = DequantizeLinear <axis: int = 0> (table, s)
            y = Gather(d, ids)
            z = Gather <axis: int = 1> (d, ids)
        }

    refuses: the last block of a row is shorter
        # says a row is no whole number of blocks
        f (int64[B] ids, int8[5,10] table, float[5,3] s) => (float[B,10] y)
        {
            d = DequantizeLinear <axis: int = 1, block_size: int = 4> (table, s)
            y = Gather(d, ids)
        }

    refuses: the scale depends on the text
        # says its scale is no constant
        f (int64[B] ids, int8[5,6] table, float[B,5] t) => (float[B,6] y)
        {
            axes = Constant <value_ints: ints = [0]> ()
            s = ReduceMax <keepdims: int = 0> (t, axes)
            d = DequantizeLinear <axis: int = 0> (table, s)
            y = Gather(d, ids)
        }

    refuses: a scale per column
        # says a scale is no row's own
        f (int64[B] ids, int8[5,6] table, float[6] s) => (float[B,6] y)
        {
            d = DequantizeLinear <axis: int = 1> (table, s)
            y = Gather(d, ids)
        }

    refuses: zero-points
        f (int64[B] ids, int8[5,6] table, float[5] s, int8[5] z) => (float[B,6] y)
        {
            d = DequantizeLinear <axis: int = 0> (table, s, z)
            y = Gather(d, ids)
        }

    refuses: rows too short for anything to ride
        # says a row of 2 is too short for 5 bits to be packed
        f (int64[B] ids, int8[5,2] table, float[5] s) => (float[B,2] y)
        {
            d = DequantizeLinear <axis: int = 0> (table, s)
            y = Gather(d, ids)
        }

    refuses: a matrix product reads the table as well
        # says MatMul (MatMul) also reads the inner DequantizeLinear
        f (int64[B] ids, float[B,6] x, int8[6,6] table, float[6] s) => (float[B,6] y)
        {
            d = DequantizeLinear <axis: int = 0> (table, s)
            e = Gather(d, ids)
            m = MatMul(x, d)
            y = Add(e, m)
        }
    """

    equality: ClassVar[Equality] = Equality.EXACT

    def match(self, node: ir.Node) -> Lookup | None:
        if node.op_type != "Gather" or node.domain:
            return None
        dequantize = producer(node.inputs[0], "DequantizeLinear")
        table = None if dequantize is None else dequantize.inputs[0]
        if dequantize is None or table is None or table.dtype != ir.DataType.INT8:
            return None
        numbers, scale = constant(table), constant(dequantize.inputs[1])
        if numbers is None or numbers.ndim != 2 or (scale is not None and not scale.ndim):
            return None  # a packed table has one scale for all numbers
        return Lookup(node, dequantize) if _bits(numbers) in PACKED else None

    def refuses(self, match: Lookup) -> str | None:
        node, gather = match.dequantize, match.gather
        numbers, scale = constant(node.inputs[0]), constant(node.inputs[1])
        assert numbers is not None
        if attribute(gather, "axis", 0) != 0:
            return "it does not look up rows"
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            return "it has zero-points"
        if scale is None:
            return "its scale is no constant"
        if attribute(node, "output_dtype", 0) not in (0, ir.DataType(node.inputs[1].dtype)):  # type: ignore[union-attr]
            return "it gives another type than its scale's"
        block = attribute(node, "block_size", 0)
        if attribute(node, "axis", 1) % 2 != int(bool(block)):
            return "a scale is no row's own"
        if block and numbers.shape[1] % block:
            return "a row is no whole number of blocks"
        if gather.inputs[1] is None or gather.inputs[1].shape is None:
            return "the shape of its indices is not known"
        bits, width = _bits(numbers), numbers.shape[1]
        if not Layout(bits, width).riders:
            return f"a row of {width} is too short for {bits} bits to be packed"
        if len(node.inputs[0].uses()) > 1:  # type: ignore[union-attr]
            return "its integers are read elsewhere"
        lookups = {
            reader
            for reader, index in node.outputs[0].uses()
            if reader.op_type == "Gather" and not index and attribute(reader, "axis", 0) == 0
        }
        return read_elsewhere([node], lookups)

    def construct(self, match: Lookup, memo: dict) -> None:
        write, node = _Rows(match, memo), match.dequantize
        numbers, scale = constant(node.inputs[0]), constant(node.inputs[1])
        assert numbers is not None and scale is not None
        layout = Layout(_bits(numbers), numbers.shape[1])
        size, kind = 1 << layout.bits, scale.dtype
        rows = write.rows(layout, numbers, kind)
        part = write("Mul", rows, write.constant("part", np.array(1 / size, kind)), name="parts")
        pieces = high = write("Floor", part, name="pieces")
        above = write("Mul", high, write.constant("size", np.array(size, kind)), name="above")
        codes = write("Sub", rows, above, name="carriers")
        used = layout.pieces * layout.riders
        if used < layout.carriers:
            ends = [
                write.constant(w, np.array([n])) for w, n in (("0", 0), ("used", used), ("-1", -1))
            ]
            pieces = write("Slice", high, *ends, name="used")
        pieces = write.reshape(pieces, [layout.pieces, layout.riders], "placed")
        places = np.array([[1 << (layout.spare * j)] for j in range(layout.pieces)], kind)
        placed = write("Mul", pieces, write.constant("places", places), name="placed")
        axis = write.constant("-2", np.array([-2]))
        riders = write("ReduceSum", placed, axis, name="riders", keepdims=0)
        codes = write("Concat", codes, riders, name="codes", axis=-1)
        less = layout.offsets.astype(kind)
        offsets = write.constant("offsets", less, derivation.literal(less))
        value = write("Sub", codes, offsets, name="numbers")
        take_over(match.gather.outputs[0], write.scaled(value, scale, layout.width))


def _bits(numbers: np.ndarray) -> int:
    """The number of bits that the numbers need, at least 5."""
    low, high = int(numbers.min(initial=0)), int(numbers.max(initial=0))
    return max(5, 1 + max(high.bit_length(), (-low - 1).bit_length() if low else 0))


class _Rows(RowWriter):
    def __init__(self, match: Lookup, memo: dict) -> None:
        table = match.dequantize.inputs[0]
        super().__init__(match, (table.name if table is not None else None) or "", memo)

    def rows(self, layout: Layout, numbers: np.ndarray, kind: np.dtype) -> ir.Value:
        """The bytes of the looked-up rows, as numbers."""
        key = (self.match.dequantize, "packed")
        if key not in self.memo:
            how = Expr("packed", (derivation.of(numbers), layout.bits))
            stored = self.constant("packed", layout.pack(numbers), how)
            one = self.constant("one", np.array(1, kind))
            self.memo[key] = self("DequantizeLinear", stored, one, name="bytes")
        return self("Gather", self.memo[key], self.ids, name="rows")

    def scaled(self, value: ir.Value, scale: np.ndarray, width: int) -> ir.Value:
        """Each number times its row's scale, or its block's; stored in fp16 where that is exact."""
        blocks = scale.shape[1] if scale.ndim == 2 else 1
        half = scale.astype(np.float16)
        exact = bool((half == scale).all())
        held = self.constant(
            "scale",
            (half if exact else scale).reshape(-1, blocks, 1)[:, *(() if blocks > 1 else (0,))],
        )
        scales = self.gather(held, "scales")
        if held.dtype != self.like.dtype:
            scales = self("Cast", scales, name="scales.wide", to=self.like.dtype.value)  # type: ignore[union-attr]
        if blocks == 1:
            return self("Mul", value, scales, name="scaled")
        parts = self.reshape(value, [blocks, width // blocks], "blocks")
        return self.reshape(self("Mul", parts, scales, name="scaled"), [width], "whole")
