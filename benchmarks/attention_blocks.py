"""What attention by blocks saves, and at which length: one program, several spellings, one run.

    .venv/bin/python benchmarks/attention_blocks.py MODEL [--tokens 16 --tokens 2048] [--json FILE]

For ONNX Runtime, and for OpenVINO in f32 and bf16, the same program is built with the window as a
mask and with blocks of 256 and 128 queries; for ONNX Runtime also with heads that share keys as
rows of one matrix. All are run in turn on one text of each length. The shortest times are compared:
on a machine that others use, they are what the work takes, and medians are what the others do.
The multiply-adds of QKᵀ and PV in the layers with a window are counted from the shapes that the
graph really computes, not from a formula.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx_ir as ir
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from goldfold.exporter.cli.console import Live, open_console
from goldfold.exporter.contract import ATTENTION_MASK, INPUT_IDS
from goldfold.exporter.driver import exporting
from goldfold.exporter.errors import GoldfoldError
from goldfold.exporter.evaluate import interpret
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.ir.program import Program
from goldfold.exporter.passes import pipeline
from goldfold.exporter.passes.band_local_attention import BandLocalAttention
from goldfold.exporter.passes.base import Pass
from goldfold.exporter.passes.expand_band_attention import ExpandBandAttention
from goldfold.exporter.progress import Stages

Run = Callable[[np.ndarray, np.ndarray], object]

MASK = "a mask"


def spellings(longest: int, rows: bool) -> dict[str, tuple[Pass, ...]]:
    """Laws by what a table calls them."""
    blocks = {
        f"blocks of {size}": (
            BandLocalAttention(longest, size, rows=rows),
            ExpandBandAttention(rows=rows),
        )
        for size in (256, 128)
    }
    stacked = {"a mask, heads as rows": (ExpandBandAttention(rows=True),)} if rows else {}
    return {MASK: (ExpandBandAttention(),), **stacked, **blocks}


def main(
    model: Annotated[str, typer.Argument(help="A SentenceTransformer folder, or a hub id.")],
    tokens: Annotated[list[int], typer.Option(help="A length; repeatable.")] = [  # noqa: B006
        16, 128, 512, 1024, 1280, 1536, 2047, 2048,
    ],
    seconds: Annotated[float, typer.Option(help="At least so long a row and spelling.")] = 4.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write JSON here.")] = None,
) -> None:  # fmt: skip
    """Print one table a runtime."""
    stages = Stages(Live(Console(stderr=True)))
    try:
        program = exporting.prepare(open_model(model), stages, pipeline.Pipeline())
    except GoldfoldError as error:
        raise SystemExit(f"error: {error}") from None
    console, record = open_console(), {}
    for runtime, rows, build in _runtimes():
        laws = spellings(program.contract.max_length, rows)
        runs = {}
        for name, law in laws.items():
            own = program.copy()
            pipeline.run(own, law)
            runs[name] = build(own)
        table = Table(box=SIMPLE_HEAD, title=f"{program.contract.model}, {runtime}: ms a text")
        for heading in ("tokens", *laws):
            table.add_column(heading, justify="right")
        record[runtime] = {}
        for length in tokens:
            least = _race(runs, length, seconds, program.contract.vocab_size)
            record[runtime][length] = {k: round(v * 1e3, 2) for k, v in least.items()}
            base = least[MASK]
            cells = [f"{v * 1e3:,.1f}  {base / v:.2f}×" for v in least.values()]
            table.add_row(f"{length:,}", *cells)
        console.print(table)
        runs.clear()
        gc.collect()
    counts = _counted(program, tokens)
    table = Table(box=SIMPLE_HEAD, title="Multiply-adds of QKᵀ and PV in one layer with a window")
    for heading in ("tokens", *counts):
        table.add_column(heading, justify="right")
    for place, length in enumerate(tokens):
        base = counts[MASK][place]
        cells = [f"{c[place] / 1e6:,.0f} M  {c[place] / base:.3f}" for c in counts.values()]
        table.add_row(f"{length:,}", *cells)
    console.print(table)
    if json_file is not None:
        record["multiply_adds"] = {
            str(n): {name: c[i] for name, c in counts.items()} for i, n in enumerate(tokens)
        }
        json_file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _runtimes() -> Iterator[tuple[str, bool, Callable[[Program], Run]]]:
    yield "ONNX Runtime f32", True, interpret.runner
    for hint in ("f32", "bf16"):
        yield f"OpenVINO {hint}", False, lambda program, hint=hint: _openvino(program, hint)


def _openvino(program: Program, hint: str) -> Run:
    import openvino as ov

    from goldfold.targets.openvino.build import convert

    converted, held = convert(program.model)
    for port, name in zip(converted.inputs, program.contract.inputs, strict=True):
        port.get_tensor().set_names({name})
    options = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
    request = ov.Core().compile_model(converted, "CPU", options).create_infer_request()

    def run(ids: np.ndarray, mask: np.ndarray, _held: object = held) -> object:
        return request.infer({INPUT_IDS: ids, ATTENTION_MASK: mask}, share_inputs=True)

    return run


def _race(runs: dict[str, Run], length: int, seconds: float, vocabulary: int) -> dict[str, float]:
    """Least seconds of each, all run in turn on the same text, in an order that turns."""
    ids = np.random.default_rng(length).integers(4, vocabulary, (1, length))
    mask = np.ones_like(ids)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run(ids, mask)
    until = time.perf_counter() + seconds * len(runs)
    while time.perf_counter() < until or len(times[MASK]) < 5:
        turned = list(runs.items())[:: 1 if len(times[MASK]) % 2 else -1]
        for name, run in turned:
            began = time.perf_counter()
            run(ids, mask)
            times[name].append(time.perf_counter() - began)
    return {name: min(taken) for name, taken in times.items()}


def _counted(program: Program, tokens: list[int]) -> dict[str, list[int]]:
    """Multiply-adds of one layer by spelling, for each length."""
    first = next(n for n in program.graph if n.attributes.get("window") and n.domain)
    q = first.inputs[0]
    assert q is not None and q.shape is not None
    stem = str(first.outputs[0].name).removesuffix(".BandAttention")
    width = int(q.shape[3])  # type: ignore[arg-type]
    found: dict[str, list[int]] = {}
    for name, law in spellings(program.contract.max_length, rows=False).items():
        own = program.copy()
        pipeline.run(own, law)
        made = {v.name: v for node in own.graph for v in node.outputs}
        scores = made[f"{stem}.scores"]
        scores.type = ir.TensorType(ir.DataType.FLOAT)
        own.graph.outputs.append(scores)
        run = interpret.runner(own)
        found[name] = []
        for length in tokens:
            ids = np.full((1, length), 5)
            shape = run(ids, np.ones_like(ids), output=str(scores.name)).shape
            found[name].append(2 * int(np.prod(shape)) * width)  # QKᵀ and PV: as many each
    return found


if __name__ == "__main__":
    typer.run(main)
