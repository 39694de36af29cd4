"""Program → an `.onnx` file in standard ops with its weights beside it, accepted by `onnx.checker`
in full. Targets that hand a runtime or a compiler a file of ONNX write it here."""

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


def write(program: Program, folder: Path, target: str) -> None:
    """Write `MODEL` and `DATA` into `folder`.

    Raises RewriteError, naming `target`, the op, its node and source module, if the program is not
    plain, legal ONNX.
    """
    model = program.model
    for node in model.graph:
        if node.domain or not onnx.defs.has(node.op_type):
            op = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            raise RewriteError(f"{target} cannot spell {op} (node {node.name}, from {where(node)})")
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
