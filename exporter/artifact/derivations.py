"""The derivations of an artifact: how every constant of its program follows from the source's
tensors, as a file in the artifact that the independent checker reads (golden/proof/)."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnx_ir as ir

from goldfold.exporter.ir.derivation import Writer
from goldfold.exporter.ir.program import Program, derivation_of, made_by

DERIVATIONS = "derivations.txt"


def write(program: Program, folder: Path) -> None:
    """Write DERIVATIONS for the program that a target is given: a line per constant, with its type,
    shape and sha256, its derivation, and the pass that made it."""
    values = [v for v in program.graph.initializers.values() if v.const_value is not None]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing lets other threads run
        digests = list(pool.map(_digest, values))
    text = Writer()
    for value in values:
        text.count(derivation_of(value))
    for value, digest in zip(values, digests, strict=True):
        tensor = value.const_value
        assert tensor is not None
        sizes = ",".join(map(str, tensor.shape))
        stored = f"{tensor.dtype.numpy()} [{sizes}] {digest}"
        name = json.dumps(value.name, ensure_ascii=True)
        text.write(name, stored, derivation_of(value), made_by(value))
    (folder / DERIVATIONS).write_text("\n".join(text.lines) + "\n", encoding="utf-8")


def _digest(value: ir.Value) -> str:
    tensor = value.const_value
    assert tensor is not None
    return hashlib.sha256(tensor.tobytes()).hexdigest()
