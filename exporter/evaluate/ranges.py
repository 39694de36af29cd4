"""The largest magnitude of every floating value of a Program on a set of token ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import onnx_ir as ir

from goldfold.exporter.contract import ATTENTION_MASK, INPUT_IDS
from goldfold.exporter.evaluate import interpret
from goldfold.exporter.ir import dialect
from goldfold.exporter.ir.program import Program

SCORES = ".scores"
"""The suffix of a key for the scores inside an attention, which are at most this large."""


def record(
    program: Program,
    sequences: Iterable[Sequence[int]],
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, float]:
    """Largest |x| by value name over all sequences, each run alone in f32.

    Non-finite values count as infinity. Only the maxima leave the runtime, so memory stays flat.
    The scores of goldfold.BandAttention are no value of the graph; `OUTPUT.scores` is a bound on
    them: |q·k| ≤ |q| |k|, the longest of each, times the scale.
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
    """A copy in which every floating value that a node computes has an output `name.peak`."""
    copy = program.copy()
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
        if dialect.is_band_attention(node) and node.outputs[0].name:
            names.append(_scores(copy, node))
    return copy, names


def _scores(program: Program, attention: ir.Node) -> str:
    """Add the output `name.peak` that bounds the scores of `attention`; returns `name`."""
    name = f"{attention.outputs[0].name}{SCORES}"
    scale = ir.tensor(np.array(abs(dialect.Band.of(attention).scale), dtype=np.float32))
    axis = ir.tensor(np.array([-1], dtype=np.int64))
    nodes, longest = [], []
    for place, value in zip("qk", attention.inputs, strict=False):
        along = ir.node("Constant", [], {"value": axis}, name=f"{name}.{place}.axis")
        length = ir.node("ReduceL2", [value, along.outputs[0]], name=f"{name}.{place}.length")
        most = ir.node("ReduceMax", [length.outputs[0]], {"keepdims": 0}, name=f"{name}.{place}")
        nodes += [along, length, most]
        longest.append(most.outputs[0])
    factor = ir.node("Constant", [], {"value": scale}, name=f"{name}.scale")
    product = ir.node("Mul", longest, name=f"{name}.product")
    bound = ir.node("Mul", [product.outputs[0], factor.outputs[0]], name=f"{name}.peak")
    nodes += [factor, product, bound]
    bias = dialect.bias_of(attention)
    if bias is not None:
        bound.name = f"{name}.products"
        absolute = ir.node("Abs", [bias], name=f"{name}.bias")
        most = ir.node("ReduceMax", absolute.outputs, {"keepdims": 0}, name=f"{name}.bias.most")
        parts = [bound.outputs[0], most.outputs[0]]
        bound = ir.node("Add", parts, name=f"{name}.peak")
        nodes += [absolute, most, bound]
    for node in nodes:
        node.outputs[0].name = node.name
    bound.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    bound.outputs[0].shape = ir.Shape([])
    program.graph.insert_after(attention, nodes)
    program.graph.outputs.append(bound.outputs[0])
    return name
