"""Digests of tiny programs after every pass: what a change of the compiler must leave as it is.

    .venv/bin/python -m tests.exporter.digests      # writes tests/exporter/digests.json anew

A digest is of the graph as `--dump` writes it: nodes, attributes and names, and of each constant
its type, its shape and, but for integers, the sum of its magnitudes in six digits. Which integers a
calibrated recipe chooses may turn on the last bits of a machine's arithmetic.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from goldfold.exporter import registry
from goldfold.exporter.driver import preparing
from goldfold.exporter.frontend.readiness import ready
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.ir.program import Program
from goldfold.exporter.passes import pipeline
from goldfold.exporter.passes.pipeline import Pipeline
from goldfold.exporter.progress import Stages
from goldfold.exporter.quantize import recipe
from tests import models
from tests.exporter.quantize.few import few

FILE = Path(__file__).with_suffix(".json")
KINDS = ("gemma3", "bert", "modernbert", "mpnet")
PRECISIONS = ("fp32", "fp16", "int8-weights", "int8")

Digests = dict[str, list[str]]
"""By kind, target and precision: `pass digest` for each pass that applied, in order."""


def of(kind: str) -> Digests:
    """The digests of one kind of model for every target and precision, on few calibration texts."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        few(patch)
        source = ready(open_model(models.build(kind, Path(folder) / kind)), Stages())
        program = preparing.traced(source, Stages())
        found: Digests = {f"{kind}": [f"trace {digest(program)}"]}
        for precision in PRECISIONS:
            for name in registry.names():
                found[f"{kind} {name} {precision}"] = lines = []
                _run(program, name, precision, lines)
    return found


def _run(program: Program, name: str, precision: str, lines: list[str]) -> None:
    """The passes that an export runs, in their order, on a copy."""
    target = registry.target(name)
    asked = None if precision in registry.FLOATS else recipe.find(precision)
    floating = registry.floating(name, precision, asked and asked.around)
    integers = asked is not None
    copy = program.copy()
    passes = Pipeline(
        after=lambda report, now: lines.append(f"{report.name} {digest(now, integers)}")
    )
    stages, pairs = Stages(), [(name, precision)]
    copy = preparing.legalized(copy, passes)
    preparing.rewrite(copy, asked, passes, stages)
    if asked is None:
        peaks = preparing.peaks_for(copy, pairs, stages)
    else:
        peaks = preparing.quantize(copy, asked, passes, stages, pairs)
    asked_peaks = peaks if pipeline.asks_ranges(floating, target.strongly_typed) else {}
    reach = preparing.bounds_for(copy, [(name, floating)], stages)
    passes.run(
        copy,
        pipeline.half(floating, asked_peaks, target.strongly_typed, target.integer_sums, reach),
    )
    passes.run(copy, target.backend_passes(floating, copy.contract, asked_peaks))


def digest(program: Program, integers: bool = False) -> str:
    """16 hex digits; of constants of a program with `integers` the type and shape alone."""
    text = "\n".join(_lines(program, integers))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _lines(program: Program, integers: bool) -> Iterator[str]:
    for value in (*program.graph.inputs, *program.graph.outputs):
        yield f"{value.name} {value.dtype} {value.shape}"
    for name, value in sorted(program.graph.initializers.items()):
        held = value.const_value
        assert held is not None
        size = ""
        if not integers:
            size = f"{np.abs(held.numpy().astype(np.float64)).sum():.6e}"
        yield f"{name} {held.dtype} {held.shape} {size}"
    for node in program.graph:
        yield f"{node.name} {node}"


def stored() -> Digests:
    return json.loads(FILE.read_text("utf-8"))


def main() -> None:
    found: Digests = {}
    for kind in KINDS:
        found |= of(kind)
    FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
