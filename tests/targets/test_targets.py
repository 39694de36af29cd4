"""The registry, and what every target owes: the same bytes twice, f32, refusals that name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from goldfold.exporter import registry
from goldfold.exporter.artifact.bundle import open_bundle
from goldfold.exporter.contract import Contract
from goldfold.exporter.errors import GoldfoldError, RewriteError, TargetError
from goldfold.exporter.ir.program import MODULE, Program
from goldfold.exporter.passes import pipeline
from tests.conftest import Exported

ROOT = Path(__file__).parents[2]
TARGETS = ("onnxruntime", "openvino")


def lowered(exported: Exported, target: str) -> Program:
    """A copy of the session's program that the target's own passes have seen."""
    program = exported.copy()
    pipeline.run(program, registry.target(target).backend_passes("fp32", program.contract, {}))
    return program


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*")}


# --- the registry


def test_registry_lists_ours_first() -> None:
    assert tuple(registry.names()[:2]) == TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_targets_say_what_they_are(name: str) -> None:
    target = registry.target(name)
    assert target.name == name
    assert target.precisions[:2] == ("fp32", "fp16")
    assert target.executes("fp32")
    assert target.unavailable() is None
    assert target.versions()
    assert registry.offered(name, "fp32") is target


def test_unknown_target_is_refused_with_the_known_ones() -> None:
    with pytest.raises(TargetError, match=r"'tensorflow'.*onnxruntime, openvino"):
        registry.target("tensorflow")


def test_pair_that_is_not_offered_is_refused() -> None:
    with pytest.raises(TargetError, match=r"does not offer precision 'bf16'.*fp32, fp16"):
        registry.offered("onnxruntime", "bf16")


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("goldfold.targets.openvino.find_spec", lambda name: None)
    with pytest.raises(TargetError, match=r"not installed.*'goldfold\[openvino\]'"):
        registry.offered("openvino", "fp32")


def test_asking_for_targets_imports_no_vendor() -> None:
    code = (
        "import sys; from goldfold.exporter import registry\n"
        "for name in registry.names(): registry.target(name).unavailable()\n"
        "sys.exit(', '.join({'openvino', 'onnxruntime', 'torch'} & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- building


@pytest.mark.parametrize("name", TARGETS)
def test_two_builds_give_the_same_bytes(name: str, exported: Exported, tmp_path: Path) -> None:
    built = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        found = registry.target(name)
        found.build(lowered(exported, name), "fp32", folder, found.Options())
        built.append(contents(folder))
    assert built[0].keys() == built[1].keys()
    assert built[0]
    assert all(built[0][file] == built[1][file] for file in built[0])
    # And the same that the whole export wrote from a program of its own.
    folder = exported.artifacts[name]
    assert all((folder / file).read_bytes() == raw for file, raw in built[0].items())


def test_onnx_file_is_plain_and_legal(artifacts: dict[str, Path]) -> None:
    path = artifacts["onnxruntime"] / "model.onnx"
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(path)
    assert {node.domain for node in model.graph.node} == {""}
    assert [entry.domain for entry in model.opset_import] == [""]
    assert not model.functions
    weights = [t for t in model.graph.initializer if t.data_type not in (onnx.TensorProto.INT64,)]
    assert {t.data_type for t in weights if len(t.dims) == 2} == {onnx.TensorProto.FLOAT}


def test_openvino_weights_stay_f32(artifacts: dict[str, Path]) -> None:
    import openvino as ov

    model = ov.Core().read_model(artifacts["openvino"] / "openvino_model.xml")
    matrices = [op for op in model.get_ops() if _is_matrix(op)]
    assert len(matrices) > 30
    assert {op.get_element_type().get_type_name() for op in matrices} == {"f32"}


def _is_matrix(op) -> bool:
    return op.get_type_name() == "Constant" and len(op.get_output_shape(0)) == 2


def test_openvino_is_told_to_compute_in_f32(artifacts: dict[str, Path]) -> None:
    from goldfold.targets.openvino.run import _compile, _read

    folder = artifacts["openvino"]
    compiled = _compile(_read(folder), folder, "fp32", 1)
    assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1


@pytest.mark.parametrize("name", TARGETS)
def test_census_counts_kernels(name: str, artifacts: dict[str, Path]) -> None:
    counts = registry.target(name).census(artifacts[name])
    assert list(counts.values()) == sorted(counts.values(), reverse=True)
    assert sum(counts.values()) > 50


# --- refusing


@pytest.mark.parametrize("name", TARGETS)
def test_unknown_op_is_refused_by_name(name: str, exported: Exported, tmp_path: Path) -> None:
    program = lowered(exported, name)
    output = program.graph.outputs[0]
    producer = output.producer()
    foreign = ir.node("Shimmer", [producer.inputs[0]], domain="acme", name="strange_node")
    foreign.metadata_props[MODULE] = "2.linear"
    program.graph.insert_before(producer, foreign)
    producer.replace_input_with(0, foreign.outputs[0])
    with pytest.raises(RewriteError) as caught:
        found = registry.target(name)
        found.build(program, "fp32", tmp_path, found.Options())
    for culprit in (name, "acme.Shimmer", "strange_node", "2.linear"):
        assert culprit in str(caught.value)
    assert not contents(tmp_path)


@pytest.mark.parametrize("name", TARGETS)
def test_unknown_op_of_the_default_domain_is_refused_by_name(
    name: str, exported: Exported, tmp_path: Path
) -> None:
    program = lowered(exported, name)
    node = next(n for n in program.graph if n.op_type == "MatMul")
    node.op_type = "Glimmer"
    with pytest.raises(RewriteError, match=rf"{name} cannot spell Glimmer .*transformer"):
        found = registry.target(name)
        found.build(program, "fp32", tmp_path, found.Options())


@pytest.mark.parametrize(
    ("name", "file"), [("onnxruntime", "model.onnx"), ("openvino", "openvino_model.xml")]
)
def test_file_that_the_runtime_refuses_is_named(
    name: str, file: str, artifacts: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / file).write_bytes(b"\x00not a model")
    contract = open_bundle(artifacts[name]).manifest.contract
    with pytest.raises(GoldfoldError, match=file) as caught:
        registry.target(name).load(tmp_path, contract, "fp32", None)
    assert caught.value.code == 6
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", TARGETS)
def test_loaded_artifact_runs(name: str, artifacts: dict[str, Path]) -> None:
    contract = open_bundle(artifacts[name]).manifest.contract
    run = registry.target(name).load(artifacts[name], contract, "fp32", 1)
    ids = np.array([[2, 40, 41, 1]], dtype=np.int64)
    embedding = run(ids, np.ones_like(ids))
    assert embedding.shape == (1, contract.dim)
    assert embedding.dtype == np.float32
    assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "times"), [("onnxruntime", 1), ("openvino", 1), ("tensorrt", 1), ("coreml", 0)]
)
def test_what_a_target_s_table_lacks_is_decomposed_once(name: str, times: int) -> None:
    if registry.unavailable(name) is not None:
        pytest.skip(f"{name} is not installed")
    found = registry.target(name)
    contract = Contract(
        model="m", dim=4, max_length=8, vocab_size=9, pad_id=0, normalized=True
    )  # fmt: skip
    passes = [one.name for one in found.backend_passes("fp32", contract, {})]
    assert passes.count("expand-band-attention") == times
    assert (times == 0) == ("goldfold.BandAttention" in found.lowers())
