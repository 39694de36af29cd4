"""set-opset: the graph of the dialect's opset becomes one of an older opset."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import onnx.defs
import onnx.helper
import onnx_ir as ir

from goldfold.exporter.ir import dialect
from goldfold.exporter.ir.opsets import Use, fault, file_version, lacking, newer
from goldfold.exporter.passes.base import Equality, Log, Pass
from goldfold.exporter.passes.rewriting.older import Spelling
from goldfold.exporter.passes.rewriting.pattern import attribute, integers


@dataclass(frozen=True)
class SetOpset(Pass):
    """Nodes whose inputs or attributes have changed since `opset` are written as that opset has
    them, and the model then says that it is of `opset`, in the file format that came with it.

    Whether a node has changed is read from ONNX's own schemas: the inputs, attributes and types
    that its op takes in that opset. What an op computes of them has not changed between opset 17
    and 23.

    holds:
        op₂₃(x, axes) = op₁₇(x; axes), and an attribute that has no effect may be left out

    needs:
        no op, type or value that is newer than the opset; the axes of a reduction are constant; a
        Split without sizes has equal parts

    options: reductions
        opset: 17

    before: reductions
        f (float[B,T,6] x) => (float[B,6] y, float[B,T,1] z)
        {
            axis = Constant <value_ints: ints = [1]> ()
            last = Constant <value_ints: ints = [-1]> ()
            y = ReduceMax <keepdims: int = 0> (x, axis)
            z = ReduceL2(x, last)
        }

    after: reductions
        # opset 17
        f (float[B,T,6] x) => (float[B,6] y, float[B,T,1] z)
        {
            y = ReduceMax <axes: ints = [1], keepdims: int = 0> (x)
            z = ReduceL2 <axes: ints = [-1]> (x)
        }

    options: parts
        opset: 17

    before: parts
        f (float[B,T,6] x) => (float[B,T,2] a, float[B,T,2] b, float[B,T,2] c)
        {
            a, b, c = Split <axis: int = -1, num_outputs: int = 3> (x)
        }

    after: parts
        # opset 17
        f (float[B,T,6] x) => (float[B,T,2] a, float[B,T,2] b, float[B,T,2] c)
        {
            a, b, c = Split <axis: int = -1> (x)
        }

    options: parts that are not equal
        opset: 17

    before: parts that are not equal
        f (float[B,T,5] x) => (float[B,T,3] a, float[B,T,2] b)
        {
            a, b = Split <axis: int = -1, num_outputs: int = 2> (x)
        }

    after: parts that are not equal
        # opset 17
        f (float[B,T,5] x) => (float[B,T,3] a, float[B,T,2] b)
        {
            sizes = Constant <value_ints: ints = [3, 2]> ()
            a, b = Split <axis: int = -1> (x, sizes)
        }

    options: attributes without effect
        opset: 18

    before: attributes without effect
        f (float[B,T,6] x, float s, uint8 z) => (float[B,T,6] y)
        {
            n = QuantizeLinear <output_dtype: int = 2, block_size: int = 0, saturate: int = 1>
                (x, s, z)
            m = DequantizeLinear <block_size: int = 0, output_dtype: int = 1> (n, s, z)
            y = Cast <to: int = 1, saturate: int = 1> (m)
        }

    after: attributes without effect
        # opset 18
        f (float[B,T,6] x, float s, uint8 z) => (float[B,T,6] y)
        {
            n = QuantizeLinear(x, s, z)
            m = DequantizeLinear(n, s, z)
            y = Cast <to: int = 1> (m)
        }

    options: the axes depend on the text
        opset: 17

    refuses: the axes depend on the text
        # says its axes are no constant
        f (float[B,T,6] x, int64[1] axes) => (float[B,T,1] y)
        {
            y = ReduceSumSquare(x, axes)
        }

    options: an op that is newer
        opset: 17

    refuses: an op that is newer
        # says opset 17 has not Mish, opset 18 has
        f (float[B,T,6] x) => (float[B,T,6] y)
        {
            y = Mish(x)
        }

    options: numbers of four bits
        opset: 20

    refuses: numbers of four bits
        # says opset 20 has not Cast of INT4, opset 21 has
        f (int4[6,4] w) => (float[6,4] y)
        {
            y = Cast <to: int = 1> (w)
        }

    options: a scale per block
        opset: 20

    refuses: a scale per block
        # says opset 20 has not the attribute block_size of DequantizeLinear, opset 21 has
        f (int8[6,4] w, float[2,4] s) => (float[6,4] y)
        {
            y = DequantizeLinear <axis: int = 0, block_size: int = 3> (w, s)
        }
    """

    equality: ClassVar[Equality] = Equality.EXACT
    required: ClassVar[bool] = True
    opset: int = dialect.OPSET

    def match(self, node: ir.Node) -> ir.Node | None:
        return node if not node.domain and fault(Use.of(node), self.opset) else None

    def refuses(self, match: ir.Node) -> str | None:
        if newer(match.op_type, self.opset):
            return lacking(Use.of(match), self.opset)
        change = _change(match, self.opset)
        return change if isinstance(change, str) else lacking(change.use, self.opset)

    def construct(self, match: ir.Node, memo: dict) -> None:
        change = _change(match, self.opset)
        assert not isinstance(change, str)
        if change.parts:
            match.resize_inputs(2)
            match.replace_input_with(1, Spelling(match, memo).ints(change.parts))
        elif len(change.use.inputs) < len(match.inputs):
            match.replace_input_with(1, None)
            match.resize_inputs(1)
        for name in set(match.attributes) - set(change.use.attributes):
            del match.attributes[name]
        if change.axes:
            match.attributes["axes"] = ir.AttrInt64s("axes", change.axes)

    def rewrite(self, model: ir.Model, log: Log | None = None) -> Log:
        """Sweep the graph, and set the opset of the model where every node is one of it."""
        log = super().rewrite(model, log)
        faults = (fault(Use.of(node), self.opset) for node in model.graph if not node.domain)
        if log.spent or model.opset_imports[""] == self.opset or any(faults):
            return log
        model.opset_imports[""] = self.opset
        model.ir_version = file_version(self.opset)
        log.applied.append(f"opset {self.opset}")
        return log


class Change(NamedTuple):
    """A node as an older opset has it."""

    use: Use
    axes: list[int]
    """The axes that become an attribute."""
    parts: list[int]
    """The sizes of the parts of a Split that become an input."""


def _change(node: ir.Node, opset: int) -> Change | str:
    """The change of a node that an op of `opset` can stand for, or the reason why there is none."""
    schema, use = onnx.defs.get_schema(node.op_type, opset), Use.of(node)
    attributes, inputs = dict(use.attributes), use.inputs
    axes: list[int] = []
    parts: list[int] = []
    if len(inputs) == 2 and schema.max_input == 1 and "axes" in schema.attributes:
        # op(x, axes) -> op(x; axes)
        found = integers(node.inputs[1])
        if not found:
            return "its axes are no constant"
        axes, inputs = found, inputs[:1]
        attributes["axes"] = axes
        attributes.pop("noop_with_empty_axes", None)
    if node.op_type == "Split" and "num_outputs" not in schema.attributes and len(inputs) == 1:
        axis = attribute(node, "axis", 0)
        sizes = [None if one.shape is None else one.shape[axis] for one in node.outputs]
        parts = [size for size in sizes if isinstance(size, int)]
        if len(parts) < len(sizes):
            return "the sizes of its parts are not known"
        parts = [] if len(set(parts)) == 1 else parts
        inputs = (*inputs, ir.DataType.INT64) if parts else inputs
        attributes.pop("num_outputs", None)
    for name in set(attributes) - set(schema.attributes):
        if _idle(node, name):
            del attributes[name]
    return Change(replace(use, inputs=inputs, attributes=attributes), axes, parts)


def _idle(node: ir.Node, name: str) -> bool:
    """Whether an attribute that an older op lacks says what that op does anyway."""
    given = node.attributes[name].value
    schema = onnx.defs.get_schema(node.op_type, dialect.OPSET).attributes[name]
    if name == "output_dtype" and node.op_type == "DequantizeLinear":
        scale = node.inputs[1]
        return given == 0 or (scale is not None and scale.dtype == ir.DataType(given))
    if name == "output_dtype":  # QuantizeLinear
        zero = node.inputs[2] if len(node.inputs) > 2 else None
        return given in (0, ir.DataType.UINT8 if zero is None else zero.dtype)
    default = schema.default_value
    return bool(default.name) and onnx.helper.get_attribute_value(default) == given
