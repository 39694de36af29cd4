"""Which integers NVIDIA's compiler takes, for which architecture, and what it makes of them.

    .venv/bin/python benchmarks/tensorrt_integers.py [--json FILE]

A matrix of 1,024 × 2,048 or a table of 4,096 × 1,024 is quantized by goldfold's own passes and
built for every architecture by itself. What the compiler makes of it is read in its own plan: no
GPU is needed, nothing is run. Every engine is searched for the integers, bit by bit.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast

import numpy as np
import onnx_ir as ir
import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from goldfold.exporter.cli.console import open_console
from goldfold.exporter.contract import Contract
from goldfold.exporter.ir import onnx_file
from goldfold.exporter.ir.program import Program, infer_shapes
from goldfold.exporter.passes import docstring
from goldfold.exporter.passes.quantize_activations import QuantizeActivations
from goldfold.exporter.passes.quantize_weights import QuantizeWeights
from goldfold.exporter.passes.set_precision import Kind, SetPrecision
from goldfold.targets.tensorrt import TARGET, build, proof, vendor

INPUTS, CHANNELS, ROWS = 1024, 2048, 4096
MATRIX = f"""
f (float[batch,tokens,{INPUTS}] x, float[{INPUTS},{CHANNELS}] w)
    => (float[batch,tokens,{CHANNELS}] y)
{{ y = MatMul(x, w) }}
"""
TABLE = f"""
f (int64[batch,tokens] x, float[{ROWS},{INPUTS}] w) => (float[batch,tokens,{INPUTS}] y)
{{ y = Gather(w, x) }}
"""


@dataclass(frozen=True)
class Form:
    title: str
    bits: int
    block: int = 0
    static: bool = False
    table: bool = False


FORMS = (
    Form("int8, one scale a channel", 8),
    Form("int8, blocks of 32", 8, 32),
    Form("int8, blocks of 128", 8, 128),
    Form("int4, one scale a channel", 4),
    Form("int4, blocks of 16", 4, 16),
    Form("int4, blocks of 32", 4, 32),
    Form("int4, blocks of 64", 4, 64),
    Form("int4, blocks of 128", 4, 128),
    Form("int8 weights and activations", 8, static=True),
    Form("table of int8", 8, table=True),
    Form("table of int4, blocks of 32", 4, 32, table=True),
)


def program_of(form: Form, precision: str) -> Program:
    """The form in the types of `precision`, as an export would write it."""
    rng = np.random.default_rng(7)
    shape = (ROWS if form.table else INPUTS, INPUTS if form.table else CHANNELS)
    weights = {"w": rng.normal(size=shape).astype(np.float32)}
    model = docstring.graph(TABLE if form.table else MATRIX, weights)
    infer_shapes(model)
    QuantizeWeights(form.bits, form.block).rewrite(model)
    if form.static:
        QuantizeActivations((("x", 0.03125),)).rewrite(model)
    if precision != "fp32":
        SetPrecision(cast(Kind, precision)).rewrite(model)
    nothing = Contract(model="", dim=1, max_length=1, vocab_size=1, pad_id=0, normalized=False)
    return Program(model, nothing)


def try_out(program: Program, precision: str, capability: str, folder: Path) -> dict:
    """Build for one architecture; what the worker says, and what the engine holds."""
    onnx_file.write(program, folder, TARGET.name)
    value = program.graph.inputs[0]
    wide = [INPUTS] if value.dtype == ir.DataType.FLOAT else []
    spec = {
        "module": vendor.RTX,
        "onnx": onnx_file.MODEL,
        "engine": build.ENGINE,
        "inputs": [value.name],
        "capabilities": [capability],
        "compatible": [],
        "profiles": [[[1, 1, *wide], [2, 16, *wide], [4, 64, *wide]]],
        "decompose": precision == "fp32",
        "explain": True,
    }
    (folder / build.SPEC).write_text(json.dumps(spec))
    (folder / build.RECIPE).write_bytes(Path(build.worker.__file__).read_bytes())
    result = build.compile_engine(folder)
    if result["built"]:
        result["held"] = not proof.look(folder / build.ENGINE, folder / onnx_file.MODEL).missing
    return result


def manner(plan: Iterable[dict]) -> str:
    """What the compiler does with the integers, in words, read from its kernels."""
    kernels = [kernel for kernel in plan if kernel["kind"] != "shape_call"]
    for kernel in kernels:
        if kernel["kind"] == "gemm" and "Int8" in kernel["reads"]:
            return f"integers multiplied, sums as {kernel['makes'][0].lower()}"
    if any("Gath" in kernel["name"] for kernel in kernels):
        return "dequantized as it is looked up"
    if any(kernel["kind"] == "gemm" for kernel in kernels):
        return "dequantized whole, at every call"
    if any(kernel["kind"] == "runtime_fusion" for kernel in kernels):
        return "dequantized inside the product's kernel"
    return "something else"


def main(
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write JSON here.")] = None,
) -> None:
    """Print one row a form and precision."""
    if vendor.builder() != vendor.RTX:
        raise SystemExit(
            "error: this is a table of TensorRT for RTX, which is not what builds here"
        )
    rows: list[tuple[str, str, dict[str, list[str]]]] = []
    for form in FORMS:
        for precision in TARGET.precisions:
            ways: dict[str, list[str]] = {}
            for capability in vendor.capabilities():
                with tempfile.TemporaryDirectory(prefix="goldfold-") as scratch:
                    folder = Path(scratch)
                    result = try_out(program_of(form, precision), precision, capability, folder)
                way = manner(result["plan"]) if result["built"] else "refused"
                if result["built"] and not result["held"]:
                    way += ", integers NOT FOUND"
                ways.setdefault(way, []).append(capability)
            rows.append((form.title, precision, ways))
    table = Table(box=SIMPLE_HEAD, title=f"Integers, {TARGET.versions()}")
    for heading in ("form", "around", "what the compiler does"):
        table.add_column(heading)
    for title, precision, ways in rows:
        said = "; ".join(f"{way}: {', '.join(where)}" for way, where in ways.items())
        table.add_row(title, precision, said)
    open_console().print(table)
    if json_file is not None:
        record = {
            "versions": TARGET.versions(),
            "rows": [dict(zip(("form", "around", "ways"), row, strict=True)) for row in rows],
        }
        json_file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
