"""Canaries of integers: the vectors that a verdict keeps, and what is told where another runtime
gives others."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from goldfold import ArtifactError, export, load, verify
from goldfold.exporter import registry
from goldfold.exporter.artifact import canaries
from goldfold.exporter.artifact.manifest import VERDICT, read_manifest, read_verdict
from goldfold.exporter.cli import app
from goldfold.exporter.proofs import Canaries
from goldfold.exporter.system import processor
from goldfold.golden import make as golden_make
from goldfold.targets.onnxruntime import OnnxRuntime
from tests.conftest import GOLDEN_TEXTS

RECIPE = """
gains = "keep"
dynamic = 0.125
[weights]
bits = 8
pairs = true
[table]
bits = 8
block = 32
[[rule]]
kinds = ["head"]
bits = 0
"""
SLIM = 1e-7
"""A margin that a change of one matrix's scales leaves, while the gate still holds."""
TEXTS = tuple(
    name for name in GOLDEN_TEXTS if name not in ("length-257", "length-600", "length-672")
)


@pytest.fixture(scope="module")
def made(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("canaries")
    (folder / "mine.toml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(golden_make, "make", partial(golden_make.make, only=TEXTS))
        results = export(
            tiny, ["openvino", "onnxruntime"], [str(folder / "mine.toml")], folder / "out",
            locate=False,
        )  # fmt: skip
    assert all(one.passed and not one.otherwise for one in results)
    return {one.bundle.manifest.target: one.path for one in results}


@pytest.fixture
def artifact(made: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made["onnxruntime"], tmp_path / "artifact"))


def known(path: Path) -> Canaries:
    verdict = read_verdict(path, read_manifest(path))
    assert verdict is not None and verdict.canaries is not None
    return verdict.canaries


def rewrite(path: Path, **changes: Any) -> None:
    """Give the verdict's canaries other fields."""
    record = json.loads((path / VERDICT).read_text("utf-8"))
    record["canaries"] |= changes
    (path / VERDICT).write_text(json.dumps(record), "utf-8")


@contextmanager
def rounding_otherwise(path: Path, tmp_path: Path, factor: float) -> Iterator[None]:
    """ONNX Runtime computes the artifact with the scales of one matrix times `factor`."""
    other = Path(shutil.copytree(path, tmp_path / f"other-{factor}"))
    model = onnx.load(other / "model.onnx")
    scale = next(
        one for one in model.graph.initializer
        if "gate" in one.name and one.name.endswith(".scale")
    )  # fmt: skip
    array = np.array(numpy_helper.to_array(scale))
    scale.CopyFrom(numpy_helper.from_array(array * np.float32(factor), scale.name))
    onnx.save(model, other / "model.onnx")
    real = OnnxRuntime.load

    def loaded(self: OnnxRuntime, folder: Path, *rest: Any, **named: Any) -> Callable[..., Any]:
        return real(self, other, *rest, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OnnxRuntime, "load", loaded)
        yield


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_a_verdict_keeps_what_its_runtime_computed(made: dict[str, Path], target: str) -> None:
    path = made[target]
    found, encoder = known(path), load(path)
    assert found.runtime == registry.target(target).runtime() and target in found.runtime
    assert found.processor == processor.name() and 0 < found.margin < 5e-3
    goldens, _ = canaries._read(encoder.bundle)
    cases = {case.id: case for case in goldens.cases}
    assert len(found.vectors) == 3
    for name, text in found.vectors.items():
        ids = np.array([cases[name].token_ids])
        row = encoder.run(ids, np.ones_like(ids))[0].astype(np.float64)
        apart = np.abs(canaries._unpacked(encoder.bundle, text, row.shape) - row).max()
        assert apart < 1e-6


def test_a_floating_artifact_has_none(artifacts: dict[str, Path]) -> None:
    path = artifacts["onnxruntime"]
    verdict = read_verdict(path, read_manifest(path))
    assert verdict is not None and verdict.canaries is None


def test_the_same_vectors_by_another_version_are_told_by_nobody(artifact: Path) -> None:
    rewrite(artifact, runtime="onnxruntime 1.0", processor="an abacus")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(artifact)
    result = verify(artifact)
    assert result.passed and not result.otherwise
    assert known(artifact).processor == processor.name()  # of this verdict


def test_a_runtime_that_rounds_otherwise_is_told(artifact: Path, tmp_path: Path) -> None:
    rewrite(artifact, runtime="onnxruntime 1.0", processor="an abacus", margin=SLIM)
    here = "the verdict was made by onnxruntime 1.0 on an abacus, and here is onnxruntime "
    with rounding_otherwise(artifact, tmp_path, 1.02):
        with pytest.warns(canaries.OtherRounding, match="rounded otherwise here: canary") as said:
            load(artifact)
        (one,) = said
        text = str(one.message)
        assert here in text and text.endswith(
            f"on {processor.name()}; `goldfold verify {artifact}` measures its gate here"
        )
        assert len(text.splitlines()) == 1 and one.filename == __file__
        with warnings.catch_warnings():  # without a look at the files there is none at vectors
            warnings.simplefilter("error")
            load(artifact, check=False)
        result = verify(artifact)
        assert result.passed and here in result.otherwise
        assert "over the gate's margin of" in result.otherwise
        assert not verify(artifact).otherwise  # this verdict is of this runtime
    rewrite(artifact, margin=SLIM)
    assert "as it is here: look for other settings" in verify(artifact).otherwise


def test_one_that_computes_something_else_is_refused(artifact: Path, tmp_path: Path) -> None:
    rewrite(artifact, processor="an abacus")
    before = known(artifact)
    with rounding_otherwise(artifact, tmp_path, -3.0):
        with pytest.raises(ArtifactError, match="computes something else here: canary") as refused:
            load(artifact)
        assert "on an abacus, and here is" in str(refused.value)
        assert len(str(refused.value).splitlines()) == 1
        result = verify(artifact)
        assert not result.passed and "on an abacus" in result.otherwise
    assert known(artifact) == before  # a failed run is nothing to compare with


def test_verify_says_it_in_one_line(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(artifact, processor="an abacus", margin=SLIM)
    with rounding_otherwise(artifact, tmp_path, 1.02):
        capsys.readouterr()
        code = app.guarded(partial(app.app, args=["verify", str(artifact), "--json"]), False)
    done = capsys.readouterr()
    (entry,) = json.loads(done.out)
    assert code == 0
    assert entry["code"] == 0 and "on an abacus, and here is" in entry["otherwise"]
    assert [line for line in done.err.splitlines() if "an abacus" in line] == [entry["otherwise"]]


@pytest.mark.parametrize("text", ["", "!", "eJwrAAAAdQB1", "AAAA"])
def test_a_canary_that_is_no_vector_is_refused(artifact: Path, text: str) -> None:
    names = known(artifact).vectors
    rewrite(artifact, processor="an abacus", vectors=dict.fromkeys(names, text))
    with pytest.raises(ArtifactError, match="a canary is no vector; remove it and run"):
        load(artifact)


def test_a_floating_artifact_is_held_to_its_goldens_on_request(
    artifacts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = artifacts["onnxruntime"], tmp_path / "other"
    assert load(path, check=True).contract.dim == 48
    shutil.copytree(path, other)
    model = onnx.load(other / "model.onnx")
    weight = max(model.graph.initializer, key=lambda one: len(one.raw_data))
    array = np.array(numpy_helper.to_array(weight))
    weight.CopyFrom(numpy_helper.from_array(array * np.float32(1.01), weight.name))
    onnx.save(model, other / "model.onnx")
    real = OnnxRuntime.load
    monkeypatch.setattr(
        OnnxRuntime, "load", lambda self, folder, *rest, **named: real(self, other, *rest, **named)
    )
    load(path)  # nobody asked
    with pytest.raises(ArtifactError, match="computes something else here: canary") as refused:
        load(path, check=True)
    assert "over the gate's 1e-08; here is onnxruntime" in str(refused.value)
