"""Models that the compiler cuts, or that an architecture cannot run, from their folder to an
engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from goldfold import export
from goldfold.exporter.driver import preparing
from goldfold.exporter.errors import RewriteError, TargetError
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.ir.program import Program
from goldfold.exporter.passes import pipeline
from goldfold.exporter.passes.pipeline import Pipeline
from goldfold.exporter.progress import Silent, Stages
from goldfold.golden import make as golden_make
from goldfold.targets.base import Built
from goldfold.targets.tensorrt import TARGET, architectures, build, vendor
from goldfold.targets.tensorrt.options import TensorRtOptions
from tests import models
from tests.conftest import GOLDEN_TEXTS

pytestmark = pytest.mark.skipif(
    vendor.builder() != vendor.RTX, reason="TensorRT for RTX, which needs no GPU, is not installed"
)
PROFILE = ("1x1:2x16:4x40",)
FUSED = {
    "modernbert": {"num_hidden_layers": 1, "layer_types": ["full_attention"]},
    "gpt2": {"n_layer": 1},
    "deberta": {"num_hidden_layers": 1, "position_buckets": -1},
}

Make = Callable[..., Built]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Program]:
    """A small model of a kind, traced once and rewritten."""
    made: dict[str, Program] = {}

    def program(kind: str) -> Program:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            source = models.build(kind, folder / "m", max_seq_length=40, **FUSED[kind])
            made[kind] = preparing.prepare(open_model(source), Stages(None), Pipeline())
        return made[kind].copy()

    return program


@pytest.fixture
def make(programs: Callable[[str], Program], tmp_path: Path) -> Make:
    def built(kind: str, precision: str, *named: str) -> Built:
        program = programs(kind)
        peaks = preparing.record_ranges(program.copy(), Stages(None)) if precision != "fp32" else {}
        pipeline.run(program, pipeline.half(precision, peaks, typed=True))
        pipeline.run(program, TARGET.backend_passes(precision, program.contract, peaks))
        asked = TensorRtOptions(compute_capability=named, profile=PROFILE)
        options = TARGET.settle(precision, asked, program.contract.max_length)
        return TARGET.make(program, precision, tmp_path, options, asked)

    return built


@pytest.mark.parametrize(
    ("kind", "precision"), [("modernbert", "fp32"), ("modernbert", "fp16"), ("gpt2", "fp16")]
)
def test_a_fused_projection_is_proved_in_pieces(kind: str, precision: str, make: Make) -> None:
    said = make(kind, precision).said
    assert ", all stand in the engine bit by bit" in said[1]
    assert "of them cut in pieces" in said[2] and not said[2].startswith("0 ")


# --- what an architecture lacks


def test_an_architecture_that_nobody_named_is_left_out_and_said(make: Make, tmp_path: Path) -> None:
    built = make("deberta", "fp16")
    assert built.options.compute_capability == vendor.capabilities()[1:]
    (said,) = built.left_out
    assert said.startswith("sm75 is left out: it cannot compute the f32 matrix product of ")
    assert "attention.self" in said and "Turing's compiler refuses f32 matrix products" in said
    spec = json.loads((tmp_path / build.SPEC).read_bytes())
    assert spec["capabilities"] == list(vendor.capabilities()[1:])


def test_one_that_was_named_is_refused_with_op_module_and_cure(make: Make) -> None:
    with pytest.raises(
        TargetError,
        match=r"^sm75 cannot compute the f32 matrix product of \S*MatMul\S* "
        r"\(from \S*attention\.self\S*\): .*; leave sm75 out$",
    ):
        make("deberta", "fp16", "sm75", "sm86")
    with pytest.raises(TargetError, match="no architecture that is asked for can"):
        make("deberta", "fp16", "sm75")


def test_what_the_compiler_alone_knows_is_left_out_in_its_words(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lack that our table does not have."""
    monkeypatch.setattr(architectures, "_PRODUCTS", frozenset())
    built = make("deberta", "fp16")
    assert built.options.compute_capability == vendor.capabilities()[1:]
    (said,) = built.left_out
    assert said.startswith(
        "sm75 is left out: it gets no engine: NVIDIA's compiler refuses the graph"
    )
    assert "FP32 GEMM" in said
    with pytest.raises(RewriteError, match=r"NVIDIA's compiler refuses the graph .*FP32 GEMM"):
        make("deberta", "fp16", "sm75", "sm86")


def test_what_the_precision_leaves_out_is_said_too(make: Make) -> None:
    for precision, does in (("fp32", "compute the f32 matrix product"), ("bf16", "hold the bf16")):
        built = make("modernbert", precision)
        (said,) = built.left_out
        assert said.startswith(f"sm75 is left out: it cannot {does} of ")
    assert make("modernbert", "fp32", "sm86").left_out == ()


class Heard(Silent):
    def __init__(self) -> None:
        self.notes: dict[str, str] = {}

    def end(self, stage: str, seconds: float, note: str) -> None:
        self.notes[stage] = note


def test_an_export_says_what_it_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few: Any = partial(golden_make.make, only=GOLDEN_TEXTS[:10])
    monkeypatch.setattr(golden_make, "make", few)
    source = models.build("deberta", tmp_path / "m", max_seq_length=40, **FUSED["deberta"])
    heard = Heard()
    (result,) = export(
        source, ["tensorrt"], ["fp16"], tmp_path / "out",
        build=TensorRtOptions(profile=PROFILE), listener=heard,
    )  # fmt: skip
    assert result.passed
    manifest = result.bundle.manifest
    assert manifest.options["compute_capability"] == vendor.capabilities()[1:]
    assert any(said.startswith("sm75 is left out: ") for said in manifest.built)
    assert "sm75 is left out: " in heard.notes["build tensorrt-fp16"]
