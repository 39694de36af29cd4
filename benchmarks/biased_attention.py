"""MPNet's attention in one op against the same written out, in one runtime.

    .venv/bin/python -m benchmarks.biased_attention [--runtime openvino] [--precision bf16]
        [--shapes 1x16,1x128,8x128,1x512] [--rounds 12] [--json FILE]

The model has all-mpnet-base-v2's shape, 12 layers of 768, with drawn weights: speed does not depend
on what they are. `arithmetic` is the graph without raise-attention, `one op` with it, spelt out
again by expand-band-attention as every artifact of these two runtimes is, `Attention` with ONNX's
own op instead. Processor time of the whole process, which a busy machine disturbs less than the
clock; each ratio is the median of the quotients of calls that follow each other.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import harness
from goldfold.exporter.frontend.simplify import simplify
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.frontend.trace import trace
from goldfold.exporter.ir import onnx_file
from goldfold.exporter.passes import pipeline
from goldfold.exporter.passes.expand_band_attention import ExpandBandAttention
from goldfold.exporter.passes.spell_attention import SpellAttention
from tests import models

Embed = Callable[[np.ndarray, np.ndarray], np.ndarray]

SIDES: dict[str, tuple[tuple, frozenset[str]]] = {
    "arithmetic": ((), frozenset({"raise-attention"})),
    "one op": ((ExpandBandAttention(),), frozenset()),
    "Attention": ((SpellAttention(),), frozenset()),
}
"""The last passes, and those that are skipped."""
SIZES = {
    "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12,
    "num_hidden_layers": 12, "max_position_embeddings": 514, "max_seq_length": 512,
}  # fmt: skip


def main(
    runtime: Annotated[str, typer.Option(help="onnxruntime or openvino.")] = "openvino",
    precision: Annotated[str, typer.Option(help="OpenVINO's: f32 or bf16.")] = "f32",
    shapes: Annotated[str, typer.Option(help="texts x tokens.")] = "1x16,1x128,8x128,1x512",
    rounds: Annotated[int, typer.Option()] = 12,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write JSON here.")] = None,
) -> None:
    """Time all sides in turn, and print ratios to arithmetic."""
    rows: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as room:
        calls = {name: _open(file, runtime, precision) for name, file in _files(Path(room)).items()}
        for shape in shapes.split(","):
            texts, tokens = map(int, shape.split("x"))
            ids = np.random.default_rng(0).integers(5, models.VOCAB_SIZE - 5, (texts, tokens))
            mask = np.ones_like(ids)
            mask[1:2, tokens // 2 :] = 0
            rows[shape] = _times(calls, ids, mask, rounds)
    table = Table(title=f"{runtime} {precision}: processor time, times as fast as arithmetic")
    for heading in ("texts × tokens", "arithmetic, ms", *list(SIDES)[1:]):
        table.add_column(heading, justify="right")
    for shape, times in rows.items():
        first = times["arithmetic"]
        ratios = [
            statistics.median(a / b for a, b in zip(first, times[name], strict=True))
            for name in list(SIDES)[1:]
        ]
        table.add_row(shape, f"{min(first):.1f}", *(f"{ratio:.2f}" for ratio in ratios))
    Console().print(table)
    harness.record(json_file, {"runtime": runtime, "precision": precision, "milliseconds": rows})


def _files(room: Path) -> dict[str, Path]:
    folder = models.build("mpnet", room / "model", **SIZES)
    whole = trace(open_model(folder))
    simplify(whole)
    files = {}
    for name, (last, skip) in SIDES.items():
        program = whole.copy()
        passes = (*pipeline.EARLY, *pipeline.common(program.contract), *last)
        pipeline.Pipeline(pipeline.Options(skip=skip)).run(program, passes)
        (room / name).mkdir()
        onnx_file.write(program, room / name, name)
        files[name] = room / name / "model.onnx"
    return files


def _open(file: Path, runtime: str, precision: str) -> Embed:
    if runtime == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        # A thread that waits by spinning would count as work.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(str(file), options)
        return lambda ids, mask: np.asarray(
            session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
        )
    import openvino

    how = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    request = openvino.Core().compile_model(str(file), "CPU", how).create_infer_request()
    return lambda ids, mask: np.array(
        request.infer({"input_ids": ids, "attention_mask": mask})[0], copy=True
    )


def _times(
    calls: dict[str, Embed], ids: np.ndarray, mask: np.ndarray, rounds: int
) -> dict[str, list[float]]:
    """Milliseconds of processor time by side; raises AssertionError if the sides differ."""
    results = [call(ids, mask).astype(np.float64) for call in calls.values()]
    assert all(np.abs(found - results[0]).max() < 2e-2 for found in results)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for place in range(-1, rounds):  # the first is not counted
        for name in harness.turn(list(calls), place % len(calls)):
            started = time.process_time()
            calls[name](ids, mask)
            if place >= 0:
                times[name].append(1e3 * (time.process_time() - started))
    return times


if __name__ == "__main__":
    typer.run(main)
