"""What merge-parallel-matmuls does for speed: milliseconds a call on every runtime, for q/k/v
merged, gate and up merged, both, and none.

    .venv/bin/python benchmarks/merge_matmuls.py MODEL [--engine openvino:bf16 ...] [--json FILE]

Processor time in one thread: what other work on the machine takes is not in it. The four artifacts
of an engine are open at once and called in turns, forwards and backwards. Each figure is a median.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from goldfold.exporter import registry
from goldfold.exporter.cli.console import Live, open_console
from goldfold.exporter.contract import Run
from goldfold.exporter.driver import exporting
from goldfold.exporter.errors import GoldfoldError
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.ir.program import Program
from goldfold.exporter.options import NOTHING_ASKED
from goldfold.exporter.passes import pipeline
from goldfold.exporter.passes.base import Pass
from goldfold.exporter.passes.merge_parallel_matmuls import MergeParallelMatmuls
from goldfold.exporter.progress import Stages

WAYS: dict[str, tuple[Pass, ...]] = {
    "none": (),
    "q/k/v": (MergeParallelMatmuls(part="attention"),),
    "gate/up": (MergeParallelMatmuls(part="rest"),),
    "both": (MergeParallelMatmuls(),),
}
SIZES = ((1, 16), (1, 128), (8, 128), (1, 512), (32, 64))
"""(batch, tokens)"""


def main(
    model: Annotated[str, typer.Argument(help="A SentenceTransformer folder, or a hub id.")],
    engine: Annotated[list[str], typer.Option(help="target:precision")] = [  # noqa: B006
        "onnxruntime:fp32",
        "openvino:fp32",
        "openvino:bf16",
    ],
    rounds: Annotated[int, typer.Option(help="Calls each; short ones are made more often.")] = 5,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write JSON here; engines add up.")
    ] = None,
) -> None:
    """Print a table an engine, and write all of them as JSON."""
    stages = Stages(Live(Console(stderr=True)))
    found = {}
    try:
        source = open_model(model)
        program = exporting.prepare(source, stages, pipeline.Pipeline())
        for name in engine:
            with stages(name), tempfile.TemporaryDirectory() as scratch:
                found[name] = _engine(program, name, Path(scratch), rounds)
    except GoldfoldError as error:
        raise SystemExit(f"error: {error}") from None
    for name, rows in found.items():
        table = Table("batch × tokens", box=SIMPLE_HEAD, title=f"{name}: ms, × none's")
        for way in WAYS:
            table.add_column(way, justify="right")
        for (batch, tokens), times in rows.items():
            cells = [f"{ms:.1f}  {ms / times['none']:.2f}" for ms in times.values()]
            table.add_row(f"{batch} × {tokens}", *cells)
        open_console().print(table)
    if json_file is not None:
        named = {n: {f"{b}x{t}": v for (b, t), v in rows.items()} for n, rows in found.items()}
        record = {"model": source.name, "milliseconds": named}
        if json_file.exists():  # what other engines took stays
            kept = json.loads(json_file.read_text("utf-8"))
            if kept["model"] == source.name:
                record["milliseconds"] = {**kept["milliseconds"], **named}
        json_file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _engine(
    program: Program, name: str, scratch: Path, rounds: int
) -> dict[tuple[int, int], dict[str, float]]:
    """One engine's times. Its four artifacts are let go before the next engine's are opened."""
    runs = {way: _open(program, way, name, scratch) for way in WAYS}
    return {size: _times(runs, _draw(program, size), rounds) for size in SIZES}


def _open(program: Program, way: str, engine: str, scratch: Path) -> Run:
    """The artifact as its target builds it, but for the merging."""
    name, _, precision = engine.partition(":")
    target = registry.target(name)
    own = program.copy()
    laws = target.tail(precision, own.contract, {})
    tail = [law for law in laws if not isinstance(law, MergeParallelMatmuls)]
    pipeline.run(own, (*WAYS[way], *tail))
    folder = scratch / way.replace("/", "-")
    folder.mkdir()
    target.build(own, precision, folder, NOTHING_ASKED)
    return target.load(folder, program.contract, precision, 1)


def _draw(program: Program, size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, program.contract.vocab_size, size)


def _times(runs: dict[str, Run], ids: np.ndarray, rounds: int) -> dict[str, float]:
    """Median milliseconds of processor time a call."""
    mask = np.ones_like(ids)
    taken: dict[str, list[float]] = {way: [] for way in runs}
    for run in runs.values():
        run(ids, mask)
    for turn in range(rounds * max(1, 128 // ids.size)):
        for way in list(runs) if turn % 2 else reversed(runs):
            started = time.process_time()
            runs[way](ids, mask)
            taken[way].append((time.process_time() - started) * 1e3)
    return {way: round(statistics.median(times), 2) for way, times in taken.items()}


if __name__ == "__main__":
    typer.run(main)
