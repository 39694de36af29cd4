"""The real all-mpnet-base-v2 for every target: attention with a learned bias, raised to one op.

    GOLDFOLD_MPNET_DIR="$(.venv/bin/python -m tests.mpnet)" \
        .venv/bin/python -m pytest -m real tests/test_real_mpnet.py

No part of `make test` or of CI: it fetches 405 MB and exports six artifacts, for minutes, and what
it alone covers (real weights behind attention that is spelt by hand) changes rarely.
"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from goldfold.exporter import registry
from goldfold.exporter.artifact.encoder import open_encoder
from goldfold.exporter.artifact.result import Result
from goldfold.exporter.driver import exporting
from goldfold.exporter.driver.exporting import export
from goldfold.golden.store import Goldens

FOLDER = os.environ.get("GOLDFOLD_MPNET_DIR")
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(FOLDER is None, reason="GOLDFOLD_MPNET_DIR names no all-mpnet-base-v2"),
]
WANTED = (
    (("onnxruntime", "openvino"), ("fp32", "fp16"), {}),
    (("tensorrt",), ("fp16",), {}),
    (("coreml",), ("fp16",), {"buckets": (128,)}),
)
PROMISED = {"fp32": 1e-6, "fp16": 1e-5}
"""1−cos that users are told of; the gate, which `passed` stands for, is the product's own."""


@pytest.fixture(scope="module", params=WANTED, ids=lambda wanted: "+".join(wanted[0]))
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    targets, precisions, options = request.param
    for target in targets:
        reason = registry.target(target).unavailable()
        if reason is not None:
            pytest.skip(reason)
    with pytest.MonkeyPatch.context() as patch:
        if "coreml" in targets:
            obtain = exporting.obtain_goldens
            patch.setattr(exporting, "obtain_goldens", lambda *given: some(obtain(*given)))
        out = tmp_path_factory.mktemp("mpnet")
        return export(FOLDER or "", targets, precisions, out, build=options)


def some(goldens: Goldens) -> Goldens:
    """Every sixth text: the evaluator of Core ML packages pads each to its bucket and rounds every
    value in numpy, which for all of them takes longer than everything else here together."""
    rows = range(0, len(goldens.cases), 6)
    kept = tuple(goldens.cases[row] for row in rows)
    return replace(goldens, cases=kept, embeddings=goldens.embeddings[list(rows)])


def test_every_artifact_passes_its_gate(results: list[Result]) -> None:
    for result in results:
        found = result.measurement
        assert result.passed, result.verdict.sentences
        assert max(found.worst, found.worst_padded) <= PROMISED[result.bundle.manifest.precision]


def test_the_manifest_says_how_its_attention_was_raised(results: list[Result]) -> None:
    for result in results:
        manifest = result.bundle.manifest
        assert manifest.attention == {"all, biased": 12}
        assert manifest.notes[0].startswith("traced with eager attention")
        reports = {report.name: report for report in manifest.passes}
        assert reports["static-heads"].applied == 48
        assert reports["raise-attention"].applied == 12
        assert reports["fold-attention-scale"].applied == 12
        assert reports["sink-linear-past-mean"].applied == 1
        # Norms come after the sum here, and the next sum reads them too: none folds.
        assert reports["fold-norm-gain"].applied == 0
        assert len(reports["fold-norm-gain"].refused) == 24


def test_like_texts_are_near_and_unlike_ones_far(results: list[Result]) -> None:
    for result in results:
        encoder = open_encoder(result.bundle, threads=2, proof=True)
        rows = encoder.embed(
            ["A man is eating food.", "A man eats a piece of bread.", "The girl plays the violin."]
        )
        near, far = rows[0] @ rows[1], rows[0] @ rows[2]
        assert near > 0.6 > 0.3 > far
