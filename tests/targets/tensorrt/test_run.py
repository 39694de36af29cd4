"""The engine itself on a GPU: every profile at its least, usual and most, padded, and beyond it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from goldfold.exporter.artifact.bundle import open_bundle
from goldfold.exporter.artifact.encoder import load
from goldfold.exporter.errors import TargetError
from goldfold.golden.compare import reading
from goldfold.golden.gate import GATES
from goldfold.targets.tensorrt import TARGET, settings

OUT = os.environ.get("GOLDFOLD_TENSORRT_OUT")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(TARGET.cannot_run() is not None, reason=str(TARGET.cannot_run())),
    pytest.mark.skipif(OUT is None, reason="GOLDFOLD_TENSORRT_OUT names no TensorRT artifact"),
]


@pytest.fixture(scope="module")
def folder() -> Path:
    return Path(OUT or "")


def test_every_profile_at_its_corners(folder: Path) -> None:
    """The engine against its own ONNX: both may be off by the gate of the precision, apart."""
    manifest = open_bundle(folder).manifest
    engine: Any = TARGET.load(folder, manifest.contract, manifest.precision, None)
    exact = TARGET.reference_run(folder, manifest.contract, manifest.precision, None)
    limit = 2 * GATES[manifest.precision].worst
    rng = np.random.default_rng(11)
    for index, text in enumerate(manifest.options["profile"]):
        profile = settings.parse_profile(text, manifest.contract.max_length)
        for batch, tokens in (profile.least, profile.usual, profile.most):
            rows = min(batch, 4)
            ids = rng.integers(4, manifest.contract.vocab_size, (batch, tokens))
            mask = np.ones_like(ids)
            mask[1:, max(1, tokens // 3) :] = 0
            found = engine._run(index, ids, mask, manifest.contract.output)
            assert np.isfinite(found).all()
            for one, other in zip(found[:rows], exact(ids[:rows], mask[:rows]), strict=True):
                assert reading(one, other).distance <= limit


def test_the_census_counts_layers(folder: Path) -> None:
    counts = TARGET.census(folder)
    assert sum(counts.values()) > 0
    assert "" not in counts


def test_more_rows_than_a_profile_takes_are_run_in_parts(folder: Path) -> None:
    manifest = open_bundle(folder).manifest
    encoder = load(folder)
    most = max(
        settings.parse_profile(text, manifest.contract.max_length).most[0]
        for text in manifest.options["profile"]
    )
    ids = np.random.default_rng(1).integers(4, manifest.contract.vocab_size, (most + 3, 8))
    together = encoder.run(ids, np.ones_like(ids))
    alone = encoder.run(ids[-1:], np.ones_like(ids[-1:]))
    assert together.shape[0] == most + 3
    assert reading(together[-1], alone[0]).distance <= GATES[manifest.precision].worst


def test_more_tokens_than_any_profile_takes_is_an_error(folder: Path) -> None:
    manifest = open_bundle(folder).manifest
    run = TARGET.load(folder, manifest.contract, manifest.precision, None)
    ids = np.ones((1, manifest.contract.max_length + 1), dtype=np.int64)
    with pytest.raises(TargetError, match="no profile takes"):
        run(ids, ids)
