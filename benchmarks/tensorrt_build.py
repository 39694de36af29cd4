"""What NVIDIA's compiler asks of this machine: seconds, memory and bytes of an engine a precision.

    .venv/bin/python -m benchmarks.tensorrt_build MODEL [--precision fp16] [--json FILE]

Each engine is built twice, in a process of its own, and compared byte by byte; its weights are
looked for in it bit by bit. No GPU is needed, and none is looked at.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks import harness
from goldfold.exporter.cli.console import Live, open_console
from goldfold.exporter.driver import preparing
from goldfold.exporter.errors import GoldfoldError
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.ir.onnx_file import MODEL
from goldfold.exporter.ir.program import Program
from goldfold.exporter.passes import pipeline
from goldfold.exporter.progress import Stages
from goldfold.targets.tensorrt import TARGET, build, proof
from goldfold.targets.tensorrt.options import TensorRtOptions


def main(
    model: Annotated[str, typer.Argument(help="A SentenceTransformer folder, or a hub id.")],
    precision: Annotated[list[str], typer.Option(help="fp32, fp16, bf16; repeatable.")] = [  # noqa: B006
        "fp16",
        "bf16",
    ],
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write JSON here.")] = None,
) -> None:
    """Print one row a precision."""
    stages = Stages(Live(Console(stderr=True)))
    try:
        if (reason := TARGET.unavailable()) is not None:
            raise GoldfoldError(f"{reason}; pip install 'goldfold[tensorrt]'")
        source = open_model(model)
        program = preparing.prepare(source, stages, pipeline.Pipeline())
        with stages("ranges"):
            peaks = preparing.record_ranges(program, stages)
        rows = [_measure(program, kind, peaks, stages) for kind in precision]
    except GoldfoldError as error:
        raise SystemExit(f"error: {error}") from None
    table = Table(box=SIMPLE_HEAD, title=f"Engines of {source.name}, {TARGET.versions()}")
    for heading in ("precision", "s", "peak", "weights", "found", "engine", "ratio", "twice alike"):
        table.add_column(heading, justify="left" if heading == "precision" else "right")
    for row in rows:
        table.add_row(
            row["precision"],
            f"{row['seconds']:.1f}",
            f"{row['peak_bytes'] / 1e9:.2f} GB",
            f"{row['weights'] / 1e6:.1f} MB",
            f"{row['found'] / row['weights']:.1%}",
            f"{row['engine'] / 1e6:.1f} MB",
            f"{row['engine'] / row['weights']:.3f}",
            "yes" if row["identical"] else "NO",
        )
    open_console().print(table)
    found = {"model": source.name, "versions": TARGET.versions(), "rows": rows}
    harness.record(json_file, found)


def _measure(program: Program, precision: str, peaks: dict[str, float], stages: Stages) -> dict:
    own = program.copy()
    pipeline.run(own, pipeline.half(precision, peaks, TARGET.strongly_typed))
    pipeline.run(own, TARGET.backend_passes(precision, own.contract, peaks))
    options = TARGET.settle(precision, TensorRtOptions(), program.contract.max_length)
    with tempfile.TemporaryDirectory(prefix="goldfold-") as scratch, stages(f"build {precision}"):
        folder = Path(scratch)
        TARGET.build(own, precision, folder, options)
        holding = proof.look(folder / build.ENGINE, folder / MODEL)
        first = (folder / build.ENGINE).read_bytes()
        result = build.compile_engine(folder)
        identical = first == (folder / build.ENGINE).read_bytes()
    return {
        "precision": precision,
        "capabilities": options.compute_capability,
        "profiles": options.profile,
        "seconds": round(result["seconds"], 2),
        "peak_bytes": result["peak_bytes"],
        "engine": holding.engine,
        "weights": holding.weights,
        "found": holding.found,
        "identical": identical,
        "layers": result["layers"],
    }


if __name__ == "__main__":
    typer.run(main)
