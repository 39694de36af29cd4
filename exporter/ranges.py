"""How large values get: the largest magnitude of every floating value of a Program on given token
ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from exporter import interpret
from exporter.program import ATTENTION_MASK, INPUT_IDS, Program


def record(
    program: Program,
    sequences: Iterable[Sequence[int]],
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, float]:
    """Largest |x| by value name over all sequences, each run alone in f32.

    Non-finite values count as infinity. Only the maxima leave the runtime, so memory stays flat.
    """
    probed, names = _probed(program)
    session = interpret.Session(probed.model)
    peaks = dict.fromkeys(names, 0.0)
    outputs = [f"{name}.peak" for name in names]
    for done, ids in enumerate(sequences, start=1):
        row = np.array([list(ids)], dtype=np.int64)
        found = session.run(outputs, {INPUT_IDS: row, ATTENTION_MASK: np.ones_like(row)})
        for name, peak in zip(names, found, strict=True):
            value = float(peak)
            peaks[name] = max(peaks[name], value if np.isfinite(value) else float("inf"))
        progress(done)
    return peaks


def _probed(program: Program) -> tuple[Program, list[str]]:
    """A copy in which every floating value that a node makes has an output `name.peak`."""
    copy = replace(program, model=program.model.clone())
    names = []
    for node in list(copy.graph):
        for value in node.outputs:
            if value.name and value.dtype is not None and value.dtype.is_floating_point():
                absolute = ir.node("Abs", [value], name=f"{value.name}.abs")
                peak = ir.node(
                    "ReduceMax", [absolute.outputs[0]], {"keepdims": 0}, name=f"{value.name}.peak"
                )
                absolute.outputs[0].name = f"{value.name}.abs"
                peak.outputs[0].name = f"{value.name}.peak"
                peak.outputs[0].type = ir.TensorType(value.dtype)
                peak.outputs[0].shape = ir.Shape([])
                copy.graph.insert_after(node, [absolute, peak])
                copy.graph.outputs.append(peak.outputs[0])
                names.append(value.name)
    return copy, names
