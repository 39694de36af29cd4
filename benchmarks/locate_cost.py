"""What it costs to find out where an artifact that missed its gate goes wrong, and whether the
answer is right.

    .venv/bin/python benchmarks/locate_cost.py MODEL [--layer 12] [--fault weight] [--json FILE]

A fault is planted in one layer: `weight` scales a quarter of the rows of its attention's output
projection by 1.1 in the traced program; `build` gives its last norm another epsilon in what
OpenVINO is handed; `none` plants nothing, and times the look at every layer that `--verify-each`
takes at an artifact that passes. The export is a real one in fp32, but for the golden texts: only
those of up to 300 tokens, since locating looks at one, whatever their number. Seconds are of the
stage `locate` (or `layers`); those of the whole export stand beside them. Peak resident memory is
the kernel's VmHWM during the stage. Linux only.
"""

from __future__ import annotations

import json
import platform
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx_ir as ir
import typer
from export_cost import Meter

import goldfold.targets.openvino.build as openvino_build
from goldfold.exporter.diagnose.pass_drift import SHORT, Drift
from goldfold.exporter.driver import exporting
from goldfold.exporter.errors import GoldfoldError
from goldfold.exporter.ir.program import MODULE, Program
from goldfold.exporter.records import Look

OUTPUTS = ("o_proj", "attention.output.dense", "attn.Wo", "attn.o")
"""How the modules of output projections end, by family."""

NOTHING: dict[str, Any] = {"after": "", "worst": 0.0, "mean": 0.0, "worst_id": ""}


def in_layer(graph: ir.Graph, layer: int) -> list[ir.Node]:
    return [node for node in graph if f".{layer}." in node.metadata_props.get(MODULE, "")]


def spoil_weight(program: Program, layer: int) -> None:
    """Scale a quarter of a weight: all of it might be taken out again by a norm behind it."""
    for node in in_layer(program.graph, layer):
        if not node.metadata_props[MODULE].endswith(OUTPUTS):
            continue
        for value in node.inputs:
            held = None if value is None else value.const_value
            if value is not None and held is not None and len(held.shape) == 2:
                array = np.array(held.numpy())
                array[: len(array) // 4] *= 1.1
                value.const_value = ir.tensor(array, name=value.name)
                return
    raise SystemExit(f"error: no output projection in layer {layer}; give another --layer")


def spoil_norm(graph: ir.Graph, layer: int) -> None:
    norms = [node for node in in_layer(graph, layer) if "Normalization" in node.op_type]
    if not norms:
        raise SystemExit(f"error: no norm in layer {layer}; give another --layer")
    norms[-1].attributes["epsilon"] = ir.AttrFloat32("epsilon", 1e-3)


def plant(fault: str, layer: int) -> None:
    """Make every export of this process go wrong in `layer`."""
    traced, convert, obtain = exporting.traced, openvino_build.convert, exporting.obtain_goldens

    def wrong_trace(*args: Any) -> Program:
        program = traced(*args)
        spoil_weight(program, layer)
        return program

    def wrong_build(model: ir.Model, precision: str = "fp32") -> Any:
        spoil_norm(model.graph, layer)
        return convert(model, precision)

    exporting.obtain_goldens = lambda *args: obtain(*args).within(SHORT)
    if fault == "weight":
        exporting.traced = wrong_trace
    elif fault == "build":
        openvino_build.convert = wrong_build
    elif fault == "none":  # the looks between passes are not what is timed
        exporting.Drift = lambda *args: Drift(*args, looker=lambda *_: Look(**NOTHING))
    else:
        raise SystemExit(f"error: --fault {fault}; there are weight, build and none")


def main(
    model: Annotated[str, typer.Argument(help="A SentenceTransformer folder, or a hub id.")],
    layer: Annotated[int, typer.Option(min=0, help="Where the fault is.")] = 12,
    fault: Annotated[str, typer.Option(help="weight, build or none.")] = "weight",
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write JSON here.")] = None,
) -> None:
    """Plant, export once, and print what was found and what that took."""
    plant(fault, layer)
    meter = Meter()
    with tempfile.TemporaryDirectory() as out:
        try:
            (result,) = exporting.export(
                model, ["openvino"], ["fp32"], out, verify_each=fault == "none", listener=meter
            )
        except GoldfoldError as error:
            raise SystemExit(f"error: {error}") from None
    verdict = result.bundle.verdict
    assert verdict is not None
    found, stage = verdict.location, "layers" if fault == "none" else "locate"
    if found is None and fault != "none":
        raise SystemExit("error: the artifact passed, or nothing was located: no fault to find")
    row = next(row for row in meter.rows if row["stage"] == stage)
    rest = sum(float(one["seconds"]) for one in meter.rows if one["stage"] != stage)
    if found is not None:
        print(f"{found.kind}, {found.layer}, {found.module}: {found.sentence}")
    for look in verdict.layers:
        print(f"{look.layer}: 1−cos {look.worst:.1e} ({look.worst_id})")
    print(f"{stage} {row['seconds']:.1f} s, peak {row['peak_gb']:.2f} GB; the rest {rest:.1f} s")
    if json_file is not None:
        record = {
            "model": Path(model).name,
            "machine": {"processor": platform.machine(), "system": platform.system()},
            "versions": dict(result.bundle.manifest.versions),
            "planted": {"fault": fault, "layer": layer},
            "found": None if found is None else found.model_dump(mode="json"),
            "layers": [look.model_dump(mode="json") for look in verdict.layers],
            "stages": meter.rows,
        }
        json_file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
