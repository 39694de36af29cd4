"""A planted fault is found where it was planted: in a pass, in a build, in a weight, and rounding
is called rounding."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import goldfold.targets.openvino.build as openvino_build
from goldfold import export
from goldfold.exporter.artifact import bundle
from goldfold.exporter.diagnose import locating
from goldfold.exporter.driver import exporting
from goldfold.exporter.evaluate import layer_values
from goldfold.exporter.ir.program import MODULE, Program
from goldfold.exporter.passes import pipeline
from goldfold.exporter.passes.base import Equality, Pass
from goldfold.exporter.records import Location, read
from goldfold.exporter.report import collect
from goldfold.exporter.report.page import page
from goldfold.golden import gate, store
from tests.conftest import Exported

LAYER = "transformer.layers.1"


@pytest.fixture(autouse=True)
def quick(
    exported: Exported, traced: Program, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[Program], None]], None]:
    """Spare an export its trace and its reference. What it returns plants a fault in the trace."""
    goldens = store.load(exported.artifacts["onnxruntime"] / "golden").within(300)
    monkeypatch.setattr(exporting, "obtain_goldens", lambda *args: goldens)
    monkeypatch.setattr(exporting, "traced", lambda *args: traced.copy())

    def plant(fault: Callable[[Program], None]) -> None:
        def faulty(*args: Any) -> Program:
            copy = traced.copy()
            fault(copy)
            return copy

        monkeypatch.setattr(exporting, "traced", faulty)

    return plant


def located(tiny: Path, out: Path, target: str, precision: str = "fp32") -> Location:
    """Export, expect a missed gate, and return where it says the fault is."""
    (result,) = export(tiny, [target], [precision], out)
    assert not result.passed
    record = json.loads((result.path / bundle.VERDICT).read_text())
    location = read(Location, record["location"])
    assert result.bundle.verdict is not None and result.bundle.verdict.location == location
    assert location.text in location.sentence and location.sentence.endswith(".")
    assert location.sentence.count("\n") == 0
    report = collect([out])
    assert report.artifacts[0].location == location
    assert 'class="say"' in page(report)
    return location


@dataclass(frozen=True)
class WrongLaw(Pass):
    """Says that a norm's eps does not matter, in one layer only; elsewhere it changes nothing."""

    equality = Equality.REAL

    def match(self, node: ir.Node) -> float | None:
        done = "goldfold.seen" in node.metadata_props
        return None if done or node.op_type != "RMSNormalization" else 0.0

    def refuses(self, match: Any) -> str | None:
        return None

    def construct(self, match: Any, memo: dict) -> None: ...

    def rewrite(self, model: ir.Model, log=None):
        from goldfold.exporter.passes.base import Log

        log = log or Log()
        for node in list(model.graph):
            if log.spent:
                break
            if self.match(node) is None:
                continue
            place = node.metadata_props.get(MODULE, "")
            log.applied.append(place)
            node.metadata_props["goldfold.seen"] = "yes"
            if place.startswith(f"{LAYER}.") and "post" not in place:
                larger(node)
        return log


def larger(node: ir.Node) -> None:
    node.attributes["epsilon"] = ir.AttrFloat32("epsilon", 0.5)


def norms_of(graph: ir.Graph, layer: str) -> list[ir.Node]:
    return [
        node
        for node in graph
        if node.op_type == "RMSNormalization"
        and node.metadata_props.get(MODULE, "").startswith(f"{layer}.")
    ]


def test_fault_in_a_pass_is_found(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rest = pipeline.common
    monkeypatch.setattr(
        pipeline,
        "common",
        lambda contract, gains="full": (
            *rest(contract, gains)[:3],
            WrongLaw(),
            *rest(contract, gains)[3:],
        ),
    )
    found = located(tiny, tmp_path, "onnxruntime")
    assert (found.kind, found.pass_name, found.layer) == ("pass", "wrong-law", LAYER)
    assert found.place.startswith(f"{LAYER}.")
    assert found.before is not None and found.before < 1e-12
    assert found.after is not None and found.after > 1e-9
    for word in ("wrong-law", found.place, LAYER, "within the limit"):
        assert word in found.sentence


def test_fault_in_a_build_is_found(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert = openvino_build.convert

    def wrong(model: ir.Model, precision: str = "fp32"):
        last = norms_of(model.graph, LAYER)[-1]
        larger(last)
        return convert(model, precision)

    monkeypatch.setattr(openvino_build, "convert", wrong)
    found = located(tiny, tmp_path, "openvino")
    assert (found.kind, found.pass_name, found.layer) == ("build", "", LAYER)
    assert found.module.startswith(f"{LAYER}.")
    assert found.before is not None and found.before < 1e-12
    assert "openvino" in found.sentence and found.module in found.sentence


def test_fault_in_a_weight_is_found(
    tiny: Path, tmp_path: Path, quick: Callable[[Callable[[Program], None]], None]
) -> None:
    def spoil(program: Program) -> None:
        for node in program.graph:
            if node.metadata_props.get(MODULE) == f"{LAYER}.mlp.up_proj":
                weight = next(v for v in node.inputs if v is not None and v.const_value is not None)
                held = weight.const_value
                assert held is not None
                array = np.array(held.numpy())
                array[0] = -array[0]
                weight.const_value = ir.tensor(array, name=weight.name)
                return
        pytest.fail("there is no such weight")

    quick(spoil)
    found = located(tiny, tmp_path, "onnxruntime")
    assert (found.kind, found.layer, found.module) == ("trace", LAYER, f"{LAYER}.mlp.up_proj")
    assert "a weight" in found.sentence and "up_proj" in found.sentence


def test_rounding_is_called_rounding(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(gate.GATES, "fp16", gate.Gate(worst=1e-9))
    found = located(tiny, tmp_path, "onnxruntime", "fp16")
    assert (found.kind, found.pass_name) == ("rounding", "set-precision")
    assert "not a fault" in found.sentence and "Most is added in" in found.sentence
    assert found.layer


def test_rounding_to_integers_is_held_to_its_own_gate(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(gate.GATES, "int8-weights", gate.Gate(worst=1e-7))
    recipe = tmp_path / "eight.toml"
    recipe.write_text("gains = 'keep'\n[weights]\nbits = 8\n")
    found = located(tiny, tmp_path / "out", "onnxruntime", str(recipe))
    assert (found.kind, found.pass_name) == ("rounding", "quantize-weights")
    assert "rounding of eight, not a fault" in found.sentence and "limit 1e-07" in found.sentence


def test_rounding_of_a_runtime_is_called_rounding(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from goldfold.targets.openvino import run

    if not run.hint("bf16")[1]:
        pytest.skip("this CPU does not compute in bf16")
    monkeypatch.setitem(gate.GATES, "bf16", gate.Gate(worst=1e-8))
    found = located(tiny, tmp_path, "openvino", "bf16")
    assert found.kind == "rounding"
    assert "computed in fp32 is within the limit" in found.sentence


def test_good_export_pays_nothing(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locating, "locate", lambda *args: pytest.fail("nothing to locate"))
    (result,) = export(tiny, ["onnxruntime"], ["fp32"], tmp_path)
    assert result.passed and result.bundle.verdict is not None
    assert result.bundle.verdict.location is None


def test_it_can_be_switched_off(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locating, "locate", lambda *args: pytest.fail("switched off"))
    monkeypatch.setitem(gate.GATES, "fp32", gate.Gate(worst=1e-18))
    (result,) = export(tiny, ["onnxruntime"], ["fp32"], tmp_path, locate=False)
    assert not result.passed


def test_failure_to_locate_does_not_hide_the_failure(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> Any:
        raise ValueError("nothing works today")

    monkeypatch.setattr(locating, "_replay", broken)
    monkeypatch.setitem(gate.GATES, "fp32", gate.Gate(worst=1e-18))
    found = located(tiny, tmp_path, "onnxruntime")
    assert found.kind == "unknown"
    assert "nothing works today" in found.sentence


def test_two_spellings_of_one_program_agree_layer_by_layer(
    exported: Exported, traced: Program
) -> None:
    ids = np.arange(2, 42, dtype=np.int64)[None]
    mask = np.ones_like(ids)
    before = traced.copy()
    pipeline.run(before, pipeline.EARLY)
    here = layer_values.values_of(before, ids, mask, rounded=False)
    there = layer_values.values_of(exported.program, ids, mask, rounded=False)
    found = layer_values.compare(here, there, tokens=40)
    assert [one.name for one in found if ".layers." in one.name] == [
        f"transformer.layers.{i}" for i in range(sum(".layers." in n for n in here))
    ]
    inside = [one for one in found if ".layers." in one.name]  # behind them laws move factors
    assert all(one.distance < 1e-12 for one in inside), found


def test_names_of_layers() -> None:
    assert layer_values.layer_of("transformer.layers.3.mlp.up") == "transformer.layers.3"
    assert (
        layer_values.layer_of("transformer.encoder.layer.11.output")
        == "transformer.encoder.layer.11"
    )
    assert layer_values.layer_of("transformer.embeddings.word") == "transformer.embeddings"
    assert layer_values.layer_of("stages.1") == "stages.1"
    assert layer_values.layer_of("") == ""


def test_steps() -> None:
    found = [
        layer_values.Apart(n, d) for n, d in (("a", 1e-14), ("b", 1e-9), ("c", 1e-3), ("d", 2e-3))
    ]
    first = layer_values.first_jump(found, noise=1e-12)
    assert first is not None and (first[0].name, first[1]) == ("c", 1e-9)
    largest = layer_values.largest_step(found[:2])
    assert largest is not None and largest[0].name == "b"
    assert layer_values.first_jump(found[:1], noise=1e-12) is None
    broken = layer_values.first_jump(
        [found[0], layer_values.Apart("x", float("inf")), found[2]], 1e-12
    )
    assert broken is not None and broken[0].name == "x"
    assert replace(found[0], name="b").distance == 1e-14
