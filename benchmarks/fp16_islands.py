"""Which constants, and which stream, fp16 must not round: 1−cos on one golden text.

    .venv/bin/python benchmarks/fp16_islands.py MODEL [--text length-255]

First one kind of constant at a time is rounded to fp16 and all else stays in f32. Then the emulator
rounds every value, once with the residual stream in fp16 and once in f32.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import onnx_ir as ir
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from goldfold.exporter.cli.console import Live
from goldfold.exporter.contract import Run
from goldfold.exporter.driver import exporting
from goldfold.exporter.errors import GoldfoldError
from goldfold.exporter.evaluate import emulate, interpret, ranges
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.ir.program import Program
from goldfold.exporter.passes import pipeline
from goldfold.exporter.passes.scale_residual import ScaleResidual
from goldfold.exporter.passes.set_precision import SetPrecision
from goldfold.exporter.progress import Stages
from goldfold.exporter.quantize import texts
from goldfold.golden.compare import reading

KINDS = (
    "rotary", "norm", "embed_tokens", "gate_proj", "up_proj", "down_proj", "q_proj", "k_proj",
    "v_proj", "o_proj", "",
)  # fmt: skip
"""Parts of constants' names; the last is all of them. Only a report goes by names, never a law."""


def main(
    model: Annotated[str, typer.Argument(help="A SentenceTransformer folder, or a hub id.")],
    text: Annotated[str, typer.Option(help="Id of a golden text.")] = "length-255",
) -> None:
    """Print 1−cos by kind of constant, and by what the stream is computed in."""
    try:
        source = open_model(model)
        stages = Stages(Live(Console(stderr=True)))
        goldens = exporting.obtain_goldens(source, stages)
        program = exporting.traced(source, stages)
        pipeline.run(program, (*pipeline.EARLY, *pipeline.common(program.contract)))
    except GoldfoldError as error:
        raise SystemExit(f"error: {error}") from None
    index = next((i for i, case in enumerate(goldens.cases) if case.id == text), None)
    if index is None:
        raise SystemExit(f"error: {goldens.model} has no golden text {text!r}")
    ids = np.array([goldens.cases[index].token_ids], dtype=np.int64)

    def distance(run: Run) -> float:
        return reading(run(ids, np.ones_like(ids))[0], goldens.embeddings[index]).distance

    table = Table("rounded to fp16", box=SIMPLE_HEAD, title=f"1−cos on {text}")
    table.add_column("1−cos", justify="right")
    for kind in KINDS:
        found = distance(interpret.runner(_rounded(program, kind)))
        table.add_row(kind or "all constants", f"{found:.1e}")
    scaled = program.copy()
    peaks = ranges.record(program, texts.calibration(program)[::8])
    pipeline.run(scaled, (ScaleResidual(tuple(peaks.items())),))
    for stream in ("half", "f32"):
        typed = scaled.copy()
        SetPrecision("fp16", stream=stream).rewrite(typed.model)
        found = distance(emulate.runner(typed))
        table.add_row(f"every value, stream {stream}", f"{found:.1e}")
    Console().print(table)


def _rounded(program: Program, kind: str) -> Program:
    """A copy whose f32 constants of this kind (arrays, not single numbers) went through fp16."""
    copy = program.copy()
    for name, value in copy.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size <= 64:
            continue
        if kind in name:
            half = tensor.numpy().astype(np.float16)
            value.const_value = ir.tensor(half.astype(np.float32), name=name)
    return copy


if __name__ == "__main__":
    typer.run(main)
