"""quantize-weights: constant matrices become integers and scales."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import ml_dtypes
import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir.derivation import chosen, derived, literal
from goldfold.exporter.ir.program import add_constant, constant, unique_name
from goldfold.exporter.passes.base import Equality, Pass
from goldfold.exporter.passes.rewriting.grid import Grid, Quantized, nearest
from goldfold.exporter.passes.rewriting.rounding import rounding
from goldfold.exporter.passes.rewriting.writer import Writer, append

DYNAMIC = "goldfold.dynamic_quantization_group_size"
"""A graph's metadata: the groups in which a runtime may round the inputs of integer maps."""

FINER = "goldfold.finer_activations"
"""A graph's metadata: JSON of `kept`, the channels that stay floating point where activations are
rounded, by value, and of `parts`: 2 where the input of integers is rounded in two parts, 0 where it
is not rounded, by their names."""


def dynamic_group(graph: ir.Graph) -> int:
    """A graph's value for DYNAMIC; 0 if it has none."""
    return int(graph.metadata_props.get(DYNAMIC, "0"))


@dataclass(frozen=True)
class Held:
    """A constant matrix and its reader."""

    node: ir.Node
    index: int
    stored: ir.Value
    transposed: bool
    """Whether the graph holds [inputs, channels] rather than [channels, inputs]."""


GRID = Grid(8)
"""The grid of every matrix where no plan gives another."""


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """A constant matrix of a linear map, or a table for lookups, is stored as integers with a scale
    per channel, or a scale per block of neighbouring inputs, behind a DequantizeLinear. A table may
    leave one factor per column to the multiplication behind the lookup: one column of
    EmbeddingGemma's table is the largest of nearly every row, and would set the scale of all
    others.

    `plan` decides on the integers (exporter/quantize/plan.py); without a plan, all matrices are
    rounded to the nearest of 8 bits, with a scale per channel.

    holds:
        W = s · Q + E with |E| ≤ s/2 where Q is the nearest integer; the golden texts measure the
        effect of E on the result

    needs:
        only linear maps and lookups of one kind read the matrix

    before: a scale per channel
        f (float[B,8] x, float[8,6] w) => (float[B,6] y)
        {
            y = MatMul(x, w)
        }

    after: a scale per channel
        f (float[B,8] x, int8[8,6] w, float[6] s) => (float[B,6] y)
        {
            d = DequantizeLinear <axis: int = 1> (w, s)
            y = MatMul(x, d)
        }

    before: a table
        f (int64[B,T] ids, float[5,6] table) => (float[B,T,6] y)
        {
            y = Gather(table, ids)
        }

    after: a table
        f (int64[B,T] ids, int8[5,6] table, float[5] s) => (float[B,T,6] y)
        {
            d = DequantizeLinear <axis: int = 0> (table, s)
            y = Gather(d, ids)
        }
    """

    equality: ClassVar[Equality] = Equality.BOUND
    bound: ClassVar[str] = (
        "tests/exporter/quantize/test_laws.py::test_integers_are_within_half_a_step"
    )
    plan: Mapping[str, Quantized] | None = field(default=None, compare=False)
    """By the name of the constant, which no pass may rename in between; None quantizes all."""
    dynamic: int = 0
    """The number of inputs per group in which runtimes may round the inputs of integer maps at run
    time; the graph states it in DYNAMIC, and 0 forbids the rounding."""
    kept: Mapping[str, tuple[int, ...]] = field(default_factory=dict, compare=False)
    """Channels that a runtime leaves in floating point where it rounds a value, by its name; the
    graph states them in FINER."""
    parts: Mapping[str, int] = field(default_factory=dict, compare=False)
    """Parts of a matrix's input, by its name, where they are not one; likewise."""

    def match(self, node: ir.Node) -> Held | None:
        if node.domain or node.op_type not in ("Gather", "MatMul", "Gemm"):
            return None
        index = 0 if node.op_type == "Gather" else 1
        stored = node.inputs[index]
        if stored is None or stored.const_value is None or len(stored.const_value.shape) != 2:
            return None
        if stored.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
            return None
        if self.plan is not None and stored.name not in self.plan:
            return None
        flipped = node.attributes.get("transB")
        transposed = index == 1 and (flipped is None or not flipped.value)
        return Held(node, index, stored, transposed)

    def refuses(self, match: Held) -> str | None:
        tensor = match.stored.const_value
        assert tensor is not None
        rows, columns = (int(size) for size in tensor.shape)  # type: ignore[arg-type]
        inputs = rows if match.transposed else columns
        planned = None if self.plan is None else self.plan[match.stored.name or ""]
        grid = GRID if planned is None else planned.grid
        if grid.block and inputs % grid.block:
            return f"{inputs} inputs are no whole number of blocks of {grid.block}"
        if grid.bits in (5, 6) and match.index != 0:
            return f"{grid.bits} bits would take the place of 8, and it is no table to be packed"
        if grid.bits == 4 and columns % 2:
            return "rows of odd width share a byte"
        if planned is not None and planned.columns is not None and match.index != 0:
            return "its inputs have factors of their own, and it is no table"
        return None

    def construct(self, match: Held, memo: dict) -> None:
        key = (match.stored, match.transposed)
        if key not in memo:
            memo[key] = self._write(match)
        match.node.replace_input_with(match.index, memo[key])
        planned = None if self.plan is None else self.plan[match.stored.name or ""]
        if planned is not None and planned.columns is not None:
            _multiply(match.node, planned.columns)

    def _write(self, match: Held) -> ir.Value:
        graph, stored = match.node.graph, match.stored
        assert graph is not None
        if self.dynamic:
            graph.metadata_props[DYNAMIC] = str(self.dynamic)
            if self.kept or self.parts:
                named = {f"{name}.int8": count for name, count in self.parts.items()}
                graph.metadata_props[FINER] = json.dumps({"kept": dict(self.kept), "parts": named})
        array = constant(stored)
        assert array is not None
        matrix = array.T if match.transposed else array
        planned = None if self.plan is None else self.plan[stored.name or ""]
        found = planned or nearest(np.asarray(matrix), GRID)
        scale = derived(found.scale, chosen(found.scale))
        numbers = derived(found.numbers, rounding(matrix, found, scale.derivation))
        if match.transposed:
            numbers, scale = numbers.T, scale.T
        axis = 1 if match.transposed else 0
        attributes: dict[str, int] = {"axis": axis}
        if found.grid.block:
            attributes = {"axis": 1 - axis, "block_size": found.grid.block}
        else:
            scale = scale.reshape(-1)
        held = numbers.astype(ml_dtypes.int4) if found.grid.bits == 4 else numbers
        assert stored.dtype is not None
        inputs = [
            add_constant(graph, f"{stored.name}.int{found.grid.bits}", held),
            add_constant(graph, f"{stored.name}.scale", scale.astype(stored.dtype.numpy())),
        ]
        return Writer(match.node, stored.name or "")(
            "DequantizeLinear", *inputs, name="dequantized", type=stored.type, shape=stored.shape,
            **attributes,
        )  # fmt: skip


def _multiply(lookup: ir.Node, columns: np.ndarray) -> None:
    """Multiply the looked-up rows by one number per column: in the factor behind the lookup, if
    there is one."""
    graph, value = lookup.graph, lookup.outputs[0]
    assert graph is not None and value.dtype is not None
    name, columns = f"{value.name}.columns", columns.astype(value.dtype.numpy())
    readers = list(value.uses())
    if len(readers) == 1 and not value.is_graph_output():
        reader, index = readers[0]
        factor = constant(reader.inputs[1 - index]) if reader.op_type == "Mul" else None
        if factor is not None and factor.size in (1, columns.size):
            both = add_constant(graph, name, factor.reshape(-1) * columns)
            reader.replace_input_with(1 - index, both)
            return
    factors = add_constant(graph, name, columns, literal(columns))
    append(value, "Mul", factors, name=unique_name(graph, f"{value.name}.scaled"))
