"""Does fp16 hold? The largest value of every kind, before and after scale-residual, and how often
random token sequences give values that are not finite.

    .venv/bin/python benchmarks/fp16_range.py MODEL [--sequences 100] [--json FILE]

The program is the hardest one: everything in fp16, the residual stream too, every value rounded by
the emulator. Ranges are those of the calibration texts; the sequences are other ones, drawn.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table

from goldfold.exporter.cli.console import Live
from goldfold.exporter.driver import exporting
from goldfold.exporter.errors import GoldfoldError
from goldfold.exporter.evaluate import emulate, interpret, ranges
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.ir.program import Program
from goldfold.exporter.passes import pipeline
from goldfold.exporter.passes.scale_residual import FP16_MAX, ScaleResidual
from goldfold.exporter.passes.set_precision import SetPrecision
from goldfold.exporter.progress import Stages
from goldfold.exporter.quantize import texts
from goldfold.golden.compare import reading


def main(
    model: Annotated[str, typer.Argument(help="A SentenceTransformer folder, or a hub id.")],
    sequences: Annotated[int, typer.Option(min=1, help="How many random sequences.")] = 100,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write JSON here.")] = None,
) -> None:
    """Print the range report and the count of sequences that are not finite."""
    console = Console()
    try:
        stages = Stages(Live(Console(stderr=True)))
        program = exporting.traced(open_model(model), stages)
        pipeline.run(program, (*pipeline.EARLY, *pipeline.common(program.contract)))
        calibrated = texts.calibration(program)
        before = ranges.record(program, calibrated)
        scaled = program.copy()
        (report,) = pipeline.run(scaled, (ScaleResidual(tuple(before.items())),))
        after = ranges.record(scaled, calibrated)
    except GoldfoldError as error:
        raise SystemExit(f"error: {error}") from None

    kinds = _by_kind(before, after)
    table = Table(
        "kind of value", box=SIMPLE_HEAD, title=f"Largest magnitude (fp16: {FP16_MAX:,.0f})"
    )
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    for kind, (old, new) in kinds.items():
        table.add_row(kind, f"{old:,.1f}", f"{new:,.1f}")
    console.print(table)

    drawn = _draw(program, sequences)
    counts, worst = _run(program, scaled, drawn)
    longest = max(map(len, drawn))
    console.print(
        f"{len(drawn)} random sequences of 1 to {longest} tokens, all values fp16, emulated:\n"
        f"  unscaled: {counts[0]} not finite\n"
        f"  scaled ({report.applied} application): {counts[1]} not finite, "
        f"worst 1−cos against f32 {worst:.1e}",
        highlight=False,
    )
    if json_file is not None:
        record = {
            "model": program.contract.model,
            "kinds": kinds,
            "sequences": len(drawn),
            "not_finite": {"unscaled": counts[0], "scaled": counts[1]},
            "worst": worst,
        }
        json_file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _by_kind(before: dict[str, float], after: dict[str, float]) -> dict[str, tuple[float, float]]:
    """Largest magnitudes by name without layer numbers; the 16 largest, largest before first."""
    kinds: dict[str, tuple[float, float]] = {}
    for name, old in before.items():
        kind = re.sub(r"\.\d+(?=\.)|_\d+$", "", name.removeprefix("transformer."))
        known = kinds.get(kind, (0.0, 0.0))
        kinds[kind] = (max(known[0], old), max(known[1], after.get(name, 0.0)))
    return dict(sorted(kinds.items(), key=lambda item: -item[1][0])[:16])


def _draw(program: Program, count: int) -> list[list[int]]:
    """Random ids; lengths log-uniform over 1 … the maximum, which is among them."""
    rng = np.random.default_rng(2026)
    top = program.contract.max_length
    lengths = np.exp(rng.uniform(0, np.log(top), count)).astype(int)
    lengths[-1] = top
    return [rng.integers(0, program.contract.vocab_size, n).tolist() for n in lengths]


def _run(program: Program, scaled: Program, drawn: list[list[int]]) -> tuple[list[int], float]:
    """How many sequences are not finite unscaled and scaled, and the worst 1−cos scaled."""
    runs = []
    for source in (program, scaled):
        typed = source.copy()
        SetPrecision("fp16", stream="half").rewrite(typed.model)
        runs.append(emulate.runner(typed))
    exact = interpret.runner(program)
    counts, worst = [0, 0], 0.0
    for ids in track(drawn, "sequences", console=Console(stderr=True), transient=True):
        row = np.array([ids], dtype=np.int64)
        golden = exact(row, np.ones_like(row))[0]
        for index, run in enumerate(runs):
            found = run(row, np.ones_like(row))[0]
            if not np.isfinite(found).all():
                counts[index] += 1
            elif index == 1:
                worst = max(worst, reading(found, golden).distance)
    return counts, worst


if __name__ == "__main__":
    typer.run(main)
