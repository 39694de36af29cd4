"""Integer artifacts for OpenVINO against bf16 ones, in one interleaved run.

    .venv/bin/python benchmarks/quantized_speed.py out/openvino-int8 out/openvino-int8-weights \
        --bf16 out/openvino-fp32 --bf16 PEER/openvino_model.xml

An artifact is compiled with f32 around its integers and, marked so, with the bf16 hint around them;
what integers are multiplied with is rounded as its own file says. Each --bf16, a folder or an .xml,
is compiled with the bf16 hint. Every round times each once;
medians of wall time count, and processor time stands beside them, which other work on the machine
disturbs less.
"""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import openvino as ov
import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from goldfold.exporter.cli.console import open_console

SHAPES = ((1, 16), (1, 128), (8, 128), (32, 64), (1, 512))
RESULTS = Path(__file__).parent / "results" / "quantized_speed.json"


def main(
    artifact: Annotated[list[Path], typer.Argument(help="openvino-int8 and the like.")],
    bf16: Annotated[list[Path], typer.Option(help="What they are compared with; the first is 1.")],
    seconds: Annotated[float, typer.Option(help="Timed seconds a side and shape.")] = 4.0,
) -> None:
    """Print the table and write the record."""
    sides = {f"{path.parent.name}/{path.name}, bf16": _open(path, "bf16") for path in bf16}
    for path in artifact:
        sides[path.name] = _open(path, "f32")
        sides[f"{path.name}, bf16 around"] = _open(path, "bf16")
    record: dict[str, dict[str, dict[str, float]]] = {}
    shown = Table(
        "batch × tokens", *sides, box=SIMPLE_HEAD, title="ms (processor ms), times as fast"
    )
    for batch, tokens in SHAPES:
        taken = race(sides, batch, tokens, seconds)
        record[f"{batch}x{tokens}"] = taken
        first = next(iter(taken.values()))
        shown.add_row(
            f"{batch} × {tokens}",
            *(
                f"{one['ms']:.1f} ({one['cpu_ms']:.1f}) {first['ms'] / one['ms']:.2f}×"
                for one in taken.values()
            ),
        )
    open_console().print(shown)
    RESULTS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _open(path: Path, hint: str) -> ov.InferRequest:
    file = next(path.glob("*model.xml")) if path.is_dir() else path
    options = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
    return ov.Core().compile_model(str(file), "CPU", options).create_infer_request()


def race(
    sides: dict[str, ov.InferRequest], batch: int, tokens: int, seconds: float
) -> dict[str, dict[str, float]]:
    ids = np.random.default_rng(0).integers(100, 200_000, (batch, tokens)).astype(np.int64)
    wall: dict[str, list[float]] = {name: [] for name in sides}
    used: dict[str, list[float]] = {name: [] for name in sides}
    for request in sides.values():
        request.infer(_feeds(request, ids))
    until = time.perf_counter() + seconds * len(sides)
    while time.perf_counter() < until or len(wall[next(iter(wall))]) < 5:
        for name, request in sides.items():
            feeds = _feeds(request, ids)
            begin, cpu = time.perf_counter(), _processor()
            request.infer(feeds)
            wall[name].append(time.perf_counter() - begin)
            used[name].append(_processor() - cpu)
    return {
        name: {
            "ms": round(float(np.median(wall[name])) * 1e3, 2),
            "cpu_ms": round(float(np.median(used[name])) * 1e3, 2),
        }
        for name in sides
    }


def _feeds(request: ov.InferRequest, ids: np.ndarray) -> dict[str, np.ndarray]:
    named = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    wanted = {port.get_any_name() for port in request.model_inputs}
    return {name: array for name, array in named.items() if name in wanted}


def _processor() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    typer.run(main)
