"""Program → `model.xml` + `model.bin`.

The graph goes through OpenVINO's ONNX frontend with its big weights set aside as parameters; each is
then replaced by a constant that shares our memory. So the weights are written once, by OpenVINO, and
are neither copied through protobuf nor laid down as a temporary ONNX file first.
"""

from __future__ import annotations

import ctypes
import io
from pathlib import Path

import numpy as np
import onnx_ir as ir
import openvino as ov
from openvino import opset13 as ops

from exporter import dialect
from exporter.errors import RewriteError
from exporter.program import Program, infer_shapes, weights_aside, where

XML = "model.xml"


def write(program: Program, folder: Path) -> None:
    """Convert and save. Raises RewriteError if OpenVINO's frontend refuses an op."""
    for node in program.graph:
        if node.domain:
            raise RewriteError(
                f"openvino cannot spell {node.domain}.{node.op_type} "
                f"(node {node.name}, from {where(node)})"
            )
    converted, _held = convert(program.model)
    for port, name in zip(converted.inputs, program.contract.inputs, strict=True):
        port.get_tensor().set_names({name})
    converted.outputs[0].get_tensor().set_names({program.contract.output})
    ov.save_model(converted, folder / XML, compress_to_fp16=False)


def convert(model: ir.Model) -> tuple[ov.Model, list[np.ndarray]]:
    """An ov.Model in which every weight shares the memory of the program's tensor.

    The arrays returned beside it own that memory: keep them as long as the ov.Model.
    """
    model.functions.clear()
    model.opset_imports.pop(dialect.DOMAIN, None)
    infer_shapes(model)
    with weights_aside(model) as aside:
        tensors = {v.name: v.const_value for v in aside}
        graph = io.BytesIO(ir.to_proto(model).SerializeToString())
    try:
        converted = ov.Core().read_model(graph)
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = next((line for line in lines if "onversion" in line), (lines or [""])[-1])
        raise RewriteError(f"OpenVINO's ONNX frontend refuses the graph: {reason}") from error
    held: list[np.ndarray] = []
    for parameter in list(converted.get_parameters()):
        tensor = next((tensors[n] for n in parameter.output(0).get_names() if n in tensors), None)
        if tensor is None:
            continue
        array = np.ascontiguousarray(tensor.numpy())
        held.append(array)
        weight = ops.constant(_unlocked(array), shared_memory=True)
        weight.set_friendly_name(parameter.get_friendly_name())
        parameter.output(0).replace(weight.output(0))
        converted.remove_parameter(parameter)
    converted.validate_nodes_and_infer_types()
    return converted, held


def _unlocked(array: np.ndarray) -> np.ndarray:
    """A view that calls itself writeable: openvino shares no other, though it never writes constants.
    The view does not keep `array` alive."""
    if array.flags.writeable:
        return array
    memory = (ctypes.c_ubyte * array.nbytes).from_address(array.ctypes.data)
    return np.frombuffer(memory, dtype=array.dtype).reshape(array.shape)
