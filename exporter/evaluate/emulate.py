"""The emulator runs a half-precision Program with every value rounded to its declared type.

ONNX Runtime's CPU kernels have no bf16, and they compute fp16 in f32 without rounding in between:
there 60000 + 60000 is 120000, where a device that computes in fp16 has inf. The emulator rounds
each op's result to the type that the graph declares, overflow included, so that the graph's own
numbers are measured.

The inside of an op is not emulated. A matmul accumulates in f32, and a softmax and a norm compute
in f32 and round once at the end, as tensor cores and NPUs do as a rule. A device that accumulates
in fp16 is less accurate than this.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from goldfold.exporter.contract import Run
from goldfold.exporter.evaluate import interpret
from goldfold.exporter.ir import dialect
from goldfold.exporter.ir.program import Program, add_constant, constant, drop_unused, infer_shapes
from goldfold.exporter.passes.expand_band_attention import ExpandBandAttention
from goldfold.exporter.passes.rewriting.attention import Emitter
from goldfold.exporter.passes.rewriting.pattern import attribute
from goldfold.exporter.passes.rewriting.writer import append, take_over

HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)

_CHUNK = 1 << 22
"""Numbers that are dequantized at once, so that a table is never in memory three times."""


def runner(program: Program) -> Run:
    """Returns a callable like `interpret.runner`'s that rounds. `program` itself is left alone."""
    return interpret.runner(emulated(program), optimise=False)


def exact(program: Program) -> Program:
    """The same program in f32 only, with no rounding of values: of constants alone."""
    return emulated(program, rounds=False)


def emulated(program: Program, rounds: bool = True) -> Program:
    """The same program in f32 only, with a rounding to the declared type behind every half value;
    or without it."""
    copy = program.copy()
    if any(dialect.band_attentions(copy.graph)):
        ExpandBandAttention().rewrite(copy.model)
    _open_attention(copy.graph)
    infer_shapes(copy.model)  # a value without a type could not be rounded
    graph = copy.graph
    _dequantize(copy.model, rounds)
    _round_constants(copy.model)
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        if tensor is not None and tensor.dtype in HALF:
            value.const_value = ir.tensor(tensor.numpy().astype(np.float32), name=value.name)
            value.type = ir.TensorType(ir.DataType.FLOAT)
    for node in list(graph):
        if node.op_type == "Cast" and ir.DataType(node.attributes["to"].value) in HALF:
            node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT.value)
        for value in node.outputs:
            if value.dtype in HALF and rounds:
                _round(value)
            elif value.dtype in HALF:
                value.type = ir.TensorType(ir.DataType.FLOAT)
    return copy


def _open_attention(graph: ir.Graph) -> None:
    """Replace ONNX's `Attention`, as spell-attention writes it, by ops whose results can be
    rounded: a device without a fused kernel rounds scores and weights too."""
    memo: dict = {}
    for node in list(graph):
        if node.op_type != "Attention" or node.domain or set(node.attributes) > {"scale"}:
            continue
        q, k, v, mask = node.inputs[:4]
        if q is None or k is None or v is None or mask is None or q.shape is None:
            continue
        scale = node.attributes["scale"].value
        band = dialect.Band(scale, window=0, causal=False, softcap=0.0)  # the mask holds the rest
        take_over(node.outputs[0], Emitter(node, memo).attend(q, k, v, mask, band))


def _dequantize(model: ir.Model, rounds: bool) -> None:
    """Replace integer weights by the result of their DequantizeLinear, once for all calls: each
    integer times its scale, which f32 holds exactly, rounded to the declared type if `rounds`."""
    graph = model.graph
    for node in list(graph):
        if node.op_type != "DequantizeLinear" or node.domain:
            continue
        numbers, scale = constant(node.inputs[0]), constant(node.inputs[1])
        zero = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        if numbers is None or scale is None or (zero is not None and zero.any()):
            continue
        value = node.outputs[0]
        whole = _dense(numbers, scale, node)
        if rounds and value.dtype is not None and value.dtype in HALF:
            kind = value.dtype.numpy()
            flat = whole.reshape(-1)
            for start in range(0, flat.size, _CHUNK):
                part = flat[start : start + _CHUNK]
                part[:] = part.astype(kind)
        made = add_constant(graph, f"{value.name}.dense", whole)
        value.replace_all_uses_with(made, replace_graph_outputs=True)
    drop_unused(model)


def _round_constants(model: ir.Model) -> None:
    """Replace a constant's Cast to half precision by its result, once for all calls."""
    graph = model.graph
    for node in list(graph):
        if node.op_type != "Cast" or node.domain or (array := constant(node.inputs[0])) is None:
            continue
        kind = ir.DataType(node.attributes["to"].value)
        if kind not in HALF:
            continue
        rounded = array.astype(kind.numpy()).astype(np.float32)
        made = add_constant(graph, f"{node.outputs[0].name}.dense", rounded)
        node.outputs[0].replace_all_uses_with(made, replace_graph_outputs=True)
    drop_unused(model)


def _dense(numbers: np.ndarray, scale: np.ndarray, node: ir.Node) -> np.ndarray:
    """f32: every integer times its scale; one scale for all, one per index of an axis, or one per
    block there."""
    whole, scale = numbers.astype(np.float32), scale.astype(np.float32)
    if not scale.ndim:
        whole *= scale
        return whole
    axis = int(attribute(node, "axis", 1)) % whole.ndim
    block = int(attribute(node, "block_size", 0))
    if not block:
        whole *= scale.reshape([-1 if place == axis else 1 for place in range(whole.ndim)])
        return whole
    sizes = whole.shape
    parts = whole.reshape(*sizes[:axis], sizes[axis] // block, block, *sizes[axis + 1 :])
    parts *= np.expand_dims(scale, axis + 1)
    return whole


def _round(value: ir.Value) -> None:
    kind = value.dtype
    assert kind is not None
    value.type = whole = ir.TensorType(ir.DataType.FLOAT)
    name, half = value.name, ir.TensorType(kind)
    down = append(value, "Cast", name=f"{name}.down", type=half, to=kind.value)
    append(down, "Cast", name=f"{name}.up", type=whole, to=ir.DataType.FLOAT.value)
