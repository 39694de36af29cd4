"""The derivations of an artifact: how every constant of its program follows from the source's
tensors, as a file in the artifact that the independent checker reads (golden/proof/)."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx_ir as ir

from goldfold.exporter.artifact.manifest import DERIVATIONS
from goldfold.exporter.ir import derivation, dialect
from goldfold.exporter.ir.derivation_text import Writer
from goldfold.exporter.ir.program import Program, derivation_of, made_by


def text_of(program: Program) -> Writer:
    """Returns the derivations of the program that a target is given: a line per constant, with its
    type, shape and sha256, its derivation, and the pass that made it.

    Lines whose name begins with @ are numbers that a target's form may hold besides: those of
    attributes, and those by which it spells an op.
    """
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
    for name, number in _numbers(program.graph).items():
        _state(text, f"@{name}", np.array(number, np.float32), "attribute")
    return text


def write(text: Writer, program: Program, folder: Path) -> None:
    """Write DERIVATIONS: `text_of` the program before its target was made, and the constants that
    the target spelled out of others."""
    known: dict[str, set[bytes]] = {}
    for name, array in program.spelled:  # functions of several lengths have names of their own
        held = known.setdefault(name, set())
        digest = hashlib.sha256(np.asarray(array, order="C").tobytes()).digest()
        if digest not in held:
            _state(text, f"{name} {len(held) + 1}" if held else name, array, "lowering")
        held.add(digest)
    (folder / DERIVATIONS).write_text("\n".join(text.lines) + "\n", encoding="utf-8")


_PLACES = 1 << 16
"""Whole numbers up to which a table that a lowering made is written out."""
_SPELLED = (0.0, 1.0, -1.0, 2.0, 0.5, -0.5, float(np.finfo(np.float32).max), dialect.HIDDEN)
"""Numbers by which runtimes spell ops: a square, a root, a reciprocal, an upper bound that is none,
what hides a token."""


def _numbers(graph: ir.Graph) -> dict[str, float]:
    """Returns the floating numbers that a target may hold beside the constants, by their origin."""
    found = {f"op {number!r}": number for number in _SPELLED}
    for node in graph:
        for name, attribute in node.attributes.items():
            if attribute.type == ir.AttributeType.FLOAT:
                number = float(attribute.value)
                found[f"{node.op_type}.{name} {number!r}"] = number
    return found


def _state(text: Writer, name: str, array: np.ndarray, maker: str) -> None:
    sizes = ",".join(map(str, array.shape))
    digest = hashlib.sha256(np.asarray(array, order="C").tobytes()).hexdigest()
    stored = f"{array.dtype} [{sizes}] {digest}"
    how = derivation.of(array)
    if how is derivation.LOST:  # a table of places, or numbers whose law is not known
        places = array.dtype.kind in "iub" and array.size <= _PLACES
        how = derivation.literal(array) if places else derivation.chosen(array, "assumed")
    text.write(json.dumps(name), stored, how, maker)


def _digest(value: ir.Value) -> str:
    tensor = value.const_value
    assert tensor is not None
    return hashlib.sha256(tensor.tobytes()).hexdigest()
