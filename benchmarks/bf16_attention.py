"""What fp16 inside attention does for a bf16 program: 1−cos over all golden texts, emulated.

    .venv/bin/python benchmarks/bf16_attention.py MODEL [--json FILE]

Every value is rounded to its declared type (exporter/evaluate/emulate.py). The first row computes
everything that is not an island in bf16, the second is what `--precision bf16` exports for a typed
target.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from goldfold.exporter.cli.console import Live, open_console
from goldfold.exporter.driver import exporting
from goldfold.exporter.errors import GoldfoldError
from goldfold.exporter.evaluate import emulate
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.ir.program import Program
from goldfold.exporter.passes import pipeline
from goldfold.exporter.passes.base import Pass
from goldfold.exporter.passes.set_precision import SetPrecision
from goldfold.exporter.progress import Stages
from goldfold.golden import compare
from goldfold.golden.compare import Measurement
from goldfold.golden.gate import GATES
from goldfold.golden.store import Goldens


def main(
    model: Annotated[str, typer.Argument(help="A SentenceTransformer folder, or a hub id.")],
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write JSON here.")] = None,
) -> None:
    """Print the worst and mean 1−cos of both."""
    stages = Stages(Live(Console(stderr=True)))
    try:
        source = open_model(model)
        goldens = exporting.obtain_goldens(source, stages)
        program = exporting.prepare(source, stages, pipeline.Pipeline())
        with stages("ranges"):
            peaks = exporting.record_ranges(program, stages)
    except GoldfoldError as error:
        raise SystemExit(f"error: {error}") from None
    ways: dict[str, tuple[Pass, ...]] = {
        "bf16 throughout": (SetPrecision("bf16"),),
        "attention in fp16": pipeline.half("bf16", peaks, typed=True),
    }
    found = {name: _measure(program, passes, goldens, stages) for name, passes in ways.items()}
    table = Table("", box=SIMPLE_HEAD, title=f"1−cos, gate {GATES['bf16'].worst:.0e}")
    for heading in ("worst", "mean"):
        table.add_column(heading, justify="right")
    table.add_column("worst text")
    table.add_column("texts over the gate", justify="right")
    rows = {}
    for name, measured in found.items():
        worst = max(measured.worst, measured.worst_padded)
        over = sum(
            max(row.alone.distance, row.padded.distance) > GATES["bf16"].worst
            for row in measured.rows
        )
        rows[name] = {"worst": worst, "mean": measured.mean, "over": over}
        table.add_row(name, f"{worst:.1e}", f"{measured.mean:.1e}", measured.worst_id, str(over))
    open_console().print(table)
    if json_file is not None:
        record = {"model": source.name, "texts": len(goldens.cases), "rows": rows}
        json_file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _measure(
    program: Program, passes: tuple[Pass, ...], goldens: Goldens, stages: Stages
) -> Measurement:
    typed = program.copy()
    pipeline.run(typed, passes)
    with stages("emulate"):
        return compare.measure(
            emulate.runner(typed),
            goldens,
            pad_id=program.contract.pad_id,
            progress=lambda what, done, total: stages.step(done, total),
        )


if __name__ == "__main__":
    typer.run(main)
