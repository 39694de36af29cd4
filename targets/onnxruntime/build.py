"""Program → `model.onnx` + `model.onnx.data`, accepted by `onnx.checker` in full."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir

from exporter import dialect
from exporter.errors import RewriteError
from exporter.program import Program, infer_shapes, where

MODEL = "model.onnx"
DATA = "model.onnx.data"

_INLINE = 1024
"""Constants up to so many bytes stand in the graph itself, where every reader's optimiser sees
them."""


def write(program: Program, folder: Path) -> None:
    """Write the program's graph and weights. Raises RewriteError if it is not plain, legal ONNX."""
    model = program.model
    for node in model.graph:
        if node.domain or not onnx.defs.has(node.op_type):
            op = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            raise RewriteError(
                f"onnxruntime cannot spell {op} (node {node.name}, from {where(node)})"
            )
    model.functions.clear()
    model.opset_imports.pop(dialect.DOMAIN, None)
    infer_shapes(model)
    path = folder / MODEL
    ir.save(model, path, external_data=DATA, size_threshold_bytes=_INLINE)
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise RewriteError(f"onnx.checker refuses {path.name}: {reason}") from error
