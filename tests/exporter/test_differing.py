"""What `goldfold diff` says: of equal artifacts nothing, of others what differs and where."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

from goldfold.exporter import registry
from goldfold.exporter.artifact import bundle
from goldfold.exporter.artifact.diff import ABSENT, differences
from goldfold.exporter.cli.app import app
from goldfold.exporter.errors import ArtifactError


@pytest.fixture(params=["onnxruntime", "openvino"])
def pair(
    request: pytest.FixtureRequest, artifacts: dict[str, Path], tmp_path: Path
) -> tuple[str, Path, Path]:
    """(target, the artifact, a copy of it)."""
    path = artifacts[request.param]
    return request.param, path, Path(shutil.copytree(path, tmp_path / "b"))


def weights_of(target: str, folder: Path) -> Path:
    names = {"onnxruntime": "model.onnx.data", "openvino": "openvino_model.bin"}
    return folder / names[target]


def test_equal_artifacts_have_no_differences(pair) -> None:
    _, a, b = pair
    (b / bundle.VERDICT).unlink()  # it differs from run to run
    assert differences(a, b) == []
    done = CliRunner().invoke(app, ["diff", str(a), str(b)])
    assert done.exit_code == 0 and "equal" in done.output


def test_one_weight_is_named(pair) -> None:
    target, a, b = pair
    file = weights_of(target, b)
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)
    found = differences(a, b)
    assert [one.kind for one in found] == ["file", "part"]
    assert found[0].name == file.name
    assert found[1].name.startswith("constant ")
    assert found[1].a != found[1].b and "sha256" in found[1].a
    done = CliRunner().invoke(app, ["diff", str(a), str(b), "--json"])
    assert done.exit_code == 1
    assert json.loads(done.output)[1]["name"] == found[1].name


def test_fields_and_files_are_named(pair) -> None:
    _, a, b = pair
    manifest = bundle.read_manifest(b)
    (b / "NOTICE").write_text("x")
    changed = {name: getattr(manifest, name) for name in type(manifest).__struct_fields__}
    del changed["files"], changed["format"]
    changed["versions"] = {**manifest.versions, "onnx": "0.0"}
    changed["notes"] = ("another",)
    bundle.seal(b, changed)
    found = {(one.kind, one.name): one for one in differences(a, b)}
    assert set(found) == {
        ("manifest", "versions.onnx"), ("manifest", "notes"), ("file", "NOTICE"),
    }  # fmt: skip
    assert found["manifest", "versions.onnx"].b == '"0.0"'
    assert found["file", "NOTICE"].a == ABSENT


def test_nodes_of_an_onnx_file_are_named(artifacts: dict[str, Path], tmp_path: Path) -> None:
    a = artifacts["onnxruntime"]
    b = Path(shutil.copytree(a, tmp_path / "b"))
    model = onnx.load(b / "model.onnx", load_external_data=False)
    norm = next(node for node in model.graph.node if node.op_type == "RMSNormalization")
    next(one for one in norm.attribute if one.name == "epsilon").f = 0.5
    small = next(one for one in model.graph.initializer if one.raw_data)
    array = numpy_helper.to_array(small).copy()
    small.raw_data = (array.ravel() + 1).astype(array.dtype).tobytes()
    onnx.save(model, b / "model.onnx")
    found = {one.name: one for one in differences(a, b)}
    assert set(found) == {"model.onnx", f"node {norm.name}", f"constant {small.name}"}
    assert "epsilon=0.5" in found[f"node {norm.name}"].b
    assert np.asarray(array).size


def test_different_targets_are_compared_as_far_as_it_goes(artifacts: dict[str, Path]) -> None:
    found = differences(artifacts["onnxruntime"], artifacts["openvino"])
    assert ("manifest", "target") in {(one.kind, one.name) for one in found}
    assert {one.kind for one in found} == {"manifest", "file"}


def test_damaged_files_are_said_to_be(pair) -> None:
    target, a, b = pair
    graph = b / {"onnxruntime": "model.onnx", "openvino": "openvino_model.xml"}[target]
    graph.write_bytes(graph.read_bytes()[:200])
    found = differences(a, b)
    assert any(one.kind == "file" and one.name == graph.name for one in found)
    with pytest.raises(ArtifactError, match="cannot read"):
        registry.target(target).parts(b)
    (b / bundle.MANIFEST).write_text("{}")
    with pytest.raises(ArtifactError, match="malformed"):
        differences(a, b)
