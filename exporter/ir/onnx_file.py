"""A Program becomes an `.onnx` file in standard ops, or in ops that the file defines by them, with
its weights beside it, and `onnx.checker` accepts it in full. Targets that hand an ONNX file to a
runtime or a compiler write it here."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
import onnx_ir as ir

from goldfold.exporter.errors import ArtifactError, OutputError, RewriteError
from goldfold.exporter.ir import contrib, dialect
from goldfold.exporter.ir.program import Program, infer_shapes, weights_aside, where
from goldfold.exporter.ir.protobuf import DATA, MODEL

_INLINE = 1024
"""Constants up to this many bytes stand in the graph itself, where every consumer's optimiser sees
them."""


def write(program: Program, folder: Path, target: str) -> None:
    """Write `MODEL` and `DATA` into `folder`.

    Raises OutputError where the disk is full, and RewriteError, naming `target`, the op, its node
    and source module, if the program is not plain, legal ONNX.
    """
    model = program.model
    for node in model.graph:
        if contrib.is_attention(node):
            continue
        if node.domain or not onnx.defs.has(node.op_type):
            op = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            raise RewriteError(f"{target} cannot spell {op} (node {node.name}, from {where(node)})")
    _settle(model)
    infer_shapes(model)
    path = folder / MODEL
    try:
        ir.save(model, path, external_data=DATA, size_threshold_bytes=_INLINE)
    except OSError as error:
        # numpy writes the weights; its error says how much was written, but not why it stopped.
        said = error.strerror or f"the disk takes no more ({error})"
        raise OutputError(f"cannot write {path}: {said}; make room, or choose another") from error
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise RewriteError(f"onnx.checker refuses {path.name}: {reason}") from error


def skeleton(program: Program) -> bytes:
    """Returns the model as `write` will write it, as protobuf, without the numbers of constants: of
    what is written, the checker compares the rest with it (golden/proof/). Empty for a program that
    `write` would refuse. Leaves the program as it is."""
    if any(node.domain and not contrib.is_attention(node) for node in program.graph):
        return b""
    model = program.copy().model
    _settle(model)
    infer_shapes(model)
    constants = dict(model.graph.initializers)
    with weights_aside(model, limit=-1):
        proto = ir.to_proto(model)
    inputs = {value.name: value for value in proto.graph.input if value.name in constants}
    for value in inputs.values():
        proto.graph.input.remove(value)
    for name, value in constants.items():
        tensor = value.const_value
        assert tensor is not None
        sizes = [int(size) for size in tensor.shape]  # type: ignore[arg-type]
        proto.graph.initializer.add(name=name, data_type=tensor.dtype.value, dims=sizes)
    return proto.SerializeToString(deterministic=True)


def _settle(model: ir.Model) -> None:
    """Leave no function and no domain in the model but those that its graph uses."""
    model.functions.clear()
    model.opset_imports.pop(dialect.DOMAIN, None)
    contrib.define(model)


def quantized(path: Path) -> bool:
    """Whether the file holds integers that are dequantized. Raises ArtifactError if the file is
    damaged."""
    try:
        return any(node.op_type == "DequantizeLinear" for node in ir.load(path).graph)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ArtifactError(f"cannot read {path}: {reason}") from error


def parts(path: Path) -> dict[str, str]:
    """Nodes as text and constants by digest, by name. Raises ArtifactError if `path` is
    damaged."""
    try:
        model = ir.load(path)
        found = {
            f"constant {name}": _digest(value) for name, value in model.graph.initializers.items()
        }
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ArtifactError(f"cannot read {path}: {reason}") from error
    for value in (*model.graph.inputs, *model.graph.outputs):
        found[f"value {value.name}"] = f"{value.dtype} {value.shape}"
    for place, node in enumerate(model.graph):
        attributes = ", ".join(f"{k}={v.value!r}" for k, v in sorted(node.attributes.items()))
        given = ", ".join("" if value is None else value.name or "" for value in node.inputs)
        made = ", ".join(value.name or "" for value in node.outputs)
        found[f"node {node.name or place}"] = f"{made} = {node.op_type}({given}) {{{attributes}}}"
    return found


def _digest(value: ir.Value) -> str:
    tensor = value.const_value
    if tensor is None:
        return "nothing"
    held = hashlib.sha256(tensor.tobytes()).hexdigest()[:16]
    return f"{tensor.dtype} {tensor.shape} sha256 {held}"
