"""A small graph through NVIDIA's compiler, and a second engine of it with its weights turned."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx_ir as ir

from goldfold.exporter.contract import Contract
from goldfold.exporter.ir import onnx_file
from goldfold.exporter.ir.program import Program
from goldfold.exporter.passes import docstring
from goldfold.targets.tensorrt import build, proof, vendor, worker

SIZES = {"B": (1, 2, 4), "T": (1, 16, 64)}
"""Least, usual and most of the open axes."""


def compiled(
    folder: Path, text: str, weights: dict[str, np.ndarray] | None = None, *capabilities: str
) -> dict:
    """Build an engine in `folder` from a graph of one input; returns what the worker reports."""
    folder.mkdir(exist_ok=True)
    model = docstring.graph(text, weights)
    contract = Contract(
        model="example", dim=4, max_length=8, vocab_size=8, pad_id=0, normalized=False
    )
    onnx_file.write(Program(model, contract), folder, "tensorrt")
    (value,) = model.graph.inputs
    shapes = [
        [SIZES[str(d)][k] if str(d) in SIZES else d for d in value.shape or ()] for k in range(3)
    ]
    spec = {
        "module": vendor.RTX, "onnx": onnx_file.MODEL, "engine": build.ENGINE,
        "inputs": [value.name], "capabilities": capabilities or ("sm80", "sm86"),
        "compatible": [], "profiles": [shapes], "decompose": False, "explain": True,
    }  # fmt: skip
    (folder / build.SPEC).write_text(json.dumps(spec))
    shutil.copyfile(worker.__file__, folder / build.RECIPE)
    return build.compile_engine(folder)


def twin(folder: Path) -> tuple[Path, Path]:
    """The second engine of what `compiled` left in `folder`, with its ONNX file."""
    room = folder / "twin"
    room.mkdir(exist_ok=True)
    weights = proof.weights_of(ir.load(folder / onnx_file.MODEL))
    return build.second_engine(folder, room, {}, tuple(weights))
