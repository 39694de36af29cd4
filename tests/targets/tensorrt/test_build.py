"""Engines built by NVIDIA's own compiler, as far as a machine without a GPU can prove them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from goldfold import export
from goldfold.exporter.artifact.bundle import open_bundle
from goldfold.exporter.artifact.encoder import load
from goldfold.exporter.errors import RewriteError, TargetError
from goldfold.exporter.ir.program import Program
from goldfold.exporter.passes import pipeline
from goldfold.golden import make as golden_make
from goldfold.golden.compare import reading
from goldfold.targets.tensorrt import TARGET, build, proof, settings, vendor
from goldfold.targets.tensorrt.options import TensorRtOptions
from tests import late_models
from tests.conftest import GOLDEN_TEXTS, Exported

pytestmark = pytest.mark.skipif(
    vendor.builder() != vendor.RTX, reason="TensorRT for RTX, which needs no GPU, is not installed"
)
PROFILE = ("1x1:2x16:4x600",)
FLOAT = ir.DataType.FLOAT
IDS = np.array([[2, 40, 41, 57, 1], [2, 77, 1, 0, 0]], dtype=np.int64)
MASK = (IDS > 0).astype(np.int64)


def lowered(exported: Exported, precision: str) -> Program:
    """The session's program in `precision`, after the target's own laws."""
    program = exported.copy()
    pipeline.run(program, pipeline.half(precision, {}, typed=True))
    pipeline.run(program, TARGET.backend_passes(precision, program.contract, {}))
    return program


def built(exported: Exported, precision: str, folder: Path, *capability: str) -> tuple[str, ...]:
    folder.mkdir(exist_ok=True)
    asked = TensorRtOptions(compute_capability=capability, profile=PROFILE)
    options = TARGET.settle(precision, asked, exported.program.contract.max_length)
    return TARGET.build(lowered(exported, precision), precision, folder, options)


@pytest.fixture(scope="module")
def engines(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One engine a precision, for every architecture it allows."""
    folders = {p: tmp_path_factory.mktemp(p) / p for p in TARGET.precisions}
    for precision, folder in folders.items():
        said = built(exported, precision, folder)
        assert "built by NVIDIA's compiler" in said[0]
        assert isinstance(vendor.gpu(), vendor.Gpu) or "engine not executed" in said[0]
        assert ", all stand in the engine bit by bit" in said[1]
    return folders


@pytest.mark.parametrize("precision", TARGET.precisions)
def test_the_compiler_builds_for_every_architecture_by_itself(
    precision: str, engines: dict[str, Path]
) -> None:
    spec = json.loads((engines[precision] / build.SPEC).read_bytes())
    least = settings.LEAST_FOR_PRECISION[precision][0]
    expected = [c for c in vendor.capabilities() if settings.number(c) >= least]
    assert spec["capabilities"] == expected
    for capability in vendor.capabilities():
        result = rebuilt(engines[precision], engines[precision].parent / capability, capability)
        assert result["refused"] == []
        # The table of what an architecture lacks is the compiler's, not ours.
        assert result["built"] == (settings.number(capability) >= least), result["said"]


def rebuilt(source: Path, folder: Path, *capabilities: str) -> dict:
    """The recipe of `source` run again in `folder`, for other architectures."""
    folder.mkdir(exist_ok=True)
    for name in ("model.onnx", "model.onnx.data", build.RECIPE, build.SPEC):
        (folder / name).write_bytes((source / name).read_bytes())
    spec = json.loads((folder / build.SPEC).read_bytes())
    spec["capabilities"] = list(capabilities)
    (folder / build.SPEC).write_text(json.dumps(spec))
    return build.compile_engine(folder)


def test_two_builds_give_the_same_bytes(
    exported: Exported, engines: dict[str, Path], tmp_path: Path
) -> None:
    built(exported, "fp16", tmp_path / "again")
    first = {p.name: p.read_bytes() for p in engines["fp16"].iterdir()}
    again = {p.name: p.read_bytes() for p in (tmp_path / "again").iterdir()}
    assert first.keys() == again.keys() == {
        "model.onnx", "model.onnx.data", build.ENGINE, build.RECIPE, build.SPEC, build.COMMAND,
    }  # fmt: skip
    assert first == again


@pytest.mark.parametrize("precision", TARGET.precisions)
def test_the_onnx_is_legal_and_its_attention_has_a_kernel(
    precision: str, engines: dict[str, Path]
) -> None:
    path = engines[precision] / "model.onnx"
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(path, load_external_data=False)
    ops = [node.op_type for node in model.graph.node]
    assert ops.count("Attention") == 6
    assert "Softmax" not in ops
    assert {node.domain for node in model.graph.node} == {""}


@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-8), ("fp16", 2e-5), ("bf16", 2e-4)])
def test_what_stands_in_for_the_engine_says_what_the_model_says(
    precision: str, limit: float, exported: Exported, engines: dict[str, Path]
) -> None:
    """`limit` is the gate of the precision (golden/gate.py)."""
    contract = exported.program.contract
    found = TARGET.reference_run(engines[precision], contract, precision, None)(IDS, MASK)
    expected = load(exported.artifacts["onnxruntime"]).run(IDS, MASK)
    for one, other in zip(found, expected, strict=True):
        assert reading(one, other).distance <= limit


def test_an_engine_with_another_precision_than_its_onnx_is_caught(
    engines: dict[str, Path],
) -> None:
    held = proof.look(engines["fp16"] / build.ENGINE, engines["fp32"] / "model.onnx")
    half = ir.load(engines["fp16"] / "model.onnx").graph.initializers.values()
    islands = [v.const_value.nbytes for v in half if v.const_value and v.dtype == FLOAT]
    assert held.found == sum(size for size in islands if size >= proof.LEAST)
    assert held.found < held.weights / 4


def test_an_engine_is_not_run_without_a_gpu(exported: Exported, engines: dict[str, Path]) -> None:
    if TARGET.cannot_run() is None:
        pytest.skip("there is a GPU")
    for call in (
        lambda: TARGET.load(engines["fp16"], exported.program.contract, "fp16", None),
        lambda: TARGET.census(engines["fp16"]),
    ):
        with pytest.raises(TargetError, match="an engine runs on a GPU only, and there is no"):
            call()


# --- refusals


def test_a_zero_point_is_refused_with_node_and_module(exported: Exported, tmp_path: Path) -> None:
    program = lowered(exported, "fp32")
    norm = next(node for node in program.graph if node.op_type == "RMSNormalization")
    quantized = ir.node("DynamicQuantizeLinear", [norm.inputs[0]], num_outputs=3, name="dyn")
    back = ir.node("DequantizeLinear", list(quantized.outputs), name="back")
    for index, value in enumerate((*quantized.outputs, *back.outputs)):
        value.name = f"q{index}"
    for node in (quantized, back):
        node.metadata_props.update(norm.metadata_props)
    program.graph.insert_before(norm, [quantized, back])
    norm.replace_input_with(0, back.outputs[0])
    options = TARGET.settle("fp32", TensorRtOptions(profile=PROFILE), 600)
    with pytest.raises(RewriteError) as caught:
        build.write(program, "fp32", tmp_path, options)
    said = str(caught.value)
    assert len(said.splitlines()) == 1
    assert "transformer.layers.0" in said
    assert "zero-point" in said


def test_nvidia_s_parser_is_quoted_with_node_and_module(exported: Exported, tmp_path: Path) -> None:
    program = lowered(exported, "fp32")
    gelu = next(node for node in program.graph if node.op_type == "Gelu")
    odd = ir.node("Det", [gelu.inputs[0]], name="odd_one")
    wide = ir.node("Shape", [odd.outputs[0]], name="wide")
    for index, value in enumerate((odd.outputs[0], wide.outputs[0])):
        value.name = f"odd{index}"
    odd.metadata_props.update(gelu.metadata_props)
    like = ir.node("CastLike", [wide.outputs[0], gelu.inputs[0]], name="like")
    total = ir.node("ReduceMax", [like.outputs[0]], {"keepdims": 0}, name="total")
    mixed = ir.node("Add", [gelu.inputs[0], total.outputs[0]], name="mixed")
    for index, value in enumerate((like.outputs[0], total.outputs[0], mixed.outputs[0])):
        value.name = f"more{index}"
    program.graph.insert_before(gelu, [odd, wide, like, total, mixed])
    gelu.replace_input_with(0, mixed.outputs[0])
    options = TARGET.settle("fp32", TensorRtOptions(profile=PROFILE), 600)
    with pytest.raises(RewriteError, match=r"NVIDIA's parser refuses Det .*odd_one.*layers\.0"):
        build.write(program, "fp32", tmp_path, options)


def test_the_compiler_s_refusal_is_quoted(engines: dict[str, Path], tmp_path: Path) -> None:
    result = rebuilt(engines["bf16"], tmp_path, "sm75")
    with pytest.raises(RewriteError, match=r"NVIDIA's compiler refuses the graph.*b16"):
        build._check(result, {})


def test_f32_is_not_computed_in_ten_bits(engines: dict[str, Path], tmp_path: Path) -> None:
    """TF32 is the compiler's default, and no gate on the ONNX would see it."""
    result = rebuilt(engines["fp32"], tmp_path, "sm86")
    assert result["built"] and result["tf32"] is False
    assert "--noTF32" in (engines["fp32"] / build.COMMAND).read_text()


def test_an_engine_that_lost_its_precision_is_not_built(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compiler that silently computes in another precision: its engine is of another ONNX."""
    built(exported, "fp16", tmp_path / "half", "sm86")

    def other(folder: Path) -> dict:
        (folder / build.ENGINE).write_bytes((tmp_path / "half" / build.ENGINE).read_bytes())
        return {"refused": [], "built": True, "said": []}

    monkeypatch.setattr(build, "compile_engine", other)
    with pytest.raises(RewriteError, match=r"does not hold what its ONNX says: .*missing are"):
        built(exported, "fp32", tmp_path / "single", "sm86")


def test_what_the_worker_cannot_do_is_said(engines: dict[str, Path], tmp_path: Path) -> None:
    result = rebuilt(engines["fp16"], tmp_path, "sm99")
    assert not result["built"] and "SM99" in result["said"][0]


def test_a_crash_of_the_compiler_is_an_error(tmp_path: Path) -> None:
    crash = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n"
    (tmp_path / build.RECIPE).write_text(crash)
    with pytest.raises(RewriteError, match=r"crashed \(signal 11\)"):
        build.compile_engine(tmp_path)
    (tmp_path / build.RECIPE).write_text("raise SystemExit('no room')\n")
    with pytest.raises(RewriteError, match=r"exit code 1.*no room"):
        build.compile_engine(tmp_path)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from goldfold.exporter import registry

    monkeypatch.setattr(vendor, "builder", lambda: None)
    monkeypatch.setattr(vendor, "installed", lambda name: False)
    with pytest.raises(TargetError, match=r"neither.*installed.*'goldfold\[tensorrt\]'"):
        registry.offered("tensorrt", "fp16")
    monkeypatch.setattr(vendor, "installed", lambda name: name == "tensorrt")
    with pytest.raises(TargetError, match="builds on a GPU only"):
        registry.offered("tensorrt", "fp16")


# --- the whole way


def test_an_engine_of_a_vector_for_each_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = partial(golden_make.make, only=("card-query", "chinese", "length-33"))
    monkeypatch.setattr(golden_make, "make", few)
    folder = late_models.build("bert", tmp_path / "tiny")
    asked = TensorRtOptions(compute_capability=("sm86",), profile=("1x1:2x16:4x96",))
    (result,) = export(
        folder, ["tensorrt"], ["fp16"], tmp_path / "out", build=asked, cache=False, locate=False
    )
    assert result.passed, result.verdict.sentences
    assert ", all stand in the engine bit by bit" in result.bundle.manifest.built[1]
    model = onnx.load(result.path / "model.onnx", load_external_data=False)
    sizes = [
        one.dim_value or one.dim_param for one in model.graph.output[0].type.tensor_type.shape.dim
    ]
    assert sizes == ["batch", "tokens", late_models.DIM]


def test_an_export_is_verified_and_says_what_was_not_run(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = partial(golden_make.make, only=GOLDEN_TEXTS)
    monkeypatch.setattr(golden_make, "make", few)
    asked = TensorRtOptions(compute_capability=("sm86",), profile=PROFILE)
    results = export(tiny, ["tensorrt"], ["fp16", "bf16"], tmp_path / "out", build=asked)
    assert [result.passed for result in results] == [True, True]
    for result in results:
        opened = open_bundle(result.path)
        assert opened.manifest.options == {
            **asked.plain(),
            "profile": PROFILE,
            "compatible": (),
        } | {"compute_capability": ("sm86",)}
        assert "for sm86" in opened.manifest.built[0]
        if TARGET.cannot_run() is not None:
            assert opened.verdict is not None
            assert "no NVIDIA GPU" in opened.verdict.not_run
            assert "goldfold's emulator" in opened.verdict.stand_in
            assert result.status == opened.verdict.status == "proved"
            with pytest.raises(TargetError, match="GPU"):
                load(result.path)
