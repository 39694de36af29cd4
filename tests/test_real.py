"""The real EmbeddingGemma-300M, exported: run by CI after `make export`, on the folder it wrote.

make export MODEL=<folder of embeddinggemma-300m> OUT=out
GOLDFOLD_REAL_OUT=out .venv/bin/python -m pytest -m real tests/test_real.py
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from goldfold.exporter.artifact.bundle import open_bundle
from goldfold.exporter.artifact.encoder import Encoder, load
from goldfold.golden import store
from goldfold.golden.compare import reading

OUT = os.environ.get("GOLDFOLD_REAL_OUT")
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(OUT is None, reason="GOLDFOLD_REAL_OUT names no export of EmbeddingGemma"),
]
TARGETS = ("openvino-fp32", "onnxruntime-fp32")

QUERY = "Which planet is known as the Red Planet?"
DOCUMENTS = (
    "Venus is often called Earth's twin because of its similar size and proximity.",
    "Mars, known for its reddish appearance, is often referred to as the Red Planet.",
    "Jupiter, the largest planet in our solar system, has a prominent red spot.",
    "Saturn, famous for its rings, is sometimes mistaken for the Red Planet.",
)
CARD = (0.3011, 0.6359, 0.4930, 0.4889)
"""The model card's similarities, to the 5e-4 that its bf16 run leaves open."""
CARD_256 = (0.4016, 0.6715, 0.5283, 0.5261)
"""The same of embeddings cut to 256 dimensions and normalised again."""


@pytest.fixture(scope="module", params=TARGETS)
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return load(Path(OUT or "") / request.param)


@pytest.mark.parametrize("name", TARGETS)
def test_the_traced_program_is_what_the_design_says(name: str) -> None:
    manifest = open_bundle(Path(OUT or "") / name, check_files=False).manifest
    assert manifest.attention == {"window 257": 20, "all": 4}
    assert manifest.census["goldfold.BandAttention"] == 24
    assert manifest.census["RMSNormalization"] == 145
    assert manifest.census["RotaryEmbedding"] == 48
    assert manifest.census["MatMul"] == 168
    assert manifest.census["Gemm"] == 1  # 768→3072→768 fused
    assert manifest.census["Where"] == 1  # the pooling's
    assert not {"Less", "LessOrEqual", "Greater", "And", "Or"} & set(manifest.census)
    applied = {report.name: report.applied for report in manifest.passes}
    assert applied["fuse-identity-dense"] == 1
    assert applied["fold-norm-gain"] == 48
    assert manifest.notes == ()


@pytest.mark.parametrize("name", TARGETS)
def test_the_goldens_are_held_to_one_in_a_million(name: str) -> None:
    verdict = open_bundle(Path(OUT or "") / name, check_files=False).verdict
    assert verdict is not None and verdict.passed
    assert verdict.measurement.worst <= 1e-6
    assert verdict.measurement.worst_padded <= 1e-6


def test_the_model_card_s_similarities(encoder: Encoder) -> None:
    query = encoder.embed(QUERY, prompt="query")[0]
    documents = encoder.embed(DOCUMENTS, prompt="document")
    np.testing.assert_allclose(documents @ query, CARD, atol=5e-4)


def test_the_model_card_s_similarities_at_256_dimensions(encoder: Encoder) -> None:
    query = encoder.embed(QUERY, prompt="query", dims=256)[0]
    documents = encoder.embed(DOCUMENTS, prompt="document", dims=256)
    np.testing.assert_allclose(documents @ query, CARD_256, atol=5e-4)


def test_a_short_text_beside_long_ones(encoder: Encoder) -> None:
    rng = np.random.default_rng(4)
    lengths = (4, 300, 2000)
    ids = np.zeros((3, 2000), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = [2, *rng.integers(100, 200_000, length - 2), 1]
        mask[row, :length] = 1
    together = encoder.run(ids, mask)
    for row, length in enumerate(lengths):
        alone = encoder.run(ids[row : row + 1, :length], mask[row : row + 1, :length])[0]
        assert reading(together[row], alone).distance <= 1e-6


@pytest.mark.parametrize("hands", ["openvino alone", "openvino alone, theirs", "the library"])
def test_other_hands_give_the_goldens(hands: str, tmp_path: Path) -> None:
    """Ten texts of 2 to 600 tokens, in plain openvino and in sentence-transformers' openvino
    backend, in processes that know nothing of goldfold."""
    from tests.targets import test_openvino_bundle as bundle

    artifact = Path(str(OUT)) / "openvino-fp32"
    goldens = store.load(artifact / "golden").within(600)
    order = np.argsort([len(case.token_ids) for case in goldens.cases])
    rows = order[np.linspace(0, len(order) - 1, 10).astype(int)]
    ten = replace(
        goldens,
        cases=tuple(goldens.cases[row] for row in rows),
        embeddings=goldens.embeddings[rows],
    )
    python = sys.executable if hands == "openvino alone" else bundle.peers_python()
    code = bundle._LIBRARY if hands == "the library" else bundle._PLAIN
    bundle.read(python, code, artifact, ten, tmp_path)


def test_kernels_are_those_that_were_kept() -> None:
    from tests.targets.test_kernels import check

    check(Path(str(OUT)) / "openvino-fp32")
