"""`--dims`: heads that share a trunk, each held to the gate; one alone leaves out rows."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

from goldfold import export, load, verify
from goldfold.exporter.driver import heads
from goldfold.exporter.errors import UsageError
from goldfold.exporter.evaluate import emulate
from goldfold.golden import make as golden_make
from goldfold.golden.compare import reading
from tests import models
from tests.conftest import GOLDEN_TEXTS

FULL = 48
TEXTS = ["a small engine", "Glaciers slide and deform under their own weight."]
LIMIT = 1e-8
"""The gate of fp32."""


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden_make, "make", partial(golden_make.make, only=GOLDEN_TEXTS))


def shortened(rows: np.ndarray, dim: int) -> np.ndarray:
    short = rows[:, :dim].astype(np.float64)
    return short / np.linalg.norm(short, axis=1, keepdims=True)


def same(found: np.ndarray, expected: np.ndarray) -> bool:
    return all(reading(f, e).distance <= LIMIT for f, e in zip(found, expected, strict=True))


def test_heads_share_a_trunk_and_hold_the_gate(
    tiny: Path, artifacts: dict[str, Path], tmp_path: Path
) -> None:
    targets = ["onnxruntime", "openvino"]
    results = export(tiny, targets, ["fp32"], tmp_path, dims=(16, FULL, 8))
    whole = load(artifacts["onnxruntime"]).embed(TEXTS)
    for result in results:
        assert result.passed
        encoder = load(result.path)
        assert (encoder.contract.dim, encoder.contract.heads) == (FULL, (16, 8))
        assert same(encoder.embed(TEXTS), whole)
        for dim in (16, 8):
            found = encoder.embed(TEXTS, dims=dim)
            assert found.shape == (2, dim)
            assert same(found, shortened(whole, dim))
            assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
        # Between two heads the larger is cut.
        assert same(encoder.embed(TEXTS, dims=12), shortened(whole, 12))
        ids = np.ones((1, 3), dtype=np.int64)
        with pytest.raises(UsageError, match="no head of 12 dimensions here; it has 48, 16, 8"):
            encoder.run(ids, ids, 12)
    graph = onnx.load(results[0].path / "model.onnx", load_external_data=False).graph
    names = [value.name for value in graph.output]
    assert names == ["sentence_embedding", "sentence_embedding_16", "sentence_embedding_8"]


def test_a_small_head_alone_leaves_out_rows(
    tiny: Path, artifacts: dict[str, Path], tmp_path: Path
) -> None:
    (result,) = export(tiny, ["onnxruntime"], ["fp32"], tmp_path, dims=(16,))
    assert result.passed
    applied = {report.name: report.applied for report in result.bundle.manifest.passes}
    assert applied["narrow-linear"] == 1
    graph = onnx.load(result.path / "model.onnx", load_external_data=False).graph
    assert [value.name for value in graph.output] == ["sentence_embedding"]
    gemm = next(node for node in graph.node if node.op_type == "Gemm")
    weight = next(t for t in graph.initializer if t.name == gemm.input[1])
    assert list(weight.dims) == [FULL, 16]
    assert not any(node.op_type == "Slice" for node in graph.node)
    whole = load(artifacts["onnxruntime"]).embed(TEXTS)
    assert same(load(result.path).embed(TEXTS), shortened(whole, 16))


def test_several_small_heads_leave_out_rows_as_well(
    tiny: Path, artifacts: dict[str, Path], tmp_path: Path
) -> None:
    (result,) = export(tiny, ["onnxruntime"], ["fp16"], tmp_path, dims=(16, 8))
    assert result.passed
    applied = {report.name: report.applied for report in result.bundle.manifest.passes}
    assert applied["narrow-linear"] == 1
    whole, encoder = load(artifacts["onnxruntime"]).embed(TEXTS), load(result.path)
    for dim in (16, 8):
        for found, wanted in zip(
            encoder.embed(TEXTS, dims=dim), shortened(whole, dim), strict=True
        ):
            assert reading(found, wanted).distance <= 2e-5  # the gate of fp16
    verdict = result.bundle.verdict
    assert verdict is not None
    # Judged as this machine computes, and with every value rounded.
    assert set(verdict.heads) == set(verdict.emulated_heads) == {"sentence_embedding_8"}
    found = (*verdict.heads.values(), *verdict.emulated_heads.values())
    assert all(0 < head.worst <= 2e-5 for head in found)
    again = verify(result.path).bundle.verdict
    assert again is not None and again.passed and again.emulated_heads == verdict.emulated_heads


def test_a_head_that_only_the_emulator_faults_stays_faulted(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = emulate.runner

    def zeros_of_heads(program):
        run = runner(program)
        return lambda ids, mask, output=None: run(ids, mask, output) * (output is None or np.nan)

    monkeypatch.setattr(emulate, "runner", zeros_of_heads)
    (result,) = export(tiny, ["onnxruntime"], ["fp16"], tmp_path, dims=(FULL, 8))
    assert not result.passed
    monkeypatch.undo()
    again = verify(result.path)
    assert not again.passed
    assert all(r.startswith("sentence_embedding_8 emulated: ") for r in again.verdict.sentences)


def test_a_model_that_does_not_normalise_is_cut_only(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    folder = models.build("bert", tmp_path / "bert")
    whole = SentenceTransformer(str(folder), device="cpu")
    free = SentenceTransformer(modules=list(whole)[:-1], device="cpu", prompts=models.PROMPTS)
    free.save(str(tmp_path / "free"), create_model_card=False)
    (result,) = export(tmp_path / "free", ["onnxruntime"], ["fp32"], tmp_path / "out", dims=(48, 8))
    assert result.passed
    encoder = load(result.path)
    np.testing.assert_allclose(
        encoder.embed(TEXTS, dims=8), encoder.embed(TEXTS)[:, :8], rtol=1e-5, atol=1e-6
    )


def test_a_head_that_is_wrong_fails_the_gate(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "_FLOOR", 1e3)
    (result,) = export(tiny, ["onnxruntime"], ["fp32"], tmp_path, dims=(FULL, 16))
    assert not result.passed
    assert any(
        reason.startswith("sentence_embedding_16: The norm") for reason in result.verdict.sentences
    )


@pytest.mark.parametrize(
    ("dims", "says"), [((0,), "begin at 1"), ((49,), "1 … 48"), ((16, 16), "names a size twice")]
)
def test_sizes_that_cannot_be_are_refused(
    dims: tuple[int, ...], says: str, tiny: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=says):
        export(tiny, ["onnxruntime"], ["fp32"], tmp_path, dims=dims)
