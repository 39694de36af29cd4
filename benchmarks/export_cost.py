"""What an export costs, stage by stage: wall seconds and peak resident memory.

    .venv/bin/python -m benchmarks.export_cost MODEL [--target openvino ...] [--precision fp32 ...]
                                          [--cache] [--within TOKENS] [--json FILE]

Peak resident memory is the kernel's VmHWM, reset before every stage, so it counts everything that
was resident at once: memory-mapped files as well. Where a process of ours works beside the export,
its memory is added: twenty times a second both are read, and the greatest sum counts. Verification
is shown apart: it is not part of the cost of writing an artifact. Linux only.

Every stage is worked through unless --cache lets finished ones be taken from the user's cache; what
it costs to keep them is then in the first run. --within leaves longer golden texts out, so that one
need not wait for a verification that is not looked at.
"""

from __future__ import annotations

import platform
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import harness
from goldfold.exporter.driver import exporting
from goldfold.exporter.driver.exporting import export
from goldfold.exporter.errors import GoldfoldError


def main(
    model: Annotated[str, typer.Argument(help="A SentenceTransformer folder, or a hub id.")],
    target: Annotated[list[str], typer.Option()] = ["openvino", "onnxruntime"],  # noqa: B006
    precision: Annotated[list[str], typer.Option()] = ["fp32"],  # noqa: B006
    cache: Annotated[bool, typer.Option("--cache", help="Use the cache of stages.")] = False,
    within: Annotated[int | None, typer.Option(help="Tokens of the longest golden text.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write JSON here.")] = None,
) -> None:
    """Export once and print the table."""
    meter = harness.Meter()
    obtain = exporting.obtain_goldens
    if within is not None:
        exporting.obtain_goldens = lambda *given: obtain(*given).within(within)
    with tempfile.TemporaryDirectory() as out:
        try:
            results = export(model, target, precision, out, cache=cache, listener=meter)
        except GoldfoldError as error:
            raise SystemExit(f"error: {error}") from None
    work = [row for row in meter.rows if not str(row["stage"]).startswith("verify")]
    checks = [row for row in meter.rows if str(row["stage"]).startswith("verify")]
    table = Table(
        "stage", title=f"Export of {Path(model).name}, {', '.join(precision)}", title_justify="left"
    )
    table.add_column("seconds", justify="right")
    table.add_column("peak resident", justify="right")
    for row in work:
        table.add_row(str(row["stage"]), f"{row['seconds']:.1f}", f"{row['peak_gb']:.2f} GB")
    table.add_section()
    table.add_row(
        "export, without verification",
        f"{sum(float(row['seconds']) for row in work):.1f}",
        f"{max(float(row['peak_gb']) for row in work):.2f} GB",
    )
    table.add_section()
    for row in checks:
        table.add_row(str(row["stage"]), f"{row['seconds']:.1f}", f"{row['peak_gb']:.2f} GB")
    Console().print(table)
    found = {
        "model": Path(model).name,
        "machine": {"processor": platform.machine(), "system": platform.system()},
        "versions": dict(results[0].bundle.manifest.versions),
        "stages": meter.rows,
    }
    harness.record(json_file, found)


if __name__ == "__main__":
    typer.run(main)
