"""Whether an ONNX Runtime is too old for a file, and the opset that it does know. The runtime says
so itself, of a graph of one node: no table of releases is kept here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from goldfold.exporter.ir import protobuf
from goldfold.targets.onnxruntime.options import NEWEST, OLDEST

_FLOAT, _FORMAT = 1, 8
"""A type of ONNX, and the version of its file format that came with the oldest opset."""


def sentence(path: Path, runtime: Any) -> str | None:
    """Returns what is wrong and what to do, if `runtime`, the module onnxruntime, does not know the
    opset of the file at `path`; else None. Raises ArtifactError if that is no ONNX file."""
    opset = protobuf.opset(path)
    if opset is None or _knows(runtime, opset):
        return None
    offered = range(min(opset - 1, NEWEST), OLDEST - 1, -1)
    older = (one for one in offered if _knows(runtime, one))
    found = next(older, None)
    cure = f"export it again with --opset {found}" if found else "install a newer one"
    return (
        f"{path} was written for opset {opset}, which ONNX Runtime {runtime.__version__} does not "
        f"know; {cure}"
    )


def _knows(runtime: Any, opset: int) -> bool:
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    try:
        runtime.InferenceSession(_identity(opset), options, providers=["CPUExecutionProvider"])
    except Exception:
        return False
    return True


def _identity(opset: int) -> bytes:
    """A model of y = Identity(x), by the fields of onnx.proto."""
    number = _message((1, _message((1, _FLOAT), (2, b""))))
    x, y = (_message((1, name), (2, number)) for name in (b"x", b"y"))
    node = _message((1, b"x"), (2, b"y"), (4, b"Identity"))
    graph = _message((1, node), (2, b"identity"), (11, x), (12, y))
    return _message((1, _FORMAT), (7, graph), (8, _message((2, opset))))


def _message(*held: tuple[int, int | bytes]) -> bytes:
    return b"".join(protobuf.field(number, value) for number, value in held)
