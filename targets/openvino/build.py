"""Program → `openvino_model.xml` + `openvino_model.bin`, the names for which OpenVINO's tools look.

The graph goes through OpenVINO's ONNX frontend with its big weights set aside as parameters; each
is then replaced by a constant that shares our memory. So OpenVINO writes the weights once, and they
are neither copied through protobuf nor written to a temporary ONNX file first.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import onnx_ir as ir
import openvino as ov
from openvino import opset13 as ops

from goldfold.exporter.errors import OutputError, RewriteError
from goldfold.exporter.ir import dialect
from goldfold.exporter.ir.program import Program, infer_shapes, weights_aside, where
from goldfold.exporter.passes.quantize_weights import dynamic_group
from goldfold.targets.openvino import markup, precise, worked_out
from goldfold.targets.openvino.memory import constant
from goldfold.targets.openvino.model_file import GROUP, HIDDEN, RUNTIME, XML
from goldfold.targets.openvino.options import OPEN, OpenVinoOptions
from goldfold.targets.openvino.shapes import Shapes
from goldfold.targets.openvino.slim import slim

_KINDS = {ir.DataType.INT4: ov.Type.i4, ir.DataType.UINT4: ov.Type.u4}
"""Types for which numpy has no name."""
_INTEGERS = frozenset({ir.DataType.INT8, ir.DataType.UINT8, *_KINDS})
_BLANKS = re.compile(rb"(?<=>)\s+(?=<(/?(?:net|layers|layer|edges|edge|rt_info)\b)?)")
_NO_RULE = re.compile(r"(?:operations: |, )(\w+)-\d+")
"""The ops in the frontend's sentence "No conversion rule found for operations: Foo-23, Bar-23"."""


def write(program: Program, precision: str, folder: Path, options: OpenVinoOptions = OPEN) -> None:
    """Convert and save a program. Raises RewriteError if OpenVINO's frontend refuses an op,
    OutputError where the disk is full."""
    for node in program.graph:
        if node.domain:
            raise _cannot_spell(node)
    outputs = [value.name for value in program.graph.outputs]
    converted, _weights = convert(program.model, precision)
    for port, name in zip(converted.inputs, program.contract.inputs, strict=True):
        port.get_tensor().set_names({name})
    for port, name in zip(converted.outputs, outputs, strict=True):
        port.get_tensor().set_names({name})
    converted.outputs[0].get_tensor().add_names({HIDDEN})
    program.spelled += worked_out.spell(converted).items()
    _blocks = slim(converted)
    _name(converted)
    converted.set_rt_info(str(dynamic_group(program.graph)), [RUNTIME, GROUP])
    Shapes(options.batch or 0, options.buckets).note(converted)
    try:
        ov.save_model(converted, folder / XML, compress_to_fp16=False)
    except RuntimeError as error:
        if "iostream" not in str(error):
            raise
        raise OutputError(
            f"cannot write {folder / XML}: the disk takes no more; make room, or choose another"
        ) from error
    _narrow(folder / XML)
    if precision == "bf16":
        share = precise.EARLY if dynamic_group(program.graph) else 1.0
        wanted = precise.stream(converted, share) | precise.lookups(converted)
        markup.mark(folder / XML, wanted | precise.choices(converted), precise.MARK)
    if held := worked_out.weights(converted):
        markup.mark(folder / XML, held, worked_out.MARK)


def _narrow(xml: Path) -> None:
    """Write one line per layer or edge, and no indentation, which is a sixth of OpenVINO's
    output."""
    text = _BLANKS.sub(lambda found: b"\n" if found[1] else b"", xml.read_bytes())
    xml.write_bytes(text)


def convert(model: ir.Model, precision: str = "fp32") -> tuple[ov.Model, list[np.ndarray]]:
    """Returns an ov.Model in which every weight shares the memory of the program's tensor.

    The arrays returned beside it own that memory: keep them as long as the ov.Model.
    """
    model.functions.clear()
    model.opset_imports.pop(dialect.DOMAIN, None)
    infer_shapes(model)
    coarse = _has_integers(model)
    with weights_aside(model) as aside:
        matrices = {
            v.name
            for v in aside
            if (precision == "fp16" and _is_matrix(v)) or (coarse and _is_plane(v))
        }
        scales = {v.name for v in aside if _is_scale(v)}
        tensors = {v.name: v.const_value for v in aside}
        graph = io.BytesIO(ir.to_proto(model).SerializeToString())
    try:
        converted = ov.Core().read_model(graph)
    except Exception as error:
        refused = set(_NO_RULE.findall(str(error)))
        for node in model.graph:
            if node.op_type in refused:
                raise _cannot_spell(node) from error
        reason = ([line for line in str(error).splitlines() if line.strip()] or [""])[-1]
        raise RewriteError(f"OpenVINO's ONNX frontend refuses the graph: {reason}") from error
    held: list[np.ndarray] = []
    for parameter in list(converted.get_parameters()):
        tensor = next((tensors[n] for n in parameter.output(0).get_names() if n in tensors), None)
        if tensor is None:
            continue
        array = _packed(tensor) if tensor.dtype in _KINDS else np.ascontiguousarray(tensor.numpy())
        half = tensor.name in scales | matrices and array.dtype == np.float32
        if half:
            array = array.astype(np.float16)
        held.append(array)
        kind = _KINDS.get(tensor.dtype) or ov.Type(array.dtype)
        weight = constant(array, [int(size) for size in tensor.shape], kind)  # type: ignore[arg-type]
        weight.set_friendly_name(parameter.get_friendly_name())
        if half:
            weight = ops.convert(weight, "f32")
        parameter.output(0).replace(weight.output(0))
        converted.remove_parameter(parameter)
    converted.validate_nodes_and_infer_types()
    return converted, held


def _packed(tensor: ir.TensorProtocol) -> np.ndarray:
    """Returns numbers of 4 bits, two per byte, the first in the lower half: as ONNX and OpenVINO
    store them."""
    return np.frombuffer(tensor.tobytes(), np.uint8)


def _is_matrix(value: ir.Value) -> bool:
    """Returns whether a constant is a projection's or an embedding's: fp16 stores those in half
    precision. Gains and rotary tables are a thousandth of the bytes, and rounding them costs
    more."""
    return all(node.op_type in ("MatMul", "Gemm", "Gather") for node, _ in value.uses())


def _is_plane(value: ir.Value) -> bool:
    """Returns whether a constant has two dimensions and is no integers' scale: beside integers,
    rounding it to fp16 has no visible cost, rotary tables included (EmbeddingGemma's int8-weights
    had a mean 1-cos of 1.3e-4 either way)."""
    readers = [node.op_type for node, _ in value.uses()]
    rank = len(value.shape) if value.shape is not None else 0
    return rank == 2 and "DequantizeLinear" not in readers


def _has_integers(model: ir.Model) -> bool:
    return any(value.dtype in _INTEGERS for value in model.graph.initializers.values())


def _is_scale(value: ir.Value) -> bool:
    """Returns whether a constant is the scale of integers, of numbers that fp16 holds as they
    are."""
    uses = list(value.uses())
    if not uses or any(n.op_type != "DequantizeLinear" or index != 1 for n, index in uses):
        return False
    array = value.const_value.numpy() if value.const_value is not None else np.zeros(0)
    return bool((array.astype(np.float16).astype(array.dtype) == array).all())


def _cannot_spell(node: ir.Node) -> RewriteError:
    op = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    return RewriteError(f"openvino cannot spell {op} (node {node.name}, from {where(node)})")


def _name(model: ov.Model) -> None:
    """Name the nodes that the frontend added by their place: an unnamed node gets a number that
    counts all nodes this process ever made, and two builds give different bytes."""
    ops_in_order = model.get_ordered_ops()
    taken = {op.get_friendly_name() for op in ops_in_order}
    for place, op in enumerate(ops_in_order):
        if op.get_friendly_name() == op.get_name():
            wish = f"{op.get_type_name()}.{place}"
            op.set_friendly_name(f"{wish}.added" if wish in taken else wish)
