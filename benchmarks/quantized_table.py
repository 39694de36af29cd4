"""What looking up rows of a quantized embedding table costs, before and after
sink-dequantize-past-gather, in ONNX Runtime and OpenVINO.

    .venv/bin/python benchmarks/quantized_table.py [--json FILE]

The table has EmbeddingGemma's size, 262,144 rows of 768, and drawn numbers: what they are changes
no time. Milliseconds a call of 128 tokens, medians of interleaved calls in one process.
"""

from __future__ import annotations

import io
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import ml_dtypes
import numpy as np
import onnx_ir as ir
import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from goldfold.exporter.cli.console import open_console
from goldfold.exporter.evaluate.interpret import Session
from goldfold.exporter.ir.program import add_constant, infer_shapes
from goldfold.exporter.passes.sink_dequantize_past_gather import SinkDequantizePastGather

ROWS, WIDTH, TOKENS = 262_144, 768, 128
KINDS = {
    "int8, a scale a row": (8, 0),
    "int8, blocks of 32": (8, 32),
    "int4, blocks of 32": (4, 32),
}

Call = Callable[[np.ndarray], np.ndarray]


def lookup(bits: int, block: int) -> ir.Model:
    """Gather(DequantizeLinear(table, scale), ids)."""
    rng = np.random.default_rng(0)
    numbers = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (ROWS, WIDTH), dtype=np.int8)
    table = numbers if bits == 8 else numbers.astype(ml_dtypes.int4)
    scales = rng.random((ROWS, WIDTH // block) if block else ROWS, dtype=np.float32) / 100
    kind = ir.TensorType(ir.DataType.INT64)
    ids = ir.Value(name="ids", shape=ir.Shape(["batch", "tokens"]), type=kind)
    graph = ir.Graph([ids], [], nodes=[], opset_imports={"": 23}, name="lookup")
    inputs = [add_constant(graph, "table", table), add_constant(graph, "scales", scales)]
    how = {"axis": 1, "block_size": block} if block else {"axis": 0}
    dequantize = ir.node("DequantizeLinear", inputs, how, name="dequantize")
    gather = ir.node("Gather", [dequantize.outputs[0], ids], name="gather")
    for node, name in ((dequantize, "whole"), (gather, "rows")):
        node.outputs[0].name = name
        graph.append(node)
    gather.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    graph.outputs.append(gather.outputs[0])
    model = ir.Model(graph, ir_version=10)
    infer_shapes(model)
    return model


def in_onnxruntime(model: ir.Model) -> Call:
    session = Session(model)
    return lambda ids: session.run(["rows"], {"ids": ids})[0]


def in_openvino(model: ir.Model) -> Call:
    import openvino as ov

    proto = io.BytesIO(ir.to_proto(model).SerializeToString())
    compiled = ov.Core().compile_model(
        ov.Core().read_model(proto), "CPU", {"PERFORMANCE_HINT": "LATENCY"}
    )
    request = compiled.create_infer_request()
    return lambda ids: np.array(request.infer({0: ids})[0])


def compare(bits: int, block: int, runtime: Callable[[ir.Model], Call], rounds: int) -> dict:
    before, after = lookup(bits, block), lookup(bits, block)
    assert SinkDequantizePastGather().rewrite(after).applied
    calls = {"before": runtime(before), "after": runtime(after)}
    ids = np.random.default_rng(1).integers(0, ROWS, (1, TOKENS))
    one, other = (call(ids) for call in calls.values())
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.perf_counter()
            call(ids)
            found[name].append((time.perf_counter() - started) * 1e3)
    times = {name: round(statistics.median(taken), 3) for name, taken in found.items()}
    return {**times, "same bits": one.tobytes() == other.tobytes()}


def main(
    rounds: Annotated[int, typer.Option(help="Calls each.")] = 15,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write JSON here.")] = None,
) -> None:
    """Print milliseconds a call before and after."""
    table = Table("", "table", box=SIMPLE_HEAD, title=f"ms a lookup of {TOKENS} tokens")
    for heading in ("before", "after", "same bits"):
        table.add_column(heading, justify="right")
    rows: dict[str, dict] = {}
    for name, runtime in (("onnxruntime", in_onnxruntime), ("openvino", in_openvino)):
        for kind, (bits, block) in KINDS.items():
            try:
                found = compare(bits, block, runtime, rounds)
            except Exception as error:
                found = {"refused": str(error).strip().splitlines()[-1][:200]}
                table.add_row(name, kind, "refused", "", "")
            else:
                table.add_row(name, kind, *(str(value) for value in found.values()))
            rows[f"{name}, {kind}"] = found
    open_console().print(table)
    if json_file is not None:
        record = {"rows": ROWS, "width": WIDTH, "tokens": TOKENS, "times": rows}
        json_file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
