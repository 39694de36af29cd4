"""An OpenVINO artifact on a CPU that lacks this one's instructions: short golden texts under QEMU.

    apt install qemu-user
    .venv/bin/python benchmarks/older_cpu.py out/openvino-int8 --cpu Haswell

The whole process is emulated, so OpenVINO finds the instructions of that CPU and no others, and
goldfold loads the artifact as it would there. Capping oneDNN with ONEDNN_MAX_CPU_ISA is no such
test: the plugin goes on to choose by the real CPU, and oneDNN then lacks the kernels. Nothing is
timed: an emulator's seconds say nothing.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from goldfold.exporter.cli.console import open_console  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "older_cpu.json"
KINDS = ("BF16", "FP16", "FP32", "INT8")
"""Of what OpenVINO says that a CPU can, what numbers are computed in."""


def measure(folder: Path, tokens: int) -> dict[str, Any]:
    """What `folder` gives here on the golden texts of at most `tokens` tokens."""
    import openvino as ov

    from goldfold.exporter.artifact.bundle import open_bundle
    from goldfold.golden import compare, store
    from goldfold.targets.openvino import TARGET

    opened = open_bundle(folder, unverified=True)
    manifest = opened.manifest
    goldens = store.load(folder / "golden").within(tokens)
    run = TARGET.load(folder, manifest.contract, manifest.floating, 1)
    found = compare.measure(run, goldens, pad_id=manifest.contract.pad_id)
    return {
        "capabilities": sorted(ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")),
        "texts": len(goldens.cases),
        "worst": max(max(row.alone.distance, row.padded.distance) for row in found.rows),
        "mean": found.mean,
        "text": found.ranked[0].id,
    }


def main(
    artifact: Annotated[list[Path], typer.Argument(help="OpenVINO artifacts.")],
    cpu: Annotated[str, typer.Option(help="A CPU that QEMU knows.")] = "Haswell",
    tokens: Annotated[int, typer.Option(help="The longest golden text.")] = 16,
    inside: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Print the table and write the record."""
    if inside:
        print(json.dumps(measure(artifact[0], tokens)))
        return
    qemu = shutil.which("qemu-x86_64")
    if qemu is None:
        raise SystemExit("error: qemu-x86_64 is not installed: apt install qemu-user")
    record = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    shown = Table("artifact", "CPU", "can", "texts", "worst 1−cos", "mean", box=SIMPLE_HEAD)
    for folder in artifact:
        here = [sys.executable, __file__, str(folder), "--tokens", str(tokens), "--inside"]
        for name, command in (("this one", here), (cpu, [qemu, "-cpu", cpu, *here])):
            ended = subprocess.run(command, capture_output=True, text=True)
            if ended.returncode:
                raise SystemExit(f"error: {folder.name} on {name}: {ended.stderr[-500:]}")
            found = json.loads(ended.stdout.splitlines()[-1])
            record[f"{folder.name} on {name}"] = found
            can = " ".join(kind for kind in found["capabilities"] if kind in KINDS)
            shown.add_row(
                folder.name, name, can, str(found["texts"]),
                f"{found['worst']:.1e}", f"{found['mean']:.1e}",
            )  # fmt: skip
    open_console().print(shown)
    RESULTS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
