"""`goldfold layout`: what a server is given holds the artifact's own numbers.

The server itself, OpenVINO Model Server, is no Python package and is not run here. What it does to
a model openvino-genai does as well (TextEmbeddingPipeline), and that is run where the package is
installed; its pooling is spelt out in numpy everywhere.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from goldfold.exporter.artifact.bundle import open_bundle
from goldfold.exporter.artifact.layout import LaidOut, lay_out
from goldfold.exporter.cli import app
from goldfold.exporter.errors import ArtifactError, OutputError, TargetError, UsageError
from goldfold.golden import store
from goldfold.golden.store import Goldens
from goldfold.targets.openvino import TARGET, markup, model_file, precise, serving
from tests.targets import test_openvino_bundle as readers

LIMIT = 1e-8
"""1 − cos in f32, the gate's own."""
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Model(_Strict):
    """docs.openvino.ai, "Starting the Server": a model's entry, as far as we write one."""

    name: str
    base_path: str
    target_device: str = "CPU"
    plugin_config: dict[str, str] = {}


class _Entry(_Strict):
    config: _Model


class _Graph(_Strict):
    """docs.openvino.ai, "MediaPipe configuration options explained": name is required."""

    name: str
    base_path: str | None = None
    graph_path: str | None = None
    subconfig: str | None = None


class Config(_Strict):
    model_config_list: list[_Entry]
    mediapipe_config_list: list[_Graph] = []


@pytest.fixture(scope="module")
def artifact(artifacts: dict[str, Path]) -> Path:
    return artifacts["openvino"]


@pytest.fixture(scope="module")
def goldens(artifact: Path) -> Goldens:
    return store.load(artifact / "golden")


@pytest.fixture(scope="module")
def laid(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> LaidOut:
    return lay_out(artifact, "ovms", tmp_path_factory.mktemp("served") / "models")


@pytest.fixture(scope="module")
def name(artifact: Path) -> str:
    return open_bundle(artifact).manifest.contract.model


def worst(found: np.ndarray, expected: np.ndarray) -> float:
    a, b = found.astype(np.float64), expected.astype(np.float64)
    return float((1 - (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).max())


def test_targets_and_this_file_agree_on_what_there_is() -> None:
    assert TARGET.layouts == (serving.OVMS, "sentence-transformers")


def test_the_configuration_is_what_the_server_documents(laid: LaidOut, name: str) -> None:
    config = Config.model_validate_json((laid.path / "config.json").read_text("utf-8"))
    (graph,), (model,) = config.mediapipe_config_list, config.model_config_list
    assert graph.name == name and (laid.path / (graph.base_path or "") / "graph.pbtxt").is_file()
    versions = [path.name for path in (laid.path / model.config.base_path).iterdir()]
    assert versions == ["1"]
    with pytest.raises(ValidationError):
        Config.model_validate({"model_config_list": [{"config": {"name": name}}]})


def test_the_graph_names_the_calculator_and_leaves_the_numbers_alone(
    laid: LaidOut, name: str
) -> None:
    text = (laid.path / name / "graph.pbtxt").read_text("utf-8")
    text = re.sub(r"  #.*", "", text)
    assert text.count("{") - text.count("}") == 0
    said = dict(re.findall(r"^\s*(\w+): (.+)$", text, re.MULTILINE))
    assert said["calculator"] == '"EmbeddingsCalculatorOV"'
    assert (said["pooling"], said["normalize_embeddings"]) == ("CLS", "false")
    assert json.loads(said["plugin_config"].strip("'"))["INFERENCE_PRECISION_HINT"] == "f32"


def test_pooling_as_the_server_does_gives_the_goldens(
    laid: LaidOut, name: str, goldens: Goldens
) -> None:
    core = ov.Core()
    model = core.read_model(laid.path / name / "openvino_model.xml")
    assert len(model.outputs) == 1 and model.output(0).get_partial_shape().rank.get_length() == 3
    compiled = core.compile_model(model, "CPU", EXACT)
    cut = core.compile_model(core.read_model(laid.path / name / "openvino_tokenizer.xml"), "CPU")
    rows = []
    for case in goldens.cases:
        tokens = cut([case.prompt + case.text])
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        assert ids[0].tolist() == list(case.token_ids)
        rows.append(compiled({"input_ids": ids, "attention_mask": mask})[0][0, 0].copy())
    assert worst(np.array(rows), goldens.embeddings) <= LIMIT


def test_the_server_s_own_pipeline_gives_the_goldens(
    laid: LaidOut, name: str, goldens: Goldens
) -> None:
    genai: Any = pytest.importorskip("openvino_genai", reason="openvino-genai is not installed")
    config = genai.TextEmbeddingPipeline.Config()
    config.normalize, config.pooling_type = False, genai.TextEmbeddingPipeline.PoolingType.CLS
    pipeline = genai.TextEmbeddingPipeline(str(laid.path / name), "CPU", config, **EXACT)
    texts = [case.prompt + case.text for case in goldens.cases]
    assert worst(np.array(pipeline.embed_documents(texts)), goldens.embeddings) <= LIMIT


REAL = os.environ.get("GOLDFOLD_REAL_OUT")


@pytest.mark.real
@pytest.mark.skipif(REAL is None, reason="GOLDFOLD_REAL_OUT names no export of EmbeddingGemma")
def test_the_server_s_own_pipeline_gives_embeddinggemma_s_goldens(tmp_path: Path) -> None:
    genai: Any = pytest.importorskip("openvino_genai", reason="openvino-genai is not installed")
    artifact = Path(REAL or "") / "openvino-fp32"
    manifest = open_bundle(artifact, check_files=False).manifest
    place = lay_out(artifact, "ovms", tmp_path / "models").path / manifest.contract.model
    config = genai.TextEmbeddingPipeline.Config()
    config.normalize, config.pooling_type = False, genai.TextEmbeddingPipeline.PoolingType.CLS
    pipeline = genai.TextEmbeddingPipeline(str(place), "CPU", config, **EXACT)
    goldens = store.load(artifact / "golden").within(32)
    found = [pipeline.embed_query(case.prompt + case.text) for case in goldens.cases]
    error = worst(np.array(found), goldens.embeddings)
    print(f"{len(found)} texts, worst 1-cos {error:.1e}")
    assert error <= LIMIT


def test_weights_are_not_written_twice(laid: LaidOut, artifact: Path, name: str) -> None:
    weights = artifact / "openvino_model.bin"
    for place in (laid.path / name, laid.path / f"{name}-tensors" / "1"):
        assert (place / weights.name).samefile(weights)
    assert not (laid.path / name / "openvino_model.xml").samefile(artifact / "openvino_model.xml")


def test_the_longest_text_is_the_contract_s(laid: LaidOut, artifact: Path, name: str) -> None:
    said = json.loads((laid.path / name / "config.json").read_text("utf-8"))
    assert said["max_position_embeddings"] == open_bundle(artifact).manifest.contract.max_length


def test_marks_of_precision_survive(artifact: Path, tmp_path: Path) -> None:
    folder = tmp_path / "marked"
    shutil.copytree(artifact, folder)
    xml = folder / "openvino_model.xml"
    names = precise.stream(ov.Core().read_model(xml))
    markup.mark(xml, names, precise.MARK)
    contract = open_bundle(artifact).manifest.contract
    out = tmp_path / "out"
    out.mkdir()
    serving.lay_out(folder, contract, "bf16", "ovms", out)
    served = (out / contract.model / "openvino_model.xml").read_text("utf-8")
    assert served.count('name="precise"') == len(names) > 0


def test_the_library_s_layout_is_the_hub_s(artifact: Path, tmp_path: Path) -> None:
    out = lay_out(artifact, "sentence-transformers", tmp_path / "model").path
    assert {path.name for path in (out / "openvino").iterdir()} == {
        "openvino_model.xml", "openvino_model.bin",
    }  # fmt: skip
    held = {path.name for path in out.iterdir()}
    assert {"modules.json", "config.json", "sentence_bert_config.json", "tokenizer.json"} <= held
    assert not {"manifest.json", "verdict.json", "load.py", "golden"} & held


def test_the_library_opens_its_layout(artifact: Path, tmp_path: Path, goldens: Goldens) -> None:
    python = readers.peers_python()
    out = lay_out(artifact, "sentence-transformers", tmp_path / "model").path
    texts, found = tmp_path / "texts.npy", tmp_path / "found.npy"
    np.save(texts, np.array([case.prompt + case.text for case in goldens.cases]))
    done = subprocess.run(
        [python, "-c", readers._LIBRARY, str(out), str(texts), str(found)],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert worst(np.load(found), goldens.embeddings) <= LIMIT


# Refusals -----------------------------------------------------------------------------------------


def test_nothing_is_written_over(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    with pytest.raises(OutputError, match="holds something already"):
        lay_out(artifact, "ovms", tmp_path)
    with pytest.raises(OutputError, match="lies in the artifact"):
        lay_out(artifact, "ovms", artifact / "served")
    assert not (artifact / "served").exists()


def test_unknown_layouts_and_targets_without_any_are_told(
    artifacts: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="it has: ovms, sentence-transformers"):
        lay_out(artifacts["openvino"], "triton", tmp_path / "out")
    with pytest.raises(UsageError, match="onnxruntime has no layout 'ovms'; it has: "):
        lay_out(artifacts["onnxruntime"], "ovms", tmp_path / "out")


def test_an_artifact_without_the_server_s_tokenizer_is_refused(
    artifact: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "bare"
    shutil.copytree(artifact, folder)
    (folder / "openvino_tokenizer.xml").unlink()
    with pytest.raises(ArtifactError, match="is missing"):
        lay_out(folder, "ovms", tmp_path / "out")
    contract = open_bundle(artifact).manifest.contract
    with pytest.raises(TargetError, match="its ids differed"):
        serving.lay_out(folder, contract, "fp32", "ovms", tmp_path / "out")


def test_the_command(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: object) -> int:
        return app.guarded(partial(app.app, args=["layout", *map(str, words)]), False)

    out = tmp_path / "models"
    assert run(artifact, "--for", "ovms", "--out", out) == 0
    said = capsys.readouterr().out
    assert str(out) in said and "POST /v3/embeddings" in said and "knows no prompts" in said
    assert run(artifact, "--for", "ovms", "--out", out) == 5
    assert run(artifact, "--for", "triton", "--out", tmp_path / "x") == 2
    assert run(tmp_path / "none", "--for", "ovms", "--out", tmp_path / "x") == 6
    assert capsys.readouterr().err.count("error: ") == 3


def test_what_fails_leaves_nothing(artifact: Path, tmp_path: Path, monkeypatch) -> None:
    def fail(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(serving, "_compare", fail)
    with pytest.raises(KeyboardInterrupt):
        lay_out(artifact, "ovms", tmp_path / "out")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_server_rounds_what_integers_meet_as_the_artifact_says(
    artifact: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(artifact, tmp_path / "artifact"))
    contract = open_bundle(artifact).manifest.contract
    said = (folder / model_file.XML).read_text("utf-8")
    nothing = f'<{model_file.GROUP} value="0" />'
    assert nothing in said
    (folder / model_file.XML).write_text(said.replace(nothing, nothing.replace("0", "64")), "utf-8")
    serving.lay_out(folder, contract, "fp32", serving.OVMS, tmp_path / "served")
    (entry,) = Config.model_validate_json(
        (tmp_path / "served/config.json").read_text()
    ).model_config_list
    assert entry.config.plugin_config[model_file.GROUP] == "64"
    graph = (tmp_path / "served" / contract.model / "graph.pbtxt").read_text()
    assert f'"{model_file.GROUP}": "64"' in graph
