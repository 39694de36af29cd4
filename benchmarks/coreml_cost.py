"""What a Core ML package costs to write, function by function: wall seconds and peak memory.

    .venv/bin/python benchmarks/coreml_cost.py MODEL [--precision fp16] [--buckets 128,512]
                                               [--json FILE]

The model is traced and rewritten first; what is measured is the target's own work on the program:
half precision, lowering each bucket, then writing all of them. Peak resident memory is the kernel's
VmHWM, reset before every step, so it counts everything that was resident at once: what tracing left
behind, and memory-mapped weights as well. Linux only.
"""

from __future__ import annotations

import json
import platform
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from goldfold.exporter.driver import exporting
from goldfold.exporter.errors import GoldfoldError, UsageError
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.ir.program import Program
from goldfold.exporter.options import BuildOptions
from goldfold.exporter.passes import pipeline
from goldfold.exporter.passes.pipeline import Pipeline
from goldfold.exporter.progress import Stages

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


class Meter:
    """Seconds and peak memory of one step after another."""

    def __init__(self) -> None:
        self.rows: list[dict[str, str | float]] = []

    def __call__(self, step: str, work):
        CLEAR.write_text("5")  # resets VmHWM to what is resident now
        started = time.perf_counter()
        result = work()
        seconds = time.perf_counter() - started
        peak = next(
            int(line.split()[1])
            for line in STATUS.read_text().splitlines()
            if line.startswith("VmHWM:")
        )
        row = {"step": step, "seconds": round(seconds, 2), "peak_gb": round(peak * 1024 / 1e9, 2)}
        self.rows.append(row)
        Console(stderr=True).print(f"{step}: {seconds:.1f} s", highlight=False)
        return result


def main(
    model: Annotated[str, typer.Argument(help="A SentenceTransformer folder, or a hub id.")],
    precision: Annotated[str, typer.Option()] = "fp16",
    buckets: Annotated[str, typer.Option(help="As 128,512.")] = "128,512",
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write JSON here.")] = None,
) -> None:
    """Trace once, then write the package and print the table."""
    from goldfold.targets.coreml import TARGET, build
    from goldfold.targets.coreml.lower import vendor

    meter = Meter()
    lengths = tuple(int(part) for part in buckets.split(","))
    try:
        source = open_model(model)
        stages = Stages()
        program = exporting.prepare(source, stages, Pipeline())
        peaks = exporting.record_ranges(program, stages) if precision == "fp16" else {}
        half = pipeline.half(precision, peaks, typed=True)
        meter("half precision", lambda: pipeline.run(program, half))
        options = TARGET.settle(
            precision, BuildOptions(buckets=lengths), program.contract.max_length
        )
        meter("import coremltools", vendor.builder)
        size = _write(meter, program, options, build, vendor)
    except (GoldfoldError, UsageError) as error:
        raise SystemExit(f"error: {error}") from None
    table = Table("step", title=f"Core ML package of {source.name}, {precision}")
    table.add_column("seconds", justify="right")
    table.add_column("peak resident", justify="right")
    for row in meter.rows:
        table.add_row(str(row["step"]), f"{row['seconds']:.1f}", f"{row['peak_gb']:.2f} GB")
    table.add_section()
    table.add_row(
        f"all, {size / 1e6:.0f} MB on disk",
        f"{sum(float(row['seconds']) for row in meter.rows):.1f}",
        f"{max(float(row['peak_gb']) for row in meter.rows):.2f} GB",
    )
    Console().print(table)
    if json_file is not None:
        record = {
            "model": source.name,
            "precision": precision,
            "machine": {"processor": platform.machine(), "system": platform.system()},
            "versions": TARGET.versions(),
            "bytes": size,
            "steps": meter.rows,
        }
        json_file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _write(meter: Meter, program: Program, options: BuildOptions, build, vendor) -> int:
    """Lower each bucket, write them all, and return the bytes."""
    system = vendor.system(options.minimum_target)
    made = build.begun(options)
    for bucket in options.buckets:
        meter(
            f"lower {bucket} tokens",
            lambda bucket=bucket: build.add(made, program, system, options, bucket),
        )
    with tempfile.TemporaryDirectory() as out:
        package = Path(out) / "model.mlpackage"
        meter("write", lambda: build.save(made, package, system))
        return sum(file.stat().st_size for file in package.rglob("*") if file.is_file())


if __name__ == "__main__":
    typer.run(main)
