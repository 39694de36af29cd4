"""What every layout of ONNX Runtime owes: the same bytes twice, names and prompts as data, all or
nothing, and a refusal where no client gives the artifact's vectors."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from goldfold.exporter.artifact.bundle import open_bundle
from goldfold.exporter.artifact.layout import lay_out
from goldfold.exporter.cli import app
from goldfold.exporter.contract import Contract, Frame, Served, Tokenwise
from goldfold.exporter.errors import (
    ArtifactError,
    OutputError,
    RewriteError,
    TargetError,
    UsageError,
)
from goldfold.targets.onnxruntime import layouts, transformers_js
from tests.targets.laid import LAYOUTS, contents, held, renamed
from tests.targets.test_openvino_layouts import NAMES, call


@pytest.fixture
def artifact(artifacts: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(artifacts["onnxruntime"], tmp_path / "in" / "onnxruntime-fp32"))


@pytest.fixture
def served(artifact: Path) -> Served:
    return Served(artifact, open_bundle(artifact).manifest.contract, "fp32", "fp32")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_artifact_gives_the_same_bytes(
    layout: str, artifact: Path, tmp_path: Path
) -> None:
    one, two = (lay_out(artifact, layout, tmp_path / name / "out").path for name in "ab")
    assert contents(one) == contents(two)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_a_model_s_name_is_never_a_path_nor_code(
    layout: str, name: str, artifact: Path, tmp_path: Path
) -> None:
    call(artifact, name)
    out = lay_out(artifact, layout, tmp_path / "out").path
    assert held(tmp_path) == {"in", "out"}
    if layout == "vespa":
        component = ET.parse(out / "services.xml").find("container/component")
        assert component is not None
        assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9._-]*", component.get("id") or "")
    if layout == "fastembed":
        ast.parse((out / "load.py").read_text("utf-8"))


def test_prompts_are_data_in_every_language(served: Served, tmp_path: Path) -> None:
    prompts = {
        "a": '"; evil(); "',
        "b": "@LENGTH@ `x` ${y}",
        "c": "\u2028</query>\n字🧀",
        "'": "\\",
    }
    one = replace(served, contract=served.contract.with_(prompts=prompts))
    for layout in LAYOUTS:
        (tmp_path / layout).mkdir()
        layouts.lay_out([one], layout, tmp_path / layout)
    text = (tmp_path / "transformers.js" / "embed.mjs").read_text("utf-8")
    said = re.search(r"export const PROMPTS = (\{.*?\n\});", text, re.DOTALL)
    assert said is not None and json.loads(said[1]) == {**prompts, "": ""}
    for node in ast.parse((tmp_path / "fastembed" / "load.py").read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PROMPTS":
            assert ast.literal_eval(node.value) == prompts
    ET.parse(tmp_path / "vespa" / "services.xml")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_onnx_opens_what_is_laid_out_and_still_the_artifact(
    layout: str, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It refuses weights with several hard links."""
    monkeypatch.setattr(transformers_js, "SINGLE", 0)
    out = lay_out(artifact, layout, tmp_path / "out").path
    for file in (artifact / "model.onnx", *out.rglob("*.onnx")):
        assert onnx.load(file).graph.initializer


@pytest.mark.parametrize("broken", [False, True])
def test_weights_are_copied_also_where_the_kernel_does_not(
    broken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = os.urandom(100_000)
    (tmp_path / "a").write_bytes(raw)
    whole = getattr(os, "copy_file_range", None)
    if broken:

        def some(old: int, new: int, count: int) -> int:
            if os.fstat(new).st_size or whole is None:
                raise OSError(18, "Invalid cross-device link")
            return whole(old, new, 1000)

        monkeypatch.setattr(os, "copy_file_range", some, raising=False)
    layouts.copy(tmp_path / "a", tmp_path / "b" / "c")
    assert (tmp_path / "b" / "c").read_bytes() == raw
    with pytest.raises(OutputError, match="cannot write c"):
        layouts.copy(tmp_path / "a", tmp_path / "b" / "c")


@pytest.mark.parametrize("layout", ["transformers.js", "vespa"])
def test_what_fails_leaves_nothing(
    layout: str, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(artifact)

    def fail(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(layouts, "compare", fail)
    with pytest.raises(KeyboardInterrupt):
        lay_out(artifact, layout, tmp_path / "out")
    assert not contents(tmp_path / "out") and contents(artifact) == before
    assert held(tmp_path) == {"in", "out"}


def test_a_graph_that_gives_other_bits_is_a_fault(served: Served, tmp_path: Path) -> None:
    model = onnx.load(served.folder / "model.onnx")
    (weight, *_) = [one for one in model.graph.initializer if one.data_type == 1 and one.dims]
    changed = onnx.numpy_helper.to_array(weight) * np.float32(1.01)
    weight.CopyFrom(onnx.numpy_helper.from_array(changed, weight.name))
    onnx.save(model, tmp_path / "other.onnx")
    outputs = {name: name for name in served.contract.outputs}
    with pytest.raises(RewriteError, match=r"other\.onnx in the layout differs"):
        layouts.compare(served, tmp_path / "other.onnx", outputs)


def _changed(**fields: Any) -> Callable[[Contract], Contract]:
    return lambda contract: contract.with_(**fields)


REFUSED: list[tuple[str, Callable[[Contract], Contract]]] = [
    ("scores pairs of texts", _changed(task="scores")),
    ("gives sparse vectors", _changed(task="sparse")),
    ("a vector for each token", _changed(task="multi_vector", tokenwise=Tokenwise())),
    ("into a chat template", _changed(frame=Frame(before="<", between="", after=">"))),
    (r"prompts \(query\) out of its pooling", _changed(unpooled={"query": 3})),
    ("different lengths.*--max-length 9", _changed(lengths={"query": 9})),
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("said", "change"), REFUSED, ids=[said for said, _ in REFUSED])
def test_contracts_that_no_client_fulfils_are_refused(
    layout: str, said: str, change: Callable[[Contract], Contract], served: Served, tmp_path: Path
) -> None:
    one = replace(served, contract=change(served.contract))
    with pytest.raises(TargetError, match=said) as refused:
        layouts.lay_out([one], layout, tmp_path / "out")
    assert "\n" not in str(refused.value) and not contents(tmp_path / "out")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_artifacts_of_another_target_and_damaged_ones_are_refused(
    layout: str, artifact: Path, artifacts: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="openvino has no layout"):
        lay_out(artifacts["openvino"], layout, tmp_path / "out")
    with pytest.raises(UsageError, match="lay them out apart"):
        lay_out(artifact, layout, tmp_path / "out", [artifacts["openvino"]])
    with (artifact / "model.onnx.data").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(ArtifactError, match=rf"{artifact} is damaged: model.onnx.data"):
        lay_out(artifact, layout, tmp_path / "out")
    assert not contents(tmp_path / "out")


def test_a_folder_in_one_of_the_artifacts_is_refused(artifact: Path) -> None:
    half = renamed(artifact, "fp16")
    with pytest.raises(OutputError, match="lies in the artifact"):
        lay_out(artifact, "transformers.js", half / "out", [half])


def test_the_command_takes_several_artifacts(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: object) -> int:
        return app.guarded(partial(app.app, args=["layout", *map(str, words)]), False)

    half, out = renamed(artifact, "fp16"), tmp_path / "out"
    assert run(artifact, half, "--for", "transformers.js", "--out", out) == 0
    said = capsys.readouterr().out
    assert 'dtype "fp32", dtype "fp16"' in said and 'pipeline("feature-extraction")' in said
    assert run(artifact, half, "--for", "vespa", "--out", tmp_path / "x") == 2
    assert "holds one artifact" in capsys.readouterr().err
