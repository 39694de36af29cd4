"""`goldfold layout` for transformers.js, fastembed and Vespa: what the clients read holds the
artifact's numbers. Where the clients are installed (tests/clients/running.py), they embed the
golden texts themselves."""

from __future__ import annotations

import ast
import json
import shutil
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from goldfold.exporter.artifact import layout as machinery
from goldfold.exporter.artifact.bundle import open_bundle
from goldfold.exporter.artifact.layout import lay_out
from goldfold.exporter.contract import Served
from goldfold.exporter.errors import (
    ArtifactError,
    TargetError,
    UsageError,
)
from goldfold.exporter.ir import protobuf
from goldfold.golden import store
from goldfold.golden.store import Goldens
from goldfold.targets.onnxruntime import TARGET, layouts, transformers_js, vespa
from tests.clients import running
from tests.targets.laid import LAYOUTS, contents, held, renamed

LIMIT = 1e-8
"""1 − cos in f32, the gate's own."""


@pytest.fixture
def artifact(artifacts: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(artifacts["onnxruntime"], tmp_path / "in" / "onnxruntime-fp32"))


@pytest.fixture(scope="module")
def goldens(artifacts: dict[str, Path]) -> Goldens:
    return store.load(artifacts["onnxruntime"] / "golden")


@pytest.fixture
def served(artifact: Path) -> Served:
    return Served(artifact, open_bundle(artifact).manifest.contract, "fp32", "fp32")


def distance(model: Path, goldens: Goldens, alone: Path | None = None) -> float:
    """The worst 1 − cos of a graph, opened where no other file lies if `alone` is given."""
    if alone is not None:
        alone.mkdir()
        model = Path(shutil.copyfile(model, alone / "copy.onnx"))
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    name = session.get_outputs()[0].name
    worst = 0.0
    for place, case in enumerate(goldens.cases):
        ids = np.array([case.token_ids], np.int64)
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        a = np.ravel(np.asarray(session.run([name], feeds)[0])).astype(np.float64)
        b = goldens.embeddings[place].astype(np.float64)
        worst = max(worst, 1 - float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
    return worst


def config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text("utf-8"))["transformers.js_config"]


def test_targets_and_this_file_agree_on_what_there_is() -> None:
    assert TARGET.layouts == ("web", *layouts._LAYOUTS) == ("web", *LAYOUTS)
    assert TARGET.together <= set(TARGET.layouts)


# transformers.js ----------------------------------------------------------------------------------


def test_a_small_model_is_one_file_that_needs_no_other(
    artifact: Path, goldens: Goldens, tmp_path: Path
) -> None:
    out = lay_out(artifact, "transformers.js", tmp_path / "out").path
    assert [path.name for path in (out / "onnx").iterdir()] == ["model.onnx"]
    assert protobuf.references(out / "onnx" / "model.onnx") == set()
    onnx.checker.check_model(str(out / "onnx" / "model.onnx"), full_check=True)
    assert distance(out / "onnx" / "model.onnx", goldens, tmp_path / "alone") <= LIMIT
    assert config(out) == {"dtype": "fp32"}
    assert {"tokenizer.json", "tokenizer_config.json", "README.md"} <= held(out)
    assert not {"manifest.json", "verdict.json", "golden", "derivations.txt"} & held(out)


def test_weights_beside_a_graph_have_the_name_that_is_asked_for(
    artifact: Path, goldens: Goldens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers_js, "SINGLE", 0)
    out = lay_out(artifact, "transformers.js", tmp_path / "out").path
    graph = out / "onnx" / "model.onnx"
    assert protobuf.references(graph) == {"model.onnx_data"}
    weights = (out / "onnx" / "model.onnx_data").read_bytes()
    assert weights == (artifact / "model.onnx.data").read_bytes()
    assert config(out)["use_external_data_format"] == {"model.onnx": 1}
    onnx.checker.check_model(str(graph), full_check=True)
    assert distance(graph, goldens) <= LIMIT


def test_weights_beyond_a_file_are_in_several(
    artifact: Path, goldens: Goldens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(artifact)
    monkeypatch.setattr(transformers_js, "SINGLE", 0)
    monkeypatch.setattr(transformers_js, "CHUNK", 200_000)
    done = lay_out(artifact, "transformers.js", tmp_path / "out")
    files = sorted(path.name for path in (done.path / "onnx").iterdir())
    count = len(files) - 1
    assert count > 2
    names = {f"model.onnx_data{f'_{place}' if place else ''}" for place in range(count)}
    assert set(files) == {"model.onnx", *names}
    assert protobuf.references(done.path / "onnx" / "model.onnx") == names
    assert all((done.path / "onnx" / name).stat().st_size <= 200_000 for name in names)
    assert config(done.path)["use_external_data_format"] == {"model.onnx": count}
    assert any(f"in {count} files" in note for note in done.notes)
    assert distance(done.path / "onnx" / "model.onnx", goldens) <= LIMIT
    assert contents(artifact) == before


def test_a_tensor_that_no_file_holds_is_refused(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers_js, "SINGLE", 0)
    monkeypatch.setattr(transformers_js, "CHUNK", 1000)
    with pytest.raises(ArtifactError, match="one file holds 1000; export a smaller"):
        lay_out(artifact, "transformers.js", tmp_path / "out")
    assert not contents(tmp_path / "out")


def test_precisions_of_one_model_lie_beside_each_other(
    artifact: Path, goldens: Goldens, tmp_path: Path
) -> None:
    half = renamed(artifact, "fp16")
    out = lay_out(half, "transformers.js", tmp_path / "out", [artifact]).path
    assert {path.name for path in (out / "onnx").iterdir()} == {"model.onnx", "model_fp16.onnx"}
    assert config(out) == {"dtype": "fp16"}  # the first
    assert distance(out / "onnx" / "model_fp16.onnx", goldens) <= LIMIT
    said = (out / "README.md").read_text("utf-8")
    assert '`dtype: "fp16"`: `onnx/model_fp16.onnx`, fp16, the default' in said
    assert '`dtype: "fp32"`: `onnx/model.onnx`, fp32\n' in said


@pytest.mark.parametrize(
    ("needs", "precision", "kind"),
    [
        (set(), "fp32", "fp32"), (set(), "fp16", "fp16"), ({"int8"}, "fp32", "q8"),
        ({"int8", "static"}, "fp32", "q8"), ({"int4", "int8"}, "fp32", "q4"),
        ({"int4"}, "fp16", "q4f16"),
    ],
)  # fmt: skip
def test_each_precision_has_the_library_s_name(
    served: Served, needs: set[str], precision: str, kind: str
) -> None:
    one = replace(served, precision=precision, needs=frozenset(needs))
    assert transformers_js.dtype(one) == kind and kind in transformers_js.FILES


def test_artifacts_that_do_not_go_together_are_refused(artifact: Path, tmp_path: Path) -> None:
    def refused(said: str, layout: str, *beside: Path) -> None:
        with pytest.raises(UsageError, match=said):
            lay_out(artifact, layout, tmp_path / "out", beside)
        assert not contents(tmp_path / "out")

    twin = Path(shutil.copytree(artifact, artifact.with_name("twin")))
    refused("would both be onnx/model.onnx", "transformers.js", twin)
    refused("named twice", "transformers.js", artifact)
    half = renamed(artifact, "fp16")
    refused("holds one artifact", "fastembed", half)
    ours = open_bundle(artifact).manifest
    stranger = ours.with_(origin=ours.origin.with_(fingerprint="0" * 64))
    shorter = ours.with_(contract=ours.contract.shortened(ours.contract.max_length - 1))
    files = {**ours.files, "tokenizer.json": ours.files["model.onnx"]}
    for other, said in (
        (stranger, "are of different models"),
        (shorter, "differ in what they take or give"),
        (ours.with_(files=files), "differ in what they take or give"),
    ):
        with pytest.raises(UsageError, match=said):
            machinery._check_one_model([artifact, half], [ours, other])


# Vespa --------------------------------------------------------------------------------------------


def test_vespa_s_graph_has_one_output_of_three_axes_and_the_same_numbers(
    artifact: Path, goldens: Goldens, tmp_path: Path
) -> None:
    out = lay_out(artifact, "vespa", tmp_path / "out").path
    file = out / "models" / "model.onnx"
    onnx.checker.check_model(str(file), full_check=True)
    (output,) = onnx.load(file).graph.output
    sizes = output.type.tensor_type.shape.dim
    assert output.name == "last_hidden_state"
    assert [size.dim_value or size.dim_param for size in sizes] == ["batch", 1, goldens.dim]
    assert distance(file, goldens, tmp_path / "alone") <= LIMIT
    ours = onnx.load(artifact / "model.onnx")
    theirs = {
        one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(file).graph.initializer
    }
    for one in ours.graph.initializer:  # no weight's byte changes
        raw = onnx.numpy_helper.to_array(one, base_dir=str(artifact)).tobytes()
        assert theirs[one.name].tobytes() == raw


def test_vespa_s_embedder_as_documented_gives_the_goldens(
    artifact: Path, goldens: Goldens, tmp_path: Path
) -> None:
    found = running.run("vespa", lay_out(artifact, "vespa", tmp_path / "out").path, goldens)
    assert found.worst <= LIMIT and not found.differing
    prepended = ET.parse(tmp_path / "out" / "services.xml").findall(".//prepend/*")
    assert [one.text for one in prepended] == [
        "task: search result | query:",
        "title: none | text:",
    ]


PROMPTS = [
    ("query: ", "passage: ", {"query": "query:", "document": "passage:"}, ""),
    ("a <b> & \"c\" ", "", {"query": "a <b> & \"c\""}, ""),
    ("", "", {}, "has no prompt"),
    ("", "passage: ", {}, "the prompt of documents"),
    ("query:", "", {}, "puts one space"),
    ("query:  ", "", {}, "puts one space"),
    (" query: ", "", {}, "puts one space"),
    ("query:\n", "", {}, "puts one space"),
    ("a\x0bb: ", "", {}, "puts one space"),
    (" ", "", {}, "puts one space"),
]  # fmt: skip


@pytest.mark.parametrize(("query", "document", "expected", "fault"), PROMPTS)
def test_prompts_stand_in_services_where_vespa_puts_them_so(
    served: Served, query: str, document: str, expected: dict[str, str], fault: str
) -> None:
    contract = served.contract.with_(prompts={"query": query, "document": document})
    lines, said = vespa.prepend(contract)
    assert {
        one.tag: one.text
        for one in ET.fromstring(f"<x>{lines}</x>").iter()
        if one.text and one.text.strip()
    } == expected
    assert fault in said and bool(fault) == bool(said)


def test_a_model_beyond_a_file_is_refused_for_vespa(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vespa, "LIMIT", 1000)
    with pytest.raises(TargetError, match="at most 2 GB; export a smaller precision"):
        lay_out(artifact, "vespa", tmp_path / "out")
    assert not contents(tmp_path / "out")


# fastembed ----------------------------------------------------------------------------------------


def test_fastembed_s_folder_is_the_artifact_s_files_and_the_lines(
    artifact: Path, tmp_path: Path
) -> None:
    out = lay_out(artifact, "fastembed", tmp_path / "out").path
    for name in ("model.onnx", "model.onnx.data", "tokenizer.json"):
        assert (out / name).read_bytes() == (artifact / name).read_bytes()
    said = ast.parse((out / "load.py").read_text("utf-8"))
    calls = [node for node in ast.walk(said) if isinstance(node, ast.Call)]
    (adds,) = [node for node in calls if ast.unparse(node.func).endswith("add_custom_model")]
    given = {word.arg: ast.unparse(word.value) for word in adds.keywords}
    assert given["pooling"] == "PoolingType.DISABLED" and given["normalization"] == "False"
    assert given["additional_files"] == "['model.onnx.data']"
    assert (out / "load.py").read_text("utf-8").rstrip() in (out / "README.md").read_text("utf-8")
    settings = json.loads((out / "tokenizer_config.json").read_text("utf-8"))
    contract = open_bundle(artifact).manifest.contract
    assert settings["model_max_length"] == contract.max_length and settings["pad_token"]


# The real clients ---------------------------------------------------------------------------------


@pytest.mark.parametrize("client", ["transformers.js", "fastembed"])
@pytest.mark.parametrize("beside", [False, True])
def test_the_client_itself_gives_the_goldens(
    client: str,
    beside: bool,
    artifact: Path,
    goldens: Goldens,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if reason := running.unavailable(client):
        pytest.skip(reason)
    if beside:
        monkeypatch.setattr(transformers_js, "SINGLE", 0)
        monkeypatch.setattr(transformers_js, "CHUNK", 200_000)
    found = running.run(client, lay_out(artifact, client, tmp_path / "out").path, goldens)
    assert found.worst <= LIMIT and found.differing == ()
    if client == "transformers.js":  # as README.md says
        cut = [case.id for case in goldens.cases if len(case.token_ids) == goldens.max_length]
        assert set(found.plain) <= set(cut)


@pytest.mark.parametrize("client", ["transformers.js", "fastembed"])
def test_the_client_s_tokens_are_those_of_the_library(
    client: str, artifact: Path, tmp_path: Path
) -> None:
    """For a BPE with bytes; docs/serving.md has a WordPiece for which they are not."""
    if reason := running.unavailable(client):
        pytest.skip(reason)
    count, other = running.drawn(client, lay_out(artifact, client, tmp_path / "out").path)
    assert count > 1000 and other == []
