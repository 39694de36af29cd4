"""Sites are the places where a program can be quantized: its tables of embeddings and its linear
maps, each with its role.

The graph around a map decides its role, and names never do: a map whose result reaches the second
operand of attention makes keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from goldfold.exporter.contract import INPUT_IDS
from goldfold.exporter.ir import dialect
from goldfold.exporter.ir.program import Program, constant, where
from goldfold.exporter.passes.rewriting.attention import is_lookup
from goldfold.exporter.passes.rewriting.linear import Linear, linear_ending_at
from goldfold.exporter.passes.rewriting.pattern import chooses
from goldfold.exporter.quantize.recipe import Kind

_OPERANDS: tuple[Kind, ...] = ("query", "key", "value")
_POINTWISE = frozenset({"Mul", "Add", "Div", "Sub", "Pow", "Clip", "Cast"})


@dataclass(frozen=True)
class Site:
    """One constant matrix that can be integers."""

    kind: Kind
    node: ir.Node
    """The Gather, MatMul or Gemm that reads the matrix."""
    linear: Linear | None
    """None for a table."""
    depth: int = 0
    """The number of layers that end in front of the site, counted by their last map (`down`)."""
    layers: int = 0
    """The number of layers in the program."""

    @property
    def place(self) -> str:
        """The source module, as `encoder.layers.3.mlp.down_proj`."""
        return where(self.node)

    @property
    def stored(self) -> ir.Value:
        """The constant as the graph holds it."""
        value = self.node.inputs[1 if self.linear is not None else 0]
        assert value is not None
        return value

    @property
    def turned(self) -> bool:
        """Whether the graph holds [inputs, channels]."""
        flipped = self.node.attributes.get("transB")
        return self.linear is not None and (flipped is None or not flipped.value)

    @property
    def x(self) -> ir.Value | None:
        """The input of a linear map; None for a table."""
        return None if self.linear is None else self.linear.x

    @property
    def matrix(self) -> np.ndarray:
        """[channels, inputs]: one row per token of a table, one row per output of a map. A view."""
        if self.linear is not None:
            return np.asarray(self.linear.weight.T)
        table = constant(self.stored)
        assert table is not None
        return np.asarray(table)


def find(program: Program) -> list[Site]:
    """Every site of `program` in the graph's order. Call it after the common passes, which decide
    which maps there are."""
    found = list(_sites(program))
    layers = sum(site.kind == "down" for site in found)
    return [replace(site, layers=layers) for site in found]


def _sites(program: Program) -> Iterator[Site]:
    depth = 0
    for node in program.graph:
        if is_lookup(node):
            # Position and token-type tables are small; rounding them gains nothing, nor does it of
            # one number a token.
            if _of_tokens(node.inputs[1]) and _width(node) > 1:
                yield Site("table", node, None)
            continue
        linear = linear_ending_at(node)
        # A router is small as well, and rounding it sends tokens to other experts.
        if linear is not None and min(linear.weight.shape) > 1 and not chooses(linear.product):
            kind = _kind(linear)
            yield Site(kind, linear.product, linear, depth)
            depth += kind == "down"


def _of_tokens(ids: ir.Value | None) -> bool:
    """Whether a lookup is by the ids of the tokens, or by the rows that a list gives them."""
    maker = None if ids is None else ids.producer()
    if maker is not None and maker.op_type == "Squeeze":
        listed = None if maker.inputs[0] is None else maker.inputs[0].producer()
        ids = listed.inputs[1] if listed is not None and is_lookup(listed) else None
    return ids is not None and ids.name == INPUT_IDS


def _width(lookup: ir.Node) -> int:
    table = constant(lookup.inputs[0])
    return 0 if table is None else table.shape[-1]


def _kind(linear: Linear) -> Kind:
    shape = linear.x.shape
    if shape is not None and len(shape) == 2:
        return "head"
    operands = _operands(linear.output)
    if operands:
        return _OPERANDS[operands.pop()] if len(operands) == 1 else "other"
    if _from_attention(linear.x):
        return "output"
    if _computed_by_activation(linear.x):
        return "down"
    if _enters_activation(linear.output):
        return "gate" if _gates(linear.output) else "up"
    return "up" if _is_gated(linear.output) else "other"


def _operands(value: ir.Value) -> set[int]:
    """The operands of attention, out of q, k, v (0, 1, 2), that `value` becomes."""
    found: set[int] = set()
    for reader, index in value.uses():
        if dialect.is_band_attention(reader):
            found.add(index)
        elif reader.op_type in dialect.CARRIES and index == 0:
            for output in reader.outputs:
                found |= _operands(output)
    return {index for index in found if index < len(_OPERANDS)}


def _from_attention(value: ir.Value) -> bool:
    node = value.producer()
    if node is None:
        return False
    if dialect.is_band_attention(node):
        return True
    source = node.inputs[0] if node.inputs else None
    return node.op_type in dialect.CARRIES and source is not None and _from_attention(source)


def _computed_by_activation(value: ir.Value) -> bool:
    """Whether an activation function stands between `value` and the maps it is computed from."""
    node = value.producer()
    if node is None or node.domain:
        return False
    if node.op_type in dialect.ACTIVATIONS:
        return True
    return node.op_type in {*_POINTWISE, "Reshape"} and any(
        _computed_by_activation(operand) for operand in node.inputs if operand is not None
    )


def _enters_activation(value: ir.Value) -> bool:
    """Whether an activation function reads `value`, perhaps after arithmetic with constants."""
    for reader, _ in value.uses():
        if reader.domain:
            continue
        if reader.op_type in dialect.ACTIVATIONS:
            return True
        lone = sum(constant(operand) is None for operand in reader.inputs) == 1
        if reader.op_type in _POINTWISE and lone and _enters_activation(reader.outputs[0]):
            return True
    return False


def _gates(value: ir.Value) -> bool:
    """Whether the value, after pointwise ops, is multiplied by another map's result."""
    return any(
        product is not None and not _descends(product, value)
        for product in _partners(value, through=True)
    )


def _is_gated(value: ir.Value) -> bool:
    """Whether `value` is multiplied by the result of an activation."""
    return any(_computed_by_activation(partner) for partner in _partners(value, through=False))


def _partners(value: ir.Value, through: bool) -> Iterator[ir.Value]:
    """The other operand of every product that `value` enters; with `through`, behind activations
    and pointwise arithmetic as well."""
    for reader, index in value.uses():
        if reader.domain:
            continue
        if reader.op_type == "Mul":
            other = reader.inputs[1 - index]
            if other is not None and constant(other) is None:
                yield other
        if through and reader.op_type in (dialect.ACTIVATIONS | _POINTWISE):
            yield from _partners(reader.outputs[0], through)


def _descends(value: ir.Value, ancestor: ir.Value) -> bool:
    """Whether pointwise arithmetic and activations alone lead from `ancestor` to `value`."""
    if value is ancestor:
        return True
    node = value.producer()
    if node is None or node.domain or node.op_type not in (dialect.ACTIVATIONS | _POINTWISE):
        return False
    return any(_descends(operand, ancestor) for operand in node.inputs if operand is not None)
