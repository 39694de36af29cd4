"""Integer weights with nothing rounded that they meet: what OpenVINO's kernels make of that, and
the ways around them.

    .venv/bin/python benchmarks/weights_only.py out/openvino-int8-weights --bf16 out/openvino-fp32

Each way is the artifact's own graph, changed in memory: every map as it is, with f32 or bf16 around
it; every map unpacked once, at load; every map asked twice, for what its input rounds to and for
what that leaves over, both of which the plugin may round to 8 bits; and the maps of some kinds
alone going the way of rounded inputs. Golden texts of up to 300 tokens are run alone, then every
way is timed, interleaved. The record is benchmarks/results/weights_only.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import openvino as ov
import typer
from openvino import opset13 as ops
from rich.box import SIMPLE_HEAD
from rich.table import Table

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.quantize_recipes import errors  # noqa: E402
from benchmarks.quantized_speed import race  # noqa: E402
from goldfold.exporter.cli.console import open_console  # noqa: E402
from goldfold.golden import store  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "weights_only.json"
SHAPES = ((1, 16), (1, 128), (8, 128))
GROUP = 128
"""Inputs that share a step where they are rounded: the artifact's blocks."""
ROBUST = ("gate_proj", "up_proj", "o_proj")
"""Maps whose rounded inputs cost least, in EmbeddingGemma's names."""


def main(
    artifact: Annotated[Path, typer.Argument(help="openvino-int8-weights of EmbeddingGemma.")],
    bf16: Annotated[Path, typer.Option(help="The fp32 artifact, which runs in bf16.")],
    seconds: Annotated[float, typer.Option(help="Timed seconds a side and shape.")] = 2.5,
) -> None:
    """Print the table and write the record."""
    ways: dict[str, tuple[Path, Callable[[ov.Model], None], str, int]] = {
        "no integers, bf16": (bf16, _as_it_is, "bf16", 0),
        "as it is, f32 around": (artifact, _as_it_is, "f32", 0),
        "as it is, bf16 around": (artifact, _as_it_is, "bf16", 0),
        "unpacked at load, f32": (artifact, _unpack, "f32", 0),
        "unpacked at load, bf16": (artifact, _unpack, "bf16", 0),
        "inputs rounded, f32 around": (artifact, _as_it_is, "f32", GROUP),
        "asked twice, f32 around": (artifact, _ask_twice, "f32", GROUP),
        "o, gate, up rounded, f32 around": (artifact, _keep_from_rounding, "f32", GROUP),
    }
    goldens = store.load(artifact / "golden").within(300)
    requests, record = {}, {}
    for name, (folder, change, hint, group) in ways.items():
        requests[name] = _open(folder, change, hint, group)
        rows = [_embed(requests[name], case.token_ids) for case in goldens.cases]
        found = errors(np.stack(rows), np.asarray(goldens.embeddings))
        record[name] = {"worst": float(found.max()), "mean": float(found.mean())}
    for batch, tokens in SHAPES:
        taken = race(requests, batch, tokens, seconds)
        for name, row in taken.items():
            record[name][f"{batch}x{tokens}"] = row["ms"]
    RESULTS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    heads = [f"{batch} × {tokens}, ms" for batch, tokens in SHAPES]
    shown = Table("", "worst 1−cos", "mean", *heads, box=SIMPLE_HEAD)
    for name, row in record.items():
        times = [f"{row[f'{batch}x{tokens}']:.1f}" for batch, tokens in SHAPES]
        shown.add_row(name, f"{row['worst']:.1e}", f"{row['mean']:.1e}", *times)
    open_console().print(shown)


def _open(
    folder: Path, change: Callable[[ov.Model], None], hint: str, group: int
) -> ov.InferRequest:
    core = ov.Core()
    model = core.read_model(folder / "openvino_model.xml")
    change(model)
    model.validate_nodes_and_infer_types()
    options = {
        "INFERENCE_PRECISION_HINT": hint,
        "PERFORMANCE_HINT": "LATENCY",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(group),
    }
    return core.compile_model(model, "CPU", options).create_infer_request()


def _embed(request: ov.InferRequest, token_ids) -> np.ndarray:
    ids = np.array([token_ids], np.int64)
    return request.infer({"input_ids": ids, "attention_mask": np.ones_like(ids)})[0][0].copy()


def _maps(model: ov.Model) -> list[ov.Node]:
    """Every multiplication by a matrix of integers."""
    found = []
    for op in model.get_ordered_ops():
        if op.get_type_name() != "MatMul":
            continue
        source = op.input_value(1).get_node()
        while source.get_type_name() in ("Reshape", "Multiply", "Convert"):
            source = source.input_value(0).get_node()
        if source.get_type_name() == "Constant" and source.get_element_type() == ov.Type.i8:
            found.append(op)
    return found


def _as_it_is(model: ov.Model) -> None:
    """Nothing is changed."""


def _unpack(model: ov.Model) -> None:
    """Every matrix in f32, as it would be if the plugin worked it out when it compiles."""
    for op in _maps(model):
        _unpack_one(op)


def _keep_from_rounding(model: ov.Model) -> None:
    """Maps that are not ROBUST see their inputs unrounded. They are unpacked for it, so their speed
    is that of f32 and better than integers would have."""
    for op in _maps(model):
        if op.get_friendly_name().split(".")[-2] not in ROBUST:
            _unpack_one(op)


def _unpack_one(op: ov.Node) -> None:
    matrix = ov.Model([op.input_value(1).get_node()], [], "matrix")  # type: ignore[misc]
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    values = ov.Core().compile_model(matrix, "CPU", options)({})[0]
    op.input(1).replace_source_output(ops.constant(values.copy()).output(0))


def _ask_twice(model: ov.Model) -> None:
    """W·x as W·high + W·low, stacked along the batch: high is x on the grid that the plugin will
    find for it, which it then rounds to itself; low is the rest, a 254th as large."""
    split: dict[tuple[str, int], ov.Node] = {}
    for op in _maps(model):
        x = op.input_value(0)
        key = (x.get_node().get_name(), x.get_index())
        if key not in split:
            split[key] = _high_and_low(x)
        turned = op.get_attributes()["transpose_b"]
        both = ops.matmul(split[key], op.input_value(1), False, turned)
        high, low = ops.split(both, ops.constant(np.int64(0)), 2).outputs()
        op.output(0).replace(ops.add(high, low).output(0))


def _high_and_low(x: ov.Output) -> ov.Node:
    width = x.get_partial_shape()[2].get_length()
    groups = ops.reshape(x, ops.constant(np.array([0, 0, width // GROUP, GROUP])), True)
    largest = ops.reduce_max(ops.abs(groups), ops.constant(np.array([-1])), keep_dims=True)
    step = ops.multiply(largest, ops.constant(np.float32(1 / 127)))
    high = ops.multiply(ops.round(ops.divide(groups, step), "half_to_even"), step)
    stacked = ops.concat([high, ops.subtract(groups, high)], 0)
    return ops.reshape(stacked, ops.constant(np.array([0, 0, width])), True)


if __name__ == "__main__":
    typer.run(main)
